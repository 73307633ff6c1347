"""O22..O31: crashes of resource managers, coordinators and participants; real ones where it matters."""

from __future__ import annotations

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost
from syncpoint.ids import Identifier
from syncpoint.manager.reports import OutcomeState
from syncpoint.protocol.words import Decision
from syncpoint.resources.base import Ruling
from syncpoint.resources.memory import LostReply
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import Bench, opened, raises
from tests.conformance.places import COMMIT, PREPARE, Course
from tests.crash.harness import Stage
from tests.crash.scenes import load
from tests.crash.trap import Target, Trap
from tests.crash.world import BANK, World, transfer

# --- resource managers ---------------------------------------------------------------------------------------


def _crash_before(bench: Bench, manager: syncpoint.TransactionManager, what: str, names: str) -> None:
    """The servers in `names` lose power right before the first step `what`, and stay away."""
    trap = Trap()
    trap.watch(manager._runner)

    def crash() -> None:
        for name in names:
            bench.servers[name].restart()
            bench.servers[name].down = True

    trap.before(what, crash)


def _power_on(bench: Bench) -> None:
    for server in bench.servers.values():
        server.down = False


def test_o22_one_crashes_during_commit(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["commit"].append(ConnectionLost("power"))
    _crash_before(bench, manager, "COMMIT a, COMMIT b", "b")
    with manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    assert bench.rows() == "a"
    assert not bench.a.locked()
    _power_on(bench)
    assert bench.in_doubt() == "b"
    assert not manager.recover(wait_seconds=5.0).left
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_o22_a_real_server_is_killed_during_commit(world: World, course: Course, name: str) -> None:
    victim = world.postgres if course.voter == BANK else world.mariadb
    assert victim is not None
    with opened(world) as manager:
        trap = Trap()
        trap.watch(manager._runner)
        trap.before(COMMIT[course.voter], victim.kill)
        try:
            with manager.transaction() as tx:
                transfer(tx, name)
            assert tx.pending == {course.voter}
        finally:
            victim.start()
        assert not manager.recover(wait_seconds=20.0).left
        assert manager.heuristics() == []
    assert world.audit(name, "committed") == "committed"


def test_o23_both_crash_during_commit(bench: Bench) -> None:
    manager = bench.manager()
    _crash_before(bench, manager, "COMMIT a, COMMIT b", "ab")
    with manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"a", "b"}
    assert bench.rows() == ""
    _power_on(bench)
    assert not manager.recover(wait_seconds=5.0).left
    assert bench.rows() == "ab"
    bench.assert_quiet()


@pytest.mark.parametrize("lost", [ConnectionLost("power, before it was asked"), LostReply()])
def test_o24_one_crashes_during_prepare(bench: Bench, lost: object) -> None:
    manager = bench.manager()
    bench.b.answers["prepare"].append(lost)
    _crash_before(bench, manager, "abort", "b")
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx)
    assert not bench.a.locked()
    _power_on(bench)
    manager.recover(wait_seconds=5.0)
    assert bench.rows() == ""
    bench.assert_quiet()


def test_o24_a_real_server_is_killed_during_prepare(world: World, course: Course, name: str) -> None:
    victim = world.postgres if course.voter == BANK else world.mariadb
    assert victim is not None
    with opened(world) as manager:
        trap = Trap()
        trap.watch(manager._runner)
        trap.before(PREPARE[course.voter], victim.kill)
        try:
            with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
                transfer(tx, name)
        finally:
            victim.start()
        assert not manager.recover(wait_seconds=20.0).left
    assert world.audit(name, "aborted") == "aborted"


def test_o25_one_crashes_during_rollback(bench: Bench) -> None:
    """It has voted yes; another has voted no; it loses power as it is told."""
    manager = bench.manager()
    bench.b.answers["prepare"].append(ZeroDivisionError())
    _crash_before(bench, manager, "abort", "a")
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx)
    _power_on(bench)
    assert bench.in_doubt() == "a"
    manager.recover(wait_seconds=5.0)
    assert bench.rows() == ""
    bench.assert_quiet()


# --- coordinators ----------------------------------------------------------------------------------------------


def _coordinator_dies(stage: Stage, world: World, name: str, target: Target) -> None:
    said = stage.zygote.run(world, "transfer_with_id", name, target)
    assert said.killed, said.last("error")
    assert said.told() == {}


