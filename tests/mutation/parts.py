"""Which files are mutated, and which tests must notice: quick ones, since each runs once for every mutant it reaches.

Not for: running them (run.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """Some files of the package, and the tests that guard them."""

    files: Sequence[str]
    """Below src/syncpoint."""
    tests: Sequence[str]
    """Below tests."""
    server: str = ""
    """The kind of database server that the tests need: only that kind's half of them is run."""


def _named(pattern: str, names: str) -> tuple[str, ...]:
    return tuple(pattern.format(name) for name in names.split())


_DATABASE_TESTS = _named(
    "journal/test_{}.py",
    "database database_admin database_claims database_cleaning database_errors database_faults database_opening "
    "database_packets database_stores database_takeover",
)

PARTS = {
    "smoke": Part(("protocol/judgement.py",), ("protocol/test_judgement.py",)),
    "protocol": Part(("protocol/*.py",), ("protocol", "transcripts")),
    "folder": Part(
        _named(
            "journal/{}.py",
            "claims folder format gathering head index inspect members neighbours opening segment rows urls",
        ),
        _named(
            "{}.py",
            "journal/test_folder journal/test_format journal/test_index journal/test_inspect journal/test_words "
            "journal/test_details journal/test_sharing journal/test_refusals journal/test_refused "
            "journal/test_failures journal/test_crash journal/test_urls journal/test_places fuzz/test_found",
        ),
    ),
    "database": Part(
        _named(
            "journal/{}.py",
            "base database database_admin database_opening lazily living postgres_store statements store wire",
        ),
        _DATABASE_TESTS,
        server="postgresql",
    ),
    "node": Part(("journal/node*.py",), ("node/test_journal_host.py", "node/test_every_question.py")),
    "mariadb": Part(("journal/mariadb_store.py",), _DATABASE_TESTS, server="mariadb"),
}
