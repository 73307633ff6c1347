"""Nested blocks: savepoints on every branch, those begun inside included, and what happens when one fails."""

from __future__ import annotations

import syncpoint
from syncpoint.errors import ConnectionLost
from tests.conformance.conftest import raises
from tests.manager.conftest import AsyncBench as Bench


class GaveUp(Exception):
    """The user's own."""


def test_a_nested_block_is_a_savepoint(bench: Bench) -> None:
    manager = bench.manager()
    with manager.transaction() as outer:
        bench.put(outer, key="outer")
        with manager.transaction() as inner:
            assert inner is outer
            bench.put(inner, key="kept")
        with raises(GaveUp), manager.transaction() as inner:
            bench.put(inner, key="dropped")
            raise GaveUp
        bench.put(outer, key="after")
    assert [bench.rows(key) for key in ("outer", "kept", "dropped", "after")] == ["ab", "ab", "", "ab"]
    bench.assert_quiet()


def test_a_branch_begun_inside_a_nested_block_is_rolled_back_with_it(bench: Bench) -> None:
    manager = bench.manager("abc")
    with manager.transaction() as outer:
        bench.put(outer, "a")
        with raises(GaveUp), manager.transaction() as inner:
            bench.put(inner, "b", "inner")
            with manager.transaction() as innermost:
                bench.put(innermost, "c", "innermost")
            raise GaveUp
        bench.put(outer, "b", "later")
    assert bench.rows() == "a"
    assert bench.rows("inner") == bench.rows("innermost") == ""
    assert bench.rows("later") == "b"
    bench.assert_quiet()


def test_a_savepoint_that_cannot_be_released_dooms_the_transaction(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["release_savepoint"].append(ConnectionLost("gone"))
    with raises(ConnectionLost), manager.transaction() as tx:
        bench.put(tx)
        with manager.transaction():
            bench.put(tx, key="inner")
    assert bench.rows() == ""
    bench.assert_quiet()


def test_a_savepoint_that_cannot_be_rolled_back_dooms_the_transaction(bench: Bench) -> None:
    manager = bench.manager()
    bench.b.answers["rollback_to_savepoint"].append(ConnectionLost("gone"))
    with raises(syncpoint.TransactionAborted, "could not be ended|lost"), manager.transaction() as tx:
        bench.put(tx)
        with raises(GaveUp), manager.transaction():
            raise GaveUp
    assert bench.rows() == ""
    bench.assert_quiet()


def test_a_connection_lost_inside_a_nested_block_dooms_the_transaction(bench: Bench) -> None:
    manager = bench.manager()
    with raises(syncpoint.TransactionAborted, "was lost"), manager.transaction() as tx:
        bench.put(tx)
        with raises(ConnectionLost), manager.transaction():
            bench.b.restart()
            bench.put(tx, "b", key="inner")
    assert bench.rows() == ""
    bench.assert_quiet()


def test_a_savepoint_that_cannot_be_set_dooms_the_transaction(bench: Bench) -> None:
    """It is set at a and not at b: nothing may be rolled back to it, and what follows is no part of it."""
    manager = bench.manager()
    bench.b.answers["savepoint"].append(ConnectionLost("gone"))
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx)
        with raises(ConnectionLost), manager.transaction():
            raise AssertionError("the block was entered")
        assert tx.work.savepoints == []
    assert bench.rows() == ""
    bench.assert_quiet()


def test_a_nested_block_refuses_an_id_of_its_own(bench: Bench) -> None:
    manager = bench.manager()
    with manager.transaction(), raises(syncpoint.ConfigurationError, "outermost"), manager.transaction(id="x"):
        pass


def test_a_nested_block_that_outlives_the_transaction(bench: Bench) -> None:
    """Blocks closed in the wrong order change nothing any more."""
    manager = bench.manager()
    outer = manager.transaction()
    outer.__enter__()
    inner = manager.transaction()
    inner.__enter__()
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    assert syncpoint.current() is None
    bench.assert_quiet()
