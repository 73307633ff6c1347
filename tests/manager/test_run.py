"""`manager.run`: tries again what may succeed, never what may have happened, and stops in time."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost
from syncpoint.manager.base import request_fingerprint
from syncpoint.resources.base import Answer, Choice, Evidence, Vote
from syncpoint.resources.memory import LostReply, RowLocked
from tests.crash.world import BANK
from tests.manager.conftest import AsyncBench as Bench

BUSY = Vote(Choice.NO, reason="serialization failure", retryable=True)
NEVER = Vote(Choice.NO, reason="a constraint", retryable=False)


class Work:
    """Counts how often it is called."""

    def __init__(self, bench: Bench, resources: str = "ab") -> None:
        self.bench = bench
        self.resources = resources
        self.calls = 0

    def __call__(self, tx: Any, value: int = 1) -> int:
        self.calls += 1
        self.bench.put(tx, self.resources, value=value)
        return self.calls


def test_a_serialization_failure_is_tried_again(bench: Bench) -> None:
    manager, work = bench.manager(), Work(bench)
    bench.b.answers["prepare"].extend([BUSY, BUSY])
    assert manager.run(work, 7) == 3
    assert bench.a.rows() == {"k": b"7"}
    bench.assert_quiet()


def test_what_can_never_succeed_is_not(bench: Bench) -> None:
    manager, work = bench.manager(), Work(bench)
    bench.b.answers["prepare"].append(NEVER)
    with pytest.raises(syncpoint.TransactionAborted, match="a constraint") as caught:
        manager.run(work)
    assert not caught.value.retryable
    assert work.calls == 1


def test_one_no_that_is_final_outweighs_one_that_is_not(bench: Bench) -> None:
    manager, work = bench.manager(), Work(bench)
    bench.a.answers["prepare"].append(BUSY)
    bench.b.answers["prepare"].append(NEVER)
    with pytest.raises(syncpoint.TransactionAborted):
        manager.run(work)
    assert work.calls == 1


def test_the_same_for_a_lone_writer(bench: Bench) -> None:
    manager, work = bench.manager(), Work(bench, "a")
    bench.a.answers["commit_one_phase"].append(BUSY)
    assert manager.run(work) == 2
    bench.a.answers["commit_one_phase"].append(NEVER)
    with pytest.raises(syncpoint.TransactionAborted, match="a constraint"):
        manager.run(work)
    assert work.calls == 3


def test_a_database_error_of_the_kind_that_passes_is_tried_again(bench: Bench) -> None:
    manager, tries = bench.manager(), []

    def work(tx: Any) -> str:
        bench.put(tx)
        tries.append(1)
        if len(tries) < 3:
            raise RowLocked("somebody was first")
        return "done"

    assert manager.run(work) == "done"
    assert len(tries) == 3


def test_the_users_own_errors_are_not(bench: Bench) -> None:
    manager, tries = bench.manager(), []

    def work(tx: Any) -> None:
        tries.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        manager.run(work)
    assert len(tries) == 1


@pytest.mark.parametrize("error", [ConnectionLost("gone"), syncpoint.ResourceUnavailable("away")])
def test_nor_what_is_unreachable(bench: Bench, error: Exception) -> None:
    manager, tries = bench.manager(), []

    def work(tx: Any) -> None:
        tries.append(1)
        raise error

    with pytest.raises(type(error)):
        manager.run(work)
    assert len(tries) == 1


def test_what_may_have_happened_is_never_tried_again(bench: Bench) -> None:
    manager, work = bench.manager(), Work(bench, "a")
    bench.a.answers["commit_one_phase"].append(LostReply())
    bench.a.answers["settle"].append(Evidence.UNDECIDED)
    with pytest.raises(syncpoint.OutcomePending):
        manager.run(work)
    bench.a.answers["commit_one_phase"].append(Answer.HEURISTIC_HAZARD)
    with pytest.raises(syncpoint.HeuristicHazard):
        manager.run(work)
    assert work.calls == 2


def test_tries_end_with_the_timeout(bench: Bench) -> None:
    manager, work = bench.manager(), Work(bench)
    bench.b.answers["prepare"].extend([BUSY] * 10_000)
    with pytest.raises(syncpoint.TransactionAborted):
        manager.run(work, timeout=0.3)
    assert work.calls > 1
    bench.b.answers.clear()
    bench.assert_quiet()


def test_a_timeout_is_not_tried_again(bench: Bench) -> None:
    manager, tries = bench.manager(), []
    done = threading.Event()

    def work(tx: Any) -> None:
        tries.append(1)
        bench.put(tx)
        done.wait(0.15)  # longer than its time

    with pytest.raises(syncpoint.TransactionTimeout):
        manager.run(work, timeout=0.1)
    assert len(tries) == 1
    assert bench.rows() == ""


def test_the_same_id_is_run_once_and_its_result_comes_back(bench: Bench) -> None:
    manager, work = bench.manager(), Work(bench)
    bench.b.answers["prepare"].append(BUSY)
    assert manager.run(work, 1, id="x") == 2
    assert manager.run(work, 1, id="x") == 2
    assert work.calls == 2


def test_fingerprints(bench: Bench) -> None:
    def one(tx: Any, *args: Any) -> None: ...

    def other(tx: Any, *args: Any) -> None: ...

    prints = [
        request_fingerprint(one, (1, "a"), "x", None),
        request_fingerprint(one, (1, "b"), "x", None),
        request_fingerprint(other, (1, "a"), "x", None),
        request_fingerprint(one, (1, "a"), "x", "given"),
        request_fingerprint(one, (1, "a"), "x", b"other"),
    ]
    assert len(set(prints)) == len(prints)
    assert request_fingerprint(one, (1, "a"), "x", None) == prints[0]
    assert request_fingerprint(one, (1, "a"), None, None) == b""
    # What is no plain value enters by its type's name: the same for two objects of one type.
    assert request_fingerprint(one, (object(),), "x", None) == request_fingerprint(one, (object(),), "x", None)


def test_serialization_failures_of_a_real_database(postgres_url: str, tmp_path: Any) -> None:
    """Two SERIALIZABLE transactions that cannot both commit: the second try sees the first one's rows."""
    with syncpoint.TransactionManager(tmp_path / "journal", {BANK: postgres_url}, background=False) as manager:
        with manager.transaction() as tx:
            tx.connect(BANK).execute("CREATE TABLE t (n int)")
            tx.connect(BANK).execute("INSERT INTO t VALUES (1)")
        both = threading.Barrier(2)
        tries: list[int] = []

        def work(tx: Any) -> None:
            bank = tx.connect(BANK)
            bank.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            (total,) = bank.execute("SELECT sum(n) FROM t").fetchone()
            tries.append(total)
            if len(tries) <= 2:
                both.wait(20.0)
            bank.execute("INSERT INTO t VALUES (%s)", (total,))

        threads = [threading.Thread(target=manager.run, args=(work,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with manager.transaction() as tx:
            rows = tx.connect(BANK).execute("SELECT n FROM t ORDER BY n").fetchall()
    assert rows == [(1,), (1,), (2,)]
    assert len(tries) >= 3
