"""A transaction's block: decorators, results, callbacks, ids, and what is refused. Nested ones: test_nested.py."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost
from syncpoint.manager.reports import OutcomeState
from syncpoint.resources.base import Answer
from syncpoint.resources.memory import RowLocked
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import raises
from tests.crash.trap import Trap
from tests.manager.conftest import AsyncBench as Bench


class GaveUp(Exception):
    """The user's own."""


# --- decorator ----------------------------------------------------------------------------------------------


def test_a_decorator_begins_a_new_transaction_at_each_call(bench: Bench) -> None:
    manager = bench.manager()
    seen = []

    @manager.transaction()
    def work(value: int) -> int:
        tx = syncpoint.current()
        assert tx is not None
        seen.append(tx.transaction)
        bench.put(tx, value=value)
        return value + 1

    assert (work(1), work(5)) == (2, 6)
    assert len(set(seen)) == 2
    assert bench.a.rows() == {"k": b"5"}
    with pytest.raises(syncpoint.ConfigurationError, match="once for ever"):
        manager.transaction(id="x")(work)


def test_a_decorated_function_inside_a_block_is_nested(bench: Bench) -> None:
    manager = bench.manager()

    @manager.transaction()
    def fail() -> None:
        tx = syncpoint.current()
        bench.put(tx, key="inner")
        raise GaveUp

    with manager.transaction() as tx:
        bench.put(tx)
        with raises(GaveUp):
            fail()
    assert (bench.rows(), bench.rows("inner")) == ("ab", "")


# --- results and ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, 1.5, "text", b"bytes", [1, [2]], {"a": {"b": None}}, True])
def test_a_result_is_stored_as_it_is(bench: Bench, value: Any) -> None:
    manager = bench.manager()
    assert manager.run(lambda tx: value, id="x", fingerprint="f") == value
    assert bench.manager().run(lambda tx: 99, id="x", fingerprint="f") == value


@pytest.mark.parametrize("value", [object(), 1 << 70, bytes(1 << 21)], ids=["object", "huge number", "too long"])
def test_a_result_that_cannot_be_stored_aborts(bench: Bench, value: Any) -> None:
    manager = bench.manager()

    def work(tx: Any) -> Any:
        bench.put(tx)
        return value

    with pytest.raises(syncpoint.ResultNotStorable):
        manager.run(work, id="x")
    assert bench.rows() == ""
    assert manager.outcome("x").state is OutcomeState.ABORTED_OR_UNKNOWN
    assert manager.run(work) is value  # without an id it is not stored


def test_a_refused_result_dooms_the_block_even_if_the_error_is_swallowed(bench: Bench) -> None:
    manager = bench.manager()
    with raises(syncpoint.TransactionAborted) as caught, manager.transaction(id="x") as tx:
        bench.put(tx)
        with raises(syncpoint.ResultNotStorable):
            tx.set_result(object())
    assert not caught.value.retryable  # type: ignore[attr-defined]
    assert bench.rows() == ""


@pytest.mark.parametrize("wrong", ["", "x" * 256])
def test_an_id_that_is_too_long_or_empty_is_refused(bench: Bench, wrong: str) -> None:
    manager = bench.manager()
    with raises(syncpoint.IdTooLong), manager.transaction(id=wrong):
        pass
    with manager.transaction(id="x" * 255):
        pass
    assert syncpoint.current() is None


def test_scopes_keep_ids_apart(bench: Bench) -> None:
    one, other = bench.manager(scope="one"), bench.manager(scope="other")
    assert one.run(lambda tx: 1, id="x") == 1
    assert other.run(lambda tx: 2, id="x") == 2
    with raises(syncpoint.AlreadyCommitted), one.transaction(id="x"):
        pass
    assert (one.outcome("x").result, other.outcome("x").result) == (1, 2)


def test_an_id_is_given_back_after_an_abort_and_kept_after_a_commit(bench: Bench) -> None:
    manager, other = bench.manager(), bench.manager()
    with raises(GaveUp), manager.transaction(id="x"):
        raise GaveUp
    with other.transaction(id="x") as tx:
        bench.put(tx)
        assert tx.id == "x"
    with raises(syncpoint.AlreadyCommitted), manager.transaction(id="x"):
        pass
    assert syncpoint.current() is None


# --- after_commit --------------------------------------------------------------------------------------------------


