"""Several processes in one folder: who lives, who inherits, what is answered with (O55, O58, O59)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from syncpoint.errors import JournalDamaged, JournalFailed, JournalRefused
from syncpoint.ids import Attempt, Guid, Incarnation
from syncpoint.journal.base import Claim, Holding, Verdict, View
from syncpoint.records import CoordinatorKnown
from syncpoint.testing.disks import MemoryDisk, MemoryProcess
from tests.journal.support import (
    FOLDER,
    Process,
    abort,
    commit,
    end,
    forgotten,
    heuristic,
    key,
    known,
    prepared,
    resolved,
    served,
    transaction,
)


def opened(disk: MemoryDisk, **options: Any) -> Process:
    return Process(disk.process(), **options).open()


def kill(process: Process) -> None:
    assert isinstance(process.disk, MemoryProcess)
    process.disk.kill()


def look(process: Process, *, inherit: bool = True) -> View:
    return process(process.journal.look(inherit=inherit))


def void(value: object) -> None:
    """For hooks, that return nothing."""


def once(operation: str, ending: str, then: Callable[[], None]) -> Callable[[str, str], None]:
    """A hook that does something the first time that an operation meets a path with this ending."""
    done = False

    def hook(found: str, path: str) -> None:
        nonlocal done
        if not done and found == operation and path.endswith(ending):
            done = True
            then()

    return hook


def test_b7_b8_what_a_backup_must_know_is_read_from_the_living_and_the_dead() -> None:
    disk = MemoryDisk()
    first, second, node = opened(disk, segment_size_bytes_max=2000), opened(disk), opened(disk)
    guid = Guid(commit(key(1)).branches[0].guid)
    first(first.journal.force((commit(key(1)), commit(key(2)), served(1))))
    second(second.journal.force((commit(key(3)), served(2), served(1, b"O" * 16))))
    promised = msgspec.structs.replace(prepared(key(4)), branches=commit(key(4)).branches)
    second(second.journal.force((promised, prepared(key(5)))))
    first.journal.note((end(key(2)),))
    kill(second)
    held = node(node.journal.holding(guid))
    assert {one.key for one in held.commits} == {key(1), key(2), key(3)}, "an end that is not durable is none"
    assert held.promised == (promised,)
    assert node(node.journal.holding(Guid(bytes(16)))) == Holding()
    assert list(node.journal.resource_incarnations()) == [served(1, b"O" * 16), served(2)]
    for number in range(20, 40):  # a new segment or two
        first(first.journal.force((commit(key(number)), end(key(number)))))
    kill(first)
    kill(node)
    late = opened(disk)
    assert {one.key for one in late(late.journal.holding(guid)).commits} == {key(1), key(3)}
    assert list(late.journal.resource_incarnations()) == [served(1, b"O" * 16), served(2)]


def test_the_living_are_left_alone_and_the_dead_inherited() -> None:
    disk = MemoryDisk()
    first, second, third = opened(disk), opened(disk), opened(disk)
    first(first.journal.force((commit(key(1)), known())))
    view = look(second)
    assert (view.live, view.elsewhere, dict(view.decisions)) == ({1, 3}, {key(1)}, {})
    assert second.journal.resource("bank") is not None
    kill(first)
    view = look(second, inherit=False)
    assert (view.live, view.elsewhere) == ({1, 3}, {key(1)}), "nobody is taken for dead"
    view = look(second)
    assert (view.live, view.elsewhere, dict(view.decisions)) == ({3}, frozenset(), {key(1): commit(key(1))})
    assert view.inherited == {1}
    view = look(third)
    assert (view.live, view.elsewhere, view.inherited) == ({2}, {key(1)}, frozenset())
    assert disk.list(f"{FOLDER}/members") == ["0000000002.lock", "0000000003.lock"]
    kill(second)
    assert dict(look(third).decisions) == {key(1): commit(key(1))}
    assert third(third.journal.ended_incarnations([Incarnation(1), Incarnation(2)])) == {2}
    third(third.journal.force((end(key(1)),)))
    assert third(third.journal.ended_incarnations([Incarnation(1), Incarnation(2), Incarnation(3)])) == {1, 2}


def test_a_dead_process_without_records_is_told_of_too() -> None:
    """Its prepared branches want a scan."""
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    kill(first)
    assert look(second).inherited == {1}


def test_o58_o56_no_second_attempt_commits_whoever_holds_the_first() -> None:
    disk = MemoryDisk()
    first, second, third = opened(disk), opened(disk), opened(disk)
    one, two = (key(1, Attempt(Incarnation(number), 1)) for number in (1, 2))
    first(first.journal.force((commit(one),)))
    look(second)
    assert second(second.journal.force((commit(two), abort(one)))) == (Verdict.REFUSED, Verdict.REFUSED)
    assert second(second.journal.force((abort(two),))) == (Verdict.ACCEPTED,)
    look(third)
    assert third(third.journal.force((abort(two),))) == (Verdict.ACCEPTED,)
    kill(first)
    look(third)
    assert third(third.journal.force((commit(two),))) == (Verdict.REFUSED,)


def test_c7_a_commit_of_a_process_just_killed_is_seen_by_a_claim() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    assert first(first.journal.claim(transaction(1))).mine
    made = commit(key(1), user_id="order", result=b"\x01")
    first(first.journal.force((made,)))
    assert second(second.journal.claim(transaction(1))).running
    kill(first)
    forces = disk.forces
    assert second(second.journal.claim(transaction(1))) == Claim(committed=made)
    assert disk.forces > forces, "O59: copied and forced before it is answered with"
    disk.crash()
    third = opened(disk)
    assert third(third.journal.find(transaction(1))) == made


def test_o59_what_a_living_process_has_not_forced_is_not_answered_with() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    made = commit(key(1), user_id="order")
    seen: list[object] = []

    def look_on() -> None:
        seen.extend(
            (
                second(second.journal.claim(transaction(1))),
                second(second.journal.find(transaction(1))),
                look(second).elsewhere,
                second(second.journal.force((commit(key(1, Attempt(Incarnation(2), 1))),))),
                second(second.journal.heuristics()),
            )
        )

    disk.on_operation = once("force", "0000000001-000001.log", look_on)
    first(first.journal.force((made, heuristic(key(2)))))
    assert seen == [Claim(running=True), None, {key(1)}, (Verdict.REFUSED,), []]
    assert second(second.journal.claim(transaction(1))) == Claim(committed=made)
    assert second(second.journal.find(transaction(1))) == made
    assert second(second.journal.heuristics()) == [heuristic(key(2))]


def test_o59_what_a_failed_force_left_readable_is_copied_before_it_is_acted_on() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    disk.fail_force_at = disk.forces + 1
    with pytest.raises(JournalFailed):
        first(first.journal.force((commit(key(1)),)))
    assert look(second).elsewhere == {key(1)}
    first(first.journal.close())
    assert list(look(second).decisions) == [key(1)]
    disk.crash()
    assert list(look(opened(disk)).decisions) == [key(1)], "the old file could not have been forced again"


def test_an_end_elsewhere_is_followed_and_rotation_too() -> None:
    disk = MemoryDisk()
    first, second = opened(disk, segment_size_bytes_max=1500), opened(disk)
    for number in range(1, 60):
        first(first.journal.force((commit(key(number), user_id=str(number)),)))
        if number % 3:
            first.journal.note((end(key(number)),))
        if number % 7 == 0:
            look(second)
    first(first.journal.force(()))
    left = {key(number) for number in range(3, 60, 3)}
    assert look(second).elsewhere == left
    assert set(second(second.journal.transactions())) == {key(number) for number in range(1, 60)}
    story = second(second.journal.story(transaction(1))).records
    assert story == ((1, commit(key(1), user_id="1")), (1, end(key(1))))
    kill(first)
    assert look(second).decisions.keys() == left


def rotate_and_look_at(operation_number: int) -> bool:
    """Another process looks in front of one operation of a rotation, and afterwards. False: there is no such one."""
    disk = MemoryDisk()
    first, second, late = opened(disk, segment_size_bytes_max=500), opened(disk), opened(disk)
    first(first.journal.force((commit(key(1), user_id="x"),)))
    look(second)  # `late` has not read it yet
    count = 0

    def hook(operation: str, path: str) -> None:
        nonlocal count
        count += 1
        if count == operation_number:
            disk.on_operation = None
            for process in (second, late):
                assert look(process).elsewhere >= {key(1)}
                assert process(process.journal.find(transaction(1))) == commit(key(1), user_id="x")

    disk.on_operation = hook
    first(first.journal.force((commit(key(2)),)))
    disk.on_operation = None
    assert disk.list(f"{FOLDER}/segments")[0] == "0000000001-000002.log", "it has rotated"
    assert look(second).elsewhere == {key(1), key(2)}
    return count >= operation_number


def test_a_rotation_caught_half_way_is_read_rightly() -> None:
    number = 1
    while rotate_and_look_at(number):
        number += 1
    assert number > 10


def test_files_that_vanish_while_they_are_read_are_looked_for_again() -> None:
    disk = MemoryDisk()
    first, second, third = opened(disk), opened(disk), opened(disk)
    first(first.journal.force((commit(key(1)),)))

    def kill_and_inherit() -> None:
        kill(first)
        look(third)

    disk.on_operation = once("size", "0000000001-000001.log", kill_and_inherit)
    view = look(second)
    assert (view.live, view.elsewhere) == ({3}, {key(1)})


def test_who_is_taken_over_by_somebody_else_meanwhile_is_found_there() -> None:
    """Between listing and locking; the inheritor's file has been read by then."""
    disk = MemoryDisk()
    second, third, first = opened(disk), opened(disk), opened(disk)
    first(first.journal.force((commit(key(1)),)))
    kill(first)
    disk.on_operation = once("lock", "0000000003.lock", lambda: void(look(second)))
    view = look(third)
    assert (view.live, view.elsewhere, dict(view.decisions)) == ({1}, {key(1)}, {})


