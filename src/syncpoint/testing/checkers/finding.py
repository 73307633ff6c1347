"""What a checker answers: `Finding`s, each with its kind, its operations, and one sentence that says why.

Not for: finding them; every other file of this folder does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from syncpoint.testing.checkers.history import Name, Operation

LISTED_MAX = 8
"""So many values of a list are written out in a sentence."""


class Kind(StrEnum):
    """Every kind of finding. `docs/checkers.md` says what each means."""

    # list-append, in one transaction or one list
    INTERNAL = "internal"
    DUPLICATE_VALUE = "duplicate-value"
    PHANTOM_VALUE = "phantom-value"
    INCOMPATIBLE_ORDER = "incompatible-order"
    REORDERED_APPENDS = "reordered-appends"
    PARTIAL_APPENDS = "partial-appends"
    G1A = "G1a"
    G1B = "G1b"
    # list-append, cycles
    G0 = "G0"
    G1C = "G1c"
    G_SINGLE = "G-single"
    G2 = "G2"
    G0_REALTIME = "G0-realtime"
    G1C_REALTIME = "G1c-realtime"
    G_SINGLE_REALTIME = "G-single-realtime"
    G2_REALTIME = "G2-realtime"
    # bank
    WRONG_TOTAL = "wrong-total"
    MISSING_ACCOUNT = "missing-account"
    UNKNOWN_ACCOUNT = "unknown-account"
    NEGATIVE_BALANCE = "negative-balance"
    UNBALANCED_TRANSFER = "unbalanced-transfer"
    UNEXPLAINED_BALANCE = "unexplained-balance"
    # set
    LOST_ELEMENT = "lost-element"
    VANISHED_ELEMENT = "vanished-element"
    PHANTOM_ELEMENT = "phantom-element"
    ABORTED_ELEMENT = "aborted-element"
    FUTURE_ELEMENT = "future-element"
    DUPLICATE_ELEMENT = "duplicate-element"
    # counter
    TOO_LOW = "too-low"
    TOO_HIGH = "too-high"
    IMPOSSIBLE_VALUE = "impossible-value"
    WENT_BACK = "went-back"
    # exactly-once
    DONE_TWICE = "done-twice"
    NOT_DONE = "not-done"
    HALF_DONE = "half-done"
    UNDONE = "undone"
    REFUSED_BUT_DONE = "refused-but-done"
    DONE_UNASKED = "done-unasked"
    REPLY_DIFFERS = "reply-differs"
    OTHER_REQUEST_ACCEPTED = "other-request-accepted"
    # atomicity
    TORN = "torn"
    CHANGED_OUTCOME = "changed-outcome"
    ACKNOWLEDGED_BUT_ABORTED = "acknowledged-but-aborted"
    REFUSED_BUT_COMMITTED = "refused-but-committed"
    BOTH_ANSWERS = "both-answers"
    LEFT_IN_DOUBT = "left-in-doubt"
    LEFT_ACTIVE = "left-active"
    LEFT_LOCKED = "left-locked"
    UNACCOUNTED = "unaccounted"
    COMMITTED_UNASKED = "committed-unasked"
    # authority
    OVERLAP = "overlap"
    TERM_TWICE = "term-twice"
    TERM_WENT_BACK = "term-went-back"
    ACTED_WITHOUT = "acted-without"
    ACTED_OUTSIDE = "acted-outside"
    STALE_ACCEPTED = "stale-accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One step of a cycle: `before` comes before `after` in every serial order, for this reason."""

    before: Operation
    after: Operation
    kind: str
    """`ww`, `wr`, `rw` (what the one did to a list, and the other), or `rt` (real time)."""
    reason: str

    def __str__(self) -> str:
        return f"{self.before} --{self.kind}-> {self.after}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One violation."""

    workload: str
    kind: Kind
    sentence: str
    operations: tuple[Operation, ...]
    """Those the sentence speaks of, in that order."""
    chain: tuple[Edge, ...] = ()
    """A cycle's edges, each beginning where the one before ended; the last ends where the first began."""

    def __str__(self) -> str:
        return "\n".join([f"{self.kind.value}: {self.sentence}", *(f"    {edge}" for edge in self.chain)])

    def document(self) -> dict[str, Any]:
        """The finding as JSON can hold it: operations by their ids."""
        return {
            "workload": self.workload,
            "kind": self.kind.value,
            "sentence": self.sentence,
            "operations": [operation.id for operation in self.operations],
            "chain": [
                {"before": edge.before.id, "after": edge.after.id, "kind": edge.kind, "reason": edge.reason}
                for edge in self.chain
            ],
        }


def listed(values: Sequence[Name]) -> str:
    """A list for a sentence; of a long one the two ends."""
    if len(values) <= LISTED_MAX:
        return f"[{', '.join(map(str, values))}]"
    half = LISTED_MAX // 2
    first, last = values[:half], values[-half:]
    hidden = len(values) - 2 * half
    return f"[{', '.join(map(str, first))}, … {hidden} more …, {', '.join(map(str, last))}]"


def at(place: tuple[str, str]) -> str:
    """A key or an account for a sentence: resource/key."""
    return "/".join(place)
