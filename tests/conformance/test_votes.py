"""O01..O14: votes and answers, seen from outside (on memory servers, which can be told to misbehave)."""

from __future__ import annotations

import syncpoint
from syncpoint.resources.base import Answer, Choice, Vote
from tests.conformance.conftest import ONE_PLACE, Bench, raises

NO = Vote(Choice.NO, reason="it does not want to")


def test_o01_two_yes_both_commit(bench: Bench) -> None:
    with bench.manager().transaction() as tx:
        bench.put(tx)
    assert bench.rows() == "ab"
    for name in "ab":
        assert bench.calls(name, "prepare", "commit") == ["prepare", "commit"]
    bench.assert_quiet()


@ONE_PLACE
def test_o02_all_read_only_no_phase_two(bench: Bench) -> None:
    manager = bench.manager()
    with manager.transaction() as tx:
        assert tx.connect("a").get("k") is None
        assert tx.connect("b").get("k") is None
    for name in "ab":
        assert bench.calls(name, "prepare", "commit", "commit_one_phase") == []
    assert manager.show(tx.transaction).timeline == ()
    bench.assert_quiet()


def test_o02_a_vote_can_say_read_only_too(bench: Bench) -> None:
    with bench.manager().transaction(id="x") as tx:
        tx.connect("a").get("k")
    assert bench.calls("a", "commit") == []
    bench.assert_quiet()


def test_o03_only_the_yes_voter_gets_phase_two(bench: Bench) -> None:
    with bench.manager("abc").transaction() as tx:
        bench.put(tx, "ab")
        tx.connect("c").get("k")
    assert bench.rows() == "ab"
    assert bench.calls("c", "prepare", "commit") == []
    bench.assert_quiet()


def test_o04_one_no_rolls_back_every_voter(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["prepare"].append(NO)
    with raises(syncpoint.TransactionAborted, match="it does not want to"), manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == ""
    bench.assert_quiet()


def test_o05_read_only_and_no(bench: Bench) -> None:
    manager = bench.manager("abc")
    bench.b.answers["prepare"].append(NO)
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx, "ab")
        tx.connect("c").get("k")
    assert bench.rows() == ""
    bench.assert_quiet()


@ONE_PLACE
def test_o06_rollback_only_never_prepares(bench: Bench) -> None:
    manager = bench.manager()
    with raises(syncpoint.TransactionAborted, match="rollback-only") as caught, manager.transaction() as tx:
        bench.put(tx)
        tx.set_rollback_only("changed my mind")
    assert not caught.value.retryable
    for name in "ab":
        assert bench.calls(name, "prepare") == []
    assert bench.rows() == ""
    bench.assert_quiet()


def test_o07_one_rolled_back_by_heuristic(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["commit"].append(Answer.HEURISTIC_ROLLBACK)
    with raises(syncpoint.HeuristicMixed) as caught, manager.transaction() as tx:
        bench.put(tx)
    assert caught.value.branches == {"a": "COMMITTED", "b": "HEURISTIC_ROLLBACK"}
    assert bench.rows() == "a"
    (entry,) = manager.heuristics()
    assert (entry.resource, entry.outcome, entry.decided) == ("b", "HEURISTIC_ROLLBACK", "commit")
    assert manager.outcome(tx.transaction).state == "heuristic"
    # Listed until an operator has acknowledged it, by any process.
    other = bench.manager()
    assert len(other.heuristics()) == 1
    assert other.forget(tx.transaction) == 1
    assert manager.heuristics() == []
    bench.assert_quiet()


def test_o08_hazard_and_the_others_still_commit(bench: Bench) -> None:
    manager = bench.manager()
    bench.a.answers["commit"].append(Answer.HEURISTIC_HAZARD)
    with raises(syncpoint.HeuristicHazard), manager.transaction() as tx:
        bench.put(tx)
    assert "b" in bench.rows()
    assert [entry.outcome for entry in manager.heuristics()] == ["HEURISTIC_HAZARD"]


def test_o09_mixed(bench: Bench) -> None:
    manager = bench.manager()
    bench.a.answers["commit"].append(Answer.HEURISTIC_MIXED)
    with raises(syncpoint.HeuristicMixed), manager.transaction() as tx:
        bench.put(tx)
    assert "b" in bench.rows()


def test_o10_never_prepared_and_nothing_can_tell(bench: Bench) -> None:
    from syncpoint.resources.base import Evidence

    manager = bench.manager()
    bench.b.answers["commit"].append(Answer.NOT_FOUND)
    bench.b.answers["finish"].append(Answer.NOT_FOUND)
    bench.b.answers["evidence"].append(Evidence.UNKNOWN)
    with raises(syncpoint.HeuristicHazard), manager.transaction() as tx:
        bench.put(tx)
    assert "a" in bench.rows()


def test_o11_a_voter_committed_by_heuristic_while_aborting(bench: Bench) -> None:
    manager = bench.manager()
    bench.a.answers["abort"].append(Answer.HEURISTIC_COMMIT)
    bench.b.answers["prepare"].append(NO)
    with raises(syncpoint.HeuristicMixed), manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == "a"
    assert [entry.decided for entry in manager.heuristics()] == ["abort"]


@ONE_PLACE
def test_o12_the_only_writer_rolls_back_by_heuristic(bench: Bench) -> None:
    manager = bench.manager()
    bench.a.answers["commit_one_phase"].append(Answer.HEURISTIC_ROLLBACK)
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx, "a")
    assert bench.rows() == ""
    assert manager.heuristics() == []


@ONE_PLACE
def test_o13_one_phase_rolled_back(bench: Bench) -> None:
    bench.a.answers["commit_one_phase"].append(Answer.ABORTED)
    with raises(syncpoint.TransactionAborted), bench.manager().transaction() as tx:
        bench.put(tx, "a")


def test_o13_one_phase_hazard(bench: Bench) -> None:
    manager = bench.manager()
    bench.a.answers["commit_one_phase"].append(Answer.HEURISTIC_HAZARD)
    with raises(syncpoint.HeuristicHazard), manager.transaction() as tx:
        bench.put(tx, "a")
    assert len(manager.heuristics()) == 1


def test_o14_heuristic_commit_while_committing_is_success(bench: Bench) -> None:
    manager = bench.manager()
    bench.a.answers["commit"].append(Answer.HEURISTIC_COMMIT)
    with manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == "ab"
    assert manager.heuristics() == []
    bench.assert_quiet()
