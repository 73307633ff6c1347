"""The simulator's runtime does with every step what the other two do, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from syncpoint.runners import Stopped
from syncpoint.simulation.process import Process
from syncpoint.simulation.runtime import Outcome, Promise, SimRuntime
from syncpoint.simulation.world import World
from syncpoint.steps import Batch, Blocking, Call, Done, Failed, Gather, Local, Script, Sleep, Wait


class Stage:
    """A world with one process."""

    def __init__(self) -> None:
        self.world = World(1)
        self.process = Process(self.world, "p")
        self.runtime = SimRuntime(self.process, lambda: 0.01)

    def run(self, script: Script[Any], until_s: float = 100.0) -> Outcome | None:
        """What came of a script; None when it has not ended by then."""
        found: list[Outcome] = []
        self.runtime.begin(script, "test", found.append)
        self.world.run(until_s)
        return found[0] if found else None


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_time_passes_only_where_something_waits(stage: Stage) -> None:
    def script() -> Script[list[float]]:
        times = [stage.process.clock.monotonic()]
        for step in (Local(lambda: None, "at once"), Blocking(lambda: None, "disk"), Sleep(2.0)):
            yield step
            times.append(stage.process.clock.monotonic())
        return times

    outcome = stage.run(script())
    assert isinstance(outcome, Done)
    start = outcome.value[0]
    assert [round(at - start, 6) for at in outcome.value] == [0.0, 0.0, 0.01, 2.01]


def test_an_error_of_a_step_is_thrown_into_the_script(stage: Stage) -> None:
    def script() -> Script[str]:
        caught = []
        for step in (Local(_fail, "local"), Blocking(_fail, "disk"), Call(_broken_promise, "call")):
            try:
                yield step
            except OSError as error:
                caught.append(str(error))
        return ", ".join(caught)

    assert stage.run(script()) == Done("no, no, no")


def _fail() -> None:
    raise OSError("no")


def _broken_promise() -> Promise:
    promise = Promise()
    promise.keep(Failed(OSError("no")))
    return promise


def test_a_gather_ends_with_its_last_script(stage: Stage) -> None:
    def sleep(seconds: float) -> Script[float]:
        yield Sleep(seconds)
        if seconds == 2.0:
            raise OSError("two")
        return seconds

    def script() -> Script[Any]:
        before = stage.process.clock.monotonic()
        outcomes = yield Gather([sleep(3.0), sleep(2.0), sleep(1.0)], "sleep")
        return outcomes, round(stage.process.clock.monotonic() - before, 6)

    outcome = stage.run(script())
    assert isinstance(outcome, Done)
    (first, second, third), seconds = outcome.value
    assert (first, third, seconds) == (Done(3.0), Done(1.0), 3.0)
    assert isinstance(second, Failed)


def test_a_signal_ends_a_wait_and_time_does_too(stage: Stage) -> None:
    signal = stage.runtime.signal()

    def script() -> Script[list[bool]]:
        late = yield Wait(signal, 1.0)
        stage.world.after(0.5, signal.set)
        soon = yield Wait(signal, 1.0)
        again = yield Wait(signal, 1.0)
        return [late, soon, again]

    assert stage.run(script()) == Done([False, True, True])


def test_what_waits_for_a_batch_goes_together_into_the_next(stage: Stage) -> None:
    batches: list[Sequence[int]] = []

    def handle(items: Sequence[int]) -> list[Any]:
        batches.append(items)
        return [OSError("seven") if item == 7 else item * 10 for item in items]

    batcher = stage.runtime.batcher(handle, "batch")

    def one(item: int, after_s: float) -> Script[int]:
        yield Sleep(after_s)
        result: int = yield Batch(batcher, item, "batch")
        return result

    def script() -> Script[Any]:
        return (yield Gather([one(1, 0.0), one(2, 0.001), one(7, 0.002), one(3, 1.0)], "batches"))

    outcome = stage.run(script())
    assert isinstance(outcome, Done)
    assert [value.value for value in outcome.value if isinstance(value, Done)] == [10, 20, 30]
    assert batches == [[1], [2, 7], [3]]


def test_a_killed_process_runs_no_more_code(stage: Stage) -> None:
    done: list[str] = []

    def script() -> Script[None]:
        try:
            yield Sleep(5.0)
            done.append("woke")
        finally:
            done.append("cleaned up")

    stage.world.after(1.0, lambda: stage.process.kill("test"))
    assert stage.run(script()) is None
    assert done == []
    stage.world.end()  # now it is closed, when nobody listens any more


def test_a_paused_process_gets_everything_late(stage: Stage) -> None:
    def script() -> Script[float]:
        before = stage.world.now_s
        yield Sleep(1.0)
        return stage.world.now_s - before

    stage.world.after(0.5, stage.process.pause)
    stage.world.after(9.0, stage.process.wake)
    assert stage.run(script()) == Done(9.0)


def test_a_fast_clock_wakes_early(stage: Stage) -> None:
    stage.process.clock.drift(2.0)

    def script() -> Script[float]:
        yield Sleep(4.0)
        return stage.world.now_s

    assert stage.run(script()) == Done(2.0)


def test_background_work_is_stopped_where_it_waits(stage: Stage) -> None:
    seen: list[str] = []

    def forever() -> Script[None]:
        try:
            while True:
                yield Sleep(1.0)
        except Stopped:
            seen.append("stopped")
            raise

    task = stage.runtime.spawn(forever(), "background")
    stage.world.after(3.5, task.stop)
    stage.world.run(10.0)
    assert seen == ["stopped"]
    assert task.ended.is_set()
    assert stage.world.violations == []


def test_background_work_that_fails_is_a_violation(stage: Stage) -> None:
    def fail() -> Script[None]:
        yield Sleep(1.0)
        raise AssertionError("an invariant")

    stage.runtime.spawn(fail(), "background")
    stage.world.run(10.0)
    assert "an invariant" in stage.world.violations[0]
