"""The asyncio facade: the same rules, and what is its own: tasks, cancellation, shielded commits."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

import syncpoint
from syncpoint.manager.reports import OutcomeState
from syncpoint.resources.base import Answer, Choice, Vote
from syncpoint.testing.servers.base import ServerFailed
from tests.conformance.conftest import raises
from tests.crash.trap import Trap
from tests.manager.conftest import AsyncBench

is_untraced = pytest.mark.skipif(
    sys.gettrace() is not None and sys.version_info < (3, 12),
    reason="CPython 3.11 loses its `with` and `except` where an error is thrown into a traced coroutine",
)


async def _until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise ServerFailed(f"Waited in vain: {what}.")


def test_the_whole_of_it(bench: AsyncBench) -> None:
    async def main() -> None:
        called: list[str] = []

        async def later() -> None:
            called.append("coroutine")

        async def fail() -> None:
            raise ValueError("in a callback")

        async with bench.running(background=True) as manager:
            assert repr(manager).startswith("<AsyncTransactionManager open")
            async with manager.transaction(id="x") as tx:
                assert syncpoint.current() is tx
                await bench.write(tx)
                with raises(ZeroDivisionError):
                    async with manager.transaction() as nested:
                        assert nested is tx
                        await bench.write(nested, key="dropped")
                        nested.after_commit(lambda: called.append("dropped"))
                        raise ZeroDivisionError
                async with manager.transaction() as nested:
                    await bench.write(nested, key="kept")
                tx.after_commit(lambda: called.append("function"))
                tx.after_commit(fail)
                tx.after_commit(later)
                tx.set_result([1])
            assert called == ["function", "coroutine"]
            assert bench.rows() == bench.rows("kept") == "ab"
            assert bench.rows("dropped") == ""
            told = await manager.outcome("x")
            assert (told.state, told.result) == (OutcomeState.COMMITTED, [1])
            with pytest.raises(syncpoint.AlreadyCommitted):
                async with manager.transaction(id="x", fingerprint="f"):
                    pass
        assert "closed" in repr(manager)
        with pytest.raises(syncpoint.ManagerClosed):
            await manager.in_doubt()
        await manager.close()

    asyncio.run(main())
    bench.assert_quiet()


def test_aborts(bench: AsyncBench) -> None:
    async def main() -> None:
        async with bench.running() as manager:
            with raises(ZeroDivisionError):
                async with manager.transaction() as tx:
                    await bench.write(tx)
                    raise ZeroDivisionError
            bench.b.answers["prepare"].append(Vote(Choice.NO, reason="no"))
            with pytest.raises(syncpoint.TransactionAborted):
                async with manager.transaction() as tx:
                    await bench.write(tx)
            with pytest.raises(syncpoint.UnknownResource):
                async with manager.transaction() as tx:
                    await tx.connect("nowhere")
            with pytest.raises(syncpoint.ConfigurationError):
                async with manager.transaction(), manager.transaction(id="x"):
                    pass

    asyncio.run(main())
    assert bench.rows() == ""
    bench.assert_quiet()


def test_run_and_decorator(bench: AsyncBench) -> None:
    async def main() -> None:
        async with bench.running() as manager:
            tries: list[int] = []

            async def work(tx: Any, value: int) -> int:
                tries.append(value)
                await bench.write(tx, value=value)
                return len(tries)

            bench.b.answers["prepare"].append(Vote(Choice.NO, reason="busy", retryable=True))
            assert await manager.run(work, 5, id="x") == 2
            assert await manager.run(work, 5, id="x") == 2
            with pytest.raises(syncpoint.DifferentRequest):
                await manager.run(work, 6, id="x")
            bench.b.answers["prepare"].append(Vote(Choice.NO, reason="never"))
            with pytest.raises(syncpoint.TransactionAborted):
                await manager.run(work, 7)
            assert await manager.run(work, 8) == 4
            bench.b.answers["prepare"].extend([Vote(Choice.NO, reason="busy", retryable=True)] * 1000)
            with pytest.raises(syncpoint.TransactionAborted):
                await manager.run(work, 9, timeout=0.2)
            bench.b.answers.clear()

            @manager.transaction()
            async def decorated() -> int:
                await bench.write(syncpoint.current(), key="decorated")
                return 7

            assert await decorated() == 7
            with pytest.raises(syncpoint.ConfigurationError):
                manager.transaction(id="y")(decorated)

    asyncio.run(main())
    assert bench.rows("decorated") == "ab"
    assert bench.a.rows()["k"] == b"8"


def test_each_task_has_its_own_transaction(bench: AsyncBench) -> None:
    async def main() -> None:
        async with bench.running() as manager:

            async def work(number: int) -> None:
                assert syncpoint.current() is None
                async with manager.transaction() as tx:
                    await bench.write(tx, key=f"row {number}")
                    assert syncpoint.current() is tx

            await asyncio.gather(*(work(number) for number in range(20)))

    asyncio.run(main())
    assert len(bench.a.rows()) == len(bench.b.rows()) == 20
    bench.assert_quiet()


def test_tasks_inside_a_block_share_it_and_its_branches(bench: AsyncBench) -> None:
    async def main() -> None:
        async with bench.running() as manager, manager.transaction() as tx:

            async def work(number: int) -> None:
                assert syncpoint.current() is tx
                await bench.write(tx, key=f"row {number}")

            await asyncio.gather(*(work(number) for number in range(10)))

    asyncio.run(main())
    assert len(bench.a.rows()) == len(bench.b.rows()) == 10
    assert bench.calls("a", "begin") == ["begin"]
    bench.assert_quiet()


# --- cancellation -------------------------------------------------------------------------------------------------


@is_untraced
@pytest.mark.parametrize(
    ("what", "committed"),
    [
        ("begin", False),
        ("row k", False),
        ("prepare", False),
        ("the decision", True),
        ("COMMIT a, COMMIT b", True),
        ("commit", True),
    ],
)
def test_cancelled_before_the_decision_it_aborts_later_it_finishes(
    bench: AsyncBench, what: str, committed: bool
) -> None:
    async def main() -> None:
        async with bench.running() as manager:
            trap = Trap()
            trap.watch(manager._runner)

            async def work() -> None:
                async with manager.transaction(id="x") as tx:
                    await bench.write(tx)

            task = asyncio.ensure_future(work())
            loop = asyncio.get_running_loop()
            step = bench.place.forcing if what == "the decision" else what
            trap.before(step, lambda: loop.call_soon_threadsafe(task.cancel))
            with pytest.raises(asyncio.CancelledError):
                await task
            await _until(lambda: not manager._core.live, "it ends")
            told = await manager.outcome("x")
            assert (told.state is OutcomeState.COMMITTED) == (bench.rows() == "ab")
            assert bench.rows() in ("", "ab")
            if not committed:
                assert bench.rows() == ""
            assert not (await manager.recover(wait_seconds=5.0)).left

    asyncio.run(main())
    bench.assert_quiet()


@is_untraced
def test_a_timeout_of_asyncio_aborts_too(bench: AsyncBench) -> None:
    async def main() -> None:
        async with bench.running() as manager:
            with raises(TimeoutError):
                async with asyncio.timeout(0.02), manager.transaction() as tx:
                    await bench.write(tx)
                    await asyncio.Event().wait()

    asyncio.run(main())
    assert bench.rows() == ""
    bench.assert_quiet()


@is_untraced
def test_cancelled_while_it_begins(bench: AsyncBench) -> None:
    async def main() -> None:
        async with bench.running() as manager:
            trap = Trap()
            trap.watch(manager._runner)

            async def work() -> None:
                async with manager.transaction(id="x"):
                    raise AssertionError("it went on")

            task = asyncio.ensure_future(work())
            loop = asyncio.get_running_loop()
            trap.before(bench.place.claiming, lambda: loop.call_soon_threadsafe(task.cancel))
            with pytest.raises(asyncio.CancelledError):
                await task
            await _until(lambda: not manager._core.live, "nothing is left of it")
            assert await manager.run(lambda tx: _one(), id="x") == 1  # the claim was given back

    async def _one() -> int:
        return 1

    asyncio.run(main())


# --- phase two, pending, closing -------------------------------------------------------------------------------------


def test_decided_pending_and_recovered(bench: AsyncBench) -> None:
    async def main() -> None:
        async with bench.running(background=True) as manager:
            async with manager.transaction(wait="decided") as tx:
                await bench.write(tx, key="decided")
            await _until(lambda: bench.rows("decided") == "ab", "phase two follows")
            bench.b.answers["commit"].append(Answer.RETRY)
            bench.b.answers["finish"].append(Answer.RETRY)
            async with manager.transaction() as tx:
                await bench.write(tx)
            assert tx.pending == {"b"}
            await _until(lambda: bench.rows() == "ab", "recovery finishes it")

    asyncio.run(main())
    bench.assert_quiet()


def test_close_waits_for_running_tasks(bench: AsyncBench) -> None:
    async def main() -> None:
        async with bench.running() as manager:
            inside, go = asyncio.Event(), asyncio.Event()

            async def work() -> None:
                async with manager.transaction() as tx:
                    await bench.write(tx)
                    inside.set()
                    await go.wait()

            task = asyncio.ensure_future(work())
            await inside.wait()
            closing = asyncio.ensure_future(manager.close())
            await _until(lambda: manager._core.closing, "it is closing")
            with pytest.raises(syncpoint.ManagerClosed):
                async with manager.transaction():
                    pass
            go.set()
            await task
            await closing

    # A new transaction is refused; the one under way commits.
    asyncio.run(main())
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_operators(bench: AsyncBench) -> None:
    key = bench.departed(decided=True)
    name = str(key.transaction)
    with bench.ghost("lost") as ghost:
        ghost.prepare(ghost.key(), "a", "lost")

    async def main() -> None:
        async with bench.running() as manager:
            assert len(await manager.in_doubt()) == 3
            assert len((await manager.show(name)).branches) == 2
            resolved = await manager.resolve(name, False, "a person says so")
            assert {one.answer for one in resolved} == {"ABORTED"}
            assert len(await manager.heuristics()) == 2
            assert await manager.forget(name) == 2
            await manager.adopt(str(ghost.journal.coordinator))
            assert (await manager.recover()).aborted == 1

    asyncio.run(main())
    assert bench.rows() == ""
    bench.assert_quiet()


def test_a_forked_child_of_an_asyncio_process(bench: AsyncBench) -> None:
    """The child uses the manager on a loop of its own; the parent's goes on."""

    async def transact(manager: syncpoint.AsyncTransactionManager, key: str) -> int:
        async with manager.transaction() as tx:
            await bench.write(tx, key=key)
        return manager.incarnation

    async def main() -> None:
        async with bench.running() as manager:
            parent = await transact(manager, "before")
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    asyncio.events._set_running_loop(None)
                    status = (
                        0 if asyncio.new_event_loop().run_until_complete(transact(manager, "child")) > parent else 2
                    )
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert await transact(manager, "after") == parent

    asyncio.run(main())
    assert bench.rows("after") == "ab"
    bench.assert_quiet()


def test_opening_twice_and_a_refused_open(bench: AsyncBench) -> None:
    async def main() -> None:
        bench.a.answers["contact"].append(syncpoint.SetupRefused("a lie"))
        with pytest.raises(syncpoint.SetupRefused):
            async with bench.running():
                pass
        async with bench.running() as manager:
            assert await manager.open() is manager

    asyncio.run(main())
    with raises(syncpoint.ConfigurationError):
        syncpoint.AsyncTransactionManager(bench.folder, bench.urls(), timeout=-1)
