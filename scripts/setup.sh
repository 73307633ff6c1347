#!/usr/bin/env bash
# Make .venv with this package, all its extras and the development tools. The stamp file ($1) is touched last, so that
# a setup that was cut off is done again.
set -euo pipefail
cd "$(dirname "$0")/.."

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=""
for candidate in ${PYTHON:-python3 python python3.14 python3.13 python3.12 python3.11}; do
    if command -v "$candidate" >/dev/null && usable "$candidate"; then python="$candidate"; break; fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or later is needed and was not found. Install it, or name it: make setup PYTHON=/path/to/python3.11" >&2
    exit 1
fi

if ! { [ -x .venv/bin/python ] && usable .venv/bin/python; }; then
    if ! "$python" -m venv --clear .venv; then
        echo "$python cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1
# Dependency groups, which hold the development tools, came with pip 25.1.
.venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
.venv/bin/python -m pip install --quiet --editable '.[all]' --group dev
scripts/mysqlclient.sh
touch "$1"
echo "Ready: .venv with $(.venv/bin/python -V)."
