"""outcome, in_doubt, show, resolve, forget, adopt: what people are told, and what they may force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import syncpoint
from syncpoint.ids import BranchNumber, Guid, Identifier, Incarnation, Key
from syncpoint.manager.reports import OutcomeState
from syncpoint.records import Abort, Prepared, key_fields
from syncpoint.resources.base import Answer
from tests.conformance.conftest import raises
from tests.crash.trap import Trap
from tests.manager.conftest import AsyncBench as Bench


def _name(key: Key) -> str:
    return str(key.transaction)


# --- looking -----------------------------------------------------------------------------------------------


def test_outcome_by_id_and_by_digits(bench: Bench) -> None:
    manager = bench.manager()
    manager.run(lambda tx: {"n": 1}, id="order-1")
    by_id = manager.outcome("order-1")
    assert (by_id.state, by_id.result, by_id.user_id) == (OutcomeState.COMMITTED, {"n": 1}, "order-1")
    assert manager.outcome(by_id.transaction) == by_id
    assert manager.outcome("f" * 32).state is OutcomeState.ABORTED_OR_UNKNOWN


def test_an_id_that_looks_like_digits_is_an_id_first(bench: Bench) -> None:
    manager = bench.manager()
    digits = "a" * 32
    manager.run(lambda tx: "by id", id=digits)
    assert manager.outcome(digits).result == "by id"
    with manager.transaction(id="b" * 32):
        assert manager.outcome("b" * 32).state is OutcomeState.RUNNING


def test_outcome_while_it_runs_here_or_elsewhere(bench: Bench) -> None:
    manager, other = bench.manager(), bench.manager()
    with manager.transaction(id="x") as tx:
        assert manager.outcome("x").state is OutcomeState.RUNNING
        assert other.outcome("x").state is OutcomeState.RUNNING
        assert manager.outcome(tx.transaction).state is OutcomeState.RUNNING
    for one in (manager, other):
        assert one.outcome("x").state is OutcomeState.COMMITTED


def test_in_doubt_says_what_will_happen_and_by_whom(bench: Bench) -> None:
    manager, other = bench.manager("abc"), bench.manager("abc")
    bench.a.prepare_foreign("somebody's")
    with bench.ghost("elsewhere") as ghost:
        ghost.prepare(ghost.key(), "a", "unknown")
    bench.departed("b", decided=True, user_id="order-1")
    with bench.ghost() as ghost:
        ghost.prepare(ghost.key(), "a", "orphan")
    bench.c.down = True
    trap = Trap()
    trap.watch(other._runner)
    seen: list[Any] = []
    trap.before(bench.place.forcing, lambda: seen.extend(manager.in_doubt()))
    with other.transaction() as tx:
        bench.put(tx, "ab", "live")
    statuses = {(entry.resource, entry.status) for entry in seen}
    assert statuses == {
        ("a", "foreign"),
        ("a", "unknown-coordinator"),
        ("a", "presumed-abort"),
        ("a", "live"),
        ("b", "live"),
        ("b", "decided-commit"),
        ("c", "unreachable"),
    }
    assert all(entry.explanation for entry in seen)
    (decided,) = [entry for entry in seen if entry.status == "decided-commit"]
    assert decided.user_id == "order-1"
    (unknown,) = [entry for entry in seen if entry.status == "unknown-coordinator"]
    assert unknown.coordinator in unknown.explanation
    assert bench.rows("orphan") == ""
    assert len(bench.a.in_doubt()) == 2  # nothing was changed by looking


def test_a_decided_branch_that_nobody_sees_is_listed(bench: Bench) -> None:
    bench.departed(decided=True, done="a")
    manager = bench.manager()
    entries = {entry.resource: entry for entry in manager.in_doubt()}
    assert set(entries) == {"a", "b"}
    assert "not acknowledged" in entries["a"].explanation
    assert entries["a"].age_ms is not None
    assert entries["a"].age_ms >= 0
    manager.recover()
    assert manager.in_doubt() == []


def test_two_names_for_one_server_list_a_branch_once(bench: Bench) -> None:
    bench.departed("a", decided=False)
    url = bench.urls("a")["a"]
    with syncpoint.TransactionManager(bench.journal, {"one": url, "two": url}, background=False) as manager:
        assert len(manager.in_doubt()) == 1
        manager.recover()
        assert manager.in_doubt() == []


def test_decided_elsewhere_is_left_to_it(bench: Bench) -> None:
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    manager, other = bench.manager(), bench.manager()
    with manager.transaction(id="x") as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    (entry,) = other.in_doubt()
    assert entry.status in ("elsewhere", "live")
    report = other.recover()
    assert report.committed == 0
    assert bench.in_doubt() == "b"
    manager.recover()
    assert bench.rows() == "ab"


def test_show_tells_the_story(bench: Bench) -> None:
    key = bench.departed(decided=True, user_id="order-1", done="a")
    manager = bench.manager()
    report = manager.show("order-1")
    assert (report.transaction, report.user_id, report.state) == (_name(key), "order-1", OutcomeState.COMMITTED)
    branches = {branch.resource: (branch.state, branch.evidence) for branch in report.branches}
    assert branches == {"a": ("not-prepared", "committed"), "b": ("prepared", "undecided")}
    assert [event.what for event in report.timeline] == ["decided: commit"]
    manager.recover()
    manager._runner.run(manager._core.journal.force(()))
    assert [event.what for event in manager.show(_name(key)).timeline][-1].startswith("ended")
    # Much later, when its evidence has been dropped, "absent" must not read as lost.
    for server in (bench.a, bench.b):
        server._evidence.clear()
    for branch in manager.show(_name(key)).branches:
        assert (branch.evidence, branch.detail) == ("absent", "it has acknowledged; its evidence is kept no longer")


def test_show_of_what_is_unreachable_unknown_or_not_configured(bench: Bench) -> None:
    with bench.ghost() as ghost:
        key = ghost.key("x")
        ghost.prepare(key, "ab")
        ghost.decide(key, "ab", user_id="x", names="az")
    manager = bench.manager("a")
    bench.a.down = True
    states = {branch.resource: (branch.state, branch.detail) for branch in manager.show("x").branches}
    assert states["a"][0] == states["z"][0] == "unreachable"
    assert "no resource of that name" in states["z"][1]
    assert manager.show("never seen").branches == ()


def test_show_when_the_connection_dies_while_looking(bench: Bench) -> None:
    bench.departed("a", decided=True, user_id="x")
    manager = bench.manager()
    bench.a.answers["evidence"].append(syncpoint.errors.ConnectionLost("gone"))
    (branch,) = manager.show("x").branches
    assert (branch.state, branch.detail) == ("unreachable", "gone")


def test_show_names_every_kind_of_event(bench: Bench) -> None:
    with bench.ghost() as ghost:
        first, second = ghost.key("x"), ghost.key("x")
        ghost.force(Abort(**key_fields(first), why="it lost a race"))
        asked = Identifier(Guid(b"S" * 16), second.transaction, second.attempt, BranchNumber(1)).to_bytes()
        ghost.force(Prepared(**key_fields(second), superior=b"S" * 16, branches=(), identifier=asked))
        timeline = {event.what: event.detail for event in bench.manager().show("x").timeline}
    assert timeline["decided: abort"] == "it lost a race"
    assert "voted yes under a superior" in timeline


# --- resolve -------------------------------------------------------------------------------------------------


def test_resolve_as_decided_is_no_heuristic(bench: Bench) -> None:
    key = bench.departed(decided=True)
    manager = bench.manager()
    resolved = manager.resolve(_name(key), True, "the server is slow", "me")
    assert {(one.resource, one.answer) for one in resolved} == {("a", "COMMITTED"), ("b", "COMMITTED")}
    assert bench.rows() == "ab"
    assert manager.heuristics() == []
    assert manager.in_doubt() == []
    story = [(event.what, event.detail) for event in manager.show(_name(key)).timeline]
    assert ("forced by me: commit", "the server is slow") in story
    bench.assert_quiet()


@pytest.mark.parametrize(
    ("decided", "commit", "outcome"), [(True, False, "HEURISTIC_ROLLBACK"), (False, True, "HEURISTIC_COMMIT")]
)
def test_resolve_against_the_decision_is_listed_until_forgotten(
    bench: Bench, decided: bool, commit: bool, outcome: str
) -> None:
    key = bench.departed(decided=decided)
    manager = bench.manager()
    manager.resolve(_name(key), commit, "a person says so", "me")
    assert bench.rows() == ("ab" if commit else "")
    assert {entry.outcome for entry in manager.heuristics()} == {outcome}
    assert manager.outcome(_name(key)).state is OutcomeState.HEURISTIC
    times = [event.at_ms for event in manager.show(_name(key)).timeline if event.at_ms is not None]
    assert times == sorted(times)
    assert not manager.recover().left
    assert len(bench.manager().recover().heuristics) == 2
    assert manager.forget(_name(key), "me") == 2
    assert manager.forget(_name(key)) == 0
    assert manager.heuristics() == bench.manager().heuristics() == []
    bench.assert_quiet()


def test_resolve_one_resource_only(bench: Bench) -> None:
    key = bench.departed(decided=False)
    manager = bench.manager()
    (one,) = manager.resolve(_name(key), False, "only here", resource="a")
    assert (one.resource, one.answer) == ("a", "ABORTED")
    assert bench.in_doubt() == "b"
    assert manager.heuristics() == []  # abort is what would have become of it


def test_what_is_forced_is_done_when_the_resource_comes_back(bench: Bench) -> None:
    """Journalled before it is done: whoever recovers next does it."""
    key = bench.departed("ab", decided=False)
    manager = bench.manager()
    bench.b.down = True
    # Down: its branch is not seen by the scan, so nothing is known of it.
    resolved = manager.resolve(_name(key), True, "the other side has it")
    assert [(one.resource, one.answer) for one in resolved] == [("a", "COMMITTED")]
    bench.b.down = False
    bench.b.answers["finish"].append(Answer.RETRY)
    resolved = manager.resolve(_name(key), True, "the other side has it", resource="b")
    assert [(one.resource, one.answer) for one in resolved] == [("b", "UNREACHABLE")]
    assert bench.in_doubt() == "b"
    manager.close()
    assert not bench.manager().recover().left
    assert bench.rows() == "ab"


def test_resolve_a_decided_branch_that_is_away_is_a_hazard(bench: Bench) -> None:
    key = bench.departed(decided=True)
    bench.b.down = True
    manager = bench.manager()
    answers = {one.resource: one.answer for one in manager.resolve(_name(key), False, "it burned down")}
    assert answers == {"a": "ABORTED", "b": "UNREACHABLE"}
    assert {entry.resource: entry.outcome for entry in manager.heuristics()} == {
        "a": "HEURISTIC_ROLLBACK",
        "b": "HEURISTIC_HAZARD",
    }
    assert not manager.recover().left  # nobody waits for it any more


def test_resolve_where_the_database_says_otherwise(bench: Bench) -> None:
    key = bench.departed(decided=True, done="a")
    manager = bench.manager()
    answers = {one.resource: one.answer for one in manager.resolve(_name(key), False, "stop it")}
    assert answers["a"] == "HEURISTIC_COMMIT"  # it had been committed already
    assert answers["b"] == "ABORTED"


def test_resolve_a_resource_that_is_not_configured(bench: Bench) -> None:
    with bench.ghost() as ghost:
        key = ghost.key()
        ghost.prepare(key, "ab")
        ghost.decide(key, "ab", names="az")
    bench.b.restart()
    manager = bench.manager("a")
    answers = {one.resource: one.answer for one in manager.resolve(_name(key), True, "z is gone for good")}
    assert answers == {"a": "COMMITTED", "z": "UNREACHABLE"}
    assert not manager.recover().left


def test_resolve_needs_a_reason_and_a_dead_process(bench: Bench) -> None:
    manager, other = bench.manager(), bench.manager()
    for reason in ("", "  "):
        with pytest.raises(syncpoint.ConfigurationError, match="needs a reason"):
            manager.resolve("x", True, reason)
    trap = Trap()
    trap.watch(manager._runner)
    refused: list[BaseException] = []

    def resolve() -> None:
        for one in (manager, other):
            try:
                one.resolve(tx.transaction, True, "impatient")
            except syncpoint.TransactionRunning as error:
                refused.append(error)

    trap.before(bench.place.forcing, resolve)
    with manager.transaction() as tx:
        bench.put(tx)
    assert len(refused) == 2
    assert bench.rows() == "ab"
    assert manager.heuristics() == []


# --- adopt ------------------------------------------------------------------------------------------------------


def test_adopt_takes_over_a_lost_journal(bench: Bench) -> None:
    with bench.ghost("lost") as ghost:
        ghost.prepare(ghost.key())
    lost = str(ghost.journal.coordinator)
    manager = bench.manager()
    assert manager.recover().unknown_coordinators == (lost,)
    assert bench.in_doubt() == "ab"
    manager.adopt(lost, who="me")
    assert manager.recover().aborted == 2
    bench.assert_quiet()
    # It lasts.
    with bench.ghost("lost") as ghost:
        ghost.prepare(ghost.key())
    assert bench.manager().recover().aborted == 2


@pytest.mark.parametrize("wrong", ["", "no digits", "abcd", "ff" * 17])
def test_adopt_needs_a_guid(bench: Bench, wrong: str) -> None:
    with pytest.raises(syncpoint.ConfigurationError, match="not a coordinator's GUID"):
        bench.manager().adopt(wrong)


# --- heuristics that recovery finds --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decided", "answer", "listed"),
    [
        (True, Answer.HEURISTIC_ROLLBACK, True),
        (True, Answer.HEURISTIC_COMMIT, False),  # O14
        (False, Answer.HEURISTIC_COMMIT, True),
        (True, Answer.HEURISTIC_HAZARD, True),
    ],
)
def test_what_recovery_finds_decided_alone(bench: Bench, decided: bool, answer: Answer, listed: bool) -> None:
    bench.departed("a", decided=decided)
    bench.a.answers["finish"].append(answer)
    manager = bench.manager()
    report = manager.recover()
    assert [entry.detail for entry in report.heuristics] == (["found by recovery"] if listed else [])
    assert not report.left
    (identifier,) = bench.a.in_doubt()
    bench.a.decide_alone(identifier, commit=False)


def test_a_branch_that_fails_oddly_is_left_for_the_next_pass(bench: Bench) -> None:
    bench.departed(decided=True)
    bench.a.answers["finish"].append(ZeroDivisionError("strange"))
    manager = bench.manager()
    report = manager.recover()
    assert [entry.resource for entry in report.left] == ["a"]
    assert bench.rows() == "b"
    assert not manager.recover().left


def test_a_decided_branch_not_found_and_not_answering(bench: Bench) -> None:
    bench.departed(decided=True, done="a")
    bench.a.answers["finish"].append(Answer.RETRY)
    manager = bench.manager()
    (left,) = manager.recover().left
    assert (left.resource, left.status) == ("a", "decided-commit")
    assert not manager.recover().left


# --- evidence -------------------------------------------------------------------------------------------------------


def test_evidence_goes_after_its_record_and_not_before(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].extend([Answer.RETRY] * 2)
    with manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    manager.recover()
    assert len(bench.a._evidence) == 1  # the record has not ended
    manager.recover()
    manager.recover()
    assert bench.a._evidence == bench.b._evidence == {}
    assert bench.rows() == "ab"


def test_evidence_of_dead_processes_goes_too_and_that_of_the_living_stays(bench: Bench) -> None:
    manager, other = bench.manager(), bench.manager()
    with other.transaction() as tx:
        bench.put(tx)
    manager.recover()
    assert len(bench.a._evidence) == 1
    other.close()
    manager.recover()
    assert bench.a._evidence == {}


def test_more_evidence_than_one_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncpoint.manager.recovery.EVIDENCE_BATCH", 3)
    manager = bench.manager()
    for number in range(10):
        with manager.transaction() as tx:
            bench.put(tx, value=number)
    assert len(bench.a._evidence) == 10
    manager.recover()
    assert bench.a._evidence == bench.b._evidence == {}


def test_cleaning_that_fails_breaks_nothing(bench: Bench) -> None:
    bench.departed(decided=True)
    manager = bench.manager()
    bench.a.answers["evidence_attempts"].append(syncpoint.errors.ConnectionLost("gone"))
    report = manager.recover()
    assert set(report.unreachable) == {"a"}
    assert bench.rows() == "ab"
    assert not manager.recover().unreachable


def test_recovery_of_a_busy_resource_waits_in_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass at a time at each resource; who waits too long says so."""
    monkeypatch.setattr("syncpoint.manager.recovery.PASS_S_MAX", 0.05)
    manager = bench.manager()
    gate = manager._core.handles["a"].recovery_gate
    manager._runner.run(gate.acquire(manager._core.clock.monotonic() + 1.0, "a pass that takes long"))
    report = manager.recover()
    assert "a pass that takes long" in report.unreachable["a"]
    gate.release()
    assert not manager.recover().unreachable


