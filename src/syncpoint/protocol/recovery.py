"""The rules of recovery: whose branch is it, what becomes of it, and what a missing branch means.

Facts must be gathered in this order: scan the prepared branches, then read who is live, then the records
(DESIGN section 3). So a branch in the scan whose transaction has ended in between is merely gone.

    no identifier of ours ........................ FOREIGN              untouched (O33)
    a coordinator nobody here answers for ........ UNKNOWN_COORDINATOR  reported; `adopt` takes it over
    its process lives, or works on it here ....... LIVE                 left alone (O34, O36)
    another living process has its record ........ ELSEWHERE            left alone
    an operator has forced it .................... as forced
    a Commit record lists this identifier ........ COMMIT               (O27)
    a Prepared record promised it to a superior .. PROMISED             left in doubt: the superior's (A7, B10)
    otherwise .................................... ABORT                presumed (O26, O32), orphans too (O58)

What is absent proves something only to the process that keeps the records: one that was taken for dead, rightly or
not, is told by the journal (`Journal.confirm`), and draws no conclusion.

Not for: scanning, finishing, retrying (manager/recovery.py).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Set
from dataclasses import dataclass, field
from enum import Enum, auto

from syncpoint.ids import Attempt, Guid, Identifier, Incarnation, Key
from syncpoint.protocol.words import Answer, Evidence


class Fate(Enum):
    """What recovery does with a prepared branch that a scan found."""

    FOREIGN = auto()
    UNKNOWN_COORDINATOR = auto()
    LIVE = auto()
    ELSEWHERE = auto()
    COMMIT = auto()
    PROMISED = auto()
    ABORT = auto()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known, read after the scan."""

    coordinators: Container[Guid]
    live_incarnations: Container[Incarnation]
    live_keys: Set[Key]
    """Transactions this very process works on."""
    elsewhere: Container[Key]
    decisions: Mapping[Key, Container[Identifier]]
    """Commit records to finish here: key to the identifiers they list. A record speaks only for those."""
    forced: Mapping[Identifier, bool] = field(default_factory=dict)
    """What an operator forced: identifier to commit or not."""
    promised: Container[Key] = ()
    """Transactions that voted yes under a superior, whose word they have not got yet."""


def fate_of(identifier: Identifier | None, facts: Facts) -> Fate:
    """What becomes of a prepared branch. The table above, in order."""
    if identifier is None:
        return Fate.FOREIGN
    if identifier.coordinator not in facts.coordinators:
        return Fate.UNKNOWN_COORDINATOR
    if identifier.attempt.incarnation in facts.live_incarnations or identifier.key in facts.live_keys:
        return Fate.LIVE
    if identifier.key in facts.elsewhere:
        return Fate.ELSEWHERE
    if identifier in facts.forced:
        return Fate.COMMIT if facts.forced[identifier] else Fate.ABORT
    listed = facts.decisions.get(identifier.key)
    if listed is not None:
        return Fate.COMMIT if identifier in listed else Fate.ABORT
    return Fate.PROMISED if identifier.key in facts.promised else Fate.ABORT


class Missing(Enum):
    """What to do about a branch that is decided but not found."""

    REDO = auto()
    TAKEN_OVER = auto()
    """Nothing: another process took this one for dead, and its evidence may be cleaned up already."""


def rests_on_absence(*, commit: bool, evidence: Evidence) -> bool:
    """Whether the judgement would rest on evidence not being there. Then it must be asked, *after* the evidence was
    read, whether nobody has taken over until now: whoever does finishes the branch, and then cleans up."""
    return commit and evidence in (Evidence.ABSENT, Evidence.UNKNOWN)


def judge_missing(*, commit: bool, evidence: Evidence, has_redo: bool, confirmed: bool) -> Answer | Missing:
    """ "Not found" is a question; evidence answers it (O19, DESIGN section 3).

    Committed: done. No evidence: it is not committed here, so redo it if its state information can, else somebody
    rolled it back. Cannot be told: redo is safe only where it checks the evidence itself, else HAZARD (O10). Absence
    proves that only if `confirmed`: the process that keeps the record was not taken for dead, nor has another, wrongly
    taken for dead, ended it meanwhile.
    """
    if evidence is Evidence.UNDECIDED:
        return Answer.RETRY
    if not commit:
        return Answer.HEURISTIC_COMMIT if evidence is Evidence.COMMITTED else Answer.ABORTED  # O11
    if evidence is Evidence.COMMITTED:
        return Answer.COMMITTED
    if not confirmed:
        return Missing.TAKEN_OVER
    if has_redo:
        return Missing.REDO
    return Answer.HEURISTIC_ROLLBACK if evidence is Evidence.ABSENT else Answer.HEURISTIC_HAZARD


def judge_settled(evidence: Evidence, *, confirmed: bool) -> Answer:
    """How a one-phase commit whose reply was lost came out, after its evidence's key was written by us (O20).

    ABSENT means aborted only if `confirmed`; else whoever took over may have cleaned the evidence of a commit up."""
    if evidence is Evidence.ABSENT and confirmed:
        return Answer.ABORTED
    return {
        Evidence.COMMITTED: Answer.COMMITTED,
        Evidence.UNDECIDED: Answer.RETRY,
        Evidence.ABSENT: Answer.HEURISTIC_HAZARD,
        Evidence.UNKNOWN: Answer.HEURISTIC_HAZARD,
    }[evidence]


class Settled(Enum):
    """What an Abort proves that was written because the reply to a Commit record was lost (O46)."""

    COMMITTED = auto()
    ABORTED = auto()
    TAKEN_OVER = auto()
    """Nothing: whoever took over may have finished the Commit, and removed its record."""


def judge_abort(*, accepted: bool, confirmed: bool) -> Settled:
    """Refused: the Commit is there. Accepted: it is not, and never was if nobody else keeps this process's records."""
    if not accepted:
        return Settled.COMMITTED
    return Settled.ABORTED if confirmed else Settled.TAKEN_OVER


def evidence_can_go(
    attempt: Attempt, *, own: Incarnation, oldest_unfinished: Attempt, ended: Container[Incarnation]
) -> bool:
    """Evidence outlives its commit record and goes only after it (DESIGN section 3).

    `oldest_unfinished` is the oldest attempt of this incarnation that is live or whose record has not ended;
    `ended` holds other incarnations, proven dead or fenced, with nothing unfinished anywhere.
    """
    if attempt.incarnation == own:
        return attempt < oldest_unfinished
    return attempt.incarnation in ended
