"""The journal in a database: decisions are rows that any process reaches, on machines without a durable disk.

Each process draws an incarnation and gives signs of life (heartbeat.py of the statements: a row of its own). Death is
only guessed from their absence, and a wrong guess costs one retry, never correctness: whoever takes over becomes the
*keeper* of the dead one's incarnation first, and from then on no Commit of that incarnation can appear (statements.py
says why). So "no record" means abort for whatever the dead one left, and the one taken for dead aborts what it had not
decided, draws another incarnation and goes on. Absent evidence proves something only to who has not been taken over
himself (`confirm`): the keeper cleans up.

When the journal's own database takes part in a transaction, its branch carries the record (`decision`).
Not for: SQL (statements.py), what each database says differently (store.py), or the rules of commit (protocol/).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from syncpoint.errors import (
    ConnectionLost,
    JournalUnavailable,
    JournalUncertain,
    ManagerClosed,
)
from syncpoint.ids import Attempt, Guid, Incarnation, Key, TransactionId
from syncpoint.journal import rows
from syncpoint.journal.base import Claim, Journal, Story, Verdict, View
from syncpoint.journal.database_opening import Opened, draw, open_head
from syncpoint.journal.index import Index
from syncpoint.journal.statements import Statements
from syncpoint.journal.store import Said, Store, Trouble
from syncpoint.journal.wire import REACH_S_MAX, Wire
from syncpoint.ports import Clock, Random, Runtime
from syncpoint.records import (
    Abort,
    Commit,
    CoordinatorKnown,
    End,
    Heuristic,
    KeyedRecord,
    Record,
    Resolved,
    ResourceKnown,
)
from syncpoint.resources.pool import Turn
from syncpoint.steps import Script, Sleep, Wait

BUSY_TRIES = 5
BUSY_PAUSE_S = 0.05
END_BATCH = 200
CLEAN_BATCH = 500
CLEAN_PERIOD_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the journal's URL may say of it, besides how to reach its database."""

    cluster: str = ""
    """Whose journal it is: managers of another name are refused, so that two clusters never share one by mistake."""
    heartbeat_s: float = 0.5
    dead_after_s: float = 3.0
    """A process not heard of for so long is taken for dead."""
    retention_s: float = 7 * 86400.0
    """How long the result of a transaction with an id is kept after its end."""
    sessions_max: int = 16


@dataclass(slots=True)
class _Lazy:
    """What may be written later."""

    ends: set[Key] = field(default_factory=set)
    releases: dict[TransactionId, Incarnation] = field(default_factory=dict)


