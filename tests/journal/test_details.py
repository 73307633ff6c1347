"""Details of the folder's journal that decide something now and then: orders, bounds, bytes.

Found missing by mutants. Not for: words (test_words.py), or the ordinary course (test_folder.py, test_sharing.py).
"""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from syncpoint.errors import FormatTooNew, JournalDamaged, JournalFailed
from syncpoint.ids import Attempt, Incarnation, TransactionId
from syncpoint.journal.base import Claim, Story
from syncpoint.journal.format import (
    BadBytes,
    Header,
    Reading,
    SegmentName,
    batches_behind,
    encode_batch,
    read_batch,
    read_batches,
)
from syncpoint.journal.head import Paths, claim_position, read_counter, read_head, write_counter
from syncpoint.journal.index import Index
from syncpoint.journal.inspect import Damage, RecordLine, salvage, verify
from syncpoint.journal.members import Member, read_segment
from syncpoint.journal.opening import read_or_make
from syncpoint.records import CoordinatorKnown, Heuristic, Record
from syncpoint.testing.disks import MemoryDisk
from tests.journal.support import (
    COORDINATOR,
    FOLDER,
    ManualClock,
    Process,
    SeededRandom,
    commit,
    end,
    forgotten,
    heuristic,
    identifier,
    key,
    transaction,
)

NAME = SegmentName(Incarnation(1), 1)
SEGMENT = f"{FOLDER}/segments/{NAME}"


def opened(disk: MemoryDisk) -> Process:
    return Process(disk.process()).open()


# --- attempts and claims -----------------------------------------------------------------------------------------


def test_attempts_are_counted_one_by_one_to_the_last() -> None:
    process = opened(MemoryDisk())
    assert [process.journal.next_attempt().counter for _ in range(3)] == [1, 2, 3]
    process.journal._counter = Attempt.COUNTER_MAX - 1
    assert process.journal.next_attempt().counter == Attempt.COUNTER_MAX
    with pytest.raises(AssertionError):
        process.journal.next_attempt()


def test_the_byte_that_is_claimed_never_changes() -> None:
    """Processes of an older and a newer Syncpoint share a folder during an upgrade (C7)."""
    raw = bytes.fromhex("ffeeddccbbaa9988") + b"\xff" * 8
    assert claim_position(TransactionId(raw)) == 0xFFEEDDCCBBAA9988 >> 2 < 1 << 63
    assert claim_position(TransactionId(bytes(7) + b"\x04" + b"\xff" * 8)) == 1


def test_a_claim_that_is_interrupted_while_it_is_taken_is_given_back() -> None:
    disk = MemoryDisk()
    process = opened(disk)

    def interrupt(step: Any) -> None:
        if step.what == "journal survey":
            raise KeyboardInterrupt

    process.runner.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        process(process.journal.claim(transaction(1)))
    process.runner.before = lambda step: None
    other = opened(disk)
    assert other(other.journal.claim(transaction(1))) == Claim(mine=True)


def test_the_story_is_told_by_everybody_who_has_a_part_of_it() -> None:
    disk = MemoryDisk()
    first, second, third = (opened(disk) for _ in range(3))
    for number, process in enumerate((first, second, third), 1):
        process(process.journal.force((heuristic(key(1), branch=number),)))
    told = first(first.journal.story(transaction(1)))
    assert told == Story(
        transaction(1), tuple((Incarnation(number), heuristic(key(1), branch=number)) for number in (1, 2, 3))
    )


# --- taking over -------------------------------------------------------------------------------------------------


def test_the_batchers_have_names() -> None:
    process = Process(MemoryDisk())
    names: list[str] = []
    make = process.runner.batcher

    def noting(handler: Any, what: str) -> Any:
        names.append(what)
        return make(handler, what)

    process.runner.batcher = noting  # type: ignore[method-assign]
    process.open()
    assert names == ["journal force", "journal survey"]