def test_callbacks_are_called_after_the_commit_in_order(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    manager = bench.manager()
    called: list[str] = []

    def fail() -> None:
        raise GaveUp("in a callback")

    with manager.transaction() as tx:
        bench.put(tx)
        tx.after_commit(lambda: called.append(f"1 {bench.rows()}"))
        tx.after_commit(fail)
        tx.after_commit(lambda: called.append("2"))
        assert called == []
    assert called == ["1 ab", "2"]
    assert "in a callback" in caplog.text


def test_callbacks_are_not_called_when_it_aborts(bench: Bench) -> None:
    manager = bench.manager()
    called: list[str] = []
    with raises(GaveUp), manager.transaction() as tx:
        tx.after_commit(lambda: called.append("raised"))
        raise GaveUp
    bench.a.answers["commit_one_phase"].append(Answer.ABORTED)
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx, "a")
        tx.after_commit(lambda: called.append("refused"))
    assert called == []


def test_callbacks_of_a_nested_block_go_with_it(bench: Bench) -> None:
    manager = bench.manager()
    called: list[str] = []
    with manager.transaction() as tx:
        tx.after_commit(lambda: called.append("outer"))
        with raises(GaveUp), manager.transaction():
            tx.after_commit(lambda: called.append("dropped"))
            raise GaveUp
        with manager.transaction():
            tx.after_commit(lambda: called.append("kept"))
    assert called == ["outer", "kept"]


def test_callbacks_are_called_when_branches_are_pending_but_not_when_mixed(bench: Bench) -> None:
    manager = bench.manager()
    called: list[str] = []
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    with manager.transaction() as tx:
        bench.put(tx)
        tx.after_commit(lambda: called.append("pending"))
    manager.recover()
    bench.b.answers["commit"].append(Answer.HEURISTIC_ROLLBACK)
    with raises(syncpoint.HeuristicMixed), manager.transaction() as tx:
        bench.put(tx)
        tx.after_commit(lambda: called.append("mixed"))
    assert called == ["pending"]


# --- wait="decided" ----------------------------------------------------------------------------------------------


def test_answered_when_decided_phase_two_follows(bench: Bench) -> None:
    manager = bench.manager()
    trap = Trap()
    trap.watch(manager._runner)
    go = threading.Event()
    trap.before("COMMIT a, COMMIT b", lambda: go.wait(10.0))
    with manager.transaction(wait="decided", id="x") as tx:
        bench.put(tx)
    assert tx.is_committed
    assert bench.in_doubt() == "ab"
    go.set()
    wait_until(lambda: bench.rows() == "ab", "phase two follows", 10.0)
    wait_until(lambda: manager.outcome("x").pending == (), "it ends", 10.0)
    bench.assert_quiet()


def test_whoever_asks_is_told_what_the_caller_was_told(bench: Bench) -> None:
    """Before phase two has ended: by this process, by another one, and for a resend."""
    manager, other = bench.manager(), bench.manager()
    trap = Trap()
    trap.watch(manager._runner)
    go = threading.Event()
    trap.before("COMMIT a, COMMIT b", lambda: go.wait(10.0))
    with manager.transaction(wait="decided", id="x", fingerprint="f") as tx:
        bench.put(tx)
        tx.set_result(7)
    try:
        outcome = manager.outcome("x")
        assert (outcome.state, outcome.result, sorted(outcome.pending)) == (OutcomeState.COMMITTED, 7, ["a", "b"])
        assert other.outcome("x").state is OutcomeState.COMMITTED
        assert other.run(lambda tx: 99, id="x", fingerprint="f") == 7
        assert manager.run(lambda tx: 99, id="x", fingerprint="f") == 7
    finally:
        go.set()
    wait_until(lambda: bench.rows() == "ab", "phase two follows", 10.0)
    bench.assert_quiet()


def test_close_waits_for_phase_two(bench: Bench) -> None:
    manager = bench.manager()
    trap = Trap()
    trap.watch(manager._runner)
    go = threading.Event()
    trap.before("COMMIT a, COMMIT b", lambda: go.wait(10.0))
    with manager.transaction(wait="decided") as tx:
        bench.put(tx)
    closer = threading.Thread(target=manager.close)
    closer.start()
    go.set()
    closer.join(10.0)
    assert not closer.is_alive()
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_wait_is_checked(bench: Bench) -> None:
    with pytest.raises(syncpoint.ConfigurationError, match="wait="):
        bench.manager().transaction(wait="never")  # type: ignore[arg-type]


# --- pending -------------------------------------------------------------------------------------------------------


