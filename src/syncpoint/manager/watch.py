"""Tells the observers: turns what the manager's scripts do into events (observer.py).

The manager calls it at single lines. Without observers every call is one look at an empty list, and a script that would
be timed is returned as it came. Not for: what is made of the events (integrations/), or any decision.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from syncpoint.errors import (
    AlreadyCommitted,
    DifferentRequest,
    JournalUnavailable,
    JournalUncertain,
    OutcomePending,
    SyncpointError,
    TransactionRunning,
)
from syncpoint.ids import Identifier, Incarnation, Key
from syncpoint.manager.observer import (
    BlockEntered,
    BlockLeft,
    BranchRecovered,
    BranchTold,
    EndedAs,
    Event,
    HeuristicsListed,
    ManagerStarted,
    ManagerStopped,
    Observer,
    PassEnded,
    Phase,
    PhaseBegan,
    PhaseEnded,
    ResendAnswer,
    Resent,
    TookOver,
    TransactionBegun,
    TransactionEnded,
)
from syncpoint.ports import Clock
from syncpoint.protocol.coordinator import Result, State, What
from syncpoint.protocol.words import HEURISTICS, Answer
from syncpoint.steps import Script

if TYPE_CHECKING:
    from syncpoint.journal.base import Journal
    from syncpoint.manager.handle import ResourceHandle
    from syncpoint.manager.recovery import PassResult
    from syncpoint.manager.transaction import Work

T = TypeVar("T")
HEURISTICS_PERIOD_S = 4.0
"""The list of heuristic outcomes is read at most this often, however often recovery passes."""

log = logging.getLogger("syncpoint")

PHASES = {
    State.PREPARING: Phase.PREPARE,
    State.PROMISING: Phase.PREPARE,
    State.DECIDING: Phase.DECIDE,
    State.COMMITTING: Phase.COMMIT,
    State.ONE_PHASE: Phase.ONE_PHASE,
    State.RELEASING: Phase.RELEASE,
    State.ABORTING: Phase.ABORT,
}
STEPS = {
    What.PREPARE: Phase.PREPARE,
    What.COMMIT: Phase.COMMIT,
    What.ABORT: Phase.ABORT,
    What.COMMIT_ONE_PHASE: Phase.ONE_PHASE,
    What.RELEASE: Phase.RELEASE,
    What.DECIDE: Phase.DECIDE,
}
_RESULTS = {
    Result.COMMITTED: EndedAs.COMMITTED,
    Result.ABORTED: EndedAs.ABORTED,
    Result.PENDING: EndedAs.OUTCOME_PENDING,
    Result.HEURISTIC_MIXED: EndedAs.HEURISTIC_MIXED,
    Result.HEURISTIC_HAZARD: EndedAs.HEURISTIC_HAZARD,
}
_INTERRUPTED = {
    State.COMMITTING: EndedAs.COMMITTED,
    State.DECIDING: EndedAs.OUTCOME_PENDING,
    State.ONE_PHASE: EndedAs.OUTCOME_PENDING,
    State.UNSETTLED: EndedAs.OUTCOME_PENDING,
    State.IN_DOUBT: EndedAs.OUTCOME_PENDING,
}
"""How it came out when its end was interrupted in this state; in all others nothing was decided: aborted."""
_ANSWERS: tuple[tuple[type[SyncpointError], ResendAnswer], ...] = (
    (AlreadyCommitted, ResendAnswer.COMMITTED),
    (TransactionRunning, ResendAnswer.RUNNING),
    (DifferentRequest, ResendAnswer.DIFFERENT_REQUEST),
)


@dataclass(slots=True)
class _Running:
    """What is remembered of a transaction while it runs."""

    begun_at: float
    retryable: bool | None = None
    """Its block raised: whether `run` would try again. None: its own end says."""


class Watch:
    """The observers of one manager. `observers` may grow while it is used."""

    __slots__ = ("_clock", "_failed", "_heuristics_at", "_in_doubt", "_running", "_since", "observers")

    def __init__(self, observers: list[Observer], clock: Clock) -> None:
        self.observers = observers
        self._clock = clock
        self._running: dict[Key, _Running] = {}
        self._since: dict[str, dict[str, float]] = {}
        """Resource to branch to when it came to be in doubt, on the monotonic clock."""
        self._in_doubt: dict[str, dict[str, int]] = {}
        self._heuristics_at = float("-inf")
        self._failed: set[int] = set()

    def __repr__(self) -> str:
        return f"<Watch {len(self.observers)} observers, {len(self._running)} transactions>"

    def tell(self, event: Event) -> None:
        """Hand an event to every observer. Never raises for an observer's sake."""
        for observer in tuple(self.observers):
            try:
                observer.observe(event)
            except Exception:
                if id(observer) not in self._failed:
                    self._failed.add(id(observer))
                    log.exception("Observer %r failed; no transaction is touched. Said once.", observer)

    # --- one transaction ----------------------------------------------------------------------------------------

    def claimed(self, user_id: str, script: Script[T]) -> Script[T]:
        """The script that claims an id, told of when it refuses."""
        return self._claimed(user_id, script) if self.observers else script

    def _claimed(self, user_id: str, script: Script[T]) -> Script[T]:
        try:
            return (yield from script)
        except SyncpointError as error:
            for kind, answer in _ANSWERS:
                if isinstance(error, kind):
                    self.tell(Resent(user_id=user_id, answer=answer))
            raise

    def begun(self, work: Work) -> None:
        if self.observers:
            self._running[work.key] = _Running(self._clock.monotonic())
            self.tell(TransactionBegun(key=work.key, user_id=work.user_id))

    def entered(self, work: Work) -> None:
        """The user's block begins; called in the user's own context."""
        if self.observers:
            self.tell(BlockEntered(key=work.key))

    def left(self, work: Work, *, retryable: bool | None) -> None:
        """The user's block is over; called in the user's own context. `retryable` when it raised."""
        running = self._running.get(work.key)
        if running is not None:
            running.retryable = retryable
            seconds = self._clock.monotonic() - running.begun_at
            self.tell(PhaseEnded(key=work.key, phase=Phase.WORK, seconds=seconds))
        if self.observers:
            self.tell(BlockLeft(key=work.key))

    def timed(self, work: Work, script: Script[T]) -> Script[T]:
        """The script of one phase, told of when it is over."""
        phase = PHASES.get(work.coordinator.state) if self.observers else None
        return script if phase is None else self._timed(work, phase, script)

    def _timed(self, work: Work, phase: Phase, script: Script[T]) -> Script[T]:
        started = self._clock.monotonic()
        self.tell(PhaseBegan(key=work.key, phase=phase))
        try:
            value = yield from script
        except BaseException as error:
            self._phase_ended(work, phase, started, type(error).__name__)
            if isinstance(error, OutcomePending):  # nobody will call `ended`: the manager has stopped (R5)
                self._ended(work, EndedAs.OUTCOME_PENDING)
            raise
        self._phase_ended(work, phase, started)
        return value

    def _phase_ended(self, work: Work, phase: Phase, started: float, error: str = "") -> None:
        seconds = self._clock.monotonic() - started
        self.tell(PhaseEnded(key=work.key, phase=phase, seconds=seconds, error=error))

    def told(self, work: Work, what: What, handle: ResourceHandle, script: Script[T]) -> Script[T]:
        """The script that tells one branch, told of when it is over."""
        step = STEPS.get(what) if self.observers else None
        return script if step is None else self._told(work, step, handle, script)

    def _told(self, work: Work, step: Phase, handle: ResourceHandle, script: Script[T]) -> Script[T]:
        started = self._clock.monotonic()
        try:
            return (yield from script)
        finally:
            seconds = self._clock.monotonic() - started
            system = handle.resource.safe_url.partition(":")[0]
            self.tell(BranchTold(key=work.key, resource=handle.name, system=system, step=step, seconds=seconds))

    def ended(self, work: Work) -> None:
        """It is over, or recovery's."""
        if work.key in self._running:
            coordinator = work.coordinator
            final = coordinator.state in (State.COMMITTED, State.ABORTED)
            self._ended(
                work, _RESULTS[coordinator.result] if final else _INTERRUPTED.get(coordinator.state, EndedAs.ABORTED)
            )

    def _ended(self, work: Work, outcome: EndedAs) -> None:
        running = self._running.pop(work.key, None)
        if running is None:
            return
        aborted = outcome is EndedAs.ABORTED
        retryable = work.retryable if running.retryable is None else running.retryable
        self.tell(
            TransactionEnded(
                key=work.key,
                user_id=work.user_id,
                outcome=outcome,
                retryable=aborted and retryable,
                seconds=self._clock.monotonic() - running.begun_at,
                resources=tuple(work.branches),
                pending=work.coordinator.pending if not aborted else frozenset(),
                why=(work.coordinator.why or work.cancelled) if aborted else "",
            )
        )

    # --- recovery -------------------------------------------------------------------------------------------------

    def recovered(self, handle: ResourceHandle, identifier: Identifier, answer: Answer, *, commit: bool) -> None:
        """Recovery has an answer of a branch."""
        if self.observers:
            heuristic = answer in HEURISTICS
            self.tell(
                BranchRecovered(
                    resource=handle.name,
                    identifier=identifier,
                    commit=commit,
                    answer=answer.name,
                    is_heuristic=heuristic,
                )
            )

    def passed(self, handle: ResourceHandle, result: PassResult, started: float) -> None:
        """A recovery pass is over. `started` is monotonic seconds."""
        if not self.observers:
            return
        now = self._clock.monotonic()
        if not result.error:
            self._note_in_doubt(handle.name, result, now)
        since = self._since.get(handle.name, {})
        self.tell(
            PassEnded(
                resource=handle.name,
                seconds=now - started,
                committed=result.committed,
                aborted=result.aborted,
                in_doubt=self._in_doubt.get(handle.name, {}),
                oldest_s=now - min(since.values()) if since else None,
                error=result.error,
            )
        )

    def _note_in_doubt(self, resource: str, result: PassResult, now: float) -> None:
        before = self._since.get(resource, {})
        self._since[resource] = {
            one.branch: min(before.get(one.branch, now), now - (one.age_ms or 0) / 1000) for one in result.left
        }
        counts = dict(Counter(one.status for one in result.left))
        self._in_doubt[resource] = counts | ({"foreign": result.foreign} if result.foreign else {})

    def list_heuristics(self, journal: Journal) -> Script[None]:
        """Count what the journal lists, now and then."""
        now = self._clock.monotonic()
        if self.observers and now - self._heuristics_at >= HEURISTICS_PERIOD_S:
            self._heuristics_at = now
            try:
                records = yield from journal.heuristics()
            except (JournalUncertain, JournalUnavailable):  # away for a while: the next time, then
                return
            self.tell(HeuristicsListed(counts=Counter((one.resource, one.outcome) for one in records)))

    def took_over(self, incarnations: frozenset[Incarnation]) -> None:
        if self.observers and incarnations:
            self.tell(TookOver(incarnations=incarnations))

    # --- the manager ------------------------------------------------------------------------------------------------

    def started(self, incarnation: Incarnation, resources: Sequence[str]) -> None:
        if self.observers:
            self.tell(ManagerStarted(incarnation=incarnation, resources=tuple(resources)))

    def stopped(self, error: SyncpointError) -> None:
        if self.observers:
            self.tell(ManagerStopped(why=error.message))
