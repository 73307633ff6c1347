"""One configured resource as the manager holds it: its pool, its GUID, its first contact, its back-off.

Not for: a transaction's branch (branch.py) or what recovery decides (recovery.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from syncpoint.errors import (
    ConnectionLost,
    JournalRefused,
    ResourceUnavailable,
    SetupRefused,
    WrongResource,
)
from syncpoint.ids import Guid, Identifier, Incarnation
from syncpoint.journal.base import Journal
from syncpoint.marks import sometimes
from syncpoint.ports import Clock, Random, Runtime
from syncpoint.protocol.recovery import Missing, judge_missing, judge_settled, rests_on_absence
from syncpoint.records import ResourceKnown
from syncpoint.resources.base import Answer, Contact, Evidence, Finding, Resource, Session, Severity
from syncpoint.resources.pool import Pool, Turn
from syncpoint.steps import Script


def lagging_journal(where: str) -> SetupRefused:
    """The refusal of a journal in a database with asynchronous backups (DESIGN section 4, retention)."""
    return SetupRefused(
        f"The journal is in the database of {where}, which has asynchronous backups: promoting one loses decisions.",
        advice='Make the standby synchronous and say backups = "synchronous", or keep the journal elsewhere.',
    )


T = TypeVar("T")
BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0
SERVICE_SESSIONS_MAX = 2


class ResourceHandle:
    """A resource, ready or not yet. Constructed without touching the database."""

    def __init__(
        self, resource: Resource, journal: Journal, runtime: Runtime, clock: Clock, random: Random, pool_size_max: int
    ) -> None:
        self.resource = resource
        self.name = resource.name
        self.journal = journal
        self.clock = clock
        self.random = random
        self.pool = Pool(resource, runtime=runtime, clock=clock, size_max=pool_size_max)
        """For transactions."""
        self.service = Pool(resource, runtime=runtime, clock=clock, size_max=SERVICE_SESSIONS_MAX)
        """For recovery: work that waits for in-doubt locks may use up the other pool, and must not keep them so."""
        self.turn = Turn(runtime, clock, self.name) if resource.single_writer else None
        """First come, first served among writers of a single-writer resource (DESIGN section 3)."""
        self.contact_gate = Turn(runtime, clock, f"{self.name} (first contact)")
        self.recovery_gate = Turn(runtime, clock, f"{self.name} (recovery)")
        self.wake = runtime.signal()
        """Set when a recovery pass is wanted now."""
        self.lags = False
        """It has backups that lag: promoting one loses what was committed last."""
        self.guid: Guid | None = None
        self._introduced: Incarnation | None = None
        """Which of this process's incarnations was left in the database."""
        self.trouble = ""
        """Why the last contact or recovery pass failed; empty when all is well."""
        self.unfinished = False
        """The last recovery pass left something that is ours to finish."""
        self._failures = 0

    def __repr__(self) -> str:
        state = f"trouble: {self.trouble}" if self.trouble else "ready" if self.guid else "not contacted yet"
        return f"<ResourceHandle {self.name} {state} {self.pool!r}>"

    # --- first contact -----------------------------------------------------------------------------------

    def ensure_ready(self, deadline: float) -> Script[Guid]:
        """First contact if there was none: refuse lying set-ups, leave our incarnation, learn the GUID (O53). Again
        with every incarnation that this process draws.

        Raises ResourceUnavailable, SetupRefused, WrongResource, JournalRefused. `deadline` is monotonic seconds.
        """
        if self.guid is not None and self._introduced == self.journal.incarnation:
            return self.guid
        yield from self.contact_gate.acquire(deadline)
        try:
            incarnation = self.journal.incarnation
            if self.guid is None or self._introduced != incarnation:
                self.guid = yield from self._contact(deadline)
                self._introduced = incarnation
            return self.guid
        finally:
            self.contact_gate.release()

    def met(self, guid: Guid) -> None:
        """It has come to us by itself, and said who it is (a subordinate manager): no first contact is needed."""
        self.guid, self._introduced = guid, self.journal.incarnation

    def _contact(self, deadline: float) -> Script[Guid]:
        session = yield from self.service.acquire(deadline)
        try:
            findings = yield from self.resource.inspect(session)
            refused = [finding for finding in findings if finding.severity is Severity.REFUSED]
            self._refuse([finding for finding in refused if not finding.for_prepare])
            guid = yield from self._leave_incarnation(session)
            if guid != self.journal.database:  # there a branch carries the decision instead of being asked to prepare
                self._refuse(refused)
            elif self.lags:
                raise lagging_journal(f"resource {self.name!r} ({self.resource.safe_url})")
        except ConnectionLost as error:
            session.broken = True
            raise ResourceUnavailable(
                f"The connection to resource {self.name!r} was lost at first contact.", advice="Try again."
            ) from error
        finally:
            yield from self.service.release(session)
        yield from self._recognise(guid)
        return guid

    def _leave_incarnation(self, session: Session) -> Script[Guid]:
        """O53. The counter is read before the database is: what another process has drawn and left there in between is
        no proof of an older copy, so a refusal counts only if the counter still stands where it stood."""
        while True:
            highest = yield from self.journal.highest_incarnation()
            contact = Contact(self.journal.coordinator, self.journal.incarnation, highest)
            try:
                return (yield from self.resource.contact(session, contact))
            except JournalRefused as error:
                if (yield from self.journal.highest_incarnation()) == highest:
                    yield from self.journal.refuse_for_good(error.message)
                    raise

    def _refuse(self, refused: Sequence[Finding]) -> None:
        """Refuse a lying set-up (DESIGN section 3)."""
        if refused:
            raise SetupRefused(
                f"Resource {self.name!r} ({self.resource.safe_url}) is set up so that a promise could not be kept: "
                + "; ".join(f"{finding.check}: {finding.found}" for finding in refused)
                + ".",
                advice=" ".join(finding.fix for finding in refused if finding.fix),
            )

    def _recognise(self, guid: Guid) -> Script[None]:
        """A URL that points at the wrong server must not read as "lost" (DESIGN section 3)."""
        known = self.journal.resource(self.name)
        if known is None:
            yield from self.journal.force((ResourceKnown(name=self.name, guid=guid.raw),))
            known = self.journal.resource(self.name)  # another process may have been faster
        if known != guid:
            raise WrongResource(
                f"Resource {self.name!r} ({self.resource.safe_url}) has GUID {guid}, "
                f"but the journal knows it as {known}.",
                advice="Point the URL at the right database, or give the new database a name of its own.",
            )

    def close(self) -> Script[None]:
        """Give every connection back."""
        yield from self.pool.close()
        yield from self.service.close()

    def abandon(self) -> None:
        """In a forked child: forget the parent's connections without touching them."""
        self.pool.abandon()
        self.service.abandon()

    # --- finishing a branch from any session -----------------------------------------------------------------

    def finish(
        self,
        identifier: Identifier,
        *,
        commit: bool,
        state: bytes,
        deadline: float,
        keeper: Incarnation,
        ask_evidence: bool = True,
        recorded: bool = False,
    ) -> Script[Answer]:
        """Commit or roll back a voted branch by identifier, on whatever session. Never raises for the database's
        sake: what could not be done now, or is another process's to do, is RETRY. Without `ask_evidence` a branch not
        found is simply ABORTED. `keeper`: which incarnation of this process has to see it finished, as it was when
        the branch was known to be ours. `recorded`: since its Commit record has not ended, when that was read."""
        try:
            yield from self.ensure_ready(deadline)
            return (
                yield from self.ask(
                    deadline,
                    lambda session: self._finish(session, identifier, commit, state, keeper, ask_evidence, recorded),
                )
            )
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {error}"
            return Answer.RETRY

    def _finish(
        self,
        session: Session,
        identifier: Identifier,
        commit: bool,
        state: bytes,
        keeper: Incarnation,
        ask_evidence: bool,
        recorded: bool,
    ) -> Script[Answer]:
        answer = yield from self.resource.finish(session, identifier, commit=commit, state=state)
        if answer is Answer.NOT_FOUND:
            sometimes("a branch to be finished was not found")
            if not ask_evidence:
                return Answer.ABORTED
            answer = yield from self._missing(session, identifier, commit, state, keeper, recorded)
        return answer

    def ask(self, deadline: float, question: Callable[[Session], Script[T]]) -> Script[T]:
        """Put a question that may be put twice on a session of recovery's own. An idle connection may have died with
        its server: then the next is asked, and last a fresh one. Raises what the question raises."""
        while True:
            asked_at = self.clock.monotonic()
            session = yield from self.service.acquire(deadline)
            try:
                return (yield from question(session))
            except ConnectionLost:
                sometimes("recovery's own connection had died")
                session.broken = True
                if session.opened_at >= asked_at:
                    raise
            except BaseException:
                session.broken = True
                raise
            finally:
                yield from self.service.release(session)

    def _missing(
        self,
        session: Session,
        identifier: Identifier,
        commit: bool,
        state: bytes,
        keeper: Incarnation,
        recorded: bool,
    ) -> Script[Answer]:
        evidence = yield from self.resource.evidence(session, identifier)
        # Without state information nothing can be redone: a branch that an operator forces though it has no record.
        has_redo = self.resource.has_redo and bool(state)
        confirmed = True
        if rests_on_absence(commit=commit, evidence=evidence):
            confirmed = yield from self.journal.confirm(keeper)
            if confirmed and recorded:
                confirmed = yield from self.journal.unended(identifier.key)
        verdict = judge_missing(commit=commit, evidence=evidence, has_redo=has_redo, confirmed=confirmed)
        if verdict is Missing.TAKEN_OVER:
            self.trouble = f"somebody else finishes {identifier}, or has done so"
            return Answer.RETRY
        if verdict is Missing.REDO:
            return (yield from self.resource.redo(session, identifier, state))
        assert isinstance(verdict, Answer)
        return verdict

    def settle(self, identifier: Identifier, deadline: float) -> Script[Answer]:
        """Find out about a one-phase commit whose reply was lost (O20): COMMITTED, ABORTED, HAZARD, or RETRY."""
        try:
            evidence = yield from self.ask(deadline, lambda session: self.resource.settle(session, identifier))
            confirmed = True
            if evidence is Evidence.ABSENT:
                confirmed = yield from self.journal.confirm(identifier.attempt.incarnation)
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {error}"
            return Answer.RETRY
        return judge_settled(evidence, confirmed=confirmed)

    # --- back-off --------------------------------------------------------------------------------------------

    def passed(self, *, trouble: str, unfinished: bool) -> None:
        """A recovery pass ended: note how, for the next delay."""
        self.trouble = trouble
        self.unfinished = unfinished
        self._failures = self._failures + 1 if trouble or unfinished else 0

    def delay_s(self, period_s: float) -> float:
        """Seconds until the next pass: the period when all is well, else doubling from 0.1 s to 5 s, jittered."""
        if not self._failures:
            return period_s
        backoff = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** (self._failures - 1), period_s)
        return backoff * (0.5 + self.random.fraction() / 2)
