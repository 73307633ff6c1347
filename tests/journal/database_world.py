"""What the tests of a journal in a database share: processes (journals), and a connection of our own that looks on.

The same tests run against PostgreSQL and MariaDB; what differs in the words stands here. Not for: the tests themselves.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from syncpoint.ids import Guid, Incarnation, Key, TransactionId
from syncpoint.journal.base import Verdict
from syncpoint.journal.database import DatabaseJournal
from syncpoint.journal.statements import Statements
from syncpoint.journal.store import Store
from syncpoint.journal.urls import database_journal, database_place
from syncpoint.marks import listen
from syncpoint.records import Abort, BranchEntry, Commit, End, decode_record, key_fields
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing.servers.base import wait_until

T = TypeVar("T")
JOURNAL_TABLES = ("journal", "incarnation", "heartbeat", "record", "claim", "note", "known")
FAST = {"heartbeat_s": 0.05, "dead_after_s": 0.3}
"""Where death is guessed in a test."""
MARKS = frozenset(
    {
        "a Commit of a process taken for dead was refused",
        "a claim that nobody knew of was given back",
        "a living process was taken for dead, and drew another incarnation",
        "a process doubted its own signs of life in the journal",
        "a take-over waited in vain for a decision under way",
        "an Abort found a record of its key there",
        "an id was claimed again after a take-over",
        "the keeper's record was ended by the one it was taken from",
    }
)
"""What the simulator asks for by these names."""
CALM = {"heartbeat_s": 0.2, "dead_after_s": 60.0}
"""Where nobody is to be guessed dead, whatever the machine does meanwhile."""


class Process:
    """One process among those that share the journal: a journal and its runner."""

    def __init__(self, url: str, **options: Any) -> None:
        given = "&".join(f"{name}={value}" for name, value in {**CALM, **options}.items())
        self.runner = ThreadRunner()
        self.journal: DatabaseJournal = database_journal(
            f"{url}{'&' if '?' in url else '?'}{given}", {}, mode="sync", clock=SystemClock(), random=SystemRandom()
        )

    def open(self) -> Process:
        try:
            self(self.journal.open(self.runner))
        except BaseException:
            self.runner.close()
            raise
        return self

    def __call__(self, script: Any) -> Any:
        return self.runner.run(script)

    @property
    def incarnation(self) -> Incarnation:
        return self.journal.incarnation

    def key(self, number: int = 0) -> Key:
        """A key of this process's; the same number is the same transaction, 0 a new one."""
        transaction = TransactionId(number.to_bytes(16, "big") if number else SystemRandom().bytes(16))
        return Key(transaction, self.journal.next_attempt())

    def force(self, *records: Any) -> tuple[Verdict, ...]:
        return tuple(self(self.journal.force(records)))

    def commits(self, key: Key, **fields: Any) -> bool:
        return self.force(commit(key, **fields)) == (Verdict.ACCEPTED,)

    def aborts(self, key: Key) -> bool:
        return self.force(abort(key)) == (Verdict.ACCEPTED,)

    def ends(self, *keys: Key) -> None:
        self.journal.note([End(**key_fields(key)) for key in keys])
        self.force()

    def look(self) -> Any:
        return self(self.journal.look())

    def fall_silent(self) -> None:
        """Give no more signs of life, as a process that is stopped, or hangs."""
        signs = self.journal._tasks[0]
        signs.stop()
        wait_until(signs.ended.is_set, "no more signs of life")

    def wake(self) -> None:
        """Go on giving signs of life."""
        living = self.journal._living
        self.journal._tasks[0] = self.runner.spawn(living.give_signs(), "signs of life")

    def clean(self) -> None:
        self(self.journal._lazily.clean())

    def takes_over(self, *whose: Incarnation) -> None:
        """Look until these are taken over."""
        got: set[Incarnation] = set()

        def done() -> bool:
            got.update(self(self.journal.watch()))
            return set(whose) <= got

        wait_until(done, f"{whose} taken over")

    def close(self) -> None:
        if self.journal._state == "open":
            self(self.journal.close())
        self.runner.close()


def commit(key: Key, *, user_id: str | None = None, result: bytes | None = None, size_bytes: int = 0) -> Commit:
    entry = BranchEntry(resource="bank", guid=b"R" * 16, identifier=_identifier(key), state=bytes(size_bytes))
    return Commit(**key_fields(key), branches=(entry,), at_ms=1, user_id=user_id, result=result)


def _identifier(key: Key) -> bytes:
    from syncpoint.ids import BranchNumber, Identifier

    return Identifier(Guid(b"C" * 16), key.transaction, key.attempt, BranchNumber(1)).to_bytes()


def abort(key: Key) -> Abort:
    return Abort(**key_fields(key))


def transaction(number: int) -> TransactionId:
    return TransactionId(number.to_bytes(16, "big"))


class Observer(ABC):
    """A connection of our own, autocommit on, of somebody who may do everything."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @abstractmethod
    def __call__(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement; its rows. Raises the driver's error."""

    def close(self) -> None:
        self.connection.close()