def test_forcing_nothing_costs_nothing_after_something_was_noted_too() -> None:
    process = opened(MemoryDisk())
    process.journal.note((end(key(1)),))
    steps: list[Any] = []
    process.runner.before = steps.append
    for expected in (1, 1, 1):
        process(process.journal.force(()))
        assert len(steps) == expected


def test_r5_a_disk_that_fails_while_taking_over_stops_the_journal() -> None:
    """The records are written by then; what the dead one left cannot be removed."""
    disk = MemoryDisk()
    first = opened(disk)
    first(first.journal.force((commit(key(1)),)))
    disk.kill_all()
    second = Process(disk.process())

    def fail(operation: str, path: str) -> None:
        if operation == "remove":
            raise OSError(5, "Input/output error", path)

    disk.on_operation = fail
    with pytest.raises(JournalFailed, match="Writing to the journal at /journal failed"):
        second.open()
    with pytest.raises(JournalFailed):
        second.journal.next_attempt()


def test_a_strange_file_in_a_journals_folder_is_no_reason_to_refuse_it() -> None:
    disk = MemoryDisk()
    opened(disk)
    disk.create(f"{FOLDER}/notes.txt").close()
    assert opened(disk).journal.incarnation == 2


def test_a_head_of_no_version_is_damage_from_its_first_byte() -> None:
    disk = MemoryDisk()
    opened(disk)
    path = f"{FOLDER}/journal"
    disk.remove(path)
    disk.create(path).append(b'{"version":0}')
    with pytest.raises(JournalDamaged) as caught:
        read_head(disk, Paths(FOLDER))
    assert caught.value.message == (
        f"The journal is damaged: {path}, byte 0: the head is not readable: there is no format version 0."
    )
    assert caught.value.offset == 0


def test_an_address_that_is_held_already_is_not_copied() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    same = CoordinatorKnown(guid=b"N" * 16, address="a", at_ms=5)
    for process in (first, second):
        process(process.journal.force((same, commit(key(process.journal.incarnation)))))
    disk_of_second = second.disk
    assert hasattr(disk_of_second, "kill")
    disk_of_second.kill()
    first(first.journal.look())
    data = disk.read(SEGMENT)
    records = [record for batch in read_batches(NAME, data).batches for _, record in batch.records]
    assert records == [same, commit(key(1)), commit(key(2))]


def test_the_first_word_about_a_branch_stands_unless_nobody_knew() -> None:
    def outcome(name: str, at_ms: int) -> Heuristic:
        kept = heuristic(key(1), at_ms=at_ms)
        return Heuristic(
            transaction=kept.transaction,
            attempt=kept.attempt,
            resource="bank",
            identifier=identifier(key(1)),
            outcome=name,
            decided="commit",
            detail="",
            at_ms=at_ms,
        )

    def listed(*records: Record) -> list[Record]:
        index = Index()
        for record in records:
            index.apply(record)
        return list(index.heuristics.values())

    rollback, mixed = outcome("HEURISTIC_ROLLBACK", 1), outcome("HEURISTIC_MIXED", 2)
    hazard = outcome("HEURISTIC_HAZARD", 3)
    assert listed(rollback, mixed) == listed(rollback, hazard) == [rollback]
    assert listed(hazard, mixed, rollback) == [mixed]


# --- following the living ----------------------------------------------------------------------------------------


