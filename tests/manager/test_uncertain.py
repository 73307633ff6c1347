"""A journal that is not on this machine: it loses replies, is away, and takes living processes for dead.

Not for: a branch that carries the decision (test_decider.py), or local disks that fail (test_lifecycle.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost
from syncpoint.ids import Attempt, BranchNumber, Identifier, Incarnation, TransactionId
from syncpoint.manager import assembly, deciding
from syncpoint.manager.reports import OutcomeState
from syncpoint.records import Abort, Commit, End, Heuristic, key_fields
from syncpoint.resources.base import Answer, Evidence
from syncpoint.resources.memory import LostReply
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import raises
from tests.crash.trap import Trap
from tests.manager.conftest import AsyncBench
from tests.manager.memory_journal import UNAVAILABLE, UNCERTAIN_AFTER, UNCERTAIN_BEFORE, MemoryJournal, Store

FAULTS = {True: UNCERTAIN_AFTER, False: UNCERTAIN_BEFORE}
"""By whether the record landed."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[AsyncBench]:
    made = AsyncBench(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["elsewhere", "in a"])
def store(request: pytest.FixtureRequest, bench: AsyncBench, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The journal of every manager of this test: in a database of its own, or in that of `a`."""
    store = Store(bench.a if request.param == "in a" else None)
    monkeypatch.setattr(assembly.Plan, "_journal", lambda plan, *_: MemoryJournal(store))
    monkeypatch.setattr(deciding, "PAUSE_S_MIN", 0.001)
    return store


def lose_the_decision(bench: AsyncBench, store: Store, *, landed: bool) -> None:
    """The reply to the next Commit record is lost, wherever it is written."""
    if store.server is None:
        store.faults.append(FAULTS[landed])
    else:
        bench.a.answers["decide"].append(LostReply() if landed else ConnectionLost("lost"))


def journal_of(manager: Any) -> MemoryJournal:
    journal = manager._core.journal
    assert isinstance(journal, MemoryJournal)
    return journal


def assert_one_record(store: Store, *, landed: bool) -> None:
    """O46: exactly one of the two exists."""
    assert (len(store.of(Commit)), len(store.of(Abort))) == ((1, 0) if landed else (0, 1))


# --- settled at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("aborts_lost", [0, 1, 3])
def test_o46_a_lost_reply_is_settled_by_abort_however_often_that_is_lost(
    bench: AsyncBench, store: Store, landed: bool, aborts_lost: int
) -> None:
    manager = bench.manager()
    lose_the_decision(bench, store, landed=landed)
    store.faults.extend([UNCERTAIN_BEFORE, UNAVAILABLE, UNCERTAIN_AFTER][:aborts_lost])
    if landed:
        with manager.transaction(id="x") as tx:
            bench.put(tx)
    else:
        with raises(syncpoint.TransactionAborted) as caught, manager.transaction(id="x") as tx:
            bench.put(tx)
        assert caught.value.retryable  # type: ignore[attr-defined]
    assert bench.rows() == ("ab" if landed else "")
    assert store.forced.count("Abort") == aborts_lost + 1
    assert (len(store.of(Commit)), bool(store.of(Abort))) == ((1, False) if landed else (0, True))
    assert manager._core.deciding == {}
    bench.assert_quiet()


def test_a_journal_that_is_away_before_the_record_is_an_abort_to_be_retried(bench: AsyncBench, store: Store) -> None:
    if store.server is not None:
        return  # the record goes through the branch
    manager = bench.manager()
    store.faults.append(UNAVAILABLE)
    with raises(syncpoint.TransactionAborted, match="could not be reached") as caught, manager.transaction() as tx:
        bench.put(tx)
    assert caught.value.retryable  # type: ignore[attr-defined]
    assert (bench.rows(), store.kinds()) == ("", [])
    manager.run(lambda tx: bench.put(tx))
    assert bench.rows() == "ab"
    bench.assert_quiet()


# --- not settled in time ---------------------------------------------------------------------------------------------


def leave_undecided(bench: AsyncBench, store: Store, manager: Any, *, landed: bool, user_id: str | None = "x") -> None:
    """The caller gives up: the journal does not answer."""
    lose_the_decision(bench, store, landed=landed)
    store.faults.extend([UNCERTAIN_BEFORE] * 10_000)
    with (
        raises(syncpoint.OutcomePending, match="journal does not answer"),
        manager.transaction(id=user_id, timeout=0.05) as tx,
    ):
        bench.put(tx)
    store.faults.clear()
    store.is_away = True


@pytest.mark.parametrize("landed", [True, False])
def test_recovery_settles_what_the_caller_gave_up(bench: AsyncBench, store: Store, landed: bool) -> None:
    manager = bench.manager()
    leave_undecided(bench, store, manager, landed=landed)
    assert manager.outcome("x").state is OutcomeState.PENDING
    refused = syncpoint.AlreadyCommitted if landed else syncpoint.TransactionRunning
    with raises(refused), manager.transaction(id="x"):
        pass
    before = bench.in_doubt()
    assert before in ("ab", "b")
    report = manager.recover()  # the journal is away: nobody presumes abort, nobody commits
    assert {branch.status for branch in report.left} == {"live"}
    assert bench.in_doubt() == before
    store.is_away = False
    assert manager.recover(wait_seconds=5).left == ()
    assert_one_record(store, landed=landed)
    assert bench.rows() == ("ab" if landed else "")
    told = manager.outcome("x").state
    assert told is (OutcomeState.COMMITTED if landed else OutcomeState.ABORTED_OR_UNKNOWN)
    if not landed:
        manager.run(lambda tx: bench.put(tx), id="x")  # its id was given back
        assert bench.rows() == "ab"
    assert manager._core.deciding == {}
    bench.assert_quiet()


@pytest.mark.parametrize("landed", [True, False])
def test_the_watch_settles_it_without_being_asked(bench: AsyncBench, store: Store, landed: bool) -> None:
    manager = bench.manager(background=True)
    leave_undecided(bench, store, manager, landed=landed, user_id=None)
    store.is_away = False
    wait_until(lambda: not manager._core.deciding, "it is settled")
    wait_until(lambda: bench.in_doubt() == "", "its branches are finished")
    assert_one_record(store, landed=landed)
    assert bench.rows() == ("ab" if landed else "")


@pytest.mark.parametrize("landed", [True, False])
def test_close_leaves_it_to_the_next_process(bench: AsyncBench, store: Store, landed: bool) -> None:
    manager = bench.manager()
    leave_undecided(bench, store, manager, landed=landed)
    manager.close()
    store.is_away = False
    other = bench.manager()
    assert other.recover(wait_seconds=5).left == ()
    assert bench.rows() == ("ab" if landed else "")
    assert len(store.of(Commit)) == landed
    assert other.outcome("x").state is (OutcomeState.COMMITTED if landed else OutcomeState.ABORTED_OR_UNKNOWN)
    bench.assert_quiet()


def test_closing_ends_the_wait_for_the_journal(bench: AsyncBench, store: Store) -> None:
    """Whoever still waits is told that it is pending, and no thread is left behind."""

    async def main() -> None:
        async with bench.running() as manager:
            lose_the_decision(bench, store, landed=True)
            store.is_away = True

            async def work() -> None:
                async with manager.transaction() as tx:
                    await bench.write(tx)

            task = asyncio.ensure_future(work())
            while "Abort" not in store.forced:
                await asyncio.sleep(0.001)
            await manager.close(timeout=0.01)
            with pytest.raises(syncpoint.OutcomePending):
                await task

    asyncio.run(main())
    store.is_away = False
    bench.manager().recover(wait_seconds=5)
    assert bench.rows() in ("ab", "")
    bench.assert_quiet()


@pytest.mark.parametrize("landed", [True, False])
def test_an_interrupt_while_the_journal_is_away(bench: AsyncBench, store: Store, landed: bool) -> None:
    manager = bench.manager()
    trap = Trap()
    trap.watch(manager._runner)

    def interrupt(outcome: object) -> None:
        store.is_away = True
        raise KeyboardInterrupt

    what = "journal force" if store.server is None else "decide"
    if landed:
        trap.after(what, interrupt)
    else:
        trap.before(what, lambda: interrupt(None))
    with raises(KeyboardInterrupt), manager.transaction(timeout=0.3) as tx:
        bench.put(tx)
    wait_until(lambda: bool(manager._core.deciding), "it is handed over")
    store.is_away = False
    assert manager.recover(wait_seconds=5).left == ()
    assert_one_record(store, landed=landed)
    assert bench.rows() == ("ab" if landed else "")
    bench.assert_quiet()


def test_a_forked_child_has_nothing_to_settle(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    leave_undecided(bench, store, manager, landed=True)
    manager._core.abandon()
    assert manager._core.live_keys() == frozenset()


# --- heuristic outcomes that the journal could not take ----------------------------------------------------------


def test_a_heuristic_outcome_is_written_when_the_journal_is_back(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    bench.b.answers["commit"].append(Answer.HEURISTIC_ROLLBACK)
    trap = Trap()
    trap.watch(manager._runner)
    trap.before("commit", lambda: store.faults.extend([UNCERTAIN_BEFORE, UNCERTAIN_BEFORE, UNAVAILABLE]))
    with raises(syncpoint.HeuristicMixed), manager.transaction() as tx:
        bench.put(tx)
    assert manager.heuristics() == []
    manager.recover()
    assert store.of(Heuristic) == []
    while not store.of(Heuristic):
        manager.recover()
    assert [entry.resource for entry in manager.heuristics()] == ["b"]
    assert manager._core.owed == []


# --- taken for dead -----------------------------------------------------------------------------------------------


def test_a_branch_that_whoever_took_over_has_finished_is_not_heuristic(bench: AsyncBench, store: Store) -> None:
    """It was committed by another process, which cleaned its evidence up, before this one came to it."""
    manager = bench.manager()

    def taken_over() -> None:
        (identifier,) = bench.b.in_doubt()
        bench.b.finish(identifier, commit=True)
        bench.b.drop_evidence(store.guid, [identifier.attempt])
        store.take_for_dead(identifier.attempt.incarnation, Incarnation(99))
        store.living.add(Incarnation(99))

    trap = Trap()
    trap.watch(manager._runner)
    trap.before("commit", *([taken_over] if store.server is not None else [lambda: None, taken_over]))
    with manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    assert store.of(Heuristic) == []
    assert manager._core.acknowledged != {}
    assert bench.rows() == "ab"
    manager.recover()  # its record is another's to end
    assert manager._core.acknowledged == {}
    assert store.of(Heuristic) == store.of(End) == []
    bench.assert_quiet()


def test_a_record_that_the_one_taken_for_dead_has_ended_is_not_heuristic(bench: AsyncBench, store: Store) -> None:
    """It was wrongly taken for dead, and finished its work after all: somebody cleaned its evidence up, between this
    process's look at the records and its look at the evidence."""
    first = bench.manager()
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    with first.transaction() as tx:
        bench.put(tx)
    key = tx.work.key
    store.living.discard(key.attempt.incarnation)
    (identifier,) = bench.b.in_doubt()
    bench.b.finish(identifier, commit=True)
    second = bench.manager()

    def finished_after_all() -> None:
        assert store.append(End(**key_fields(key)))
        bench.b.drop_evidence(store.guid, [key.attempt])

    trap = Trap()
    trap.watch(second._runner)
    trap.before("evidence", *([finished_after_all] if store.server is not None else [lambda: None, finished_after_all]))
    second.recover()
    assert store.has(End, key)
    assert store.of(Heuristic) == []
    second.recover()
    assert store.of(Heuristic) == []
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_recovery_asks_with_the_incarnation_that_took_over(bench: AsyncBench, store: Store) -> None:
    """A dead process's branch was rolled back by hand: this one keeps its record, and may say so."""
    first = bench.manager()
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    with first.transaction() as tx:
        bench.put(tx)
    first.close()
    bench.b.decide_alone(bench.b.in_doubt()[0], commit=False)
    second = bench.manager()
    journal_of(second).confirmed = lambda incarnation: False  # it was taken for dead in its turn
    second.recover()
    assert store.of(Heuristic) == []
    third = bench.manager()
    third.recover()
    assert store.of(Heuristic) == []  # the second is alive, and keeps it
    journal_of(second).confirmed = lambda incarnation: incarnation == journal_of(second).incarnation
    second.recover()
    assert [one.outcome for one in store.of(Heuristic)] == ["HEURISTIC_ROLLBACK"]


def test_a_lost_one_phase_commit_is_never_called_aborted_by_who_was_taken_for_dead(
    bench: AsyncBench, store: Store
) -> None:
    """O20: its evidence may have been there, and have been cleaned up."""
    manager = bench.manager()
    bench.a.answers["commit_one_phase"].append(LostReply())

    def taken_over() -> None:
        bench.a.drop_evidence(store.guid, [tx.work.key.attempt])
        store.take_for_dead(journal_of(manager).incarnation, Incarnation(99))

    trap = Trap()
    trap.watch(manager._runner)
    trap.before("settle", taken_over)
    with raises(syncpoint.HeuristicHazard), manager.transaction() as tx:
        bench.put(tx, "a")
    assert bench.rows() == "a"
    assert [one.outcome for one in store.of(Heuristic)] == ["HEURISTIC_HAZARD"]


def test_recovery_says_so_too(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    bench.a.answers["commit_one_phase"].append(ConnectionLost("lost"))
    bench.a.answers["settle"].append(Evidence.UNDECIDED)
    with raises(syncpoint.OutcomePending), manager.transaction() as tx:
        bench.put(tx, "a")
    journal_of(manager).confirmed = lambda incarnation: False
    manager.recover()
    assert manager._core.unsettled == {}
    assert manager.outcome(str(tx.work.key.transaction)).state is OutcomeState.HEURISTIC


def test_a_lost_decision_is_never_called_aborted_by_who_was_taken_for_dead(bench: AsyncBench, store: Store) -> None:
    """Its Commit was there; whoever took over finished it and removed the record: an accepted Abort proves nothing."""
    manager = bench.manager()
    lose_the_decision(bench, store, landed=True)

    def taken_over() -> None:
        (record,) = store.of(Commit)
        for server in (bench.a, bench.b):
            for identifier in server.in_doubt():
                server.finish(identifier, commit=True)
        store.remove(record.key)
        store.take_for_dead(record.key.attempt.incarnation, Incarnation(99))

    trap = Trap()
    trap.watch(manager._runner)
    trap.before("journal force", *([taken_over] if store.server is not None else [lambda: None, taken_over]))
    with raises(syncpoint.OutcomePending, match="taken for dead"), manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == "ab"
    assert manager._core.live_keys() == frozenset()
    bench.assert_quiet()


# --- another incarnation in the middle of life -------------------------------------------------------------------


def leave_evidence(bench: AsyncBench, store: Store, incarnation: int, counter: int) -> Attempt:
    """A branch that committed at `b`, one-phase, and left its evidence."""
    attempt = Attempt(Incarnation(incarnation), counter)
    identifier = Identifier(store.guid, TransactionId(bytes(15) + bytes((counter,))), attempt, BranchNumber(1))
    bench.b._evidence[identifier] = True
    return attempt


def kept(bench: AsyncBench, store: Store) -> list[Attempt]:
    return bench.b.evidence_attempts(store.guid, Attempt(Incarnation(0), 0), 99)


def test_a_new_incarnation_is_left_in_every_database(bench: AsyncBench, store: Store) -> None:
    """O53: or a restored copy of the journal could draw it again."""
    manager = bench.manager()
    journal = journal_of(manager)
    store.take_for_dead(journal.incarnation, Incarnation(99))
    journal.draw()
    with manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == "ab"
    assert {server.highest_seen(store.guid) for server in (bench.a, bench.b)} == {journal.incarnation}


def test_evidence_of_an_older_incarnation_stays_while_its_transaction_lives(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    journal = journal_of(manager)
    with manager.transaction() as tx:
        bench.put(tx, "a")
        leave_evidence(bench, store, 1, 77)
        store.take_for_dead(Incarnation(1), Incarnation(2))
        journal.draw()
        manager.recover()
        assert kept(bench, store) == [Attempt(Incarnation(1), 77)]
    manager.recover()
    assert kept(bench, store) == []


def test_who_was_taken_for_dead_deletes_no_evidence(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    attempt = leave_evidence(bench, store, 1, 0)
    journal_of(manager).confirmed = lambda incarnation: False
    manager.recover()
    assert kept(bench, store) == [attempt]
    journal_of(manager).confirmed = lambda incarnation: True
    manager.recover()
    assert kept(bench, store) == []


def test_o56_an_attempt_that_was_fenced_cannot_commit(bench: AsyncBench, store: Store) -> None:
    manager = bench.manager()
    with raises(syncpoint.TransactionAborted) as caught, manager.transaction() as tx:
        bench.put(tx)
        store.take_for_dead(journal_of(manager).incarnation, Incarnation(99))
        journal_of(manager).draw()
    assert caught.value.retryable  # type: ignore[attr-defined]
    manager.run(lambda tx: bench.put(tx))
    assert bench.rows() == "ab"
    assert Abort(**key_fields(tx.work.key)).key.attempt.incarnation == 1
    bench.assert_quiet()
