"""One resource in one mode with its runner, its branches, and a word for what is not as promised.

    branch = bench.voted("a", 1)                   begun, written, voted yes
    bench.expect(vote.choice is Choice.NO, "A4", "a second branch of the same name votes no", vote)

Everything that a check leaves behind is ended when the bench closes, so that one failure does not make the next.
Not for: the checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import pytest

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.resources.base import (
    Answer,
    BranchStart,
    Choice,
    Contact,
    Decision,
    Evidence,
    Mode,
    Resource,
    Ruling,
    Session,
    Vote,
)
from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script
from syncpoint.testing.conformance.subject import Subject, Unsupported

T = TypeVar("T")

PLENTY_MS = 20_000
"""What is left of a transaction that is in no hurry."""
SHORT_MS = 250
"""What is left of one that waits in vain."""
GRACE_S = 5.0
"""How much later than that it may be told so: some servers count whole seconds."""
SETTLE_S = 15.0
"""How long a server may take to notice that a connection is gone."""

_numbers = itertools.count(1)


@dataclass(slots=True)
class Branch:
    """A branch and the session it is on."""

    session: Session
    identifier: Identifier
    state: bytes = b""


class Bench:
    """See the file's opening."""

    def __init__(self, subject: Subject, mode: Mode) -> None:
        """Make the resource, attach it, and meet the database. Skips when the adapter has not this mode."""
        if mode in subject.without:
            pytest.skip(f"{mode}: {subject.without[mode]}")
        self.subject = subject
        self.mode: Mode = mode
        self.coordinator = Guid(os.urandom(16))
        self.ruling = Ruling(Decision.UNKNOWN)
        """What the resource is told when it asks for an outcome."""
        self.runner: Any = ThreadRunner() if mode == "sync" else AsyncRunner()
        self._loop = asyncio.Runner()
        self._sessions: list[Session] = []
        self._branches: list[Branch] = []
        subject.make_table()
        self.resource = self.make()
        try:
            self.guid = self.run(self.resource.contact(self.open(), self.contact(1)))
        except BaseException:
            self.close()
            raise

    def make(self) -> Resource:
        """One more resource of the same URL, attached."""
        resource = self.subject.make(self.mode)
        resource.attach(self._ask, self.runner)
        return resource

    def _ask(self, identifier: Identifier) -> Script[Ruling]:
        return self.ruling
        yield from ()

    def contact(self, incarnation: int, highest: int | None = None, coordinator: Guid | None = None) -> Contact:
        return Contact(coordinator or self.coordinator, Incarnation(incarnation), Incarnation(highest or incarnation))

    # --- driving -----------------------------------------------------------------------------------------

    def do(self, call: Callable[[], Any]) -> Any:
        """Call something that may return an awaitable."""
        if self.mode == "sync":
            return call()

        async def awaited() -> Any:
            value = call()
            return await value if inspect.isawaitable(value) else value

        return self._loop.run(awaited())

    def run(self, script: Script[T]) -> T:
        """Drive a script to its end."""
        result: T = self.do(lambda: self.runner.run(script))
        return result

    def attempt(self, call: Callable[[], Any]) -> BaseException | None:
        """What a call raises; None if it succeeds."""
        try:
            self.do(call)
        except Exception as error:
            return error
        return None

    def hook(self, call: Callable[[], T]) -> T:
        """Ask something of the subject; skips the check when it cannot."""
        __tracebackhide__ = True
        try:
            return call()
        except Unsupported as error:
            pytest.skip(str(error))

    # --- sessions and branches ---------------------------------------------------------------------------

    def open(self) -> Session:
        session = self.run(self.resource.open())
        self._sessions.append(session)
        return session

    def lose(self, session: Session) -> None:
        """Its process is gone: the connection is closed, whatever is on it."""
        self._sessions = [one for one in self._sessions if one is not session]
        self.run(self.resource.close(session))

    def restart(self) -> None:
        """The database restarts; every connection is gone. Skips when the subject cannot."""
        if self.subject.embedded:
            self.lose_all()
        self.hook(self.subject.restart)

    def lose_all(self) -> None:
        for session in list(self._sessions):
            self.lose(session)

    def identifier(self, *, incarnation: int = 1, branch: int = 1, attempt: Attempt | None = None) -> Identifier:
        """One that was never used before, by this bench's own coordinator."""
        number = next(_numbers)
        key = attempt or Attempt(Incarnation(incarnation), number)
        return Identifier(self.coordinator, TransactionId(os.urandom(16)), key, BranchNumber(branch))

    def key(self) -> str:
        """The name of a row that no other check uses."""
        return f"k{next(_numbers)}x{os.getpid()}"

    def begin(
        self,
        identifier: Identifier | None = None,
        *,
        session: Session | None = None,
        remaining_ms: int = PLENTY_MS,
        read_only: bool = False,
    ) -> Branch:
        branch = Branch(session or self.open(), identifier or self.identifier())
        self._branches.append(branch)
        self.run(self.resource.begin(branch.session, BranchStart(branch.identifier, remaining_ms, read_only)))
        return branch

    def connection(self, branch: Branch) -> Any:
        return self.resource.connection(branch.session)

    def put(self, branch: Branch, key: str, value: int) -> None:
        self.do(lambda: self.subject.put(self.connection(branch), key, value))

    def wrote(self, key: str, value: int = 1, identifier: Identifier | None = None) -> Branch:
        """A branch that has written one row."""
        branch = self.begin(identifier)
        self.put(branch, key, value)
        return branch

    def prepare(self, branch: Branch) -> Vote:
        __tracebackhide__ = True
        vote = self.run(self.resource.prepare(branch.session))
        self.expect(isinstance(vote, Vote), "A3", "`prepare` returns a Vote", vote)
        branch.state = vote.state
        return vote

    def voted(self, key: str, value: int = 1, identifier: Identifier | None = None) -> Branch:
        """A branch that has written one row and voted yes."""
        __tracebackhide__ = True
        branch = self.wrote(key, value, identifier)
        vote = self.prepare(branch)
        self.expect(vote.choice is Choice.YES, "A3", "a branch that wrote, and can commit, votes yes", vote)
        return branch

    def committed(self, key: str, value: int = 1, identifier: Identifier | None = None) -> Branch:
        """A row that went through both phases."""
        __tracebackhide__ = True
        branch = self.voted(key, value, identifier)
        answer = self.run(self.resource.commit(branch.session))
        self.expect(answer is Answer.COMMITTED, "O01", "the commit of a branch that voted yes is COMMITTED", answer)
        return branch

    # --- from another session, as recovery does ----------------------------------------------------------------

    def finish(self, branch: Branch, *, commit: bool, session: Session | None = None) -> Answer:
        """Finish by identifier on another session; RETRY is tried again, for a while."""
        own = session or self.open()
        deadline = time.monotonic() + SETTLE_S
        while True:
            script = self.resource.finish(own, branch.identifier, commit=commit, state=branch.state)
            answer = self.run(script)
            if answer is not Answer.RETRY or time.monotonic() > deadline:
                return answer
            time.sleep(0.02)

    def scan(self) -> list[Identifier | None]:
        return [found.identifier for found in self.run(self.resource.scan(self.open()))]

    def evidence(self, branch: Branch) -> Evidence:
        return self.run(self.resource.evidence(self.open(), branch.identifier))

    def obstacle(self, key: str) -> BaseException | None:
        """What another transaction meets that wants to write the row and has little time; None: nothing."""
        return self.attempt_to_write(key)[0]

    def attempt_to_write(self, key: str) -> tuple[BaseException | None, float]:
        """(what it met, seconds it took). What it wrote is rolled back."""
        session, began = self.open(), time.monotonic()
        branch = Branch(session, self.identifier())
        try:
            self.run(self.resource.begin(session, BranchStart(branch.identifier, SHORT_MS)))
            self.put(branch, key, 99)
        except Exception as error:
            return error, time.monotonic() - began
        else:
            return None, time.monotonic() - began
        finally:
            self.lose(session)

    def rows(self) -> dict[str, int]:
        """Every committed row, seen from outside."""
        return self.subject.rows()

    # --- telling ---------------------------------------------------------------------------------------------

    def expect(self, holds: bool, row: str, what: str, seen: object) -> None:
        """Fail unless it holds: what was expected, by which row, and what was seen."""
        __tracebackhide__ = True
        if not holds:
            self.fail(row, what, seen)

    def fail(self, row: str, what: str, seen: object) -> NoReturn:
        __tracebackhide__ = True
        shown = f"{type(seen).__name__}: {seen}" if isinstance(seen, BaseException) else repr(seen)
        kind = type(self.resource).__name__
        raise AssertionError(f"{row}: {what}.\n    seen at {kind} ({self.mode}): {shown}")

    def expect_row(self, key: str, value: int | None, row: str, what: str) -> None:
        """A row as it is seen from outside; None: it is not there."""
        __tracebackhide__ = True
        found = self.rows().get(key)
        self.expect(found == value, row, f"{what}: the row {key!r} must be {value}", f"{key} = {found}")

    def expect_free(self, key: str, row: str, what: str) -> None:
        """Nobody holds the row any more."""
        __tracebackhide__ = True
        obstacle = self.obstacle(key)
        self.expect(obstacle is None, row, f"{what}: another transaction can write the row {key!r}", obstacle)

    def expect_locked(self, key: str, row: str, what: str) -> None:
        """Another transaction that wants the row waits, and is told in time that it may try again."""
        __tracebackhide__ = True
        error, seconds = self.attempt_to_write(key)
        if error is None:
            self.fail(row, f"{what}: nobody else can write the row {key!r}", "another transaction wrote it")
        self.expect(
            self.resource.is_retryable(error), row, f"{what}: who waits in vain for it is told a retryable error", error
        )
        limit = SHORT_MS / 1000 + GRACE_S
        self.expect(
            seconds < limit, "timeout", f"a wait ends when the transaction's {SHORT_MS} ms are over", f"{seconds:.1f} s"
        )

    # --- ending ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every session, and every branch that is still prepared."""
        with contextlib.suppress(Exception):
            self.lose_all()
        with contextlib.suppress(Exception):
            self._sweep()
        with contextlib.suppress(Exception):
            self.do(self.runner.close)
        self._loop.close()

    def _sweep(self) -> None:
        left = {one for one in self.scan() if one is not None and one.coordinator == self.coordinator}
        for branch in self._branches:
            if branch.identifier in left:
                self.finish(branch, commit=False)
        self.lose_all()
