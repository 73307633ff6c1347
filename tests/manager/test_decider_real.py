"""A branch carries the decision, in real databases: what it costs on the wire, and what lost replies do.

Not for: every order of events (tests/protocol/), or the journal's statements (tests/journal/).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

import syncpoint
from syncpoint.testing.proxy import FaultProxy
from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.conformance.conftest import raises
from tests.conformance.wire import CountingProxy
from tests.crash.trap import Trap

DECIDE = {"bank": "decision and COMMIT", "ledger": "decide and XA COMMIT ONE PHASE"}
"""The step that decides, by where the journal lives."""


class Databases:
    """One of PostgreSQL, one of MariaDB, seen from outside."""

    def __init__(self, bank: str, server: MariadbServer, ledger: str) -> None:
        self.urls = {"bank": bank, "ledger": ledger}
        self._server = server
        self._ledger = ledger.rpartition("/")[2]
        self._bank("CREATE TABLE account (id int PRIMARY KEY)")
        self._of_ledger("CREATE TABLE entry (id INT PRIMARY KEY)")

    def _bank(self, sql: str) -> list[Any]:
        with psycopg.connect(self.urls["bank"], autocommit=True) as connection:
            cursor = connection.execute(cast(Any, sql))
            return cursor.fetchall() if cursor.description else []

    def _of_ledger(self, sql: str) -> list[Any]:
        with contextlib.closing(self._server.connect(self._ledger)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def rows(self) -> list[int]:
        """The numbers that both hold; they must hold the same."""
        bank = [row[0] for row in self._bank("SELECT id FROM account ORDER BY id")]
        assert bank == [row[0] for row in self._of_ledger("SELECT id FROM entry ORDER BY id")]
        return bank

    def records(self, where: str) -> dict[str, int]:
        sql = "SELECT count(*), coalesce(sum(CASE WHEN once IS NULL THEN 1 ELSE 0 END), 0) FROM syncpoint.record"
        ((total, aborts),) = self._bank(sql) if where == "bank" else self._of_ledger(sql)
        return {"Commit": int(total - aborts), "Abort": int(aborts)}

    def assert_quiet(self) -> None:
        assert self._bank("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") == []
        assert self._server.prepared() == []


@pytest.fixture
def databases(postgres_url: str, mariadb_server: MariadbServer, mariadb_url: str) -> Iterator[Databases]:
    made = Databases(postgres_url, mariadb_server, mariadb_url)
    yield made
    made.assert_quiet()
    mariadb_server.execute("DROP DATABASE IF EXISTS syncpoint")  # one a server: the next test has a journal of its own


def write(tx: Any, number: int) -> None:
    tx.connect("bank").execute("INSERT INTO account VALUES (%s)", (number,))
    tx.connect("ledger").cursor().execute("INSERT INTO entry VALUES (%s)", (number,))


@pytest.mark.parametrize("journal", ["bank", "ledger"])
@pytest.mark.parametrize("user_id", [None, "x"])
def test_costs_one_prepare_two_commits_and_nothing_else(
    databases: Databases, journal: str, user_id: str | None
) -> None:
    """DESIGN section 7. The journal's own connection goes past the proxies: nothing is forced through it."""
    with contextlib.ExitStack() as stack:
        proxies = {name: stack.enter_context(CountingProxy(url)) for name, url in databases.urls.items()}
        urls = {name: proxy.url(databases.urls[name]) for name, proxy in proxies.items()}
        manager = syncpoint.TransactionManager(databases.urls[journal], urls, background=False)
        stack.enter_context(manager)
        trap = Trap()
        trap.watch(manager._runner)
        for number in (1, 2):  # the second finds all connections open
            with manager.transaction(id=user_id and f"{user_id}{number}") as tx:
                write(tx, number)
                before = {name: proxy.round_trips for name, proxy in proxies.items()}
                del trap.trace[:]
            counted = {name: proxy.round_trips - before[name] for name, proxy in proxies.items()}
        assert counted == {name: 1 if name == journal else 2 for name in counted}
        (other,) = counted.keys() - {journal}
        prepares = {"bank": "evidence and PREPARE TRANSACTION", "ledger": "XA PREPARE"}
        assert [step for step in trap.trace if step in prepares.values()] == [prepares[other]]
        assert [step for step in trap.trace if step == DECIDE[journal]] == [DECIDE[journal]]
        assert not [step for step in trap.trace if step.startswith("force")]
    assert databases.rows() == [1, 2]


@pytest.mark.parametrize("journal", ["bank", "ledger"])
def test_o46_a_lost_reply_to_the_decision_is_settled(databases: Databases, journal: str) -> None:
    with FaultProxy(databases.urls[journal]) as proxy:
        urls = {**databases.urls, journal: proxy.url(databases.urls[journal])}
        with syncpoint.TransactionManager(databases.urls[journal], urls, background=False) as manager:
            trap = Trap()
            trap.watch(manager._runner)
            trap.before(DECIDE[journal], proxy.lose_reply, proxy.lose_request, proxy.hold_request)
            with manager.transaction() as tx:
                write(tx, 1)
            for number in (2, 3):
                with raises(syncpoint.TransactionAborted) as caught, manager.transaction() as tx:
                    write(tx, number)
                assert caught.value.retryable  # type: ignore[attr-defined]
            proxy.release()  # the third arrives now, long after it was settled
            assert manager.recover(wait_seconds=10).left == ()
            assert databases.rows() == [1]
            assert databases.records(journal)["Abort"] == 2
            manager.run(write, 4)
    assert databases.rows() == [1, 4]


def test_the_journals_own_database_needs_no_prepared_transactions(
    mariadb_server: MariadbServer, mariadb_url: str, tmp_path: Path
) -> None:
    with PostgresServer(settings={"max_prepared_transactions": "0"}) as server:
        databases = Databases(server.create_database("bank"), mariadb_server, mariadb_url)
        with syncpoint.TransactionManager("bank", databases.urls, background=False) as manager:
            manager.run(write, 1)
            manager.run(write, 2, id="x")
        assert databases.rows() == [1, 2]
        with pytest.raises(syncpoint.SetupRefused, match="max_prepared_transactions"):
            syncpoint.TransactionManager(tmp_path, databases.urls, background=False).open()
