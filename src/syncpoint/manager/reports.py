"""What the manager tells people: frozen values that the commands print and `--json` writes as they stand.

Not for: what transactions return to their callers (errors.py, manager/transaction.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class OutcomeState(StrEnum):
    COMMITTED = "committed"
    """Decided commit; `pending` names resources whose branch has not acknowledged yet."""
    RUNNING = "running"
    """A living process is working on it."""
    ABORTED_OR_UNKNOWN = "aborted-or-unknown"
    """No record: by presumed abort nothing of it happened, or it was never seen, or its retention is over."""
    PENDING = "pending"
    """Its decision is not known yet; recovery will settle it."""
    HEURISTIC = "heuristic"
    """Somebody decided alone; a person must look."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer of `manager.outcome(id)`."""

    transaction: str
    state: OutcomeState
    result: Any = None
    user_id: str | None = None
    pending: tuple[str, ...] = ()
    heuristic: str = ""


@dataclass(frozen=True, slots=True)
class InDoubtBranch:
    """One prepared branch, or one decided branch not yet acknowledged."""

    transaction: str
    attempt: str
    resource: str
    branch: str
    """Its name in the database."""
    status: str
    """"live", "decided-commit", "presumed-abort", "elsewhere", "foreign", "unknown-coordinator", "unreachable"."""
    explanation: str
    """One sentence for people: what will happen to it, and by whom."""
    coordinator: str = ""
    age_ms: int | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class HeuristicEntry:
    """A heuristic outcome, listed until forgotten."""

    transaction: str
    resource: str
    outcome: str
    decided: str
    detail: str
    at_ms: int
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One line of `syncpoint show`."""

    at_ms: int | None
    what: str
    where: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BranchReport:
    """One branch as `show` and `resolve` list it, with what the database itself proves."""

    resource: str
    identifier: str
    state: str
    """"prepared", "not-prepared", "unreachable"."""
    evidence: str
    """"committed", "absent", "undecided", "unknown", "unreachable"."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TransactionReport:
    """The answer of `manager.show(id)`."""

    transaction: str
    state: OutcomeState
    user_id: str | None
    branches: tuple[BranchReport, ...]
    timeline: tuple[TimelineEvent, ...]
    heuristics: tuple[HeuristicEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class ResolvedBranch:
    """What `manager.resolve` did to one branch."""

    resource: str
    identifier: str
    answer: str
    """An `Answer` name, for example COMMITTED, ABORTED, HEURISTIC_ROLLBACK; or UNREACHABLE."""


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What one recovery pass did."""

    committed: int = 0
    aborted: int = 0
    redone: int = 0
    left: tuple[InDoubtBranch, ...] = ()
    """What is still in doubt, each with the reason."""
    foreign: int = 0
    unknown_coordinators: tuple[str, ...] = ()
    unreachable: dict[str, str] = field(default_factory=dict)
    """Resource name to the error."""
    heuristics: tuple[HeuristicEntry, ...] = ()
