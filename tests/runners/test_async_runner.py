"""Scripts on an event loop: cancellation at every step, shielding, blocking work, background, close and fork."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from syncpoint.errors import ConfigurationError, ManagerClosed
from syncpoint.runners import Stopped
from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.points import StepPoint
from syncpoint.steps import Batch, Blocking, Call, Done, Failed, Gather, Local, Script, Sleep, Step, Wait

BOUND_S = 10.0
name_of_request: contextvars.ContextVar[str] = contextvars.ContextVar("name_of_request", default="none")


@asynccontextmanager
async def a_runner() -> AsyncIterator[AsyncRunner]:
    runner = AsyncRunner()
    try:
        yield runner
    finally:
        await runner.close()
        await eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("syncpoint-")])
        assert not runner._tasks


async def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.001)


def one(step: Step) -> Script[Any]:
    return (yield step)


async def give(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def fail(error: BaseException) -> Any:
    raise error


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 3 * BOUND_S))


def test_a_script_gets_results_and_errors_at_its_yields() -> None:
    def script() -> Script[list[Any]]:
        seen: list[Any] = []
        seen.append((yield Call(lambda: give(1), "call")))
        seen.append((yield Blocking(lambda: threading.current_thread() is threading.main_thread(), "blocking")))
        seen.append((yield Local(lambda: 3, "local")))
        for error in (ValueError("a"), LookupError("b"), KeyboardInterrupt("c")):
            try:
                yield Blocking(lambda error=error: fail(error), "fails")
            except BaseException as caught:
                seen.append(caught is error)
        return seen

    async def main() -> None:
        async with a_runner() as runner:
            assert await runner.run(script()) == [1, False, 3, True, True, True]
            with pytest.raises(ZeroDivisionError):
                await runner.run(one(Local(lambda: 1 // 0, "boom")))

    run(main())


def test_gather_runs_side_by_side_and_keeps_the_order() -> None:
    async def main() -> None:
        async with a_runner() as runner:
            barrier = asyncio.Barrier(3)
            name_of_request.set("r1")

            def branch(number: int) -> Script[Any]:
                yield Call(barrier.wait, "meet the others")
                if number == 1:
                    raise ValueError(number)
                return number, name_of_request.get(), (yield Blocking(name_of_request.get, "in a thread"))

            zero, failed, two = await runner.run(one(Gather([branch(number) for number in range(3)], "three")))
            assert (zero, two) == (Done((0, "r1", "r1")), Done((2, "r1", "r1")))
            assert isinstance(failed, Failed)
            assert isinstance(failed.error, ValueError)
            assert await runner.run(one(Gather([], "none"))) == []

    run(main())


def every_step(runner: AsyncRunner, log: list[str]) -> Script[None]:
    """One step of each kind; whatever happens, its cleaning up, which is steps too, runs to the end."""
    batcher = runner.batcher(lambda items: items, "journal")
    never = runner.signal()
    try:
        yield Call(lambda: give(1), "call")
        yield Local(lambda: None, "local")
        yield Blocking(lambda: time.sleep(0.005), "blocking")
        yield Batch(batcher, 1, "force")
        yield Gather([one(Sleep(0.005)), one(Call(lambda: give(2), "inner"))], "two")
        yield Wait(never, 0.005)
        yield Sleep(0.005)
        log.append("reached the end")
    except asyncio.CancelledError:
        log.append("cancelled")
        yield Call(lambda: give(3), "abort")
        yield Blocking(lambda: None, "release")
        log.append("cleaned up")
        raise


STEPS = 9  # seven of the script, two of its Gather


@pytest.mark.parametrize("number", range(STEPS + 1))
def test_cancelled_at_every_step_a_script_cleans_up(number: int) -> None:
    async def main() -> None:
        async with a_runner() as runner:
            log: list[str] = []
            task = asyncio.ensure_future(runner.run(every_step(runner, log)))
            seen = 0

            def observer(point: StepPoint, step: Step) -> None:
                nonlocal seen
                seen += 1
                if seen == number + 1:
                    task.cancel()

            runner.observer = observer
            await asyncio.wait([task])
            if number < STEPS:
                assert task.cancelled()
                assert log == ["cancelled", "cleaned up"]
            else:
                assert (log, seen) == (["reached the end"], STEPS)

    run(main())


@pytest.mark.parametrize("number", range(STEPS))
def test_cancelled_at_every_step_a_shielded_script_runs_to_its_end(number: int) -> None:
    async def main() -> None:
        async with a_runner() as runner:
            log: list[str] = []
            told: list[str] = []
            task = asyncio.ensure_future(runner.run_shielded(every_step(runner, log), lambda: told.append("told")))
            seen = 0

            def observer(point: StepPoint, step: Step) -> None:
                nonlocal seen
                seen += 1
                if seen > number:
                    task.cancel()  # and again at every later step

            runner.observer = observer
            await asyncio.wait([task])
            assert task.cancelled()
            assert log == ["reached the end"]
            assert told == ["told"]

    run(main())


def test_a_timeout_around_a_shielded_script_is_a_timeout_after_its_end() -> None:
    async def main() -> None:
        async with a_runner() as runner:
            log: list[str] = []

            def script() -> Script[str]:
                yield Sleep(0.05)
                log.append("ended")
                return "value"

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await runner.run_shielded(script())
            assert log == ["ended"]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(runner.run_shielded(script()), 0.01)
            assert log == ["ended", "ended"]
            assert await runner.run_shielded(script()) == "value"

    run(main())


def test_the_error_of_a_shielded_script_is_the_cause_of_the_cancellation() -> None:
    async def main() -> None:
        async with a_runner() as runner:

            def script() -> Script[None]:
                yield Sleep(0.02)
                raise ValueError("the database said no")

            with pytest.raises(ValueError, match="said no"):
                await runner.run_shielded(script())
            task = asyncio.ensure_future(runner.run_shielded(script(), lambda: fail(RuntimeError("a bad callback"))))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert isinstance(caught.value.__cause__, ValueError)

    run(main())


def test_a_cancelled_gather_tells_every_script_and_leaves_none_behind() -> None:
    async def main() -> None:
        async with a_runner() as runner:
            log: list[str] = []

            def branch(name: str) -> Script[None]:
                try:
                    yield Sleep(1000.0)
                finally:
                    yield Sleep(0.01)
                    log.append(name)

            task = asyncio.ensure_future(runner.run(one(Gather([branch("a"), branch("b")], "two"))))
            await eventually(lambda: len(runner._waiters) == 2)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert sorted(log) == ["a", "b"]

    run(main())


def test_a_cancelled_blocking_step_is_awaited_first() -> None:
    """Nobody may use a connection while a thread is still inside it."""

    async def main() -> None:
        async with a_runner() as runner:
            started, release = threading.Event(), threading.Event()
            log: list[str] = []

            def work() -> None:
                started.set()
                release.wait(BOUND_S)
                log.append("thread has ended")

            def script() -> Script[None]:
                try:
                    yield Blocking(work, "statement")
                finally:
                    log.append("script goes on")

            task = asyncio.ensure_future(runner.run(script()))
            await eventually(started.is_set)
            task.cancel()
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.01)
            assert log == []
            release.set()
            await asyncio.wait([task])
            assert task.cancelled()
            assert log == ["thread has ended", "script goes on"]

    run(main())


def test_waiting_blocking_steps_starve_neither_each_other_nor_the_journal() -> None:
    async def main() -> None:
        async with a_runner() as runner:
            release = threading.Event()
            batcher = runner.batcher(lambda items: items, "journal")
            waiting = [asyncio.ensure_future(runner.run(one(Blocking(release.wait, "lock")))) for _ in range(60)]
            await asyncio.sleep(0)
            assert await runner.run(one(Batch(batcher, "decision", "force"))) == "decision"
            assert await runner.run(one(Blocking(lambda: "commit", "of the lock's holder"))) == "commit"
            release.set()
            assert await asyncio.gather(*waiting) == [True] * 60

    run(main())


def test_a_signal_can_be_set_from_any_thread() -> None:
    async def main() -> None:
        async with a_runner() as runner:
            flag = runner.signal()
            assert await runner.run(one(Wait(flag, 0.01))) is False
            waiting = asyncio.ensure_future(runner.run(one(Wait(flag, BOUND_S))))
            await eventually(lambda: len(flag._waiters) == 1)

            def pulse() -> None:
                flag.set()
                flag.clear()

            thread = threading.Thread(target=pulse)
            thread.start()
            assert await waiting is True
            thread.join()
            assert await runner.run(one(Wait(flag, 0.0))) is False
            flag.set()
            assert await runner.run(one(Wait(flag, None))) is True

    run(main())


def test_stop_wakes_a_sleeping_loop_from_any_thread() -> None:
    async def main() -> None:
        async with a_runner() as runner:
            rounds: list[str] = []

            def loop() -> Script[None]:
                try:
                    while True:
                        rounds.append("work")
                        yield Sleep(1000.0)
                except Stopped:
                    yield Call(lambda: give(1), "clean up")
                    rounds.append("cleaned up")
                    raise

            first, second = runner.spawn(loop(), "first"), runner.spawn(loop(), "second")
            await eventually(lambda: len(rounds) == 2)
            gc.collect()  # nothing but the runner refers to these tasks
            first.stop()
            await asyncio.to_thread(second.stop)
            assert await first.join(BOUND_S)
            assert await second.join(BOUND_S)
            assert rounds == ["work", "work", "cleaned up", "cleaned up"]
            assert await runner.run(one(Wait(first.ended, BOUND_S))) is True
            assert (first.error, second.error) == (None, None)
            assert not await runner.spawn(loop(), "third").join(0.01)

    run(main())


def test_an_error_that_ends_background_work_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with a_runner() as runner:
            handle = runner.spawn(one(Local(lambda: 1 // 0, "boom")), "doomed work")
            assert await handle.join(BOUND_S)
            assert isinstance(handle.error, ZeroDivisionError)

    run(main())
    assert "doomed work" in caplog.text


def test_close_wakes_sleepers_waits_for_shielded_work_and_refuses_what_comes_later() -> None:
    async def main() -> None:
        async with a_runner() as runner:
            log: list[str] = []

            def commit() -> Script[None]:
                yield Call(lambda: asyncio.sleep(0.05), "commit")
                log.append("committed")

            sleeper = asyncio.ensure_future(runner.run(one(Sleep(1000.0))))
            shielded = asyncio.ensure_future(runner.run_shielded(commit()))
            await eventually(lambda: len(runner._tasks) == 1 and len(runner._waiters) == 1)
            await runner.close()
            assert log == ["committed"]
            with pytest.raises(ManagerClosed):
                await sleeper
            await shielded
            for refused in (lambda: runner.run(one(Sleep(0.0))), lambda: runner.run_shielded(one(Sleep(0.0)))):
                await expect_closed(refused)
            assert repr(runner) == "<AsyncRunner closed>"

    run(main())


async def expect_closed(call: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(ManagerClosed):
        await call()


def test_another_event_loop_is_refused() -> None:
    runner = AsyncRunner()
    asyncio.run(runner.run(one(Sleep(0.0))))
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(runner.run(one(Sleep(0.0))))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_can_use_the_runner_anew() -> None:
    async def main() -> None:
        async with a_runner() as runner:
            cleaned: list[str] = []

            def in_parent() -> Script[None]:
                try:
                    yield Sleep(1000.0)
                finally:
                    cleaned.append("touched the parent's connection")

            batcher = runner.batcher(lambda items: items, "journal")
            background = runner.spawn(in_parent(), "of the parent")
            assert await runner.run(one(Batch(batcher, "x", "force"))) == "x"
            pid = os.fork()
            if pid == 0:
                try:
                    os._exit(in_child(runner, batcher, cleaned))
                finally:
                    os._exit(2)
            await eventually(lambda: os.waitpid(pid, os.WNOHANG) == (pid, 0))
            background.stop()
            assert await background.join(BOUND_S)

    run(main())


def in_child(runner: AsyncRunner, batcher: Any, cleaned: list[str]) -> int:
    runner.after_fork()
    gc.collect()

    async def main() -> bool:
        forced = await runner.run(one(Batch(batcher, "y", "force")))
        blocked = await runner.run(one(Blocking(lambda: 5, "thread")))
        handle = runner.spawn(one(Sleep(1000.0)), "of the child")
        await asyncio.sleep(0)
        handle.stop()
        stopped = await handle.join(BOUND_S)
        await runner.close()
        return (forced, blocked, stopped) == ("y", 5, True)

    ok = asyncio.new_event_loop().run_until_complete(main())
    gc.collect()
    return 0 if ok and not cleaned else 1
