"""Look at a journal's folder as files: verify it, list its records, salvage what can be read, adopt a copy.

All but `adopt_copy` change nothing, take no lock, and work while processes live: what such a process is just writing
reads as a torn tail. Not for: what the records mean to recovery (folder.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest

from syncpoint.errors import JournalDamaged, JournalRefused
from syncpoint.ids import Guid, Incarnation
from syncpoint.journal.format import (
    HEADER_SIZE_BYTES,
    BadBytes,
    Header,
    SegmentName,
    batches_behind,
    read_batch,
    read_record,
)
from syncpoint.journal.head import Head, Paths, read_counter, read_head, write_counter, write_head
from syncpoint.journal.members import SegmentReading, list_locks, list_segments, read_segment
from syncpoint.journal.opening import plainly
from syncpoint.ports import Disk
from syncpoint.records import AnyRecord

ADOPTED_RAISE = 1_000_000
"""By how much adopting a copy raises the counter: more incarnations than the original draws from then on."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that had been forced, or may have been, and cannot be read."""

    file: str
    offset: int
    why: str


@dataclass(frozen=True, slots=True)
class RecordLine:
    """One record and where it stands."""

    file: str
    offset: int
    incarnation: Incarnation
    """Whose file it stands in."""
    record: AnyRecord


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """What one segment holds."""

    file: str
    incarnation: Incarnation
    number: int
    size_bytes: int
    records: int
    torn: str
    """Why its tail, never acknowledged, is dropped; empty when it is whole. (A living process may be writing it.)"""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found. `ok`: a process that opens this journal now would not be refused."""

    path: str
    coordinator: Guid | None
    highest_incarnation: int
    is_copy: bool
    """The folder is not the one in which the journal was made."""
    segments: tuple[SegmentReport, ...]
    damages: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        return not self.damages and not self.is_copy

    @property
    def records(self) -> int:
        return sum(segment.records for segment in self.segments)


@dataclass(frozen=True, slots=True)
class AdoptReport:
    """What `adopt_copy` did."""

    path: str
    coordinator: Guid
    counter_before: int
    counter_after: int


def verify(path: str, disk: Disk) -> VerifyReport:
    """Read everything in the journal's folder `path`. Raises JournalRefused, FormatTooNew."""
    paths = Paths(path)
    damages: list[Damage] = []
    with plainly(path):
        head, highest = _read_small_files(disk, paths, damages)
        segments = []
        for found, damage in _segments(disk, paths, head.guid if head else None):
            segments.append(_report(found))
            if damage is not None:
                damages.append(damage)
        newest = max((segment.incarnation for segment in segments), default=0)
        if newest > highest and not damages:
            damages.append(Damage(paths.counter, 0, f"it says {highest}, but incarnation {newest} has left records"))
        is_copy = head is not None and disk.identity(path) != (head.device, head.inode)
    return VerifyReport(path, head.guid if head else None, highest, is_copy, tuple(segments), tuple(damages))


def _read_small_files(disk: Disk, paths: Paths, damages: list[Damage]) -> tuple[Head | None, int]:
    head, highest = None, 0
    try:
        head = read_head(disk, paths)
        if head is None:
            _require_segments(disk, paths)
            damages.append(Damage(paths.head, 0, "the head is missing"))
    except JournalDamaged as error:
        damages.append(_damage(error))
    try:
        highest = read_counter(disk, paths)
    except JournalDamaged as error:
        damages.append(_damage(error))
    return head, highest


def _require_segments(disk: Disk, paths: Paths) -> None:
    """Raises JournalRefused when there is no trace of a journal."""
    if not disk.exists(paths.segments):
        raise JournalRefused(f"There is no journal at {paths.root}.", advice="Name the journal's folder.")


def _damage(error: JournalDamaged) -> Damage:
    why = error.message.partition(f"byte {error.offset}: ")[2].removesuffix(".")
    return Damage(error.path, error.offset, why)


def _report(found: SegmentReading) -> SegmentReport:
    records = sum(len(batch.records) for batch in found.reading.batches)
    torn = "" if found.reading.damaged else found.reading.bad
    return SegmentReport(found.path, found.name.incarnation, found.name.number, found.size_bytes, records, torn)


