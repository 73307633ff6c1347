"""Scripts on threads: Gather, errors, interrupts, background work, close and fork."""

from __future__ import annotations

import contextvars
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncpoint.errors import ManagerClosed
from syncpoint.runners import Stopped
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Batch, Blocking, Call, Done, Failed, Gather, Local, Script, Sleep, Step, Wait

BOUND_S = 10.0
name_of_request: contextvars.ContextVar[str] = contextvars.ContextVar("name_of_request", default="none")


@pytest.fixture
def runner() -> Iterator[ThreadRunner]:
    runner = ThreadRunner()
    yield runner
    runner.close()
    eventually(lambda: not own_threads())


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("syncpoint-")]


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


def one(step: Step) -> Script[Any]:
    return (yield step)


def fail(error: BaseException) -> Any:
    raise error


def test_a_script_gets_results_and_errors_at_its_yields(runner: ThreadRunner) -> None:
    def script() -> Script[list[Any]]:
        seen: list[Any] = []
        seen.append((yield Call(lambda: 1, "call")))
        seen.append((yield Blocking(lambda: 2, "blocking")))
        seen.append((yield Local(lambda: 3, "local")))
        for error in (ValueError("a"), StopIteration("b"), KeyboardInterrupt("c"), SystemExit(4), GeneratorExit()):
            try:
                yield Call(lambda error=error: fail(error), "fails")
            except BaseException as caught:
                seen.append(caught is error)
        return seen

    assert runner.run(script()) == [1, 2, 3, True, True, True, True, True]


