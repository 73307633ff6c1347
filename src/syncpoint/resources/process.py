"""The resource `process://NAME`: a resource manager that runs as a process of its own (B), as its managers see it.

    resources={"audit": "process://audit"}      with journal="node://…", whose node knows where the process is

Every method is a question to whoever serves NAME now (process_messages.py). A branch stays with the incarnation under
which it began: when a backup has taken over, what had not voted is gone, and what had is finished by identifier, at the
backup. A question whose answer was lost is asked again, and the process gives its first answer again.

It always votes and is always recorded, alone too: only then can a backup finish it (DESIGN section 3).
Not for: the other side (process_host.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeVar, cast

from syncpoint.errors import (
    ConfigurationError,
    ConnectionLost,
    Fenced,
    MessageTooLarge,
    ResourceUnavailable,
    SyncpointError,
    TransactionEnded,
)
from syncpoint.ids import Attempt, Guid, Identifier
from syncpoint.messages import Message
from syncpoint.ports import Clock, Random, Runtime
from syncpoint.resources import process_messages as messages
from syncpoint.resources.base import (
    Answer,
    Ask,
    BranchStart,
    Choice,
    Contact,
    Evidence,
    Finding,
    Found,
    Mode,
    Resource,
    Session,
    Vote,
)
from syncpoint.resources.memory import Runner
from syncpoint.resources.pool import Turn
from syncpoint.resources.process_connection import ProcessConnection, ProcessWork
from syncpoint.resources.process_failures import CONNECTION_LOST, error_of
from syncpoint.resources.process_messages import RESOURCE_VOCABULARY
from syncpoint.resources.process_port import Asks, NodePort, Port, ServiceAway
from syncpoint.steps import Script, Sleep

__all__ = ["ProcessResource", "ProcessSession"]

M = TypeVar("M", bound=Message)
W = TypeVar("W", bound=Enum)

ASK_S: Final = 5.0
"""For a question that is not about a transaction's remaining time."""
LEAVE_S: Final = 1.0
PREPARE_S_MIN: Final = 1.0
BEGIN_SPARE_S: Final = 1.0
"""How much longer than the transaction's time an answer to Begin is waited for: the process says why it did not."""
AWAY_S_MAX: Final = 5.0
"""How long a new branch waits for a backup to take over."""
MEET_AWAY_S_MAX: Final = 0.5
"""And first contact: a manager that starts is not to wait long for each that is away."""
ASK_AGAIN_S: Final = 0.05
TRIES_MAX: Final = 4

_URL = re.compile(r"process://([A-Za-z0-9_-]{1,64})/?\Z")


class ProcessSession(Session):
    """Room for one branch at a time; to the process each is a session of its own."""

    __slots__ = ("deadline", "id", "incarnation", "number", "turn")

    def __init__(self, opened_at: float) -> None:
        super().__init__()
        self.opened_at = opened_at
        self.id = b""
        """Of the branch's session in the process; empty: there is none."""
        self.number = 0
        self.incarnation = 0
        """Under which the branch began; 0: that is not known yet."""
        self.deadline = 0.0
        self.turn: Turn | None = None
        """One question of a session at a time: they are counted."""

    def __repr__(self) -> str:
        return f"<ProcessSession {self.identifier or 'idle'} {self.id.hex()[:8]}#{self.number} at {self.incarnation}>"

    def leave(self) -> None:
        """The branch has ended."""
        self.id, self.identifier, self.incarnation = b"", None, 0


