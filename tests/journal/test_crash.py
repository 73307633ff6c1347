"""A crash at every operation on the disk: no acknowledged record is lost, none is invented, none ends twice.

The workload commits, ends, checkpoints and inherits; it is crashed before its n-th operation for every n, by power
failures that leave several kinds of tail, and by kills. Not for: real processes (test_processes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from syncpoint.ids import Incarnation, Key
from syncpoint.journal.base import Verdict
from syncpoint.records import End, Record
from syncpoint.testing.disks import MemoryDisk, MemoryProcess, ProcessKilled, Torn, keep_prefix, keep_zeros
from tests.journal.support import FOLDER, ManualClock, Process, commit, end, key

CRASHES: dict[str, Callable[[MemoryDisk], None]] = {
    "power failure": lambda disk: disk.crash(),
    "power failure, everything written stays": lambda disk: disk.crash(keep_prefix(1 << 30), entries_kept=True),
    "power failure, tails are cut": lambda disk: disk.crash(keep_prefix(37), entries_kept=True),
    "power failure, tails are cut, entries lost": lambda disk: disk.crash(keep_prefix(150)),
    "power failure, tails are zeros": lambda disk: disk.crash(keep_zeros(200), entries_kept=True),
    "power failure, tails are holes": lambda disk: disk.crash(_hole, entries_kept=True),
    "kill": lambda disk: disk.kill_all(),
}


def _hole(path: str, unforced: bytes) -> bytes:
    """The first page did not make it, what follows did."""
    return bytes(len(unforced[:24])) + unforced[24:]


@dataclass
class Account:
    """What was handed in, and what was acknowledged."""

    handed_in: set[Key] = field(default_factory=set)
    acknowledged: set[Key] = field(default_factory=set)
    ends_handed_in: set[Key] = field(default_factory=set)
    ends_acknowledged: set[Key] = field(default_factory=set)

    def force(self, process: Process, *records: Record) -> None:
        commits = {record.key for record in records if not isinstance(record, End)}
        ends = {record.key for record in records if isinstance(record, End)}
        self.handed_in |= commits
        self.ends_handed_in |= ends
        assert set(process(process.journal.force(records))) <= {Verdict.ACCEPTED}
        self.acknowledged |= commits
        self.ends_acknowledged |= ends

    def check(self, decisions: set[Key]) -> None:
        """What recovery must see: nothing lost, nothing invented, nothing that had ended for certain."""
        assert self.acknowledged - self.ends_handed_in <= decisions, "an acknowledged Commit is lost"
        assert decisions <= self.handed_in, "a Commit is invented"
        assert not decisions & self.ends_acknowledged, "what has ended came back"


def workload(disk: MemoryDisk, account: Account) -> None:
    """Two processes, one after the other dying; small segments, so that both rotate."""
    clock = ManualClock()
    first = Process(disk.process(), clock, segment_size_bytes_max=1200).open()
    for number in range(1, 5):
        account.force(first, commit(key(number)))
    account.force(first, commit(key(5)), end(key(1)))
    account.force(first, end(key(2)))
    second = Process(disk.process(), clock, segment_size_bytes_max=1200).open()
    account.force(second, commit(key(11)))
    assert isinstance(first.disk, MemoryProcess)
    first.disk.kill()
    view = second(second.journal.look())
    account.check(set(view.decisions))
    account.force(second, end(key(3)), commit(key(12)))
    account.force(second, commit(key(13)))
    account.force(second, end(key(11)), end(key(4)))
    second(second.journal.close())


def recover(disk: MemoryDisk) -> Process:
    process = Process(disk.process(), segment_size_bytes_max=1200)
    return process.open()


def run_until_crash(crash: Callable[[MemoryDisk], None], at: int) -> tuple[MemoryDisk, Account, bool]:
    disk, account = MemoryDisk(), Account()

    def hook(operation: str, path: str) -> None:
        if disk.operations == at:
            crash(disk)

    disk.on_operation = hook
    try:
        workload(disk, account)
    except ProcessKilled:
        return disk, account, True
    finally:
        disk.on_operation = None
    return disk, account, disk.operations >= at


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_at_every_operation(name: str) -> None:
    at, crashed = 1, True
    while crashed:
        disk, account, crashed = run_until_crash(CRASHES[name], at)
        incarnations: set[Incarnation] = set()
        for _ in range(2):  # recovery itself is repeated: O31
            process = recover(disk)
            account.check(set(process(process.journal.look()).decisions))
            assert process.journal.incarnation not in incarnations
            incarnations.add(process.journal.incarnation)
            disk.crash()
        at += 1
    assert at > 100
    assert len(account.acknowledged) == 8


@pytest.mark.parametrize("torn", [None, keep_prefix(1 << 30), keep_prefix(50)], ids=["lost", "kept", "cut"])
def test_o31_a_crash_at_every_operation_of_the_taking_over(torn: Torn | None) -> None:
    at = 1
    while True:
        disk, account = MemoryDisk(), Account()
        for number in (1, 11, 21):
            process = Process(disk.process(), segment_size_bytes_max=1000).open()
            account.force(process, *(commit(key(one)) for one in range(number, number + 3)))
            account.force(process, end(key(number)))
            assert isinstance(process.disk, MemoryProcess)
            process.disk.kill()
        account.check({key for key in account.handed_in if key not in account.ends_handed_in})
        begin = disk.operations

        def hook(operation: str, path: str, disk: MemoryDisk = disk, last: int = begin + at) -> None:
            if disk.operations == last:
                disk.crash(torn, entries_kept=torn is not None)

        disk.on_operation = hook
        try:
            process = recover(disk)
            process(process.journal.look())
        except ProcessKilled:
            pass
        is_over = disk.operations < begin + at
        disk.on_operation = None
        disk.crash()
        process = recover(disk)
        account.check(set(process(process.journal.look()).decisions))
        if is_over:
            break
        at += 1
    assert at > 30


def test_o40_a_torn_tail_is_dropped_and_the_rest_recovered() -> None:
    for size_bytes in range(0, 400, 7):
        disk = MemoryDisk()
        process = Process(disk.process()).open()
        process(process.journal.force((commit(key(1)),)))

        def tear(operation: str, path: str, disk: MemoryDisk = disk, size_bytes: int = size_bytes) -> None:
            if operation == "force":
                disk.crash(keep_prefix(size_bytes))

        disk.on_operation = tear
        with pytest.raises(ProcessKilled):
            process(process.journal.force((commit(key(2)),)))
        disk.on_operation = None
        again = recover(disk)
        assert key(1) in again(again.journal.look()).decisions
        assert disk.list(f"{FOLDER}/segments") == ["0000000002-000001.log"]


def writes_of(disk: MemoryDisk, call: Callable[[], object]) -> list[str]:
    """What changes the disk, in order, as text."""
    told: list[str] = []

    def hook(operation: str, path: str) -> None:
        if operation in ("create", "append", "force", "force_folder", "remove"):
            told.append(f"{operation} {path.rpartition('/')[2]}")

    disk.on_operation = hook
    call()
    disk.on_operation = None
    return told


def test_the_order_of_a_rotation() -> None:
    """A file system may make a removal durable before a creation: the folder is forced in between."""
    disk = MemoryDisk()
    process = Process(disk.process(), segment_size_bytes_max=100).open()
    old, new = "0000000001-000001.log", "0000000001-000002.log"
    assert writes_of(disk, lambda: process(process.journal.force((commit(key(1)),)))) == [
        f"append {old}",
        f"force {old}",
        f"append {old}",
        f"force {old}",
        f"create {new}",
        f"append {new}",
        f"force {new}",
        "force_folder segments",
        f"append {new}",
        f"remove {old}",
        "force_folder segments",
    ]


def test_the_order_of_taking_over() -> None:
    """Copied and forced before anything is removed; the oldest segment goes first, durably."""
    disk = MemoryDisk()
    dead = Process(disk.process()).open()
    account = Account()
    account.force(dead, commit(key(1)))
    process = Process(disk.process()).open()
    assert isinstance(dead.disk, MemoryProcess)
    dead.disk.kill()
    own = "0000000002-000001.log"
    assert writes_of(disk, lambda: process(process.journal.look())) == [
        f"append {own}",
        f"force {own}",
        f"append {own}",
        "remove 0000000001-000001.log",
        "force_folder segments",
        "remove 0000000001.lock",
    ]
