"""Whole transactions over two databases through one PgBouncer in transaction mode: killed clients, a killed pooler.

Not for: the adapter's single steps there (tests/resources/test_postgres_pgbouncer.py).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import syncpoint
from syncpoint.testing.servers.base import wait_until
from syncpoint.testing.servers.pgbouncer import PgBouncerServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.manager.pgbouncer_child import MOVE

NAMES = ("bank", "ledger")
ACCOUNTS = 16
CENTS = 100
MOVE_TEXT = text("UPDATE account SET balance = balance + :amount WHERE id = :id")
PREPARE, COMMIT, DECIDE = "evidence and PREPARE TRANSACTION", "COMMIT PREPARED", "decision and COMMIT"
DEATHS = {  # (step, whether it dies after it, whether the decision was made before)
    "folder": ((PREPARE, False, False), (PREPARE, True, False), ("journal force", True, True), (COMMIT, True, True)),
    "bank": ((PREPARE, True, False), (DECIDE, False, False), (DECIDE, True, True), (COMMIT, True, True)),
}
_numbers = itertools.count(1)


class Stage:
    """Two databases of accounts, as the application reaches them, and as they really are."""

    def __init__(self, bouncer: PgBouncerServer, server: PostgresServer, folder: Path, journal: str) -> None:
        number = next(_numbers)
        self.databases = {name: f"through_{name}_{number}" for name in NAMES}
        self.server = server
        self.urls = {name: bouncer.url(database) for name, database in self.databases.items()}
        self.kind = journal
        self.journal = str(folder / "journal") if journal == "folder" else journal
        for database in self.databases.values():
            server.create_database(database)
            with server.connect(database) as observer:
                observer.execute("CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL)")
                observer.execute(
                    f"INSERT INTO account SELECT n, {CENTS} FROM generate_series(1, {ACCOUNTS}) n".encode()
                )
                observer.execute("CREATE TABLE done (id text PRIMARY KEY)")

    def rows(self, name: str, sql: str) -> list[tuple[Any, ...]]:
        with self.server.connect(self.databases[name]) as observer:
            return observer.execute(sql.encode()).fetchall()

    def balances(self, account: int) -> tuple[int, ...]:
        return tuple(self.rows(name, f"SELECT balance FROM account WHERE id = {account}")[0][0] for name in NAMES)

    def in_doubt(self) -> list[str]:
        return [gid for database in self.databases.values() for gid in self.server.prepared(database)]

    def open_transactions(self) -> int:
        sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        return sum(self.rows(name, sql)[0][0] for name in NAMES)


@pytest.fixture(params=DEATHS)
def journal(request: pytest.FixtureRequest) -> str:
    """Where decisions are durable: in a folder, or in the bank's own database, through PgBouncer too."""
    kind: str = request.param
    return kind


@pytest.fixture
def stage(pgbouncer: PgBouncerServer, postgres_server: PostgresServer, tmp_path: Path, journal: str) -> Stage:
    return Stage(pgbouncer, postgres_server, tmp_path, journal)


def test_all_or_nothing_with_the_driver_and_with_sqlalchemy(stage: Stage) -> None:
    with syncpoint.TransactionManager(stage.journal, stage.urls) as manager:
        for account in range(1, 9):  # one statement more often than psycopg would wait before preparing it
            with manager.transaction() as tx:
                tx.connect("bank").execute(MOVE, (-10, account))
                tx.connect("ledger").execute(MOVE, (10, account))
        with suppress(ZeroDivisionError), manager.transaction() as tx:
            tx.connect("bank").execute(MOVE, (-10, 9))
            tx.connect("ledger").execute(MOVE, (10, 9))
            raise ZeroDivisionError
        for account in range(1, 9):
            with manager.transaction() as tx:
                for name, amount in (("bank", -5), ("ledger", 5)):
                    with Session(bind=tx.sqlalchemy(name)) as session:
                        session.execute(MOVE_TEXT, {"amount": amount, "id": account})
                        with suppress(ZeroDivisionError), session.begin_nested():
                            session.execute(MOVE_TEXT, {"amount": 1000, "id": account})
                            raise ZeroDivisionError
                        session.commit()
    assert {stage.balances(account) for account in range(1, 9)} == {(CENTS - 15, CENTS + 15)}
    assert stage.balances(9) == (CENTS, CENTS)
    assert stage.in_doubt() == []
    assert stage.open_transactions() == 0