def test_a_lock_file_left_behind_is_cleared_away_unless_somebody_opens() -> None:
    disk = MemoryDisk()
    first = opened(disk)
    disk.create(f"{FOLDER}/members/0000000000.lock").close()
    disk.create(f"{FOLDER}/members/notes").close()
    gate = disk.lock(f"{FOLDER}/lock")
    assert gate is not None
    assert look(first).live == {0}, "it may be just opening"
    gate.release()
    assert look(first).inherited == {0}
    assert disk.list(f"{FOLDER}/members") == ["0000000001.lock", "notes"]


def test_two_looks_at_once_wait_for_one_taking_over() -> None:
    """The second survey finds nobody new dead, yet must not answer before the records are taken over."""
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    first(first.journal.force((commit(key(1), user_id="x"),)))
    kill(first)
    script = second.journal.look()
    next(script).batcher.handler([True])
    assert second(second.journal.find(transaction(1))) == commit(key(1), user_id="x")


# --- heuristic outcomes ---------------------------------------------------------------------------------------


def test_heuristics_of_all_processes_are_listed_until_anyone_forgets_them() -> None:
    disk = MemoryDisk()
    first, second, third = opened(disk), opened(disk), opened(disk)
    first(first.journal.force((heuristic(key(1)), resolved(key(1)))))
    second(second.journal.force((heuristic(key(1)), heuristic(key(2)))))
    everyone = (first, second, third)
    for process in everyone:
        assert sorted(process(process.journal.heuristics()), key=lambda one: one.key) == [
            heuristic(key(1)),
            heuristic(key(2)),
        ]
        assert process(process.journal.resolutions()) == [resolved(key(1))]
    third(third.journal.force((forgotten(key(1)),)))
    for process in everyone:
        assert process(process.journal.heuristics()) == [heuristic(key(2))]
        assert process(process.journal.resolutions()) == []
        process(process.journal.force(()))
    kill(third)
    disk.crash()
    again = opened(disk)
    assert again(again.journal.heuristics()) == [heuristic(key(2))]
    again(again.journal.force((heuristic(key(1), at_ms=6),)))
    assert again(again.journal.heuristics())[-1] == heuristic(key(1), at_ms=6), "a later one is news"