def test_pending_is_completed_by_background_recovery(bench: Bench) -> None:
    manager = bench.manager(background=True)
    trap = Trap()
    trap.watch(manager._runner)
    trap.before("COMMIT a, COMMIT b", lambda: setattr(bench.b, "down", True))
    with manager.transaction(id="x") as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    assert bench.rows() == "a"
    assert manager.outcome("x").pending == ("b",)
    bench.b.down = False
    wait_until(lambda: bench.rows() == "ab", "background recovery completes it", 10.0)
    wait_until(lambda: manager.outcome("x").pending == (), "and says so", 10.0)
    assert not manager.in_doubt()
    bench.assert_quiet()


def test_locks_of_a_pending_branch_are_gone_at_once_when_it_can_be_told_again(bench: Bench) -> None:
    """Recovery is woken after the transaction has left the list of live ones, not before, when it may not touch it."""
    manager = bench.manager(background=True)
    trap = Trap()
    trap.watch(manager._runner)
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    ended, handle, passes = manager._core.ended, manager._core.handles["b"], trap.trace.count("scan")

    def end_late(work: Any) -> None:
        wait_until(lambda: trap.trace.count("scan") > passes, "a pass begins", 5.0)
        wait_until(lambda: handle.recovery_gate.holder is None, "and meets it live", 5.0)
        ended(work)

    manager._core.ended = end_late  # type: ignore[method-assign]
    with manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    wait_until(lambda: bench.rows() == "ab", "recovery goes on with it", 2.0)
    bench.assert_quiet()


# --- use that is refused ---------------------------------------------------------------------------------------------


def test_rollback_only_is_the_applications_own_doing(bench: Bench) -> None:
    manager = bench.manager()
    with raises(syncpoint.TransactionAborted, match="rollback-only: enough"), manager.transaction() as tx:
        assert not tx.is_rollback_only
        with manager.transaction() as nested:
            nested.set_rollback_only("enough")
        assert tx.is_rollback_only
    bench.b.down = True
    with raises(syncpoint.TransactionAborted), manager.transaction(timeout=0.1) as tx:
        with pytest.raises(syncpoint.ResourceUnavailable):
            tx.connect("b")
        assert not tx.is_rollback_only  # a failure that dooms it is another matter
    bench.b.down = False
    bench.assert_quiet()


def test_use_after_the_end(bench: Bench) -> None:
    manager = bench.manager()
    with manager.transaction() as tx:
        connection = tx.connect("a")
        connection.put("k", 1)
    for use in (
        lambda: tx.connect("a"),
        lambda: tx.set_result(1),
        lambda: tx.after_commit(lambda: None),
        tx.set_rollback_only,
    ):
        with pytest.raises(syncpoint.TransactionEnded, match="committed"):
            use()
    with pytest.raises(syncpoint.NotAllowed, match="has ended"):
        connection.put("k", 2)
    assert bench.a.rows() == {"k": b"1"}


def test_ending_the_branch_behind_our_back_is_refused(bench: Bench) -> None:
    with bench.manager().transaction() as tx:
        connection = tx.connect("a")
        connection.put("k", 1)
        for name in ("commit", "rollback", "close"):
            with pytest.raises(syncpoint.NotAllowed, match="behind the manager's back"):
                getattr(connection, name)()
    assert bench.rows() == "a"


def test_an_unknown_resource_names_those_that_are_known(bench: Bench) -> None:
    manager = bench.manager()
    with raises(syncpoint.UnknownResource, "a, b"), manager.transaction() as tx:
        tx.connect("nowhere")
    with manager.transaction() as tx:  # no harm to a transaction that goes on
        with pytest.raises(syncpoint.UnknownResource):
            tx.connect("nowhere")
        bench.put(tx)
    assert bench.rows() == "ab"


def test_a_branch_that_cannot_begin_dooms_the_transaction(bench: Bench) -> None:
    manager = bench.manager()
    with raises(syncpoint.TransactionAborted, "could not begin"), manager.transaction() as tx:
        bench.put(tx, "a")
        bench.b.answers["begin"].append(ZeroDivisionError("strange"))
        with pytest.raises(ZeroDivisionError):
            tx.connect("b")
        with pytest.raises(syncpoint.ResourceUnavailable, match="could not begin") as again:
            tx.connect("b")
        assert isinstance(again.value.__cause__, ZeroDivisionError)
        with raises(syncpoint.ResourceUnavailable), manager.transaction():
            raise AssertionError("the nested block was entered")
    assert bench.rows() == ""
    bench.assert_quiet()


def test_a_stale_connection_is_replaced_a_fresh_one_is_not_tried_again(bench: Bench) -> None:
    manager = bench.manager()
    with manager.transaction() as tx:
        bench.put(tx)
    bench.a.restart()
    with manager.transaction() as tx:
        bench.put(tx, value=2)
    assert bench.a.rows() == {"k": b"2"}
    bench.a.restart()
    bench.a.answers["begin"].extend([ConnectionLost("again")])
    with raises(syncpoint.ResourceUnavailable, "lost while a branch began"), manager.transaction() as tx:
        bench.put(tx, "a", value=3)
    assert bench.a.rows() == {"k": b"2"}


