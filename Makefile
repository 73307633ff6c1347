# What one types here. `make` alone says it. Needs Python 3.11 or later and a package index; nothing else.

.DEFAULT_GOAL := help
.PHONY: help setup demo example-django example-fastapi test check crash storm trees clean

PYTHON ?=
STAMP := .venv/.syncpoint-setup

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /make \1|/' | column -t -s '|'

setup: $(STAMP)  ## make .venv with everything in it

$(STAMP): pyproject.toml scripts/setup.sh scripts/mysqlclient.sh
	@PYTHON="$(PYTHON)" scripts/setup.sh $(STAMP)

demo: setup  ## run the demonstrations: decisions in a folder, then in a database
	.venv/bin/syncpoint demo transfer
	.venv/bin/syncpoint demo transfer --journal bank

example-django: setup  ## run the Django example
	.venv/bin/python examples/django_transfer/run.py

example-fastapi: setup  ## run the HTTP example
	.venv/bin/python examples/fastapi_transfer/run.py

check: setup  ## lint, format and types only
	@scripts/check.sh

test: setup  ## everything that must be green: check, then all tests
	@scripts/test.sh

crash: setup  ## the crash tests in full
	@scripts/crash.sh

storm: setup  ## processes killed and stopped while they share a journal in a database, in full
	@scripts/storm.sh

trees: setup  ## every node of a tree of managers dies at every moment, in full
	SYNCPOINT_TREES_STRIDE=1 .venv/bin/pytest -q -n 2 tests/trees

clean:  ## remove what setup and the tools made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
