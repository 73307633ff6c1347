#!/usr/bin/env bash
# All that must be green. With CI=true a missing server is a failure; otherwise its tests are skipped and
# the closing summary lists them.
set -euo pipefail
cd "$(dirname "$0")/.."

for server in mariadb pgbouncer strace; do
    if ! "scripts/$server.sh"; then
        if [ "${CI:-}" = "true" ]; then exit 1; fi
        echo "Going on without $server: its tests will be skipped." >&2
    fi
done
export PATH="$PATH:/usr/sbin:/usr/local/sbin"

scripts/check.sh
# Each worker has servers of its own; the idle one takes tests from the other.
.venv/bin/pytest -ra -n "${WORKERS:-2}" --dist worksteal "$@"
