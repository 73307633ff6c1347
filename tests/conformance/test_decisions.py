"""O45..O47, O54, O55: the journal inside a database.

Where that database takes part, its branch carries the decision; where not, the record is written by itself; both are
tried. Not for: processes that stop and wake (test_stopped.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost
from syncpoint.ids import Key, TransactionId
from syncpoint.journal.base import Verdict
from syncpoint.journal.database import DatabaseJournal
from syncpoint.manager.reports import OutcomeState
from syncpoint.records import Abort, Commit, key_fields
from syncpoint.testing.proxy import FaultProxy
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import Bench, opened, raises
from tests.conformance.places import DATABASES, DECIDE, MARIADB, PREPARE, QUIET, Course, Database, Place
from tests.crash.trap import Trap
from tests.crash.world import BANK, LEDGER, World, transfer

IN_DATABASES = pytest.mark.parametrize("place", DATABASES, indirect=True)
COMMITS, ABORTS = "once IS NOT NULL", "once IS NULL"


def _records(place: Place) -> tuple[int, int]:
    """How many Commits and Aborts the journal holds, as seen from outside."""
    assert isinstance(place, Database)
    return place.count("record", COMMITS), place.count("record", ABORTS)


# --- O45 -----------------------------------------------------------------------------------------------------------


@IN_DATABASES
def test_o45_a_prepare_fails_and_the_journals_branch_never_commits(
    world: World, place: Place, course: Course, name: str
) -> None:
    with opened(world) as manager:
        trap = Trap()
        trap.watch(manager._runner)

        def lose() -> None:
            raise ConnectionLost("it never arrived")

        trap.before(PREPARE[course.voter], lose)
        with raises(syncpoint.TransactionAborted), manager.transaction(id=name) as tx:
            transfer(tx, name)
        assert course.decides not in trap.trace
        assert _records(place.at(world)) == (0, 0)
        assert not manager.recover(wait_seconds=10.0).left
        assert manager.outcome(name).state is OutcomeState.ABORTED_OR_UNKNOWN
    assert world.audit(name, "aborted") == "aborted"


# --- O46 -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Losing:
    """A manager whose decisions pass a proxy, and the step that sends one."""

    manager: syncpoint.TransactionManager
    journal: str
    """Its journal, past the proxy."""
    proxy: FaultProxy
    trap: Trap
    decides: str
    work: Callable[[Any, str], Any]
    committed: Callable[[str], bool]
    """Whether a transfer is there; that it is everywhere or nowhere is checked on the way."""
    records: Callable[[], tuple[int, int]]


@pytest.fixture
def in_branch(world: World, place: Place, course: Course) -> Iterator[Losing]:
    """The journal's database takes part."""
    urls = world.resources((BANK, LEDGER))
    with FaultProxy(urls[course.decider]) as proxy:
        plain = "ssl=false" if course.decider == LEDGER else "sslmode=disable"
        through = urls | {course.decider: f"{proxy.url(urls[course.decider])}?{plain}"}
        with syncpoint.TransactionManager(world.journal, through, background=False) as manager:
            trap = Trap()
            trap.watch(manager._runner)
            yield Losing(
                manager,
                world.journal,
                proxy,
                trap,
                DECIDE[course.decider],
                lambda tx, name: transfer(tx, name, (BANK, LEDGER)),
                lambda name: world.audit(name, "", (BANK, LEDGER)) == "committed",
                lambda: _records(place.at(world)),
            )


@pytest.fixture
def by_itself(bench: Bench, place: Place) -> Iterator[Losing]:
    """The journal's database takes no part: the decision is a transaction of its own there."""
    assert isinstance(place, Database)
    with FaultProxy(place.url) as proxy:
        plain = "ssl=false" if place.kind == MARIADB else "sslmode=disable"
        manager = bench.manager(url=f"{proxy.url(place.url)}?{plain}&{QUIET}")
        trap = Trap()
        trap.watch(manager._runner)

        def committed(name: str) -> bool:
            bench.assert_quiet()
            assert bench.rows(name) in ("", "ab")
            return bench.rows(name) == "ab"

        yield Losing(
            manager,
            bench.journal,
            proxy,
            trap,
            place.forcing,
            lambda tx, name: bench.put(tx, key=name),
            committed,
            lambda: _records(place),
        )
        manager.close(5.0)


@pytest.fixture(params=["in_branch", "by_itself"])
def losing(request: pytest.FixtureRequest, place: Place) -> Losing:
    made: Losing = request.getfixturevalue(request.param)
    return made


@IN_DATABASES
def test_o46_the_reply_to_the_decision_is_lost(losing: Losing, name: str) -> None:
    """It is there: Abort under the same key is refused, so it is committed."""
    losing.trap.before(losing.decides, losing.proxy.lose_reply)
    with losing.manager.transaction(id=name) as tx:
        losing.work(tx, name)
    assert losing.proxy.disarm()
    assert not losing.manager.recover(wait_seconds=10.0).left
    assert losing.committed(name)
    assert losing.records() == (1, 0)
    assert losing.manager.outcome(name).state is OutcomeState.COMMITTED


@IN_DATABASES
@pytest.mark.parametrize("late", [False, True], ids=["it never arrives", "it arrives late"])
def test_o46_the_decision_is_lost_on_its_way(losing: Losing, name: str, late: bool) -> None:
    """It is not there: Abort under the same key is, and a Commit that arrives after it changes nothing."""
    losing.trap.before(losing.decides, losing.proxy.hold_request if late else losing.proxy.lose_request)
    with raises(syncpoint.TransactionAborted) as caught, losing.manager.transaction(id=name) as tx:
        losing.work(tx, name)
    assert caught.value.retryable  # type: ignore[attr-defined]
    assert losing.records() == (0, 1)
    losing.proxy.release()
    assert not losing.manager.recover(wait_seconds=10.0).left
    assert not losing.committed(name)
    assert losing.records() == (0, 1)
    losing.manager.run(losing.work, name, id=name)
    assert losing.committed(name)