def test_what_a_script_raises_reaches_the_caller(runner: ThreadRunner) -> None:
    with pytest.raises(ZeroDivisionError):
        runner.run(one(Local(lambda: 1 // 0, "boom")))


def test_a_script_that_is_driven_twice_is_refused(runner: ThreadRunner) -> None:
    scripts: list[Script[Any]] = []

    def script() -> Script[None]:
        yield Local(lambda: None, "first")
        runner.run(scripts[0])

    scripts.append(script())
    with pytest.raises(ValueError, match="already executing"):
        runner.run(scripts[0])


def test_gather_runs_side_by_side_and_keeps_the_order(runner: ThreadRunner) -> None:
    barrier = threading.Barrier(3, timeout=BOUND_S)
    name_of_request.set("r1")

    def branch(number: int) -> Script[Any]:
        yield Call(barrier.wait, "meet the others")
        if number == 1:
            raise ValueError(number)
        return number, name_of_request.get(), threading.current_thread() is threading.main_thread()

    zero, failed, two = runner.run(one(Gather([branch(number) for number in range(3)], "three")))
    assert zero == Done((0, "r1", True))  # the first runs in the caller's thread
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ValueError)
    assert two == Done((2, "r1", False))
    assert runner.run(one(Gather([], "none"))) == []


def test_nested_gathers_never_starve_each_other(runner: ThreadRunner) -> None:
    def tree(depth: int) -> Script[int]:
        if depth == 0:
            return (yield from one(Local(lambda: 1, "leaf")))
        parts = yield Gather([tree(depth - 1) for _ in range(4)], f"depth {depth}")
        return sum(part.value for part in parts)

    results: list[int] = []
    callers = [threading.Thread(target=lambda: results.append(runner.run(tree(3)))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(BOUND_S)
    assert results == [64] * 4


def test_gather_without_more_threads_runs_its_scripts_one_by_one(
    runner: ThreadRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    outcomes = runner.run(one(Gather([one(Local(lambda n=n: n, "n")) for n in range(3)], "three")))
    assert outcomes == [Done(0), Done(1), Done(2)]


def test_an_interrupted_gather_leaves_no_script_behind(runner: ThreadRunner) -> None:
    finished = threading.Event()

    def branch() -> Script[None]:
        yield Call(lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT), "Ctrl-C")
        yield Call(lambda: time.sleep(0.05), "still at work when the caller is interrupted")
        yield Local(finished.set, "done")

    def script() -> Script[str]:
        try:
            yield Gather([one(Local(lambda: None, "quick")), branch()], "two")
        except KeyboardInterrupt:
            return f"interrupted, the branch had finished: {finished.is_set()}"
        return "not interrupted"

    assert runner.run(script()) == "interrupted, the branch had finished: True"


def test_an_interrupt_meant_for_the_program_is_raised_out_of_a_gather(runner: ThreadRunner) -> None:
    with pytest.raises(KeyboardInterrupt):
        runner.run(one(Gather([one(Local(lambda: fail(KeyboardInterrupt()), "x")), one(Sleep(0.0))], "two")))


def test_interrupts_at_any_moment_are_given_to_the_script() -> None:
    """A storm of Ctrl-C: whatever they hit, the script ends, and nothing hangs."""
    seed = random.randrange(1 << 32)
    storm = [sys.executable, str(Path(__file__).with_name("interrupt_storm.py")), str(seed), "100"]
    done = subprocess.run(storm, timeout=6 * BOUND_S, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\nseed {seed}"


# --- Wait and Sleep --------------------------------------------------------------------------------------


def test_wait_says_whether_the_signal_was_set(runner: ThreadRunner) -> None:
    flag = runner.signal()
    assert runner.run(one(Wait(flag, 0.01))) is False
    threading.Timer(0.01, flag.set).start()
    assert runner.run(one(Wait(flag, BOUND_S))) is True
    assert runner.run(one(Wait(flag, None))) is True
    flag.clear()
    assert runner.run(one(Wait(flag, 0.0))) is False
    assert repr(flag) == "<Signal clear>"


def test_a_signal_cleared_at_once_still_wakes_who_was_waiting(runner: ThreadRunner) -> None:
    flag = runner.signal()
    results: list[bool] = []
    waiters = [threading.Thread(target=lambda: results.append(runner.run(one(Wait(flag, BOUND_S))))) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    eventually(lambda: len(flag._waiters) == 3)
    flag.set()
    flag.clear()
    for waiter in waiters:
        waiter.join(BOUND_S)
    assert results == [True] * 3


# --- background ------------------------------------------------------------------------------------------


def test_stop_wakes_a_sleeping_loop(runner: ThreadRunner) -> None:
    rounds: list[str] = []

    def loop() -> Script[None]:
        try:
            while True:
                yield Local(lambda: rounds.append("work"), "work")
                yield Sleep(1000.0)
        except Stopped:
            yield Local(lambda: rounds.append("cleaned up"), "clean up")
            raise

    handle = runner.spawn(loop(), "recovery")
    eventually(lambda: bool(rounds))
    assert repr(handle) == "<Background recovery running>"
    handle.stop()
    assert handle.join(BOUND_S)
    assert rounds == ["work", "cleaned up"]
    assert handle.error is None
    assert repr(handle) == "<Background recovery ended>"
    assert runner.run(one(Wait(handle.ended, BOUND_S))) is True


def test_stop_never_interrupts_a_call_a_gather_or_a_batch(runner: ThreadRunner) -> None:
    stopping = threading.Event()
    at_work = threading.Event()
    done: list[str] = []

    def meet() -> None:
        at_work.set()
        assert stopping.wait(BOUND_S)

    def loop() -> Script[None]:
        yield Call(meet, "under way when it is stopped")
        yield Gather([one(Sleep(0.01)), one(Local(lambda: done.append("gather"), "g"))], "two")
        yield Batch(batcher, 1, "force")
        done.append("batch")
        yield Sleep(1000.0)
        done.append("never")

    batcher = runner.batcher(lambda items: items, "journal")
    handle = runner.spawn(loop(), "loop")
    assert at_work.wait(BOUND_S)
    handle.stop()
    stopping.set()
    assert handle.join(BOUND_S)
    assert done == ["gather", "batch"]


def test_an_error_that_ends_background_work_is_logged(runner: ThreadRunner, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        handle = runner.spawn(one(Local(lambda: 1 // 0, "boom")), "doomed work")
        assert handle.join(BOUND_S)
    assert isinstance(handle.error, ZeroDivisionError)
    assert "doomed work" in caplog.text


def test_close_wakes_sleepers_and_refuses_what_comes_later(runner: ThreadRunner) -> None:
    errors: list[BaseException] = []

    def sleep() -> None:
        try:
            runner.run(one(Sleep(1000.0)))
        except ManagerClosed as error:
            errors.append(error)

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    eventually(lambda: len(runner._waiters) == 1)
    handle = runner.spawn(one(Sleep(1000.0)), "background")
    runner.close()
    sleeper.join(BOUND_S)
    assert len(errors) == 1
    assert handle.join(BOUND_S)
    with pytest.raises(ManagerClosed):
        runner.run(one(Sleep(0.0)))
    with pytest.raises(ManagerClosed):
        runner.spawn(one(Sleep(0.0)), "late")
    assert repr(runner) == "<ThreadRunner closed>"
    runner.close()


# --- fork --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_can_use_the_runner_anew(runner: ThreadRunner) -> None:
    mutex = runner.mutex()
    held, release = threading.Event(), threading.Event()
    handled: list[Any] = []
    batcher = runner.batcher(lambda items: [handled.append(item) or item for item in items], "journal")
    flag = runner.signal()

    def hold() -> None:
        with mutex:
            held.set()
            release.wait(BOUND_S)

    def work() -> Script[list[Any]]:
        outcomes = yield Gather([one(Local(lambda: 1, "a")), one(Local(lambda: 2, "b"))], "two")
        forced = yield Batch(batcher, "x", "force")
        waited = yield Wait(flag, 0.0)
        return [*outcomes, forced, waited]

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(BOUND_S)
    background = runner.spawn(one(Sleep(1000.0)), "of the parent")
    runner.run(work())
    pid = os.fork()
    if pid == 0:
        try:
            runner.after_fork()
            with mutex:
                ok = runner.run(work()) == [Done(1), Done(2), "x", False]
            handle = runner.spawn(one(Sleep(1000.0)), "of the child")
            handle.stop()
            ok = ok and handle.join(BOUND_S)
            flag.set()
            runner.close()
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    release.set()
    holder.join(BOUND_S)
    eventually(lambda: os.waitpid(pid, os.WNOHANG) == (pid, 0))
    background.stop()
    assert background.join(BOUND_S)
    assert runner.run(work()) == [Done(1), Done(2), "x", False]


def test_idle_threads_are_used_again(runner: ThreadRunner) -> None:
    for _ in range(20):
        runner.run(one(Gather([one(Local(lambda: None, "a")), one(Local(lambda: None, "b"))], "two")))
        eventually(lambda: len(runner._workers._idle) == len(runner._workers._all))
    assert len(runner._workers._all) == 1
