"""Threads, processes and interrupts: which transaction is current, what a fork gets, and what Ctrl-C leaves behind."""

from __future__ import annotations

import contextvars
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql
import pytest

import syncpoint
from syncpoint.errors import JournalUncertain
from syncpoint.manager.reports import OutcomeState
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import raises
from tests.crash.trap import Trap
from tests.manager.conftest import AsyncBench as Bench

# --- which transaction is current ----------------------------------------------------------------------------


def test_current_is_the_innermost_of_this_context(bench: Bench) -> None:
    one, other = bench.manager(), bench.manager(journal="other")
    assert syncpoint.current() is None
    with one.transaction() as outer:
        assert syncpoint.current() is outer
        with other.transaction() as inner:  # another manager: not nested
            assert syncpoint.current() is inner
            assert inner is not outer
            with one.transaction() as nested:
                assert nested is outer
                assert syncpoint.current() is outer
        assert syncpoint.current() is outer
    assert syncpoint.current() is None


def test_a_new_thread_sees_none_and_begins_its_own(bench: Bench) -> None:
    manager = bench.manager()
    seen: list[Any] = []

    def work() -> None:
        seen.append(syncpoint.current())
        with manager.transaction() as own:
            bench.put(own, key="own")
            seen.append(own)

    with manager.transaction() as tx:
        bench.put(tx)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert bench.rows("own") == "ab"
        assert bench.rows() == ""
    assert seen[0] is None
    assert seen[1] is not tx


def test_a_copied_context_works_in_the_same_transaction(bench: Bench) -> None:
    manager = bench.manager()

    def work() -> None:
        with manager.transaction() as nested:
            bench.put(nested, key="thread")

    with manager.transaction() as tx:
        bench.put(tx)
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(work))
        thread.start()
        thread.join()
        assert bench.rows("thread") == ""
    assert bench.rows("thread") == bench.rows() == "ab"


def test_a_block_that_ends_in_another_context(bench: Bench) -> None:
    """A generator: begun in one context, closed in another."""
    manager = bench.manager()

    def work() -> Iterator[None]:
        with manager.transaction() as tx:
            bench.put(tx)
            yield

    generator = work()
    contextvars.Context().run(next, generator)
    with raises(StopIteration):
        next(generator)
    assert bench.rows() == "ab"
    assert syncpoint.current() is None


# --- fork ----------------------------------------------------------------------------------------------------------


