"""O40, O41, O59 and the journal's side of O53: torn tails, damage, unforced records. Bytes in detail: tests/journal."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

import syncpoint
from syncpoint.errors import JournalDamaged
from syncpoint.ids import Incarnation, Key
from syncpoint.journal.folder import FolderJournal
from syncpoint.journal.inspect import Damage, RecordLine, salvage
from syncpoint.records import Commit
from syncpoint.system import SystemDisk
from syncpoint.testing.disks import MemoryDisk, ProcessKilled
from tests.conformance.conftest import FOLDER_ONLY, Bench, Ghost, raises
from tests.crash.trap import Trap


def _segment(bench: Bench) -> Path:
    """The file of the process that has gone."""
    (path,) = (Path(bench.journal) / "segments").iterdir()
    return path


def _leave_two(bench: Bench) -> tuple[Key, Key]:
    """A process that decided two transactions, and died before it told anybody."""
    with bench.ghost() as ghost:
        keys = []
        for name in ("first", "second"):
            key = ghost.key(name)
            ghost.prepare(key, "ab", name)
            ghost.decide(key, "ab", user_id=name)
            keys.append(key)
    return keys[0], keys[1]


@FOLDER_ONLY
@pytest.mark.parametrize("tail", [b"x", b"BTCH" + bytes(40), bytes(4096)], ids=["a byte", "half a batch", "zeros"])
def test_o40_a_torn_tail_is_dropped_the_rest_recovered(bench: Bench, tail: bytes) -> None:
    _leave_two(bench)
    with _segment(bench).open("ab") as file:
        file.write(tail)
    manager = bench.manager()
    assert not manager.recover().left
    assert bench.rows("first") == bench.rows("second") == "ab"
    bench.assert_quiet()


@FOLDER_ONLY
def test_o40_the_unacknowledged_record_in_it_means_abort(bench: Bench) -> None:
    """The last record is cut off at every byte: without it whole, its transaction is aborted; the other stands."""
    _leave_two(bench)
    path = _segment(bench)
    whole = path.read_bytes()
    start = whole.rindex(b"BTCH", 0, whole.rindex(b"second"))
    path.write_bytes(whole[: start + 30])
    manager = bench.manager()
    assert not manager.recover().left
    assert (bench.rows("first"), bench.rows("second")) == ("ab", "")
    bench.assert_quiet()


@FOLDER_ONLY
def test_o41_damage_in_the_middle_is_refused_with_its_place_and_loses_nothing(bench: Bench) -> None:
    first, second = _leave_two(bench)
    path = _segment(bench)
    damaged = bytearray(path.read_bytes())
    at = damaged.index(b"first")
    damaged[at] ^= 0x10
    path.write_bytes(bytes(damaged))
    for _ in range(2):
        with raises(JournalDamaged, "salvage") as caught:
            bench.manager()
        assert caught.value.path == str(path)  # type: ignore[attr-defined]
        assert caught.value.offset <= at  # type: ignore[attr-defined]
        assert path.read_bytes() == bytes(damaged)
    assert bench.in_doubt() == "ab"
    assert bench.a.calls.count("begin") == 0
    # The salvage command lists every readable record, and each stretch that cannot be read.
    found = list(salvage(bench.journal, SystemDisk()))
    assert any(isinstance(one, Damage) and one.file == str(path) for one in found)
    commits = [one.record for one in found if isinstance(one, RecordLine) and isinstance(one.record, Commit)]
    assert [commit.key for commit in commits] == [second]
    assert first != second


@FOLDER_ONLY
def test_o41_a_lost_segment_is_damage_too(bench: Bench) -> None:
    _leave_two(bench)
    path = _segment(bench)
    following = path.with_name(path.name.replace("-000001.", "-000003."))
    shutil.copy(path, following)
    with raises(JournalDamaged):
        bench.manager()
    assert bench.in_doubt() == "ab"


# --- unforced records ---------------------------------------------------------------------------------------------


def _die_before_the_force(bench: Bench, disk: MemoryDisk) -> Key:
    """Its Commit record is written, and readable, and not forced."""
    process = disk.process()
    runner = bench.runner()
    journal = FolderJournal("/journal", disk=process, clock=bench.clock, random=bench.random)
    runner.run(journal.open(runner))
    ghost = Ghost(bench, runner, journal)
    key = ghost.key("x")
    ghost.prepare(key)
    forces = itertools.count(1)

    def fail(operation: str, path: str) -> None:
        if operation == "force" and next(forces) == 1:
            raise OSError("power is about to go")

    disk.on_operation = fail
    with raises(syncpoint.JournalFailed):
        ghost.decide(key, user_id="x")
    disk.on_operation = None
    process.kill()
    runner.close()
    return key


@FOLDER_ONLY
def test_o59_what_is_read_unforced_is_forced_before_anything_is_done_by_it(bench: Bench) -> None:
    disk = MemoryDisk()
    _die_before_the_force(bench, disk)
    process = disk.process()
    manager = syncpoint.TransactionManager("/journal", bench.urls(), background=False, disk=process).open()
    manager.recover()
    assert bench.rows() == "ab"
    # Power goes: the record must be there, for somebody has acted on it.
    disk.crash()
    after = syncpoint.TransactionManager("/journal", bench.urls(), background=False, disk=disk.process()).open()
    assert after.outcome("x").state == "committed"
    assert not after.recover().left
    assert after.heuristics() == []
    after.close()


@FOLDER_ONLY
def test_o59_it_is_on_disk_before_the_first_branch_is_told(bench: Bench) -> None:
    """Power goes right before the first branch is finished by it."""
    disk = MemoryDisk()
    _die_before_the_force(bench, disk)
    manager = syncpoint.TransactionManager("/journal", bench.urls(), background=False, disk=disk.process()).open()
    trap = Trap()
    trap.watch(manager._runner)
    trap.before("finish", disk.crash)
    with raises(ProcessKilled):
        manager.recover()
    after = syncpoint.TransactionManager("/journal", bench.urls(), background=False, disk=disk.process()).open()
    assert not after.recover().left
    assert after.heuristics() == []
    assert bench.rows() == "ab"
    bench.assert_quiet()
    after.close()


@FOLDER_ONLY
def test_o59_if_it_cannot_be_forced_nothing_is_done_by_it(bench: Bench) -> None:
    disk = MemoryDisk()
    _die_before_the_force(bench, disk)

    process = disk.process()
    # The next process opens, with forces that work until it has its own file, and fails when it takes over.
    opened = False
    for good in range(1, 20):
        forces = itertools.count(1)

        def fail_later(operation: str, path: str, forces: itertools.count[int] = forces, good: int = good) -> None:
            if operation == "force" and next(forces) > good:
                raise OSError("the disk is failing")

        disk.on_operation = fail_later
        manager = syncpoint.TransactionManager("/journal", bench.urls(), background=False, disk=process)
        try:
            manager.open()
        except syncpoint.SyncpointError:
            assert bench.in_doubt() == "ab", "it acted on what was not forced"
            process.kill()
            process = disk.process()
            continue
        opened = True
        break
    assert opened
    disk.on_operation = None
    manager.recover()
    assert bench.rows() == "ab"
    bench.assert_quiet()


# --- copies ----------------------------------------------------------------------------------------------------------


@FOLDER_ONLY
def test_o53_a_copy_of_the_folder_is_refused_until_it_is_adopted(bench: Bench) -> None:
    bench.departed(decided=True)
    shutil.copytree(bench.journal, bench.folder / "copy")
    with raises(syncpoint.JournalRefused, "adopt-copy"):
        bench.manager(journal="copy")
    assert bench.in_doubt() == "ab"


def test_o53_a_memory_server_has_seen_later_incarnations(bench: Bench) -> None:
    coordinator = bench.manager()._core.journal.coordinator
    bench.a.see(coordinator, Incarnation(99))
    with raises(syncpoint.JournalRefused, "older copy"):
        bench.manager()
