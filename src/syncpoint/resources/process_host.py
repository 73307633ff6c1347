"""A resource manager's process: any adapter, served to managers in other processes (B1, B2).

    host = ProcessHost(resource, runner, clock)
    raw = yield from host.answer("app-1f3a…", raw)          # a question of process_messages.py, and its answer

One branch has one session of the adapter's, from Begin to its outcome. What has not voted is rolled back when its
manager's process is gone, leaves it, or is out of time; what has voted stays until somebody tells its outcome, on the
session or by identifier. Writers of a single-writer resource stand in one line, whatever process they are of.

From `service.serve_as` on every change is made as that incarnation (B7): the adapter checks it in the data. The first
time that it says that it is fenced off ends everything (`service.fenced`).

Not for: who may ask, enrolling and taking over (process_driver.py).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from syncpoint.errors import (
    ConfigurationError,
    ConnectionLost,
    FormatTooNew,
    ResourceUnavailable,
    SyncpointError,
)
from syncpoint.ids import Identifier
from syncpoint.messages import BadMessage, Message
from syncpoint.ports import Clock, Runtime
from syncpoint.protocol.words import Evidence
from syncpoint.resources import process_messages as messages
from syncpoint.resources.base import Answer, BranchStart, Choice, Resource, Session, Vote
from syncpoint.resources.pool import Pool, Turn
from syncpoint.resources.process_failures import CONNECTION_LOST, failure_of
from syncpoint.resources.process_messages import RESOURCE_VOCABULARY, Failure
from syncpoint.resources.process_service import ProcessService
from syncpoint.resources.process_session import Hosted, HostedSessions, Place, TooManySessions
from syncpoint.resources.process_work import ANSWER_BYTES_MAX, invoke, run_sql
from syncpoint.steps import Blocking, Script

__all__ = ["SESSIONS_MAX", "ProcessHost"]

SESSIONS_MAX: Final = 256
OVERDUE_S: Final = 5.0
"""How long after its transaction's time a branch that has not voted is rolled back: its manager will have done so."""
SEIZE_S: Final = 2.0
LOOK_S: Final = 0.05
GONE_MAX: Final = 1000


