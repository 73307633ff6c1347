#!/usr/bin/env bash
# Install mysqlclient, Django's driver for MariaDB, into .venv. It is compiled here, against MariaDB's C library: from
# the system's packages when this user may install them. Without it everything else works, and the Django tests that
# need it are skipped, saying so (with CI=true they fail).
set -euo pipefail
cd "$(dirname "$0")/.."

present() { .venv/bin/python -c 'import MySQLdb' 2>/dev/null; }
build() { .venv/bin/python -m pip install --quiet --editable '.[mysqlclient]' 2>/dev/null; }

if present || build; then exit 0; fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
    echo "Installing what mysqlclient is compiled with from the system's packages, for the tests."
    packages=(gcc libc6-dev pkg-config libmariadb-dev)
    headers="$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')"
    if [ ! -e "$headers/Python.h" ]; then packages+=(python3-dev); fi
    "${as_root[@]}" apt-get update -qq || true  # an old package list may still do
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || true
    build || true
fi
present && exit 0

cat >&2 <<'TEXT'
mysqlclient could not be installed: the tests of Django over MariaDB will be skipped. To have them, install a C compiler
and MariaDB's C library, then run `make setup` again:
    Debian, Ubuntu:   sudo apt-get install gcc pkg-config libmariadb-dev python3-dev
    Fedora, RHEL:     sudo dnf install gcc pkgconf mariadb-connector-c-devel python3-devel
    macOS:            brew install mariadb-connector-c pkg-config
TEXT
exit 0
