"""The journal in a folder, shared by all processes of one machine: `journal="./syncpoint-journal"`.

Each process appends to segments of its own, under a lock that it holds for life; whoever obtains the lock of another
has proof of its death and takes its records over (O55). Two batchers do the work, each in a thread of its own:

    journal force    records handed in, and lazy ones: append, one force for all that wait, then the index
    journal survey   read on in the files of others; one survey answers all that wait

A failed force stops everything (R5): no retry, no further answers. Nothing is answered with that is not certainly on
disk (O59): a dead process's records are copied here and forced first, a living one's count once it has stated that
they are forced. Bytes: docs/journal-format.md. Not for: databases as journals, or network file systems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from syncpoint.errors import JournalFailed, JournalRefused, ManagerClosed
from syncpoint.ids import Attempt, Guid, Incarnation, Key, TransactionId
from syncpoint.journal import gathering
from syncpoint.journal.base import Claim, Holding, Journal, Story, Verdict, View
from syncpoint.journal.claims import Claims, TransactionClaim
from syncpoint.journal.head import Paths, read_counter
from syncpoint.journal.index import Index
from syncpoint.journal.neighbours import Neighbours
from syncpoint.journal.opening import look_first, plainly, read_or_make, verify_and_draw
from syncpoint.journal.segment import SegmentWriter
from syncpoint.marks import sometimes
from syncpoint.ports import Batcher, Clock, Disk, FileLock, Random, Runtime
from syncpoint.protocol.admission import admit
from syncpoint.records import (
    Commit,
    CoordinatorKnown,
    End,
    Heuristic,
    Record,
    Resolved,
    ResourceIncarnation,
    ResourceKnown,
)
from syncpoint.steps import Batch, Blocking, Script, Sleep

T = TypeVar("T")

LOCK_WAIT_S_MAX = 10.0
LOCK_PAUSE_S = 0.02
SEGMENT_SIZE_BYTES_MAX = 4 << 20
RETENTION_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class _Force:
    """Make these durable; with `inherit`, what the dead left too."""

    records: tuple[Record, ...] = ()
    inherit: bool = False


class FolderJournal(Journal):
    """A journal in a folder on a local disk.

    Parameters: `path` of the folder, made when missing; `retention_s`, seconds for which the result of a transaction
    with an id is kept after its commit; `segment_size_bytes_max`, bytes after which what has ended is dropped; `heir`,
    another open one of the same folder that alone takes over what the dead left (a node's), None: this one does too.
    """

    keeps_promises = True

    def __init__(
        self,
        path: str,
        *,
        disk: Disk,
        clock: Clock,
        random: Random,
        retention_s: float = RETENTION_S,
        segment_size_bytes_max: int = SEGMENT_SIZE_BYTES_MAX,
        heir: FolderJournal | None = None,
    ) -> None:
        self.path = path
        self._heir = heir
        self._disk = disk
        self._clock = clock
        self._random = random
        self._retention_ms = int(retention_s * 1000)
        self._segment_size_bytes_max = segment_size_bytes_max
        self._paths = Paths(path)
        self._state = "new"
        self._failure = ""
        """Why the journal writes and answers no more (R5)."""
        self._gate: FileLock | None = None
        self._held = ExitStack()
        """What is to be given back at the end."""
        self._reset()

    def _reset(self) -> None:
        self._index = Index()
        self._noted: list[Record] = []
        self._noted_ends: set[Key] = set()
        """Ended, but the End is not on disk yet: no more to be done, but not yet to be forgotten."""
        self._is_writing_noted = False
        self._inherited: set[Incarnation] = set()
        """Taken over since the last look."""
        self._counter = 0

    def __repr__(self) -> str:
        state = "failed" if self._failure else self._state
        return f"<FolderJournal {self.path} {state} incarnation={getattr(self, 'incarnation', None)} {self._index!r}>"

    # --- open and close ----------------------------------------------------------------------------------------

    def open(self, runtime: Runtime) -> Script[None]:
        """See `Journal.open`."""
        assert self._state == "new", f"{self!r} is opened once"
        self._mutex = runtime.mutex()
        try:
            yield Blocking(self._plainly(self._look_first), "journal: look at the folder")
            yield from self._enter()
            self._forces: Batcher = runtime.batcher(self._handle_forces, "journal force")
            self._held.callback(self._forces.close)
            self._surveys: Batcher = runtime.batcher(self._handle_surveys, "journal survey")
            self._held.callback(self._surveys.close)
            self._state = "open"
            yield from self._catch_up()
        except BaseException:
            self._let_go()
            raise

    def _plainly(self, function: Callable[[], T]) -> Callable[[], T]:
        def call() -> T:
            with plainly(self.path):
                return function()

        return call

    def _look_first(self) -> None:
        look_first(self._disk, self._paths)

    def _enter(self) -> Script[None]:
        """Draw an incarnation, under the folder's lock."""
        deadline = self._clock.monotonic() + LOCK_WAIT_S_MAX
        while not (yield Blocking(self._plainly(self._take_gate), "journal: take the folder's lock")):
            if self._clock.monotonic() >= deadline:
                raise JournalRefused(
                    f"Another process holds the lock of the journal at {self.path}.",
                    advice="It is held for moments only: see what the process that holds it is stuck at.",
                )
            yield Sleep(LOCK_PAUSE_S)
        yield Blocking(self._plainly(self._draw), "journal: draw an incarnation")

    def _take_gate(self) -> bool:
        self._gate = self._disk.lock(self._paths.lock)
        return self._gate is not None

    def _draw(self) -> None:
        head = read_or_make(self._disk, self._clock, self._random, self._paths)
        self.coordinator = head.guid
        self._neighbours = Neighbours(self._disk, self._paths, self._mutex, self.coordinator, None)
        self._held.callback(self._neighbours.release)
        self.incarnation, lock = verify_and_draw(self._disk, self._paths, self._neighbours, probe=self._heir is None)
        self._held.callback(lock.release)
        self._neighbours.own = self.incarnation
        self._claims = Claims(self._disk, self._paths.claims, self._mutex)
        self._held.callback(self._claims.release_all)
        self._writer = SegmentWriter(self._disk, self._clock, self._paths, self.coordinator, self.incarnation)
        self._held.callback(self._writer.close)
        self._writer.start()
        self._size_bytes_max = self._segment_size_bytes_max
        self._leave_gate()

    def _leave_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release()

    def close(self) -> Script[None]:
        """See `Journal.close`. After a failure it writes nothing."""
        if self._state != "open":
            return
        try:
            with suppress(JournalFailed):  # what is lazy may be lost
                yield from self.force(())
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Give back everything, in whatever state."""
        self._state = "closed"
        self._leave_gate()
        self._held.close()

    def abandon(self) -> None:
        """See `Journal.abandon`."""
        if self._state == "open":
            self._claims.forget()
        self._state = "abandoned"
        self._gate = None
        self._held.pop_all()  # the parent's: not given back from here
        self._reset()

    def _check_usable(self) -> None:
        if self._failure:
            raise self._failed()
        if self._state != "open":
            raise ManagerClosed(f"The journal at {self.path} is {self._state}.", advice="Open a new manager.")

    # --- writing -------------------------------------------------------------------------------------------------

    def next_attempt(self) -> Attempt:
        self._check_usable()
        with self._mutex:
            self._counter += 1
            assert self._counter <= Attempt.COUNTER_MAX  # an attempt is never reused
            return Attempt(self.incarnation, self._counter)

    def note(self, records: Sequence[Record]) -> None:
        """See `Journal.note`. What is noted after a failure is lost, as it may be."""
        with self._mutex:
            self._noted.extend(records)
            self._noted_ends.update(record.key for record in records if isinstance(record, End))

    def force(self, records: Sequence[Record]) -> Script[tuple[Verdict, ...]]:
        """See `Journal.force`. `force(())` makes what was noted durable, and costs nothing when nothing was."""
        self._check_usable()
        with self._mutex:
            nothing = not records and not self._noted and not self._is_writing_noted
        if nothing:
            return ()
        verdicts: tuple[Verdict, ...] = yield Batch(self._forces, _Force(tuple(records)), "journal force")
        return verdicts

    def _handle_forces(self, items: Sequence[_Force]) -> list[tuple[Verdict, ...] | JournalFailed]:
        """The batcher's handler. Raises JournalFailed for all, unless their records are durable."""
        if self._failure:
            raise self._failed()
        with self._mutex:
            noted, self._noted = self._noted, []
            self._is_writing_noted = bool(noted)
        try:
            return self._write(items, noted)
        finally:
            self._is_writing_noted = False

    def _write(self, items: Sequence[_Force], noted: list[Record]) -> list[tuple[Verdict, ...] | JournalFailed]:
        inherit = any(item.inherit for item in items)
        with self._mutex:
            verdicts, accepted = self._admit_all(items)
            dead = list(self._neighbours.dead.values()) if inherit else []
            copies = gathering.copies(self._index, dead, self._oldest_kept_ms())
        results: list[tuple[Verdict, ...] | JournalFailed] = list(verdicts)
        written = [*noted, *accepted]
        try:
            if written or copies:
                self._writer.write([*written, *copies])
                # Also proof that the file system still lives: while ext4 gives up its own journal after an error, a
                # force under way may answer "done". The next write does not, so nothing is answered before it.
                self._writer.state()
        except OSError as error:
            raise self._fail(error) from error
        self._take_in(written)
        self._take_in(copies)  # before he is forgotten: who looks meanwhile finds them here or there
        try:
            for one in dead:
                sometimes("the records of a dead process were copied")
                self._neighbours.clear_away(one)
            with self._mutex:
                self._inherited.update(one.incarnation for one in dead)
            self._rotate_if_due()
        except OSError as error:  # the records of these items are durable all the same
            failure = self._fail(error)
            results = [failure if item.inherit else one for item, one in zip(items, results, strict=True)]
        return results

    def _admit_all(self, items: Sequence[_Force]) -> tuple[list[tuple[Verdict, ...]], list[Record]]:
        """First writer wins, also among those of one batch."""
        overlay = Index()
        standing = gathering.Standings((overlay, self._index), self._neighbours)
        verdicts, accepted = [], []
        for item in items:
            mine = []
            for record in item.records:
                verdict = Verdict.ACCEPTED if admit(record, standing) else Verdict.REFUSED
                mine.append(verdict)
                if verdict is Verdict.ACCEPTED:
                    overlay.apply(record)
                    accepted.append(record)
            verdicts.append(tuple(mine))
        return verdicts, accepted

    def _take_in(self, records: Iterable[Record]) -> None:
        with self._mutex:
            for record in records:
                self._index.apply(record)
                if isinstance(record, End):
                    self._noted_ends.discard(record.key)

    def _rotate_if_due(self) -> None:
        if self._writer.size_bytes <= self._size_bytes_max:
            return
        sometimes("a segment was full")
        with self._mutex:
            self._index.prune(before_ms=self._oldest_kept_ms(), living={self.incarnation, *self._neighbours.living})
            alive = self._index.alive()
        self._writer.rotate(alive)
        # When what is alive is itself more than a segment: no endless rotation.
        self._size_bytes_max = max(self._segment_size_bytes_max, 2 * self._writer.size_bytes)

    def _oldest_kept_ms(self) -> int:
        return self._clock.wall_ms() - self._retention_ms

    def _fail(self, error: OSError) -> JournalFailed:
        """The disk failed us, or may have: nothing more is written, nothing more is answered (R5)."""
        self._failure = f"Writing to the journal at {self.path} failed: {error}."
        return self._failed()

    def _failed(self) -> JournalFailed:
        return JournalFailed(
            self._failure,
            advice="Whether the last records are on disk is unknown. Mend the disk (is it full?) and restart: "
            "recovery settles what was under way.",
        )

    # --- reading -------------------------------------------------------------------------------------------------

    def _catch_up(self, *, inherit: bool = True) -> Script[None]:
        """See what others have done until now; with `inherit`, take over what the dead left, or have it taken over."""
        self._check_usable()
        if inherit and self._heir is not None:
            yield from self._heir._catch_up()  # before we read on: its copies are seen below
            inherit = False
        yield Batch(self._surveys, inherit, "journal survey")
        with self._mutex:
            is_anyone_dead = bool(self._neighbours.dead)
        if inherit and is_anyone_dead:
            yield Batch(self._forces, _Force(inherit=True), "journal take over")

    def _handle_surveys(self, items: Sequence[bool]) -> list[None]:
        with self._reading():
            self._neighbours.survey(probe=any(items))
        with self._mutex:
            self.note(gathering.forgotten_elsewhere(self._index, self._neighbours))
        return [None] * len(items)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say in plain words that the folder cannot be read. Nothing was changed, so it may be tried again."""
        try:
            yield
        except OSError as error:
            raise JournalFailed(
                f"The journal at {self.path} cannot be read: {error}.", advice="Mend the disk, then restart."
            ) from error

    def claim(self, transaction: TransactionId) -> Script[Claim]:
        """See `Journal.claim`. A commit of which it is not certain that it is on disk counts as running (O59)."""
        self._check_usable()
        claim = self._claims.begin(transaction)
        if claim is None:
            return (yield from self._answer_for_another(transaction))
        answer = Claim(running=True)
        try:
            if (yield Blocking(lambda: self._take(claim), "journal: claim")):
                yield from self._catch_up()
                answer = self._answer(transaction)
            else:
                answer = yield from self._answer_for_another(transaction)
        finally:
            if not answer.mine:
                self._claims.release(claim)
        return answer

    def _answer_for_another(self, transaction: TransactionId) -> Script[Claim]:
        """Somebody else has claimed it: it runs, unless it has ended, and he is only being told so himself."""
        yield from self._catch_up()
        with self._mutex:
            commit = self._commit(transaction)
            unended = {*self._index.unended.keys() - self._noted_ends, *self._neighbours.unended()}
        return Claim(running=True) if commit is None or commit.key in unended else Claim(committed=commit)

    def _take(self, claim: TransactionClaim) -> bool:
        with self._reading():
            return claim.take()

    def _answer(self, transaction: TransactionId) -> Claim:
        with self._mutex:
            commit = self._commit(transaction)
            if commit is not None:
                return Claim(committed=commit)
            if self._neighbours.is_uncertain(transaction):
                sometimes("an id's Commit was seen before it was certain")
                return Claim(running=True)
            return Claim(mine=True)

    def _commit(self, transaction: TransactionId) -> Commit | None:
        return self._index.commit(transaction) or self._neighbours.commit(transaction)

    def release(self, transaction: TransactionId) -> None:
        self._claims.release_transaction(transaction)

    def find(self, transaction: TransactionId) -> Script[Commit | None]:
        yield from self._catch_up()
        with self._mutex:
            return self._commit(transaction)

    def look(self, *, inherit: bool = True) -> Script[View]:
        """See `Journal.look`. Without `inherit` nobody is taken for dead."""
        yield from self._catch_up(inherit=inherit)
        with self._mutex:
            inherited, self._inherited = frozenset(self._inherited), set()
            return gathering.view(
                self._index, self._noted_ends, self._neighbours, own_guid=self.coordinator, inherited=inherited
            )

    def has_promised(self, key: Key) -> bool:
        """Whether a Prepared record without an outcome is held here: this process's own, or one taken over."""
        with self._mutex:
            return key in self._index.prepared and key not in self._noted_ends

    def unended(self, key: Key) -> Script[bool]:
        """See `Journal.unended`."""
        with self._mutex:
            return key in self._index.unended and key not in self._noted_ends
        yield from ()

    def resource(self, name: str) -> Guid | None:
        known = {one.name: one for one in self.resources()}.get(name)
        return None if known is None else Guid(known.guid)

    def resources(self) -> Sequence[ResourceKnown]:
        with self._mutex:
            return gathering.resources(self._index, self._neighbours)

    def resource_incarnations(self) -> Sequence[ResourceIncarnation]:
        """See `Journal.resource_incarnations`."""
        with self._mutex:
            return gathering.incarnations(self._index, self._neighbours)

    def holding(self, guid: Guid) -> Script[Holding]:
        """See `Journal.holding`. Raises JournalFailed."""
        while True:
            yield from self._catch_up()
            with self._mutex:
                if not self._neighbours.dead:  # else another thread has just found somebody dead: what he left counts
                    return gathering.holding(self._index, self._noted_ends, self._neighbours, guid)

    def directory(self) -> Sequence[CoordinatorKnown]:
        with self._mutex:
            return gathering.directory(self._index, self._neighbours)

    def heuristics(self) -> Script[Sequence[Heuristic]]:
        yield from self._catch_up()
        with self._mutex:
            return gathering.heuristics(self._index, self._neighbours)

    def resolutions(self) -> Script[Sequence[Resolved]]:
        yield from self._catch_up()
        with self._mutex:
            return gathering.resolutions(self._index, self._neighbours)

    def story(self, transaction: TransactionId) -> Script[Story]:
        yield from self._catch_up()
        with self._mutex:
            return gathering.story(self.incarnation, self._index, self._neighbours, transaction)

    def transactions(self) -> Script[Sequence[Key]]:
        yield from self._catch_up()
        with self._mutex:
            members = self._neighbours.living.values()
            return sorted(self._index.keys().union(*(member.index.keys() for member in members)))

    def refuse_for_good(self, why: str) -> Script[None]:
        """See `Journal.refuse_for_good`. Raises JournalFailed."""
        self._check_usable()
        with self._reading():
            yield Blocking(lambda: self._disk.replace(self._paths.refused, why.encode()), "journal: refuse for good")

    def highest_incarnation(self) -> Script[Incarnation]:
        """See `Journal.highest_incarnation`. Raises JournalDamaged, JournalFailed."""
        self._check_usable()
        with self._reading():
            highest: Incarnation = yield Blocking(lambda: read_counter(self._disk, self._paths), "journal: the counter")
        return highest

    def ended_incarnations(self, candidates: Iterable[Incarnation]) -> Script[frozenset[Incarnation]]:
        """See `Journal.ended_incarnations`. What is ended, but not yet durably so, counts as unfinished."""
        yield from self._catch_up()
        with self._mutex:
            unfinished = {key.attempt.incarnation for key in (*self._index.unended, *self._neighbours.unended())}
            return frozenset(candidates) - unfinished - {self.incarnation} - self._neighbours.not_taken_over()