class ProcessHost:
    """See the file's opening. On a thread runner.

    Parameters: `resource`, attached already, in the mode "sync"; `sessions_max`, how many branches at once. Raises
    ConfigurationError when the resource has no redo: then no backup could finish what it voted on.
    """

    def __init__(self, resource: Resource, runtime: Runtime, clock: Clock, *, sessions_max: int = SESSIONS_MAX) -> None:
        if not resource.has_redo:
            raise ConfigurationError(
                f"The resource {resource.name!r} ({resource.scheme}) has no redo, so no process can take over for it.",
                advice="Let applications use it themselves.",
            )
        self.resource = resource
        self._gone: deque[str] = deque(maxlen=GONE_MAX)
        """Managers' processes that are gone. Their names are random: none comes again."""
        self.backlog = 0
        """Questions that are being carried out or wait."""
        self._runtime = runtime
        self._clock = clock
        self._mutex = runtime.mutex()
        self.sessions = HostedSessions(runtime, sessions_max)
        self.pool = Pool(resource, runtime, clock, size_max=sessions_max)
        self.service = ProcessService(resource, runtime, clock)
        self.turn = Turn(runtime, clock, resource.name) if resource.single_writer else None

    def __repr__(self) -> str:
        return f"<ProcessHost {self.resource.name} as {self.service.incarnation} {self.sessions!r}>"

    # --- for its driver --------------------------------------------------------------------------------------

    def in_doubt(self) -> tuple[int, int]:
        """How many branches have voted yes and have no outcome; the age of the oldest in milliseconds."""
        since = [one.voted_at for one in self.sessions.in_doubt() if one.voted_at is not None]
        oldest_s = max((self._clock.monotonic() - one for one in since), default=0.0)
        return len(since), int(oldest_s * 1000)

    def manager_gone(self, process: str) -> Script[None]:
        """A manager's process is gone: what has not voted is rolled back."""
        self._gone.append(process)
        for hosted in self.sessions.alive():
            if hosted.process == process:
                yield from self._give_up(hosted, f"its manager's process {process} is gone")

    def tend(self) -> Script[None]:
        """Called every so often: roll back what its manager has forgotten, and see to what could not be done."""
        if not self.sessions.in_doubt():
            yield from self.service.leave_contacts()
        now = self._clock.monotonic()
        for hosted in self.sessions.alive():
            if hosted.process in self._gone:  # it stood in line, or was at work, when that was said
                yield from self._give_up(hosted, f"its manager's process {hosted.process} is gone", LOOK_S)
            elif hosted.deadline and now > hosted.deadline + OVERDUE_S:
                yield from self._give_up(hosted, "its transaction's time was over", LOOK_S)

    def close(self) -> Script[None]:
        """Keep nothing open. What has not voted is rolled back; what has stays in doubt in the data."""
        if self.turn is not None:
            self.turn.close()
        yield from self.pool.close()
        yield from self.service.close()
        for hosted in self.sessions.alive():
            if (yield from self.sessions.seize(hosted, SEIZE_S)):
                session = hosted.session
                self._over(hosted, "the process has stopped")
                self.sessions.release(hosted)
                if session is not None:
                    yield from self.pool.discard(session)

    def _give_up(self, hosted: Hosted, why: str, seconds: float = SEIZE_S) -> Script[None]:
        """Roll it back unless it has voted. One that is at work just now is seen to by the next round."""
        if hosted.has_voted or not (yield from self.sessions.seize(hosted, seconds)):
            return
        try:
            if not hosted.has_voted:
                yield from self._discard(hosted, why)
        finally:
            self.sessions.release(hosted)

    # --- answering -------------------------------------------------------------------------------------------

    def answer(self, process: str, raw: bytes) -> Script[bytes]:
        """The answer to a question of a manager's process (its link's name). Never raises for the question's sake."""
        with self._mutex:
            self.backlog += 1
        try:
            said = yield from self._answer(process, raw)
        finally:
            with self._mutex:
                self.backlog -= 1
        return RESOURCE_VOCABULARY.encode(said)

    def _answer(self, process: str, raw: bytes) -> Script[Message]:
        try:
            question = RESOURCE_VOCABULARY.decode(raw)
        except (BadMessage, FormatTooNew) as error:
            return Failure(kind=ConfigurationError.__name__, message=f"This process does not understand it: {error}")
        if self.service.fenced is not None:
            return failure_of(self.service.fenced, retryable=True)
        try:
            if isinstance(question, messages.Question):
                return (yield from self._of_session(process, question))
            return (yield from self._of_resource(question))
        except Exception as error:
            return self._failure(error)

    def _failure(self, error: Exception) -> Failure:
        self.service.note(error)
        return failure_of(error, retryable=self.resource.is_retryable(error))

    # --- outcomes by identifier ------------------------------------------------------------------------------

    def _of_resource(self, question: Message) -> Script[Message]:
        """A question about no session; but what is alive here is finished on its own session."""
        match question:
            case messages.Meet():
                return (yield from self.service.meet(question, busy=bool(self.sessions.in_doubt())))
            case messages.Finish() | messages.Redo():
                hosted = self.sessions.holding(Identifier.from_bytes(question.identifier))
                commit = isinstance(question, messages.Redo) or question.commit
                answer = None if hosted is None else (yield from self._finish_hosted(hosted, commit=commit))
                if answer is not None:
                    return messages.Ended(answer=answer.name)
            case messages.AskEvidence():
                if self.sessions.holding(Identifier.from_bytes(question.identifier)) is not None:
                    return messages.EvidenceSaid(evidence=Evidence.UNDECIDED.name)
        return (yield from self.service.answer(question))

    def _finish_hosted(self, hosted: Hosted, *, commit: bool) -> Script[Answer | None]:
        """None: it is not alive any more."""
        if not (yield from self.sessions.seize(hosted, SEIZE_S)):
            return None if hosted.why_ended else Answer.RETRY
        try:
            if not hosted.has_voted and commit:
                return Answer.RETRY  # its vote is being asked for elsewhere; nothing is decided without it
            if not hosted.has_voted:
                yield from self._discard(hosted, "it was aborted by identifier")
                return None
            return (yield from self._end_voted(hosted, commit=commit))
        finally:
            self.sessions.release(hosted)

    # --- questions of a session ------------------------------------------------------------------------------

    def _of_session(self, process: str, question: messages.Question) -> Script[Message]:
        hosted = self._find(process, question)
        if not isinstance(hosted, Hosted):
            return hosted
        if hosted.process != process:
            return Failure(kind="NotAllowed", message="This session is another process's.")
        place = yield from self.sessions.take(hosted, question)
        if place is Place.REPEATED:
            assert hosted.answer is not None
            return hosted.answer
        if place is Place.STALE:
            return self._too_late(question, hosted.why_ended or "a later question came before this one")
        answer: Message = Failure(kind=CONNECTION_LOST, message="The process stopped while it was at it.")
        try:
            answer = yield from self._carry_out(hosted, question)
        except Exception as error:
            answer = self._failure(error)
        finally:
            self.sessions.done(hosted, answer)
        return answer

    def _find(self, process: str, question: messages.Question) -> Hosted | Message:
        if not isinstance(question, messages.Begin):
            known = self.sessions.find(question.session)
            if known is not None:
                return known
            if isinstance(question, messages.Leave):
                self.sessions.bar(question.session, process, "it was left before it began")
            return self._too_late(question, "this process does not know it")
        try:
            return self.sessions.enter(question.session, process)
        except TooManySessions:
            return Failure(
                kind="Busy",
                message=f"The process of {self.resource.name!r} has {len(self.sessions)} branches at once.",
                advice="Nothing was done there. Run fewer transactions at once.",
                retryable=True,
            )

    def _too_late(self, question: messages.Question, why: str) -> Message:
        """What is said about a session that is over, or was never here."""
        match question:
            case messages.Leave():
                return messages.Done()
            case messages.Prepare():
                return messages.Voted(choice=Choice.NO.name, why=f"the branch is over: {why}", retryable=True)
            case messages.AskWrote():
                return messages.Wrote(wrote=None)
            case messages.End() | messages.CommitOnePhase():
                return Failure(kind=CONNECTION_LOST, message=f"What became of the branch is not known here: {why}.")
        return Failure(
            kind="TransactionEnded",
            message=f"The branch at the resource {self.resource.name!r} is over: {why}.",
            advice="Nothing was done. Run the transaction again.",
        )

    def _carry_out(self, hosted: Hosted, question: messages.Question) -> Script[Message]:
        if isinstance(question, messages.Begin):
            return (yield from self._begin(hosted, question))
        session = hosted.session
        if session is None:
            return self._too_late(question, hosted.why_ended or "it has not begun")
        resource = self.resource
        match question:
            case messages.Execute():
                connection = resource.connection(session)
                rows: Message = yield Blocking(lambda: run_sql(connection, question), "SQL")
                return rows
            case messages.Invoke():
                work = resource.connection(session)
                value: Message = yield Blocking(lambda: invoke(work, question), question.method)
                return value
            case messages.Savepoint():
                yield from self._savepoint(session, question)
                return messages.Done()
            case messages.AskWrote():
                return messages.Wrote(wrote=(yield from resource.wrote(session)))
            case messages.Prepare():
                return (yield from self._prepare(hosted, session))
            case messages.CommitOnePhase():
                return (yield from self._commit_one_phase(hosted, session))
            case messages.End():
                return (yield from self._end(hosted, commit=question.commit))
            case messages.Leave():
                return (yield from self._leave(hosted))
        return Failure(kind=ConfigurationError.__name__, message=f"{type(question).__name__} is no question.")

    def _begin(self, hosted: Hosted, question: messages.Begin) -> Script[Message]:
        hosted.deadline = self._clock.monotonic() + question.remaining_ms / 1000
        identifier = Identifier.from_bytes(question.identifier)
        try:
            if self.turn is not None and not question.read_only:
                try:
                    yield from self.turn.acquire(hosted.deadline, f"transaction {identifier.transaction}")
                except ResourceUnavailable as error:
                    self._over(hosted, error.message)
                    return Failure(kind="Busy", message=error.message, advice=error.advice, retryable=True)
                hosted.has_turn = True
            hosted.session = yield from self._begin_on(hosted, identifier, question.read_only)
        except Exception as error:
            self._over(hosted, f"it could not begin: {error}")
            raise
        hosted.identifier = identifier
        return messages.Done()

    def _begin_on(self, hosted: Hosted, identifier: Identifier, read_only: bool) -> Script[Session]:
        """An idle session may have died: nothing of ours was on it, so take the next, and last a fresh one."""
        while True:
            asked_at = self._clock.monotonic()
            session = yield from self.pool.acquire(hosted.deadline)
            left_ms = max(0, int((hosted.deadline - self._clock.monotonic()) * 1000))
            try:
                yield from self.resource.begin(session, BranchStart(identifier, left_ms, read_only))
            except ConnectionLost as error:
                is_fresh = session.opened_at >= asked_at
                yield from self.pool.discard(session)
                if is_fresh:
                    raise ResourceUnavailable(error.message, advice=error.advice) from error
            except BaseException:
                yield from self.pool.discard(session)
                raise
            else:
                session.identifier = identifier
                return session

    def _savepoint(self, session: Session, question: messages.Savepoint) -> Script[None]:
        match question.what:
            case "set":
                yield from self.resource.savepoint(session, question.name)
            case "release":
                yield from self.resource.release_savepoint(session, question.name)
            case "rollback":
                yield from self.resource.rollback_to_savepoint(session, question.name)

    def _prepare(self, hosted: Hosted, session: Session) -> Script[Message]:
        if hosted.has_voted:
            return Failure(kind=SyncpointError.__name__, message="The branch has voted already.")
        try:
            vote = yield from self.resource.prepare(session)
        except BaseException:
            yield from self._discard(hosted, "its vote failed")
            raise
        if len(vote.state) > ANSWER_BYTES_MAX:
            yield from self.resource.abort(session)
            why = f"its state information has {len(vote.state)} bytes, and at most {ANSWER_BYTES_MAX} can be kept"
            vote = Vote(Choice.NO, reason=f"{why}; change less in one transaction")
        return (yield from self._voted(hosted, vote))

    def _voted(self, hosted: Hosted, vote: Vote) -> Script[Message]:
        if vote.choice is Choice.YES:
            hosted.voted_at = self._clock.monotonic()
        else:
            yield from self._let_go(hosted, "it did not vote yes")
        return messages.Voted(
            choice=vote.choice.name,
            state=vote.state,
            why=vote.reason[:9000],
            retryable=vote.retryable,
            incarnation=self.service.incarnation,
        )

    def _commit_one_phase(self, hosted: Hosted, session: Session) -> Script[Message]:
        try:
            said = yield from self.resource.commit_one_phase(session)
        except BaseException:
            yield from self._discard(hosted, "its commit failed")
            raise
        if isinstance(said, Vote):
            return (yield from self._voted(hosted, said))
        yield from self._let_go(hosted, "it is committed")
        return messages.Ended(answer=said.name)

    def _end(self, hosted: Hosted, *, commit: bool) -> Script[Message]:
        if hosted.has_voted:
            answer = yield from self._end_voted(hosted, commit=commit)
            return messages.Ended(answer=answer.name)
        if commit:
            return Failure(kind=CONNECTION_LOST, message="The branch has not voted, so it cannot be committed here.")
        session = hosted.session
        assert session is not None
        answer = yield from self.resource.abort(session)
        yield from self._let_go(hosted, "it was aborted")
        return messages.Ended(answer=answer.name)

    def _end_voted(self, hosted: Hosted, *, commit: bool) -> Script[Answer]:
        """Phase two. When it cannot be done on its session, that is given up, and it is finished by identifier."""
        session = hosted.session
        assert session is not None
        try:
            answer = yield from self.resource.commit(session) if commit else self.resource.abort(session)
        except BaseException as error:
            session.broken = True
            self.service.note(error)
            yield from self._discard(hosted, f"its end failed: {error}")
            raise
        if answer is Answer.RETRY and not session.broken:
            return answer  # readers are in the way: the same may be tried again
        yield from self._let_go(hosted, "it has its outcome, or was lost before")
        return answer

    def _leave(self, hosted: Hosted) -> Script[Message]:
        if not hosted.has_voted:
            yield from self._discard(hosted, "its manager left it")
        return messages.Done()

    # --- sessions' ends --------------------------------------------------------------------------------------

    def _over(self, hosted: Hosted, why: str) -> None:
        self.sessions.end(hosted, why)
        if hosted.has_turn:
            hosted.has_turn = False
            assert self.turn is not None
            self.turn.release()

    def _let_go(self, hosted: Hosted, why: str) -> Script[None]:
        """Its branch has ended in order."""
        session = hosted.session
        if session is not None:
            session.identifier = None
            yield from self.pool.release(session)
        self._over(hosted, why)

    def _discard(self, hosted: Hosted, why: str) -> Script[None]:
        """Close its session: what has not voted is rolled back by that."""
        session = hosted.session
        if session is not None:
            yield from self.pool.discard(session)
        self._over(hosted, why)