def test_read_only_branches(bench: Bench) -> None:
    manager = bench.manager()
    with manager.transaction() as tx:
        assert tx.connect("a", read_only=True).get("k") is None
        with pytest.raises(syncpoint.NotAllowed, match="read-only"):
            tx.connect("a").put("k", 1)
    with manager.transaction() as tx:
        tx.connect("a", read_only=True)
        bench.put(tx, "b")
    assert bench.rows() == "b"
    assert bench.calls("a", "prepare", "commit_one_phase") == []


@pytest.mark.parametrize("resources", ["ab", "a"])
def test_a_connection_that_was_lost_before_the_end_is_a_no(bench: Bench, resources: str) -> None:
    """The user's code has swallowed the error."""
    manager = bench.manager()
    with raises(syncpoint.TransactionAborted, "lost before") as caught, manager.transaction() as tx:
        bench.put(tx, resources)
        bench.a.restart()
        with raises(ConnectionLost):
            bench.put(tx, "a")
    assert caught.value.retryable  # type: ignore[attr-defined]
    assert bench.rows() == ""
    bench.assert_quiet()


def test_a_branch_that_cannot_say_whether_it_wrote_is_asked_for_its_vote(bench: Bench) -> None:
    manager = bench.manager()

    def wrote(session: Any) -> Any:
        raise ConnectionLost("gone")
        yield

    manager._core.handles["b"].resource.wrote = wrote  # type: ignore[method-assign]
    with raises(syncpoint.TransactionAborted, "lost before"), manager.transaction() as tx:
        bench.put(tx)
    assert bench.rows() == ""
    bench.assert_quiet()


def test_the_users_own_error_comes_out_unwrapped(bench: Bench) -> None:
    manager = bench.manager()
    error = GaveUp("mine")
    with raises(GaveUp) as caught, manager.transaction() as tx:
        bench.put(tx)
        raise error
    assert caught.value is error
    assert bench.rows() == ""
    bench.assert_quiet()


def test_one_connection_a_branch_whoever_asks(bench: Bench) -> None:
    """Two threads ask for the same branch at the same time: it is begun once."""
    manager = bench.manager()
    trap = Trap()
    trap.watch(manager._runner)
    together = threading.Barrier(2)
    with manager.transaction() as tx:
        trap.before("begin", lambda: together.wait(10.0))
        thread = threading.Thread(target=lambda: tx.connect("a").put("thread", 1))
        thread.start()
        wait_until(lambda: "begin" in trap.trace, "the first is beginning it")
        second = threading.Thread(target=lambda: tx.connect("a").put("second", 1))
        second.start()
        wait_until(lambda: len(manager._runner._waiters) > 0, "the second waits for it")
        together.wait(10.0)
        thread.join()
        second.join()
    assert bench.calls("a", "begin") == ["begin"]
    assert set(bench.a.rows()) == {"thread", "second"}


# --- texts -------------------------------------------------------------------------------------------------------


def test_reprs_tell(bench: Bench) -> None:
    manager = bench.manager()
    assert repr(manager).startswith("<TransactionManager open ")
    assert "0 live, over a, b" in repr(manager)
    with manager.transaction(id="order-1") as tx:
        assert repr(tx) == "<Transaction order-1 ACTIVE over nothing yet>"
        bench.put(tx)
        assert repr(tx) == "<Transaction order-1 ACTIVE over ['a', 'b']>"
        assert tx.attempt == f"{manager.incarnation}.1"
        assert "WORKING" in repr(tx.work.branches["a"])
    assert "ready" in repr(manager._core.handles["a"])
    manager.close()
    assert "closed" in repr(manager)


def test_a_row_held_by_another_names_it(bench: Bench) -> None:
    manager = bench.manager()
    blocked: list[BaseException] = []

    def wait_in_vain() -> None:
        try:
            with manager.transaction(timeout=0.05) as second:
                bench.put(second, value=2)
        except RowLocked as error:
            blocked.append(error)

    with manager.transaction() as first:
        bench.put(first)
        thread = threading.Thread(target=wait_in_vain)
        thread.start()
        thread.join()
    assert first.transaction in str(blocked[0])
    (note,) = blocked[0].__notes__
    assert note.startswith("At resource 'a':")
    assert first.transaction in note
    assert bench.a.rows() == {"k": b"1"}
