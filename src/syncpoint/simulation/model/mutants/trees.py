"""Deliberate bugs in a tree: in the subordinate, and in what recovery does with a promise.

Not for: one manager alone.
"""

from __future__ import annotations

from typing import Any

from syncpoint.protocol import recovery, subordinate
from syncpoint.protocol.coordinator import Coordinator, Decided, Effects
from syncpoint.protocol.coordinator_table import Input, State
from syncpoint.protocol.recovery import Fate
from syncpoint.protocol.subordinate import Subordinate
from syncpoint.protocol.words import Decision
from syncpoint.simulation.model.mutants.patch import Mutant, function, instead, method

SCOPE = "a tree, the subordinate dies"


def _promise_lazily(original: Any) -> Any:
    def all_yes(self: Subordinate, yes: Any, decided: Decided) -> Effects:
        effects: Effects = original(self, yes, decided)
        self.accepted()
        return Effects(lazily=effects.force)

    return all_yes


def _promised_is_presumed(original: Any) -> Any:
    def fate_of(*arguments: Any) -> Fate:
        fate: Fate = original(*arguments)
        return Fate.ABORT if fate is Fate.PROMISED else fate

    return fate_of


def _abort_after_a_lost_commit(original: Any) -> Any:
    def refused(self: Subordinate, why: str) -> Effects:
        if self.state is not State.PROMISING:
            self._move(Input.TOLD_ABORT if self.state is State.IN_DOUBT else Input.REFUSED)
            self.why = why
            return self._tell(self._to_abort())
        effects: Effects = original(self, why)
        return effects

    return refused


def _commit_unrecorded(original: Any) -> Any:
    def told(self: Subordinate, *, commit: bool) -> Effects:
        effects: Effects = original(self, commit=commit)
        return self.accepted() if commit else effects

    return told


def _lone_writer_decides(self: Subordinate, writers: Any, decided: Decided) -> Effects:
    return Coordinator.commit(self, writers, decided)


def _never_promised(self: Subordinate) -> Any:
    return None


def _unknown_is_done(original: Any) -> Any:
    return lambda *, committed, held_elsewhere, commit: Decision.UNKNOWN if not committed else Decision.COMMIT


TREES = [
    Mutant(
        "a subordinate votes before its Prepared record is forced",
        "S-I1: it votes yes only after its Prepared record was accepted",
        method(Subordinate, "_all_yes", _promise_lazily),
        True,
        scope=SCOPE,
    ),
    Mutant(
        "a subordinate's recovery rolls back what was promised",
        "S-I2: between its yes and the superior's word it neither commits nor aborts",
        function(recovery, "fate_of", _promised_is_presumed),
        True,
        scope=SCOPE,
    ),
    Mutant(
        "a subordinate aborts when its Commit record was not taken",
        "S-I4: a Commit whose force is not certain leaves it in doubt",
        method(Subordinate, "refused", _abort_after_a_lost_commit),
        True,
        scope="a tree, records not taken",
    ),
    Mutant(
        "a subordinate commits without a record of its own",
        "S-I3: its own Commit record is forced before any branch is told",
        method(Subordinate, "told", _commit_unrecorded),
        True,
        scope=SCOPE,
    ),
    Mutant(
        "a subordinate with one writer decides alone",
        "S-I1: a lone writer promises too",
        method(Subordinate, "prepare", instead(_lone_writer_decides)),
        True,
        scope=SCOPE,
    ),
    Mutant(
        "a subordinate gives up in doubt when its time is over",
        "S-I2: a deadline has no effect any more after the vote",
        method(Subordinate, "vote", instead(property(_never_promised))),
        True,
        scope=SCOPE,
    ),
    Mutant(
        "a subordinate that knows nothing of a branch never answers",
        "what was committed and has ended is acknowledged as told",
        function(subordinate, "judge_unknown", _unknown_is_done),
        scope=SCOPE,
    ),
]
