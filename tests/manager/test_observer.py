"""What observers are told, in both facades: every phase, every end, every pass; and that they can break nothing.

Not for: what metrics and spans are made of it (tests/integrations/).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeVar

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost
from syncpoint.ids import Incarnation
from syncpoint.manager.observer import (
    BlockEntered,
    BlockLeft,
    BranchRecovered,
    BranchTold,
    EndedAs,
    Event,
    HeuristicsListed,
    ManagerStarted,
    ManagerStopped,
    PassEnded,
    Phase,
    PhaseEnded,
    ResendAnswer,
    Resent,
    TookOver,
    TransactionBegun,
    TransactionEnded,
)
from syncpoint.manager.watch import PHASES, STEPS
from syncpoint.protocol.coordinator import State, What
from syncpoint.resources.base import Answer, Choice, Evidence, Vote
from syncpoint.resources.memory_server import LostReply
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import raises
from tests.manager.conftest import AsyncBench, FailingDisk, JumpingClock

E = TypeVar("E", bound=Event)


class Notebook:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event, /) -> None:
        self.events.append(event)

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def one(self, kind: type[E]) -> E:
        (event,) = self.all(kind)
        return event

    def kinds(self) -> list[str]:
        """The story in short: the kinds of events in order, phases and steps by name."""
        names = []
        for event in self.events:
            what = getattr(event, "phase", getattr(event, "step", ""))
            names.append(f"{type(event).__name__} {what}".strip())
        return names


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


# --- a transaction --------------------------------------------------------------------------------------------


COMMIT = [
    "TransactionBegun",
    "BlockEntered",
    "PhaseEnded work",
    "BlockLeft",
    "PhaseBegan prepare",
    "BranchTold prepare",
    "BranchTold prepare",
    "PhaseEnded prepare",
    "PhaseBegan decide",
    "PhaseEnded decide",
    "PhaseBegan commit",
    "BranchTold commit",
    "BranchTold commit",
    "PhaseEnded commit",
    "TransactionEnded",
]


def test_a_commit_is_told_from_begin_to_end(bench: AsyncBench, notebook: Notebook) -> None:
    with bench.manager(observers=[notebook]) as manager, manager.transaction(id="order-1") as tx:
        tx.connect("a").put("k", 1)
        tx.connect("b").put("k", 1)
    assert notebook.kinds()[1:] == COMMIT
    ended = notebook.one(TransactionEnded)
    assert (str(ended.key.transaction), ended.user_id) == (tx.transaction, "order-1")
    assert (ended.outcome, ended.retryable, ended.why) == (EndedAs.COMMITTED, False, "")
    assert (ended.resources, ended.pending) == (("a", "b"), frozenset())
    assert ended.seconds >= sum(event.seconds for event in notebook.all(PhaseEnded)) > 0
    assert {(event.resource, event.system) for event in notebook.all(BranchTold)} == {("a", "memory"), ("b", "memory")}


async def told_by_asyncio(bench: AsyncBench, notebook: Notebook) -> None:
    async with bench.running(observers=[notebook]) as manager, manager.transaction(id="order-1") as tx:
        await bench.write(tx)


def test_asyncio_tells_the_same(bench: AsyncBench, notebook: Notebook) -> None:
    asyncio.run(told_by_asyncio(bench, notebook))
    assert notebook.kinds()[1:] == COMMIT


def test_a_lone_writer_has_one_phase(bench: AsyncBench, notebook: Notebook) -> None:
    with bench.manager(observers=[notebook]) as manager, manager.transaction() as tx:
        tx.connect("a").put("k", 1)
    assert [event.phase for event in notebook.all(PhaseEnded)] == [Phase.WORK, Phase.ONE_PHASE]


def test_nested_blocks_are_part_of_the_outermost(bench: AsyncBench, notebook: Notebook) -> None:
    with bench.manager(observers=[notebook]) as manager, manager.transaction() as tx:
        tx.connect("a").put("k", 1)
        with manager.transaction() as inner:
            inner.connect("b").put("k", 1)
    assert notebook.kinds()[1:] == COMMIT


def test_durations_are_the_managers_clock(bench: AsyncBench, notebook: Notebook) -> None:
    clock = JumpingClock()
    with bench.manager(observers=[notebook], clock=clock) as manager, manager.transaction() as tx:
        tx.connect("a").put("k", 1)
        clock.jump_s += 20
    assert notebook.all(PhaseEnded)[0].seconds == pytest.approx(20, abs=2)
    assert notebook.one(TransactionEnded).seconds == pytest.approx(20, abs=2)


def test_every_state_and_every_step_has_its_phase() -> None:
    assert set(State) - set(PHASES) == {
        State.ACTIVE,
        State.COMMITTED,
        State.ABORTED,
        State.UNSETTLED,
        State.IN_DOUBT,
    }
    assert set(What) == set(STEPS)


# --- other ends -----------------------------------------------------------------------------------------------

NO = Vote(Choice.NO, reason="it does not want to", retryable=True)
ENDS: list[tuple[str, str, Any, EndedAs, bool]] = [
    # method that is answered for, what with, outcome, retryable
    ("a no vote", "prepare", NO, EndedAs.ABORTED, True),
    ("a lost vote", "prepare", LostReply(), EndedAs.ABORTED, True),
    ("mixed", "commit", Answer.HEURISTIC_ROLLBACK, EndedAs.HEURISTIC_MIXED, False),
    ("hazard", "commit", Answer.HEURISTIC_HAZARD, EndedAs.HEURISTIC_HAZARD, False),
    ("decided alone as decided", "commit", Answer.HEURISTIC_COMMIT, EndedAs.COMMITTED, False),
]


@pytest.mark.parametrize(
    ("method", "answer", "outcome", "retryable"), [end[1:] for end in ENDS], ids=[e[0] for e in ENDS]
)
def test_an_end_is_told_as_the_caller_is(
    bench: AsyncBench, notebook: Notebook, method: str, answer: Any, outcome: EndedAs, retryable: bool
) -> None:
    manager = bench.manager(observers=[notebook])
    bench.b.answers[method].append(answer)
    try:
        with manager.transaction() as tx:
            bench.put(tx)
        raised = None
    except syncpoint.TransactionError as error:
        raised = error
    ended = notebook.one(TransactionEnded)
    assert (ended.outcome, ended.retryable) == (outcome, retryable)
    assert retryable == getattr(raised, "retryable", False)
    assert bool(ended.why) == (outcome is EndedAs.ABORTED)


def test_an_error_in_the_block_is_an_abort_that_run_would_not_repeat(bench: AsyncBench, notebook: Notebook) -> None:
    manager = bench.manager(observers=[notebook])
    with raises(KeyError), manager.transaction() as tx:
        bench.put(tx)
        raise KeyError("k")
    ended = notebook.one(TransactionEnded)
    assert (ended.outcome, ended.retryable, ended.why) == (EndedAs.ABORTED, False, "KeyError in the block: 'k'")
    assert [event.phase for event in notebook.all(PhaseEnded)] == [Phase.WORK, Phase.ABORT]


def test_rollback_only(bench: AsyncBench, notebook: Notebook) -> None:
    manager = bench.manager(observers=[notebook])
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx)
        tx.set_rollback_only()
    ended = notebook.one(TransactionEnded)
    assert (ended.outcome, ended.retryable) == (EndedAs.ABORTED, False)


def test_a_branch_that_did_not_answer_is_named(bench: AsyncBench, notebook: Notebook) -> None:
    manager = bench.manager(observers=[notebook])
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    with manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    ended = notebook.one(TransactionEnded)
    assert (ended.outcome, ended.pending) == (EndedAs.COMMITTED, {"b"})


def test_a_failed_journal_is_told_once_and_its_transaction_is_pending(bench: AsyncBench, notebook: Notebook) -> None:
    disk = FailingDisk()
    manager = bench.manager(observers=[notebook], disk=disk)
    with raises(syncpoint.OutcomePending), manager.transaction() as tx:
        bench.put(tx)
        disk.is_failing = True
    assert notebook.one(TransactionEnded).outcome is EndedAs.OUTCOME_PENDING
    assert [(event.phase, event.error) for event in notebook.all(PhaseEnded)][-1] == (Phase.DECIDE, "OutcomePending")
    assert "journal" in notebook.one(ManagerStopped).why


def test_a_one_phase_commit_that_nothing_settles_is_pending(bench: AsyncBench, notebook: Notebook) -> None:
    manager = bench.manager(observers=[notebook])
    bench.a.answers["commit_one_phase"].append(ConnectionLost("gone"))
    bench.a.answers["settle"].append(Evidence.UNDECIDED)
    with raises(syncpoint.OutcomePending), manager.transaction() as tx:
        bench.put(tx, "a")
    assert notebook.one(TransactionEnded).outcome is EndedAs.OUTCOME_PENDING


def test_a_resend_is_told_with_its_answer(bench: AsyncBench, notebook: Notebook) -> None:
    manager = bench.manager(observers=[notebook])
    with manager.transaction(id="one", fingerprint="first"):
        with raises(syncpoint.TransactionRunning), bench.manager().transaction(id="one"):
            pass
        other = bench.manager(observers=[notebook])
        with raises(syncpoint.TransactionRunning), other.transaction(id="one"):
            pass
    with raises(syncpoint.AlreadyCommitted), manager.transaction(id="one", fingerprint="first"):
        pass
    with raises(syncpoint.DifferentRequest), manager.transaction(id="one", fingerprint="second"):
        pass
    answers = [event.answer for event in notebook.all(Resent)]
    assert answers == [ResendAnswer.RUNNING, ResendAnswer.COMMITTED, ResendAnswer.DIFFERENT_REQUEST]
    assert len(notebook.all(TransactionBegun)) == 1


async def cancelled_in_its_block(bench: AsyncBench, notebook: Notebook) -> None:
    async with bench.running(observers=[notebook]) as manager:
        with raises(TimeoutError):
            async with asyncio.timeout(0.05), manager.transaction() as tx:
                await bench.write(tx)
                await asyncio.sleep(60)


def test_a_cancelled_task_is_an_abort(bench: AsyncBench, notebook: Notebook) -> None:
    asyncio.run(cancelled_in_its_block(bench, notebook))
    assert notebook.one(TransactionEnded).outcome is EndedAs.ABORTED
    assert len(notebook.all(BlockEntered)) == len(notebook.all(BlockLeft)) == 1


# --- recovery --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decided", [True, False])
def test_a_pass_tells_what_it_finished(bench: AsyncBench, notebook: Notebook, decided: bool) -> None:
    key = bench.departed("ab", decided=decided)
    manager = bench.manager(observers=[notebook])
    manager.recover()
    branches = {(event.resource, event.identifier.key) for event in notebook.all(BranchRecovered)}
    assert branches == {("a", key), ("b", key)}
    assert {event.commit for event in notebook.all(BranchRecovered)} == {decided}
    passes = {event.resource: event for event in notebook.all(PassEnded)}
    assert {name: (one.committed, one.aborted) for name, one in passes.items()} == {
        name: (int(decided), int(not decided)) for name in "ab"
    }
    assert all((dict(one.in_doubt), one.oldest_s, one.error) == ({}, None, "") for one in passes.values())
    assert notebook.one(TookOver).incarnations == {Incarnation(1)}


def test_what_is_in_doubt_ages_until_it_is_finished(bench: AsyncBench, notebook: Notebook) -> None:
    clock = JumpingClock()
    manager = bench.manager("a", observers=[notebook], clock=clock)
    with bench.ghost() as ghost:  # lives: its branch is left alone
        ghost.prepare(ghost.key(), "a")
        bench.a.prepare_foreign("someone else's")
        manager.recover()
        first = notebook.all(PassEnded)[-1]
        assert dict(first.in_doubt) == {"live": 1, "foreign": 1}
        assert first.oldest_s == pytest.approx(0, abs=5)
        clock.jump_s += 60
        manager.recover()
        assert notebook.all(PassEnded)[-1].oldest_s == pytest.approx(60, abs=5)
        # A pass that fails knows nothing new: the last numbers stand, and the age goes on.
        clock.jump_s += 60
        bench.a.down = True
        manager.recover()
        failed = notebook.all(PassEnded)[-1]
        assert failed.error
        assert dict(failed.in_doubt) == {"live": 1, "foreign": 1}
        assert failed.oldest_s == pytest.approx(120, abs=5)
        bench.a.down = False
    manager.recover()
    last = notebook.all(PassEnded)[-1]
    assert (dict(last.in_doubt), last.oldest_s, last.aborted) == ({"foreign": 1}, None, 1)


def test_heuristic_outcomes_are_listed_until_forgotten(bench: AsyncBench, notebook: Notebook) -> None:
    clock = JumpingClock()
    manager = bench.manager(observers=[notebook], clock=clock)
    bench.b.answers["commit"].append(Answer.HEURISTIC_ROLLBACK)
    with raises(syncpoint.HeuristicMixed), manager.transaction() as tx:
        bench.put(tx)
    manager.recover()
    assert dict(notebook.all(HeuristicsListed)[-1].counts) == {("b", "HEURISTIC_ROLLBACK"): 1}
    manager.forget(tx.transaction)
    clock.jump_s += 5
    manager.recover()
    assert dict(notebook.all(HeuristicsListed)[-1].counts) == {}


def test_the_background_tells_too(bench: AsyncBench, notebook: Notebook) -> None:
    with bench.manager("a", observers=[notebook], background=True) as manager:
        started = notebook.one(ManagerStarted)
        assert (started.incarnation, started.resources) == (manager.incarnation, ("a",))
        before = len(notebook.all(PassEnded))
        bench.departed("a", decided=True)
        wait_until(lambda: len(notebook.all(PassEnded)) > before, "a pass after a process had died", 5.0)
        wait_until(lambda: bench.in_doubt() == "", "the branch to be finished", 5.0)


# --- whoever watches breaks nothing ------------------------------------------------------------------------------


class Broken:
    def observe(self, event: Event, /) -> None:
        raise RuntimeError("out of paper")


def test_an_observer_that_raises_is_logged_once(
    bench: AsyncBench, notebook: Notebook, caplog: pytest.LogCaptureFixture
) -> None:
    manager = bench.manager(observers=[Broken(), notebook])
    with caplog.at_level(logging.ERROR, "syncpoint"):
        for _ in range(3):
            with manager.transaction() as tx:
                bench.put(tx)
    assert bench.rows() == "ab"
    bench.assert_quiet()
    assert [record.getMessage()[:8] for record in caplog.records] == ["Observer"]
    assert len(notebook.all(TransactionEnded)) == 3


def test_an_observer_can_be_added_while_transactions_run(bench: AsyncBench, notebook: Notebook) -> None:
    manager = bench.manager()
    with manager.transaction() as tx:
        bench.put(tx)
        manager.add_observer(notebook)
    assert notebook.all(TransactionEnded) == [], "its begin was not told, so its end is not either"
    with manager.transaction() as tx:
        bench.put(tx)
    assert len(notebook.all(TransactionEnded)) == 1


def test_without_observers_a_script_is_not_even_wrapped(bench: AsyncBench) -> None:
    core = bench.manager()._core
    script: Any = iter(())
    assert core.watch.timed(None, script) is script  # type: ignore[arg-type]  # nothing of the transaction is looked at
    assert core.watch.told(None, What.COMMIT, core.handles["a"], script) is script  # type: ignore[arg-type]
    assert core.watch.claimed("one", script) is script
