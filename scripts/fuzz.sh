#!/usr/bin/env bash
# Every decoder, fed with garbage for some seconds each. Arguments: those of tests/fuzz/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! .venv/bin/python -c 'import atheris' 2>/dev/null; then
    .venv/bin/python -m pip install --quiet --group fuzz ||
        { echo "atheris cannot be installed for $(.venv/bin/python -V); the tests in tests/fuzz work without it." >&2; exit 1; }
fi
exec .venv/bin/python -m tests.fuzz.run "$@"
