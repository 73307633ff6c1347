"""The real disk: permissions, order of durability, and locks between real processes that are killed and forked.

Not for: what the machine loses at a power failure (tests/testing/test_disks.py).
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from syncpoint import system
from syncpoint.ports import Disk
from syncpoint.system import SystemClock, SystemDisk, SystemRandom

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def disk() -> Disk:
    return SystemDisk()


@pytest.fixture
def start() -> Iterator[Start]:
    """Run a script in another process; its lines are read as they come. Killed at the end."""
    running: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


HOLD = """
import sys
from syncpoint.system import SystemDisk
lock = SystemDisk().lock(sys.argv[1]) if len(sys.argv) == 2 else SystemDisk().lock_byte(sys.argv[1], int(sys.argv[2]))
print("held" if lock else "refused")
sys.stdin.readline()
if lock:
    lock.release()
print("released")
sys.stdin.readline()
"""


# --- clock and chance ------------------------------------------------------------------------------


def test_the_clocks() -> None:
    clock = SystemClock()
    first = clock.monotonic()
    assert clock.monotonic() >= first
    assert clock.wall_ms() > 1_600_000_000_000


def test_chance() -> None:
    chance = SystemRandom()
    assert len(chance.bytes(16)) == 16
    assert chance.bytes(16) != chance.bytes(16)
    assert all(0 <= chance.fraction() < 1 for _ in range(1000))


# --- files -----------------------------------------------------------------------------------------


def test_only_the_owner_may_read(disk: Disk, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        disk.make_folder(f"{tmp_path}/journal")
        disk.create(f"{tmp_path}/journal/a").close()
        disk.replace(f"{tmp_path}/journal/b", b"x")
        lock = disk.lock(f"{tmp_path}/journal/c")
        assert lock is not None
        lock.release()
    finally:
        os.umask(before)
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "journal").iterdir()] == [0o600] * 3


def test_append_force_and_read(disk: Disk, tmp_path: Path) -> None:
    path = f"{tmp_path}/a"
    file = disk.create(path)
    file.append(b"one")
    file.force()
    file.append(b"")
    file.append(b"two")
    assert (disk.read(path), disk.read(path, 3), disk.read(path, 1, 3), disk.read(path, 9)) == (
        b"onetwo",
        b"two",
        b"net",
        b"",
    )
    assert disk.size(path) == 6
    assert repr(file) == f"<file {path} open>"
    file.close()
    file.close()
    assert repr(file) == f"<file {path} closed>"
    for use in (lambda: file.append(b"x"), file.force):
        with pytest.raises(OSError, match="closed") as caught:
            use()
        assert caught.value.errno == errno.EBADF


def test_short_writes_are_continued(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    file = disk.create(f"{tmp_path}/a")
    file.append(b"0123456789")
    file.close()
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_large_file_is_read_whole(disk: Disk, tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 5)
    (tmp_path / "a").write_bytes(content)
    assert disk.read(f"{tmp_path}/a") == content
    assert disk.read(f"{tmp_path}/a", 3, (1 << 20) + 1) == content[3 : (1 << 20) + 4]


def test_a_new_file_is_new(disk: Disk, tmp_path: Path) -> None:
    disk.create(f"{tmp_path}/a").close()
    with pytest.raises(FileExistsError):
        disk.create(f"{tmp_path}/a")


def test_what_is_missing(disk: Disk, tmp_path: Path) -> None:
    missing = f"{tmp_path}/missing"
    for call in (disk.list, disk.size, disk.read, disk.force_folder, disk.identity):
        with pytest.raises(FileNotFoundError):
            call(missing)
    disk.remove(missing)
    assert not disk.exists(missing)
    (tmp_path / "file").touch()
    assert not disk.exists(f"{tmp_path}/file/below")
    assert disk.exists(f"{tmp_path}/file")
    disk.remove(f"{tmp_path}/file")
    assert disk.list(str(tmp_path)) == []


def test_names_come_sorted(disk: Disk, tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        disk.create(f"{tmp_path}/{name}").close()
    assert disk.list(str(tmp_path)) == ["a", "b", "c"]


def test_a_copied_folder_has_another_identity(disk: Disk, tmp_path: Path) -> None:
    disk.make_folder(f"{tmp_path}/a")
    disk.make_folder(f"{tmp_path}/b")
    disk.make_folder(f"{tmp_path}/b")  # a second time changes nothing
    first, second = disk.identity(f"{tmp_path}/a"), disk.identity(f"{tmp_path}/b")
    assert first != second
    (tmp_path / "a").rename(tmp_path / "c")
    assert disk.identity(f"{tmp_path}/c") == first


def test_a_file_is_no_folder(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError):
        disk.make_folder(f"{tmp_path}/a")
    with pytest.raises(FileNotFoundError):
        disk.make_folder(f"{tmp_path}/missing/a")


def test_an_administrator_may_make_the_folder(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent may be one that we cannot list; a folder that we made ourselves must be forced there."""

    def refuse(self: SystemDisk, folder: str) -> None:
        raise PermissionError(errno.EACCES, "may not list", folder)

    (tmp_path / "made").mkdir()
    monkeypatch.setattr(SystemDisk, "force_folder", refuse)
    disk.make_folder(f"{tmp_path}/made")
    with pytest.raises(PermissionError):
        disk.make_folder(f"{tmp_path}/new")


