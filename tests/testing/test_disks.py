"""The disk in memory: what it keeps and loses, its faults, and that it answers as the real one does.

Not for: the real disk's own promises (tests/test_system.py).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from syncpoint.ports import Disk
from syncpoint.system import SystemDisk
from syncpoint.testing.disks import MemoryDisk, ProcessKilled, Torn, keep_prefix, keep_zeros


@pytest.fixture
def disk() -> MemoryDisk:
    """With a durable folder /j that holds a durable file a: "old"."""
    disk = MemoryDisk()
    disk.make_folder("/j")
    disk.replace("/j/a", b"old")
    return disk


# --- as the real one -------------------------------------------------------------------------------


def _play(disk: Disk, root: str) -> list[object]:
    """What a caller sees of every call, errors by their names."""
    seen: list[object] = []

    def see(call: Callable[[], object]) -> None:
        try:
            seen.append(call())
        except OSError as error:
            seen.append((type(error).__name__, error.errno))

    folder, a, b = f"{root}/f", f"{root}/f/a", f"{root}/f/b"
    see(lambda: disk.list(folder))
    see(lambda: disk.make_folder(f"{folder}/below/missing"))
    for _ in range(2):
        see(lambda: disk.make_folder(folder))
    see(lambda: disk.read(a))
    see(lambda: disk.size(a))
    see(lambda: disk.exists(a))
    see(lambda: disk.remove(a))
    file = disk.create(a)
    see(lambda: disk.create(a))
    see(lambda: file.append(b"12"))
    see(lambda: file.append(b"345"))
    see(file.force)
    see(file.close)
    see(file.close)
    see(file.force)
    see(lambda: file.append(b"x"))
    for offset, size in ((0, -1), (1, 2), (4, 9), (9, -1), (2, 0)):
        see(partial(disk.read, a, offset, size))
    see(lambda: disk.size(a))
    see(lambda: disk.replace(b, b"new"))
    see(lambda: disk.replace(b, b"newer"))
    see(lambda: disk.replace(folder, b"x"))
    see(lambda: disk.replace(f"{root}/missing/x", b"x"))
    see(lambda: disk.read(b))
    see(lambda: disk.read(folder))
    see(lambda: disk.list(folder))
    see(lambda: disk.list(a))
    see(lambda: disk.make_folder(a))
    see(lambda: disk.exists(a))
    see(lambda: disk.exists(f"{a}/below"))
    see(lambda: disk.identity(folder) == disk.identity(f"{root}/f"))
    see(lambda: disk.identity(folder) == disk.identity(root))
    see(lambda: disk.force_folder(folder))
    see(lambda: disk.force_folder(a))
    see(lambda: disk.lock(f"{root}/missing/lock"))
    whole, byte = disk.lock(f"{folder}/lock"), disk.lock_byte(f"{folder}/bytes", 3)
    assert whole is not None
    assert byte is not None
    see(lambda: disk.lock_byte(f"{folder}/bytes", 3) is None)
    see(lambda: disk.lock_byte(f"{folder}/bytes", 4) is None)
    see(lambda: disk.lock(f"{folder}/lock"))
    see(lambda: disk.lock(f"{folder}/bytes"))
    see(lambda: disk.lock_byte(f"{folder}/lock", 0))
    for _ in range(2):
        see(whole.release)
    see(lambda: disk.lock(f"{folder}/lock") is None)
    see(byte.release)
    see(lambda: disk.lock_byte(f"{folder}/bytes", 3) is None)
    see(lambda: disk.remove(b))
    see(lambda: disk.list(folder))
    return seen


def test_it_answers_as_the_real_disk_does(tmp_path: Path) -> None:
    assert _play(MemoryDisk(), "") == _play(SystemDisk(), str(tmp_path))


# --- what a crash keeps ----------------------------------------------------------------------------


def test_only_what_was_forced_outlives_a_crash(disk: MemoryDisk) -> None:
    file = disk.create("/j/b")
    file.append(b"forced")
    file.force()
    disk.force_folder("/j")
    file.append(b" lost")
    assert disk.read("/j/b") == b"forced lost"
    disk.crash()
    assert disk.read("/j/b") == b"forced"


def test_a_file_whose_folder_was_not_forced_is_gone(disk: MemoryDisk) -> None:
    disk.create("/j/b").force()
    disk.crash()
    assert disk.list("/j") == ["a"]


def test_a_removed_file_comes_back_unless_the_folder_was_forced(disk: MemoryDisk) -> None:
    disk.remove("/j/a")
    disk.crash()
    assert disk.read("/j/a") == b"old"
    disk.remove("/j/a")
    disk.force_folder("/j")
    disk.crash()
    assert disk.list("/j") == []


def test_entries_may_reach_the_disk_by_themselves(disk: MemoryDisk) -> None:
    disk.create("/j/b").append(b"x")
    disk.crash(entries_kept=True)
    assert (disk.list("/j"), disk.read("/j/b")) == (["a", "b"], b"")


@pytest.mark.parametrize(
    ("torn", "left"), [(keep_prefix(2), b"F12"), (keep_prefix(9), b"F1234"), (keep_zeros(3), b"F\0\0\0")]
)
def test_torn_bytes(disk: MemoryDisk, torn: Torn, left: bytes) -> None:
    file = disk.create("/j/b")
    file.append(b"F")
    file.force()
    disk.force_folder("/j")
    file.append(b"1234")
    disk.crash(torn)
    assert (disk.read("/j/b"), disk.read("/j/a")) == (left, b"old")
    disk.crash()
    assert disk.read("/j/b") == left  # what is found after a crash is on the disk


def test_a_crash_in_replace_leaves_the_old_or_the_new(disk: MemoryDisk) -> None:
    """At every operation, with every choice of what the disk kept: never a mixture, never nothing."""
    found: list[bytes] = []
    for entries_kept in (False, True):
        for nth in range(1, 7):
            disk.replace("/j/a", b"old")
            start = disk.operations

            def crash(operation: str, path: str, at: int = start + nth, kept: bool = entries_kept) -> None:
                if disk.operations == at:
                    disk.crash(entries_kept=kept)

            disk.on_operation = crash
            with pytest.raises(ProcessKilled):
                disk.replace("/j/a", b"newer")
            disk.on_operation = None
            found.append(disk.read("/j/a"))
            for name in disk.list("/j")[1:]:
                disk.remove(f"/j/{name}")
    assert found == [b"old"] * 11 + [b"newer"]  # only the last one: renamed, and the entry kept


def test_a_folder_in_a_folder(disk: MemoryDisk) -> None:
    disk.make_folder("/j/k")
    disk.create("/j/k/x").append(b"x")
    disk.crash(keep_prefix(9), entries_kept=True)
    assert disk.read("/j/k/x") == b"x"


# --- processes -------------------------------------------------------------------------------------


def test_a_killed_process_loses_its_locks_and_no_bytes(disk: MemoryDisk) -> None:
    first, second = disk.process(), disk.process()
    file = first.create("/j/b")
    file.append(b"unforced")
    lock, kept = first.lock("/j/lock"), second.lock_byte("/j/bytes", 2)
    assert lock is not None
    assert kept is not None
    assert second.lock("/j/lock") is None
    first.kill()
    assert second.read("/j/b") == b"unforced"
    assert second.lock("/j/lock") is not None
    assert disk.lock_byte("/j/bytes", 2) is None
    assert (repr(first), repr(second)) == ("<MemoryProcess killed>", "<MemoryProcess alive>")
    for call in (file.force, file.close, lock.release):
        with pytest.raises(ProcessKilled):
            call()
    with pytest.raises(ProcessKilled):
        first.read("/j/b")
    assert disk.lock("/j/lock") is None  # the dead one's release gave nothing back


def test_the_disk_is_a_process_too(disk: MemoryDisk) -> None:
    other = disk.process()
    file = disk.create("/j/b")
    assert disk.lock("/j/lock") is not None
    disk.kill()
    with pytest.raises(ProcessKilled):
        file.append(b"x")
    assert disk.lock("/j/lock") is not None
    disk.kill_all()
    with pytest.raises(ProcessKilled):
        other.list("/j")
    assert disk.lock("/j/lock") is not None
    assert disk.list("/j") == ["a", "b", "lock"]


def test_a_crash_frees_every_lock(disk: MemoryDisk) -> None:
    held = disk.process()
    assert held.lock("/j/lock") is not None
    disk.force_folder("/j")
    disk.crash()
    assert disk.lock("/j/lock") is not None


def test_a_hook_sees_each_operation_before_it_happens(disk: MemoryDisk) -> None:
    seen: list[tuple[str, str, int]] = []
    disk.on_operation = lambda operation, path: seen.append((operation, path, disk.operations))
    start = disk.operations
    disk.process().size("/j/a")
    lock = disk.lock("/j/l")
    assert lock is not None
    lock.release()
    assert seen == [("size", "/j/a", start + 1), ("lock", "/j/l", start + 2), ("release", "/j/l", start + 3)]


def test_a_hook_may_fail_an_operation(disk: MemoryDisk) -> None:
    def fail(operation: str, path: str) -> None:
        if operation == "rename":
            raise OSError(errno.EIO, "failed")

    disk.on_operation = fail
    with pytest.raises(OSError, match="failed"):
        disk.replace("/j/a", b"new")
    assert (disk.list("/j"), disk.read("/j/a")) == (["a"], b"old")


# --- faults ----------------------------------------------------------------------------------------


def test_a_failed_force_is_never_made_good(disk: MemoryDisk) -> None:
    """The bytes stay readable, the next force says yes, and after the power failure they are not there."""
    file = disk.create("/j/b")
    disk.force_folder("/j")
    file.append(b"one ")
    file.force()
    disk.fail_force_at = disk.forces + 1
    file.append(b"two ")
    with pytest.raises(OSError, match="the force failed") as caught:
        file.force()
    assert caught.value.errno == errno.EIO
    file.force()
    assert disk.read("/j/b") == b"one two "
    file.append(b"three")
    file.force()
    disk.crash()
    assert disk.read("/j/b") == b"one \0\0\0\0three"


def test_a_failed_force_with_nothing_after_it(disk: MemoryDisk) -> None:
    file = disk.create("/j/b")
    disk.force_folder("/j")
    file.append(b"two")
    disk.fail_force_at = disk.forces + 1
    with pytest.raises(OSError, match="the force failed"):
        file.force()
    file.force()
    disk.crash()
    assert disk.read("/j/b") == b""


def test_a_failed_force_of_a_folder(disk: MemoryDisk) -> None:
    disk.create("/j/b")
    disk.fail_force_at = disk.forces + 1
    with pytest.raises(OSError, match="the force failed"):
        disk.force_folder("/j")
    disk.force_folder("/j")
    disk.create("/j/c")
    disk.force_folder("/j")
    disk.crash()
    assert disk.list("/j") == ["a", "c"]


def test_a_full_disk_writes_what_fits(disk: MemoryDisk) -> None:
    file = disk.create("/j/b")
    disk.full_at_bytes = 5
    file.append(b"1")
    with pytest.raises(OSError, match="no space") as caught:
        file.append(b"234")
    assert caught.value.errno == errno.ENOSPC
    assert disk.read("/j/b") == b"12"
    with pytest.raises(OSError, match="no space"):
        disk.replace("/j/a", b"longer")
    assert (disk.list("/j"), disk.read("/j/a")) == (["a", "b"], b"old")
    disk.full_at_bytes = None
    file.append(b"3")
    assert (disk.read("/j/b"), disk.full_at_bytes, disk.fail_force_at, disk.on_operation) == (b"123", None, None, None)


def test_a_flipped_bit_is_on_the_disk(disk: MemoryDisk) -> None:
    disk.flip("/j/a", 0, 0x80)
    assert disk.read("/j/a") == b"\xefld"
    disk.crash()
    assert disk.read("/j/a") == b"\xefld"
    disk.create("/j/b").append(b"x")
    disk.flip("/j/b", 0)
    assert disk.read("/j/b") == b"y"


def test_a_copied_folder_is_another_folder(disk: MemoryDisk) -> None:
    disk.make_folder("/j/k")
    disk.copy_folder("/j", "/copy")
    disk.crash()
    assert disk.list("/copy") == ["a", "k"]
    assert disk.identity("/copy") != disk.identity("/j")
    disk.replace("/copy/a", b"new")
    assert disk.read("/j/a") == b"old"
