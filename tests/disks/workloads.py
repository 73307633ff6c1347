"""What folder journals do while their disk is recorded: lives of one and several processes, deaths, failures.

Every workload returns a recording with the marks of account.py. Not for: what may be left of it (exploring.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from syncpoint.errors import JournalFailed, JournalRefused
from syncpoint.ids import Key
from syncpoint.journal.inspect import adopt_copy
from syncpoint.records import Commit, CoordinatorKnown, End, Record
from syncpoint.testing.disk_images import image_of
from syncpoint.testing.disks import MemoryDisk, MemoryProcess, ProcessKilled
from syncpoint.testing.recording_disk import Recording, RecordingDisk
from tests.disks.account import Adopted, Handing, Noting, Opened, Refused, Seen, Told
from tests.journal.support import FOLDER, ManualClock, Process, commit, end, forgotten, heuristic, known, transaction

SEGMENT_SIZE_BYTES = 1500


class Actor:
    """One process with its journal. It marks what it hands in and what it is told."""

    def __init__(self, stage: Stage, *, segment_size_bytes_max: int = SEGMENT_SIZE_BYTES) -> None:
        self._recording = stage.recording
        self.memory: MemoryProcess = stage.disk.process()
        self.disk = RecordingDisk(self.memory, stage.recording)
        self.process = Process(self.disk, stage.clock, segment_size_bytes_max=segment_size_bytes_max)
        self.unended: list[Key] = []
        self._noted: list[Record] = []

    def open(self) -> Actor:
        self.process.open()
        self._recording.mark(Opened(self.process.journal.incarnation))
        self.look()
        return self

    def look(self) -> None:
        view = self.process(self.process.journal.look())
        self._recording.mark(Seen(view, self.process.journal.incarnation))
        self.unended = list(view.decisions)

    def key(self, number: int) -> Key:
        return Key(transaction(number), self.process.journal.next_attempt())

    def force(self, *records: Record) -> None:
        self._recording.mark(Handing(records))
        self._note_told(records, self.process(self.process.journal.force(records)))

    def force_together(self, groups: Sequence[tuple[Record, ...]]) -> None:
        """Group commit: several callers wait for one force."""
        for records in groups:
            self._recording.mark(Handing(records))
        steps = [next(self.process.journal.force(records)) for records in groups]
        told = steps[0].batcher.handler([step.item for step in steps])  # type: ignore[attr-defined]
        for records, verdicts in zip(groups, told, strict=True):
            self._note_told(records, verdicts)

    def _note_told(self, records: tuple[Record, ...], verdicts: tuple[object, ...]) -> None:
        noted, self._noted = self._noted, []
        self._recording.mark(Told(records, verdicts, tuple(noted)))  # type: ignore[arg-type]
        self.unended += [record.key for record in records if isinstance(record, Commit)]
        ended = {record.key for record in (*records, *noted) if isinstance(record, End)}
        self.unended = [key for key in self.unended if key not in ended]

    def note(self, *records: Record) -> None:
        self._recording.mark(Noting(records))
        self.process.journal.note(records)
        self._noted += records

    def claim(self, number: int) -> bool:
        return self.process(self.process.journal.claim(transaction(number))).mine

    def release(self, number: int) -> None:
        self.process.journal.release(transaction(number))

    def close(self) -> None:
        self.process(self.process.journal.close())
        self._recording.mark(Told((), (), tuple(self._noted)))

    def kill(self) -> None:
        self.memory.kill()


class Stage:
    """One machine: its disk, recorded, and its clock."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()
        self.clock = ManualClock()
        self.recording = Recording(image_of(self.disk))

    def actor(self, **options: int) -> Actor:
        return Actor(self, **options)


def one_life() -> Recording:
    """Commits alone and together, ends, results of several sectors, segments changed, closed and opened again."""
    stage = Stage()
    actor = stage.actor().open()
    actor.force(known("bank"), known("ledger", b"L" * 16))
    for number in range(1, 4):
        actor.claim(number)
        actor.force(commit(actor.key(number), user_id=f"order {number}", result=bytes([number]) * 700))
        actor.release(number)
    actor.force_together([(commit(actor.key(number), result=b"r" * 90),) for number in range(4, 9)])
    actor.note(end(actor.unended[0]))
    actor.force(heuristic(actor.unended[3]))
    actor.note(*(end(key) for key in actor.unended[1:3]))
    actor.force(commit(actor.key(9), result=b"R" * 1300), end(actor.unended[4]))
    actor.force(forgotten(actor.unended[1]))
    for key in list(actor.unended):
        actor.force(end(key))
    actor.note(CoordinatorKnown(guid=b"K" * 16, address="host:1", at_ms=5))
    actor.close()
    again = stage.actor().open()
    again.force(commit(again.key(10)))
    again.close()
    return stage.recording


def a_death_and_an_heir() -> Recording:
    """Two processes at once; one dies in the middle of its work; the other takes it over; a third opens."""
    stage = Stage()
    first = stage.actor().open()
    second = stage.actor(segment_size_bytes_max=1 << 20).open()  # no new segment hides what the inheriting forces
    first.force(known("bank"))
    for number in range(1, 4):
        first.force(commit(first.key(number), result=b"1" * 400))
        second.force(commit(second.key(10 + number), user_id=f"b{number}"))
    first.note(end(first.unended[0]))
    second.look()
    first.kill()
    second.look()
    second.force(*(end(key) for key in second.unended[:2]))
    second.force(*(end(key) for key in second.unended[-2:]))
    second.force(commit(second.key(20), result=b"2" * 900))
    third = stage.actor().open()
    third.force(commit(third.key(30)))
    second.kill()
    third.look()
    for key in list(third.unended):
        third.note(end(key))
    third.close()
    return stage.recording