# --- replace ---------------------------------------------------------------------------------------


def test_replace_puts_the_whole_file(disk: Disk, tmp_path: Path) -> None:
    disk.replace(f"{tmp_path}/a", b"old")
    disk.replace(f"{tmp_path}/a", b"new")
    assert disk.read(f"{tmp_path}/a") == b"new"
    assert disk.list(str(tmp_path)) == ["a"]


def _record_calls(monkeypatch: pytest.MonkeyPatch, fail: str = "") -> list[str]:
    calls: list[str] = []

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **named: object) -> object:
            is_folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{arguments[0]}")
            calls.append(f"{name} folder" if is_folder else name)
            if calls[-1] == fail:
                raise OSError(errno.EIO, "failed")
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, call)

    for name in ("mkdir", "write", "fsync", "fdatasync", "rename", "unlink"):
        wrap(name)
    return calls


def test_replace_forces_before_and_after_the_rename(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _record_calls(monkeypatch)
    disk.replace(f"{tmp_path}/a", b"x")
    assert calls == ["write", "fsync", "rename", "fsync folder"]


def test_a_folder_is_forced_into_its_parent(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _record_calls(monkeypatch)
    disk.make_folder(f"{tmp_path}/a/")
    assert calls == ["mkdir", "fsync folder"]
    disk.make_folder(f"{tmp_path}/a")  # its maker may not have come that far
    assert calls[2:] == ["mkdir", "fsync folder"]


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_failed_replace_leaves_the_old_file(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    disk.replace(f"{tmp_path}/a", b"old")
    _record_calls(monkeypatch, fail=step)
    with pytest.raises(OSError, match="failed"):
        disk.replace(f"{tmp_path}/a", b"new")
    assert (disk.list(str(tmp_path)), disk.read(f"{tmp_path}/a")) == (["a"], b"old")


# --- locks within a process ------------------------------------------------------------------------


def test_one_holder_in_one_process(disk: Disk, tmp_path: Path) -> None:
    path = f"{tmp_path}/lock"
    lock = disk.lock(path)
    assert lock is not None
    assert (disk.lock(path), SystemDisk().lock(path), disk.lock_byte(path, 0)) == (None, None, None)
    assert repr(lock) == f"<lock {path} held>"
    lock.release()
    lock.release()
    assert repr(lock) == f"<lock {path} released>"
    again = disk.lock(path)
    assert again is not None
    lock.release()  # must not give the new one back
    assert disk.lock(path) is None
    again.release()


def test_bytes_are_held_apart(disk: Disk, tmp_path: Path) -> None:
    path = f"{tmp_path}/lock"
    first, second = disk.lock_byte(path, 0), disk.lock_byte(path, 1 << 40)
    assert first is not None
    assert second is not None
    assert repr(second) == f"<lock {path} byte {1 << 40} held>"
    assert (disk.lock_byte(path, 0), disk.lock(path)) == (None, None)
    first.release()
    assert disk.lock(path) is None
    second.release()
    whole = disk.lock(path)
    assert whole is not None
    whole.release()


def test_many_threads_one_holder(disk: Disk, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        locks = list(pool.map(lambda _: disk.lock_byte(f"{tmp_path}/lock", 5), range(64)))
    [held] = [lock for lock in locks if lock is not None]
    held.release()


def test_a_failing_lock_call_leaves_nothing_open(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: int) -> None:
        raise OSError(errno.ENOLCK, "no locks left")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.lockf", fail)
        with pytest.raises(OSError, match="no locks left"):
            disk.lock(f"{tmp_path}/lock")
    assert len(os.listdir("/proc/self/fd")) == before
    lock = disk.lock(f"{tmp_path}/lock")
    assert lock is not None
    lock.release()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("remade", [True, False])
def test_a_lock_file_removed_meanwhile_guards_nothing(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start, remade: bool
) -> None:
    """The lock that is returned is on the file that goes by the path now: another process agrees."""
    path = f"{tmp_path}/lock"
    acquire, tries = system._Holdings._acquire, []

    def pull_away(self: system._Holdings, file: system._HeldFile, position: int) -> bool:
        if not tries:
            os.unlink(path)
            if remade:
                Path(path).touch()
        tries.append(file.identity)
        return acquire(self, file, position)

    monkeypatch.setattr(system._Holdings, "_acquire", pull_away)
    lock = disk.lock(path)
    assert lock is not None
    assert len(tries) == 2
    assert line(start(HOLD, path)) == "refused"
    lock.release()


def test_a_lock_file_that_is_removed_for_ever_is_refused(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = system._Holdings._acquire

    def pull_away(self: system._Holdings, file: system._HeldFile, position: int) -> bool:
        os.unlink(f"{tmp_path}/lock")
        return acquire(self, file, position)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(system._Holdings, "_acquire", pull_away)
    assert disk.lock(f"{tmp_path}/lock") is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_path_turned_to_a_held_file_while_it_is_opened(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    """The second descriptor of the held file is not closed, so the lock stays."""
    held, other = f"{tmp_path}/held", f"{tmp_path}/other"
    lock = disk.lock(held)
    assert lock is not None
    os.link(held, other)
    identity_of = system._identity_of
    monkeypatch.setattr(system, "_identity_of", lambda path: None if path == other else identity_of(path))
    assert disk.lock(other) is None
    assert line(start(HOLD, held)) == "refused"
    lock.release()
    assert line(start(HOLD, held)) == "held"


# --- locks between processes -----------------------------------------------------------------------


def test_a_killed_process_gives_its_lock_back(disk: Disk, tmp_path: Path, start: Start) -> None:
    path = f"{tmp_path}/lock"
    other = start(HOLD, path)
    assert line(other) == "held"
    assert disk.lock(path) is None
    other.send_signal(signal.SIGKILL)
    other.wait()
    lock = disk.lock(path)
    assert lock is not None
    assert line(start(HOLD, path)) == "refused"
    lock.release()
    assert line(start(HOLD, path)) == "held"


def test_bytes_between_processes(disk: Disk, tmp_path: Path, start: Start) -> None:
    path = f"{tmp_path}/lock"
    other = start(HOLD, path, "7")
    assert line(other) == "held"
    assert disk.lock_byte(path, 7) is None
    assert disk.lock(path) is None
    mine = disk.lock_byte(path, 8)
    assert mine is not None
    assert line(start(HOLD, path, "8")) == "refused"
    tell(other)
    assert line(other) == "released"
    seven = disk.lock_byte(path, 7)
    assert seven is not None
    seven.release()
    assert line(start(HOLD, path, "8")) == "refused"  # releasing one byte keeps the other
    mine.release()


def test_reading_a_locked_file_keeps_the_lock(disk: Disk, tmp_path: Path, start: Start) -> None:
    """Closing any descriptor of the file would drop it: reads go through the one that holds it."""
    path = f"{tmp_path}/lock"
    file = disk.create(path)
    file.append(b"who")
    lock = disk.lock(path)
    assert lock is not None
    file.close()
    before = len(os.listdir("/proc/self/fd"))
    assert [disk.read(path, 1) for _ in range(10)] == [b"ho"] * 10
    assert disk.size(path) == 3
    assert len(os.listdir("/proc/self/fd")) == before
    assert line(start(HOLD, path)) == "refused"
    lock.release()
    assert line(start(HOLD, path)) == "held"
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # the other process's pipes; ours are closed


FORK = """
import os, sys
from syncpoint.system import SystemDisk
disk, path = SystemDisk(), sys.argv[1]
lock = disk.lock(path)
child = os.fork()
if child == 0:
    taken = disk.lock(path)
    print("child", "refused" if taken is None else "held", flush=True)
    sys.stdin.readline()  # the parent is dead now
    taken = disk.lock(path)
    lock.release()  # the parent's: must not give the child's own back
    print("child", "refused" if taken is None else "held", flush=True)
    sys.stdin.readline()
    os._exit(0)
sys.stderr.close()
os.waitpid(child, 0)
"""


def test_a_forked_child_holds_no_lock_of_its_parent(disk: Disk, tmp_path: Path, start: Start) -> None:
    """While the parent lives the child is refused; once it is killed the lock is free although the child lives."""
    path = f"{tmp_path}/lock"
    parent = start(FORK, path)
    assert line(parent) == "child refused"
    assert disk.lock(path) is None
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    lock = disk.lock(path)
    assert lock is not None
    lock.release()
    tell(parent)
    assert line(parent) == "child held"
    assert disk.lock(path) is None
    tell(parent)
    assert line(parent) == ""


def test_the_disk_says_what_it_is(disk: Disk) -> None:
    assert repr(disk) == "<SystemDisk>"
