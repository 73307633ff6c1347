"""What a script may ask of its runner (R2).

All code that waits is written once, as *scripts*: generators that yield steps and receive their
results. `runners/threads.py` runs them blocking, `runners/aio.py` runs them on an event loop; a
simulator runs them in virtual time. An exception of a step is thrown into the script at its yield.

    def prepare(self, session):                       # a script
        reply = yield self.driver.query(session, sql)  # `query` returns a Call
        return Vote(...)

Not for: deciding anything; a step says only how to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from syncpoint.ports import Batcher, Signal

T = TypeVar("T")


class Step:
    """Base of all steps."""

    __slots__ = ()


Script: TypeAlias = Generator[Step, Any, T]


@dataclass(frozen=True, slots=True)
class Call(Step):
    """Driver IO. Under threads `run` blocks and returns the result; under asyncio it returns an awaitable of it.

    `what` is readable text for traces: "PREPARE TRANSACTION". A resource is made with the driver that
    fits its runner, so a script never knows which of the two it is.
    """

    run: Callable[[], Any]
    what: str


@dataclass(frozen=True, slots=True)
class Blocking(Step):
    """A function that blocks (a disk, SQLite). Under asyncio it runs in a worker thread."""

    run: Callable[[], Any]
    what: str


@dataclass(frozen=True, slots=True)
class Local(Step):
    """A function that does not wait (the memory resource). A step so that it is a point where a crash can be tried."""

    run: Callable[[], Any]
    what: str


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A script of a Gather returned."""

    value: T


@dataclass(frozen=True, slots=True)
class Failed:
    """A script of a Gather raised."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Gather(Step):
    """Run scripts side by side; the result is a list of Done or Failed in the same order. None is left behind."""

    scripts: Sequence[Script[Any]]
    what: str


@dataclass(frozen=True, slots=True)
class Sleep(Step):
    seconds: float


@dataclass(frozen=True, slots=True)
class Wait(Step):
    """Wait until the signal is set, at most `seconds` (None: no bound). The result says whether it was set."""

    signal: Signal
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Batch(Step):
    """Hand an item to a batcher and wait for its result (group commit)."""

    batcher: Batcher
    item: Any
    what: str