class World(ABC):
    """One database with a journal in it. `url` is for processes."""

    kind: str
    begin: str

    def __init__(self, server: Any, url: str) -> None:
        self.server = server
        self.url = url
        self.xid = SystemRandom().bytes(8).hex()
        """Names a branch of ours: a server that has lost its client keeps one's name for a moment."""
        self.processes: list[Process] = []
        self._observers: list[Observer] = []
        self.see = self.connect()

    @abstractmethod
    def connect(self) -> Observer: ...

    @abstractmethod
    def is_waiting(self) -> bool:
        """Whether some session waits for a lock now."""

    @functools.cached_property
    def store(self) -> Store:
        return database_place(self.url, {}, mode="sync", clock=SystemClock(), random=SystemRandom()).store

    @functools.cached_property
    def sql(self) -> Statements:
        return Statements(self.store)

    def process(self, url: str = "", **options: Any) -> Process:
        """A process, opened."""
        process = Process(url or self.url, **options)
        self.processes.append(process.open())
        return process

    def another(self) -> Observer:
        observer = self.connect()
        self._observers.append(observer)
        return observer

    def close(self) -> None:
        for observer in (*self._observers, self.see):
            with contextlib.suppress(Exception):
                observer.close()
        for process in self.processes:
            process.close()

    # --- rows seen from outside -----------------------------------------------------------------------------

    def records(self) -> list[tuple[str, str]]:
        """("commit" or "abort", the key as text) of every record, in order of their keys."""
        found = self.see("SELECT data FROM syncpoint.record ORDER BY transaction, attempt")
        return [(type(record).__name__.lower(), str(record.key)) for record in map(decode_record, _column(found))]  # type: ignore[union-attr]

    def keepers(self) -> dict[int, int]:
        return dict(self.see("SELECT incarnation, keeper FROM syncpoint.incarnation"))  # type: ignore[arg-type]

    def claims(self) -> list[int]:
        return [row[0] for row in self.see("SELECT incarnation FROM syncpoint.claim ORDER BY transaction")]

    def count(self, table: str, where: str = "1 = 1") -> int:
        return int(self.see(f"SELECT count(*) FROM syncpoint.{table} WHERE {where}")[0][0])

    def age_heartbeat(self, incarnation: Incarnation, seconds: float) -> None:
        """As if the last sign of life had been so long ago."""
        ago = self.store.ago(seconds)
        self.see(f"UPDATE syncpoint.heartbeat SET beat = {ago} WHERE incarnation = {incarnation}")


def _column(found: Sequence[tuple[Any, ...]]) -> list[bytes]:
    return [bytes(row[0]) for row in found]


class PostgresObserver(Observer):
    def __call__(self, sql: str) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


class PostgresWorld(World):
    kind = "postgresql"
    begin = "BEGIN"

    def connect(self) -> Observer:
        import psycopg

        return PostgresObserver(psycopg.connect(self.url, autocommit=True, prepare_threshold=None))

    def is_waiting(self) -> bool:
        return bool(self.see("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


class MariadbObserver(Observer):
    def __call__(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())


class MariadbWorld(World):
    kind = "mariadb"
    begin = "START TRANSACTION"

    def __init__(self, server: Any, url: str) -> None:
        super().__init__(server, url)
        # The schema is the server's: what an earlier test left in it goes.
        there = {row[0] for row in self.see("SHOW TABLES FROM syncpoint")} if self.see(_SCHEMA_THERE) else set()
        for table in JOURNAL_TABLES:
            if table in there:
                self.see(f"DELETE FROM syncpoint.{table}")

    def connect(self) -> Observer:
        return MariadbObserver(self.server.connect())

    def is_waiting(self) -> bool:
        # Not INNODB_TRX: its rows are a copy that is not taken anew while it is read more than ten times a second.
        return int(self.see("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")[0][1]) > 0


_SCHEMA_THERE = "SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'syncpoint'"


class InThread:
    """A call in a thread of its own, and what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self.value = self._call()
        except BaseException as error:
            self.error = error
        self.seconds = time.monotonic() - began

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def result(self, seconds_max: float = 30.0) -> Any:
        self._thread.join(seconds_max)
        assert not self.is_running, "it has not ended"
        if self.error is not None:
            raise self.error
        return self.value


def all_at_once(calls: Sequence[Callable[[], Any]]) -> list[InThread]:
    """Run them side by side to their ends."""
    barrier = threading.Barrier(len(calls))

    def start(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            barrier.wait()
            return call()

        return run

    threads = [InThread(start(call)) for call in calls]
    for thread in threads:
        with contextlib.suppress(BaseException):
            thread.result(60.0)
    return threads


def make_world(kind: str, server: Any, url: str) -> World:
    return {"postgresql": PostgresWorld, "mariadb": MariadbWorld}[kind](server, url)


def worlds(request: Any) -> Iterator[World]:
    """The body of the fixture `world`: one database of each kind."""
    kind = {"postgresql": "postgres", "mariadb": "mariadb"}[request.param]
    server = request.getfixturevalue(f"{kind}_server")
    world = make_world(request.param, server, request.getfixturevalue(f"{kind}_url"))
    reached: set[str] = set()
    listen(reached.add)
    try:
        yield world
    finally:
        listen(None)
        world.close()
    assert reached <= MARKS
