"""O32..O39, O44: recovery and orphans, while others work, when scans fail, and by many at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost
from syncpoint.manager.reports import OutcomeState
from syncpoint.resources.base import Answer
from syncpoint.resources.memory import RowLocked
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import Bench, raises
from tests.conformance.places import FOLDER, MARIADB, POSTGRESQL, Course
from tests.crash.harness import Stage
from tests.crash.trap import Trap
from tests.crash.world import World, as_mapping


def test_o32_ours_without_a_record_is_rolled_back(bench: Bench) -> None:
    bench.departed(decided=False)
    report = bench.manager().recover()
    assert (report.aborted, report.left) == (2, ())
    assert bench.rows() == ""
    bench.assert_quiet()


def test_o32_at_start_without_being_asked(bench: Bench) -> None:
    bench.departed(decided=False)
    bench.manager(background=True)
    assert bench.rows() == ""
    bench.assert_quiet()


def test_o33_foreign_branches_are_untouched(bench: Bench) -> None:
    bench.a.prepare_foreign("somebody's")
    with bench.ghost("another-journal") as ghost:
        ghost.prepare(ghost.key(), "b")
    manager = bench.manager()
    report = manager.recover()
    assert report.foreign == 1
    assert report.unknown_coordinators == (str(ghost.journal.coordinator),)  # loudly
    assert bench.a.foreign() == ["somebody's"]
    assert bench.in_doubt() == "b"
    statuses = {entry.resource: entry.status for entry in manager.in_doubt()}
    assert statuses == {"a": "foreign", "b": "unknown-coordinator"}


def test_o34_what_a_living_process_works_on_is_left_alone(bench: Bench) -> None:
    """Its branches are in doubt, no record is there yet; another process recovers twice."""
    manager, other = bench.manager(), bench.manager()
    trap = Trap()
    trap.watch(manager._runner)
    seen: list[Any] = []

    def recover() -> None:
        for one in (other, manager):
            report = one.recover()
            seen.append((report.aborted, report.committed, {branch.status for branch in report.left}))
        assert bench.in_doubt() == "ab"

    trap.before(bench.place.forcing, recover)
    with manager.transaction() as tx:
        bench.put(tx)
    assert seen == [(0, 0, {"live"}), (0, 0, {"live"})]
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_o34_decided_ones_too(bench: Bench) -> None:
    """After the record, before any commit: it is the living process's to finish."""
    manager, other = bench.manager(), bench.manager()
    trap = Trap()
    trap.watch(manager._runner)
    trap.before("COMMIT a, COMMIT b", lambda: other.recover())
    with manager.transaction() as tx:
        bench.put(tx)
    for name in "ab":
        assert bench.calls(name, "finish") == []
    assert bench.rows() == "ab"


def test_o35_a_scan_that_fails_decides_nothing(bench: Bench) -> None:
    bench.departed(decided=True)
    bench.departed("c", decided=False)
    manager = bench.manager("abc")
    for name in "abc":
        bench.servers[name].answers["scan"] += [ConnectionLost("half-way")] * 2  # the idle connection, and a fresh one
    report = manager.recover()
    assert (report.committed, report.aborted) == (0, 0)
    assert set(report.unreachable) == {"a", "b", "c"}
    assert bench.in_doubt() == "abc"
    report = manager.recover()
    assert (report.committed, report.aborted) == (2, 1)
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_o36_recovery_while_transactions_commit(bench: Bench) -> None:
    """Three processes; two of them do nothing but recover."""
    manager, other = bench.manager(), bench.manager()
    done = threading.Event()
    reports: list[Any] = []

    def recover(one: syncpoint.TransactionManager) -> None:
        while not done.is_set():
            reports.append(one.recover())

    threads = [threading.Thread(target=recover, args=(one,)) for one in (manager, other)]
    for thread in threads:
        thread.start()
    for number in range(150):
        with manager.transaction() as tx:
            for name in "ab":
                connection = tx.connect(name)
                connection.put("count", (connection.get("count", for_update=True) or 0) + 1)
                connection.put(f"row {number}", number)
    done.set()
    for thread in threads:
        thread.join()
    for server in (bench.a, bench.b):
        assert server.rows()["count"] == b"150"
        assert len(server.rows()) == 151
    assert sum(report.committed for report in reports) == 0
    assert sum(len(report.heuristics) for report in reports) == 0
    assert manager.heuristics() == []
    bench.assert_quiet()