def test_what_was_forgotten_is_not_inherited() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    second(second.journal.force((forgotten(key(1)),)))
    first(first.journal.force((heuristic(key(1)), heuristic(key(2)))))
    kill(first)
    assert second(second.journal.heuristics()) == [heuristic(key(2))]


def test_the_latest_address_of_a_coordinator_counts() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)

    def entry(address: str, at_ms: int, guid: bytes = b"N" * 16) -> CoordinatorKnown:
        return CoordinatorKnown(guid=guid, address=address, at_ms=at_ms)

    first(first.journal.force((entry("new", 2), entry("old", 1, b"M" * 16), known("bank", b"1" * 16))))
    second(second.journal.force((entry("old", 1), entry("new", 2, b"M" * 16), known("bank", b"2" * 16))))
    look(second)
    both = [entry("new", 2, b"M" * 16), entry("new", 2)]
    assert second.journal.directory() == both
    kill(first)
    look(second)
    assert second.journal.directory() == both
    assert [one.guid for one in second.journal.resources()] == [b"2" * 16], "its own record counts"


# --- trouble --------------------------------------------------------------------------------------------------


def test_o41_damage_in_a_dead_process_s_file_stops_the_taking_over() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    first(first.journal.force((commit(key(1)),)))
    kill(first)
    disk.flip(f"{FOLDER}/segments/0000000001-000001.log", 100)
    for _ in range(2):
        with pytest.raises(JournalDamaged):
            look(second)
    disk.flip(f"{FOLDER}/segments/0000000001-000001.log", 100)
    assert list(look(second).decisions) == [key(1)], "nothing was lost by refusing"


