# What one types here. `make` alone says it. Needs Python 3.11 or later and a package index; nothing else.

.DEFAULT_GOAL := help
.PHONY: help setup demo example-django example-fastapi example-files test check crash storm spec disks fuzz mutants reliability trees clean

PYTHON ?=
STAMP := .venv/.syncpoint-setup

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /make \1|/' | column -t -s '|'

setup: $(STAMP)  ## make .venv with everything in it

$(STAMP): pyproject.toml scripts/setup.sh scripts/mysqlclient.sh
	@PYTHON="$(PYTHON)" scripts/setup.sh $(STAMP)

demo: setup  ## run the demonstrations: decisions in a folder, then in a database, then backups that take over
	.venv/bin/syncpoint demo transfer
	.venv/bin/syncpoint demo transfer --journal bank
	.venv/bin/syncpoint demo takeover

example-django: setup  ## run the Django example
	.venv/bin/python examples/django_transfer/run.py

example-fastapi: setup  ## run the HTTP example
	.venv/bin/python examples/fastapi_transfer/run.py

example-files: setup  ## run the example with files, its writer killed again and again
	.venv/bin/python examples/file_directory/run.py

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

fuzz: setup  ## every decoder fed with garbage, SECONDS=60 each; DECODERS="record gid" for some of them
	@scripts/fuzz.sh --seconds $(or $(SECONDS),60) $(DECODERS)

mutants: setup  ## small bugs planted in protocol/ and journal/, one at a time: do the tests notice? Goes on where it stopped
	@scripts/mutants.sh $(PART)

disks: setup  ## crash states, power cuts and failing disks, in full; prints figures as JSON
	@scripts/disks.sh

reliability: setup  ## run all that proves the promises, and write docs/reliability.md; about an hour
	@.venv/bin/python scripts/reliability.py

spec: setup  ## the TLA+ specification in full: models, each rule dropped once, traces of the real code
	.venv/bin/python -m tests.spec.run $(SPEC)

clean:  ## remove what setup and the tools made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* .fuzz .mutants build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
