"""O34, O56: a process is stopped in the middle of a commit, as by SIGSTOP, taken for dead, and woken.

In a database death is only guessed: a wrong guess aborts cleanly and costs one retry. (In a folder a stopped process
holds its locks, and is waited for: test_recovery.py, test_resends.py.) Rows are counted from outside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

import syncpoint
from syncpoint.manager.reports import OutcomeState
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import opened
from tests.conformance.places import COMMIT, DATABASES, PREPARE, Course, Database, Place
from tests.conformance.processes import Worker, working
from tests.crash.world import BANK, LEDGER, World

WHERE = (BANK, LEDGER)
"""Not SQLite: a stopped process keeps the whole file locked, and nobody can do anything about that."""

pytestmark = pytest.mark.parametrize("place", DATABASES, indirect=True)


@contextlib.contextmanager
def _stopped(world: World, name: str, stop: str, user_id: str | None = None) -> Iterator[Worker]:
    """A process that has stopped right before this step of its transfer."""
    with working(world, name=name, stop=stop, id=user_id) as worker:
        worker.wait_until_stopped()
        yield worker


def _take_over(world: World, place: Place, manager: syncpoint.TransactionManager, *, lingering: bool = False) -> None:
    """Take the stopped process for dead, and finish all that is in doubt.

    `lingering`: but for a branch in MariaDB, prepared and undecided. Nobody else can finish it while its connection is
    there (DATABASES MariaDB 1), and which connection that is only a Commit record would say. It waits for its owner.
    """
    journal = place.at(world)
    assert isinstance(journal, Database)

    def is_taken() -> bool:
        manager.recover()
        return journal.count("incarnation", "keeper = incarnation") == 1

    wait_until(is_taken, "the stopped process is taken for dead", 20.0)
    left = manager.recover(wait_seconds=0.0 if lingering else 10.0).left
    assert [(one.resource, one.status) for one in left] == [(LEDGER, "presumed-abort")] * lingering
    assert len(world.in_doubt()) == lingering


@pytest.mark.parametrize("when", ["before its votes", "before its decision"])
def test_o34_a_wrong_guess_costs_one_retry(world: World, place: Place, course: Course, name: str, when: str) -> None:
    stop = PREPARE[course.voter] if when == "before its votes" else course.decides
    with _stopped(world, name, stop) as worker:
        with opened(world, WHERE) as manager:
            _take_over(world, place, manager, lingering=when == "before its decision" and course.voter == LEDGER)
        worker.wake()
        assert worker.end() == {"told": "committed", "returned": 2, "tries": 2}
    with opened(world, WHERE) as manager:
        assert not manager.recover(wait_seconds=10.0).left
        assert manager.heuristics() == []
    assert world.audit(name, "committed", WHERE) == "committed"


def test_o34_taken_for_dead_after_its_decision(world: World, place: Place, course: Course, name: str) -> None:
    """Others have finished, ended and cleaned up all of it when it wakes: what it does not find proves nothing."""
    with _stopped(world, name, COMMIT[course.voter]) as worker:
        with opened(world, WHERE) as manager:
            _take_over(world, place, manager)
            for _ in range(2):  # evidence, too, is gone: a later pass removes it
                manager.recover()
            assert world.audit(name, "", WHERE) == "committed"
        worker.wake()
        assert worker.end() == {"told": "committed", "returned": 1, "tries": 1}
    with opened(world, WHERE) as manager:
        assert not manager.recover(wait_seconds=10.0).left
        assert manager.heuristics() == []
    assert world.audit(name, "committed", WHERE) == "committed"


def test_o56_attempt_one_stops_attempt_two_commits_attempt_one_wakes(
    world: World, place: Place, course: Course, name: str
) -> None:
    """The same id: attempt 1 cannot commit any more, and its caller is given attempt 2's result."""
    with _stopped(world, name, course.decides, user_id=name) as worker:
        with opened(world, WHERE) as manager:
            _take_over(world, place, manager, lingering=course.voter == LEDGER)
            assert manager.run(lambda tx: _again(tx, name), id=name, fingerprint="") == "of attempt two"
        worker.wake()
        assert worker.end() == {"told": "committed", "returned": "of attempt two", "tries": 1}
    with opened(world, WHERE) as manager:
        assert not manager.recover(wait_seconds=10.0).left
        assert manager.outcome(name).state is OutcomeState.COMMITTED
        assert manager.heuristics() == []
    assert world.audit(name, "committed", WHERE) == "committed"


def _again(tx: Any, name: str) -> str:
    """On other rows: those of attempt 1 stay locked for as long as its process has its transaction open."""
    tx.connect(BANK).execute("INSERT INTO transfer VALUES (%s, 1, 2)", (name,))
    tx.connect(LEDGER).cursor().execute("INSERT INTO transfer VALUES (%s, 1, 2)", (name,))
    return "of attempt two"
