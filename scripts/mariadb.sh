#!/usr/bin/env bash
# See that there is a MariaDB server to test against: from the system's packages when this user may install them,
# else say what to install. The packages are the bare programs: they start nothing; the tests run private copies.
# (`my_print_defaults`, without which `mariadb-install-db` fails, has moved from the server's package to the client's.)
# (PostgreSQL comes with the development tools, from the package index.)
set -euo pipefail

export PATH="$PATH:/usr/sbin:/usr/local/sbin:/usr/local/bin"
present() {
    command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null && command -v my_print_defaults >/dev/null
}
present && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
    echo "Installing mariadb-server-core and mariadb-client-core from the system's packages, for the tests."
    "${as_root[@]}" apt-get update -qq || true  # an old package list may still do
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends mariadb-server-core mariadb-client-core >/dev/null || true
fi
present && exit 0

cat >&2 <<'TEXT'
No MariaDB server was found, and it could not be installed from here. Install MariaDB 10.11 or later, so that
`mariadbd`, `mariadb-install-db` and `my_print_defaults` are there:
    Debian, Ubuntu:   sudo apt-get install mariadb-server-core mariadb-client-core
    Fedora, RHEL:     sudo dnf install mariadb-server
    macOS:            brew install mariadb
TEXT
exit 1
