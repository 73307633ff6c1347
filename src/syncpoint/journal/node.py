"""The journal that the node of this site keeps: `journal="node://unix:///run/syncpoint/node.sock"`.

Every method is a question to the node (node_messages.py), which holds a folder journal of its own open for this
process: a *session*, one incarnation. So it is as good as a folder, and needs no disk here.

    certainly not asked .................... JournalUnavailable: nothing was written
    the answer was lost .................... asked again under the same number, for a while; then JournalUncertain:
                                             writing Abort settles it (O46)
    the session is over .................... the node took us for dead, or was restarted: what we had not decided is
                                             aborted, and what begins from now on is another incarnation's

A wrong guess of our death costs one retry, never correctness: the node refuses whatever an incarnation wants to decide
whose session is over. Not for: sockets (link/), what the node does (node/journal_host.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

from syncpoint.errors import (
    ConnectionLost,
    JournalError,
    JournalRefused,
    JournalUnavailable,
    JournalUncertain,
    ManagerClosed,
    MessageTooLarge,
    ResourceUnavailable,
    SyncpointError,
)
from syncpoint.ids import Attempt, Guid, Incarnation, Key, TransactionId
from syncpoint.journal import node_messages as say
from syncpoint.journal.base import Claim, Journal, Story, Verdict, View
from syncpoint.journal.node_carried import Carried
from syncpoint.journal.node_link import NodeLink
from syncpoint.journal.node_reading import Pages, read_all, read_keyed, view_of
from syncpoint.journal.wire import take_turn
from syncpoint.marks import sometimes
from syncpoint.messages import Message
from syncpoint.ports import Clock, Connected, LinkEvent, Peer, Random, Runtime
from syncpoint.records import (
    Commit,
    CoordinatorKnown,
    Heuristic,
    Record,
    Resolved,
    ResourceKnown,
    decode_record,
    encode_record,
)
from syncpoint.resources.pool import Turn
from syncpoint.steps import Script, Wait

T = TypeVar("T")
M = TypeVar("M", bound=Message)

ANSWER_S_MAX = 10.0
"""How long an answer is waited for, with all repetitions."""
AWAY_S_MAX = 2.0
"""After a lost connection: how long to try to ask again."""
PAUSE_S = 0.05
FLUSH_AFTER_S = 0.05
"""What can wait is sent so long after it came up, unless a question takes it along before."""
CLOSE_S_MAX = 5.0
OPEN_S_MAX = 3.0
"""At the start: how long to go on trying to reach the node, which may be starting too."""


class SessionEnded(JournalUnavailable):
    """The session of this question is over: nothing of it was done."""


class Session:
    """One incarnation of this process at the node."""

    def __init__(self, number: int, incarnation: Incarnation) -> None:
        self.number = number
        self.incarnation = incarnation

    def __repr__(self) -> str:
        return f"<session {self.number} incarnation={self.incarnation}>"


class NodeJournal(Journal):
    """Parameters: `link` to the node, opened and closed by this journal; `place`, where we run, for people."""

    keeps_promises = True

    def __init__(self, link: NodeLink, *, clock: Clock, random: Random, place: str = "") -> None:
        self.link = link
        self._clock = clock
        self._random = random
        self._place = place
        self._state = "new"
        self._failure: JournalError | None = None
        """The journal there is not the one any more that was opened: nothing may be done with it."""
        self._session: Session | None = None
        self._sessions = 0
        self._own: set[Incarnation] = set()
        self._counter = 0
        self._known: list[ResourceKnown | CoordinatorKnown] = []
        self._is_doubtful = False
        """The connection was lost, and came about again: is the session still ours?"""

    def __repr__(self) -> str:
        return f"<NodeJournal {self.link!r} {self._state} {self._session!r}>"

    # --- open and close ----------------------------------------------------------------------------------------

    def open(self, runtime: Runtime) -> Script[None]:
        """See `Journal.open`. Raises JournalUnavailable too, when the node cannot be reached."""
        assert self._state == "new", f"{self!r} is opened once"
        self._runtime = runtime
        self._mutex = runtime.mutex()
        self._carried = Carried(self._mutex, runtime.signal())
        self._anew = Turn(runtime, self._clock, "the next session with the node")
        self._ending = runtime.signal()
        self.link.desks.append(self)
        self.link.open(runtime, self._random)
        self._state = "open"
        try:
            yield from self._open_first()
        except BaseException:
            self._state = "closed"
            self.link.close()
            raise
        self._flushing = runtime.spawn(self._flush_soon(), "what the journal at the node writes later")

    def _open_first(self) -> Script[None]:
        deadline = self._clock.monotonic() + OPEN_S_MAX
        while True:
            try:
                yield from self._ready(first=True)
                return
            except JournalUnavailable:
                if self._clock.monotonic() >= deadline:
                    raise
            yield Wait(self._ending, PAUSE_S)

    def close(self) -> Script[None]:
        """See `Journal.close`. A node that is away keeps nobody from ending: then we are taken for dead."""
        if self._state != "open":
            return
        self._ending.set()
        self._flushing.stop()
        yield Wait(self._flushing.ended, CLOSE_S_MAX)
        session = self._session
        self._state = "closing"
        try:
            if session is not None:
                with suppress(SyncpointError):
                    yield from self._ask_in(session, say.CloseSession, say.Kept, "close", seconds=CLOSE_S_MAX)
        finally:
            self._state = "closed"
            self.link.close()

    def abandon(self) -> None:
        """See `Journal.abandon`. The parent's connection stays its own; its socket here carries nothing."""
        self._state = "abandoned"
        self._session = None

    def _check_usable(self) -> None:
        if self._state != "open":
            raise ManagerClosed(f"The journal at {self.link.node} is {self._state}.", advice="Open a new manager.")
        if self._failure is not None:
            raise self._failure

    # --- the session -------------------------------------------------------------------------------------------

    @property
    def incarnation(self) -> Incarnation:  # type: ignore[override]
        return max(self._own, default=Incarnation(0))

    def _ready(self, *, first: bool = False) -> Script[Session]:
        """The session; a new one is drawn when there is none. Raises JournalRefused, JournalUnavailable."""
        self._check_usable()
        session = self._session
        if session is not None:
            return session
        yield from take_turn(self._anew, self._clock)
        try:
            if self._session is None:
                if not first:
                    sometimes("a living application was taken for dead by its node, and drew another incarnation")
                yield from self._draw(first=first)
            assert self._session is not None
            return self._session
        finally:
            self._anew.release()

    def _draw(self, *, first: bool) -> Script[None]:
        self._sessions += 1
        question = say.OpenSession(session=self._sessions, place=self._place)
        try:
            answer = yield from self._insist(question, "open a session")
        except JournalUncertain as error:  # a session nobody uses; the next one ends it
            raise JournalUnavailable(error.message, advice=error.advice) from error
        if isinstance(answer, say.SessionRefused):
            refused = JournalRefused(answer.why, advice=answer.advice)
            self._failure = None if first else refused
            raise refused
        if not isinstance(answer, say.SessionOpened):
            raise JournalUnavailable(
                f"The node {self.link.node} did not open a session: {answer!r}", advice="Try again."
            )
        coordinator, drawn = Guid(answer.coordinator), Incarnation(answer.incarnation)
        if not first and coordinator != self.coordinator:
            self._fail("is not the one any more that this process opened")
        if drawn <= self.incarnation:
            self._fail("has gone back in time: its counter names an incarnation a second time")
        self.coordinator = coordinator
        self._learn(answer.known)
        with self._mutex:
            self._own.add(drawn)
            self._counter = 0
            self._session = Session(self._sessions, drawn)
        self._carried.begin_anew()

    def _fail(self, what: str) -> None:
        self._failure = JournalRefused(
            f"The journal of the node {self.link.node} {what}.",
            advice="Nothing more is done with it. Restore its newest copy, then restart this process.",
        )
        raise self._failure

    def _over(self, session: Session) -> None:
        with self._mutex:
            if self._session is session:
                self._session = None

    def noticed(self, event: LinkEvent) -> None:
        """See `Desk.noticed`."""
        if isinstance(event, Connected) and event.peer.name == self.link.node:
            self._is_doubtful = True

    def answers(self, peer: Peer, question: Message) -> Script[Message] | None:
        """See `Desk.answers`: the node asks a journal nothing."""
        return None

    def watch(self) -> Script[frozenset[Incarnation]]:
        """See `Journal.watch`. Nobody is taken over here: the node does that. But whether we were is looked at."""
        self._check_usable()
        if self._is_doubtful:
            self._is_doubtful = False
            try:
                yield from self.confirm(self.incarnation)
            except BaseException:
                self._is_doubtful = True
                raise
        yield from self._ready()
        return frozenset()

    def confirm(self, incarnation: Incarnation) -> Script[bool]:
        """See `Journal.confirm`."""
        self._check_usable()
        session = self._session
        if session is None or session.incarnation != incarnation:
            return False
        try:
            said = yield from self._ask_in(session, say.AskSession, say.Said, "see whether its session is over")
        except SessionEnded:
            yield from self._ready()
            return False
        return said.yes

    def refused(self) -> Script[None]:
        """See `Journal.refused`."""
        with suppress(SyncpointError):
            yield from self.confirm(self.incarnation)

    # --- asking ------------------------------------------------------------------------------------------------

    def _ask_in(
        self,
        session: Session,
        make: Callable[..., Message],
        wanted: type[M],
        what: str,
        *,
        seconds: float = ANSWER_S_MAX,
    ) -> Script[M]:
        """Raises SessionEnded, JournalUnavailable (not done), JournalUncertain (not known)."""
        load = self._carried.load()
        question = make(session=session.number, number=load.number, noted=load.noted, released=load.released)
        answer = yield from self._insist(question, what, seconds, session)
        self._carried.arrived(load)
        if not isinstance(answer, wanted):
            raise JournalUncertain(f"The node {self.link.node} answered {type(answer).__name__} when asked to {what}.")
        return answer

    def _insist(
        self, question: Message, what: str, seconds: float = ANSWER_S_MAX, session: Session | None = None
    ) -> Script[Message]:
        """Ask until there is an answer: the node knows what it has answered already."""
        node = self.link.node
        lost: SyncpointError | None = None
        deadline = self._clock.monotonic() + seconds
        while True:
            left_s = deadline - self._clock.monotonic()
            try:
                answer = yield from self.link.ask(question, max(PAUSE_S, left_s))
            except ResourceUnavailable as error:
                if lost is None:
                    raise JournalUnavailable(
                        f"The node {node}, which keeps the journal, cannot be reached to {what}.",
                        advice="Nothing was written. Is `syncpoint node` running there?",
                    ) from error
            except MessageTooLarge as error:
                raise JournalUnavailable(f"The node {node} cannot be asked to {what}: {error.message}") from error
            except ConnectionLost as error:
                sometimes("a question to the node's journal was asked again")
                deadline = min(deadline, self._clock.monotonic() + AWAY_S_MAX)
                lost = error
            else:
                if not isinstance(answer, say.SessionOver):
                    return answer
                if session is not None:
                    self._over(session)
                if lost is None or not isinstance(question, say.Force):  # nothing else lasts longer than its session
                    raise SessionEnded(
                        f"The node {node} has ended the session in which it was asked to {what}: {answer.why}",
                        advice="Nothing was written. Run it again.",
                    )
                deadline = 0.0
            if self._clock.monotonic() >= deadline:
                raise JournalUncertain(
                    f"The node {node} did not answer when asked to {what}.", advice="It is found out."
                ) from lost
            yield Wait(self._ending, PAUSE_S)

    def _ask(self, make: Callable[..., Message], wanted: type[M], what: str) -> Script[M]:
        """As `_ask_in`, for what may as well be asked in another session."""
        while True:
            session = yield from self._ready()
            try:
                return (yield from self._ask_in(session, make, wanted, what))
            except SessionEnded:
                continue

    def _flush_soon(self) -> Script[None]:
        while self._state == "open":
            yield Wait(self._carried.wanted, None)
            self._carried.wanted.clear()
            yield Wait(self._ending, FLUSH_AFTER_S)
            session = self._session
            if session is not None and self._carried.has_any():
                with suppress(SyncpointError):
                    yield from self._ask_in(session, say.Flush, say.Kept, "take what is lazy")

    # --- writing -------------------------------------------------------------------------------------------------

    def next_attempt(self) -> Attempt:
        self._check_usable()
        with self._mutex:
            self._counter += 1
            return Attempt(self.incarnation, self._counter)

    def note(self, records: Sequence[Record]) -> None:
        """See `Journal.note`."""
        self._carried.note(records)

    def force(self, records: Sequence[Record]) -> Script[tuple[Verdict, ...]]:
        """See `Journal.force`. A decision of an incarnation whose session is over is refused."""
        self._check_usable()
        if not records:
            yield from self._ask(lambda **of: say.Flush(durable=True, **of), say.Kept, "make durable what was noted")
            return ()
        raw = tuple(encode_record(record) for record in records)
        what = f"force {', '.join(sorted({type(record).__name__ for record in records}))}"
        said = yield from self._ask(lambda **of: say.Force(records=raw, **of), say.Verdicts, what)
        assert len(said.accepted) == len(records), f"{said!r} for {len(records)} records"
        if any(isinstance(record, ResourceKnown | CoordinatorKnown) for record in records):
            known = yield from self._ask(say.AskKnown, say.Records, "read names")
            self._learn(known.records)
        return tuple(Verdict.ACCEPTED if yes else Verdict.REFUSED for yes in said.accepted)

    # --- claims ---------------------------------------------------------------------------------------------------

    def claim(self, transaction: TransactionId) -> Script[Claim]:
        """See `Journal.claim`."""
        self._check_usable()
        was_held = self._carried.is_held(transaction)
        numbers: list[int] = []

        def make(*, number: int, **of: object) -> Message:
            numbers.append(number)
            return say.TakeClaim(transaction=transaction.raw, number=number, **of)  # type: ignore[arg-type]

        kept = False
        try:
            said = yield from self._ask(make, say.Claimed, "claim a transaction's id")
            # Held here already: its own session is over, but whoever has it is not done yet.
            kept = said.mine and not was_held and self._carried.hold(transaction, numbers[-1])
        finally:
            if not kept:
                self._carried.release_numbers(numbers)
        if said.committed:
            record = decode_record(said.committed)
            assert isinstance(record, Commit)
            return Claim(committed=record)
        return Claim(mine=True) if kept else Claim(running=True)

    def release(self, transaction: TransactionId) -> None:
        """See `Journal.release`."""
        self._carried.release(transaction)

    # --- reading --------------------------------------------------------------------------------------------------

    def find(self, transaction: TransactionId) -> Script[Commit | None]:
        """See `Journal.find`."""
        said = yield from self._ask(
            lambda **of: say.Find(transaction=transaction.raw, **of), say.Records, "find a transaction"
        )
        return next((one for one in read_all(said.records) if isinstance(one, Commit)), None)

    def look(self, *, inherit: bool = True) -> Script[View]:
        """See `Journal.look`. It is the node that takes over from the dead, whoever asks."""
        while True:
            session = yield from self._ready()
            pages = Pages()
            try:
                while pages.wants_more():
                    pages.take(
                        (yield from self._ask_in(session, pages.question, say.Looked, "look at what is unfinished"))
                    )
            except SessionEnded:
                continue
            self._learn(pages.known)
            return view_of(pages, self._carried.noted_ends())

    def unended(self, key: Key) -> Script[bool]:
        """See `Journal.unended`."""
        if key in self._carried.noted_ends():
            return False
        raw, attempt = key.transaction.raw, key.attempt.to_int()
        said = yield from self._ask(
            lambda **of: say.AskUnended(transaction=raw, attempt=attempt, **of),
            say.Said,
            "see whether a record has ended",
        )
        return said.yes

    def _learn(self, raw: Iterable[bytes]) -> None:
        self._known = [one for one in read_all(raw) if isinstance(one, ResourceKnown | CoordinatorKnown)]

    def resource(self, name: str) -> Guid | None:
        return next((Guid(one.guid) for one in self.resources() if one.name == name), None)

    def resources(self) -> Sequence[ResourceKnown]:
        return [one for one in self._known if isinstance(one, ResourceKnown)]

    def directory(self) -> Sequence[CoordinatorKnown]:
        return [one for one in self._known if isinstance(one, CoordinatorKnown)]

    def heuristics(self) -> Script[Sequence[Heuristic]]:
        said = yield from self._ask(say.ListNotes, say.Records, "list heuristic outcomes")
        return [one for one in read_all(said.records) if isinstance(one, Heuristic)]

    def resolutions(self) -> Script[Sequence[Resolved]]:
        said = yield from self._ask(
            lambda **of: say.ListNotes(resolutions=True, **of), say.Records, "list what was resolved"
        )
        return [one for one in read_all(said.records) if isinstance(one, Resolved)]

    def story(self, transaction: TransactionId) -> Script[Story]:
        said = yield from self._ask(
            lambda **of: say.AskStory(transaction=transaction.raw, **of), say.Records, "read a transaction's records"
        )
        by = [Incarnation(one) for one in said.by]
        return Story(transaction, tuple(zip(by, read_keyed(said.records), strict=True)))

    def transactions(self) -> Script[Sequence[Key]]:
        said = yield from self._ask(say.ListKeys, say.Keys, "list transactions")
        return [Key(TransactionId(raw), Attempt.from_int(attempt)) for raw, attempt in said.keys]

    def refuse_for_good(self, why: str) -> Script[None]:
        yield from self._ask(lambda **of: say.RefuseForGood(why=why, **of), say.Kept, "refuse this journal for good")

    def highest_incarnation(self) -> Script[Incarnation]:
        said = yield from self._ask(say.AskCounter, say.Incarnations, "read the counter")
        return Incarnation(said.incarnations[0])

    def ended_incarnations(self, candidates: Iterable[Incarnation]) -> Script[frozenset[Incarnation]]:
        """See `Journal.ended_incarnations`."""
        asked = tuple(sorted(set(candidates) - self._own))
        if not asked:
            return frozenset()
        said = yield from self._ask(
            lambda **of: say.AskEnded(candidates=asked, **of), say.Incarnations, "see who has finished"
        )
        return frozenset(Incarnation(one) for one in said.incarnations)
