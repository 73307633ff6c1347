#!/usr/bin/env bash
# Lint, format, types.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/ruff check
.venv/bin/ruff format --check --exclude '*.md'  # an example is laid out for its reader
.venv/bin/mypy
