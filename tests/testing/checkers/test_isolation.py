"""The anomalies that the manual admits for reads without locks, made for real and found; with locking reads, none.

Two PostgreSQL databases, SERIALIZABLE each where that is said, and two servers in memory. Lists are rows; what a
transaction did is recorded as it goes. Not for: hand-written histories (test_list_append.py).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

import syncpoint
from syncpoint.manager.observer import Event, Phase, PhaseEnded
from syncpoint.resources.memory import MemoryServer, RowLocked
from syncpoint.testing.checkers import Append, History, Read, Recorder, list_append
from syncpoint.testing.checkers.recorder import Recording
from syncpoint.testing.servers.base import wait_until
from syncpoint.testing.servers.postgres import PostgresServer

NOT_DONE = (psycopg.errors.SerializationFailure, RowLocked)
_numbers = itertools.count(1)


@dataclass
class Shop:
    """Two databases with a list at the key x in one and y in the other, a manager over both, and a recorder."""

    manager: syncpoint.TransactionManager
    is_blocked: Callable[[], bool]
    """Whether somebody waits for a lock."""
    after_decision: Callable[[], None] | None = None
    """Called once, when the next transaction is committed in one database and not yet in the other."""
    recorder: Recorder = field(default_factory=Recorder)
    begun: set[str] = field(default_factory=set)

    @contextmanager
    def transaction(self, name: str) -> Iterator[tuple[Recording, Any]]:
        with (
            self.recorder.operation(name, fails_on=NOT_DONE) as op,
            self.manager.transaction(timeout=20) as tx,
        ):
            assert tx.transaction not in self.begun  # a transaction of its own, no block inside another
            self.begun.add(tx.transaction)
            yield op, tx

    def read(self, op: Recording, tx: Any, place: str, *, locking: bool) -> None:
        connection = tx.connect(DATABASE[place])
        if isinstance(connection, psycopg.Connection):
            lock = "FOR UPDATE" if locking else ""
            [[values]] = connection.execute(f"SELECT items FROM list WHERE key = %s {lock}", (place,))
        else:
            values = connection.get(place, for_update=locking) or []
        op.did(Read(resource=DATABASE[place], key=place, values=tuple(values)))

    def append(self, op: Recording, tx: Any, place: str, value: int) -> None:
        op.will(Append(resource=DATABASE[place], key=place, value=value))
        connection = tx.connect(DATABASE[place])
        if isinstance(connection, psycopg.Connection):
            connection.execute("UPDATE list SET items = items || %s WHERE key = %s", (value, place))
        else:
            connection.put(place, [*(connection.get(place, for_update=True) or []), value])

    @property
    def history(self) -> History:
        return self.recorder.history()

    def observe(self, event: Event) -> None:
        """The decision is the commit in the database `a`, where the journal is; the one in `b` follows."""
        if isinstance(event, PhaseEnded) and event.phase is Phase.DECIDE and self.after_decision is not None:
            call, self.after_decision = self.after_decision, None
            call()


DATABASE = {"x": "a", "y": "b"}


@pytest.fixture(scope="module")
def databases(postgres_server: PostgresServer) -> dict[str, str]:
    """Two databases with the table of lists, for one shop at a time."""
    urls = {name: postgres_server.create_database(f"isolation_{name}") for name in "ab"}
    for url in urls.values():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE list (key TEXT PRIMARY KEY, items INT[] NOT NULL)")
            connection.execute("INSERT INTO list VALUES ('x', '{}'), ('y', '{}')")
    return urls


@contextmanager
def postgres_shop(urls: dict[str, str], isolation: str) -> Iterator[Shop]:
    for url in urls.values():
        with psycopg.connect(url, autocommit=True) as connection:
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
            connection.execute("UPDATE list SET items = '{}'")
    with (
        psycopg.connect(urls["a"], autocommit=True) as outside,
        syncpoint.TransactionManager("a", urls, background=False) as manager,
    ):

        def is_blocked() -> bool:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            return bool(outside.execute(waiting).fetchall() != [(0,)])

        shop = Shop(manager, is_blocked)
        manager.add_observer(shop)
        yield shop


@contextmanager
def memory_shop(folder: Path) -> Iterator[Shop]:
    names = {name: f"isolation{next(_numbers)}" for name in "ab"}
    urls = {name: f"memory://{server}" for name, server in names.items()}
    with syncpoint.TransactionManager(str(folder / "journal"), urls, background=False) as manager:
        waiting = [MemoryServer.named(server) for server in names.values()]
        yield Shop(manager, lambda: any(server._waiting for server in waiting))
    for server in names.values():
        MemoryServer.remove(server)


@pytest.fixture(params=["memory", "postgresql"])
def serializable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """Each database by itself is serializable."""
    if request.param == "memory":
        with memory_shop(tmp_path) as shop:
            yield shop
    else:
        with postgres_shop(request.getfixturevalue("databases"), "serializable") as shop:
            yield shop


@pytest.fixture
def committed(databases: dict[str, str]) -> Iterator[Shop]:
    """Each database by itself shows what is committed."""
    with postgres_shop(databases, "read committed") as shop:
        yield shop


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """A block inside a block of the same thread would be the same transaction."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


