"""One process and its folder, on a real disk with real threads: what is forced is there, what has ended goes."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syncpoint.errors import JournalFailed, ManagerClosed
from syncpoint.ids import Guid, Incarnation
from syncpoint.journal.base import Claim, Verdict
from syncpoint.journal.folder import FolderJournal
from syncpoint.records import CoordinatorKnown, Record
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemDisk, SystemRandom
from syncpoint.testing.disks import MemoryDisk
from tests.journal.support import (
    ManualClock,
    Process,
    abort,
    commit,
    end,
    heuristic,
    key,
    known,
    resolved,
    transaction,
)

ACCEPTED, REFUSED = Verdict.ACCEPTED, Verdict.REFUSED
Opener = Callable[..., FolderJournal]


@pytest.fixture
def runner() -> Iterator[ThreadRunner]:
    runner = ThreadRunner()
    yield runner
    runner.close()


@pytest.fixture
def opener(runner: ThreadRunner, tmp_path: Path) -> Iterator[Opener]:
    opened = []

    def open_journal(**options: Any) -> FolderJournal:
        journal = FolderJournal(
            str(tmp_path / "journal"), disk=SystemDisk(), clock=SystemClock(), random=SystemRandom(), **options
        )
        runner.run(journal.open(runner))
        opened.append(journal)
        return journal

    yield open_journal
    for journal in opened:
        runner.run(journal.close())


def wall_ms() -> int:
    return SystemClock().wall_ms()


def test_what_is_forced_is_there_after_a_restart(opener: Opener, runner: ThreadRunner, tmp_path: Path) -> None:
    first = opener()
    assert runner.run(first.force((commit(key(1)), known()))) == (ACCEPTED, ACCEPTED)
    first.note((end(key(2)),))
    runner.run(first.close())
    second = opener()
    assert (second.coordinator, second.incarnation) == (first.coordinator, first.incarnation + 1)
    view = runner.run(second.look())
    assert dict(view.decisions) == {key(1): commit(key(1))}
    assert view.inherited == {first.incarnation}
    assert second.resource("bank") == Guid(b"R" * 16)
    assert second.resource("ledger") is None
    assert runner.run(second.look()).inherited == frozenset(), "told once"
    names = sorted(path.name for path in (tmp_path / "journal").rglob("*") if path.is_file())
    assert names == ["0000000002-000001.log", "0000000002.lock", "counter", "journal", "lock"]
    assert repr(second).startswith(f"<FolderJournal {tmp_path}/journal open incarnation=2")


def test_files_are_for_their_owner_only(opener: Opener, tmp_path: Path) -> None:
    opener()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "journal").rglob("*") if path.is_file()}
    assert modes == {0o600}


def test_o47_first_writer_wins_also_within_one_batch(opener: Opener, runner: ThreadRunner) -> None:
    journal = opener()
    attempts = [journal.next_attempt() for _ in range(3)]
    first, second, third = (key(1, attempt) for attempt in attempts)
    assert len(set(attempts)) == 3
    assert runner.run(journal.force((abort(first), commit(first), commit(second), commit(third), abort(second)))) == (
        ACCEPTED,
        REFUSED,
        ACCEPTED,
        REFUSED,
        REFUSED,
    )
    assert runner.run(journal.force((commit(third),))) == (REFUSED,)  # O56
    assert dict(runner.run(journal.look()).decisions) == {second: commit(second)}


def test_many_threads_share_forces(opener: Opener, runner: ThreadRunner) -> None:
    journal = opener()

    def work(number: int) -> Verdict:
        [verdict] = runner.run(journal.force((commit(key(number)),)))
        journal.note((end(key(number)),))
        return verdict

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(200))) == {ACCEPTED}
    runner.run(journal.force(()))
    assert runner.run(journal.transactions()) == []


def test_a_noted_end_is_seen_at_once_and_forgotten_only_when_durable() -> None:
    disk = MemoryDisk()
    process = Process(disk).open()
    process(process.journal.force((commit(key(1)), commit(key(2), user_id="order"), end(key(2)))))
    process.journal.note((end(key(1)),))
    view = process(process.journal.look())
    assert (dict(view.decisions), view.ended) == ({}, {key(1), key(2)})
    mine = {process.journal.incarnation}
    other = Process(disk.process()).open()
    assert other(other.journal.look()).elsewhere == {key(1)}
    disk.kill()
    assert dict(other(other.journal.look()).decisions) == {key(1): commit(key(1))}
    assert other(other.journal.ended_incarnations(mine)) == frozenset()
    other.journal.note((end(key(1)),))
    assert other(other.journal.ended_incarnations(mine)) == frozenset(), "not durable yet"
    other(other.journal.force(()))
    assert other(other.journal.ended_incarnations({*mine, other.journal.incarnation})) == mine


def test_forcing_nothing_costs_nothing() -> None:
    disk = MemoryDisk()
    process = Process(disk).open()
    before = disk.operations
    assert process(process.journal.force(())) == ()
    assert disk.operations == before
    process.journal.note((end(key(1)),))
    forces = disk.forces
    assert process(process.journal.force(())) == ()
    assert disk.forces == forces + 1


def test_one_batch_is_one_force() -> None:
    disk = MemoryDisk()
    process = Process(disk).open()
    forces = disk.forces
    process(process.journal.force([commit(key(number)) for number in range(1, 50)]))
    assert disk.forces == forces + 1


# --- what is kept, and for how long ---------------------------------------------------------------------------


def segments(path: Path) -> list[str]:
    return sorted(one.name for one in (path / "journal" / "segments").iterdir())


def test_c8_a_committed_id_is_found_after_checkpoints_and_restarts(
    opener: Opener, runner: ThreadRunner, tmp_path: Path
) -> None:
    journal = opener(segment_size_bytes_max=2000)
    kept = commit(key(1), user_id="order-4711", at_ms=wall_ms(), result=b"\x01")
    open_one = commit(key(2), at_ms=wall_ms())
    records: list[Record] = [kept, end(key(1)), open_one, known(), heuristic(key(3)), resolved(key(3))]
    records.append(CoordinatorKnown(guid=b"N" * 16, address="there", adopted=True))
    runner.run(journal.force(records))
    for number in range(10, 60):
        runner.run(journal.force((commit(key(number)),)))
        journal.note((end(key(number)),))
    [segment] = segments(tmp_path)
    assert segment > "0000000001-000005.log", "it went on in new segments, and removed the old"
    for _ in range(2):
        assert runner.run(journal.find(transaction(1))) == kept
        assert runner.run(journal.claim(transaction(1))) == Claim(committed=kept)
        assert runner.run(journal.find(transaction(20))) is None
        view = runner.run(journal.look())
        assert open_one.key in view.decisions
        assert view.ended >= {key(1)}
        assert view.coordinators == {journal.coordinator, Guid(b"N" * 16)}
        assert [one.name for one in journal.resources()] == ["bank"]
        assert [one.guid for one in journal.directory()] == [b"N" * 16]
        assert runner.run(journal.heuristics()) == [heuristic(key(3))]
        assert runner.run(journal.resolutions()) == [resolved(key(3))]
        assert [record for _, record in runner.run(journal.story(transaction(1))).records] == [kept, end(key(1))]
        assert set(runner.run(journal.transactions())) >= {key(1), key(2), key(3)}
        runner.run(journal.close())
        journal = opener(segment_size_bytes_max=2000)


def test_a_result_goes_after_its_retention() -> None:
    disk = MemoryDisk()
    clock = ManualClock()
    process = Process(disk, clock, retention_s=100, segment_size_bytes_max=500).open()
    old = commit(key(1), user_id="old", at_ms=clock.wall_ms())
    process(process.journal.force((old, end(key(1)), commit(key(2), user_id="open", at_ms=clock.wall_ms()))))
    clock.now_s += 99
    process(process.journal.force((commit(key(3)), end(key(3)))))
    assert process(process.journal.find(transaction(1))) == old
    clock.now_s += 2
    for number in range(10, 20):
        process(process.journal.force((commit(key(number)), end(key(number)))))
    assert process(process.journal.find(transaction(1))) is None
    assert process(process.journal.find(transaction(2))) is not None, "not ended: kept however old"
    successor = Process(disk, clock).open()
    assert successor(successor.journal.look()).elsewhere == {key(2)}


def test_what_is_alive_and_large_does_not_rotate_for_ever() -> None:
    disk = MemoryDisk()
    process = Process(disk, segment_size_bytes_max=1000).open()
    for number in range(1, 200):
        process(process.journal.force((commit(key(number)),)))
    [name] = disk.list("/journal/segments")
    assert int(name[11:17]) <= 8, "the limit grows with what is alive"
    assert len(process(process.journal.look()).decisions) == 199


# --- claims ---------------------------------------------------------------------------------------------------


def test_c7_a_claim_is_exclusive_until_given_back(opener: Opener, runner: ThreadRunner) -> None:
    first, second = opener(), opener()
    assert runner.run(first.claim(transaction(1))) == Claim(mine=True)
    for journal in (first, second):
        assert runner.run(journal.claim(transaction(1))) == Claim(running=True)
        assert runner.run(journal.claim(transaction(2))) == Claim(mine=True)
        journal.release(transaction(2))
        journal.release(transaction(2))
    first.release(transaction(1))
    assert runner.run(second.claim(transaction(1))) == Claim(mine=True)
    runner.run(second.close())
    assert runner.run(first.claim(transaction(1))) == Claim(mine=True)


def test_a_claim_given_back_while_it_is_taken_is_not_held() -> None:
    disk = MemoryDisk()
    process, other = Process(disk).open(), Process(disk.process()).open()

    def give_back(operation: str, path: str) -> None:
        if operation == "lock_byte":
            process.journal.release(transaction(1))

    disk.on_operation = give_back
    assert process(process.journal.claim(transaction(1))) == Claim(running=True)
    disk.on_operation = None
    assert other(other.journal.claim(transaction(1))) == Claim(mine=True)

    def give_back_and_lose(operation: str, path: str) -> None:
        if operation == "lock_byte":
            process.journal.release(transaction(1))

    disk.on_operation = give_back_and_lose
    assert process(process.journal.claim(transaction(1))) == Claim(running=True)


def test_a_claim_interrupted_anywhere_is_not_held() -> None:
    disk = MemoryDisk()
    process, other = Process(disk).open(), Process(disk.process()).open()
    for interrupted_at in (1, 2):
        steps = 0

        def interrupt(step: Any, at: int = interrupted_at) -> None:
            nonlocal steps
            steps += 1
            if steps == at:
                raise KeyboardInterrupt

        process.runner.before = interrupt
        with pytest.raises(KeyboardInterrupt):
            process(process.journal.claim(transaction(1)))
        assert other(other.journal.claim(transaction(1))) == Claim(mine=True)
        other.journal.release(transaction(1))


# --- ends -----------------------------------------------------------------------------------------------------


def test_a_closed_journal_refuses(opener: Opener, runner: ThreadRunner) -> None:
    journal = opener()
    runner.run(journal.close())
    runner.run(journal.close())
    with pytest.raises(ManagerClosed):
        runner.run(journal.force((commit(key(1)),)))
    with pytest.raises(ManagerClosed):
        journal.next_attempt()


def test_an_abandoned_journal_touches_nothing() -> None:
    disk = MemoryDisk()
    parent = Process(disk).open()
    assert parent(parent.journal.claim(transaction(1))).mine
    before = disk.operations
    parent.journal.abandon()
    parent.journal.release(transaction(1))
    parent(parent.journal.close())
    with pytest.raises(ManagerClosed):
        parent(parent.journal.look())
    assert disk.operations == before
    other = Process(disk.process()).open()
    assert other(other.journal.look()).live == {Incarnation(1)}, "the parent lives"
    assert other(other.journal.claim(transaction(1))).running
    Process(disk).journal.abandon()  # before it was opened


def test_the_counter_shows_later_incarnations(opener: Opener, runner: ThreadRunner, tmp_path: Path) -> None:
    first = opener()
    assert runner.run(first.highest_incarnation()) == 1
    opener()
    assert runner.run(first.highest_incarnation()) == 2
    (tmp_path / "journal" / "counter").rename(tmp_path / "kept")
    (tmp_path / "journal" / "counter").mkdir()
    with pytest.raises(JournalFailed, match="cannot be read"):
        runner.run(first.highest_incarnation())
    (tmp_path / "journal" / "counter").rmdir()
    (tmp_path / "kept").rename(tmp_path / "journal" / "counter")
