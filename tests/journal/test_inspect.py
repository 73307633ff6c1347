"""Verify, list and salvage: what people see of a journal's folder, whole, in use, or damaged (O41)."""

from __future__ import annotations

from typing import Any

import pytest

from syncpoint.errors import JournalDamaged, JournalRefused
from syncpoint.ids import Incarnation
from syncpoint.journal.format import SegmentName, read_batches
from syncpoint.journal.head import Paths, write_counter
from syncpoint.journal.inspect import Damage, RecordLine, list_records, salvage, verify
from syncpoint.testing.disks import MemoryDisk
from tests.journal.support import FOLDER, Process, commit, end, key

SEGMENT = f"{FOLDER}/segments/0000000001-000001.log"


@pytest.fixture
def disk() -> MemoryDisk:
    """Three commits in batches of their own, then two records in one; the process lives."""
    disk = MemoryDisk()
    process = Process(disk.process()).open()
    for number in (1, 2, 3):
        process(process.journal.force((commit(key(number)),)))
    process(process.journal.force((commit(key(4)), end(key(1)))))
    return disk


RECORDS = [commit(key(1)), commit(key(2)), commit(key(3)), commit(key(4)), end(key(1))]


def place_of(disk: MemoryDisk, number: int) -> tuple[int, int]:
    """(start, end) of the number-th batch with records."""
    batches = read_batches(SegmentName(Incarnation(1), 1), disk.read(SEGMENT)).batches
    batch = [one for one in batches if one.records][number]
    return batch.start, batch.end


def records(found: list[Any]) -> list[Any]:
    return [line.record for line in found if isinstance(line, RecordLine)]


def damages(found: list[Any]) -> list[Damage]:
    return [line for line in found if isinstance(line, Damage)]


def test_a_whole_journal_in_use(disk: MemoryDisk) -> None:
    before = disk.read(SEGMENT)
    report = verify(FOLDER, disk)
    assert report.ok
    assert (report.records, report.highest_incarnation, report.is_copy, report.damages) == (5, 1, False, ())
    [segment] = report.segments
    assert (segment.file, segment.incarnation, segment.number, segment.torn) == (SEGMENT, 1, 1, "")
    assert segment.size_bytes == len(before)
    lines = list(list_records(FOLDER, disk))
    assert records(lines) == RECORDS
    assert list(salvage(FOLDER, disk)) == lines
    assert disk.read(SEGMENT) == before
    assert {line.incarnation for line in lines} == {1}


def test_a_torn_tail_is_no_damage(disk: MemoryDisk) -> None:
    def tear(operation: str, path: str) -> None:
        if operation == "remove":
            raise AssertionError("nothing is changed")

    disk.on_operation = tear
    start, finish = place_of(disk, 3)
    data = disk.read(SEGMENT)[: finish - 1]
    disk.on_operation = None
    disk.kill_all()
    disk.remove(SEGMENT)
    file = disk.create(SEGMENT)
    file.append(data)
    report = verify(FOLDER, disk)
    assert report.ok
    assert report.segments[0].torn == "the batch is incomplete"
    assert records(list(list_records(FOLDER, disk))) == RECORDS[:3]
    found = list(salvage(FOLDER, disk))
    assert records(found) == RECORDS[:4], "one record of the torn batch is whole"
    assert damages(found) == [Damage(SEGMENT, start, "the batch is incomplete")]


@pytest.mark.parametrize("inside", range(0, 60, 7))
def test_o41_damage_in_the_middle_hides_no_other_record(disk: MemoryDisk, inside: int) -> None:
    start, _ = place_of(disk, 1)
    disk.flip(SEGMENT, start + inside)
    report = verify(FOLDER, disk)
    assert not report.ok
    [damage] = report.damages
    assert (damage.file, damage.offset) == (SEGMENT, start)
    found = list(salvage(FOLDER, disk))
    rest = [record for record in records(found) if record != commit(key(2))]
    assert rest == [record for record in RECORDS if record != commit(key(2))]
    assert (commit(key(2)) in records(found)) == (inside < 24), "only the batch's own fields were hit"
    assert damages(found)[0] == damage
    listed: list[Any] = []
    with pytest.raises(JournalDamaged):
        listed.extend(list_records(FOLDER, disk))
    disk.kill_all()
    with pytest.raises(JournalDamaged):
        Process(disk.process()).open()


def test_a_damaged_header_hides_nothing(disk: MemoryDisk) -> None:
    disk.flip(SEGMENT, 20)
    assert [damage.offset for damage in verify(FOLDER, disk).damages] == [0]
    found = list(salvage(FOLDER, disk))
    assert records(found) == RECORDS
    assert [damage.offset for damage in damages(found)] == [0]


@pytest.mark.parametrize("name", ["journal", "counter"])
def test_lost_small_files_are_damage_and_salvage_goes_on(disk: MemoryDisk, name: str) -> None:
    for lose in (lambda: disk.flip(f"{FOLDER}/{name}", 1), lambda: disk.remove(f"{FOLDER}/{name}")):
        lose()
        [damage] = verify(FOLDER, disk).damages
        assert damage.file == f"{FOLDER}/{name}"
        assert damage.why.endswith(("is missing", "is not readable")) or "head is not readable" in damage.why
        assert records(list(salvage(FOLDER, disk))) == RECORDS


def test_an_older_counter_is_damage(disk: MemoryDisk) -> None:
    write_counter(disk, Paths(FOLDER), 0)
    assert [damage.why for damage in verify(FOLDER, disk).damages] == ["it says 0, but incarnation 1 has left records"]


def test_a_missing_segment_is_damage(disk: MemoryDisk) -> None:
    disk.create(f"{FOLDER}/segments/0000000001-000003.log").close()
    disk.create(f"{FOLDER}/segments/notes.txt").close()
    assert [damage.why for damage in verify(FOLDER, disk).damages] == ["the segment behind it is missing"]


def test_segments_that_go_meanwhile_are_passed_over(disk: MemoryDisk) -> None:
    def vanish(operation: str, path: str) -> None:
        if operation == "read" and path == SEGMENT:
            raise FileNotFoundError(2, "gone", path)

    disk.on_operation = vanish
    assert verify(FOLDER, disk).segments == ()
    assert list(salvage(FOLDER, disk)) == []


def test_no_journal_at_all() -> None:
    disk = MemoryDisk()
    disk.make_folder("/empty")
    for call in (
        verify,
        lambda path, disk: list(salvage(path, disk)),
        lambda path, disk: list(list_records(path, disk)),
    ):
        for path in ("/empty", "/missing"):
            with pytest.raises(JournalRefused):
                call(path, disk)
