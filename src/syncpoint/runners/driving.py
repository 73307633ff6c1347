"""The part both runners share: advance a script by one value or exception, and let tests look on.

`advance` is the only place that resumes a script. Not for: performing steps; that is what the runners
differ in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from syncpoint.runners.points import StepPoint, has_ended, is_running
from syncpoint.steps import Done, Failed, Script, Step

T = TypeVar("T")

Observer: TypeAlias = Callable[[StepPoint, Step], None]
"""Called just before a step is performed. What it raises is thrown into the script; the step is not performed."""

ObserverAfter: TypeAlias = Callable[[StepPoint, Step, Done[Any] | Failed], Done[Any] | Failed | None]
"""Called after a step was performed or failed. None keeps the outcome; Done or Failed replaces it, as does raising."""


def advance(script: Script[T], value: Any, error: BaseException | None) -> Step | Done[T]:
    """Resume a script with a step's value, or throw the step's error into it.

    Returns the next step, or Done with what the script returned. What the script raises passes through.
    """
    try:
        return script.send(value) if error is None else script.throw(error)
    except StopIteration as stop:
        return Done(stop.value)


def must_raise(script: Script[Any]) -> bool:
    """Whether an exception caught while driving belongs to the caller: the script cannot be given it.

    It ended by raising it, or somebody else is driving it. Otherwise it is a step's, or an interrupt that
    hit the driver between two steps, and is thrown into the script.
    """
    return has_ended(script) or is_running(script)


def settle(outcomes: Sequence[Done[Any] | Failed]) -> list[Done[Any] | Failed]:
    """The result of a Gather all of whose scripts have ended.

    Raises the first KeyboardInterrupt or SystemExit among them: it is meant for the program, not for a branch.
    """
    for outcome in outcomes:
        if isinstance(outcome, Failed) and isinstance(outcome.error, KeyboardInterrupt | SystemExit):
            raise outcome.error
    return list(outcomes)


class Watched:
    """Something that performs steps and can be observed. Costs one attribute test while nobody observes."""

    def __init__(self) -> None:
        self._observer: Observer | None = None
        self._observer_after: ObserverAfter | None = None
        self._is_watched = False

    @property
    def observer(self) -> Observer | None:
        return self._observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._observer = observer
        self._is_watched = self._observer is not None or self._observer_after is not None

    @property
    def observer_after(self) -> ObserverAfter | None:
        return self._observer_after

    @observer_after.setter
    def observer_after(self, observer: ObserverAfter | None) -> None:
        self._observer_after = observer
        self._is_watched = self._observer is not None or self._observer_after is not None

    def _observe(self, point: StepPoint, step: Step) -> None:
        if self._observer is not None:
            self._observer(point, step)

    def _observe_after(self, point: StepPoint, step: Step, outcome: Done[Any] | Failed) -> Any:
        """The step's value, or raises its error; either may have been replaced by the observer."""
        if self._observer_after is not None:
            outcome = self._observer_after(point, step, outcome) or outcome
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome.value
