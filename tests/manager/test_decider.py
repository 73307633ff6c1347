"""The journal lives in the database of one resource, `a`: its branch's commit is the decision (DESIGN section 3).

Not for: journals that do not answer (test_uncertain.py), or real databases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost, SetupRefused
from syncpoint.manager import assembly
from syncpoint.manager.reports import OutcomeState
from syncpoint.records import Abort, Commit, key_fields
from syncpoint.resources.base import Answer, Choice, Finding, Severity, Vote
from syncpoint.resources.memory import LostReply, MemoryResource
from tests.conformance.conftest import raises
from tests.crash.trap import Trap
from tests.manager.conftest import AsyncBench
from tests.manager.memory_journal import MemoryJournal, Store, identifiers_in
from tests.manager.test_async import _until, is_untraced

PHASES = ("prepare", "decide", "commit", "commit_one_phase", "abort")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[AsyncBench]:
    made = AsyncBench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(bench: AsyncBench, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The journal of every manager of this test, in the database of `a`."""
    store = Store(bench.a)
    monkeypatch.setattr(assembly.Plan, "_journal", lambda plan, *_: MemoryJournal(store))
    return store


def phases(bench: AsyncBench, resources: str = "ab") -> list[list[str]]:
    return [bench.calls(name, *PHASES) for name in resources]


# --- what it costs ------------------------------------------------------------------------------------------------


