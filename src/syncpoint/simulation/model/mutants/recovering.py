"""Deliberate bugs in the rules of recovery.

Not for: the coordinator (committing.py), or participants and journals (answering.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from syncpoint.protocol import recovery
from syncpoint.protocol.recovery import Fate, Missing, Settled
from syncpoint.protocol.words import Answer, Evidence
from syncpoint.simulation.model.mutants.patch import Mutant, function, instead


def _fate(**changed: Any) -> Callable[[Any], Any]:
    """The rule with some of the facts seen wrongly."""

    def mutate(original: Any) -> Any:
        def fate_of(identifier: Any, facts: Any) -> Fate:
            seen = {name: change(facts) for name, change in changed.items()}
            fate: Fate = original(identifier, recovery.Facts(**{**_fields(facts), **seen}))
            return fate

        return fate_of

    return mutate


def _fields(facts: Any) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in recovery.Facts.__dataclass_fields__}


def _instead_of(before: Fate, after: Fate) -> Callable[[Any], Any]:
    def mutate(original: Any) -> Any:
        def fate_of(identifier: Any, facts: Any) -> Fate:
            fate: Fate = original(identifier, facts)
            return after if fate is before else fate

        return fate_of

    return mutate


def _record_speaks_for_all(original: Any) -> Any:
    def fate_of(identifier: Any, facts: Any) -> Fate:
        fate: Fate = original(identifier, facts)
        if fate is Fate.ABORT and any(key.transaction == identifier.transaction for key in facts.decisions):
            return Fate.COMMIT
        return fate

    return fate_of


def _missing(**forced: Any) -> Callable[[Any], Any]:
    """The judgement with some of what it is told replaced."""
    return lambda original: lambda **told: original(**{**told, **forced})


def _absent_is_committed(original: Any) -> Any:
    def judge_missing(**told: Any) -> Answer | Missing:
        judged: Answer | Missing = original(**told)
        return Answer.COMMITTED if told["commit"] and judged is Answer.HEURISTIC_ROLLBACK else judged

    return judge_missing


def _committed_alone_is_aborted(original: Any) -> Any:
    def judge_missing(**told: Any) -> Answer | Missing:
        judged: Answer | Missing = original(**told)
        return Answer.ABORTED if judged is Answer.HEURISTIC_COMMIT else judged

    return judge_missing


def _absent_is_aborted(original: Any) -> Any:
    def judge_settled(evidence: Evidence, *, confirmed: bool) -> Answer:
        answer: Answer = original(evidence, confirmed=True)
        return answer

    return judge_settled


def _refused_abort_is_aborted(*, accepted: bool, confirmed: bool) -> Settled:
    return Settled.ABORTED if confirmed or not accepted else Settled.TAKEN_OVER


def _unconfirmed_abort(*, accepted: bool, confirmed: bool) -> Settled:
    return Settled.ABORTED if accepted else Settled.COMMITTED


def _inclusive(original: Any) -> Any:
    def evidence_can_go(attempt: Any, *, own: Any, oldest_unfinished: Any, ended: Any) -> bool:
        if attempt.incarnation == own:
            return bool(attempt <= oldest_unfinished)
        return attempt.incarnation in ended

    return evidence_can_go


def _others_at_once(original: Any) -> Any:
    def evidence_can_go(attempt: Any, *, own: Any, oldest_unfinished: Any, ended: Any) -> bool:
        return bool(attempt.incarnation != own or attempt < oldest_unfinished)

    return evidence_can_go


RECOVERY = [
    Mutant(
        "commit is presumed",
        "presumed abort: no record means abort",
        function(recovery, "fate_of", _instead_of(Fate.ABORT, Fate.COMMIT)),
        True,
    ),
    Mutant(
        "a decided branch is aborted",
        "a Commit record says commit",
        function(recovery, "fate_of", _instead_of(Fate.COMMIT, Fate.ABORT)),
        True,
    ),
    Mutant(
        "the living are not left alone",
        "O34: whatever is live is skipped",
        function(recovery, "fate_of", _fate(live_incarnations=lambda facts: frozenset())),
        True,
    ),
    Mutant(
        "what this process works on is not left alone",
        "O36: a pass during live traffic touches no live transaction",
        function(recovery, "fate_of", _fate(live_keys=lambda facts: frozenset())),
        True,
    ),
    Mutant(
        "a Commit record speaks for all attempts",
        "O58: a Commit record speaks only for the identifiers it lists",
        function(recovery, "fate_of", _record_speaks_for_all),
        True,
        scope="two attempts",
    ),
    Mutant(
        "what is presumed aborted is left alone",
        "O32: rolled back",
        function(recovery, "fate_of", _instead_of(Fate.ABORT, Fate.LIVE)),
    ),
    Mutant(
        "not found is read as committed",
        "O19: the evidence decides, never a guess",
        function(recovery, "judge_missing", _absent_is_committed),
        True,
    ),
    Mutant(
        "committed alone is not noticed on abort",
        "O11: HEURISTIC_MIXED or HAZARD",
        function(recovery, "judge_missing", _committed_alone_is_aborted),
        True,
    ),
    Mutant(
        "absence is believed by one who was taken for dead",
        "absence proves something only to the process that keeps the records",
        function(recovery, "judge_missing", _missing(confirmed=True)),
        True,
        scope="taken for dead",
    ),
    Mutant(
        "nobody is asked who keeps the records",
        "judgements that rest on absence are confirmed after the evidence was read",
        function(recovery, "rests_on_absence", instead(lambda **told: False)),
        scope="taken for dead",
    ),
    Mutant(
        "a lost one-phase commit is judged by one who was taken for dead",
        "O20: absent means aborted only if confirmed",
        function(recovery, "judge_settled", _absent_is_aborted),
        scope="one phase, taken for dead",
    ),
    Mutant(
        "an Abort accepted proves abort to one who was taken for dead",
        "O46: whoever took over may have finished the Commit and removed its record",
        function(recovery, "judge_abort", instead(_unconfirmed_abort)),
        scope="taken for dead, verdict lost",
    ),
    Mutant(
        "an Abort refused proves abort",
        "O46: refused, the Commit is there",
        function(recovery, "judge_abort", instead(_refused_abort_is_aborted)),
        True,
    ),
    Mutant(
        "evidence of the oldest unfinished attempt is removed",
        "evidence outlives its commit record",
        function(recovery, "evidence_can_go", _inclusive),
        scope="folder, power cuts",
    ),
    Mutant(
        "evidence of others is removed before they have ended",
        "evidence outlives its commit record",
        function(recovery, "evidence_can_go", _others_at_once),
        True,
        scope="folder, power cuts",
    ),
    Mutant(
        "evidence is never removed",
        "evidence is deleted after its commit record",
        function(recovery, "evidence_can_go", instead(lambda *given, **told: False)),
    ),
]
