"""A subordinate manager as its superior sees it: one more resource manager, asked over messages (B10).

Its GUID is that of its coordinator, its name `node-<GUID>`; where it is stands in the forced directory (A6). Nothing is
known here of what it has done: it votes, and finishes, by itself. "Not found" does not occur: a subordinate that knows
nothing of a branch has either never voted or finished it, and says so (protocol/subordinate.py, judge_unknown).
Not for: taking part (manager/joining.py), or how messages travel (ports.Exchange).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from syncpoint.errors import ConnectionLost, NotAllowed, ResourceUnavailable
from syncpoint.ids import Attempt, Guid, Identifier
from syncpoint.messages import Message
from syncpoint.ports import Clock, Exchange, Random
from syncpoint.resources.base import (
    Answer,
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
from syncpoint.resources.subordinate_messages import (
    AskInDoubt,
    Greet,
    Greeting,
    InDoubt,
    Prepare,
    Tell,
    Told,
    Voted,
)
from syncpoint.steps import Script

M = TypeVar("M", bound=Message)

NODE_PREFIX = "node-"
GREET_S_MAX = 2.0
PREPARE_S_MIN = 1.0
TELL_S_MAX = 5.0


def node_name(guid: Guid) -> str:
    """The resource name of the subordinate with this GUID."""
    return f"{NODE_PREFIX}{guid}"


class SubordinateSession(Session):
    """One branch at a subordinate, or nothing but its address."""

    __slots__ = ("address", "attempt", "deadline")

    def __init__(self, address: str, attempt: Attempt | None = None, deadline: float = 0.0) -> None:
        super().__init__()
        self.address = address
        self.deadline = deadline
        """Of the transaction, in monotonic seconds: no vote is waited for much longer."""
        self.attempt = attempt
        """Which work there has joined."""


class SubordinateResource(Resource):
    """A manager that takes part under this one. Not made from a URL: it joins."""

    scheme = "node"
    needs_vote = True

    def __init__(
        self,
        guid: Guid,
        *,
        superior: Callable[[], Guid],
        exchange: Exchange,
        address: Callable[[], str],
        mode: Mode,
        clock: Clock,
        random: Random,
    ) -> None:
        """`superior` and `address` are asked each time: whose journal it is, and where the subordinate is now."""
        super().__init__(node_name(guid), "", {}, mode=mode, clock=clock, random=random)
        self.guid = guid
        self.superior = superior
        self._exchange = exchange
        self._address = address

    @property
    def safe_url(self) -> str:
        return f"node://{self._address() or '?'}"

    # --- messages ------------------------------------------------------------------------------------

    def _ask(self, session: Session, question: Message, answer: type[M], seconds: float) -> Script[M]:
        said = yield from self._exchange.ask(_own(session).address, question, seconds)
        if not isinstance(said, answer):
            raise ConnectionLost(f"{self.safe_url} answered {type(question).__name__} with {type(said).__name__}.")
        return said

    # --- connections ---------------------------------------------------------------------------------

    def open(self) -> Script[Session]:
        address = self._address()
        if not address:
            raise ResourceUnavailable(
                f"Where the subordinate {self.guid} is reached is not known.",
                advice="It is known again as soon as it asks for an outcome.",
            )
        return SubordinateSession(address)
        yield from ()

    def is_usable(self, session: Session) -> bool:
        return super().is_usable(session) and _own(session).address == self._address()

    def close(self, session: Session) -> Script[None]:
        return
        yield from ()

    def abandon(self, session: Session) -> None:
        session.broken = True

    # --- set-up ----------------------------------------------------------------------------------------

    def init_statements(self) -> Sequence[str]:
        return ()

    def initialise(self, session: Session) -> Script[None]:
        return
        yield from ()

    def inspect(self, session: Session) -> Script[list[Finding]]:
        return []
        yield from ()

    def contact(self, session: Session, contact: Contact) -> Script[Guid]:
        greeting = yield from self._ask(session, Greet(), Greeting, GREET_S_MAX)
        if greeting.guid != self.guid.raw:
            raise ResourceUnavailable(
                f"At {self.safe_url} there is now the manager {greeting.guid.hex()}, not {self.guid}.",
                advice="Start the manager with the journal that it had.",
            )
        return self.guid

    # --- a branch's life ---------------------------------------------------------------------------------

    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        return
        yield from ()

    def connection(self, session: Session) -> NoReturn:
        raise NotAllowed(
            f"{self.name} is a manager that takes part in this transaction, and no database.",
            advice="Send it a context: tx.export().",
        )

    def savepoint(self, session: Session, name: str) -> Script[None]:
        return
        yield from ()

    def release_savepoint(self, session: Session, name: str) -> Script[None]:
        return
        yield from ()

    def rollback_to_savepoint(self, session: Session, name: str) -> Script[None]:
        """What it has done since then cannot be told apart there: the whole transaction is doomed."""
        raise NotAllowed(
            "A nested block cannot be rolled back alone after another manager has joined the transaction.",
            advice="The whole transaction is aborted. Export outside of nested blocks, or let errors end all of it.",
        )
        yield from ()

    def prepare(self, session: Session) -> Script[Vote]:
        own = _own(session)
        assert own.identifier is not None
        assert own.attempt is not None
        question = Prepare(identifier=own.identifier.to_bytes(), attempt=own.attempt.to_int())
        seconds = max(PREPARE_S_MIN, own.deadline - self.clock.monotonic())
        said = yield from self._ask(session, question, Voted, seconds)
        return Vote(Choice[said.choice], reason=f"at {own.address}: {said.why}", retryable=said.retryable)

    def commit(self, session: Session) -> Script[Answer]:
        return (yield from self._tell(session, _own(session).identifier, commit=True))

    def commit_one_phase(self, session: Session) -> NoReturn:
        raise AssertionError("a subordinate is asked for its vote")

    def abort(self, session: Session) -> Script[Answer]:
        return (yield from self._tell(session, _own(session).identifier, commit=False))

    def _tell(self, session: Session, identifier: Identifier | None, *, commit: bool) -> Script[Answer]:
        assert identifier is not None
        told = yield from self._ask(session, Tell(identifier=identifier.to_bytes(), commit=commit), Told, TELL_S_MAX)
        try:
            answer = Answer[told.answer]
        except KeyError:
            answer = Answer.RETRY
        return Answer.RETRY if answer is Answer.NOT_FOUND else answer

    # --- finding out and finishing -----------------------------------------------------------------------

    def scan(self, session: Session) -> Script[list[Found]]:
        """What it has voted yes on under this coordinator, and has no outcome for."""
        said = yield from self._ask(session, AskInDoubt(superior=self.superior().raw), InDoubt, TELL_S_MAX)
        found = [Identifier.from_bytes(raw) for raw in said.identifiers]
        return [Found(one, str(one), note=f"at {self.safe_url}") for one in found]

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        return (yield from self._tell(session, identifier, commit=commit))

    def evidence(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        return Evidence.UNKNOWN
        yield from ()

    def settle(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        return Evidence.UNKNOWN
        yield from ()

    def evidence_attempts(
        self, session: Session, coordinator: Guid, after: Attempt, limit: int
    ) -> Script[list[Attempt]]:
        return []
        yield from ()

    def drop_evidence(self, session: Session, coordinator: Guid, attempts: Sequence[Attempt]) -> Script[int]:
        return 0
        yield from ()

    # --- what errors mean --------------------------------------------------------------------------------

    def is_retryable(self, error: BaseException) -> bool:
        return False

    def blockers(self, session: Session) -> Script[str]:
        return ""
        yield from ()


class Joining:
    """Where the session of a branch that joined comes from, and goes to: `pool.Sessions`. There is nothing to keep."""

    def acquire(self, deadline_monotonic: float) -> Any:
        raise AssertionError("it has its session from the beginning")

    def release(self, session: Session) -> Script[None]:
        return
        yield from ()

    def discard(self, session: Session) -> Script[None]:
        return
        yield from ()

    def abandon(self) -> None:
        return


def _own(session: Session) -> SubordinateSession:
    assert isinstance(session, SubordinateSession)
    return session