def _segments(disk: Disk, paths: Paths, coordinator: Guid | None) -> Iterator[tuple[SegmentReading, Damage | None]]:
    """Every segment, and what is lost of it. Segments that living processes remove meanwhile are passed over."""
    for incarnation, numbers in list_segments(disk, paths).items():
        for number, following in zip_longest(numbers, numbers[1:]):
            try:
                found = read_segment(disk, paths, SegmentName(incarnation, number), coordinator)
            except FileNotFoundError:
                continue
            why = found.damage(following)
            if not why and following not in (None, number + 1):
                why = "the segment behind it is missing"
            yield found, Damage(found.path, found.reading.end, why) if why else None


def list_records(path: str, disk: Disk) -> Iterator[RecordLine]:
    """Every record, process by process, in the order written. Raises JournalRefused, JournalDamaged, FormatTooNew."""
    paths = Paths(path)
    with plainly(path):
        head = read_head(disk, paths)
        if head is None:
            raise JournalRefused(f"There is no journal at {path}.", advice="Name the journal's folder.")
        for found, damage in _segments(disk, paths, head.guid):
            for batch in found.reading.batches:
                for offset, record in batch.records:
                    yield RecordLine(found.path, offset, found.name.incarnation, record)
            if damage is not None:
                raise JournalDamaged(damage.file, damage.offset, damage.why)


# --- salvage ---------------------------------------------------------------------------------------------------


def salvage(path: str, disk: Disk) -> Iterator[RecordLine | Damage]:
    """Every record that can be read, in whatever state the files are, and each stretch that cannot (O41).

    Raises JournalRefused when there is no journal at all, FormatTooNew.
    """
    paths = Paths(path)
    with plainly(path):
        damages: list[Damage] = []
        _read_small_files(disk, paths, damages)
        yield from damages
        for incarnation, numbers in list_segments(disk, paths).items():
            for number in numbers:
                name = SegmentName(incarnation, number)
                file = paths.segment(name)
                try:
                    data = disk.read(file)
                except FileNotFoundError:
                    continue  # removed by a living process, which has written it anew
                yield from _salvage_segment(file, name, data)


def _salvage_segment(file: str, name: SegmentName, data: bytes) -> Iterator[RecordLine | Damage]:
    try:
        Header.from_bytes(data)
    except BadBytes as error:
        yield Damage(file, 0, str(error))
    at = HEADER_SIZE_BYTES
    while at < len(data):
        try:
            batch = read_batch(name, data, at)
        except BadBytes as error:
            yield Damage(file, at, str(error))
            following = next(iter(batches_behind(name, data, at)), None)
            end = following.start if following is not None else len(data)
            yield from _salvage_stretch(file, name, data, at, end)
            at = end
        else:
            for offset, record in batch.records:
                yield RecordLine(file, offset, name.incarnation, record)
            at = batch.end


def _salvage_stretch(file: str, name: SegmentName, data: bytes, start: int, end: int) -> Iterator[RecordLine]:
    """Records of a batch that is not readable as a whole: tried where one should begin, then byte by byte."""
    at = start
    while at < end:
        found = read_record(memoryview(data)[:end], at)
        if found is None:
            at += 1
            continue
        record, behind = found
        yield RecordLine(file, at, name.incarnation, record)
        at = behind


# --- adopting a copy --------------------------------------------------------------------------------------------


def adopt_copy(path: str, disk: Disk) -> AdoptReport:
    """Make a moved or restored folder the journal from now on.

    The counter is raised by ADOPTED_RAISE, so that no incarnation drawn by the original since the copy was made is
    drawn again. Raises JournalRefused while a process uses the folder, JournalDamaged, FormatTooNew.
    """
    paths = Paths(path)
    with plainly(path), ExitStack() as held:
        head = read_head(disk, paths)
        if head is None:
            raise JournalRefused(f"There is no journal at {path}.", advice="Name the journal's folder.")
        for file in (paths.lock, *_lock_files(disk, paths)):
            lock = disk.lock(file)
            if lock is None:
                raise JournalRefused(
                    f"A process is using the journal at {path} ({file} is held).", advice="Stop it first."
                )
            held.callback(lock.release)
        before = read_counter(disk, paths)
        write_counter(disk, paths, before + ADOPTED_RAISE)
        write_head(disk, paths, head.guid, head.created_ms)
        disk.remove(paths.refused)
        disk.force_folder(paths.root)
    return AdoptReport(path, head.guid, before, before + ADOPTED_RAISE)


def _lock_files(disk: Disk, paths: Paths) -> list[str]:
    return [paths.member(incarnation) for incarnation in list_locks(disk, paths)]
