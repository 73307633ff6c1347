"""One application's session with the node's journal: a folder journal of its own, and what was answered in it.

The incarnation is the session's: a Commit or a Prepared of another one is refused, however it gets here. Two
exceptions, both of what the dead left, which the node's own journal (`heir`) holds: the outcome of a promise to a
superior, asked for by whoever takes part in trees; and an Abort, by which an application finds out about a decision of
its own whose answer was lost before it was taken for dead (O46). Not for: who has which session (journal_host.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from syncpoint.errors import ManagerClosed
from syncpoint.ids import Attempt, Incarnation, Key, TransactionId
from syncpoint.journal import node_messages as say
from syncpoint.journal.base import Verdict
from syncpoint.journal.folder import FolderJournal
from syncpoint.journal.node_reading import key_pair, pages_of
from syncpoint.marks import sometimes
from syncpoint.messages import Message
from syncpoint.ports import Runtime, Signal
from syncpoint.records import Abort, Commit, End, KeyedRecord, Prepared, Record, decode_record, encode_record
from syncpoint.steps import Script, Wait

ONCE_MAX = 2000
"""So many answers are kept, to be given a second time."""
SNAPSHOTS_MAX = 4
SECOND_S_MAX = 30.0


class Once:
    """A question that must have one effect, and its answer when there is one."""

    def __init__(self, done: Signal) -> None:
        self.done = done
        self.answer: Message | None = None


class HostedSession:
    """Parameters: `application`, the link's name of its process, and its `instance`; the session's `number` there;
    `journal`, not open yet; `heir`, the node's own; `place`, for people."""

    def __init__(
        self,
        *,
        application: str,
        instance: bytes,
        number: int,
        journal: FolderJournal,
        heir: FolderJournal,
        runtime: Runtime,
        place: str,
    ) -> None:
        self.application = application
        self.instance = instance
        self.number = number
        self.journal = journal
        self.place = place
        self.begun = runtime.signal()
        """Set when the journal is open, or never will be."""
        self.is_open = False
        self.over = ""
        """Why it is over, from the moment on when nothing more is taken."""
        self.closed = runtime.signal()
        """Set when it is closed: nothing more can be decided under its incarnation."""
        self.lost_at: float | None = None
        """Since when its application is not connected."""
        self._heir = heir
        self._runtime = runtime
        self._mutex = runtime.mutex()
        self._once: dict[int, Once] = {}
        self._claims: dict[int, TransactionId] = {}
        self._released_early: set[int] = set()
        self._snapshots: dict[int, list[say.Looked]] = {}
        self._answers: dict[type[Message], Callable[[Any], Script[Message]]] = {
            say.Force: lambda question: self._only_once(question, self._force),
            say.TakeClaim: lambda question: self._only_once(question, self._claim),
            say.Look: self._look,
            say.Find: self._find,
            say.AskStory: self._story,
            say.ListNotes: self._notes,
            say.AskKnown: self._known,
            say.ListKeys: self._keys,
            say.AskCounter: self._counter,
            say.AskEnded: self._ended,
            say.AskUnended: self._unended,
            say.AskSession: self._session,
            say.RefuseForGood: self._refuse_for_good,
            say.Flush: self._flush,
        }

    def __repr__(self) -> str:
        state = "over" if self.over else "open" if self.is_open else "opening"
        return f"<session {self.number} of {self.application} {state}, {self.journal!r}>"

    def answer(self, question: say.OfSession) -> Script[Message]:
        """The answer. Raises ManagerClosed when the session is over meanwhile, and JournalError."""
        self._take_along(question)
        return (yield from self._answers[type(question)](question))

    # --- what every question takes along ------------------------------------------------------------------------

    def _take_along(self, question: say.OfSession) -> None:
        for raw in question.noted:
            record = decode_record(raw)
            if isinstance(record, End):  # all else is to be forced
                (self.journal if self._is_own(record) else self._heir).note((record,))
        with self._mutex:
            released = {number: self._claims.pop(number, None) for number in question.released}
            self._released_early |= {number for number, transaction in released.items() if transaction is None}
        for transaction in released.values():
            if transaction is not None:
                self.journal.release(transaction)

    def _is_own(self, record: KeyedRecord) -> bool:
        return record.key.attempt.incarnation == self.journal.incarnation

    def _only_once(self, question: Any, carry_out: Callable[[Any], Script[Message]]) -> Script[Message]:
        with self._mutex:
            once = self._once.get(question.number)
            is_first = once is None
            if once is None:
                once = self._once[question.number] = Once(self._runtime.signal())
                while len(self._once) > ONCE_MAX:
                    del self._once[next(iter(self._once))]
        if not is_first:
            sometimes("a question arrived at the node's journal a second time")
            yield Wait(once.done, SECOND_S_MAX)
            if once.answer is None:
                raise ManagerClosed("The first of these questions was not answered either.")
            return once.answer
        try:
            once.answer = yield from carry_out(question)
        finally:
            once.done.set()
        return once.answer

    # --- writing --------------------------------------------------------------------------------------------------

    def _force(self, question: say.Force) -> Script[Message]:
        records = [decode_record(raw) for raw in question.records]
        accepted = [False] * len(records)
        own: list[int] = []
        inherited: list[int] = []
        for place, record in enumerate(records):
            if isinstance(record, Commit | Prepared | Abort | End) and not self._is_own(record):
                if self._is_of_the_dead(record):
                    inherited.append(place)
                else:
                    sometimes("a decision of an incarnation whose session is over was refused")
            else:
                own.append(place)
        # Its own first: when the session is over, nothing at all was done.
        yield from self._force_in(self.journal, records, own, accepted)
        yield from self._force_in(self._heir, records, inherited, accepted)
        return say.Verdicts(accepted=tuple(accepted))

    def _is_of_the_dead(self, record: Commit | Prepared | Abort | End) -> bool:
        if isinstance(record, Commit):
            return self._heir.has_promised(record.key)
        return not isinstance(record, Prepared)

    def _force_in(
        self, journal: FolderJournal, records: list[Any], places: list[int], accepted: list[bool]
    ) -> Script[None]:
        if not places:
            return
        if journal is self._heir:
            yield from journal.find(records[places[0]].key.transaction)  # first, take over what the dead left
        chosen: list[Record] = [records[place] for place in places]
        verdicts = yield from journal.force(chosen)
        for place, verdict in zip(places, verdicts, strict=True):
            accepted[place] = verdict is Verdict.ACCEPTED

    def _flush(self, question: say.Flush) -> Script[Message]:
        if question.durable:
            yield from self.journal.force(())
        return say.Kept()

    # --- claims ---------------------------------------------------------------------------------------------------

    def _claim(self, question: say.TakeClaim) -> Script[Message]:
        transaction = TransactionId(question.transaction)
        claim = yield from self.journal.claim(transaction)
        if claim.mine:
            with self._mutex:
                is_released = question.number in self._released_early
                if not is_released:
                    self._claims[question.number] = transaction
            if is_released:  # its application did not wait for this answer
                self.journal.release(transaction)
        committed = b"" if claim.committed is None else encode_record(claim.committed)
        return say.Claimed(mine=claim.mine, running=claim.running, committed=committed)

    # --- reading --------------------------------------------------------------------------------------------------

    def _look(self, question: say.Look) -> Script[Message]:
        if question.page == 0:
            view = yield from self.journal.look()
            dead = {key: one for key, one in view.promised_elsewhere.items() if self._heir.has_promised(key)}
            # What the dead promised to superiors may be settled by any application that takes part in trees.
            view = replace(
                view,
                promised={**view.promised, **dead},
                promised_elsewhere={key: one for key, one in view.promised_elsewhere.items() if key not in dead},
            )
            with self._mutex:
                pages = self._snapshots[question.of] = pages_of(view, self._names())
                while len(self._snapshots) > SNAPSHOTS_MAX:
                    del self._snapshots[next(iter(self._snapshots))]
        with self._mutex:
            pages = self._snapshots.get(question.of, [])
        if question.page >= len(pages):
            raise ManagerClosed("That snapshot is not kept any more.")
        return pages[question.page]

    def _names(self) -> list[Record]:
        return [*self.journal.resources(), *self.journal.directory()]

    def names(self) -> tuple[bytes, ...]:
        """What is known of resources and coordinators."""
        return tuple(encode_record(record) for record in self._names())

    def _known(self, question: say.AskKnown) -> Script[Message]:
        return say.Records(records=self.names())
        yield from ()

    def _find(self, question: say.Find) -> Script[Message]:
        commit = yield from self.journal.find(TransactionId(question.transaction))
        return say.Records(records=() if commit is None else (encode_record(commit),))

    def _story(self, question: say.AskStory) -> Script[Message]:
        story = yield from self.journal.story(TransactionId(question.transaction))
        return say.Records(
            records=tuple(encode_record(record) for _, record in story.records),
            by=tuple(int(incarnation) for incarnation, _ in story.records),
        )

    def _notes(self, question: say.ListNotes) -> Script[Message]:
        listed = yield from self.journal.resolutions() if question.resolutions else self.journal.heuristics()
        return say.Records(records=tuple(encode_record(record) for record in listed))

    def _keys(self, question: say.ListKeys) -> Script[Message]:
        keys = yield from self.journal.transactions()
        return say.Keys(keys=tuple(key_pair(key) for key in keys))

    def _counter(self, question: say.AskCounter) -> Script[Message]:
        highest = yield from self.journal.highest_incarnation()
        return say.Incarnations(incarnations=(highest,))

    def _ended(self, question: say.AskEnded) -> Script[Message]:
        ended = yield from self.journal.ended_incarnations([Incarnation(one) for one in question.candidates])
        return say.Incarnations(incarnations=tuple(sorted(ended)))

    def _unended(self, question: say.AskUnended) -> Script[Message]:
        key = Key(TransactionId(question.transaction), Attempt.from_int(question.attempt))
        return say.Said(yes=(yield from self.journal.unended(key)))

    def _session(self, question: say.AskSession) -> Script[Message]:
        return say.Said(yes=not self.over)
        yield from ()

    def _refuse_for_good(self, question: say.RefuseForGood) -> Script[Message]:
        yield from self.journal.refuse_for_good(question.why)
        return say.Kept()
