"""O48..O51, O56, O58 and C7, C8: the same request again, by anybody, at any time."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import syncpoint
from syncpoint.manager.reports import OutcomeState
from syncpoint.resources.memory import LostReply
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import Bench, opened, raises
from tests.conformance.places import Course
from tests.crash.harness import Stage
from tests.crash.trap import Trap
from tests.crash.world import BANK, World


def _count(tx: Any, name: str = "ab") -> int:
    """An effect that shows how often it happened."""
    for one in name:
        connection = tx.connect(one)
        count = (connection.get("count", for_update=True) or 0) + 1
        connection.put("count", count)
    return int(count)


def test_o48_a_commit_delivered_twice(bench: Bench) -> None:
    manager = bench.manager()
    for name in "ab":
        bench.servers[name].answers["commit"].append(LostReply())
    with manager.transaction() as tx:
        _count(tx)
    for name in "ab":
        assert bench.calls(name, "commit", "finish") == ["commit", "finish"]
        assert bench.servers[name].rows() == {"count": b"1"}
    assert tx.pending == frozenset()
    bench.assert_quiet()


def test_o49_a_rollback_before_its_prepare_changes_nothing(bench: Bench) -> None:
    """At databases it is O42: the prepare that comes later is found by a later pass."""
    with bench.ghost() as ghost:
        key = ghost.key()
        (identifier,) = ghost.identifiers(key, "a").values()
    manager = bench.manager()
    handle = manager._core.handles["a"]
    deadline = manager._core.clock.monotonic() + 5.0
    keeper = manager._core.journal.incarnation
    script = handle.finish(identifier, commit=False, state=b"", deadline=deadline, keeper=keeper)
    assert manager._runner.run(script).name == "ABORTED"
    bench.prepare("a", identifier)
    assert manager.recover().aborted == 1
    assert bench.rows() == ""
    bench.assert_quiet()


# --- O50: running, committed, aborted, unknown ------------------------------------------------------------------


def test_o50_running_is_not_run_again(bench: Bench) -> None:
    manager, other = bench.manager(), bench.manager()
    with manager.transaction(id="x") as tx:
        bench.put(tx)
        for one in (manager, other):
            assert one.outcome("x").state is OutcomeState.RUNNING
            # Another thread, so that it is no nested block of this one.
            refused: list[BaseException] = []

            def again(one: syncpoint.TransactionManager = one, refused: list[BaseException] = refused) -> None:
                try:
                    one.run(_count, id="x")
                except syncpoint.TransactionRunning as error:
                    refused.append(error)

            thread = threading.Thread(target=again)
            thread.start()
            thread.join()
            assert len(refused) == 1
    assert bench.rows() == "ab"
    assert bench.rows("count") == ""


def test_o50_committed_gives_the_stored_result(bench: Bench) -> None:
    manager, other = bench.manager(), bench.manager()
    assert manager.run(_count, id="x") == 1
    for one in (manager, other, bench.manager()):
        assert one.run(_count, id="x") == 1
        told = one.outcome("x")
        assert (told.state, told.result, told.user_id) == (OutcomeState.COMMITTED, 1, "x")
        with raises(syncpoint.AlreadyCommitted) as caught, one.transaction(id="x"):
            raise AssertionError("it was run again")
        assert caught.value.result == 1  # type: ignore[attr-defined]
    assert bench.a.rows() == bench.b.rows() == {"count": b"1"}


def test_o50_aborted_may_run_again(bench: Bench) -> None:
    manager = bench.manager()
    with raises(ZeroDivisionError), manager.transaction(id="x") as tx:
        _count(tx)
        raise ZeroDivisionError
    assert manager.outcome("x").state is OutcomeState.ABORTED_OR_UNKNOWN
    bench.await_releases()
    assert bench.manager().run(_count, id="x") == 1
    assert manager.run(_count, id="x") == 1
    assert bench.a.rows() == {"count": b"1"}


def test_o50_unknown_runs(bench: Bench) -> None:
    manager = bench.manager()
    assert manager.outcome("never seen").state is OutcomeState.ABORTED_OR_UNKNOWN
    assert manager.run(_count, id="never seen") == 1


def test_o50_after_the_coordinator_was_killed(stage: Stage, world: World, course: Course, name: str) -> None:
    """Decided, then killed: its result is there. The resend does not wait for recovery."""
    said = stage.zygote.run(world, "transfer_with_id", name, course.decided)
    assert said.killed
    with opened(world) as manager:
        with raises(syncpoint.AlreadyCommitted), manager.transaction(id=name):
            raise AssertionError("it was run again")
        assert manager.outcome(name).state is OutcomeState.COMMITTED
        # Who has to finish it is known once the process is known to be dead.
        wait_until(lambda: set(manager.outcome(name).pending) == set(course.voters), "its branches are pending", 10.0)
        assert not manager.recover(wait_seconds=10.0).left
        assert manager.outcome(name).pending == ()
    assert world.audit(name, "committed") == "committed"


def test_o50_a_resend_from_another_process_while_it_runs(stage: Stage, world: World, name: str) -> None:
    with opened(world) as manager, manager.transaction(id=name):
        said = stage.zygote.run(world, "transfer_with_id", name)
        assert "TransactionRunning" in (said.last("error") or "")
    assert world.rows(name)[BANK] == 0


# --- O51 ---------------------------------------------------------------------------------------------------------


def test_o51_the_same_id_for_another_request(bench: Bench) -> None:
    manager = bench.manager()
    manager.run(_count, "a", id="x")
    for one in (manager, bench.manager()):
        with pytest.raises(syncpoint.DifferentRequest, match="used before"):
            one.run(_count, "b", id="x")
        with pytest.raises(syncpoint.DifferentRequest):
            one.run(_count, "a", id="x", fingerprint="another")
        assert one.run(_count, "a", id="x") == 1
    assert bench.b.rows() == {}


# --- O56, O58: attempts --------------------------------------------------------------------------------------------


def test_o56_attempt_two_is_not_begun_while_attempt_one_pauses(bench: Bench) -> None:
    """In a folder the claim is an OS lock: as long as attempt 1 may wake up, attempt 2 is refused."""
    manager, other = bench.manager(), bench.manager()
    trap = Trap()
    trap.watch(manager._runner)

    def attempt_two() -> None:
        with raises(syncpoint.TransactionRunning):
            other.run(_count, id="x")

    trap.before(bench.place.forcing, attempt_two)
    assert manager.run(_count, id="x") == 1
    assert other.run(_count, id="x") == 1
    assert bench.a.rows() == {"count": b"1"}


def test_o56_attempt_one_wakes_after_attempt_two_has_committed(bench: Bench) -> None:
    """Its claim was taken away meanwhile (by hand here): first writer wins, it cannot commit."""
    manager, other = bench.manager(), bench.manager("c")
    trap = Trap()
    trap.watch(manager._runner)

    def attempt_two() -> None:
        manager._core.journal.release(next(iter(manager._core.live)).transaction)
        bench.await_releases()
        assert other.run(lambda tx: _count(tx, "c"), id="x") == 1
        manager._runner.run(manager._core.look())

    trap.before(bench.place.forcing, attempt_two)
    with raises(syncpoint.TransactionAborted) as caught, manager.transaction(id="x") as tx:
        _count(tx)
    assert "first" in str(caught.value)
    assert bench.rows("count") == "c"
    bench.assert_quiet()


def test_o58_an_orphan_of_attempt_one_is_rolled_back(bench: Bench) -> None:
    bench.departed("ab", decided=False, user_id="x")
    manager = bench.manager()
    assert manager.run(_count, id="x") == 1
    assert manager.outcome("x").state is OutcomeState.COMMITTED
    report = manager.recover()
    assert (report.aborted, report.left) == (2, ())
    assert bench.rows("k") == ""
    assert bench.rows("count") == "ab"
    bench.assert_quiet()


def test_o58_even_while_attempt_two_is_unfinished(bench: Bench) -> None:
    bench.departed("ab", decided=False, user_id="x")
    manager = bench.manager()
    trap = Trap()
    trap.watch(manager._runner)
    trap.before("COMMIT a, COMMIT b", lambda: manager.recover())
    assert manager.run(_count, id="x") == 1
    assert bench.rows("k") == ""
    assert bench.rows("count") == "ab"
    bench.assert_quiet()


def test_o58_killed_for_real_after_the_votes(stage: Stage, world: World, course: Course, name: str) -> None:
    """The resend waits for the orphan's locks no longer than until recovery has rolled it back."""
    said = stage.zygote.run(world, "transfer_with_id", name, course.undecided)
    assert said.killed
    stage.zygote.run(world, "settle", "10.0").check()
    again = stage.zygote.run(world, "transfer_with_id", name)
    again.check()
    assert again.told() == {name: "committed"}
    assert world.audit(name, "committed") == "committed"