# --- write skew ----------------------------------------------------------------------------------------------


def test_write_skew_across_two_databases_is_found(serializable: Shop, threads: ThreadPoolExecutor) -> None:
    """Each reads in one database and appends in the other: neither database sees both halves of the circle."""
    both_have_read = threading.Barrier(2)

    def work(reads: str, appends: str, value: int) -> None:
        with serializable.transaction(f"reads {reads}") as (op, tx):
            serializable.read(op, tx, reads, locking=False)
            both_have_read.wait(20)
            serializable.append(op, tx, appends, value)

    for done in [threads.submit(work, "y", "x", 1), threads.submit(work, "x", "y", 2)]:
        done.result()
    [finding] = list_append.check(serializable.history)
    assert finding.kind.value == "G2"
    assert {edge.reason.partition(" ")[2].partition(" that ")[0] for edge in finding.chain} == {
        "read b/y = [] without the 2",
        "read a/x = [] without the 1",
    }


def test_with_locking_reads_there_is_no_write_skew(serializable: Shop, threads: ThreadPoolExecutor) -> None:
    """Both lock what they depend on, in one order: the second waits, then sees the first's append or is aborted."""

    def work(appends: str, value: int, *, then: Callable[[], None] = lambda: None) -> None:
        with serializable.transaction(f"appends {appends}") as (op, tx):
            for place in "xy":
                serializable.read(op, tx, place, locking=True)
            then()
            serializable.append(op, tx, appends, value)

    def work_until_done() -> None:
        try:
            work("y", 2)
        except NOT_DONE:
            work("y", 3)

    second: list[Future[None]] = []

    def begin_second() -> None:
        second.append(threads.submit(work_until_done))
        wait_until(serializable.is_blocked, "the second waits for the first's locks")

    work("x", 1, then=begin_second)
    second[0].result()
    read_both(serializable, locking=False)
    assert list_append.check(serializable.history) == []
    last = [one.values for one in serializable.history.operations[-1].actions if isinstance(one, Read)]
    assert last in ([(1,), (2,)], [(1,), (3,)])


# --- fractured read ------------------------------------------------------------------------------------------


def read_both(shop: Shop, *, locking: bool) -> None:
    with shop.transaction("reader") as (op, tx):
        for place in "xy":
            shop.read(op, tx, place, locking=locking)


def append_both(shop: Shop) -> None:
    with shop.transaction("writer") as (op, tx):
        shop.append(op, tx, "x", 1)
        shop.append(op, tx, "y", 2)


def test_a_reader_between_the_commits_is_found(committed: Shop) -> None:
    committed.after_decision = lambda: read_both(committed, locking=False)
    append_both(committed)
    reader = committed.history.operations[1]
    assert [one.values for one in reader.actions if isinstance(one, Read)] == [(1,), ()]
    [finding] = list_append.check(committed.history)
    assert finding.kind.value == "G-single"
    assert [str(edge) for edge in finding.chain] == [
        "T2 --rw-> T1: T2 read b/y = [] without the 2 that T1 appended",
        "T1 --wr-> T2: T2 read a/x with the 1 that T1 appended",
    ]


def test_a_locking_reader_between_the_commits_waits(committed: Shop, threads: ThreadPoolExecutor) -> None:
    reader: list[Future[None]] = []

    def begin_reader() -> None:
        reader.append(threads.submit(read_both, committed, locking=True))
        wait_until(committed.is_blocked, "the reader waits for the writer's locks")

    committed.after_decision = begin_reader
    append_both(committed)
    reader[0].result()
    found = committed.history.operations[1]
    assert [one.values for one in found.actions if isinstance(one, Read)] == [(1,), (2,)]
    assert list_append.check(committed.history) == []