def _in_child(do: Callable[[], Any]) -> Any:
    """Fork; what `do` returns in the child, as JSON. The child never returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = json.dumps({"answer": do()})
        except BaseException:
            answer = json.dumps({"error": traceback.format_exc()})
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert "error" not in said, said["error"]
    return said["answer"]


def test_a_forked_child_is_another_incarnation_and_the_parent_goes_on(bench: Bench) -> None:
    manager = bench.manager(background=True)
    with manager.transaction() as tx:
        bench.put(tx)
    parent = manager.incarnation

    def work() -> Any:
        with manager.transaction() as tx:
            bench.put(tx, key="child")
        manager.close()
        return manager.incarnation, tx.attempt

    incarnation, attempt = _in_child(work)
    assert incarnation > parent
    assert attempt.startswith(f"{incarnation}.")
    with manager.transaction() as tx:
        bench.put(tx, key="parent")
    assert manager.incarnation == parent
    assert bench.rows("parent") == "ab"


def test_a_transaction_of_the_parent_cannot_be_used_in_the_child(bench: Bench) -> None:
    manager = bench.manager()
    with manager.transaction() as tx:
        bench.put(tx)

        def work() -> Any:
            said = []
            for use in (lambda: tx.connect("a"), lambda: tx.set_result(1)):
                try:
                    use()
                except syncpoint.TransactionEnded as error:
                    said.append(type(error).__name__)
            with manager.transaction() as own:  # not nested in the parent's
                said.append(str(own is not tx))
            try:
                manager._commit(tx)
            except syncpoint.TransactionAborted as error:
                said.append(type(error).__name__)
            manager._abort(tx, ValueError())
            return said

        assert _in_child(work) == ["TransactionEnded", "TransactionEnded", "True", "TransactionAborted"]
        bench.put(tx, key="later")
    assert bench.rows() == bench.rows("later") == "ab"
    bench.assert_quiet()


def test_a_fork_leaves_the_parents_connections_alone(postgres_url: str, mariadb_url: str, tmp_path: Path) -> None:
    resources = {"bank": postgres_url, "ledger": mariadb_url, "audit": f"sqlite:///{tmp_path}/audit.db"}
    with syncpoint.TransactionManager(tmp_path / "journal", resources) as manager:
        with manager.transaction() as tx:
            for name in resources:
                tx.connect(name).cursor().execute("SELECT 1")
        with manager.transaction() as tx:
            tx.connect("bank").execute("SELECT pg_backend_pid()")

            def work() -> Any:
                with manager.transaction() as own:
                    (pid,) = own.connect("bank").execute("SELECT pg_backend_pid()").fetchone()
                    own.connect("ledger").cursor().execute("SELECT 1")
                    own.connect("audit").cursor().execute("SELECT 1")
                manager.close()
                return pid

            mine = tx.connect("bank").execute("SELECT pg_backend_pid()").fetchone()[0]
            assert _in_child(work) != mine
            assert tx.connect("bank").execute("SELECT pg_backend_pid()").fetchone()[0] == mine


def test_what_a_dead_child_left_the_parent_finishes(postgres_url: str, mariadb_url: str, tmp_path: Path) -> None:
    """The child dies right after its decision; the parent's background notices and commits both branches."""
    resources = {"bank": postgres_url, "ledger": mariadb_url}
    make, fill, count = "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)", "SELECT count(*) FROM t"
    ledger = pymysql.connect(**_account(mariadb_url), autocommit=True)
    with (
        ledger,
        psycopg.connect(postgres_url, autocommit=True) as bank,
        syncpoint.TransactionManager(tmp_path / "journal", resources) as manager,
    ):
        bank.execute(make)
        ledger.cursor().execute(make)
        with manager.transaction() as tx:  # connections that the child inherits and must not touch
            for name in resources:
                tx.connect(name).cursor().execute(count)
        child = os.fork()
        if child == 0:
            try:
                trap = Trap()
                manager._ensure_current_process()
                trap.watch(manager._runner)
                trap.before("COMMIT bank, COMMIT ledger", lambda: os.kill(os.getpid(), signal.SIGKILL))
                with manager.transaction(id="x") as tx:
                    for name in resources:
                        tx.connect(name).cursor().execute(fill)
            finally:
                os._exit(3)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL

        def counted() -> tuple[int, int]:
            (in_bank,) = bank.execute(count).fetchone() or (0,)
            with ledger.cursor() as cursor:
                cursor.execute(count)
                (in_ledger,) = cursor.fetchone() or (0,)
            return in_bank, in_ledger

        wait_until(lambda: counted() == (1, 1), "both branches are committed", 20.0)
        assert manager.outcome("x").state is OutcomeState.COMMITTED


def _account(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "password": parts.password,
        "database": parts.path[1:],
    }


# --- two processes, one id -----------------------------------------------------------------------------------------

WORKER = """
import sys, syncpoint
journal, url, mode = sys.argv[1:]
with syncpoint.TransactionManager(journal, {"bank": url}, background=False) as manager:
    def work(tx, n):
        tx.connect("bank").execute("INSERT INTO t VALUES (%s)", (n,))
        if mode == "hold":
            print("inside", flush=True)
            sys.stdin.readline()
        return n
    work.__module__ = "w"
    try:
        print(manager.run(work, 1 if mode != "other" else 2, id="x"), flush=True)
    except syncpoint.SyncpointError as error:
        print(type(error).__name__, flush=True)
"""