def test_all_or_nothing_on_the_event_loop(stage: Stage) -> None:
    async def move(manager: syncpoint.AsyncTransactionManager, account: int) -> None:
        async with manager.transaction() as tx:
            await (await tx.connect("bank")).execute(MOVE, (-10, account))
            async with AsyncSession(bind=await tx.sqlalchemy("ledger")) as session:
                await session.execute(MOVE_TEXT, {"amount": 10, "id": account})
                await session.commit()

    async def play() -> None:
        async with syncpoint.AsyncTransactionManager(stage.journal, stage.urls) as manager:
            # More at a time than PgBouncer has server connections to each database.
            await asyncio.gather(*(move(manager, account) for account in range(1, 13)))

    asyncio.run(play())
    assert {stage.balances(account) for account in range(1, 13)} == {(CENTS - 10, CENTS + 10)}
    assert stage.in_doubt() == []
    assert stage.open_transactions() == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_clients_killed_in_a_commit_are_recovered_through_the_pooler(stage: Stage, mode: str) -> None:
    with syncpoint.TransactionManager(stage.journal, stage.urls, background=False):
        pass  # the schema
    deaths, children = DEATHS[stage.kind], []
    for account, (what, after, _) in enumerate(deaths, 1):
        order = {"urls": stage.urls, "journal": stage.journal, "mode": mode, "account": account}
        order |= {"what": what, "after": after}
        command = [sys.executable, "-m", "tests.manager.pgbouncer_child", json.dumps(order)]
        children.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    said = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [-signal.SIGKILL] * len(deaths), said
    wait_until(lambda: stage.open_transactions() == 0, "PgBouncer ends what its clients have left")
    with syncpoint.TransactionManager(stage.journal, stage.urls, background=False) as manager:
        manager.recover(wait_seconds=30)
        assert manager.in_doubt() == []
    assert stage.in_doubt() == []
    for account, (_, _, survives) in enumerate(deaths, 1):
        assert stage.balances(account) == ((CENTS - 10, CENTS + 10) if survives else (CENTS, CENTS)), DEATHS[
            account - 1
        ]


def test_under_load_a_pooler_that_is_killed_tears_nothing(
    postgres_server: PostgresServer, pgbouncer: PgBouncerServer, tmp_path: Path, journal: str
) -> None:
    """R7: every acknowledged transfer is there once in both, nothing is in doubt, no lock is held."""
    with PgBouncerServer(postgres_server.url("postgres")) as bouncer:
        stage = Stage(bouncer, postgres_server, tmp_path, journal)
        over = threading.Event()
        acknowledged: list[str] = []

        def transfer(tx: Any, id_: str, account: int) -> None:
            for name, amount in (("bank", -1), ("ledger", 1)):
                tx.connect(name).execute(MOVE, (amount, account))
                tx.connect(name).execute("INSERT INTO done VALUES (%s)", (id_,))

        def client(number: int) -> None:
            for count in itertools.count():
                if over.is_set():
                    return
                id_ = f"{number}-{count}"
                with suppress(syncpoint.SyncpointError, psycopg.Error):
                    manager.run(transfer, id_, 1 + (number + count) % ACCOUNTS, id=id_)
                    acknowledged.append(id_)

        with syncpoint.TransactionManager(stage.journal, stage.urls, timeout=5) as manager:
            threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for _ in range(3):
                seen = len(acknowledged)
                wait_until(lambda seen=seen: len(acknowledged) > seen + 20, "transfers go on", 60)  # type: ignore[misc]
                bouncer.restart()
            over.set()
            for thread in threads:
                thread.join()
            manager.recover(wait_seconds=30)
            assert manager.in_doubt() == []
        assert stage.in_doubt() == []
        wait_until(lambda: stage.open_transactions() == 0, "the server ends what was open")
        done = [{row[0] for row in stage.rows(name, "SELECT id FROM done")} for name in NAMES]
        assert done[0] == done[1]
        assert done[0] >= set(acknowledged)
        totals = [stage.rows(name, "SELECT sum(balance)::int FROM account")[0][0] for name in NAMES]
        assert totals == [ACCOUNTS * CENTS - len(done[0]), ACCOUNTS * CENTS + len(done[0])]
