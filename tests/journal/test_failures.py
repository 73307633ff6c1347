"""A disk that fails: the journal stops at once, answers nothing more, and loses nothing acknowledged (R5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from syncpoint.errors import JournalFailed
from syncpoint.journal.base import Verdict
from syncpoint.steps import Script
from syncpoint.testing.disks import MemoryDisk
from tests.journal.support import FOLDER, Process, commit, end, key, transaction


def assert_stopped(process: Process, disk: MemoryDisk) -> None:
    """Every call raises at once, and neither they nor closing touch a file."""
    calls: list[Callable[[], Script[Any]]] = [
        lambda: process.journal.force((commit(key(50)),)),
        lambda: process.journal.force(()),
        lambda: process.journal.claim(transaction(50)),
        lambda: process.journal.find(transaction(1)),
        lambda: process.journal.look(),
        lambda: process.journal.heuristics(),
        lambda: process.journal.resolutions(),
        lambda: process.journal.story(transaction(1)),
        lambda: process.journal.transactions(),
        lambda: process.journal.ended_incarnations([]),
        lambda: process.journal.highest_incarnation(),
    ]
    before = disk.operations
    process.journal.note((end(key(1)),))
    for call in calls:
        with pytest.raises(JournalFailed, match=r"Writing to the journal at /journal failed.*restart"):
            process(call())
    with pytest.raises(JournalFailed):
        process.journal.next_attempt()
    assert disk.operations == before
    assert "failed" in repr(process.journal)
    operations: list[str] = []
    disk.on_operation = lambda operation, path: operations.append(operation)
    process(process.journal.close())
    disk.on_operation = None
    assert set(operations) <= {"release", "close"}


def test_r5_a_failed_force_stops_the_journal() -> None:
    disk = MemoryDisk()
    process = Process(disk.process()).open()
    process(process.journal.force((commit(key(1)),)))
    disk.fail_force_at = disk.forces + 1
    with pytest.raises(JournalFailed, match="the force failed"):
        process(process.journal.force((commit(key(2)),)))
    assert_stopped(process, disk)
    disk.crash()
    again = Process(disk.process()).open()
    assert list(again(again.journal.look()).decisions) == [key(1)]


def test_r5_a_force_that_answers_although_the_file_system_has_died() -> None:
    """ext4 may say so while it gives up its own journal; only the next write fails. Then nothing was accepted."""
    disk = MemoryDisk()
    process = Process(disk.process()).open()
    process(process.journal.force((commit(key(1)),)))
    forced: list[str] = []

    def die(operation: str, path: str) -> None:
        forced.extend([operation] if operation == "force" else [])
        if forced and operation == "append":
            raise OSError(5, "Input/output error", path)

    disk.on_operation = die
    with pytest.raises(JournalFailed):
        process(process.journal.force((commit(key(2)),)))
    assert forced == ["force"]
    assert_stopped(process, disk)


def test_r5_all_that_wait_are_told_and_none_is_written_later() -> None:
    disk = MemoryDisk()
    process = Process(disk.process()).open()
    scripts = [process.journal.force((commit(key(number)),)) for number in (1, 2)]
    steps = [next(script) for script in scripts]
    disk.fail_force_at = disk.forces + 1
    items = [step.item for step in steps]
    for _ in range(2):
        with pytest.raises(JournalFailed):
            steps[0].batcher.handler(items)
    assert_stopped(process, disk)


def test_a_full_disk_stops_the_journal_and_the_torn_batch_is_dropped() -> None:
    disk = MemoryDisk()
    process = Process(disk.process()).open()
    process(process.journal.force((commit(key(1)),)))
    used = sum(disk.size(f"{FOLDER}/{name}") for name in ("journal", "counter", "lock"))
    used += disk.size(f"{FOLDER}/segments/0000000001-000001.log")
    disk.full_at_bytes = used + 100
    with pytest.raises(JournalFailed, match=r"is it full\?"):
        process(process.journal.force((commit(key(2)),)))
    assert_stopped(process, disk)
    disk.full_at_bytes = None
    again = Process(disk.process()).open()
    assert list(again(again.journal.look()).decisions) == [key(1)]


def fail_from(disk: MemoryDisk, operation_number: int) -> None:
    begin = disk.operations

    def fail(operation: str, path: str) -> None:
        if disk.operations >= begin + operation_number and operation not in ("release", "close"):
            raise OSError(5, "Input/output error", path)

    disk.on_operation = fail


@pytest.mark.parametrize("kind", ["force", "rotate", "inherit", "close"])
def test_r5_whatever_operation_fails(kind: str) -> None:
    """What was acknowledged is there afterwards; a failure behind the statement that it is does not turn the answer."""
    at, failed = 1, True
    while failed:
        disk = MemoryDisk()
        dead = Process(disk.process()).open()
        process = Process(disk.process(), segment_size_bytes_max=500 if kind == "rotate" else 1 << 20).open()
        dead(dead.journal.force((commit(key(1)),)))
        process(process.journal.force((commit(key(2)),)))
        expected = {key(1), key(2)}
        process.journal.note((end(key(9)),))
        if kind == "inherit":
            dead.disk.kill()
        fail_from(disk, at)
        failed = False
        try:
            if kind in ("force", "rotate"):
                assert process(process.journal.force((commit(key(3)),))) == (Verdict.ACCEPTED,)
                expected.add(key(3))
                failed = "failed" in repr(process.journal)
            elif kind == "inherit":
                process(process.journal.look())
            else:
                process(process.journal.close())
                failed = "failed" in repr(process.journal)
        except JournalFailed:
            failed = True
        disk.on_operation = None
        if kind != "close" and "failed" in repr(process.journal):
            assert_stopped(process, disk)
        disk.crash()
        again = Process(disk.process()).open()
        assert expected <= set(again(again.journal.look()).decisions) <= {key(1), key(2), key(3)}
        at += 1
    assert at > 2