class DatabaseJournal(Journal):
    """A journal in the tables of a database. `process` says for people who we are."""

    def __init__(
        self, store: Store, *, clock: Clock, random: Random, process: str, options: Options = Options()
    ) -> None:
        self.options = options
        self._store = store
        self._sql = Statements(store)
        self._clock = clock
        self._random = random
        self._process = process
        self._state = "new"
        self._reset()

    def _reset(self) -> None:
        self._lazy = _Lazy()
        self._claims: dict[TransactionId, Incarnation] = {}
        self._known: list[ResourceKnown | CoordinatorKnown] = []
        self._own: set[Incarnation] = set()
        """Every incarnation this process has drawn."""
        self._counter = 0
        self._inherited: set[Incarnation] = set()
        self._heard_at: float | None = None
        """Since when every sign of life came through in time."""
        self._cleaned_at = 0.0

    def __repr__(self) -> str:
        incarnation = getattr(self, "incarnation", None)
        return f"<DatabaseJournal {self._store.resource.safe_url} {self._state} incarnation={incarnation}>"

    # --- open and close ----------------------------------------------------------------------------------------

    def open(self, runtime: Runtime) -> Script[None]:
        """See `Journal.open`."""
        assert self._state == "new", f"{self!r} is opened once"
        self._mutex = runtime.mutex()
        self._wanted = runtime.signal()
        self._wire = Wire(self._store, runtime, self._clock, self.options.sessions_max)
        self._flushing = Turn(runtime, self._clock, "the journal's lazy rows")
        try:
            yield from self._enter()
        except BaseException:
            yield from self._wire.close()
            self._state = "closed"
            raise
        self._state = "open"
        self._task = runtime.spawn(self._live(), "signs of life in the journal")

    def _enter(self) -> Script[None]:
        session = yield from self._wire.acquire()
        try:
            opened: Opened = yield from open_head(self._store, self._sql, session, self._random, self.options.cluster)
            self.coordinator, self.database = opened.journal, opened.database
            self._take_in((yield from draw(self._store, self._sql, session, self._process)))
        except ConnectionLost as error:
            session.broken = True
            raise JournalUnavailable(
                f"The connection to the journal's database ({self._store.resource.safe_url}) was lost while it was "
                "being opened.",
                advice="Try again.",
            ) from error
        except BaseException:
            session.broken = True
            raise
        finally:
            yield from self._wire.release(session)
        yield from self._learn()

    def _take_in(self, incarnation: Incarnation) -> None:
        with self._mutex:
            self.incarnation = incarnation
            self._own.add(incarnation)
            self._counter = 0
        self._heard_at = None

    def close(self) -> Script[None]:
        """See `Journal.close`."""
        if self._state != "open":
            return
        self._state = "closing"
        self._task.stop()
        yield Wait(self._task.ended, REACH_S_MAX)
        try:
            yield from self._flush(durable=False)
            for own in sorted(self._own):
                yield from self._wire.ask(self._sql.leave(own), "leave")
        except (JournalUnavailable, JournalUncertain):
            pass  # then we are taken for dead, which comes to the same
        finally:
            self._state = "closed"
            yield from self._wire.close()

    def abandon(self) -> None:
        """See `Journal.abandon`."""
        if self._state == "open":
            self._wire.abandon()
        self._state = "abandoned"
        self._reset()

    def _ask(self, statements: Sequence[str], what: str) -> Script[Said]:
        self._check_usable()
        return (yield from self._wire.ask(statements, what))

    def _check_usable(self) -> None:
        if self._state not in ("open", "closing"):
            where = self._store.resource.safe_url
            raise ManagerClosed(f"The journal at {where} is {self._state}.", advice="Open a new manager.")

    # --- writing -------------------------------------------------------------------------------------------------

    def next_attempt(self) -> Attempt:
        self._check_usable()
        with self._mutex:
            self._counter += 1
            return Attempt(self.incarnation, self._counter)

    def note(self, records: Sequence[Record]) -> None:
        """See `Journal.note`."""
        with self._mutex:
            self._lazy.ends.update(record.key for record in records if isinstance(record, End))
            if len(self._lazy.ends) >= END_BATCH:
                self._wanted.set()

    def force(self, records: Sequence[Record]) -> Script[tuple[Verdict, ...]]:
        """See `Journal.force`. `force(())` makes what was noted durable."""
        self._check_usable()
        if not records:
            yield from self._flush(durable=True)
            return ()
        verdicts = []
        for record in records:
            if isinstance(record, Commit):
                verdicts.append((yield from self._commit(record)))
            elif isinstance(record, Abort):
                verdicts.append((yield from self._abort(record)))
            else:
                verdicts.append((yield from self._write(record)))
        return tuple(verdicts)

    def decision(self, record: Commit) -> str:
        """See `Journal.decision`."""
        return self._sql.commit(record)

    def _commit(self, record: Commit) -> Script[Verdict]:
        for _ in range(BUSY_TRIES):
            said = yield from self._wire.run([self._sql.commit(record)], "force a Commit record", repeat=False)
            if said.trouble is not Trouble.BUSY:
                break
            yield Sleep(BUSY_PAUSE_S)
        if said.trouble is Trouble.FENCED:
            self._wanted.set()  # see who keeps us
            return Verdict.REFUSED
        if said.trouble is Trouble.DUPLICATE:
            return Verdict.REFUSED
        self._wire.check(said)
        return Verdict.ACCEPTED

    def _abort(self, record: Abort) -> Script[Verdict]:
        """Writing one twice is accepted twice. Who waits for a Commit that is being written knows nothing."""
        said = yield from self._wire.run([self._sql.abort(record)], "force an Abort record", repeat=True)
        if said.trouble is Trouble.DUPLICATE:
            found = yield from self._wire.ask([self._sql.is_abort(record.key)], "see who was first")
            won = found.rows[0] == (("1",),)
            return Verdict.ACCEPTED if won else Verdict.REFUSED
        if said.trouble is not Trouble.NONE:
            raise JournalUncertain(f"The journal could not settle {record.key}: {said.error}.")
        return Verdict.ACCEPTED

    def _write(self, record: Record) -> Script[Verdict]:
        if isinstance(record, End):
            self.note((record,))
            yield from self._flush(durable=True)
        elif isinstance(record, ResourceKnown | CoordinatorKnown):
            yield from self._ask([self._sql.know(record)], "write down a name")
            yield from self._learn()
        else:
            assert isinstance(record, KeyedRecord), f"no such record: {record!r}"
            yield from self._ask([self._sql.note(record)], "write a note")
        return Verdict.ACCEPTED

    def _learn(self) -> Script[None]:
        said = yield from self._wire.ask([self._sql.known()], "read names")
        self._known = [
            record for record in rows.records(said.rows[0]) if isinstance(record, ResourceKnown | CoordinatorKnown)
        ]

    # --- what is lazy ---------------------------------------------------------------------------------------------

    def _flush(self, *, durable: bool) -> Script[None]:
        """Write what was noted, and give back claims. What could not be written stays noted."""
        yield from self._flushing.acquire(self._clock.monotonic() + REACH_S_MAX)
        try:
            while True:
                with self._mutex:
                    ends = sorted(self._lazy.ends)[:END_BATCH]
                    releases = list(self._lazy.releases.items())[:END_BATCH]
                if not ends and not releases:
                    return
                statements = self._sql.end(ends) if ends else []
                statements += [self._sql.release(releases)] if releases else []
                yield from self._wire.ask(statements, "write what was noted", durable=durable)
                with self._mutex:
                    self._lazy.ends.difference_update(ends)
                    for transaction, own in releases:
                        if self._lazy.releases.get(transaction) == own:
                            del self._lazy.releases[transaction]
        finally:
            self._flushing.release()

    # --- claims ---------------------------------------------------------------------------------------------------

    def claim(self, transaction: TransactionId) -> Script[Claim]:
        """See `Journal.claim`."""
        self._check_usable()
        with self._mutex:
            if transaction in self._claims:
                return Claim(running=True)
            own = self._claims[transaction] = self.incarnation
            returning = transaction in self._lazy.releases
        answer = Claim(running=True)
        try:
            if returning:
                yield from self._flush(durable=False)
            answer = yield from self._claim(transaction, own)
        finally:
            if not answer.mine:
                self.release(transaction)
        return answer

    def _claim(self, transaction: TransactionId, own: Incarnation) -> Script[Claim]:
        said = yield from self._ask(self._sql.claim(transaction, own), "claim an id")
        commit = rows.commit(said.rows[3])
        if commit is not None:
            if not self._store.visible_is_durable:  # a forced write of our own comes after it in the log (O59)
                yield from self._ask(self._sql.beat(own), "make sure that what was read is on disk")
            return Claim(committed=commit)
        return Claim(mine=True) if rows.number(said.rows[2]) == own else Claim(running=True)

    def release(self, transaction: TransactionId) -> None:
        """See `Journal.release`."""
        with self._mutex:
            own = self._claims.pop(transaction, None)
            if own is None:
                return
            self._lazy.releases[transaction] = own
            self._wanted.set()

    def find(self, transaction: TransactionId) -> Script[Commit | None]:
        said = yield from self._ask([self._sql.committed(transaction)], "look for a Commit record")
        commit = rows.commit(said.rows[0])
        if commit is not None and not self._store.visible_is_durable:
            yield from self._ask(self._sql.beat(self.incarnation), "make sure that what was read is on disk")
        return commit

    # --- for recovery ---------------------------------------------------------------------------------------------

    def look(self, *, inherit: bool = True) -> Script[View]:
        """See `Journal.look`. Who lives is read first, then the records."""
        self._check_usable()
        if inherit:
            yield from self._take_over()
        own = self.incarnation
        statements = (
            self._sql.living(),
            self._sql.kept_decisions(own),
            self._sql.decisions_elsewhere(own),
            self._sql.known(),
        )
        said = yield from self._ask(statements, "look around")
        decisions = {record.key: record for record in rows.records(said.rows[1]) if isinstance(record, Commit)}
        with self._mutex:
            ends = set(self._lazy.ends)
            inherited, self._inherited = frozenset(self._inherited), set()
        adopted = (one for one in rows.records(said.rows[3]) if isinstance(one, CoordinatorKnown) and one.adopted)
        return View(
            live=frozenset(Incarnation(int(row[0] or 0)) for row in said.rows[0]) - self._own,
            decisions={key: record for key, record in decisions.items() if key not in ends},
            elsewhere=frozenset(rows.keys(said.rows[2])),
            ended=frozenset(decisions.keys() & ends),
            inherited=inherited,
            coordinators=frozenset({self.coordinator, *(Guid(one.guid) for one in adopted)}),
        )

    def watch(self) -> Script[frozenset[Incarnation]]:
        """See `Journal.watch`."""
        self._check_usable()
        yield from self._take_over()
        with self._mutex:
            inherited, self._inherited = frozenset(self._inherited), set()
        return inherited

    def _take_over(self) -> Script[None]:
        """Become the keeper of whom nobody has heard of, one after the other: who is faster has it."""
        own, dead_after_s = self.incarnation, self.options.dead_after_s
        said = yield from self._ask([self._sql.forsaken(own, dead_after_s)], "look for the dead")
        found = [(Incarnation(int(row[0] or 0)), Incarnation(int(row[1] or 0))) for row in said.rows[0]]
        if not found or not self._may_judge():
            return
        # Each begins somewhere else, so that several share the work.
        start = self._random.bytes(1)[0] % len(found)
        for one, keeper in found[start:] + found[:start]:
            said = yield from self._wire.run(
                self._sql.take_over(own, one, keeper, dead_after_s), "take over for a dead process", repeat=True
            )
            if said.trouble is Trouble.BUSY:
                continue  # a decision is being written there: nothing is decided (O47)
            if rows.number(self._wire.check(said).rows[1]) == own:
                with self._mutex:
                    self._inherited.add(one)

    def _may_judge(self) -> bool:
        """Right after the journal was away for us nobody else was heard of either: that says nothing of them."""
        return self._heard_at is None or self._clock.monotonic() - self._heard_at >= self.options.dead_after_s

    def confirm(self, incarnation: Incarnation) -> Script[bool]:
        """See `Journal.confirm`."""
        if incarnation not in self._own:
            return False
        said = yield from self._ask([self._sql.keeper(incarnation)], "see who keeps us")
        return rows.number(said.rows[0]) == incarnation

    def ended_incarnations(self, candidates: Iterable[Incarnation]) -> Script[frozenset[Incarnation]]:
        """See `Journal.ended_incarnations`."""
        asked = frozenset(candidates) - self._own
        if not asked:
            return frozenset()
        said = yield from self._ask([self._sql.unfinished(sorted(asked))], "see who has finished")
        return asked - {Incarnation(int(row[0] or 0)) for row in said.rows[0]}

    def highest_incarnation(self) -> Script[Incarnation]:
        said = yield from self._ask([self._sql.counter()], "read the counter")
        return Incarnation(rows.number(said.rows[0]))

    def refuse_for_good(self, why: str) -> Script[None]:
        yield from self._ask([self._sql.refuse(why)], "refuse this journal for good")

    # --- what is known --------------------------------------------------------------------------------------------

    def resource(self, name: str) -> Guid | None:
        return next((Guid(one.guid) for one in self.resources() if one.name == name), None)

    def resources(self) -> Sequence[ResourceKnown]:
        return [one for one in self._known if isinstance(one, ResourceKnown)]

    def directory(self) -> Sequence[CoordinatorKnown]:
        return [one for one in self._known if isinstance(one, CoordinatorKnown)]

    def _notes(self) -> Script[Index]:
        index = Index()
        said = yield from self._ask([self._sql.notes()], "read notes")
        for record in rows.records(said.rows[0]):
            index.apply(record)
        return index

    def heuristics(self) -> Script[Sequence[Heuristic]]:
        return list((yield from self._notes()).heuristics.values())

    def resolutions(self) -> Script[Sequence[Resolved]]:
        return list((yield from self._notes()).resolutions.values())

    def story(self, transaction: TransactionId) -> Script[Story]:
        said = yield from self._ask(self._sql.story(transaction), "read a transaction's records")
        found: list[tuple[Incarnation, KeyedRecord]] = []
        for row in said.rows[0]:
            own = Incarnation(int(row[0] or 0))
            (record,) = rows.keyed(((row[1],),))
            found.append((own, record))
            if row[2] == "1" and isinstance(record, Commit):
                found.append((own, End(transaction=record.transaction, attempt=record.attempt)))
        found += [(record.key.attempt.incarnation, record) for record in rows.keyed(said.rows[1])]
        return Story(transaction, tuple(found))

    def transactions(self) -> Script[Sequence[Key]]:
        said = yield from self._ask(self._sql.transactions(), "list transactions")
        return sorted({*rows.keys(said.rows[0]), *rows.keys(said.rows[1])})

    # --- in the background ------------------------------------------------------------------------------------------

    def _live(self) -> Script[None]:
        """Signs of life, what is lazy, and cleaning, for ever. The journal may be away for a while."""
        while self._state == "open":
            try:
                yield from self._beat()
                yield from self._flush(durable=False)
                yield from self._clean()
            except (JournalUnavailable, JournalUncertain):
                self._heard_at = None if self._heard_at is None else self._clock.monotonic()
            yield Wait(self._wanted, self.options.heartbeat_s)
            self._wanted.clear()

    def _beat(self) -> Script[None]:
        own, began = self.incarnation, self._clock.monotonic()
        said = yield from self._ask(self._sql.beat(own), "give a sign of life")
        if rows.number(said.rows[1]) != own:
            yield from self._begin_anew()
        elif self._heard_at is None:
            self._heard_at = began

    def _begin_anew(self) -> Script[None]:
        """We were taken for dead: what was undecided is aborted, what begins now is another incarnation's."""
        session = yield from self._wire.acquire()
        try:
            self._take_in((yield from draw(self._store, self._sql, session, self._process)))
        except BaseException:
            session.broken = True
            raise
        finally:
            yield from self._wire.release(session)

    def _clean(self) -> Script[None]:
        """Remove what nobody asks for any more, in small batches."""
        if self._clock.monotonic() - self._cleaned_at < CLEAN_PERIOD_S:
            return
        self._cleaned_at = self._clock.monotonic()
        for select in (self._sql.expired(self.options.retention_s, CLEAN_BATCH), self._sql.fenced_aborts(CLEAN_BATCH)):
            said = yield from self._ask([select], "look for old rows")
            found = rows.keys(said.rows[0])
            if found:
                yield from self._ask([self._sql.remove(found)], "remove old rows")
        with self._mutex:
            held = [*self._claims, *self._lazy.releases]
            own = self.incarnation
        yield from self._ask(
            [self._sql.remove_incarnations(own), self._sql.orphaned_claims(own, held)], "remove what has ended"
        )
