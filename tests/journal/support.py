"""What the journal's tests share: a runner without threads, a clock that is set, and short ways to write records.

Not for: the tests themselves.
"""

from __future__ import annotations

import random as chance
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.journal.folder import FolderJournal
from syncpoint.ports import Disk
from syncpoint.records import (
    Abort,
    BranchEntry,
    Commit,
    End,
    Forgotten,
    Heuristic,
    Prepared,
    Resolved,
    ResourceIncarnation,
    ResourceKnown,
    key_fields,
)
from syncpoint.steps import Batch, Blocking, Script, Sleep

T = TypeVar("T")
FOLDER = "/journal"
COORDINATOR = Guid(b"C" * 16)


class ManualClock:
    """Time that only `now_s` moves."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def monotonic(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)


class SeededRandom:
    """Chance that repeats itself."""

    def __init__(self, seed: int = 1) -> None:
        self._random = chance.Random(seed)

    def bytes(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes)

    def fraction(self) -> float:
        return self._random.random()


class InlineBatcher:
    def __init__(self, handler: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        self.handler = handler
        self.closed = False

    def close(self) -> None:
        self.closed = True


class InlineRunner:
    """Drives a script in the calling thread; sleeping moves the clock. `before` is called before every step."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.before: Callable[[Any], None] = lambda step: None

    def mutex(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def signal(self) -> Any:
        raise AssertionError("no signals here")

    def batcher(self, handler: Callable[[Sequence[Any]], Sequence[Any]], what: str) -> InlineBatcher:
        return InlineBatcher(handler)

    def spawn(self, script: Any, what: str) -> Any:
        raise AssertionError("no background here")

    def run(self, script: Script[T]) -> T:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                step = script.send(value) if error is None else script.throw(error)
            except StopIteration as stop:
                return stop.value
            value, error = None, None
            try:
                self.before(step)
                value = self._perform(step)
            except BaseException as caught:
                error = caught

    def _perform(self, step: Any) -> Any:
        match step:
            case Blocking():
                return step.run()
            case Sleep():
                self.clock.now_s += step.seconds
                return None
            case Batch():
                [result] = step.batcher.handler([step.item])
                if isinstance(result, BaseException):
                    raise result
                return result
        raise AssertionError(f"not expected of a journal: {step!r}")


class Process:
    """One process on a disk: its journal, opened, and a runner."""

    def __init__(self, disk: Disk, clock: ManualClock | None = None, *, path: str = FOLDER, **options: Any) -> None:
        self.clock = clock or ManualClock()
        self.disk = disk
        self.runner = InlineRunner(self.clock)
        self.journal = FolderJournal(path, disk=disk, clock=self.clock, random=SeededRandom(), **options)

    def open(self) -> Process:
        self.runner.run(self.journal.open(self.runner))
        return self

    def __call__(self, script: Script[T]) -> T:
        return self.runner.run(script)


def transaction(number: int) -> TransactionId:
    return TransactionId((number << 8).to_bytes(8, "big") + bytes(8))


def key(number: int, attempt: Attempt | None = None) -> Key:
    return Key(transaction(number), attempt or Attempt(Incarnation(1), number))


def identifier(of: Key, branch: int = 1) -> bytes:
    return Identifier(COORDINATOR, of.transaction, of.attempt, BranchNumber(branch)).to_bytes()


def commit(of: Key, *, user_id: str | None = None, at_ms: int = 1_000_000_000, result: bytes | None = None) -> Commit:
    entries = tuple(
        BranchEntry(resource=name, guid=b"R" * 16, identifier=identifier(of, number))
        for number, name in enumerate(("bank", "ledger"), 1)
    )
    return Commit(**key_fields(of), branches=entries, at_ms=at_ms, user_id=user_id, result=result)


def end(of: Key) -> End:
    return End(**key_fields(of))


def abort(of: Key) -> Abort:
    return Abort(**key_fields(of))


def prepared(of: Key) -> Prepared:
    superior = Identifier(Guid(b"S" * 16), of.transaction, of.attempt, BranchNumber(1))
    return Prepared(**key_fields(of), superior=b"S" * 16, branches=(), identifier=superior.to_bytes())


def heuristic(of: Key, *, at_ms: int = 5, branch: int = 1) -> Heuristic:
    return Heuristic(
        **key_fields(of),
        resource="bank",
        identifier=identifier(of, branch),
        outcome="HEURISTIC_ROLLBACK",
        decided="commit",
        detail="",
        at_ms=at_ms,
    )


def resolved(of: Key, *, at_ms: int = 5) -> Resolved:
    return Resolved(
        **key_fields(of), resource="bank", identifier=identifier(of), commit=True, reason="r", who="w", at_ms=at_ms
    )


def forgotten(of: Key, *, at_ms: int = 5) -> Forgotten:
    return Forgotten(**key_fields(of), who="w", at_ms=at_ms)


def served(incarnation: int, guid: bytes = b"R" * 16) -> ResourceIncarnation:
    return ResourceIncarnation(name="bank", guid=guid, incarnation=incarnation)


def known(name: str = "bank", guid: bytes = b"R" * 16) -> ResourceKnown:
    return ResourceKnown(name=name, guid=guid)