def _restart(world: World, name: str, state: OutcomeState) -> None:
    """What the next process finds and does; and what it says about the id (O50)."""
    with opened(world) as manager:

        def is_finished() -> bool:
            report = manager.recover(wait_seconds=20.0)
            assert not report.left, report
            assert not report.heuristics, report
            return manager.in_doubt() == []  # not, when only now it is known that the process was dead

        wait_until(is_finished, "nothing is left to do", 20.0)
        assert manager.outcome(name).state is state


def test_o26_coordinator_dies_before_the_record(stage: Stage, world: World, course: Course, name: str) -> None:
    _coordinator_dies(stage, world, name, course.undecided)
    assert len(world.in_doubt()) == course.in_doubt
    _restart(world, name, OutcomeState.ABORTED_OR_UNKNOWN)
    assert world.audit(name, "") == "aborted"


def test_o27_coordinator_dies_after_the_record(stage: Stage, world: World, course: Course, name: str) -> None:
    _coordinator_dies(stage, world, name, course.decided)
    assert len(world.in_doubt()) == course.in_doubt
    _restart(world, name, OutcomeState.COMMITTED)
    assert world.audit(name, "") == "committed"


def test_o28_coordinator_dies_after_the_commits(stage: Stage, world: World, course: Course, name: str) -> None:
    _coordinator_dies(stage, world, name, course.done)
    assert world.audit(name, "") == "committed"
    _restart(world, name, OutcomeState.COMMITTED)
    assert world.audit(name, "") == "committed"
    with opened(world) as manager:

        def is_ended() -> bool:
            manager.recover()  # nothing is in doubt, so it does not wait until the dead process is known to be dead
            return any(event.what.startswith("ended") for event in manager.show(name).timeline)

        wait_until(is_ended, "the record ends", 10.0)
        assert manager.recover().committed == 0  # nobody looks at it again


def test_o28_nothing_is_committed_twice(bench: Bench) -> None:
    bench.departed(decided=True, done="ab")
    manager = bench.manager()
    with manager.transaction() as tx:  # somebody has changed the rows since
        bench.put(tx, value=2)
    assert not manager.recover().left
    assert bench.a.rows() == bench.b.rows() == {"k": b"2"}
    bench.assert_quiet()


# --- participants ----------------------------------------------------------------------------------------------


def _ask(manager: syncpoint.TransactionManager, identifier: Identifier) -> Decision:
    ask = manager._core.handles["a"].resource.ask
    assert ask is not None
    ruling: Ruling = manager._runner.run(ask(identifier))
    return ruling.decision


def test_o29_a_restarted_participant_is_told_the_outcome(bench: Bench) -> None:
    bench.departed("a", decided=True)
    bench.a.restart()
    (decided,) = bench.a.in_doubt()
    bench.departed("b", decided=False)
    bench.b.restart()
    (undecided,) = bench.b.in_doubt()
    manager = bench.manager()
    assert _ask(manager, decided) is Decision.COMMIT
    assert _ask(manager, undecided) is Decision.ABORT
    manager.recover()


def test_o29_nobody_guesses_while_its_coordinator_lives(bench: Bench) -> None:
    manager, other = bench.manager(), bench.manager()
    trap = Trap()
    trap.watch(manager._runner)
    told: list[Decision] = []

    def ask_both() -> None:
        (identifier,) = bench.a.in_doubt()
        told.extend(_ask(one, identifier) for one in (manager, other))

    trap.before(bench.place.forcing, ask_both)
    with manager.transaction() as tx:
        bench.put(tx)
    assert told == [Decision.UNKNOWN, Decision.UNKNOWN]


@pytest.mark.parametrize("scene", ["next_writer_redoes", "next_writer_drops"])
def test_o29_a_real_participant_asks(stage: Stage, scene: str) -> None:
    """SQLite: whoever next gets the write lock asks what became of the branch that stands noted."""
    played = stage.play(load()[scene])
    assert "committed" in played.outcomes.values()


# --- recovery ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["aborted", "committed"])
def test_o31_crashes_during_recovery_any_number_of_times(
    stage: Stage, world: World, course: Course, name: str, outcome: str
) -> None:
    _coordinator_dies(stage, world, name, course.decided if outcome == "committed" else course.undecided)
    deaths = 0
    for step in range(3, 100, 6 if course == Course() else 13):  # each waits until the one before is known to be dead
        said = stage.zygote.run(world, "settle", "10.0", Target(nth=step))
        if not said.killed:
            said.check()
            break
        deaths += 1
    assert deaths > (3 if course == Course() else 1)
    with opened(world) as manager:
        assert not manager.recover(wait_seconds=20.0).left
    assert world.audit(name, "") == outcome
