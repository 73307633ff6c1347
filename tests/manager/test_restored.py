"""A database restored to an earlier time has branches again that were decided long ago: finished as decided, as long as
the journal still keeps the Commit record."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

import syncpoint
from syncpoint.ids import TransactionId
from syncpoint.testing.servers.postgres import PostgresServer
from tests.conformance.places import HASTY

ROW = "INSERT INTO entry VALUES ('order-1')"


@pytest.fixture
def urls(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> dict[str, str]:
    found = {name: postgres_server.create_database(f"restored_{name}_{abs(hash(request.node.name))}") for name in "ab"}
    for url in found.values():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE entry (id text)")
    return found


def _count(url: str, query: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        return int(connection.execute(query.encode()).fetchall()[0][0])


def _restore(url: str, gid: str) -> None:
    """As the database was right after the branch had voted."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM entry")
        connection.execute("DELETE FROM syncpoint.evidence")
        connection.execute(b"BEGIN; " + ROW.encode() + f"; PREPARE TRANSACTION '{gid}'".encode())


@pytest.mark.parametrize("commit", [True, False], ids=["decided", "orphan"])
@pytest.mark.parametrize("place", ["folder", "database"])
def test_a_branch_that_is_there_again(urls: dict[str, str], tmp_path: Path, place: str, commit: bool) -> None:
    journal = str(tmp_path / "journal") if place == "folder" else f"a?{HASTY}"
    with syncpoint.TransactionManager(journal, urls, background=False) as manager:
        with manager.transaction(id="order-1") as tx:
            for name in urls:
                tx.connect(name).execute(ROW)
        script = manager._core.journal.find(TransactionId.from_user_id("", "order-1"))
        record = manager._runner.run(script)
        assert record is not None
        identifier = next(one for one in record.branches if one.resource == "b").read_identifier()
        manager.recover()  # it has ended
    if not commit:  # of an attempt that the record says nothing of (O58)
        identifier = type(identifier)(
            identifier.coordinator,
            identifier.transaction,
            type(identifier.attempt)(identifier.attempt.incarnation, identifier.attempt.counter + 1),
            identifier.branch,
        )
    _restore(urls["b"], identifier.to_gid())
    with syncpoint.TransactionManager(journal, urls, background=False) as manager:
        [entry] = [one for one in manager.in_doubt() if one.resource == "b"]
        assert entry.status == ("decided-commit" if commit else "presumed-abort")
        report = manager.recover(wait_seconds=10.0)
        assert (report.left, report.heuristics) == ((), ())
    assert _count(urls["b"], "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()") == 0
    assert _count(urls["b"], "SELECT count(*) FROM entry") == int(commit)
