"""The journal in a database: decisions are rows that any process reaches, on machines without a durable disk.

Each process has an incarnation in it and gives signs of life (living.py). Death is only guessed from their absence, and
a wrong guess costs one retry, never correctness: whoever takes over becomes the *keeper* of the dead one's incarnation
first, and from then on no Commit of that incarnation can appear (statements.py says why). So "no record" means abort
for whatever the dead one left, and the one taken for dead aborts what it had not decided, draws another incarnation and
goes on. Absent evidence proves something only to who has not been taken over himself (`confirm`): the keeper cleans up.

Nothing that was read is acted on before it is certainly on disk (O59): where others may see a commit before it is
forced (MariaDB), or somebody wrote lazily, a forced write of our own comes in between (`Living.make_durable`).

When the journal's own database takes part in a transaction, its branch carries the record (`decision`).
Not for: SQL (statements.py), what each database says differently (store.py), what is written later and removed
(lazily.py), or the rules of commit (protocol/).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from syncpoint.errors import (
    ConnectionLost,
    JournalUnavailable,
    JournalUncertain,
    ManagerClosed,
    SyncpointError,
)
from syncpoint.ids import Attempt, Guid, Incarnation, Key, TransactionId
from syncpoint.journal import rows
from syncpoint.journal.base import Claim, Journal, Story, Verdict, View
from syncpoint.journal.database_opening import Opened, open_head
from syncpoint.journal.index import Index
from syncpoint.journal.lazily import Lazily
from syncpoint.journal.living import Living
from syncpoint.journal.statements import Statements
from syncpoint.journal.store import Said, Store, Trouble, in_one_line
from syncpoint.journal.wire import Wire
from syncpoint.marks import sometimes
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
from syncpoint.steps import Script, Wait

CLOSE_S_MAX = 5.0
"""How long the end waits for the journal: one that is away keeps nobody from ending."""


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
    """Connections at most; one of them is for signs of life."""


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
        self._known: list[ResourceKnown | CoordinatorKnown] = []
        self._state = "new"

    def __repr__(self) -> str:
        living = getattr(self, "_living", None)  # there is none before it is opened
        return f"<DatabaseJournal {self._store.resource.safe_url} {self._state} {living!r}>"

    @property
    def incarnation(self) -> Incarnation:  # type: ignore[override]
        return self._living.incarnation

    # --- open and close ----------------------------------------------------------------------------------------

    def open(self, runtime: Runtime) -> Script[None]:
        """See `Journal.open`. Raises JournalUnavailable too, when the database cannot be reached."""
        assert self._state == "new", f"{self!r} is opened once"
        options = self.options
        self._runtime = runtime
        self._wire = Wire(self._store, runtime, self._clock, max(1, options.sessions_max - 1))
        self._living = Living(
            self._store,
            self._sql,
            runtime,
            self._clock,
            self._random,
            others=self._wire,
            process=self._process,
            heartbeat_s=options.heartbeat_s,
            dead_after_s=options.dead_after_s,
        )
        self._lazily = Lazily(
            self._store,
            self._sql,
            self._wire,
            self._living,
            runtime,
            self._clock,
            period_s=options.heartbeat_s,
            retention_s=options.retention_s,
        )
        self._state = "opening"
        try:
            opened = yield from self._open_head()
            self.coordinator, self.database = opened.journal, opened.database
            yield from self._living.begin(opened.journal)
            yield from self._learn()
        except BaseException:
            yield from self._close_sessions()
            raise
        self._state = "open"
        self._tasks = [
            runtime.spawn(self._living.give_signs(), "signs of life in the journal"),
            runtime.spawn(self._lazily.write_soon(), "what the journal writes later"),
            runtime.spawn(self._lazily.clean_now_and_then(), "cleaning of the journal"),
        ]

    def _open_head(self) -> Script[Opened]:
        session = yield from self._wire.acquire("open it")
        try:
            return (yield from open_head(self._store, self._sql, session, self._random, self.options.cluster))
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

    def close(self) -> Script[None]:
        """See `Journal.close`. A database that is away keeps nobody from ending: then we are taken for dead, which
        comes to the same."""
        if self._state != "open":
            return
        self._state = "closing"
        deadline = self._clock.monotonic() + CLOSE_S_MAX
        for task in self._tasks:
            task.stop()
        last = self._runtime.spawn(self._leave(), "the journal's last rows")
        try:
            for task in (*self._tasks, last):
                yield Wait(task.ended, max(0.0, deadline - self._clock.monotonic()))
        finally:
            last.stop()
            yield from self._close_sessions()

    def _leave(self) -> Script[None]:
        for task in self._tasks:  # they write the same rows
            yield Wait(task.ended, CLOSE_S_MAX)
        try:
            yield from self._lazily.flush(durable=False)
            yield from self._living.leave()
        except SyncpointError:
            return

    def _close_sessions(self) -> Script[None]:
        self._state = "closed"
        yield from self._living.close()
        yield from self._wire.close()

    def abandon(self) -> None:
        """See `Journal.abandon`."""
        if self._state not in ("new", "abandoned"):
            self._wire.abandon()
            self._living.abandon()
        self._state = "abandoned"

    def _ask(self, statements: Sequence[str], what: str, *, durable: bool = True) -> Script[Said]:
        self._check_usable()
        return (yield from self._wire.ask(statements, what, durable=durable))

    def _check_usable(self) -> None:
        if self._state != "open":
            where = self._store.resource.safe_url
            raise ManagerClosed(f"The journal at {where} is {self._state}.", advice="Open a new manager.")
        if self._living.failure is not None:
            raise self._living.failure

    # --- writing -------------------------------------------------------------------------------------------------

    def next_attempt(self) -> Attempt:
        self._check_usable()
        return self._living.next_attempt()

    def note(self, records: Sequence[Record]) -> None:
        """See `Journal.note`."""
        self._lazily.end(record.key for record in records if isinstance(record, End))

    def force(self, records: Sequence[Record]) -> Script[tuple[Verdict, ...]]:
        """See `Journal.force`. `force(())` makes what was noted durable."""
        self._check_usable()
        if not records:
            yield from self._lazily.flush(durable=True)
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
        return self._store.in_branch(self._sql.commit(record))

    def refused(self) -> Script[None]:
        """See `Journal.refused`."""
        yield from self._living.refused()

    def _commit(self, record: Commit) -> Script[Verdict]:
        said = yield from self._wire.insist([self._sql.commit(record)], "force a Commit record", repeat=False)
        if said.trouble is Trouble.FENCED:
            sometimes("a Commit of a process taken for dead was refused")
            yield from self._living.refused()
            return Verdict.REFUSED
        if said.trouble is Trouble.DUPLICATE:
            return Verdict.REFUSED
        if said.trouble is Trouble.REFUSED:  # an error that nobody has thought of: found out, never assumed
            raise JournalUncertain(
                f"The journal did not say clearly whether it took {record.key}: {in_one_line(said.error)}."
            )
        self._wire.check(said)
        return Verdict.ACCEPTED

    def _abort(self, record: Abort) -> Script[Verdict]:
        """Writing one twice is accepted twice. Who waits for a Commit that is being written knows nothing."""
        said = yield from self._wire.run([self._sql.abort(record)], "force an Abort record", repeat=True)
        if said.trouble is Trouble.DUPLICATE:
            found = yield from self._wire.ask([self._sql.is_abort(record.key)], "see who was first")
            yield from self._be_sure()
            sometimes("an Abort found a record of its key there")
            won = found.rows[0] == (("1",),)
            return Verdict.ACCEPTED if won else Verdict.REFUSED
        if said.trouble is not Trouble.NONE:
            raise JournalUncertain(f"The journal could not settle {record.key}: {in_one_line(said.error)}.")
        return Verdict.ACCEPTED

    def _be_sure(self) -> Script[None]:
        """What was just read must not be acted on before it is on disk (O59)."""
        if not self._store.visible_is_durable:
            yield from self._living.make_durable()

    def _write(self, record: Record) -> Script[Verdict]:
        if isinstance(record, End):
            self.note((record,))
            yield from self._lazily.flush(durable=True)
        elif isinstance(record, ResourceKnown | CoordinatorKnown):
            yield from self._ask([self._sql.know(record)], "write down a name")
            yield from self._learn()
            if isinstance(record, ResourceKnown) and self.resource(record.name) != Guid(record.guid):
                return Verdict.REFUSED  # another process knows another database by this name
        else:
            # Incarnations of resource managers are a node's, and a node keeps a folder.
            assert isinstance(record, KeyedRecord), f"no such record: {record!r}"
            yield from self._ask([self._sql.note(record)], "write a note")
        return Verdict.ACCEPTED

    def _learn(self) -> Script[None]:
        said = yield from self._wire.ask([self._sql.known()], "read names")
        self._known = [
            record for record in rows.records(said.rows[0]) if isinstance(record, ResourceKnown | CoordinatorKnown)
        ]

    # --- claims ---------------------------------------------------------------------------------------------------

    def claim(self, transaction: TransactionId) -> Script[Claim]:
        """See `Journal.claim`."""
        self._check_usable()
        own = self.incarnation
        if not (yield from self._lazily.hold(transaction, own)):
            return Claim(running=True)
        answer = Claim(running=True)
        try:
            answer = yield from self._claim(transaction, own)
            # Perhaps with a process that has died, and nobody has looked since.
            if answer.running and (yield from self._living.take_over()):
                sometimes("an id was claimed again after a take-over")
                answer = yield from self._claim(transaction, own)
        finally:
            if not answer.mine:
                self.release(transaction)
        return answer

    def _claim(self, transaction: TransactionId, own: Incarnation) -> Script[Claim]:
        # Not forced: a claim that a crash of the database takes back lets two run, of which one commits.
        said = yield from self._ask(self._sql.claim(transaction, own), "claim an id", durable=False)
        commit = rows.commit(said.rows[3])
        if commit is not None:
            yield from self._be_sure()
            return Claim(committed=commit)
        return Claim(mine=True) if rows.number(said.rows[2]) == own else Claim(running=True)

    def release(self, transaction: TransactionId) -> None:
        """See `Journal.release`."""
        self._lazily.release(transaction)

    def find(self, transaction: TransactionId) -> Script[Commit | None]:
        said = yield from self._ask([self._sql.committed(transaction)], "look for a Commit record")
        commit = rows.commit(said.rows[0])
        if commit is not None:
            yield from self._be_sure()
        return commit

    # --- for recovery ---------------------------------------------------------------------------------------------

    def look(self, *, inherit: bool = True) -> Script[View]:
        """See `Journal.look`. Who lives is read first, then the records."""
        self._check_usable()
        if inherit:
            yield from self._living.take_over()
        own, ends = self.incarnation, self._lazily.ends()
        statements = (
            self._sql.living(),
            self._sql.kept_decisions(own),
            self._sql.decisions_elsewhere(own),
            self._sql.known(),
        )
        said = yield from self._ask(statements, "look around")
        decisions = {record.key: record for record in rows.records(said.rows[1]) if isinstance(record, Commit)}
        if decisions:
            yield from self._be_sure()
        ends |= self._lazily.ends()  # also what was written after the records were read
        adopted = (one for one in rows.records(said.rows[3]) if isinstance(one, CoordinatorKnown) and one.adopted)
        return View(
            live=frozenset(rows.incarnations(said.rows[0])) - self._living.own,
            decisions={key: record for key, record in decisions.items() if key not in ends},
            elsewhere=frozenset(rows.keys(said.rows[2])),
            ended=frozenset(decisions.keys() & ends),
            inherited=self._living.inherited(),
            coordinators=frozenset({self.coordinator, *(Guid(one.guid) for one in adopted)}),
        )

    def watch(self) -> Script[frozenset[Incarnation]]:
        """See `Journal.watch`."""
        self._check_usable()
        yield from self._living.take_over()
        return self._living.inherited()

    def confirm(self, incarnation: Incarnation) -> Script[bool]:
        """See `Journal.confirm`."""
        self._check_usable()
        return (yield from self._living.confirm(incarnation))

    def unended(self, key: Key) -> Script[bool]:
        """See `Journal.unended`."""
        said = yield from self._ask([self._sql.unended(key)], "see whether a record has ended")
        if not said.rows[0]:
            sometimes("the keeper's record was ended by the one it was taken from")
        return bool(said.rows[0])

    def ended_incarnations(self, candidates: Iterable[Incarnation]) -> Script[frozenset[Incarnation]]:
        """See `Journal.ended_incarnations`. Their ends may have been written lazily: sure only after a force."""
        asked = frozenset(candidates) - self._living.own
        if not asked:
            return frozenset()
        said = yield from self._ask([self._sql.unfinished(sorted(asked))], "see who has finished")
        ended = asked - frozenset(rows.incarnations(said.rows[0]))
        if ended:
            yield from self._living.make_durable()
        return ended

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
            (own,) = rows.incarnations((row,))
            (record,) = rows.keyed(((row[1],),))
            found.append((own, record))
            if row[2] == "1" and isinstance(record, Commit):
                found.append((own, End(transaction=record.transaction, attempt=record.attempt)))
        found += [(record.key.attempt.incarnation, record) for record in rows.keyed(said.rows[1])]
        return Story(transaction, tuple(found))

    def transactions(self) -> Script[Sequence[Key]]:
        said = yield from self._ask(self._sql.transactions(), "list transactions")
        return sorted({*rows.keys(said.rows[0]), *rows.keys(said.rows[1])})
