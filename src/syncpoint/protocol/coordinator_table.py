"""The coordinator's states, what can happen to it, and where that leads: the transition table, total (R3).

Not for: what is sent and forced on the way (coordinator.py).
"""

from __future__ import annotations

from enum import Enum, auto
from itertools import product


class State(Enum):
    """Where the transaction is."""

    ACTIVE = auto()
    PREPARING = auto()
    DECIDING = auto()
    ONE_PHASE = auto()
    RELEASING = auto()
    COMMITTING = auto()
    ABORTING = auto()
    COMMITTED = auto()
    ABORTED = auto()
    UNSETTLED = auto()
    """A one-phase commit whose reply was lost and which nothing could settle yet."""
    PROMISING = auto()
    """A subordinate's: all branches voted yes, and its Prepared record is being forced."""
    IN_DOUBT = auto()
    """A subordinate's: it has voted yes, and only its superior knows the outcome."""


class Input(Enum):
    """What can happen to it, after the parent has counted votes and answers."""

    COMMIT = auto()
    COMMIT_ONE = auto()
    COMMIT_NONE = auto()
    ABORT = auto()
    VOTE = auto()
    LAST_VOTE_COMMIT = auto()
    LAST_VOTE_NOTHING = auto()
    LAST_VOTE_ABORT = auto()
    ACCEPTED = auto()
    REFUSED = auto()
    FORCE_LOST = auto()
    ANSWER = auto()
    LAST_ANSWER = auto()
    ONE_COMMITTED = auto()
    ONE_ABORTED = auto()
    ONE_LOST = auto()
    LAST_VOTE_PROMISE = auto()
    PROMISED = auto()
    NOT_PROMISED = auto()
    TOLD_COMMIT = auto()
    TOLD_ABORT = auto()
    COMMIT_LOST = auto()


S, I = State, Input  # noqa: E741  # the table reads like one

_LEGAL: dict[tuple[State, Input], State] = {
    (S.ACTIVE, I.COMMIT): S.PREPARING,
    (S.ACTIVE, I.COMMIT_ONE): S.ONE_PHASE,
    (S.ACTIVE, I.COMMIT_NONE): S.RELEASING,
    (S.ACTIVE, I.ABORT): S.ABORTING,
    (S.PREPARING, I.VOTE): S.PREPARING,
    (S.PREPARING, I.LAST_VOTE_COMMIT): S.DECIDING,
    (S.PREPARING, I.LAST_VOTE_NOTHING): S.RELEASING,
    (S.PREPARING, I.LAST_VOTE_ABORT): S.ABORTING,
    (S.DECIDING, I.ACCEPTED): S.COMMITTING,
    (S.DECIDING, I.REFUSED): S.ABORTING,
    (S.DECIDING, I.FORCE_LOST): S.DECIDING,
    (S.COMMITTING, I.ANSWER): S.COMMITTING,
    (S.COMMITTING, I.LAST_ANSWER): S.COMMITTED,
    (S.RELEASING, I.ANSWER): S.RELEASING,
    (S.RELEASING, I.LAST_ANSWER): S.COMMITTED,
    (S.ABORTING, I.ANSWER): S.ABORTING,
    (S.ABORTING, I.LAST_ANSWER): S.ABORTED,
    (S.ONE_PHASE, I.ONE_COMMITTED): S.COMMITTED,
    (S.ONE_PHASE, I.ONE_ABORTED): S.ABORTED,
    (S.ONE_PHASE, I.ONE_LOST): S.UNSETTLED,
    (S.UNSETTLED, I.ONE_COMMITTED): S.COMMITTED,
    (S.UNSETTLED, I.ONE_ABORTED): S.ABORTED,
    (S.UNSETTLED, I.ONE_LOST): S.UNSETTLED,
    # A subordinate's (subordinate.py): nobody else gets these inputs.
    (S.PREPARING, I.LAST_VOTE_PROMISE): S.PROMISING,
    (S.PROMISING, I.PROMISED): S.IN_DOUBT,
    (S.PROMISING, I.NOT_PROMISED): S.ABORTING,
    (S.IN_DOUBT, I.TOLD_COMMIT): S.DECIDING,
    (S.IN_DOUBT, I.TOLD_ABORT): S.ABORTING,
    (S.DECIDING, I.COMMIT_LOST): S.IN_DOUBT,
}

NEXT: dict[tuple[State, Input], State | None] = {pair: _LEGAL.get(pair) for pair in product(State, Input)}
"""Total (R3): every (state, input) is a next state, or None for ILLEGAL."""
