#!/usr/bin/env bash
# Disks in full: every sampled crash state of the folder journal, 200 real power cuts, and the sweep of faults and kills
# through the system calls. Progress on stderr, figures as JSON on stdout. `make test` runs it small.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/strace.sh >&2 || echo "Going on without strace: no faults are put into system calls." >&2
export PATH="$PATH:/usr/sbin:/sbin"
.venv/bin/python -m tests.disks "$@"