def test_o36_a_transaction_that_is_decided_and_ends_while_recovery_reads(bench: Bench) -> None:
    """It was in doubt when recovery scanned and undecided when recovery read the records; then it was decided, one
    branch did not answer, and it ended: that branch is not to be rolled back."""
    manager = bench.manager()
    voted, go = threading.Event(), threading.Event()
    trap = Trap()
    trap.watch(manager._runner)
    trap.before(bench.place.forcing, lambda: (voted.set(), go.wait(10.0)))
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)

    def transact() -> None:
        with manager.transaction() as tx:
            bench.put(tx)

    thread = threading.Thread(target=transact)
    look = manager._core.look

    def look_slowly() -> Any:
        view = yield from look()
        go.set()
        thread.join()
        return view

    thread.start()
    assert voted.wait(10.0)
    manager._core.look = look_slowly  # type: ignore[method-assign]
    first = manager.recover()
    manager._core.look = look  # type: ignore[method-assign]
    assert first.aborted == 0
    assert not manager.recover().left
    assert bench.rows() == "ab"
    assert manager.heuristics() == []


def test_o36_an_end_that_is_written_while_recovery_reads(bench: Bench) -> None:
    """It was noted before, and is no more when the answer comes: still it has ended."""
    manager = bench.manager()
    with manager.transaction() as tx:
        bench.put(tx)
    trap = Trap()
    trap.watch(manager._runner)
    trap.after("journal: look around", lambda _: manager._runner.run(manager._core.journal.force(())))
    assert manager.recover().committed == 0
    assert [bench.calls(name, "finish") for name in "ab"] == [[], []]


def test_o37_a_resource_unreachable_at_start(bench: Bench) -> None:
    bench.departed(decided=True)
    bench.b.down = True
    manager = bench.manager(background=True)
    assert bench.rows() == "a"
    with manager.transaction() as tx:  # what does not need it goes on
        bench.put(tx, "a", "other")
    statuses = {(entry.resource, entry.status) for entry in manager.in_doubt()}
    assert ("b", "decided-commit") in statuses
    assert ("b", "unreachable") in statuses
    bench.b.down = False
    wait_until(lambda: bench.rows() == "ab", "it is completed when it comes back", 5.0)
    wait_until(lambda: manager.in_doubt() == [], "the record ends", 5.0)
    bench.assert_quiet()


def test_o37_its_record_is_kept_over_further_starts(bench: Bench) -> None:
    bench.departed(decided=True, user_id="x")
    bench.b.down = True
    for _ in range(3):
        manager = bench.manager()
        manager.recover()
        manager.close()
    bench.b.down = False
    manager = bench.manager()
    assert not manager.recover().left
    assert bench.rows() == "ab"
    assert manager.outcome("x").state is OutcomeState.COMMITTED


RECOVERER = """
import json, sys, threading
import syncpoint
journal, resources = json.loads(sys.stdin.readline())
managers = [syncpoint.TransactionManager(journal, resources, background=False).open() for _ in range(2)]
print("ready", flush=True)
sys.stdin.readline()
reports = []
threads = [threading.Thread(target=lambda one: reports.append(one.recover(20.0)), args=(one,)) for one in managers]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([[len(r.left), len(r.unreachable), len(r.heuristics)] for r in reports]), flush=True)
for manager in managers: manager.close()
"""


