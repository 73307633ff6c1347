#!/usr/bin/env bash
# See that there is strace, with which the tests put faults into system calls: from the system's packages when this user
# may install them, else say what to install. xfsprogs comes with it, so that power is cut under XFS too; without it only
# ext4 is tried.
set -euo pipefail

export PATH="$PATH:/usr/sbin:/sbin"
present() { command -v strace >/dev/null; }
complete() { present && command -v mkfs.xfs >/dev/null; }
complete && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
    echo "Installing strace and xfsprogs from the system's packages, for the tests."
    "${as_root[@]}" apt-get update -qq || true  # an old package list may still do
    for package in strace xfsprogs; do
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$package" >/dev/null || true
    done
fi
present && exit 0

cat >&2 <<'TEXT'
No strace was found, and it could not be installed from here. Install strace 5.3 or later (Linux only):
    Debian, Ubuntu:   sudo apt-get install strace xfsprogs
    Fedora, RHEL:     sudo dnf install strace xfsprogs
TEXT
exit 1
