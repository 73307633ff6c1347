"""O15..O21: what errors of resources mean, on memory servers that misbehave on demand. Real ones: test_databases.py."""

from __future__ import annotations

import syncpoint
from syncpoint.errors import ConnectionLost
from syncpoint.manager.reports import OutcomeState
from syncpoint.resources.base import Answer, Choice, Evidence, Vote
from syncpoint.resources.memory import LostReply
from tests.conformance.conftest import ONE_PLACE, Bench, raises

NO = Vote(Choice.NO, reason="deadlock", retryable=True)


def test_o15_a_rollback_code_gets_no_second_rollback(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["prepare"].append(NO)
    with raises(syncpoint.TransactionAborted) as caught, manager.transaction() as tx:
        bench.put(tx)
    assert caught.value.retryable
    assert bench.calls("b", "abort", "finish") == []
    assert bench.calls("a", "abort") == ["abort"]
    assert bench.rows() == ""
    bench.assert_quiet()


def test_o16_a_lost_vote_aborts_and_its_branch_is_rolled_back(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["prepare"].append(LostReply())
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == ""
    bench.assert_quiet()


def test_o16_when_it_reappears(bench: Bench) -> None:
    """The server goes down right after it has prepared."""
    manager = bench.manager()
    bench.b.answers["prepare"].append(LostReply())
    bench.b.answers["finish"] += [ConnectionLost("down")] * 2  # an idle connection, and a fresh one
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx)
    assert bench.in_doubt() == "b"
    bench.b.restart()
    assert bench.in_doubt() == "b"
    manager.recover(wait_seconds=5.0)
    assert bench.rows() == ""
    bench.assert_quiet()


def test_o17_an_unexpected_exception_is_the_cause(bench: Bench) -> None:
    manager = bench.manager()
    strange = ZeroDivisionError("strange")
    bench.b.answers["prepare"].append(strange)
    with raises(syncpoint.TransactionAborted, match="ZeroDivisionError|strange") as caught, manager.transaction() as tx:
        bench.put(tx)
    assert caught.value.__cause__ is strange
    manager.recover()
    assert bench.rows() == ""
    bench.assert_quiet()


def test_o18_a_branch_that_cannot_commit_yet_is_pending(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].extend([Answer.RETRY, Answer.RETRY])
    with manager.transaction(id="x") as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    assert (bench.rows(), bench.in_doubt()) == ("a", "b")
    told = manager.outcome("x")
    assert (told.state, told.pending) == (OutcomeState.COMMITTED, ("b",))
    assert [branch.resource for branch in manager.recover().left] == ["b"]
    assert not manager.recover().left
    assert bench.rows() == "ab"
    assert manager.outcome("x").pending == ()
    bench.assert_quiet()


def test_o18_another_process_may_finish_it(bench: Bench) -> None:
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    manager = bench.manager()
    with manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    manager.close()
    assert not bench.manager().recover().left
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_o19_not_found_and_evidence_says_committed(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["commit"].append(LostReply())
    with manager.transaction() as tx:
        bench.put(tx)
    assert bench.calls("b", "finish", "evidence") == ["finish", "evidence"]
    assert (bench.rows(), tx.pending) == ("ab", frozenset())
    assert manager.heuristics() == []
    bench.assert_quiet()


def test_o19_not_found_and_no_evidence_is_no_guess(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["commit"].append(Answer.NOT_FOUND)
    (tx,) = _lose_branch_of(bench, manager)
    assert bench.rows() == "a"
    assert [entry.outcome for entry in manager.heuristics()] == ["HEURISTIC_ROLLBACK"]
    assert manager.outcome(tx).state is OutcomeState.HEURISTIC


def _lose_branch_of(bench: Bench, manager: syncpoint.TransactionManager) -> tuple[str]:
    """Somebody rolls b's branch back by hand between its vote and its commit."""
    bench.b.answers["finish"].append(Answer.NOT_FOUND)
    bench.b.answers["evidence"].append(Evidence.ABSENT)
    with raises(syncpoint.HeuristicMixed), manager.transaction() as tx:
        bench.put(tx)
    (identifier,) = bench.b.in_doubt()
    bench.b.decide_alone(identifier, commit=False)
    return (tx.transaction,)


def test_o19_undecided_evidence_is_asked_again(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["commit"].append(LostReply())
    bench.b.answers["evidence"].append(Evidence.UNDECIDED)
    with manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    assert not manager.recover().left
    assert manager.heuristics() == []
    assert bench.rows() == "ab"


@ONE_PLACE
def test_o20_a_lost_one_phase_commit_is_settled_by_evidence(bench: Bench) -> None:
    manager = bench.manager()
    bench.a.answers["commit_one_phase"].append(LostReply())
    with manager.transaction() as tx:
        bench.put(tx, "a")
    assert tx.is_committed
    assert bench.rows() == "a"
    bench.a.answers["commit_one_phase"].append(ConnectionLost("it never arrived"))
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx, "a", "other")
    assert bench.rows("other") == ""
    bench.assert_quiet()


def test_o20_without_any_evidence_it_is_a_hazard(bench: Bench) -> None:
    manager = bench.manager()
    bench.a.answers["commit_one_phase"].append(LostReply())
    bench.a.answers["settle"].append(Evidence.UNKNOWN)
    with raises(syncpoint.HeuristicHazard), manager.transaction() as tx:
        bench.put(tx, "a")
    assert [entry.outcome for entry in manager.heuristics()] == ["HEURISTIC_HAZARD"]


@ONE_PLACE
def test_o20_settled_later_when_the_server_is_gone(bench: Bench) -> None:
    """The caller is told that nobody knows; recovery finds out, either way."""
    manager = bench.manager()
    for row, planned, expected in (
        ("kept", LostReply(), OutcomeState.COMMITTED),
        ("lost", ConnectionLost("it never arrived"), OutcomeState.ABORTED_OR_UNKNOWN),
    ):
        bench.a.answers["commit_one_phase"].append(planned)
        bench.a.answers["settle"] += [ConnectionLost("down")] * 2  # an idle connection, and a fresh one
        with raises(syncpoint.OutcomePending), manager.transaction() as tx:
            bench.put(tx, "a", row)
        assert manager.outcome(tx.transaction).state is OutcomeState.PENDING
        manager.recover(wait_seconds=5.0)
        assert manager.outcome(tx.transaction).state is expected
    assert (bench.rows("kept"), bench.rows("lost")) == ("a", "")
    bench.assert_quiet()


@ONE_PLACE
def test_o20_as_long_as_it_is_unsettled_recovery_asks_again(bench: Bench) -> None:
    manager = bench.manager()
    bench.a.answers["commit_one_phase"].append(LostReply())
    bench.a.answers["settle"].extend([Evidence.UNDECIDED, Evidence.UNDECIDED])
    with raises(syncpoint.OutcomePending), manager.transaction() as tx:
        bench.put(tx, "a")
    manager.recover()
    assert manager.outcome(tx.transaction).state is OutcomeState.PENDING
    manager.recover()
    assert manager.outcome(tx.transaction).state is OutcomeState.COMMITTED
