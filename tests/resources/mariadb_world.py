"""What the tests of the MariaDB resource share: one resource under either runner, and an independent observer."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, cast

import pymysql

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.resources.base import BranchStart, Contact, Mode
from syncpoint.resources.mariadb import MariadbResource
from syncpoint.resources.mariadb_session import MariadbSession
from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing.servers.mariadb import MariadbServer

_numbers = itertools.count(1)


def make_identifier(coordinator: Guid | None = None, incarnation: int = 1) -> Identifier:
    """A branch identifier of this run, never used before."""
    number = next(_numbers)
    return Identifier(
        coordinator or Guid(bytes(range(16))),
        TransactionId(number.to_bytes(16, "big")),
        Attempt(Incarnation(incarnation), number),
        BranchNumber(1),
    )


def wait_until(condition: Callable[[], bool], seconds_max: float = 20.0) -> None:
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class Wire:
    """Counts the packets that a session sends while it is watched."""

    def __init__(self, session: MariadbSession) -> None:
        self.sent = 0
        self._session = session
        self._write: Callable[[bytes], None] = session.connection._write_bytes

    def __enter__(self) -> Self:
        self._session.connection._write_bytes = self._count
        return self

    def __exit__(self, *ignored: object) -> None:
        del self._session.connection._write_bytes

    def _count(self, data: bytes) -> None:
        self.sent += 1
        self._write(data)


class World:
    """One resource in one mode, and the database seen from outside."""

    def __init__(
        self,
        server: MariadbServer,
        url: str,
        mode: Mode,
        options: Mapping[str, str] | None = None,
        *,
        ready: bool = True,
    ) -> None:
        self.server = server
        self.mode = mode
        self.database = url.partition("?")[0].rpartition("/")[2]
        self.resource = MariadbResource(
            "ledger", url, options or {}, mode=mode, clock=SystemClock(), random=SystemRandom()
        )
        self._loop = asyncio.Runner()
        self._runner = ThreadRunner() if mode == "sync" else AsyncRunner()
        self._sessions: list[MariadbSession] = []
        self._owner = ready
        if ready:
            self.sql("CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL DEFAULT 0)")
            self.run(self.resource.contact(self.session(), self.contact()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions:
            self.run(self.resource.close(session))
        for literal in self.server.prepared() if self._owner else []:
            self.server.execute(f"XA ROLLBACK {literal}")
        self.do(lambda: self._runner.close())
        self._loop.close()

    @staticmethod
    def contact(incarnation: int = 1, highest: int | None = None, coordinator: Guid | None = None) -> Contact:
        who = coordinator or Guid(bytes(range(16)))
        return Contact(who, Incarnation(incarnation), Incarnation(highest or incarnation))

    # --- doing -------------------------------------------------------------------------------------------

    def run(self, script: Script[Any]) -> Any:
        """Drive a script to its end."""
        return self.do(lambda: self._runner.run(script))

    def do(self, call: Callable[[], Any]) -> Any:
        """Call something, which may return an awaitable."""
        if self.mode == "sync":
            return call()

        async def awaited() -> Any:
            result = call()
            return await result if inspect.isawaitable(result) else result

        return self._loop.run(awaited())

    def session(self) -> MariadbSession:
        session = cast(MariadbSession, self.run(self.resource.open()))
        self._sessions.append(session)
        return session

    def begin(
        self,
        session: MariadbSession | None = None,
        identifier: Identifier | None = None,
        *,
        remaining_ms: int = 20_000,
        read_only: bool = False,
    ) -> MariadbSession:
        session = session or self.session()
        start = BranchStart(identifier or make_identifier(), remaining_ms, read_only)
        self.run(self.resource.begin(session, start))
        return session

    def execute(self, session: MariadbSession, statement: str, arguments: Any = None) -> list[tuple[Any, ...]]:
        """As the transaction's code does it: on the connection it is given, with a cursor."""
        connection = self.resource.connection(session)
        if self.mode == "sync":
            with connection.cursor() as cursor:
                cursor.execute(statement, arguments)
                return list(cursor.fetchall())

        async def on_loop() -> list[tuple[Any, ...]]:
            async with connection.cursor() as cursor:
                await cursor.execute(statement, arguments)
                return list(await cursor.fetchall())

        return cast("list[tuple[Any, ...]]", self._loop.run(on_loop()))

    def insert(self, session: MariadbSession, number: int) -> None:
        self.execute(session, "INSERT INTO account (id, balance) VALUES (%s, 100)", (number,))

    def prepared(self, number: int = 1) -> tuple[MariadbSession, Identifier, bytes]:
        """A branch that inserted one row and voted yes: its session, its identifier, its state information."""
        identifier = make_identifier()
        session = self.begin(identifier=identifier)
        self.insert(session, number)
        vote = self.run(self.resource.prepare(session))
        assert vote.choice.name == "YES", vote
        return session, identifier, vote.state

    def finish(self, identifier: Identifier, state: bytes = b"", *, commit: bool = True) -> str:
        session = self.session()
        answer = self.run(self.resource.finish(session, identifier, commit=commit, state=state))
        return cast(str, answer.name)

    def evidence(self, identifier: Identifier) -> str:
        return cast(str, self.run(self.resource.evidence(self.session(), identifier)).name)

    # --- seen from outside -----------------------------------------------------------------------------------

    def sql(self, statement: str) -> tuple[tuple[Any, ...], ...]:
        """On a plain connection of root's, in this test's database."""
        with contextlib.closing(self.server.connect(self.database)) as root, root.cursor() as cursor:
            cursor.execute(statement)
            return tuple(cursor.fetchall())

    def rows(self) -> list[int]:
        """The ids in the table, committed."""
        return [row[0] for row in self.sql("SELECT id FROM account ORDER BY id")]

    def evidence_rows(self, identifier: Identifier) -> tuple[tuple[Any, ...], ...]:
        return self.sql(
            f"SELECT committed FROM syncpoint.evidence WHERE coordinator = X'{identifier.coordinator}' "
            f"AND attempt = {identifier.attempt.to_int()}"
        )

    def is_listed(self, identifier: Identifier) -> bool:
        """Whether XA RECOVER lists it."""
        gtrid, bqual = identifier.to_xid()
        return f"X'{gtrid.hex()}',X'{bqual.hex()}',1397773361" in self.server.prepared()

    def lives(self, connection_id: int) -> bool:
        return bool(self.sql(f"SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = {connection_id}"))

    def cut(self, session: MariadbSession) -> None:
        """End the connection from the server's side, and wait until it is gone."""
        with contextlib.suppress(pymysql.err.OperationalError):
            self.sql(f"KILL {session.holder.connection_id}")
        wait_until(lambda: not self.lives(session.holder.connection_id))


@contextlib.contextmanager
def private_server(**settings: str) -> Iterator[MariadbServer]:
    with MariadbServer(settings=settings) as server:
        yield server
