"""Group commit under both runners: what waits goes together, each gets its own result, close drains."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from syncpoint.errors import ManagerClosed
from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.batching import BatchThread
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Batch, Done, Failed, Gather, Script

BOUND_S = 10.0


def hand_in(batcher: BatchThread, item: Any) -> Script[Any]:
    return (yield Batch(batcher, item, "force"))


def all_of(batcher: BatchThread, items: Sequence[Any]) -> Script[Any]:
    return (yield Gather([hand_in(batcher, item) for item in items], "many"))


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


class Gate:
    """A handler that can be held, and notes its batches."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.batches: list[list[Any]] = []

    def __call__(self, items: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(items))
        self.entered.set()
        assert self.open.wait(BOUND_S)
        if "poison" in items:
            raise OSError("the disk is full")
        return [ValueError(item) if item == "bad" else f"forced {item}" for item in items]


def in_mode(mode: str, body: Callable[[Any, Callable[[Script[Any]], Any]], None]) -> None:
    """Run `body(runner, drive)`; `drive` runs a script and returns its result, in either mode."""
    if mode == "threads":
        runner = ThreadRunner()
        body(runner, runner.run)
        runner.close()
    else:
        with asyncio.Runner() as loop:
            async_runner = AsyncRunner()
            body(async_runner, lambda script: loop.run(async_runner.run(script)))
            loop.run(async_runner.close())
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("syncpoint-")])


@pytest.mark.parametrize("mode", ["threads", "asyncio"])
def test_items_that_wait_go_together_into_the_next_call(mode: str) -> None:
    gate = Gate()

    def body(runner: Any, drive: Callable[[Script[Any]], Any]) -> None:
        batcher = runner.batcher(gate, "journal")
        gate.open.clear()

        def open_when_all_wait() -> None:
            assert gate.entered.wait(BOUND_S)
            eventually(lambda: batcher._inbox.qsize() == 6 - len(gate.batches[0]))
            gate.open.set()

        opener = threading.Thread(target=open_when_all_wait)
        opener.start()
        assert drive(all_of(batcher, range(6))) == [Done(f"forced {item}") for item in range(6)]
        opener.join(BOUND_S)
        assert sorted(item for batch in gate.batches for item in batch) == [0, 1, 2, 3, 4, 5]
        assert batcher.batches == len(gate.batches) <= 2  # the first may have found all of them already
        assert batcher.items == 6
        assert repr(batcher) == f"<Batcher journal 6 items in {batcher.batches} batches>"

    in_mode(mode, body)


@pytest.mark.parametrize("mode", ["threads", "asyncio"])
def test_an_error_of_the_handler_reaches_all_and_one_of_an_item_its_caller(mode: str) -> None:
    def body(runner: Any, drive: Callable[[Script[Any]], Any]) -> None:
        batcher = runner.batcher(Gate(), "journal")
        for outcome in drive(all_of(batcher, ["poison"])):
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, OSError)
        good, bad = drive(all_of(batcher, ["good", "bad"]))
        assert good == Done("forced good")
        assert isinstance(bad, Failed)
        assert isinstance(bad.error, ValueError)
        short = runner.batcher(lambda items: [], "short")
        with pytest.raises(AssertionError, match="0 results for 1 items"):
            drive(hand_in(short, 1))

    in_mode(mode, body)


@pytest.mark.parametrize("mode", ["threads", "asyncio"])
def test_close_finishes_what_was_handed_in_and_refuses_the_rest(mode: str) -> None:
    def body(runner: Any, drive: Callable[[Script[Any]], Any]) -> None:
        batcher = runner.batcher(Gate(), "journal")
        assert drive(hand_in(batcher, 1)) == "forced 1"
        batcher.close()
        with pytest.raises(ManagerClosed, match="journal is closed"):
            drive(hand_in(batcher, 2))
        batcher.close()
        unused = runner.batcher(Gate(), "unused")
        unused.close()

    in_mode(mode, body)


def test_close_drains_while_others_wait() -> None:
    gate, runner = Gate(), ThreadRunner()
    batcher = runner.batcher(gate, "journal")
    gate.open.clear()
    results: list[str] = []
    callers = [threading.Thread(target=lambda n=n: results.append(runner.run(hand_in(batcher, n)))) for n in range(4)]
    for caller in callers:
        caller.start()
    assert gate.entered.wait(BOUND_S)
    eventually(lambda: batcher._inbox.qsize() == 4 - len(gate.batches[0]))
    closer = threading.Thread(target=runner.close)
    closer.start()
    eventually(lambda: batcher._closed)
    gate.open.set()
    for thread in (*callers, closer):
        thread.join(BOUND_S)
    assert sorted(results) == [f"forced {number}" for number in range(4)]


def test_an_interrupt_ends_only_the_wait_of_its_caller() -> None:
    gate, runner = Gate(), ThreadRunner()
    batcher = runner.batcher(gate, "journal")
    gate.open.clear()

    def interrupt() -> None:
        assert gate.entered.wait(BOUND_S)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        runner.run(hand_in(batcher, "first"))
    gate.open.set()
    assert runner.run(hand_in(batcher, "second")) == "forced second"
    assert gate.batches == [["first"], ["second"]]
    runner.close()


def test_a_cancelled_item_is_still_handled() -> None:
    async def main() -> None:
        gate, runner = Gate(), AsyncRunner()
        batcher = runner.batcher(gate, "journal")
        gate.open.clear()
        task = asyncio.ensure_future(runner.run(hand_in(batcher, "first")))
        await asyncio.to_thread(gate.entered.wait, BOUND_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open.set()
        assert await runner.run(hand_in(batcher, "second")) == "forced second"
        assert gate.batches == [["first"], ["second"]]
        await runner.close()

    asyncio.run(main())


def test_many_callers_share_few_calls() -> None:
    runner = ThreadRunner()
    batcher = runner.batcher(lambda items: time.sleep(0.001) or items, "journal")

    def caller() -> None:
        for number in range(20):
            assert runner.run(hand_in(batcher, number)) == number

    callers = [threading.Thread(target=caller) for _ in range(16)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(BOUND_S)
    assert batcher.items == 320
    assert batcher.batches < 160
    runner.close()