class NotingDisk(MemoryDisk):
    """Notes from where each file was read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, int]] = []

    def read(self, path: str, offset: int = 0, size_bytes_max: int = -1) -> bytes:
        self.reads.append((path, offset))
        return super().read(path, offset, size_bytes_max)


class Looker:
    """A living process, and a member that follows it."""

    def __init__(self) -> None:
        self.disk = NotingDisk()
        self.process = opened(self.disk)
        self.member = Member(Incarnation(1))

    def follow(self, *numbers: int) -> list[int]:
        """From which offsets its file was read."""
        self.disk.reads.clear()
        self.member.follow(self.disk, Paths(FOLDER), numbers, self.process.runner.mutex())
        assert {path for path, _ in self.disk.reads} <= {SEGMENT}
        return [offset for _, offset in self.disk.reads]


def test_who_has_written_nothing_is_not_read_again() -> None:
    looker = Looker()
    where = 64
    for number in (1, 2):
        looker.process(looker.process.journal.force((commit(key(number)),)))
        assert (looker.follow(1), looker.follow(1)) == ([where], [])
        assert where < looker.member.offset <= looker.disk.size(SEGMENT) == looker.member.size_seen
        assert (looker.member.number, looker.member.uncertain) == (1, [])
        where = looker.member.offset
    assert list(looker.member.index.unended) == [key(1), key(2)]


def test_damage_in_a_living_file_is_told_at_the_second_look() -> None:
    looker = Looker()
    for number in (1, 2):
        looker.process(looker.process.journal.force((commit(key(number)),)))
    batch = next(one for one in read_batches(NAME, looker.disk.read(SEGMENT)).batches if one.records)
    looker.disk.flip(SEGMENT, batch.start + 30)
    with pytest.raises(JournalDamaged) as caught:
        looker.follow(1)
    assert (caught.value.path, caught.value.offset) == (SEGMENT, batch.start)
    assert "the batch's checksum is wrong" in caught.value.message
    assert looker.disk.reads == [(SEGMENT, 64)] * 2


def test_two_commits_of_one_transaction_can_both_be_ended() -> None:
    """No journal accepts the second; whoever reads a file must not fall over it."""
    index = Index()
    one, other = key(1), key(1, Attempt(Incarnation(2), 1))
    for record in (commit(one), commit(other), end(one), end(other)):
        index.apply(record)
    assert (index.alive(), index.committed(one.transaction)) == ([], None)


# --- what stands behind damage -----------------------------------------------------------------------------------


def three_batches() -> tuple[bytes, list[int]]:
    """Batches without a header in front, and where each begins in them."""
    data, starts = b"", []
    for number in (1, 2, 3):
        starts.append(len(data))
        data += encode_batch(NAME, 100 + len(data), 100, (commit(key(number), result=b"BTCH" * number),))
    return data, starts


def test_batches_behind_a_place_wherever_the_bytes_begin() -> None:
    data, starts = three_batches()

    def found(offset: int, data: bytes = data) -> list[int]:
        return [batch.start - 100 for batch in batches_behind(NAME, data, 100 + offset, base=100)]

    assert found(-1) == starts, "a batch may begin at the very next byte"
    assert found(0) == starts[1:]
    assert found(starts[1] - 1) == starts[1:]
    assert found(starts[2]) == []
    broken = bytearray(data)
    broken[starts[1] + 30] ^= 1
    assert found(-1, bytes(broken)) == [starts[0], starts[2]], "the words inside a record are no batches"
    whole = Header(COORDINATOR, NAME, 5).to_bytes() + encode_batch(NAME, 64, 64, (commit(key(1)),))
    assert [batch.start for batch in batches_behind(NAME, whole, 0)] == [64]


def test_salvage_says_where_each_record_stood_and_what_is_lost_between() -> None:
    disk = MemoryDisk()
    process = opened(disk)
    for number in (1, 2, 3, 4, 5):
        process(process.journal.force((commit(key(number)), end(key(number)))))
    disk.kill_all()
    batches = [batch for batch in read_batches(NAME, disk.read(SEGMENT)).batches if batch.records]
    for broken in (batches[1], batches[3]):
        disk.flip(SEGMENT, broken.start + 5)
    disk.flip(SEGMENT, 12)
    lines = list(salvage(FOLDER, disk))
    assert [line for line in lines if isinstance(line, Damage)] == [
        Damage(SEGMENT, 0, "the segment's header is not readable"),
        Damage(SEGMENT, batches[1].start, "the batch's checksum is wrong"),
        Damage(SEGMENT, batches[3].start, "the batch's checksum is wrong"),
    ]
    expected = [
        RecordLine(SEGMENT, offset, Incarnation(1), record) for batch in batches for offset, record in batch.records
    ]
    assert [line for line in lines if isinstance(line, RecordLine)] == expected


def test_what_goes_meanwhile_is_passed_over_and_the_rest_is_read() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    second(second.journal.force((commit(key(1)),)))
    following = SegmentName(Incarnation(1), 2)
    header = Header(first.journal.coordinator, following, 5).to_bytes()
    disk.create(f"{FOLDER}/segments/{following}").append(header + encode_batch(following, 64, 64, (commit(key(2)),)))

    def vanish(operation: str, path: str) -> None:
        if operation == "read" and path == SEGMENT:
            raise FileNotFoundError(2, "gone", path)

    disk.on_operation = vanish
    files = [f"{FOLDER}/segments/{name}" for name in (following, SegmentName(Incarnation(2), 1))]
    assert [segment.file for segment in verify(FOLDER, disk).segments] == files
    records = [line.record for line in salvage(FOLDER, disk) if isinstance(line, RecordLine)]
    assert records == [commit(key(2)), commit(key(1))]


def test_damage_is_told_once_and_not_as_a_torn_tail() -> None:
    disk = MemoryDisk()
    process = opened(disk)
    for number in (1, 2):
        process(process.journal.force((commit(key(number)),)))
    first = next(one for one in read_batches(NAME, disk.read(SEGMENT)).batches if one.records)
    disk.flip(SEGMENT, first.start + 30)
    report = verify(FOLDER, disk)
    assert [segment.torn for segment in report.segments] == [""]
    assert report.damages == (Damage(SEGMENT, first.start, "the batch's checksum is wrong"),)


def test_a_segment_of_another_journal_is_damage_wherever_one_looks() -> None:
    disk = MemoryDisk()
    process = opened(disk)
    process(process.journal.force((commit(key(1)),)))
    data = disk.read(SEGMENT)
    disk.kill_all()
    disk.remove(SEGMENT)
    strange = Header(COORDINATOR, NAME, 5).to_bytes() + data[64:]
    disk.create(SEGMENT).append(strange)
    assert verify(FOLDER, disk).damages == (Damage(SEGMENT, 0, "the header names another segment or another journal"),)


def test_a_segment_that_ends_too_early_before_another_is_damage() -> None:
    disk = MemoryDisk()
    process = opened(disk)
    process(process.journal.force((commit(key(1)),)))
    data = disk.read(SEGMENT)
    disk.kill_all()
    batch = next(one for one in read_batches(NAME, data).batches if one.records)
    disk.remove(SEGMENT)
    disk.create(SEGMENT).append(data[: batch.end])
    disk.create(f"{FOLDER}/segments/{SegmentName(Incarnation(1), 2)}").append(
        Header(process.journal.coordinator, SegmentName(Incarnation(1), 2), 5).to_bytes()
    )
    assert verify(FOLDER, disk).damages == (
        Damage(SEGMENT, batch.end, "its end is missing, although a later segment follows"),
    )


def test_a_journal_in_which_nobody_has_written_is_whole() -> None:
    disk = MemoryDisk()
    disk.make_folder(FOLDER)
    read_or_make(disk, ManualClock(), SeededRandom(), Paths(FOLDER))
    report = verify(FOLDER, disk)
    assert (report.ok, report.highest_incarnation, report.segments) == (True, 0, ())


def test_a_sealed_segment_before_the_next_is_whole() -> None:
    disk = MemoryDisk()
    process = opened(disk)
    process(process.journal.force((commit(key(1)),)))
    disk.kill_all()
    following = SegmentName(Incarnation(1), 2)
    header = Header(process.journal.coordinator, following, 5).to_bytes()
    disk.create(f"{FOLDER}/segments/{following}").append(header + encode_batch(following, 64, 64, ()))
    report = verify(FOLDER, disk)
    assert report.ok
    assert [(one.incarnation, one.number, one.records, one.torn) for one in report.segments] == [
        (1, 1, 1, ""),
        (1, 2, 0, ""),
    ]


def test_a_counter_older_than_the_records_is_told_with_its_file() -> None:
    disk = MemoryDisk()
    for _ in range(3):
        opened(disk)
    write_counter(disk, Paths(FOLDER), 2)
    assert verify(FOLDER, disk).damages == (
        Damage(f"{FOLDER}/counter", 0, "it says 2, but incarnation 3 has left records"),
    )


def test_a_segment_without_a_header_has_nothing_read_of_it() -> None:
    disk = MemoryDisk()
    process = opened(disk)
    process(process.journal.force((commit(key(1)),)))
    disk.flip(SEGMENT, 20)
    found = read_segment(disk, Paths(FOLDER), NAME, None)
    assert (found.path, found.name, found.size_bytes, found.header) == (SEGMENT, NAME, disk.size(SEGMENT), None)
    assert found.reading == Reading((), 0, 0, "the segment's header is not readable", damaged=True)


def test_a_later_segment_names_both_versions() -> None:
    raw = bytearray(Header(COORDINATOR, NAME, 5).to_bytes())
    raw[8:10] = (9).to_bytes(2, "little")
    raw[46:50] = zlib.crc32(raw[:46]).to_bytes(4, "little")
    with pytest.raises(FormatTooNew) as caught:
        Header.from_bytes(bytes(raw))
    assert caught.value.message == "This journal segment has format version 9; this Syncpoint reads up to version 1."
    assert (caught.value.found, caught.value.known) == (9, 1)


def test_why_bytes_are_no_batch() -> None:
    whole = encode_batch(NAME, 64, 64, (commit(key(1)),))
    broken = bytearray(whole)
    broken[-1] ^= 1
    short = (b"", whole[:23], whole[:24], whole[:-1])
    said = {
        "the batch is incomplete": short,
        "no batch begins here": (bytes(24), b"btch" + whole[4:]),
        "the batch's checksum is wrong": (bytes(broken), encode_batch(NAME, 65, 64, (commit(key(1)),))),
    }
    for why, cases in said.items():
        for raw in cases:
            with pytest.raises(BadBytes, match=f"^{why}$"):
                read_batch(NAME, raw, 64, base=64)
    assert read_batch(NAME, whole, 64, base=64).records == ((96 - 8, commit(key(1))),)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "the counter of incarnations is not readable"),
        (bytes(12), "the counter of incarnations is not readable"),
        (
            (1 << 32).to_bytes(8, "little") + zlib.crc32((1 << 32).to_bytes(8, "little")).to_bytes(4, "little"),
            "the counter of incarnations says 4294967296, more than can be drawn",
        ),
    ],
)
def test_a_counter_that_is_none_is_damage_from_its_first_byte(raw: bytes, why: str) -> None:
    disk = MemoryDisk()
    opened(disk)
    path = f"{FOLDER}/counter"
    disk.remove(path)
    disk.create(path).append(raw)
    with pytest.raises(JournalDamaged) as caught:
        read_counter(disk, Paths(FOLDER))
    assert (caught.value.path, caught.value.offset) == (path, 0)
    assert caught.value.message == f"The journal is damaged: {path}, byte 0: {why}."


def test_what_others_forgot_is_noted_only_if_it_speaks_for_something_here() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    first(first.journal.force((heuristic(key(1)),)))
    second(second.journal.force((forgotten(key(1)), forgotten(key(2)))))
    first(first.journal.look())
    assert first.journal._noted == [forgotten(key(1))]
    first(first.journal.force(()))
    first(first.journal.look())
    assert first.journal._noted == [], "once"