# --- service sessions ---------------------------------------------------------------------------------------------


def _use_up(bench: Bench, manager: syncpoint.TransactionManager, name: str) -> Callable[[], None]:
    handle = manager._core.handles[name]
    deadline = manager._core.clock.monotonic() + 1.0
    sessions = [manager._runner.run(handle.service.acquire(deadline)) for _ in range(2)]

    def give_back() -> None:
        for session in sessions:
            manager._runner.run(handle.service.release(session))

    return give_back


def test_when_no_session_comes_free_a_branch_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncpoint.manager.branch.FIND_OUT_S_MAX", 0.05)
    manager = bench.manager()
    give_back = _use_up(bench, manager, "b")
    bench.b.answers["commit"].append(Answer.RETRY)
    with manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    bench.a.answers["commit_one_phase"].append(syncpoint.errors.ConnectionLost("gone"))
    give_back_a = _use_up(bench, manager, "a")
    with raises(syncpoint.OutcomePending), manager.transaction() as tx:
        bench.put(tx, "a", "other")
    give_back()
    give_back_a()
    assert not manager.recover(wait_seconds=5.0).left
    assert bench.rows() == "ab"
    assert manager.outcome(tx.transaction).state is OutcomeState.ABORTED_OR_UNKNOWN
    assert manager.incarnation == Incarnation(1)
