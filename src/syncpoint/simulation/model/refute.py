"""Refutes mutants: explores scopes with the bug patched in until an invariant breaks.

The scope that a mutant names is tried first, then all of them, in rounds, each with a larger part of every scope, as
most bugs show after few states. What is
reported is the shortest way in the scope that showed it, and how many states were explored in that scope until then.
Not for: what the mutants are (mutants/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncpoint.simulation.model.explore import Counterexample, Explorer
from syncpoint.simulation.model.mutants import Mutant
from syncpoint.simulation.model.rules import AnyScope

ROUNDS_STATES_MAX = (300, 4_000, None)


@dataclass(frozen=True)
class Refutation:
    """What became of one mutant."""

    mutant: Mutant
    counterexample: Counterexample | None
    states: int
    """Explored in that scope until it was refuted; in all scopes together when it was not."""

    def line(self) -> str:
        if self.counterexample is None:
            return f"NOT REFUTED  {self.mutant.name} ({self.states} states)"
        shown = self.counterexample
        return f"{self.mutant.name}: {shown.rule}, after {self.states} states of {shown.scope.name!r}"


def refute(mutant: Mutant, scopes: Sequence[AnyScope], rounds: Sequence[int | None] = ROUNDS_STATES_MAX) -> Refutation:
    """Explore the scopes with the bug, until one refutes it."""
    done: set[str] = set()
    states = 0
    with mutant.applied():
        for scope in (one for one in scopes if one.name == mutant.scope):
            result = Explorer(scope).explore()
            if result.counterexample is not None:
                return Refutation(mutant, result.counterexample, result.states)
        for states_max in rounds:
            for scope in scopes:
                if scope.name in done:
                    continue
                result = Explorer(scope, states_max=states_max).explore()
                if result.counterexample is not None:
                    return Refutation(mutant, result.counterexample, result.states)
                if result.is_complete:
                    done.add(scope.name)
                states += result.states
    return Refutation(mutant, None, states)
