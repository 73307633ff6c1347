"""Breadth first from the start of a scope, every state once; so the way to a violation is the shortest there is.

Not for: what can happen (actions.py), or what must hold (invariants.py, healing.py).
"""

from __future__ import annotations

import gc
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from syncpoint.protocol.words import Illegal
from syncpoint.simulation.model.interning import Interning, Mark
from syncpoint.simulation.model.names import Violation
from syncpoint.simulation.model.rules import Action, AnyScope, apply, rules_of

PROGRESS_EVERY_STATES = 20_000


@dataclass(frozen=True)
class Counterexample:
    """The shortest way to a violation."""

    scope: AnyScope
    rule: str
    found: str
    way: tuple[Action, ...]
    """From the start to the last state before the rule was broken, or was not kept in the end."""
    future: tuple[Action, ...] = ()
    """What was played from there, faults having stopped."""


@dataclass
class Exploration:
    """What came of exploring one scope."""

    scope: AnyScope
    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    is_complete: bool = False
    counterexample: Counterexample | None = None
    steps_taken: set[str] = field(default_factory=set)
    """Names of the steps that happened at all."""


class Explorer:
    """Explores one scope."""

    def __init__(self, scope: AnyScope, *, states_max: int | None = None) -> None:
        self.scope = scope
        self._states_max = states_max
        self._interning = Interning()
        self._rules = rules_of(scope)
        self._healing = self._rules.healing(self._interning)
        self._numbers: dict[Mark, int] = {}
        self._parents = array("l")
        self._choices = array("l")

    def explore(self, progress: Callable[[Exploration], None] | None = None) -> Exploration:
        """All states, or up to the first violation. `progress` hears of it now and then."""
        result, began = Exploration(self.scope), time.perf_counter()
        was_collecting = gc.isenabled()
        gc.disable()  # millions of tuples, and no cycles among them
        try:
            self._explore(result, progress or (lambda _: None))
        finally:
            if was_collecting:
                gc.enable()
            result.states, result.seconds = len(self._numbers), time.perf_counter() - began
        return result

    def _explore(self, result: Exploration, progress: Callable[[Exploration], None]) -> None:
        try:
            first = self._rules.beginning(self.scope)
        except (AssertionError, Illegal, KeyError) as error:
            result.counterexample = self._blame(error, -1, None, [])
            return
        mark = self._interning.mark(first)
        self._add(mark, -1, -1)
        queue: deque[tuple[Any, Mark, int]] = deque([(first, mark, 0)])
        while queue:
            world, mark, depth = queue.popleft()
            number = self._numbers[mark]
            result.depth = depth
            if self._is_broken(result, number, world, mark):
                return
            for choice, action in enumerate(self._rules.actions(world)):
                result.transitions += 1
                result.steps_taken.add(action[0])
                try:
                    after = apply(world, action)
                except (AssertionError, Illegal, KeyError) as error:
                    result.counterexample = self._blame(error, number, action, [])
                    return
                reached = self._interning.mark(after, world, mark)
                if reached not in self._numbers:
                    self._add(reached, number, choice)
                    queue.append((after, reached, depth + 1))
                    if len(self._numbers) % PROGRESS_EVERY_STATES == 0:
                        result.states = len(self._numbers)
                        progress(result)
            if self._states_max is not None and len(self._numbers) >= self._states_max:
                return
        result.is_complete = True

    def _add(self, mark: Mark, parent: int, choice: int) -> None:
        self._numbers[mark] = len(self._numbers)
        self._parents.append(parent)
        self._choices.append(choice)

    def _check(self, world: Any, mark: Mark) -> None:
        self._healing.way = []
        self._rules.check(world)
        self._healing.check(world, mark)

    def _is_broken(self, result: Exploration, number: int, world: Any, mark: Mark) -> bool:
        try:
            self._check(world, mark)
        except (AssertionError, Illegal, KeyError) as error:
            result.counterexample = self._blame(error, number, None, self._healing.way)
            return True
        return False

    def _blame(self, error: Exception, number: int, last: Action | None, future: list[Action]) -> Counterexample:
        if isinstance(error, Violation):
            rule, found = error.rule, error.found
        else:
            rule, found = "protocol's own assertion", f"{type(error).__name__}: {error}"
        way = [*self._way(number), *([last] if last else [])]
        return Counterexample(self.scope, rule, found, tuple(way), tuple(future))

    def _way(self, number: int) -> list[Action]:
        """Played again from the start: what is remembered of a state is its parent, and which choice led here."""
        choices = []
        while number > 0:
            choices.append(self._choices[number])
            number = self._parents[number]
        way: list[Action] = []
        world = self._rules.beginning(self.scope)
        for choice in reversed(choices):
            action = self._rules.actions(world)[choice]
            way.append(action)
            world = apply(world, action)
        return way


def explore(scope: AnyScope, progress: Callable[[Exploration], None] | None = None) -> Exploration:
    """Explore one scope completely, or up to the first violation."""
    return Explorer(scope).explore(progress)
