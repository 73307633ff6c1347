#!/usr/bin/env bash
# The crash tests in full: every generated point, where `make test` takes a sample of the slow ones.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/mariadb.sh
export PATH="$PATH:/usr/sbin:/usr/local/sbin"
SYNCPOINT_CRASH=full .venv/bin/pytest -ra -n "${WORKERS:-2}" --dist worksteal tests/crash tests/testing/conformance "$@"
