"""The points of one run, counted: the n-th time that a yield was reached; and an observer that strikes at one.

A stop is found again in the next run by its place and its count, so one run's list is the next ones' plan.
Not for: what a strike does (it is a function), or which stops are worth one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from syncpoint.runners.points import StepPoint
from syncpoint.steps import Batch, Blocking, Call, Done, Failed, Gather, Local, Step
from syncpoint.testing.crash.points import Kind, enumerate_points
from syncpoint.testing.crash.trap import Place, Trap, is_background, places_of

KINDS = (Call, Blocking, Local, Gather, Batch)
"""The steps that do something; waiting alone is no stop."""

Outcome = Done[Any] | Failed

_SCHEMES = {"postgres": "postgresql", "mariadb": "mariadb", "sqlite": "sqlite", "memory": "memory"}
_STORES = {"journal/postgres_store.py": "postgresql", "journal/mariadb_store.py": "mariadb"}
_PACKETS = {(point.file, point.line): point.function for point in enumerate_points() if point.kind is Kind.PACKET}


@dataclass(frozen=True, order=True)
class Stop:
    """One step of a run: the n-th time that this yield was reached."""

    file: str
    """Relative to the package; absolute for an adapter that stands elsewhere."""
    line: int
    nth: int
    kind: str
    """The step's class."""
    function: str
    """The last part of its name."""
    server: str = ""
    """For a packet of the journal's: the URL scheme of the server it goes to."""
    in_background: bool = False
    """Not on the transaction's way."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}, time {self.nth}"

    @property
    def key(self) -> str:
        """How a command names it: "resources/sqlite.py:284#1"."""
        return f"{self.file}:{self.line}#{self.nth}"

    @property
    def place(self) -> Place:
        return self.file, self.line

    @property
    def scheme(self) -> str:
        """The URL scheme of the database whose step it is; empty for the manager's and a folder journal's."""
        if self.server:
            return self.server
        folder, _, name = self.file.partition("/")
        return next(
            (scheme for start, scheme in _SCHEMES.items() if folder == "resources" and name.startswith(start)), ""
        )


Strike = Callable[[Stop, Step | None], None]
"""Called right before the step, in whatever thread performs it. What it raises is the step's error."""
Lift = Callable[[Stop, Outcome], Outcome | None]
"""Called right after it; may replace the outcome."""


class Striker(Trap):
    """Records every stop of a run, and strikes at one of them."""

    stop_class: ClassVar[type[Stop]] = Stop

    def __init__(
        self,
        target: Stop | None = None,
        strike: Strike | None = None,
        lift: Lift | None = None,
        *,
        again: bool = False,
    ) -> None:
        """With `again` it strikes at every later step too."""
        super().__init__()
        self.stops: dict[Stop, str] = {}
        """In order of their first time, each with the text of its step."""
        self.has_struck = False
        self.over = False
        """What follows is no part of the run."""
        self._at = target
        self._strike = strike
        self._lift = lift
        self._again = again
        self._step: Step | None = None
        self._times: Counter[tuple[Place, bool]] = Counter()
        self._guard = threading.Lock()

    def _observe(self, point: StepPoint, step: Step) -> None:
        super()._observe(point, step)
        places = self.places_of(point)
        if not places or not isinstance(step, KINDS):
            return
        place, function, server = _named(places, point.function)
        apart = is_background(places)  # counted by itself: it may come at any time
        with self._guard:
            self._times[place, apart] += 1
            nth, last = self._times[place, apart], function.rpartition(".")[2]
            stop = self.stop_class(*place, nth, type(step).__name__, last, server, apart)
        self.visit(stop, step)

    def places_of(self, point: StepPoint) -> list[Place]:
        """Every place in the package on the way to a step, outermost first."""
        return places_of(point)

    def visit(self, stop: Stop, step: Step | None = None) -> None:
        """One step is about to be done. Called for statements of the user's too, which are no `Step`."""
        if self.over:
            return
        self.stops[stop] = step.what if isinstance(step, KINDS) else ""
        if stop == self._at or (self._again and self.has_struck):
            self.has_struck = True
            self._step = step
            if self._strike is not None:
                self._strike(stop, step)

    def _observe_after(self, point: StepPoint, step: Step, outcome: Outcome) -> Outcome | None:
        if self._step is not None and step is self._step and self._at is not None:
            self._step = None
            if self._lift is not None:
                outcome = self._lift(self._at, outcome) or outcome
        return super()._observe_after(point, step, outcome) or outcome


def _named(places: list[Place], function: str) -> tuple[Place, str, str]:
    """(place, function, server) of a step. A packet of the journal's is called after who has it sent."""
    server = _STORES.get(places[-1][0], "")
    if server:
        for place in reversed(places):
            if place in _PACKETS:
                return place, _PACKETS[place], server
    return places[-1], function, ""
