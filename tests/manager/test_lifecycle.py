"""A manager's life: opening, what it refuses, time, a journal that fails (R5), closing, and use after that."""

from __future__ import annotations

import contextlib
import gc
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost
from syncpoint.ids import Guid
from syncpoint.manager.reports import OutcomeState
from syncpoint.resources.base import Answer, Choice, Finding, Severity, Vote
from syncpoint.resources.memory import RowLocked
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import raises
from tests.crash.trap import Trap
from tests.manager.conftest import AsyncBench as Bench
from tests.manager.conftest import FailingDisk, JumpingClock

# --- construction ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("journal", "resources", "options", "why"),
    [
        ("", {"a": "memory://x"}, {}, "No journal"),
        ("etcd://x", {"a": "memory://x"}, {}, "cannot live at etcd://"),
        ("j", {"a": "strange://x"}, {}, "strange"),
        ("j", {"a": "memory://x"}, {"timeout": 0}, "no time"),
        ("j", {"a": {"url": "memory://x", "pool_size_max": 0}}, {}, "pool_size_max"),
        ("j", {"a": {"url": "memory://x", "pool_size_max": "many"}}, {}, "pool_size_max"),
        ("j", {"a": {"url": "memory://x", "pool_size_max": None}}, {}, "pool_size_max"),
        ("j", {"a": {"url": "memory://x", "backups": "some"}}, {}, "none, synchronous, asynchronous"),
    ],
)
def test_a_wrong_configuration_touches_nothing(
    tmp_path: Path, journal: str, resources: Any, options: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in (syncpoint.TransactionManager, syncpoint.AsyncTransactionManager):
        with pytest.raises(syncpoint.ConfigurationError, match=why):
            kind(journal, resources, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_by_url(tmp_path: Path) -> None:
    manager = syncpoint.TransactionManager(f"file://{tmp_path}/j", {})
    assert f"{tmp_path}/j" in repr(manager)


def test_constructing_touches_nothing_and_use_needs_open(bench: Bench) -> None:
    manager = syncpoint.TransactionManager(bench.folder / "journal", bench.urls())
    with raises(syncpoint.ManagerClosed, "not open"), manager.transaction():
        pass
    with pytest.raises(syncpoint.ManagerClosed):
        manager.in_doubt()
    assert not (bench.folder / "journal").exists()
    manager.close()  # nothing to do


def test_a_pool_as_small_as_configured(bench: Bench) -> None:
    url = bench.urls("a")["a"]
    resources = {"a": {"url": url, "pool_size_max": 1}}
    with syncpoint.TransactionManager(bench.folder / "journal", resources, background=False) as manager:
        problems: list[BaseException] = []

        def second() -> None:
            try:
                with manager.transaction(timeout=0.05) as tx:
                    tx.connect("a")
            except syncpoint.SyncpointError as error:
                problems.append(error)

        with manager.transaction() as tx:
            tx.connect("a")
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        assert isinstance(problems[0], syncpoint.ResourceUnavailable)
        assert "pool" in str(problems[0])


# --- refusals at start ------------------------------------------------------------------------------------------


def test_a_lying_set_up_is_refused_with_its_fix(bench: Bench) -> None:
    lie = Finding(Severity.REFUSED, "fsync", "off", "Set fsync = on.")
    bench.b.answers["inspect"].append([Finding(Severity.OK, "rights", "enough"), lie])
    with raises(syncpoint.SetupRefused, r"'b'.*fsync: off.*Set fsync = on") as caught:
        bench.manager()
    assert "rights" not in str(caught.value)
    assert bench.manager()  # nothing was left open; once it is mended it starts


def test_a_warning_is_not(bench: Bench) -> None:
    bench.b.answers["inspect"].append([Finding(Severity.WARNING, "age", "old", "Upgrade.")])
    assert bench.manager()


def test_another_database_under_a_known_name_is_refused(bench: Bench) -> None:
    manager = bench.manager()
    known = bench.a.guid
    manager.close()
    bench.a.guid = Guid(b"X" * 16)
    with raises(syncpoint.WrongResource, str(known)):
        bench.manager()
    bench.a.guid = known
    assert bench.manager()


def test_also_when_it_is_met_later(bench: Bench) -> None:
    bench.manager().close()
    bench.a.down = True
    manager = bench.manager()
    bench.a.down = False
    bench.a.guid = Guid(b"X" * 16)
    with raises(syncpoint.WrongResource), manager.transaction() as tx:
        bench.put(tx, "b")
        tx.connect("a")
    assert bench.rows() == ""
    report = manager.recover()
    assert "GUID" in report.unreachable["a"]


def test_a_connection_that_dies_at_first_contact_does_not_keep_it_from_starting(bench: Bench) -> None:
    bench.a.answers["contact"].append(ConnectionLost("gone"))
    manager = bench.manager()
    assert "first contact" in repr(manager._core.handles["a"])
    with manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == "ab"


def test_an_unreachable_resource_says_so_where_it_is_used(bench: Bench) -> None:
    bench.b.down = True
    manager = bench.manager()
    assert "trouble" in repr(manager._core.handles["b"])
    with raises(syncpoint.ResourceUnavailable, "cannot be reached"), manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == ""
    bench.b.down = False
    with manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == "ab"


def test_a_real_server_that_lies(postgres_url: str, tmp_path: Path) -> None:
    """max_prepared_transactions = 0 is PostgreSQL's default."""
    from syncpoint.testing.servers.postgres import PostgresServer

    with PostgresServer(settings={"max_prepared_transactions": "0"}) as server:
        url = server.create_database("lying")
        manager = syncpoint.TransactionManager(tmp_path / "journal", {"bank": url})
        with pytest.raises(syncpoint.SetupRefused, match="max_prepared_transactions"):
            manager.open()


# --- time ---------------------------------------------------------------------------------------------------------


def test_out_of_time_before_commit_is_asked_for(bench: Bench) -> None:
    clock = JumpingClock()
    manager = bench.manager(clock=clock)
    late = raises(syncpoint.TransactionTimeout, "longer than its timeout of 5 s")
    with late as caught, manager.transaction(timeout=5.0) as tx:
        bench.put(tx)
        clock.jump_s += 6.0
    assert caught.value.retryable  # type: ignore[attr-defined]
    assert bench.calls("a", "prepare") == []
    assert bench.rows() == ""
    bench.assert_quiet()


def test_out_of_time_while_votes_are_collected(bench: Bench) -> None:
    clock = JumpingClock()
    manager = bench.manager(clock=clock)
    trap = Trap()
    trap.watch(manager._runner)
    trap.before("prepare", lambda: setattr(clock, "jump_s", 60.0))
    with raises(syncpoint.TransactionTimeout), manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == ""
    bench.assert_quiet()


def test_once_decided_time_does_not_matter(bench: Bench) -> None:
    clock = JumpingClock()
    manager = bench.manager(clock=clock)
    trap = Trap()
    trap.watch(manager._runner)
    trap.before("journal force", lambda: setattr(clock, "jump_s", 60.0))
    with manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == "ab"


def test_no_time_is_left_to_begin_a_branch(bench: Bench) -> None:
    clock = JumpingClock()
    manager = bench.manager(clock=clock)
    with raises(syncpoint.TransactionTimeout), manager.transaction(timeout=5.0) as tx:
        bench.put(tx, "a")
        clock.jump_s += 6.0
        bench.put(tx, "b")
    assert bench.rows() == ""
    bench.assert_quiet()


def test_a_lock_is_waited_for_as_long_as_there_is_time(bench: Bench) -> None:
    manager = bench.manager()
    with manager.transaction() as first:
        bench.put(first, "a")
        done: list[str] = []

        def second() -> None:
            with manager.transaction(timeout=20.0) as tx:
                bench.put(tx, "a", value=2)
            done.append(bench.rows())

        thread = threading.Thread(target=second)
        thread.start()
        wait_until(lambda: bool(bench.a._waiting), "the second waits")
    thread.join()
    assert done == ["a"]
    assert bench.a.rows() == {"k": b"2"}


def test_a_deadlock_across_two_servers_ends_with_time(bench: Bench) -> None:
    """No server sees the cycle; both name whom they waited for; at least one is tried again and commits."""
    manager = bench.manager()
    both = threading.Barrier(2)
    finished: list[str] = []

    def work(order: str) -> None:
        first = True

        def cross(tx: Any) -> None:
            nonlocal first
            bench.put(tx, order[0], value=order)
            if first:
                first = False
                both.wait(20.0)
            bench.put(tx, order[1], value=order)

        for _ in range(40):
            with contextlib.suppress(RowLocked, syncpoint.TransactionAborted):
                manager.run(cross, timeout=0.3)
                finished.append(order)
                return

    threads = [threading.Thread(target=work, args=(order,)) for order in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(finished) == ["ab", "ba"]
    assert bench.a.rows() == bench.b.rows()
    bench.assert_quiet()


# --- the journal fails ----------------------------------------------------------------------------------------------


def test_a_journal_that_fails_stops_the_manager(bench: Bench) -> None:
    disk = FailingDisk()
    manager = bench.manager(disk=disk)
    disk.is_failing = True
    with raises(syncpoint.OutcomePending, "Do not retry it") as caught, manager.transaction(id="x") as tx:
        bench.put(tx)
    assert isinstance(caught.value.__cause__, syncpoint.JournalFailed)
    assert bench.in_doubt() == "ab"  # nobody was told anything
    disk.is_failing = False  # no retry of the force, no further answers
    with raises(syncpoint.ManagerClosed, "its journal failed"), manager.transaction():
        pass
    with pytest.raises(syncpoint.ManagerClosed):
        manager.outcome("x")
    assert "stopped" in repr(manager)
    manager.close()  # does not wait for what will never end
    restarted = bench.manager()
    restarted.recover()
    assert bench.in_doubt() == ""
    assert len(bench.rows()) in (0, 2)
    assert (bench.rows() == "ab") == (restarted.outcome("x").state is OutcomeState.COMMITTED)


def test_the_background_notices_and_stops(bench: Bench) -> None:
    disk = FailingDisk()
    manager = bench.manager(disk=disk, background=True)
    disk.is_failing = True
    with raises(syncpoint.OutcomePending), manager.transaction() as tx:
        bench.put(tx)
    tasks = list(manager._core._tasks)
    wait_until(lambda: all(task.ended.is_set() for task in tasks), "the background ends")
    assert bench.in_doubt() == "ab"


def test_the_background_finds_the_failure_by_itself(bench: Bench) -> None:
    """A dead process's records cannot be taken over."""
    disk = FailingDisk()
    manager = bench.manager(disk=disk, background=True)
    with bench.ghost() as ghost:
        key = ghost.key()
        ghost.prepare(key)
        ghost.decide(key)
        disk.is_failing = True
    wait_until(lambda: manager._core.failure is not None, "it fails")
    with raises(syncpoint.ManagerClosed), manager.transaction():
        pass
    assert bench.in_doubt() == "ab"


def test_a_heuristic_that_cannot_be_recorded_is_still_told(bench: Bench) -> None:
    disk = FailingDisk()
    manager = bench.manager(disk=disk)
    trap = Trap()
    trap.watch(manager._runner)
    trap.before("COMMIT a, COMMIT b", lambda: setattr(disk, "is_failing", True))
    bench.b.answers["commit"].append(Answer.HEURISTIC_ROLLBACK)
    with raises(syncpoint.HeuristicMixed), manager.transaction() as tx:
        bench.put(tx)
    with raises(syncpoint.ManagerClosed), manager.transaction():
        pass


def test_a_recovery_pass_that_meets_a_failing_journal_stops(bench: Bench) -> None:
    disk = FailingDisk()
    bench.departed(decided=True)
    manager = bench.manager(disk=disk)
    bench.a.answers["finish"].append(Answer.HEURISTIC_ROLLBACK)
    disk.is_failing = True
    with pytest.raises(syncpoint.JournalFailed):
        manager.recover()
    with raises(syncpoint.ManagerClosed), manager.transaction():
        pass


# --- closing --------------------------------------------------------------------------------------------------------


def test_close_waits_for_a_transaction_that_ends_in_another_thread(bench: Bench) -> None:
    manager = bench.manager()
    inside, go = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with manager.transaction() as tx:
                bench.put(tx)
                inside.set()
                go.wait(20.0)
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(20.0)
    closer = threading.Thread(target=manager.close)
    closer.start()
    wait_until(lambda: manager._core.closing, "it is closing")
    manager.close()  # a second one has nothing to do
    with raises(syncpoint.ManagerClosed), manager.transaction():
        pass
    go.set()
    worker.join()
    closer.join()
    assert errors == []
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_close_does_not_wait_for_ever(bench: Bench) -> None:
    manager = bench.manager()
    block = manager.transaction()
    tx = block.__enter__()
    bench.put(tx)
    manager.close(timeout=0.05)
    with pytest.raises(syncpoint.ManagerClosed):
        block.__exit__(None, None, None)
    bench.manager().recover()
    assert bench.rows() == ""


def test_use_after_close(bench: Bench) -> None:
    manager = bench.manager()
    manager.close()
    manager.close()
    with raises(syncpoint.ManagerClosed), manager.transaction():
        pass
    with pytest.raises(syncpoint.ManagerClosed):
        manager.run(lambda tx: 1)
    for use in (manager.in_doubt, manager.heuristics, manager.recover):
        with pytest.raises(syncpoint.ManagerClosed):
            use()


def test_opening_twice_is_once(bench: Bench) -> None:
    manager = bench.manager()
    incarnation = manager.incarnation
    assert manager.open() is manager
    assert manager.incarnation == incarnation


def test_closing_with_background_recovery_under_way(bench: Bench) -> None:
    bench.departed(decided=True)
    bench.b.down = True
    manager = bench.manager(background=True)
    manager.close()
    bench.b.down = False
    assert not bench.manager().recover().left
    assert bench.rows() == "ab"


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_thousand_open_transactions_add_at_most_20_megabytes(bench: Bench) -> None:
    resources = {name: {"url": url, "pool_size_max": 1001} for name, url in bench.urls().items()}
    with syncpoint.TransactionManager(bench.folder / "journal", resources, background=False) as manager:
        with manager.transaction() as tx:
            bench.put(tx)
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            works = []
            for number in range(1000):
                work = manager._runner.run(
                    manager._core.begin(user_id=None, timeout_s=60.0, wait_applied=True, fingerprint=b"")
                )
                for name in "ab":
                    branch = manager._runner.run(work.branch(name))
                    branch.handle.resource.connection(branch.session).put(f"row {number}", number)
                works.append(work)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        from syncpoint.manager import commit

        for work in works:
            manager._runner.run(commit.commit(work))
    assert (after - before) / 1e6 < 20.0
    assert len(bench.a.rows()) == len(bench.b.rows()) == 1001
    bench.assert_quiet()


def test_votes_no_leave_nothing_behind(bench: Bench) -> None:
    manager = bench.manager()
    for _ in range(20):
        bench.b.answers["prepare"].append(Vote(Choice.NO, reason="no"))
        with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
            bench.put(tx)
    assert manager._core.live == {}
    assert "0 busy" in repr(manager._core.handles["a"].pool)