def test_one_prepare_and_no_force_of_its_own(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    with manager.transaction() as tx:
        bench.put(tx)
    assert phases(bench) == [["decide"], ["prepare", "commit"]]
    assert store.forced == []
    assert (bench.rows(), store.kinds()) == ("ab", ["Commit", "End"])
    (record,) = store.of(Commit)
    assert (record.decided_at, [entry.resource for entry in record.branches]) == ("a", ["b"])
    bench.assert_quiet()


def test_with_an_id_too(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    assert manager.run(lambda tx: bench.put(tx) or 7, id="x", fingerprint="f") == 7  # type: ignore[func-returns-value]
    assert phases(bench) == [["decide"], ["prepare", "commit"]]
    assert manager.show("x").timeline[0].detail.endswith("; b; in the commit of a")
    assert bench.manager().run(lambda tx: 99, id="x", fingerprint="f") == 7
    assert len(store.of(Commit)) == 1


def test_the_only_branch_with_an_id_is_not_asked_to_prepare(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    with manager.transaction(id="x") as tx:
        bench.put(tx, "a")
    assert phases(bench) == [["decide"], []]
    assert (bench.rows(), store.kinds(), store.forced) == ("a", ["Commit", "End"], [])
    assert manager.outcome("x").state is OutcomeState.COMMITTED


def test_the_only_branch_without_an_id_needs_no_record(bench: AsyncBench, store: Store) -> None:
    with bench.manager().transaction() as tx:
        bench.put(tx, "a")
    assert phases(bench) == [["commit_one_phase"], []]
    assert store.kinds() == []


@pytest.mark.parametrize("read_only", [True, False])
def test_a_branch_that_did_not_write_carries_nothing(bench: AsyncBench, store: Store, read_only: bool) -> None:
    with bench.manager("abc").transaction() as tx:
        tx.connect("a", read_only=read_only).get("k")
        bench.put(tx, "bc")
    assert phases(bench, "abc") == [["abort"], ["prepare", "commit"], ["prepare", "commit"]]
    assert store.forced == ["Commit"]
    assert bench.rows() == "bc"


def test_a_declared_reader_with_an_id_carries_nothing(bench: AsyncBench, store: Store) -> None:
    with bench.manager().transaction(id="x") as tx:
        tx.connect("a", read_only=True).get("k")
    assert phases(bench) == [["prepare"], []]
    assert store.forced == ["Commit"]


def test_a_resource_that_cannot_carry_it_prepares(
    bench: AsyncBench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryResource, "can_decide", False)
    with bench.manager().transaction() as tx:
        bench.put(tx)
    assert phases(bench) == [["prepare", "commit"], ["prepare", "commit"]]
    assert store.forced == ["Commit"]


def test_decided_and_then_told(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    with manager.transaction(wait="decided") as tx:
        bench.put(tx)
    assert "a" in bench.rows()
    manager.close()
    assert bench.rows() == "ab"
    bench.assert_quiet()


# --- when it fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vote", [Vote(Choice.NO, reason="deadlock"), ConnectionLost("lost")], ids=["no", "lost"])
def test_o45_a_prepare_fails_and_the_journals_branch_never_commits(
    bench: AsyncBench, store: Store, vote: object
) -> None:
    manager = bench.manager()
    bench.b.answers["prepare"].append(vote)
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx)
    assert phases(bench)[0] == ["abort"]
    assert (bench.rows(), store.kinds()) == ("", [])
    assert manager.recover(wait_seconds=5).left == ()
    bench.assert_quiet()


def test_o47_another_record_was_there_first(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    with raises(syncpoint.TransactionAborted) as caught, manager.transaction() as tx:
        bench.put(tx)
        store.append(Abort(**key_fields(tx.work.key), why="taken for dead"))
    assert caught.value.retryable  # type: ignore[attr-defined]
    assert "there first" in str(caught.value)
    assert (bench.rows(), store.kinds()) == ("", ["Abort"])
    assert phases(bench) == [["decide"], ["prepare", "abort"]]
    bench.assert_quiet()


def test_o34_a_wrong_guess_costs_one_retry(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    tries = []

    def work(tx: Any) -> None:
        bench.put(tx, value=len(tries))
        if not tries:
            store.append(Abort(**key_fields(tx.work.key), why="taken for dead"))
        tries.append(tx)

    manager.run(work)
    assert len(tries) == 2
    assert bench.a.rows() == bench.b.rows() == {"k": b"1"}


def test_a_connection_that_is_lost_before_is_an_abort(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    with raises(syncpoint.TransactionAborted) as caught, manager.transaction() as tx:
        bench.put(tx)
        tx.work.branches["a"].session.broken = True
    assert caught.value.retryable  # type: ignore[attr-defined]
    assert (bench.rows(), store.kinds()) == ("", [])
    bench.assert_quiet()


@pytest.mark.parametrize("user_id", [None, "x"])
@pytest.mark.parametrize("resources", ["ab", "a"])
@pytest.mark.parametrize("landed", [True, False])
def test_o46_a_lost_reply_is_settled(
    bench: AsyncBench, store: Store, landed: bool, resources: str, user_id: str | None
) -> None:
    if (resources, user_id) == ("a", None):
        return  # one-phase: no record
    manager = bench.manager()
    bench.a.answers["decide"].append(LostReply() if landed else ConnectionLost("lost"))
    if landed:
        with manager.transaction(id=user_id) as tx:
            bench.put(tx, resources)
    else:
        with raises(syncpoint.TransactionAborted) as caught, manager.transaction(id=user_id) as tx:
            bench.put(tx, resources)
        assert caught.value.retryable  # type: ignore[attr-defined]
    assert store.forced == ["Abort"]
    assert bench.rows() == (resources if landed else "")
    assert (len(store.of(Commit)), len(store.of(Abort))) == ((1, 0) if landed else (0, 1))
    assert store.decisions[0]() is False  # the late one: refused, and the branch with it
    assert manager.recover(wait_seconds=5).left == ()
    bench.assert_quiet()


def test_a_branch_beside_it_decides_alone(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    bench.b.answers["commit"].append(Answer.HEURISTIC_ROLLBACK)
    with raises(syncpoint.HeuristicMixed) as caught, manager.transaction() as tx:
        bench.put(tx)
    assert caught.value.branches == {"a": "COMMITTED", "b": "HEURISTIC_ROLLBACK"}  # type: ignore[attr-defined]
    assert len(manager.heuristics()) == 1


def test_a_branch_beside_it_is_pending_and_recovered(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    with manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    assert bench.rows() == "a"
    assert manager.recover(wait_seconds=5).committed == 1
    assert (bench.rows(), store.kinds()) == ("ab", ["Commit", "End"])
    assert manager._core.acknowledged == {}
    bench.assert_quiet()


def test_another_process_finishes_what_it_left(bench: AsyncBench, store: Store) -> None:
    """O55: it dies right after the decision; nothing has to be known about the branch that carried it."""
    first = bench.manager()
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    with first.transaction() as tx:
        bench.put(tx)
    first.close()
    assert bench.manager().recover(wait_seconds=5).committed == 1
    assert bench.rows() == "ab"
    bench.assert_quiet()


# --- interrupted and cancelled --------------------------------------------------------------------------------------


@pytest.mark.parametrize("landed", [True, False])
def test_an_interrupt_in_the_middle_is_settled(bench: AsyncBench, store: Store, landed: bool) -> None:
    manager = bench.manager()
    trap = Trap()
    trap.watch(manager._runner)

    def interrupt(outcome: object) -> None:
        raise KeyboardInterrupt

    if landed:
        trap.after("decide", interrupt)
    else:
        trap.before("decide", lambda: interrupt(None))
    with raises(KeyboardInterrupt), manager.transaction() as tx:
        bench.put(tx)
    manager.close()
    assert bench.rows() == ("ab" if landed else "")
    assert (len(store.of(Commit)), len(store.of(Abort))) == ((1, 0) if landed else (0, 1))
    assert bench.manager().recover(wait_seconds=5).left == ()
    bench.assert_quiet()


def steps_of_a_commit(bench: AsyncBench) -> list[str]:
    """The texts of the steps of one transfer, from its beginning on."""

    async def main() -> list[str]:
        async with bench.running() as manager:
            trap = Trap()
            trap.watch(manager._runner)
            async with manager.transaction(id="first") as tx:
                await bench.write(tx, key="first")
            return trap.trace

    return asyncio.run(main())


@is_untraced
@pytest.mark.parametrize("after", [False, True])
def test_cancelled_at_every_step(bench: AsyncBench, store: Store, after: bool) -> None:
    """Before the decision it aborts (if it is heard of in time); from then on it finishes; never in between."""
    steps = steps_of_a_commit(bench)
    decide = steps.index("decide")

    async def cancelled(number: int) -> bool:
        async with bench.running() as manager:
            trap, seen = Trap(), 0
            task = asyncio.ensure_future(_transfer(bench, manager, number))
            loop = asyncio.get_running_loop()

            def count(*ignored: object) -> None:
                nonlocal seen
                seen += 1
                if seen == number + 1:
                    loop.call_soon_threadsafe(task.cancel)

            trap.watch(manager._runner)
            _each_step(manager._runner, count, after=after)
            await asyncio.wait({task})  # cancelled, unless it came with the very last step
            manager._runner.observer = manager._runner.observer_after = None
            await _until(lambda: not manager._core.live, "it ends")
            told = await manager.outcome(f"x{number}")
            assert not (await manager.recover(wait_seconds=5.0)).left
            return told.state is OutcomeState.COMMITTED

    outcomes = []
    for number in range(len(steps)):
        committed = asyncio.run(cancelled(number))
        assert bench.rows(f"k{number}") == ("ab" if committed else ""), steps[number]
        assert committed or number <= decide, steps[number]
        outcomes.append(committed)
        bench.assert_quiet()
    assert set(outcomes) == {True, False}


async def _transfer(bench: AsyncBench, manager: syncpoint.AsyncTransactionManager, number: int) -> None:
    async with manager.transaction(id=f"x{number}") as tx:
        await bench.write(tx, key=f"k{number}")


def _each_step(runner: Any, call: Callable[..., None], *, after: bool) -> None:
    runner.observer = None if after else lambda point, step: call()
    runner.observer_after = (lambda point, step, outcome: call()) if after else None


# --- the set-up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["a", "b"])
def test_only_the_journals_own_database_may_be_unable_to_prepare(
    bench: AsyncBench, store: Store, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    slots = Finding(Severity.REFUSED, "slots", "none", "Make some.", for_prepare=True)

    def inspect(self: MemoryResource, session: Any) -> Any:
        return [slots] if self.name == where else []
        yield

    monkeypatch.setattr(MemoryResource, "inspect", inspect)
    if where == "b":
        with pytest.raises(SetupRefused, match="slots: none"):
            bench.manager()
        return
    with bench.manager().transaction() as tx:
        bench.put(tx)
    assert bench.rows() == "ab"


def test_the_record_lists_only_who_voted(bench: AsyncBench, store: Store) -> None:
    with bench.manager("abc").transaction() as tx:
        bench.put(tx, "abc")
    (record,) = store.of(Commit)
    assert len(identifiers_in(record)) == 2
    assert bench.rows() == "abc"
