#!/usr/bin/env bash
# The storm in full: 8 processes share a journal in a database; one is killed every second, one is stopped for 30 s in
# the middle of a commit and woken. `make test` runs it small.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/mariadb.sh
export PATH="$PATH:/usr/sbin:/usr/local/sbin"
SYNCPOINT_STORM=full .venv/bin/pytest -ra tests/conformance/test_storm.py "$@"