class ProcessResource(Resource):
    """See the file's opening."""

    scheme = "process"
    needs_vote = True
    has_redo = True

    def __init__(
        self, name: str, url: str, options: Mapping[str, str], *, mode: Mode, clock: Clock, random: Random
    ) -> None:
        """See `Resource`. Raises ConfigurationError."""
        super().__init__(name, url, options, mode=mode, clock=clock, random=random)
        match = _URL.match(url)
        if match is None:
            raise ConfigurationError(
                f"The URL of the resource {name!r} names no resource manager's process.",
                advice="Write process://NAME, with the name that it has in the node's configuration.",
            )
        self.served_name = match[1]
        self.port: Port | None = None
        """How it is reached; given by the manager's assembly, before `attach`."""
        self._runner: Runner | None = None

    @property
    def safe_url(self) -> str:
        return f"process://{self.served_name}"

    def connect_through(self, exchange: Asks, node: str) -> None:
        """Reach the process over this manager's link to the node of that name. Before `attach`."""
        self.port = NodePort(exchange, node)

    def attach(self, ask: Ask, runtime: Runtime) -> None:
        """See `Resource`. Raises ConfigurationError unless there is a node."""
        if self.port is None:
            raise ConfigurationError(
                f"The resource {self.name!r} ({self.safe_url}) is a process, which only a node can reach.",
                advice='Use the node\'s journal, journal="node://…", or name the data themselves (sqlite:///…).',
            )
        super().attach(ask, runtime)
        self._runner = cast(Runner, runtime)  # both runners are more than a Runtime

    # --- questions -------------------------------------------------------------------------------------------

    def _ask(
        self, session: Session, question: Message, answer: type[M], *, incarnation: int = 0, seconds: float = ASK_S
    ) -> Script[tuple[int, M]]:
        """Ask once. Raises what the process says; ConnectionLost, and then the session is broken."""
        assert self.port is not None, "attach comes first"
        raw = self._encoded(question)
        try:
            who, said = yield from self.port.to_resource(self.served_name, incarnation, raw, seconds)
            if incarnation and who != incarnation:
                raise ConnectionLost(f"{self.safe_url} was answered for by incarnation {who}, not {incarnation}.")
            return who, self._read(said, answer, question)
        except ConnectionLost:
            session.broken = True
            raise

    def _encoded(self, question: Message) -> bytes:
        try:
            return RESOURCE_VOCABULARY.encode(question)
        except (TypeError, OverflowError) as error:
            raise ConfigurationError(
                f"A value cannot be sent to the process of the resource {self.name!r}: {error}.",
                advice="Give numbers of at most 64 bits, text, bytes, lists and mappings of such.",
            ) from error

    def _read(self, raw: bytes, answer: type[M], question: Message) -> M:
        try:
            said = RESOURCE_VOCABULARY.decode(raw)
        except (ValueError, SyncpointError) as error:
            raise ConnectionLost(f"{self.safe_url} answered with bytes that are no message: {error}.") from error
        if isinstance(said, answer):
            return said
        if not isinstance(said, messages.Failure):
            raise ConnectionLost(f"{self.safe_url} answered {type(question).__name__} with {type(said).__name__}.")
        if said.kind == CONNECTION_LOST:
            raise ConnectionLost(said.message, advice=said.advice)
        if said.kind == Fenced.__name__:
            raise ServiceAway(f"The process that was asked for {self.name!r} is fenced off.", advice="Try again.")
        raise error_of(said)

    def _put(
        self,
        session: Session,
        make: Callable[[bytes, int], Message],
        answer: type[M],
        *,
        seconds: float | None = None,
        again: bool = True,
    ) -> Script[M]:
        """Put the branch's next question, again and again while its answer gets lost: it has a number, and is done
        once. Raises as `_ask`; ResourceUnavailable only when it was certainly not done."""
        own = _own(session)
        if not own.id or own.broken or own.turn is None:
            raise TransactionEnded(
                f"The transaction at the resource {self.name!r} has ended, or it was lost; nothing was done.",
                advice="Work inside the transaction's block, on what `connect` returns there.",
            )
        yield from own.turn.acquire(own.deadline + ASK_S)
        try:
            own.number += 1
            question = make(own.id, own.number)
            until = self.clock.monotonic() + (self._left_s(own) if seconds is None else seconds)
            return (yield from self._put_until(own, question, answer, until, again))
        except BaseException as error:
            if not isinstance(error, Exception):
                own.broken = True  # cancelled: what became of it is unknown
            raise
        finally:
            own.turn.release()

    def _put_until(
        self, own: ProcessSession, question: Message, answer: type[M], until: float, again: bool
    ) -> Script[M]:
        lost: ConnectionLost | None = None
        for tries in range(1, TRIES_MAX + 1):
            left_s = max(ASK_AGAIN_S, until - self.clock.monotonic())
            try:
                who, said = yield from self._ask(own, question, answer, incarnation=own.incarnation, seconds=left_s)
            except ConnectionLost as error:
                lost = error
                if not again or tries == TRIES_MAX or self.clock.monotonic() + ASK_AGAIN_S >= until:
                    raise
                yield Sleep(ASK_AGAIN_S)
            except MessageTooLarge:
                raise
            except ResourceUnavailable as error:
                own.broken = True
                if lost is not None:
                    raise lost from error  # it may have been done the first time
                raise
            else:
                own.broken = False
                own.incarnation = own.incarnation or who
                return said
        raise AssertionError("the last try returns or raises")

    def _left_s(self, own: ProcessSession) -> float:
        return max(PREPARE_S_MIN, own.deadline - self.clock.monotonic())

    # --- connections -----------------------------------------------------------------------------------------

    def open(self) -> Script[Session]:
        """Asks nothing: `begin` finds out who serves it."""
        return ProcessSession(self.clock.monotonic())
        yield from ()

    def close(self, session: Session) -> Script[None]:
        """See `Resource`. The process rolls back what has not voted; told once, and if it is not heard, later by the
        branch's own time."""
        own = _own(session)
        if not own.id:
            return
        own.number += 1
        question = messages.Leave(session=own.id, number=own.number)
        incarnation = own.incarnation
        own.leave()
        own.broken = True
        try:
            yield from self._ask(own, question, messages.Done, incarnation=incarnation, seconds=LEAVE_S)
        except Exception:
            return

    def abandon(self, session: Session) -> None:
        own = _own(session)
        own.broken = True
        own.id = b""  # nothing more is asked for it here

    # --- set-up ----------------------------------------------------------------------------------------------

    def init_statements(self) -> Sequence[str]:
        return ()

    def initialise(self, session: Session) -> Script[None]:
        """Its process does that."""
        return
        yield from ()

    def inspect(self, session: Session) -> Script[list[Finding]]:
        """Its process does that, at its start and for its health."""
        return []
        yield from ()

    def contact(self, session: Session, contact: Contact) -> Script[Guid]:
        """See `Resource`. Waits a while for a process that is starting or taking over."""
        question = messages.Meet(
            coordinator=contact.coordinator.raw, incarnation=contact.incarnation, highest=contact.highest
        )
        until = self.clock.monotonic() + MEET_AWAY_S_MAX
        _, met = yield from self._when_served(until, lambda: self._ask(session, question, messages.Met))
        self.single_writer, self.has_redo, self.speaks_sql = met.single_writer, met.has_redo, met.speaks_sql
        return Guid(met.guid)

    def _when_served(self, until: float, ask: Callable[[], Script[Any]]) -> Script[Any]:
        """Ask as soon as somebody serves it. Raises ResourceUnavailable when nobody does until then."""
        while True:
            try:
                return (yield from ask())
            except ServiceAway:
                if self.clock.monotonic() + ASK_AGAIN_S >= until:
                    raise
            yield Sleep(ASK_AGAIN_S)

    # --- a branch's life -------------------------------------------------------------------------------------

    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        """See `Resource`. While a backup takes over, it waits for that."""
        own = _own(session)
        assert self._runner is not None, "attach comes first"
        now = self.clock.monotonic()
        own.deadline = now + start.remaining_ms / 1000
        own.turn = Turn(self._runner, self.clock, self.name)
        until = min(own.deadline, now + AWAY_S_MAX)
        yield from self._when_served(until, lambda: self._begin(own, start))
        own.identifier = start.identifier

    def _begin(self, own: ProcessSession, start: BranchStart) -> Script[None]:
        own.id, own.number, own.incarnation, own.broken = self.random.bytes(16), 0, 0, False
        what, left_ms = start.identifier.to_bytes(), start.remaining_ms

        def make(id: bytes, number: int) -> messages.Begin:
            return messages.Begin(
                session=id, number=number, identifier=what, remaining_ms=left_ms, read_only=start.read_only
            )

        seconds = max(0.0, own.deadline - self.clock.monotonic()) + BEGIN_SPARE_S
        try:
            yield from self._put(own, make, messages.Done, seconds=seconds)
        except ConnectionLost:
            raise  # it may have begun there: closing the session says that it is not wanted
        except Exception:
            own.leave()
            raise

    def connection(self, session: Session) -> ProcessConnection | ProcessWork:
        own = _own(session)
        assert self._runner is not None, "attach comes first"
        branch = own.id

        def put(make: Callable[[bytes, int], Any]) -> Script[Any]:
            if own.id != branch:
                raise TransactionEnded(
                    f"What `connect` returned for the resource {self.name!r} belongs to a transaction that has ended.",
                    advice="Call tx.connect() in the new transaction.",
                )
            answer = messages.Rows if self.speaks_sql else messages.Value
            return (yield from self._put(own, make, cast(type[Message], answer)))

        if self.speaks_sql:
            return ProcessConnection(self.name, self.mode, self._runner.run, put)
        return ProcessWork(self.name, self._runner.run, put)

    def savepoint(self, session: Session, name: str) -> Script[None]:
        yield from self._savepoint(session, name, "set")

    def release_savepoint(self, session: Session, name: str) -> Script[None]:
        yield from self._savepoint(session, name, "release")

    def rollback_to_savepoint(self, session: Session, name: str) -> Script[None]:
        yield from self._savepoint(session, name, "rollback")

    def _savepoint(self, session: Session, name: str, what: str) -> Script[None]:
        yield from self._put(
            session,
            lambda id, number: messages.Savepoint(session=id, number=number, name=name, what=what),
            messages.Done,
        )

    def wrote(self, session: Session) -> Script[bool | None]:
        said = yield from self._put(
            session, lambda id, number: messages.AskWrote(session=id, number=number), messages.Wrote
        )
        return said.wrote

    def prepare(self, session: Session) -> Script[Vote]:
        """See `Resource`. When another incarnation serves it by now, the branch is gone and has certainly not voted."""
        own = _own(session)
        try:
            said = yield from self._put(
                session, lambda id, number: messages.Prepare(session=id, number=number), messages.Voted
            )
        except ResourceUnavailable as error:
            own.leave()
            return Vote(Choice.NO, reason=error.message, retryable=True)
        return self._vote(own, said)

    def commit_one_phase(self, session: Session) -> Script[Vote | Answer]:
        own = _own(session)
        said: Message = yield from self._put(
            session, lambda id, number: messages.CommitOnePhase(session=id, number=number), Message
        )
        if isinstance(said, messages.Voted):
            return self._vote(own, said)
        return self._ended(own, said)

    def _vote(self, own: ProcessSession, said: messages.Voted) -> Vote:
        choice = _word(Choice, said.choice)
        vote = Vote(choice, said.state, reason=said.why, retryable=said.retryable, incarnation=said.incarnation)
        if choice is not Choice.YES:
            own.leave()
        return vote

    def commit(self, session: Session) -> Script[Answer]:
        return (yield from self._end(session, commit=True))

    def abort(self, session: Session) -> Script[Answer]:
        if not _own(session).id:
            return Answer.ABORTED  # told twice, or it never began
        return (yield from self._end(session, commit=False))

    def _end(self, session: Session, *, commit: bool) -> Script[Answer]:
        said = yield from self._put(
            session,
            lambda id, number: messages.End(session=id, number=number, commit=commit),
            messages.Ended,
            seconds=ASK_S,
        )
        return self._ended(_own(session), said)

    def _ended(self, own: ProcessSession, said: Message) -> Answer:
        if not isinstance(said, messages.Ended):
            own.broken = True
            raise ConnectionLost(f"{self.safe_url} answered with {type(said).__name__}.")
        answer = _word(Answer, said.answer)
        if answer is not Answer.RETRY:
            own.leave()
        return answer

    # --- finding out and finishing ---------------------------------------------------------------------------

    def scan(self, session: Session) -> Script[list[Found]]:
        _, said = yield from self._ask(session, messages.Scan(), messages.Scanned)
        return [
            Found(
                None if seen.identifier is None else Identifier.from_bytes(seen.identifier),
                seen.name,
                note=seen.note,
                prepared_at_ms=seen.prepared_at_ms,
            )
            for seen in said.found
        ]

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        question = messages.Finish(identifier=identifier.to_bytes(), commit=commit, state=state)
        _, said = yield from self._ask(session, question, messages.Ended)
        return _word(Answer, said.answer)

    def redo(self, session: Session, identifier: Identifier, state: bytes) -> Script[Answer]:
        question = messages.Redo(identifier=identifier.to_bytes(), state=state)
        _, said = yield from self._ask(session, question, messages.Ended)
        return _word(Answer, said.answer)

    def evidence(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        return (yield from self._evidence(session, identifier, settle=False))

    def settle(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        return (yield from self._evidence(session, identifier, settle=True))

    def _evidence(self, session: Session, identifier: Identifier, *, settle: bool) -> Script[Evidence]:
        question = messages.AskEvidence(identifier=identifier.to_bytes(), settle=settle)
        _, said = yield from self._ask(session, question, messages.EvidenceSaid)
        return _word(Evidence, said.evidence)

    def evidence_attempts(
        self, session: Session, coordinator: Guid, after: Attempt, limit: int
    ) -> Script[list[Attempt]]:
        question = messages.ListEvidence(coordinator=coordinator.raw, after=after.to_int(), limit=limit)
        _, said = yield from self._ask(session, question, messages.Attempts)
        return [Attempt.from_int(attempt) for attempt in said.attempts]

    def drop_evidence(self, session: Session, coordinator: Guid, attempts: Sequence[Attempt]) -> Script[int]:
        raw = tuple(attempt.to_int() for attempt in attempts)
        question = messages.DropEvidence(coordinator=coordinator.raw, attempts=raw)
        _, said = yield from self._ask(session, question, messages.Dropped)
        return said.rows

    # --- what errors mean ------------------------------------------------------------------------------------

    def is_retryable(self, error: BaseException) -> bool:
        return isinstance(error, ServiceAway) or bool(getattr(error, "retryable", False))

    def blockers(self, session: Session) -> Script[str]:
        """The process has said so in its error."""
        return ""
        yield from ()


def _word(kind: type[W], name: str) -> W:
    try:
        return kind[name]
    except KeyError:
        raise ConnectionLost(f"{name!r} is no {kind.__name__}: another version of Syncpoint answered.") from None


def _own(session: Session) -> ProcessSession:
    assert isinstance(session, ProcessSession)
    return session
