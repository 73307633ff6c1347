"""The words that coordinator, participant and recovery share: votes, answers, evidence, decisions.

Not for: behaviour; every rule about these words stands in one of the other files of this folder.
"""

from __future__ import annotations

from enum import Enum, auto


class Choice(Enum):
    """A vote (A3, A4, O03)."""

    YES = auto()
    NO = auto()
    READ_ONLY = auto()


class Answer(Enum):
    """How a branch's end came out, in the words of X/Open."""

    COMMITTED = auto()
    ABORTED = auto()
    NOT_FOUND = auto()
    """No such branch: a question, never an answer; the evidence decides (O19)."""
    RETRY = auto()
    """Busy, unavailable, or held by another connection: try again later (O18)."""
    HEURISTIC_COMMIT = auto()
    HEURISTIC_ROLLBACK = auto()
    HEURISTIC_MIXED = auto()
    HEURISTIC_HAZARD = auto()


class Evidence(Enum):
    """What the database itself proves about a branch."""

    COMMITTED = auto()
    """Its evidence row is visible."""
    ABSENT = auto()
    """No row, and none can appear any more unless the branch is found prepared."""
    UNDECIDED = auto()
    """A row is locked or being written: ask again."""
    UNKNOWN = auto()
    """The database cannot tell (no evidence kept, or another server)."""


class Decision(Enum):
    """What a participant in doubt is told when it asks (O29)."""

    COMMIT = auto()
    ABORT = auto()
    UNKNOWN = auto()
    """Its coordinator lives and has not said: ask again later."""


class Illegal(Exception):
    """Our own bug: an input that the table forbids in this state. Never caught, never expected."""


HEURISTICS = frozenset(
    {Answer.HEURISTIC_COMMIT, Answer.HEURISTIC_ROLLBACK, Answer.HEURISTIC_MIXED, Answer.HEURISTIC_HAZARD}
)