@pytest.mark.parametrize(
    ("place", "outcome"),
    [(FOLDER, "aborted"), (FOLDER, "committed"), (POSTGRESQL, "committed"), (MARIADB, "aborted")],
    indirect=["place"],
)
def test_o38_ten_recoveries_at_once_in_five_processes(
    stage: Stage, world: World, course: Course, name: str, outcome: str
) -> None:
    target = course.decided if outcome == "committed" else course.undecided
    assert stage.zygote.run(world, "transfer_without_id", name, target).killed
    assert len(world.in_doubt()) == course.in_doubt
    plan = json.dumps([as_mapping(world)["journal"], world.resources()]) + "\n"
    processes = [
        subprocess.Popen([sys.executable, "-c", RECOVERER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(plan)
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        answer, _ = process.communicate(timeout=60.0)
        assert json.loads(answer) == [[0, 0, 0], [0, 0, 0]]
        assert process.returncode == 0
    assert world.audit(name, "") == outcome


def test_o39_one_that_can_never_be_finished_holds_up_no_other(bench: Bench) -> None:
    """One decided branch is at a server that is gone for good, one at a resource that nobody configures any more."""
    with bench.ghost() as ghost:
        for row, names in (("gone", "ac"), ("unnamed", "az"), ("k", "ab")):
            key = ghost.key(row)
            where = names.replace("z", "c")
            ghost.prepare(key, where, row)
            ghost.decide(key, where, user_id=row, names=names)
    bench.c.down = True
    manager = bench.manager("abc", background=True)
    assert bench.rows("k") == "ab"
    assert bench.rows("gone") == "a"
    report = manager.recover(wait_seconds=0.3)
    assert "c" in report.unreachable
    assert {entry.resource for entry in report.left} == {"z"}
    assert manager.outcome("gone").pending == ("c",)
    with manager.transaction() as tx:
        bench.put(tx, "ab", "new")
    assert bench.rows("new") == "ab"


def test_o39_a_branch_that_always_says_retry(bench: Bench) -> None:
    bench.departed(decided=True)
    manager = bench.manager()
    bench.a.answers["finish"].extend([Answer.RETRY] * 50)
    with bench.ghost() as ghost:
        ghost.prepare(ghost.key(), "a", "orphan")
    (first, _) = bench.a.in_doubt()
    report = manager.recover()
    assert {entry.resource for entry in report.left} == {"a"}
    assert bench.rows() == "b"
    assert str(first.transaction) in {entry.transaction for entry in report.left}
    bench.a.answers["finish"].clear()
    manager.recover()
    bench.assert_quiet()


def test_o44_recovery_waits_until_nothing_is_in_doubt(bench: Bench) -> None:
    bench.departed(decided=True)
    manager = bench.manager()
    bench.b.down = True
    trap = Trap()
    trap.watch(manager._runner)
    trap.before("sleep", lambda: None, lambda: setattr(bench.b, "down", False))
    report = manager.recover(wait_seconds=10.0)
    assert (report.left, report.unreachable) == ((), {})
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_o44_or_says_what_is_left(bench: Bench) -> None:
    key = bench.departed(decided=True)
    manager = bench.manager()
    bench.b.answers["finish"].extend([Answer.RETRY] * 100)
    report = manager.recover(wait_seconds=0.25)
    (left,) = report.left
    assert (left.transaction, left.resource, left.status) == (str(key.transaction), "b", "decided-commit")
    bench.b.answers["finish"].clear()
    assert not manager.recover(wait_seconds=5.0).left


def test_o44_a_second_recovery_beside_the_first(bench: Bench) -> None:
    """Both drain; both come back with nothing left."""
    bench.departed(decided=True)
    first, second = bench.manager(), bench.manager()
    reports: list[Any] = []
    threads = [
        threading.Thread(target=lambda one: reports.append(one.recover(wait_seconds=10.0)), args=(one,))
        for one in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.left for report in reports] == [(), ()]
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_o32_a_row_held_by_an_orphan_comes_free(bench: Bench) -> None:
    """Locks of the dead are gone without anybody asking: background recovery notices (within 2 s)."""
    manager = bench.manager(background=True, hasty=True)
    with bench.ghost(dies=True) as ghost:
        ghost.prepare(ghost.key())
        with raises(RowLocked), manager.transaction(timeout=0.1) as tx:  # its process still lives
            bench.put(tx, value=2)
    with manager.transaction(timeout=5.0) as tx:
        bench.put(tx, value=2)
    assert bench.a.rows() == bench.b.rows() == {"k": b"2"}