def _worker(tmp_path: Path, url: str, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(tmp_path / "journal"), url, mode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_one_id_in_several_processes(postgres_url: str, tmp_path: Path) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as bank:
        bank.execute("CREATE TABLE t (n int)")
        first = _worker(tmp_path, postgres_url, "hold")
        assert first.stdout is not None
        assert first.stdout.readline() == "inside\n"
        assert _worker(tmp_path, postgres_url, "go").communicate(timeout=30.0)[0] == "TransactionRunning\n"
        assert first.communicate("go\n", timeout=30.0)[0] == "1\n"
        later = [_worker(tmp_path, postgres_url, mode) for mode in ("go", "other")]
        assert [one.communicate(timeout=30.0)[0] for one in later] == ["1\n", "DifferentRequest\n"]
        assert bank.execute("SELECT n FROM t").fetchall() == [(1,)]


# --- interrupts --------------------------------------------------------------------------------------------------


INTERRUPTED_AT = ["prepare", "PREPARE a, PREPARE b", "the decision", "COMMIT a, COMMIT b", "commit"]


@pytest.mark.parametrize("what", INTERRUPTED_AT)
def test_an_interrupt_in_the_middle_of_a_commit_is_settled(bench: Bench, what: str) -> None:
    manager = bench.manager(background=True)
    trap = Trap()
    trap.watch(manager._runner)

    def interrupt() -> None:
        raise KeyboardInterrupt

    trap.before(bench.place.forcing if what == "the decision" else what, interrupt)
    with raises(KeyboardInterrupt), manager.transaction(id="x") as tx:
        bench.put(tx)
    wait_until(lambda: not manager._core.live and bench.in_doubt() == "", "it is settled", 10.0)
    assert bench.rows() in ("", "ab")
    wait_until(lambda: manager.in_doubt() == [], "nothing is left", 10.0)
    state = manager.outcome("x").state
    assert state is (OutcomeState.COMMITTED if bench.rows() else OutcomeState.ABORTED_OR_UNKNOWN)
    bench.assert_quiet()
    with manager.transaction() as tx:
        bench.put(tx, value=2)


@pytest.mark.parametrize("what", ["commit_one_phase", "abort"])
def test_an_interrupt_of_a_lone_writer(bench: Bench, what: str) -> None:
    manager = bench.manager(background=True)
    trap = Trap()
    trap.watch(manager._runner)

    def interrupt() -> None:
        raise KeyboardInterrupt

    trap.before(what, interrupt)
    with raises((KeyboardInterrupt, ZeroDivisionError)), manager.transaction() as tx:
        bench.put(tx, "a")
        if what == "abort":
            raise ZeroDivisionError
    wait_until(lambda: not bench.a.locked(), "its locks are gone", 10.0)
    with manager.transaction() as tx:
        bench.put(tx, value=2)
    assert bench.a.rows() == {"k": b"2"}
    bench.assert_quiet()


def test_an_interrupt_of_the_users_own_code_aborts(bench: Bench) -> None:
    manager = bench.manager()
    with raises(KeyboardInterrupt), manager.transaction() as tx:
        bench.put(tx)
        raise KeyboardInterrupt
    assert bench.rows() == ""
    bench.assert_quiet()


# --- a journal that does not answer --------------------------------------------------------------------------------


@pytest.mark.parametrize("arrived", [True, False])
def test_a_force_whose_reply_is_lost_is_settled_by_abort(bench: Bench, arrived: bool) -> None:
    """O46, with the folder journal made to behave as a remote one."""
    manager = bench.manager()
    journal = manager._core.journal
    force, lost = journal.force, iter([True])

    def lose_one(records: Any) -> Any:
        if records and next(lost, False):
            if arrived:
                yield from force(records)
            raise JournalUncertain("the reply was lost")
        return (yield from force(records))

    journal.force = lose_one  # type: ignore[method-assign]
    if arrived:
        with manager.transaction(id="x") as tx:
            bench.put(tx)
    else:
        with raises(syncpoint.TransactionAborted), manager.transaction(id="x") as tx:
            bench.put(tx)
    assert bench.rows() == ("ab" if arrived else "")
    state = manager.outcome("x").state
    assert state is (OutcomeState.COMMITTED if arrived else OutcomeState.ABORTED_OR_UNKNOWN)
    bench.assert_quiet()