# --- O47 -----------------------------------------------------------------------------------------------------------


@IN_DATABASES
def test_o47_of_many_attempts_that_decide_at_once_one_wins(bench: Bench) -> None:
    """Eight processes, an attempt each; nothing but the journal tells them apart."""
    transaction = TransactionId.from_user_id("", "x")
    together = threading.Barrier(8)
    verdicts: list[Verdict] = []
    with contextlib.ExitStack() as stack:
        ghosts = [stack.enter_context(bench.ghost()) for _ in range(8)]

        def decide(journal: DatabaseJournal, runner: Any) -> None:
            record = Commit(**key_fields(Key(transaction, journal.next_attempt())), branches=(), at_ms=0, user_id="x")
            together.wait(10.0)
            verdicts.extend(runner.run(journal.force((record,))))

        threads = [threading.Thread(target=decide, args=(ghost.journal, ghost._runner)) for ghost in ghosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(verdict.name for verdict in verdicts) == ["ACCEPTED", *["REFUSED"] * 7]
    assert _records(bench.place) == (1, 0)


@IN_DATABASES
def test_o47_commit_and_abort_of_one_attempt(bench: Bench) -> None:
    """One process decides, another settles: whoever is first, the other is told so."""
    with bench.ghost() as one, bench.ghost() as other:
        for first_is_commit in (True, False):
            key = one.key()
            commit = Commit(**key_fields(key), branches=(), at_ms=0)
            abort = Abort(**key_fields(key), why="taken for dead")
            forces = [(one, commit), (other, abort)]
            told = [
                ghost._runner.run(ghost.journal.force((record,)))
                for ghost, record in (forces if first_is_commit else reversed(forces))
            ]
            assert told == [(Verdict.ACCEPTED,), (Verdict.REFUSED,)]
    assert _records(bench.place) == (1, 1)


@IN_DATABASES
def test_o47_a_decision_that_another_process_forestalls(world: World, place: Place, course: Course, name: str) -> None:
    """Right before the decision goes out, somebody else writes Abort: the branch that carries it is rolled back."""
    with opened(world) as manager, opened(world, ()) as other:
        trap = Trap()
        trap.watch(manager._runner)

        def forestall() -> None:
            (key,) = manager._core.live
            abort = Abort(**key_fields(key), why="taken for dead")
            assert other._runner.run(other._core.journal.force((abort,))) == (Verdict.ACCEPTED,)

        trap.before(course.decides, forestall)
        with raises(syncpoint.TransactionAborted) as caught, manager.transaction(id=name) as tx:
            transfer(tx, name)
        assert caught.value.retryable  # type: ignore[attr-defined]
        assert _records(place.at(world)) == (0, 1)
        assert not manager.recover(wait_seconds=10.0).left
    assert world.audit(name, "aborted") == "aborted"


# --- O54 -----------------------------------------------------------------------------------------------------------


@IN_DATABASES
def test_o54_a_delayed_commit_after_the_abort_was_cleaned_up(losing: Losing, name: str) -> None:
    """The decision is held up on its way; its process settles it by Abort and ends; another takes over, and cleans."""
    losing.trap.before(losing.decides, losing.proxy.hold_request)
    with raises(syncpoint.TransactionAborted), losing.manager.transaction(id=name) as tx:
        losing.work(tx, name)
    assert losing.records() == (0, 1)
    losing.manager.close()
    with syncpoint.TransactionManager(losing.journal, {}, background=False) as other:
        other._runner.run(other._core.journal.watch())
        other._runner.run(other._core.journal._lazily.clean())  # type: ignore[attr-defined]
        assert losing.records() == (0, 0)
        assert losing.proxy.release() == 1  # now it arrives
        assert losing.records() == (0, 0)
        assert other.outcome(name).state is OutcomeState.ABORTED_OR_UNKNOWN
    assert not losing.committed(name)


# --- O55 -----------------------------------------------------------------------------------------------------------


@IN_DATABASES
@pytest.mark.parametrize("decided", [True, False], ids=["decided", "undecided"])
def test_o55_any_other_finishes_what_one_left(bench: Bench, decided: bool) -> None:
    """Four processes share the journal; a fifth dies; the branches are finished once, by whoever was first."""
    for _ in range(4):
        bench.manager(background=True, hasty=True)
    with bench.ghost(dies=True) as ghost:
        key = ghost.key("x")
        ghost.prepare(key)
        if decided:
            ghost.decide(key, user_id="x")
    wait_until(lambda: bench.in_doubt() == "", "somebody finishes it", 10.0)
    assert bench.rows() == ("ab" if decided else "")
    bench.assert_quiet()
    assert [bench.calls(name, "finish") for name in "ab"] == [["finish"], ["finish"]]


@IN_DATABASES
def test_o55_and_it_may_be_sent_again(bench: Bench) -> None:
    """The dead process had claimed an id, and decided nothing: another process may run it, once that is known."""
    manager = bench.manager(background=True, hasty=True)
    with bench.ghost(dies=True) as ghost:
        claim = ghost._runner.run(ghost.journal.claim(TransactionId.from_user_id("", "x")))
        assert claim.mine

    def runs() -> bool:
        try:
            manager.run(bench.put, id="x", fingerprint="")
        except syncpoint.TransactionRunning:
            return False
        return True

    wait_until(runs, "the dead process's claim is free", 10.0)
    assert bench.rows() == "ab"
