"""Folders that are refused, each in plain words, with nothing changed (O41, O53)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from syncpoint.errors import FormatTooNew, JournalDamaged, JournalError, JournalRefused
from syncpoint.ids import Guid, Incarnation
from syncpoint.journal.format import Header, SegmentName, encode_batch, read_batches
from syncpoint.journal.head import Paths, write_counter
from syncpoint.journal.inspect import adopt_copy
from syncpoint.system import SystemDisk
from syncpoint.testing.disks import MemoryDisk
from tests.journal.support import FOLDER, ManualClock, Process, commit, key, transaction

SEGMENT = f"{FOLDER}/segments/0000000001-000001.log"


def content(disk: MemoryDisk) -> dict[str, bytes]:
    folders = ("", "/members", "/segments")
    names = [f"{FOLDER}{folder}/{name}" for folder in folders for name in disk.list(FOLDER + folder)]
    return {name: disk.read(name) for name in names if name not in (f"{FOLDER}/members", f"{FOLDER}/segments")}


def with_commits(end: Callable[[MemoryDisk], None] = MemoryDisk.kill_all) -> MemoryDisk:
    """A journal whose process was killed after two commits, or what else `end` does to it."""
    disk = MemoryDisk()
    process = Process(disk.process()).open()
    for number in (1, 2):
        process(process.journal.force((commit(key(number)),)))
    end(disk)
    return disk


def stated_in(disk: MemoryDisk) -> int:
    """The offset up to which the segment states that everything is forced."""
    return read_batches(SegmentName(Incarnation(1), 1), disk.read(SEGMENT)).forced


def refuse(disk: MemoryDisk, match: str, error: type[JournalError] = JournalRefused) -> JournalError:
    """Opening is refused, changes nothing, and holds no lock afterwards."""
    before = content(disk)
    process = Process(disk.process())
    with pytest.raises(error, match=match) as caught:
        process.open()
    after = content(disk)
    assert {name: data for name, data in after.items() if name in before} == before
    assert all(name.endswith(("lock", ".lock")) for name in set(after) - set(before))
    gate = disk.lock(f"{FOLDER}/lock")
    assert gate is not None
    gate.release()
    assert caught.value.advice
    return caught.value


# --- not a journal, not ours ------------------------------------------------------------------------------------


def test_a_missing_folder_is_made_but_not_its_parents(tmp_path: Path) -> None:
    Process(SystemDisk(), path=str(tmp_path / "new")).open()
    with pytest.raises(JournalRefused, match="does not exist"):
        Process(SystemDisk(), path=str(tmp_path / "a" / "b")).open()


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    Process(SystemDisk(), path=str(tmp_path)).open()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(JournalRefused, match=r"no journal of Syncpoint's: it holds 'thesis.tex'"):
        Process(SystemDisk(), path=str(tmp_path)).open()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("…")
    with pytest.raises(JournalRefused, match="a file is in the way"):
        Process(SystemDisk(), path=str(tmp_path / "file")).open()


def test_missing_rights_are_told_with_the_remedy() -> None:
    disk = with_commits()

    def forbid(operation: str, path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    disk.on_operation = forbid
    with pytest.raises(JournalRefused, match=r"may not be read and written by this user.*chown"):
        Process(disk.process()).open()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_rights_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir(mode=0o500)
    with pytest.raises(JournalRefused, match="may not be read and written"):
        Process(SystemDisk(), path=str(folder)).open()


def test_a_broken_disk_is_told() -> None:
    disk = MemoryDisk()
    disk.full_at_bytes = 10
    with pytest.raises(JournalRefused, match="cannot be opened"):
        Process(disk.process()).open()


def test_a_later_version_s_folder_is_refused() -> None:
    disk = with_commits()
    head = msgspec.json.decode(disk.read(f"{FOLDER}/journal"))
    disk.replace(f"{FOLDER}/journal", msgspec.json.encode({"version": 2, "coordinator": head["coordinator"]}))
    before = content(disk)
    with pytest.raises(FormatTooNew, match="up to version 1"):
        Process(disk.process()).open()
    assert content(disk) == before


# --- copies -----------------------------------------------------------------------------------------------------


def test_o53_a_restored_copy_is_refused_until_adopted(tmp_path: Path) -> None:
    original, copy = tmp_path / "journal", tmp_path / "copy"
    process = Process(SystemDisk(), path=str(original)).open()
    process(process.journal.force((commit(key(1)),)))
    process(process.journal.close())
    shutil.copytree(original, copy)
    with pytest.raises(JournalRefused, match=r"copied.*syncpoint journal adopt-copy"):
        Process(SystemDisk(), path=str(copy)).open()
    adopted = adopt_copy(str(copy), SystemDisk())
    assert (adopted.counter_before, adopted.counter_after) == (1, 1_000_001)
    again = Process(SystemDisk(), path=str(copy)).open()
    assert again.journal.coordinator == process.journal.coordinator == adopted.coordinator
    assert again.journal.incarnation == 1_000_002, "none that the original may have drawn since"
    assert list(again(again.journal.look()).decisions) == [key(1)]
    with pytest.raises(JournalRefused, match="A process is using the journal"):
        adopt_copy(str(copy), SystemDisk())
    with pytest.raises(JournalRefused, match="There is no journal"):
        adopt_copy(str(copy / "members"), SystemDisk())


# --- damage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [MemoryDisk.kill_all, MemoryDisk.crash], ids=["killed", "crashed"])
def test_o41_every_flipped_byte_is_damage_below_the_stated_offset_and_a_torn_tail_above(
    end: Callable[[MemoryDisk], None],
) -> None:
    """After a kill the last statement is readable: both commits are safe. After a crash only the first is."""
    size, stated = with_commits(end).size(SEGMENT), stated_in(with_commits(end))
    assert size - stated == 24 or end is MemoryDisk.crash
    for offset in range(size):
        disk = with_commits(end)
        disk.flip(SEGMENT, offset, 0x04)
        if offset < stated:
            error = refuse(disk, "damaged", JournalDamaged)
            assert isinstance(error, JournalDamaged)
            assert (error.path, error.offset <= offset) == (SEGMENT, True)
        else:
            process = Process(disk.process()).open()
            decisions = set(process(process.journal.look()).decisions)
            assert decisions >= ({key(1)} if end is MemoryDisk.crash else {key(1), key(2)})


@pytest.mark.parametrize("name", ["journal", "counter"])
def test_small_files_that_are_damaged_are_refused(name: str) -> None:
    disk = with_commits()
    disk.flip(f"{FOLDER}/{name}", 3)
    refuse(disk, "not readable", JournalDamaged)
    disk = with_commits()
    disk.remove(f"{FOLDER}/{name}")
    refuse(disk, "is missing", JournalDamaged)


def test_a_head_with_a_wrong_guid_is_damage() -> None:
    disk = with_commits()
    head = msgspec.json.decode(disk.read(f"{FOLDER}/journal"))
    disk.replace(f"{FOLDER}/journal", msgspec.json.encode({**head, "coordinator": "x"}))
    refuse(disk, "the head is not readable", JournalDamaged)


def test_o53_a_counter_older_than_the_records_is_refused() -> None:
    disk = with_commits()
    write_counter(disk, Paths(FOLDER), 0)
    refuse(disk, "it says 0, but incarnation 1", JournalDamaged)


def _write_segment(disk: MemoryDisk, number: int, *, sealed: bool, coordinator: str = "") -> None:
    """A segment of process 9, dead."""
    head = msgspec.json.decode(disk.read(f"{FOLDER}/journal"))
    name = SegmentName(Incarnation(9), number)
    data = Header(Guid.parse(coordinator or head["coordinator"]), name, 0).to_bytes()
    data += encode_batch(name, len(data), 0, (commit(key(number)),))
    if sealed:
        data += encode_batch(name, len(data), len(data), ())
    file = disk.create(f"{FOLDER}/segments/{name}")
    file.append(data)
    file.force()
    write_counter(disk, Paths(FOLDER), 9)


def test_a_segment_without_its_seal_before_another_is_damage() -> None:
    disk = with_commits()
    _write_segment(disk, 1, sealed=False)
    _write_segment(disk, 2, sealed=False)
    refuse(disk, "its end is missing, although a later segment follows", JournalDamaged)


def test_a_missing_segment_between_others_is_damage() -> None:
    disk = with_commits()
    _write_segment(disk, 1, sealed=True)
    _write_segment(disk, 3, sealed=False)
    refuse(disk, "the segment is missing", JournalDamaged)


def test_a_segment_of_another_journal_is_damage() -> None:
    disk = with_commits()
    _write_segment(disk, 1, sealed=True, coordinator="00" * 16)
    refuse(disk, "another journal", JournalDamaged)


# --- opening together ---------------------------------------------------------------------------------------------


def test_two_processes_that_make_one_folder_agree() -> None:
    """The second one comes in at every operation of the first one's opening."""
    at = 1
    while True:
        disk, clock = MemoryDisk(), ManualClock()
        first, second = Process(disk.process(), clock), Process(disk.process(), clock)
        opened = []
        scripts = second.journal.open(second.runner)

        def come_in(
            operation: str,
            path: str,
            disk: MemoryDisk = disk,
            last: int = at,
            second: Process = second,
            script: object = scripts,
            opened: list[bool] = opened,
        ) -> None:
            if disk.operations == last:
                disk.on_operation = None
                try:
                    second.runner.run(script)
                except JournalRefused:
                    return  # the first holds the folder's lock; here it cannot let go meanwhile
                opened.append(True)

        disk.on_operation = come_in
        first.open()
        if disk.on_operation is not None:
            break
        if opened:
            assert second.journal.coordinator == first.journal.coordinator
            assert second.journal.incarnation != first.journal.incarnation
            assert second(second.journal.look()).live == {first.journal.incarnation}
            assert first(first.journal.look()).live == {second.journal.incarnation}
        at += 1
    assert at > 20


def test_a_lock_held_for_ever_is_told() -> None:
    disk = with_commits()
    gate = disk.lock(f"{FOLDER}/lock")
    assert gate is not None
    process = Process(disk.process())
    before = process.clock.now_s
    with pytest.raises(JournalRefused, match="Another process holds the lock"):
        process.open()
    assert 10 <= process.clock.now_s - before < 11


def test_a_failed_opening_gives_everything_back() -> None:
    """Interrupted at every operation; then another opens, and nothing is locked."""
    at = 1
    while True:
        disk = with_commits()
        begin = disk.operations

        def interrupt(operation: str, path: str, disk: MemoryDisk = disk, last: int = begin + at) -> None:
            if disk.operations >= last and operation != "release":
                disk.on_operation = None
                raise KeyboardInterrupt

        disk.on_operation = interrupt
        process = Process(disk.process())
        try:
            process.open()
        except KeyboardInterrupt:
            pass
        else:
            break
        again = Process(disk.process()).open()
        view = again(again.journal.look())
        assert set(view.decisions) == {key(1), key(2)}
        assert view.live == frozenset()
        assert again(again.journal.claim(transaction(1))).committed is not None
        at += 1
    assert at > 20
