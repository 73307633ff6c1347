"""What the branches' answers add up to, and so what the caller is told (O07..O14).

Not for: when to ask (coordinator.py), or what evidence says of one branch that is missing (recovery.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from syncpoint.ids import BranchNumber
from syncpoint.protocol.words import HEURISTICS, Answer


class Result(Enum):
    """What the caller is told."""

    COMMITTED = auto()
    ABORTED = auto()
    PENDING = auto()
    HEURISTIC_MIXED = auto()
    HEURISTIC_HAZARD = auto()


def judge(answers: Mapping[BranchNumber, Answer], *, commit: bool, pending: bool, recorded: bool) -> Result | None:
    """What the branches' answers add up to (O07..O14); None when all did as decided.

    `pending`: some branch has not answered. `recorded`: the journal holds this transaction's id and result, so
    it has committed too, and a lone branch that rolled back disagrees with it.
    """
    seen = set(answers.values())
    if not seen & HEURISTICS:
        return None
    if Answer.HEURISTIC_MIXED in seen:
        return Result.HEURISTIC_MIXED  # O09
    if Answer.HEURISTIC_HAZARD in seen:
        return Result.HEURISTIC_HAZARD  # O08, O10
    if not commit:
        if Answer.HEURISTIC_COMMIT not in seen:
            return None
        return Result.HEURISTIC_HAZARD if pending else Result.HEURISTIC_MIXED  # O11
    if Answer.HEURISTIC_ROLLBACK not in seen:
        return None  # O14
    if pending:
        return Result.HEURISTIC_HAZARD
    if seen == {Answer.HEURISTIC_ROLLBACK} and not recorded:
        return Result.ABORTED  # O12
    return Result.HEURISTIC_MIXED  # O07
