"""What the tests of the SQLite resource share: one file under either runner, and an observer that is not ours.

The observer is a plain apsw connection: the module sqlite3 would drop this process's locks (sqlite_locks.py).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.resources.base import Ask, BranchStart, Contact, Decision, Mode, Ruling, Session, Vote
from syncpoint.resources.sqlite import SqliteResource
from syncpoint.resources.sqlite_connection import GuardedConnection
from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script
from syncpoint.system import SystemClock, SystemRandom

COORDINATOR = Guid(bytes(range(16)))
MODES: tuple[Mode, ...] = ("sync", "async")
_numbers = itertools.count(1)


def make_identifier(coordinator: Guid = COORDINATOR, incarnation: int = 1, number: int | None = None) -> Identifier:
    """A branch identifier never used before in this process, or the one of `number`."""
    number = next(_numbers) if number is None else number
    return Identifier(
        coordinator,
        TransactionId(number.to_bytes(16, "big")),
        Attempt(Incarnation(incarnation), number),
        BranchNumber(1),
    )


def answering(ruling: Ruling, asked: list[Identifier] | None = None) -> Ask:
    """A manager that always says the same."""

    def ask(identifier: Identifier) -> Script[Ruling]:
        if asked is not None:
            asked.append(identifier)
        return ruling
        yield from ()

    return ask


ABORT = Ruling(Decision.ABORT)
UNKNOWN = Ruling(Decision.UNKNOWN)


def observe(path: Path | str, sql: str) -> list[tuple[Any, ...]]:
    """What an independent connection sees in the file."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.set_busy_timeout(10_000)
        return connection.execute(sql).fetchall()


def change(path: Path | str, script: str) -> None:
    """A program that knows nothing of Syncpoint writes the file."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.set_busy_timeout(10_000)
        connection.execute(script)


def is_locked(path: Path | str) -> bool:
    """Whether somebody holds the write lock."""
    with closing(apsw.Connection(str(path))) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            return True
        return False


class World:
    """One resource in one mode, and the file seen from outside."""

    def __init__(self, path: Path, mode: Mode, options: Mapping[str, str] | None = None, *, ready: bool = True) -> None:
        self.path = path
        self.resource = SqliteResource(
            "audit", f"sqlite:///{path}", options or {}, mode=mode, clock=SystemClock(), random=SystemRandom()
        )
        self._loop = asyncio.Runner()
        self.runner: Any = ThreadRunner() if mode == "sync" else AsyncRunner()
        self._sessions: list[Session] = []
        self.session: Any = None
        if ready:
            try:
                self.session = self.open()
                self.guid = self.run(self.resource.contact(self.session, self.contact()))
            except BaseException:
                self.__exit__(None, None, None)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions:
            self.run(self.resource.close(session))
        self.do(self.runner.close)
        self._loop.close()

    @staticmethod
    def contact(incarnation: int = 1, highest: int | None = None, coordinator: Guid = COORDINATOR) -> Contact:
        return Contact(coordinator, Incarnation(incarnation), Incarnation(highest or incarnation))

    # --- doing -------------------------------------------------------------------------------------------------

    def do(self, call: Callable[[], Any]) -> Any:
        async def awaited() -> Any:
            result = call()
            return await result if inspect.isawaitable(result) else result

        return self._loop.run(awaited()) if isinstance(self.runner, AsyncRunner) else call()

    def run(self, script: Script[Any]) -> Any:
        """Drive a script to its end."""
        return self.do(lambda: self.runner.run(script))

    def open(self) -> Any:
        session = self.run(self.resource.open())
        self._sessions.append(session)
        return session

    def close(self, session: Session) -> None:
        """The connection is gone, as after the death of its process."""
        self.run(self.resource.close(session))
        if session in self._sessions:
            self._sessions.remove(session)

    def fresh(self) -> None:
        """Lose the connection and whatever is on it, and open another."""
        self.close(self.session)
        self.session = self.open()

    def begin(
        self,
        *,
        session: Any = None,
        remaining_ms: int = 2000,
        read_only: bool = False,
        identifier: Identifier | None = None,
    ) -> Identifier:
        identifier = identifier or make_identifier()
        self.run(self.resource.begin(session or self.session, BranchStart(identifier, remaining_ms, read_only)))
        return identifier

    @property
    def connection(self) -> GuardedConnection:
        return self.resource.connection(self.session)

    def execute(self, *statements: str) -> None:
        for statement in statements:
            for _ in self.connection.execute(statement):
                pass

    def vote(self, *statements: str) -> tuple[Identifier, Vote]:
        """A branch that runs the statements and is asked to prepare."""
        identifier = self.begin()
        self.execute(*statements)
        return identifier, self.run(self.resource.prepare(self.session))

    def commit(self) -> Any:
        return self.run(self.resource.commit(self.session))

    def abort(self) -> Any:
        return self.run(self.resource.abort(self.session))

    def finish(self, identifier: Identifier, state: bytes, *, commit: bool = True) -> Any:
        return self.run(self.resource.finish(self.session, identifier, commit=commit, state=state))

    def committed(self, *statements: str) -> None:
        """Run the statements in a branch that commits in one phase: set-up."""
        self.begin()
        self.execute(*statements)
        self.run(self.resource.commit_one_phase(self.session))

    def rows(self, sql: str = "SELECT * FROM t ORDER BY 1") -> list[tuple[Any, ...]]:
        return observe(self.path, sql)

    def standing(self) -> list[Identifier | None]:
        """What a scan sees."""
        return [found.identifier for found in self.run(self.resource.scan(self.session))]


TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)"