def three_deaths() -> Recording:
    """Three die one after the other, none taken over; a fourth inherits from all."""
    stage = Stage()
    for number in (1, 11, 21):
        actor = Actor(stage)
        actor.process.open()
        stage.recording.mark(Opened(actor.process.journal.incarnation))
        actor.force(*(commit(actor.key(one), result=b"x" * 300) for one in range(number, number + 3)))
        actor.force(end(actor.unended[0]))
        actor.kill()
    heir = stage.actor().open()
    heir.force(commit(heir.key(30)))
    heir.kill()
    return stage.recording


def a_copy_adopted() -> Recording:
    """The folder is copied, the copy adopted and used; the recording begins with the copy."""
    before = Stage()
    original = before.actor().open()
    key = original.key(1)
    original.force(commit(key, result=b"1" * 300))
    original.kill()
    before.disk.copy_folder(FOLDER, "/copy")
    before.disk.copy_folder("/copy", FOLDER)
    stage = Stage(before.disk)
    for operation in before.recording.operations:
        if operation.kind == "mark":
            stage.recording.mark(operation.mark)
    stage.recording.mark(Adopted(False, 0))
    report = adopt_copy(FOLDER, RecordingDisk(stage.disk.process(), stage.recording))
    stage.recording.mark(Adopted(True, report.counter_after))
    actor = stage.actor().open()
    actor.force(commit(actor.key(2)))
    actor.kill()
    return stage.recording


def refused_for_good() -> Recording:
    """A database proves the folder an older copy; it is refused from then on."""
    stage = Stage()
    actor = stage.actor().open()
    actor.force(commit(actor.key(1)))
    stage.recording.mark(Refused(False))
    actor.process(actor.process.journal.refuse_for_good("bank has seen incarnation 9"))
    stage.recording.mark(Refused(True))
    actor.close()
    return stage.recording


NAMED: dict[str, Callable[[], Recording]] = {
    workload.__name__: workload
    for workload in (one_life, a_death_and_an_heir, three_deaths, a_copy_adopted, refused_for_good)
}


# --- drawn by lot ----------------------------------------------------------------------------------------------------


class Lot:
    """Up to three processes that do what a seed says; killed between and within operations, and failed by the disk."""

    STEPS = 30

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._stage = Stage()
        self._actors: list[Actor] = []
        self._number = 0
        self._size_bytes_max = self._chance.choice([600, 1500, 4000])
        self._doing: Actor | None = None

    def run(self) -> Recording:
        for _ in range(self.STEPS):
            if not self._actors or (len(self._actors) < 3 and self._chance.random() < 0.12):
                self._safely(self._stage.actor(segment_size_bytes_max=self._size_bytes_max), self._open)
                continue
            actor = self._chance.choice(self._actors)
            weights = {
                self._commit: 4,
                self._commit_claimed: 4,
                self._group: 3,
                self._end: 6,
                self._note_ends: 3,
                self._heuristic: 1,
                self._know: 1,
                Actor.look: 3,
                Actor.close: 1,
                Actor.kill: 2,
            }
            self._safely(actor, self._chance.choices(list(weights), list(weights.values()))[0])
        return self._stage.recording

    def _safely(self, actor: Actor, what: Callable[[Actor], object]) -> None:
        if self._chance.random() < 0.08:
            self._kill_within(actor, self._chance.randrange(12))
        elif self._chance.random() < 0.04:
            self._stage.disk.fail_force_at = self._stage.disk.forces + 1 + self._chance.randrange(3)
        try:
            what(actor)
            is_over = what in (Actor.close, Actor.kill)
        except (ProcessKilled, JournalFailed, JournalRefused):
            actor.kill()
            is_over = True
        finally:
            self._stage.recording.on_operation = None
            self._stage.disk.fail_force_at = None
        if is_over or "failed" in repr(actor.process.journal):
            actor.kill()
            self._actors = [one for one in self._actors if one is not actor]

    def _kill_within(self, actor: Actor, operations: int) -> None:
        left = [operations]

        def hook(kind: str, path: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                actor.kill()
                raise ProcessKilled

        self._stage.recording.on_operation = hook

    def _open(self, actor: Actor) -> None:
        self._actors.append(actor)
        actor.open()

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _new_commit(self, actor: Actor, number: int) -> Commit:
        user_id = f"order {number}" if self._chance.random() < 0.4 else None
        result = bytes([number % 256]) * self._chance.choice([0, 5, 200, 1100])
        return commit(actor.key(number), user_id=user_id, result=result)

    def _commit(self, actor: Actor) -> None:
        actor.force(self._new_commit(actor, self._next()))

    def _commit_claimed(self, actor: Actor) -> None:
        """Perhaps a transaction that was tried before: only who claims it may commit it."""
        number = self._chance.randint(1, self._number + 1)
        self._number = max(number, self._number)
        if actor.claim(number):
            actor.force(self._new_commit(actor, number))
            actor.release(number)

    def _group(self, actor: Actor) -> None:
        actor.force_together([(self._new_commit(actor, self._next()),) for _ in range(self._chance.randint(2, 5))])

    def _end(self, actor: Actor) -> None:
        some = [key for key in actor.unended if self._chance.random() < 0.5]
        if some:
            actor.force(*map(end, some))

    def _note_ends(self, actor: Actor) -> None:
        some = [key for key in actor.unended if self._chance.random() < 0.3]
        actor.note(*map(end, some))
        actor.unended = [key for key in actor.unended if key not in some]

    def _heuristic(self, actor: Actor) -> None:
        if actor.unended:
            actor.force(heuristic(self._chance.choice(actor.unended)))

    def _know(self, actor: Actor) -> None:
        actor.force(known(self._chance.choice(["bank", "ledger", "audit"])))
