"""One seed's world: virtual time, chance, what happened in which order, and the hash of it.

Everything that happens is a call at a virtual moment; calls at the same moment run in the order in which they were
asked for. Chance comes in named streams, so that what one part draws moves no other part's. Not for: what happens.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from syncpoint.ports import Random


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a timeline. Seconds of virtual time since the seed's beginning."""

    at_s: float
    who: str
    what: str
    to: str = ""
    """Whom a message goes to; empty: nothing is sent."""


class Violation(Exception):
    """Something that must hold does not."""


class Timer:
    """A call to come; `cancel` takes it back."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class World:
    """Time and chance. `keep_events` keeps every event for a timeline, besides hashing it."""

    def __init__(self, seed: int, *, keep_events: bool = False) -> None:
        self.seed = seed
        self.now_s = 0.0
        self.events: list[Event] | None = [] if keep_events else None
        self.violations: list[str] = []
        self.marks: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        """How often each kind of thing happened: faults that took effect, commits."""
        self.is_over = False
        self.current: Any = None
        """The process whose code is running."""
        self._heap: list[tuple[float, int, Timer]] = []
        self._number = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._kept: list[Any] = []

    def __repr__(self) -> str:
        return f"<World seed={self.seed} {self.now_s:.3f} s, {len(self._heap)} calls to come>"

    # --- time ----------------------------------------------------------------------------------------------------

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call it so many seconds from now."""
        timer = Timer(call)
        self._number += 1
        heapq.heappush(self._heap, (self.now_s + max(0.0, seconds), self._number, timer))
        return timer

    def run(self, until_s: float, done: Callable[[], bool] | None = None) -> bool:
        """Go on to that moment, or until `done()`, asked after each call. Returns whether `done` was reached."""
        while self._heap and self._heap[0][0] <= until_s:
            at_s, _, timer = heapq.heappop(self._heap)
            if timer.call is None:
                continue
            self.now_s = at_s
            timer.call()
            if done is not None and done():
                return True
        self.now_s = max(self.now_s, until_s) if done is None else self.now_s
        return done is not None and done()

    # --- chance --------------------------------------------------------------------------------------------------

    def stream(self, name: str) -> random.Random:
        """A stream of chance of its own."""
        return random.Random(f"{self.seed}/{name}")  # not for secrets: it must repeat

    # --- history ---------------------------------------------------------------------------------------------------

    def note(self, who: str, what: str, to: str = "") -> None:
        """Something happened."""
        self._hash.update(f"{self.now_s:.9f} {who} {what} {to}\n".encode())
        if self.events is not None:
            self.events.append(Event(self.now_s, who, what, to))

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def violation(self, what: str) -> None:
        """Something that must hold does not."""
        self.note("checker", f"VIOLATION {what}")
        self.violations.append(what)

    def digest(self) -> str:
        """The hash of all that has happened."""
        return self._hash.hexdigest()

    # --- the end ---------------------------------------------------------------------------------------------------

    def keep(self, what: Any) -> None:
        """Hold on to it until the end: dropping a generator would run its `finally` blocks."""
        self._kept.append(what)

    def end(self) -> None:
        """Nothing happens any more. Scripts that were cut off are closed, and what they do on the way is ignored."""
        self.is_over = True
        self._heap.clear()
        for script in self._kept:
            for _ in range(100):
                try:
                    script.close()
                except BaseException:  # noqa: S112  # it yields in a `finally`, or meets its dead process
                    continue
                break
        self._kept.clear()


class SimRandom(Random):
    """The Random port on a stream."""

    def __init__(self, stream: random.Random) -> None:
        self._stream = stream

    def bytes(self, size_bytes: int) -> bytes:
        return self._stream.randbytes(size_bytes)

    def fraction(self) -> float:
        return self._stream.random()
