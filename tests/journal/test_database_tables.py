"""The tables of both databases are the same, and docs/journal-in-a-database.md names each with its columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from syncpoint.journal import mariadb_store, postgres_store
from tests.journal.database_world import JOURNAL_TABLES

DOC = (Path(__file__).parents[2] / "docs" / "journal-in-a-database.md").read_text(encoding="utf-8")
NO_COLUMN = frozenset({"PRIMARY", "KEY", "CHECK", "UNIQUE"})


def _columns(statements: Sequence[str]) -> dict[str, list[str]]:
    found = {}
    for statement in statements:
        made = re.match(r"CREATE TABLE IF NOT EXISTS syncpoint\.(\w+) \((.*)\n\s*\)", statement, re.DOTALL)
        if made:
            parts = re.split(r",\s+(?![^(]*\))", made[2].strip())
            words = [part.split()[0] for part in parts]
            found[made[1]] = [word for word in words if word not in NO_COLUMN]
    return found


def test_both_databases_have_the_same_tables() -> None:
    assert _columns(postgres_store.TABLES) == _columns(mariadb_store.TABLES)
    assert tuple(_columns(postgres_store.TABLES)) == JOURNAL_TABLES


@pytest.mark.parametrize("table", JOURNAL_TABLES)
def test_the_documentation_names_every_column(table: str) -> None:
    _, _, described = DOC.partition(f"**`{table}`**")
    described = re.split(r"\n\n\*\*`|\n## ", described)[0]
    assert [name for name in _columns(postgres_store.TABLES)[table] if f"`{name}`" not in described] == []
