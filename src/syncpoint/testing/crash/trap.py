"""What looks on while something runs: records every point it passes, kills at one of them, meddles at others.

Runs inside the process that is to die (child.py forks it). Shared by every kind of fault that is tried at
points. Not for: choosing faults, or what is run.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from syncpoint.runners.points import StepPoint
from syncpoint.steps import Batch, Blocking, Call, Done, Failed, Gather, Local, Sleep, Step
from syncpoint.testing.crash.points import PACKAGE

Place = tuple[str, int]
"""(file relative to the package, line)."""

_PREFIX = f"{PACKAGE}{os.sep}"


def places_of(point: StepPoint) -> list[Place]:
    """Every place in the package on the way to a step, outermost first."""
    chain = (*point.callers, (point.file, point.line))
    return [(file.removeprefix(_PREFIX), line) for file, line in chain if file.startswith(_PREFIX)]


def is_background(places: list[Place]) -> bool:
    """Whether it is a step of the journal's own (signs of life, what is written later): on nobody's way."""
    return bool(places) and places[0][0].startswith("journal/")


def what_of(step: Step) -> str:
    """The readable text of a step; a Sleep is called "sleep"."""
    if isinstance(step, Call | Blocking | Local | Gather | Batch):
        return step.what
    return "sleep" if isinstance(step, Sleep) else ""


def told_without(what: str, decider: str) -> str:
    """ "COMMIT bank, COMMIT ledger" as it reads when one resource's branch is the decision."""
    return ", ".join(one for one in what.split(", ") if one.split(" ")[1:] != [decider])


@dataclass(frozen=True)
class Target:
    """Where to die: right before the `nth` step on whose way `place` lies, or whose text is `what`; or, when neither is
    given, at any step but the journal's in the background. With `after`, right after that step, its reply received.
    Steps whose text is in `hold` are kept from starting until then."""

    place: Place | None = None
    what: str = ""
    nth: int = 1
    after: bool = False
    hold: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.place[0]}:{self.place[1]}" if self.place else self.what or "step"
        return f"{'after' if self.after else 'before'} {where}, time {self.nth}"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Target:
        place = data["place"]
        return cls(
            place=(place[0], place[1]) if place else None,
            what=data["what"],
            nth=data["nth"],
            after=data["after"],
            hold=tuple(data["hold"]),
        )

    def matches(self, places: list[Place], step: Step) -> bool:
        if self.place is not None:
            return self.place in places
        return what_of(step) == self.what if self.what else not is_background(places)

    def without(self, decider: str) -> Target:
        """The same when one resource's branch is the decision: it is not told with the others."""
        return replace(self, what=told_without(self.what, decider))


def die() -> None:
    """SIGKILL to this very process: nothing is cleaned up, no buffer is written."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # another thread may run a moment longer; this one does nothing more


Meddler = Callable[[], Any]
Replacer = Callable[[Done[Any] | Failed], Done[Any] | Failed | None]


class Trap:
    """A runner's observers. One trap may watch several runners."""

    def __init__(self, target: Target | None = None) -> None:
        self.places: dict[Place, None] = {}
        """Every place passed, in order."""
        self.steps = 0
        self.trace: list[str] = []
        self._target = target
        self._matched = 0
        self._mutex = threading.Lock()
        self._before: dict[str, list[Meddler]] = {}
        self._after: dict[str, list[Replacer]] = {}

    def watch(self, runner: Any) -> None:
        """Look on at a runner from now on."""
        runner.observer = self._observe
        runner.observer_after = self._observe_after

    def before(self, what: str, *meddlers: Meddler) -> None:
        """Call each of `meddlers` before the next steps with this text, one a step. What it raises is the step's."""
        self._before.setdefault(what, []).extend(meddlers)

    def no_more_before(self, what: str) -> None:
        """Take back what has not been called yet."""
        with self._mutex:
            self._before.pop(what, None)

    def after(self, what: str, *replacers: Replacer) -> None:
        """Let each replace the outcome of the next steps with this text, one a step."""
        self._after.setdefault(what, []).extend(replacers)

    def _observe(self, point: StepPoint, step: Step) -> None:
        places = places_of(point)
        with self._mutex:
            if not is_background(places):
                self.steps += 1
                self.trace.append(what_of(step) or type(step).__name__)
            self.places.update(dict.fromkeys(places))
            target = self._target
            if target is not None and not target.after and target.matches(places, step):
                self._count(target)
            meddlers = self._before.get(what_of(step))
            meddler = meddlers.pop(0) if meddlers else None
        if target is not None and what_of(step) in target.hold:
            threading.Event().wait()  # until this process dies
        if meddler is not None:
            meddler()

    def _observe_after(self, point: StepPoint, step: Step, outcome: Done[Any] | Failed) -> Done[Any] | Failed | None:
        with self._mutex:
            target = self._target
            if target is not None and target.after and target.matches(places_of(point), step):
                self._count(target)
            replacers = self._after.get(what_of(step))
            replacer = replacers.pop(0) if replacers else None
        return replacer(outcome) if replacer is not None else None

    def _count(self, target: Target) -> None:
        self._matched += 1
        if self._matched == target.nth:
            die()
