"""Deliberate bugs in the participant, in the rule of first writer wins, and in what answers add up to.

Not for: the coordinator (committing.py), or recovery (recovering.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from syncpoint.protocol import admission, judgement, participant
from syncpoint.protocol.participant import InDoubtTable, Participant
from syncpoint.protocol.participant import Input as Told
from syncpoint.protocol.participant import State as Side
from syncpoint.protocol.words import Choice
from syncpoint.records import Abort, Commit
from syncpoint.simulation.model.mutants.patch import Mutant, entry, function, instead, method

# --- participant ------------------------------------------------------------------------------------------------


def _vote_without_looking(self: InDoubtTable, identifier: Any, unit: Participant) -> Choice | None:
    if identifier is None:
        return Choice.NO
    unit.take(Told.PREPARE)
    self._units[identifier] = unit
    return None


def _restore_at_work(self: InDoubtTable, identifier: Any) -> Participant:
    unit = self._units[identifier] = Participant(Side.WORKING)
    return unit


PARTICIPANT = [
    Mutant(
        "a prepare is not checked against what is in doubt",
        "A2, A4: an identifier in use votes no",
        method(InDoubtTable, "prepare", instead(_vote_without_looking)),
        True,
    ),
    Mutant(
        "after a restart nothing in doubt is locked",
        "A7: in doubt, the resources stay locked and survive restart",
        method(InDoubtTable, "restore", instead(_restore_at_work)),
        True,
    ),
    Mutant(
        "nobody is asked about what is in doubt",
        "A6: a restarted participant asks",
        method(InDoubtTable, "in_doubt", instead(lambda self: [])),
        True,
    ),
    Mutant(
        "a prepare after the abort is let in",
        "O49: the late prepare is refused",
        entry(participant.NEXT, (Side.ABORTED, Told.PREPARE), Side.PREPARING),
        True,
    ),
    Mutant(
        "an abort undoes what is committed",
        "O11: what was committed alone stays, and is reported",
        entry(participant.NEXT, (Side.COMMITTED, Told.ABORT), Side.ABORTING),
    ),
    Mutant(
        "a read-only branch stays prepared",
        "O03: read-only: nothing is left",
        entry(participant.NEXT, (Side.PREPARING, Told.NOTHING_WRITTEN), Side.IN_DOUBT),
    ),
    Mutant(
        "a vote of no stays prepared",
        "A4: it votes no: nothing is left",
        entry(participant.NEXT, (Side.PREPARING, Told.NO), Side.IN_DOUBT),
    ),
    Mutant(
        "a commit ends aborted",
        "A7: released only by the outcome",
        entry(participant.NEXT, (Side.COMMITTING, Told.COMMIT_DONE), Side.ABORTED),
    ),
    Mutant(
        "an abort ends committed",
        "A7: released only by the outcome",
        entry(participant.NEXT, (Side.ABORTING, Told.ABORT_DONE), Side.COMMITTED),
    ),
    Mutant(
        "a commit that comes twice is our own bug",
        "O48: twice is harmless",
        entry(participant.NEXT, (Side.COMMITTED, Told.COMMIT), None),
        scope="messages twice",
    ),
]


# --- admission --------------------------------------------------------------------------------------------------


def _admit(commit: Callable[[Any, Any], bool], abort: Callable[[Any, Any], bool]) -> Callable[[Any], Any]:
    def admit(record: Any, standing: Any) -> bool:
        if isinstance(record, Commit):
            return commit(record.key, standing)
        return abort(record.key, standing) if isinstance(record, Abort) else True

    return instead(admit)


def _commit_rule(key: Any, standing: Any) -> bool:
    return standing.committed(key.transaction) is None and not standing.is_aborted(key)


def _abort_rule(key: Any, standing: Any) -> bool:
    return bool(standing.committed(key.transaction) != key)


ADMISSION = [
    Mutant(
        "an Abort does not keep the Commit out",
        "Commit(x, n) only if there is no Abort(x, n)",
        function(
            admission,
            "admit",
            _admit(lambda key, standing: standing.committed(key.transaction) is None, _abort_rule),
        ),
        True,
    ),
    Mutant(
        "two attempts may commit",
        "Commit(x, n) only if there is no Commit of x",
        function(admission, "admit", _admit(lambda key, standing: not standing.is_aborted(key), _abort_rule)),
        True,
    ),
    Mutant(
        "an Abort is taken beside the Commit",
        "Abort(x, n) only if there is no Commit(x, n)",
        function(admission, "admit", _admit(_commit_rule, lambda key, standing: True)),
        True,
    ),
    Mutant(
        "the Commit of another attempt keeps the Abort out",
        "Abort(x, n) if there is no Commit(x, n)",
        function(
            admission,
            "admit",
            _admit(_commit_rule, lambda key, standing: standing.committed(key.transaction) is None),
        ),
        True,
        scope="two attempts of one writer, verdict lost",
    ),
]


# --- judgement --------------------------------------------------------------------------------------------------


def _judge(**changed: Any) -> Callable[[Any], Any]:
    return lambda original: lambda answers, **told: original(answers, **{**told, **changed})


def _aborted_alone_is_told_on_commit_only(original: Any) -> Any:
    def judge(answers: Any, **told: Any) -> judgement.Result | None:
        result: judgement.Result | None = original(answers, **told)
        return result if told["commit"] else None

    return judge


JUDGEMENT = [
    Mutant(
        "no answers are judged",
        "O07..O14: what the answers add up to",
        function(judgement, "judge", instead(lambda answers, **told: None)),
        True,
    ),
    Mutant(
        "a heuristic commit on abort is kept from the caller",
        "O11: HEURISTIC_MIXED or HAZARD",
        function(judgement, "judge", _aborted_alone_is_told_on_commit_only),
    ),
    Mutant(
        "a lone rollback is a plain one, though the journal holds its result",
        "O12: only where nothing is recorded",
        function(judgement, "judge", _judge(recorded=False)),
    ),
    Mutant(
        "every outcome is judged as an abort",
        "O07: on commit one had rolled back: HEURISTIC_MIXED",
        function(judgement, "judge", _judge(commit=False)),
    ),
]
