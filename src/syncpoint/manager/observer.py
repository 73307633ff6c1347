"""What a manager tells whoever watches it: the Observer port, and the events it is handed.

    class Slow:
        def observe(self, event):
            if isinstance(event, PhaseEnded) and event.seconds > 1:
                print(event)

    syncpoint.TransactionManager(..., observers=[Slow()])

An observer is called where the thing happens: in the thread or task that runs it, often in the middle of a commit. So
it must be quick, must not wait, and must stand being called from several threads at once. What it raises is logged once
and swallowed: it can break no transaction. New kinds of events are added with new versions: ignore those you do not
know. Times are seconds by the manager's clock. Not for: deciding when to tell (watch.py), or for the metrics and spans
that are made of it (integrations/prometheus.py, integrations/opentelemetry.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from syncpoint.ids import Identifier, Incarnation, Key


class Event:
    """Base of all events."""

    __slots__ = ()


class Observer(Protocol):
    """Whoever watches a manager."""

    def observe(self, event: Event, /) -> None:
        """Take one event. Must not wait; an exception is logged once for each observer, and swallowed."""
        ...


class Phase(StrEnum):
    """A stretch of a transaction's life."""

    WORK = "work"
    """The user's block, from begin to its end."""
    PREPARE = "prepare"
    """All votes, side by side."""
    DECIDE = "decide"
    """Making the Commit record durable."""
    COMMIT = "commit"
    """Phase two: all commits, side by side."""
    ONE_PHASE = "one_phase"
    """The commit of a lone writer, which needs neither vote nor record."""
    RELEASE = "release"
    """Ending branches that wrote nothing."""
    ABORT = "abort"
    """Rolling back."""


class EndedAs(StrEnum):
    """How a transaction ended, as its caller was told."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    OUTCOME_PENDING = "outcome_pending"
    """Whether it is committed is not known yet; recovery finds out."""
    HEURISTIC_MIXED = "heuristic_mixed"
    HEURISTIC_HAZARD = "heuristic_hazard"


class ResendAnswer(StrEnum):
    """What the resend of a transaction's id was answered with instead of being run."""

    COMMITTED = "committed"
    RUNNING = "running"
    DIFFERENT_REQUEST = "different_request"


# --- one transaction ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionBegun(Event):
    """A transaction has begun."""

    key: Key
    user_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resent(Event):
    """A transaction was not begun: its id is known already (C7, O50, O51)."""

    user_id: str
    answer: ResendAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEntered(Event):
    """The user's block begins. Told in the user's own thread or task, where a context variable that is set stays."""

    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLeft(Event):
    """The user's block is over, its end is not. Told in the user's own thread or task."""

    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseBegan(Event):
    """A phase begins. Not told of `work`, which begins with the transaction."""

    key: Key
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnded(Event):
    """A phase is over. A phase can come twice: `decide` does when the journal's reply was lost."""

    key: Key
    phase: Phase
    seconds: float
    error: str = ""
    """The class of what was raised in it; empty when it ended as it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchTold(Event):
    """One branch was told something, and has answered or not."""

    key: Key
    resource: str
    system: str
    """What kind of database it is: the scheme of its URL."""
    step: Phase
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionEnded(Event):
    """A transaction is over for its caller; what is `pending` is recovery's. With `wait="decided"` it is told when
    phase two is over, after the caller had his answer."""

    key: Key
    user_id: str | None
    outcome: EndedAs
    retryable: bool
    """Aborted, and it may go better the next time: what `TransactionAborted.retryable` says, and `run` goes by."""
    seconds: float
    resources: tuple[str, ...]
    pending: frozenset[str]
    """Resources whose branch is decided but has not acknowledged (O18)."""
    why: str
    """Why it was aborted; empty when it was not."""


# --- recovery -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchRecovered(Event):
    """Recovery has finished a branch."""

    resource: str
    identifier: Identifier
    commit: bool
    answer: str
    """An `Answer` name: COMMITTED, ABORTED, or a heuristic one."""
    is_heuristic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PassEnded(Event):
    """A recovery pass over one resource is over.

    `in_doubt` counts the branches that are prepared there, or decided and not acknowledged, after this pass: status
    (as `syncpoint in-doubt` prints it) to number. `oldest_s` is how long the oldest of Syncpoint's has been so, None
    when there is none: since the database says that it was prepared (PostgreSQL), else since this process has first
    seen it. A pass that failed knows nothing new: the numbers are the last ones, the age goes on.
    """

    resource: str
    seconds: float
    committed: int
    aborted: int
    in_doubt: Mapping[str, int]
    oldest_s: float | None
    error: str
    """Why it decided nothing; empty when it ended as it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeuristicsListed(Event):
    """The heuristic outcomes that the journal lists, until forgotten: (resource, outcome) to number."""

    counts: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TookOver(Event):
    """Processes of this journal were found dead, and what they left is this one's now."""

    incarnations: frozenset[Incarnation]


# --- the manager ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerStarted(Event):
    """The manager is about to recover for the first time. In a forked child that goes on: again, for the child."""

    incarnation: Incarnation
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerStopped(Event):
    """The journal has failed: this manager answers nothing any more (R5). Its process must be restarted."""

    why: str
