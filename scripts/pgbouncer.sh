#!/usr/bin/env bash
# See that there is a PgBouncer to test through: from the system's packages when this user may install them, else say
# what to install. The tests run private copies: the package's own service is neither started nor left to start at
# the next boot. A PgBouncer that was here before is left as it is.
set -euo pipefail

export PATH="$PATH:/usr/sbin:/usr/local/sbin:/usr/local/bin"
present() { command -v pgbouncer >/dev/null; }
present && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi

# What Debian's packages ask before they start a service; 101 is no. Only where there is no such answer yet.
POLICY=/usr/sbin/policy-rc.d
start_nothing() {
    if [ ! -e "$POLICY" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$POLICY" >/dev/null
        trap '"${as_root[@]}" rm -f "$POLICY"' EXIT
        "${as_root[@]}" chmod 755 "$POLICY"
    fi
}

if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
    echo "Installing pgbouncer from the system's packages, for the tests; its service stays off."
    start_nothing
    "${as_root[@]}" apt-get update -qq || true  # an old package list may still do
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends pgbouncer >/dev/null || true
    if present; then "${as_root[@]}" update-rc.d pgbouncer disable >/dev/null 2>&1 || true; fi
fi
present && exit 0

cat >&2 <<'TEXT'
No PgBouncer was found, and it could not be installed from here. Install PgBouncer 1.18 or later, so that `pgbouncer`
is there; its service need not run:
    Debian, Ubuntu:   sudo apt-get install --no-install-recommends pgbouncer
    Fedora, RHEL:     sudo dnf install pgbouncer
    macOS:            brew install pgbouncer
TEXT
exit 1
