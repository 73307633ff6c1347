"""What a resource manager's process does on sessions of its own: contacts, looking, its health and incarnation.

A manager that makes first contact while a branch is in doubt in this very process cannot leave its incarnation in the
data now (a single writer's lock is the branch's), and may be the one who has to finish that branch: so it is looked at
without a change, and the incarnation is left as soon as that can be done.

Not for: branches (process_host.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from syncpoint.errors import ConfigurationError, Fenced
from syncpoint.ids import Attempt, Guid, Identifier, Incarnation
from syncpoint.messages import Message
from syncpoint.ports import Clock, Runtime
from syncpoint.resources import process_messages as messages
from syncpoint.resources.base import Contact, Found, Resource, Session
from syncpoint.resources.pool import Pool
from syncpoint.resources.process_messages import Failure
from syncpoint.steps import Script

__all__ = ["ProcessService"]

T = TypeVar("T")

SERVICE_SESSIONS_MAX: Final = 4
SERVICE_S_MAX: Final = 5.0


class ProcessService:
    """See the file's opening."""

    def __init__(self, resource: Resource, runtime: Runtime, clock: Clock) -> None:
        self.resource = resource
        self.incarnation = 0
        """As which this process serves; 0: it does not yet."""
        self.fenced: Fenced | None = None
        """Why this process must stop."""
        self.on_fenced: Callable[[], None] = lambda: None
        self._clock = clock
        self._sessions = Pool(resource, runtime, clock, size_max=SERVICE_SESSIONS_MAX)
        self._to_leave: dict[Guid, Contact] = {}
        """Contacts whose incarnation is not in the data yet, the highest of each coordinator."""

    def __repr__(self) -> str:
        return f"<ProcessService {self.resource.name} as {self.incarnation}{' fenced' if self.fenced else ''}>"

    def on_session(self, work: Callable[[Session], Script[T]]) -> Script[T]:
        """Do something on a session of the process's own. Raises what it raises."""
        session = yield from self._sessions.acquire(self._clock.monotonic() + SERVICE_S_MAX)
        try:
            return (yield from work(session))
        except BaseException as error:
            session.broken = True
            self.note(error)
            raise
        finally:
            yield from self._sessions.release(session)

    def note(self, error: BaseException) -> None:
        """Look at an error that was met: being fenced off ends everything."""
        if isinstance(error, Fenced) and self.fenced is None:
            self.fenced = error
            self.on_fenced()

    def serve_as(self, incarnation: int) -> Script[None]:
        """From now on as this incarnation (B7). Raises as `Resource.serve_as`."""
        yield from self.on_session(lambda session: self.resource.serve_as(session, incarnation))
        self.incarnation = incarnation

    def check(self) -> Script[str]:
        """The adapter's own health: empty, or what is wrong. Opens a session anew, as a branch would."""
        try:
            session = yield from self.resource.open()
            try:
                yield from self.resource.scan(session)
            finally:
                yield from self.resource.close(session)
        except Exception as error:
            self.note(error)
            return f"{error}" or type(error).__name__
        return ""

    def close(self) -> Script[None]:
        yield from self._sessions.close()

    # --- first contact -----------------------------------------------------------------------------------------

    def meet(self, question: messages.Meet, *, busy: bool) -> Script[Message]:
        """First contact of a manager; `busy`: a branch is in doubt here."""
        resource = self.resource
        contact = Contact(Guid(question.coordinator), Incarnation(question.incarnation), Incarnation(question.highest))
        if busy:
            guid = yield from self.on_session(lambda session: resource.recognise(session, contact))
            known = self._to_leave.get(contact.coordinator, contact)
            self._to_leave[contact.coordinator] = max(contact, known, key=lambda one: one.incarnation)
        else:
            guid = yield from self.on_session(lambda session: resource.contact(session, contact))
        return messages.Met(
            guid=guid.raw,
            scheme=resource.scheme,
            single_writer=resource.single_writer,
            has_redo=resource.has_redo,
            speaks_sql=resource.speaks_sql,
        )

    def leave_contacts(self) -> Script[None]:
        """Called every so often while nothing is in doubt: leave what could not be left before."""
        for coordinator, contact in list(self._to_leave.items()):
            try:
                yield from self.on_session(lambda session, one=contact: self.resource.contact(session, one))  # type: ignore[misc]
            except Exception:
                return  # somebody writes: the next round tries again
            if self._to_leave.get(coordinator) == contact:
                del self._to_leave[coordinator]

    # --- questions ---------------------------------------------------------------------------------------------

    def answer(self, question: Message) -> Script[Message]:
        """Of those that are about no session."""
        resource = self.resource
        match question:
            case messages.Scan():
                found = yield from self.on_session(resource.scan)
                return messages.Scanned(found=tuple(map(_seen, found)))
            case messages.Finish():
                identifier = Identifier.from_bytes(question.identifier)
                answer = yield from self.on_session(
                    lambda session: resource.finish(session, identifier, commit=question.commit, state=question.state)
                )
                return messages.Ended(answer=answer.name)
            case messages.Redo():
                identifier = Identifier.from_bytes(question.identifier)
                answer = yield from self.on_session(lambda session: resource.redo(session, identifier, question.state))
                return messages.Ended(answer=answer.name)
            case messages.AskEvidence():
                identifier = Identifier.from_bytes(question.identifier)
                ask = resource.settle if question.settle else resource.evidence
                evidence = yield from self.on_session(lambda session: ask(session, identifier))
                return messages.EvidenceSaid(evidence=evidence.name)
            case messages.ListEvidence() | messages.DropEvidence():
                return (yield from self._evidence_kept(question))
        return Failure(kind=ConfigurationError.__name__, message=f"{type(question).__name__} is no question.")

    def _evidence_kept(self, question: messages.ListEvidence | messages.DropEvidence) -> Script[Message]:
        coordinator = Guid(question.coordinator)
        if isinstance(question, messages.ListEvidence):
            after, limit = Attempt.from_int(question.after), question.limit
            attempts = yield from self.on_session(
                lambda session: self.resource.evidence_attempts(session, coordinator, after, limit)
            )
            return messages.Attempts(attempts=tuple(one.to_int() for one in attempts))
        doomed = [Attempt.from_int(one) for one in question.attempts]
        rows = yield from self.on_session(lambda session: self.resource.drop_evidence(session, coordinator, doomed))
        return messages.Dropped(rows=rows)


def _seen(found: Found) -> messages.Seen:
    return messages.Seen(
        identifier=None if found.identifier is None else found.identifier.to_bytes(),
        name=found.name,
        note=found.note,
        prepared_at_ms=found.prepared_at_ms,
    )
