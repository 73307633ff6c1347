"""What is tried: somebody's own transaction, how it is judged, and at which of its points something happens.

Not for: running it (lives.py, explore.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

from syncpoint.testing.crash.stops import Stop

T = TypeVar("T")


class Mode(StrEnum):
    """What happens at a point."""

    KILL = "kill"
    """SIGKILL right before the step: nothing is cleaned up, no buffer is written."""
    KILL_AFTER = "kill after"
    """SIGKILL right after it, when its reply has arrived; the steps beside it may or may not have been done."""
    LOST_REPLY = "lost reply"
    """The database does what it was asked; its reply never arrives."""
    CANCEL = "cancel"
    """The task is cancelled while the step is under way. Only for an AsyncTransactionManager."""


def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Story:
    """A transaction to try, and what must hold after it."""

    transfer: Callable[[Any], Any]
    """Called with an open manager: `transfer(manager)`; a coroutine function when the manager is asynchronous."""
    check: Callable[[bool | None], object]
    """Looks at the databases from outside, when nothing is in doubt any more; raises if they are not as they must be.
    True: `transfer` had returned. False: it had raised. None: nobody lived to be told, or was told that it is not
    known."""
    manager: Callable[[], Any]
    """Makes a TransactionManager or AsyncTransactionManager, not opened. Called in every process anew."""
    prepare: Callable[[], object] = _nothing
    """Makes everything as it was, before each run: the rows, and a journal of its own."""
    recovery_seconds_max: float = 20.0
    """How long recovery may take until nothing is in doubt."""
    run_seconds_max: float = 60.0
    """How long one run may take, before it counts as hanging."""


@dataclass(frozen=True, order=True)
class Shot:
    """One point at which something happens."""

    mode: Mode
    stop: Stop
    what: str = ""
    """The text of the step."""

    @property
    def key(self) -> str:
        """How a command names it: "kill@resources/sqlite.py:284#1"."""
        return f"{self.mode}@{self.stop.key}"

    def __str__(self) -> str:
        words = {
            Mode.KILL: "killed before",
            Mode.KILL_AFTER: "killed after",
            Mode.LOST_REPLY: "reply lost at",
            Mode.CANCEL: "cancelled at",
        }
        return f"{words[self.mode]} {self.stop}: {self.what or self.stop.kind}"


@dataclass(frozen=True)
class Points:
    """Which points are tried: all, a sample of at most `count`, or those that `keys` name."""

    count: int | None = None
    keys: tuple[str, ...] = ()
    wanted: Callable[[Stop], bool] | None = None

    def where(self, wanted: Callable[[Stop], bool]) -> Points:
        """Those of which `wanted(stop)` is true: of one file, for example. A second condition is added to the first."""
        before = self.wanted
        both = wanted if before is None else lambda stop: before(stop) and wanted(stop)
        return replace(self, wanted=both)

    def sample(self, count: int) -> Points:
        """At most `count` of them, evenly spread over the run; a smaller sample stays. Raises ValueError below 1."""
        if count < 1:
            raise ValueError(f"a sample of {count} points tries nothing")
        return replace(self, count=count if self.count is None else min(count, self.count))

    def only(self, *keys: str) -> Points:
        """Those of which a failure has told the keys: "kill@resources/sqlite.py:284#1"."""
        return replace(self, keys=keys)

    def choose(self, shots: Sequence[Shot]) -> list[Shot]:
        """Those of `shots` that are tried. Raises ValueError when a key names none of them."""
        if self.keys:
            by_key = {shot.key: shot for shot in shots}
            unknown = [key for key in self.keys if key not in by_key]
            if unknown:
                near = "\n".join(f"    {key}" for key in by_key)
                raise ValueError(f"no point of this run is named {', '.join(unknown)}; there are:\n{near}")
            return [by_key[key] for key in self.keys]
        wanted = self.wanted
        return spread([shot for shot in shots if wanted is None or wanted(shot.stop)], self.count)


def spread(items: Sequence[T], count: int | None) -> list[T]:
    """`count` of the items at even distances, the first and the last among them; all of them when None."""
    if count is None or count >= len(items):
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]


every_point = Points()
"""Every point that the run passes."""
