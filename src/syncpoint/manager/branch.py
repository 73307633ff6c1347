"""One branch of a live transaction: its session, its participant's state, and what it is told.

The scripts here turn what a database did, or a lost reply, into the protocol's words; they never raise for
the database's sake once voting has begun. Not for: rules of commit (protocol/), statements (resources/).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from syncpoint.errors import ConnectionLost, ResourceUnavailable
from syncpoint.ids import Identifier
from syncpoint.manager.handle import ResourceHandle
from syncpoint.marks import sometimes
from syncpoint.protocol.participant import Input, Participant, State
from syncpoint.protocol.words import Answer, Choice
from syncpoint.resources.base import BranchStart, Session, Vote
from syncpoint.resources.pool import Sessions
from syncpoint.steps import Script

FIND_OUT_S_MAX = 2.0
"""How long the caller waits for a branch that did not answer, before recovery goes on with it."""


def driver_errors(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it wraps: SQLAlchemy keeps the driver's own in `orig`."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        wrapped = getattr(error, "orig", None)
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__


class Branch:
    """A branch. Opened once; ended once."""

    __slots__ = (
        "_has_turn",
        "handle",
        "identifier",
        "incarnation",
        "participant",
        "read_only",
        "session",
        "sessions",
        "state",
    )

    def __init__(
        self, handle: ResourceHandle, identifier: Identifier, *, read_only: bool, sessions: Sessions | None = None
    ) -> None:
        self.handle = handle
        self.identifier = identifier
        self.read_only = read_only
        self.participant = Participant()
        self.session: Session | None = None
        self.sessions: Sessions = handle.pool if sessions is None else sessions
        self.state = b""
        self.incarnation = 0
        """Of the resource-manager process that voted."""
        self._has_turn = False

    def __repr__(self) -> str:
        return f"<Branch {self.identifier} at {self.handle.name} {self.participant.state.name}>"

    # --- begin ---------------------------------------------------------------------------------------------

    def open(self, remaining_ms: int, deadline: float) -> Script[None]:
        """Begin on a session of its own. Raises ResourceUnavailable, SetupRefused, or the driver's error."""
        if self.handle.turn is not None and not self.read_only:
            yield from self.handle.turn.acquire(deadline, f"transaction {self.identifier.transaction}")
            self._has_turn = True
        try:
            start = BranchStart(self.identifier, remaining_ms, self.read_only)
            self.session = yield from self._begin(start, deadline)
            self.session.identifier = self.identifier
        except BaseException:
            self._give_turn_back()
            raise

    def _begin(self, start: BranchStart, deadline: float) -> Script[Session]:
        """An idle connection may have died: nothing of ours was on it, so take the next, and last a fresh one."""
        sessions = self.sessions
        while True:
            asked_at = self.handle.clock.monotonic()
            session = yield from sessions.acquire(deadline)
            try:
                yield from self.handle.resource.begin(session, start)
            except ConnectionLost as error:
                fresh = session.opened_at >= asked_at
                sometimes("the connection died while a branch began")
                yield from sessions.discard(session)
                if fresh:
                    raise ResourceUnavailable(
                        f"The connection to resource {self.handle.name!r} was lost while a branch began there.",
                        advice="Nothing was done; try again.",
                    ) from error
            except BaseException:
                yield from sessions.discard(session)
                raise
            else:
                return session

    # --- votes -----------------------------------------------------------------------------------------------

    def wrote(self) -> Script[bool | None]:
        """Whether it wrote; None when only its vote can tell."""
        assert self.session is not None
        if self.read_only:
            return False
        if self.session.broken:
            return None
        try:
            return (yield from self.handle.resource.wrote(self.session))
        except Exception:
            self.session.broken = True  # its vote will say why
            return None

    def prepare(self) -> Script[Vote]:
        """Vote. Raises whatever left the vote unknown: ConnectionLost, or an unexpected error (O16, O17)."""
        assert self.session is not None
        if self.session.broken:
            yield from self._end_session()
            self.participant.take(Input.ABORT)
            self.participant.take(Input.ABORT_DONE)
            return Vote(Choice.NO, reason="its connection was lost before it was asked to prepare", retryable=True)
        self.participant.take(Input.PREPARE)
        try:
            vote = yield from self.handle.resource.prepare(self.session)
        except BaseException:
            self.session.broken = True
            raise
        yield from self._voted(vote)
        return vote

    def _voted(self, vote: Vote) -> Script[None]:
        self.state, self.incarnation = vote.state, vote.incarnation
        said = {Choice.YES: Input.YES, Choice.NO: Input.NO, Choice.READ_ONLY: Input.NOTHING_WRITTEN}
        self.participant.take(said[vote.choice])
        if vote.choice is not Choice.YES:
            yield from self._end_session()

    # --- outcomes ----------------------------------------------------------------------------------------------

    def commit(self) -> Script[Answer]:
        """Phase two. Whatever happens, the answer is a word; RETRY leaves it to recovery (O18)."""
        self.participant.take(Input.COMMIT)
        answer = yield from self._on_own_session(commit=True)
        if answer in (Answer.NOT_FOUND, Answer.RETRY):
            sometimes("phase two got no answer on its own connection")
            yield from self._discard_session()
            answer = yield from self._find_out(commit=True)
        yield from self._ended(answer)
        return answer

    def abort(self, error: BaseException | None) -> Script[Answer]:
        """Roll back, whatever was reached. A vote that may still become durable is left to recovery's scans (O42).

        To `error`, if it is a wait's here, a note is added that names who held what.
        """
        voted = self.participant.state in (State.PREPARING, State.IN_DOUBT)
        vote_unknown = self.participant.state is State.PREPARING
        self.participant.take(Input.ABORT)
        answer = yield from self._on_own_session(commit=False)
        yield from self._explain(error)
        if answer in (Answer.NOT_FOUND, Answer.RETRY):
            yield from self._discard_session()  # without a vote, closing rolls back
            answer = (yield from self._find_out(commit=False)) if voted else Answer.ABORTED
        if vote_unknown:
            self.handle.unfinished = True
            self.handle.wake.set()
        yield from self._ended(answer)
        return answer

    def commit_one_phase(self) -> Script[Answer | Vote]:
        """Commit the lone writer. A lost reply is settled by the evidence (O20), else RETRY."""
        assert self.session is not None
        if self.session.broken:
            return (yield from self.prepare())
        self.participant.take(Input.COMMIT_ONE_PHASE)
        try:
            answer = yield from self.handle.resource.commit_one_phase(self.session)
        except Exception as error:
            self.session.broken = True
            self.handle.trouble = f"{type(error).__name__}: {error}"
            answer = Answer.RETRY
        if isinstance(answer, Vote):
            yield from self._voted(answer)
            return answer
        if answer is Answer.RETRY:
            sometimes("the reply to a one-phase commit was lost")
            yield from self._discard_session()
            answer = yield from self.handle.settle(self.identifier, self._soon())
        yield from self._ended(answer)
        return answer

    def decide(self, statement: Any) -> Script[Answer | Vote]:
        """Commit it with the Commit record inside (`statement`): the decision. COMMITTED; a vote NO when nothing of
        either stays; RETRY when the reply was lost: its session is given up then, and the journal settles it (O46)."""
        assert self.session is not None
        if self.session.broken:
            return (yield from self.prepare())
        self.participant.take(Input.COMMIT_ONE_PHASE)
        try:
            said = yield from self.handle.resource.decide(self.session, statement)
        except Exception as error:
            self.session.broken = True
            self.handle.trouble = f"{type(error).__name__}: {error}"
            yield from self._discard_session()
            return Answer.RETRY
        if isinstance(said, Vote):
            yield from self._voted(said)
        else:
            yield from self._ended(said)
        return said

    def release(self) -> Script[Answer]:
        """It wrote nothing: end it, whichever way."""
        self.participant.take(Input.ABORT)
        yield from self._on_own_session(commit=False)
        yield from self._ended(Answer.ABORTED)
        return Answer.ABORTED

    def give_up(self) -> Script[None]:
        """Let the session go in whatever state; what it held is recovery's."""
        yield from self._discard_session()

    def _on_own_session(self, *, commit: bool) -> Script[Answer]:
        if self.session is None or self.session.broken:
            return Answer.RETRY
        resource = self.handle.resource
        try:
            if commit:
                return (yield from resource.commit(self.session))
            return (yield from resource.abort(self.session))
        except Exception as error:
            self.session.broken = True
            self.handle.trouble = f"{type(error).__name__}: {error}"
            return Answer.RETRY

    def _explain(self, error: BaseException | None) -> Script[None]:
        resource = self.handle.resource
        if error is None or self.session is None or self.session.broken:
            return
        if not any(map(resource.is_retryable, driver_errors(error))):
            return
        who = yield from resource.blockers(self.session)
        if who:
            error.add_note(f"At resource {self.handle.name!r}: {who}")

    def _find_out(self, *, commit: bool) -> Script[Answer]:
        return (
            yield from self.handle.finish(
                self.identifier,
                commit=commit,
                state=self.state,
                deadline=self._soon(),
                keeper=self.identifier.attempt.incarnation,
            )
        )

    def _soon(self) -> float:
        return self.handle.clock.monotonic() + FIND_OUT_S_MAX

    # --- the session ---------------------------------------------------------------------------------------------

    def _ended(self, answer: Answer) -> Script[None]:
        """Take the outcome into the participant's state, and let the session go."""
        if answer is Answer.RETRY:
            self.handle.unfinished = True
            self.handle.wake.set()
            yield from self._discard_session()
            return
        rolled_back = answer in (Answer.ABORTED, Answer.HEURISTIC_ROLLBACK)
        self.participant.take(Input.ABORT_DONE if rolled_back else Input.COMMIT_DONE)
        yield from self._end_session()

    def _end_session(self) -> Script[None]:
        if self.session is not None:
            session, self.session = self.session, None
            session.identifier = None
            yield from self.sessions.release(session)
        self._give_turn_back()

    def _discard_session(self) -> Script[None]:
        if self.session is not None:
            session, self.session = self.session, None
            yield from self.sessions.discard(session)
        self._give_turn_back()

    def _give_turn_back(self) -> None:
        if self._has_turn:
            self._has_turn = False
            assert self.handle.turn is not None
            self.handle.turn.release()
