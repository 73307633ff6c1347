"""What the tests of the PostgreSQL resource share: one resource under either runner, and an independent observer."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, cast

import psycopg

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.resources.base import BranchStart, Contact, Mode
from syncpoint.resources.postgres import PostgresResource
from syncpoint.resources.postgres_driver import PostgresSession
from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script
from syncpoint.system import SystemClock, SystemRandom

COORDINATOR = Guid(bytes(range(16)))
_numbers = itertools.count(1)


def make_identifier(coordinator: Guid = COORDINATOR, incarnation: int = 1) -> Identifier:
    """A branch identifier of this run, never used before."""
    number = next(_numbers)
    return Identifier(
        coordinator,
        TransactionId(number.to_bytes(16, "big")),
        Attempt(Incarnation(incarnation), number),
        BranchNumber(1),
    )


class World:
    """One resource in one mode, and the database seen from outside."""

    def __init__(
        self,
        url: str,
        mode: Mode,
        options: Mapping[str, str] | None = None,
        *,
        ready: bool = True,
        observer_url: str | None = None,
    ) -> None:
        """`observer_url`: how to reach the server itself when `url` leads through a pooler."""
        self.url = url
        self.mode = mode
        self.resource = PostgresResource(
            "bank", url, options or {}, mode=mode, clock=SystemClock(), random=SystemRandom()
        )
        self._loop = asyncio.Runner()
        self._runner = ThreadRunner() if mode == "sync" else AsyncRunner()
        self._sessions: list[PostgresSession] = []
        self.observer = psycopg.connect(observer_url or url, autocommit=True)
        if ready:
            self.observer.execute("CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL DEFAULT 0)")
            self.run(self.resource.contact(self.session(), self.contact()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions:
            self.run(self.resource.close(session))
        self.observer.close()
        self.do(lambda: self._runner.close())
        self._loop.close()

    @staticmethod
    def contact(incarnation: int = 1, highest: int | None = None, coordinator: Guid = COORDINATOR) -> Contact:
        return Contact(coordinator, Incarnation(incarnation), Incarnation(highest or incarnation))

    # --- doing -------------------------------------------------------------------------------------------------

    def run(self, script: Script[Any]) -> Any:
        """Drive a script to its end."""
        return self.do(lambda: self._runner.run(script))

    def do(self, call: Callable[[], Any]) -> Any:
        """Call something of the user's connection, which may return an awaitable."""
        if self.mode == "sync":
            return call()

        async def ask() -> Any:
            value = call()
            return await value if inspect.isawaitable(value) else value

        return self._loop.run(ask())

    def session(self) -> PostgresSession:
        session = cast(PostgresSession, self.run(self.resource.open()))
        self._sessions.append(session)
        return session

    def begin(
        self,
        session: PostgresSession | None = None,
        identifier: Identifier | None = None,
        *,
        remaining_ms: int = 20_000,
        read_only: bool = False,
    ) -> tuple[PostgresSession, Identifier]:
        """A branch, on a session of its own unless one is given."""
        session = session or self.session()
        identifier = identifier or make_identifier()
        self.run(self.resource.begin(session, BranchStart(identifier, remaining_ms, read_only)))
        return session, identifier

    def execute(self, session: PostgresSession, sql: str) -> Any:
        """Run SQL as the transaction's code does."""
        connection = self.resource.connection(session)
        return self.do(lambda: connection.execute(sql))

    def wrote(self, account: int) -> tuple[PostgresSession, Identifier]:
        """A branch that has inserted one account."""
        session, identifier = self.begin()
        self.execute(session, f"INSERT INTO account VALUES ({account})")
        return session, identifier

    def prepared_branch(self, account: int) -> tuple[PostgresSession, Identifier]:
        """A branch that has inserted one account and voted yes."""
        session, identifier = self.wrote(account)
        vote = self.run(self.resource.prepare(session))
        assert vote.choice.name == "YES", vote
        return session, identifier

    def lose(self, session: PostgresSession) -> None:
        """The session's process dies: the connection is cut without a word."""
        session.broken = True
        os.close(os.dup(session.pgconn.socket))
        session.pgconn.finish()

    # --- seen from outside -------------------------------------------------------------------------------------

    def accounts(self) -> list[int]:
        return [row[0] for row in self.observer.execute("SELECT id FROM account ORDER BY id").fetchall()]

    def prepared(self) -> list[str]:
        sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid"
        return [row[0] for row in self.observer.execute(sql).fetchall()]

    def evidence_rows(self) -> list[tuple[int, str]]:
        """(counter, outcome) of every evidence row."""
        sql = "SELECT counter, outcome FROM syncpoint.evidence ORDER BY counter"
        return cast(list[tuple[int, str]], self.observer.execute(sql).fetchall())

    def open_transactions(self) -> int:
        """Other sessions that are inside a transaction."""
        sql = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'"
        )
        row = self.observer.execute(sql).fetchone()
        assert row is not None
        return int(row[0])

    def end_backend(self, session: PostgresSession) -> None:
        """Kill the session's server process from outside, and wait until it is gone."""
        pid = session.pgconn.backend_pid
        self.observer.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))


class Packets:
    """Counts the packets of statements a session sends while it is open: round trips, as libpq itself traces them."""

    def __init__(self, session: PostgresSession) -> None:
        self._session = session
        self.sent: list[str] = []

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile("w+b")
        self._session.pgconn.trace(self._file.fileno())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.pgconn.untrace()
        with self._file as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
        self.sent = [line for line in lines if "\tF\t" in line and ("Query" in line or "Sync" in line)]