def test_damage_in_a_living_process_s_file_is_told() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    first(first.journal.force((commit(key(1)),)))
    disk.flip(f"{FOLDER}/segments/0000000001-000001.log", 100)
    with pytest.raises(JournalDamaged):
        look(second)


def test_a_folder_whose_files_keep_vanishing_is_refused() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    first(first.journal.force((commit(key(1)),)))

    def vanish(operation: str, path: str) -> None:
        if operation == "size":
            raise FileNotFoundError(2, "gone", path)

    disk.on_operation = vanish
    with pytest.raises(JournalRefused, match="vanish"):
        look(second)


def test_a_folder_that_cannot_be_read_for_a_moment_can_be_read_later() -> None:
    disk = MemoryDisk()
    process = opened(disk)

    def fail(operation: str, path: str) -> None:
        raise OSError(24, "too many open files", path)

    disk.on_operation = fail
    with pytest.raises(JournalFailed, match="cannot be read"):
        look(process)
    with pytest.raises(JournalFailed, match="cannot be read"):
        process(process.journal.claim(transaction(1)))
    disk.on_operation = None
    assert look(process).live == frozenset()
    assert process(process.journal.claim(transaction(1))).mine


def test_everything_long_lived_says_what_it_is() -> None:
    disk = MemoryDisk()
    first, second = opened(disk), opened(disk)
    first(first.journal.force((commit(key(1)),)))
    second(second.journal.claim(transaction(2)))
    index = "<Index unended=1 kept=0 heuristics=0 resources=[]>"
    [member] = second.journal._neighbours.living.values()
    size = disk.size(f"{FOLDER}/segments/0000000001-000001.log")
    assert repr(member) == f"<Member 1 read to 1:{size - 24} {index}>"
    assert repr(second.journal._neighbours) == "<Neighbours living=[1] dead=[]>"
    assert repr(second.journal._claims) == "<Claims 1 held>"
    assert repr(first.journal._writer) == f"<SegmentWriter 0000000001-000001.log {size} bytes, {size - 24} forced>"
    assert repr(first.journal) == f"<FolderJournal /journal open incarnation=1 {index}>"


def test_c8_a_committed_id_is_told_to_all_who_ask_at_once() -> None:
    """While one of them holds the claim, which he does only until he is told himself."""
    disk = MemoryDisk()
    first, second = Process(disk.process()).open(), Process(disk.process()).open()
    first(first.journal.force((commit(key(1), user_id="x"), end(key(1)))))
    transaction_id = key(1).transaction
    held = second.journal._claims.begin(transaction_id)
    assert held is not None
    assert held.take()
    for process in (first, second):
        found = process(process.journal.claim(transaction_id))
        assert found.committed is not None
        assert (found.running, found.mine) == (False, False)
