#!/usr/bin/env bash
# Plant small bugs in protocol/ and journal/, one at a time. Arguments: those of tests/mutation/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."
exec nice -n 10 .venv/bin/python -m tests.mutation.run "$@"
