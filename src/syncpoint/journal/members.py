"""Other processes' segments: who has any, what a dead process left, what a living one has forced so far.

A dead process's segments are read whole and verified: damage refuses everything (O41), a torn tail is dropped (O40).
A living process's are read as they grow. What stands above the offset it has stated to be forced is *uncertain*: it
is never answered with (O59). A member states that offset anew after every force, so uncertain means: its force is
under way, or has failed. Not for: locks, or what is done with the records (folder.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from syncpoint.errors import JournalDamaged
from syncpoint.ids import INCARNATION_MAX, Guid, Incarnation, Key, TransactionId
from syncpoint.journal.format import (
    HEADER_SIZE_BYTES,
    BadBytes,
    Batch,
    Header,
    Reading,
    SegmentName,
    forced_above,
    read_batches,
)
from syncpoint.journal.head import Paths
from syncpoint.journal.index import Index
from syncpoint.marks import sometimes
from syncpoint.ports import Disk
from syncpoint.records import Commit

_LOCK = re.compile(r"([0-9]{10})\.lock")


def list_locks(disk: Disk, paths: Paths) -> list[Incarnation]:
    """Incarnations that have a lock file. A living process's stands there all its life."""
    found = [_LOCK.fullmatch(name) for name in disk.list(paths.members)]
    return [Incarnation(int(name[1])) for name in found if name is not None and int(name[1]) <= INCARNATION_MAX]


def list_segments(disk: Disk, paths: Paths) -> dict[Incarnation, list[int]]:
    """The numbers of each incarnation's segments, in order."""
    found: dict[Incarnation, list[int]] = {}
    for text in disk.list(paths.segments):
        name = SegmentName.parse(text)
        if name is not None:
            found.setdefault(name.incarnation, []).append(name.number)
    return {incarnation: sorted(numbers) for incarnation, numbers in sorted(found.items())}


# --- the dead ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SegmentReading:
    """One segment of a process that writes no more."""

    path: str
    name: SegmentName
    size_bytes: int
    header: Header | None
    """None: it was torn before its header was forced."""
    reading: Reading

    def damage(self, following: int | None) -> str:
        """Why something that had been forced is lost, given the number of the segment that follows; else empty."""
        reading = self.reading
        if reading.damaged:
            return reading.bad
        if following is None or reading.sealed:
            return ""
        return f"{reading.bad or 'its end is missing'}, although a later segment follows"


def read_segment(disk: Disk, paths: Paths, name: SegmentName, coordinator: Guid | None) -> SegmentReading:
    """Read one segment whole; any coordinator's when that is None. Raises FormatTooNew, FileNotFoundError."""
    path = paths.segment(name)
    data = disk.read(path)
    try:
        header = Header.from_bytes(data)
        if header.name != name or coordinator not in (None, header.coordinator):
            raise BadBytes("the header names another segment or another journal")
    except BadBytes as error:
        forced = forced_above(name, data, 0)
        return SegmentReading(path, name, len(data), None, Reading((), 0, 0, str(error), forced))
    return SegmentReading(path, name, len(data), header, read_batches(name, data))


def read_dead(
    disk: Disk, paths: Paths, incarnation: Incarnation, numbers: Sequence[int], coordinator: Guid
) -> Iterator[SegmentReading]:
    """Read the segments of a dead process and verify them. Raises JournalDamaged, FormatTooNew."""
    for number, following in zip_longest(numbers, numbers[1:]):
        found = read_segment(disk, paths, SegmentName(incarnation, number), coordinator)
        damage = found.damage(following)
        if damage:
            raise JournalDamaged(found.path, found.reading.end, damage)
        if following not in (None, number + 1):
            lost = paths.segment(SegmentName(incarnation, number + 1))
            raise JournalDamaged(lost, 0, "the segment is missing")
        if found.reading.bad:
            sometimes("a torn tail was dropped")
        yield found


def index_dead(disk: Disk, paths: Paths, incarnation: Incarnation, numbers: Sequence[int], coordinator: Guid) -> Index:
    """All a dead process left. Raises JournalDamaged, FormatTooNew."""
    index = Index()
    for segment in read_dead(disk, paths, incarnation, numbers, coordinator):
        index = _after(index, segment.name.number, segment.reading.batches)
    return index


def _after(index: Index, number: int, batches: Sequence[Batch]) -> Index:
    """The index after one more segment. Every segment but the first begins with a checkpoint of everything alive."""
    if number > 1 and batches:
        index = Index()
    for batch in batches:
        for _, record in batch.records:
            index.apply(record)
    return index


# --- the living ------------------------------------------------------------------------------------------------


class Vanished(Exception):
    """A segment went away while it was being looked at: list anew."""


@dataclass(slots=True)
class Member:
    """Another living process, as far as its segments have been read."""

    incarnation: Incarnation
    index: Index = field(default_factory=Index)
    """What it has certainly forced."""
    uncertain: list[Commit] = field(default_factory=list)
    """Commits it has written, of which it has not stated yet that they are forced."""
    number: int = 0
    offset: int = 0
    size_seen: int = -1

    def __repr__(self) -> str:
        return f"<Member {self.incarnation} read to {self.number}:{self.offset} {self.index!r}>"

    def is_uncertain(self, transaction: TransactionId) -> bool:
        """Whether a Commit of it is written of which nobody knows whether it is forced."""
        return any(commit.transaction == transaction.raw for commit in self.uncertain)

    def unended(self) -> Iterator[Key]:
        """Keys of everything that it has to finish, certain or not."""
        yield from list(self.index.unended)
        yield from (commit.key for commit in self.uncertain)

    def follow(self, disk: Disk, paths: Paths, numbers: Sequence[int], mutex: AbstractContextManager[Any]) -> None:
        """Read what was written since the last time; `mutex` is held while anything here changes.

        Raises Vanished, JournalDamaged, FormatTooNew, OSError.
        """
        if self.number and self.number not in numbers:
            # Gone: its owner has forced a checkpoint of everything into the next one (or was taken over).
            self.number = 0
        for number in numbers:
            if number >= self.number:
                self._follow(disk, paths, SegmentName(self.incarnation, number), mutex)

    def _follow(self, disk: Disk, paths: Paths, name: SegmentName, mutex: AbstractContextManager[Any]) -> None:
        path = paths.segment(name)
        try:
            size = disk.size(path)
            if name.number == self.number and size == self.size_seen:
                return
            start = self.offset if name.number == self.number else HEADER_SIZE_BYTES
            reading = self._read(disk, path, name, start)
        except FileNotFoundError:
            raise Vanished from None
        with mutex:
            self._take_in(name, reading, size)

    def _take_in(self, name: SegmentName, reading: Reading, size: int) -> None:
        certain = [batch for batch in reading.batches if batch.end <= reading.forced]
        uncertain = (record for batch in reading.batches[len(certain) :] for _, record in batch.records)
        self.uncertain = [record for record in uncertain if isinstance(record, Commit)]
        if name.number != self.number:
            if not certain:
                return  # its checkpoint is not forced yet; the segment before it still counts
            self.number, self.index = name.number, Index()
        for batch in certain:
            for _, record in batch.records:
                self.index.apply(record)
            self.offset = batch.end
        self.size_seen = size

    def _read(self, disk: Disk, path: str, name: SegmentName, start: int) -> Reading:
        """Read on from `start`. Bytes may be caught half-written: damage counts only if it is there the second time."""
        for _ in range(2):
            reading = read_batches(name, disk.read(path, start), start, base=start)
            if not reading.damaged:
                return reading
        raise JournalDamaged(path, reading.end, reading.bad)
