"""Drives one process's scripts in virtual time: the Runtime port of the simulator.

    step                   what it takes
    Local                  nothing
    Call                   whatever its promise takes: a `Promise` is what `run` of a simulated driver returns
    Blocking, Batch        the disk's time, before the reply; what is written is written at the beginning
    Sleep, Wait, Gather    as they say, by the process's own clock

Whenever a script could go on it is asked of its process whether it lives. Not for: what a step does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from syncpoint.errors import JournalFailed, ManagerClosed
from syncpoint.ports import Batcher, Runtime, Signal
from syncpoint.runners import Stopped
from syncpoint.runners.driving import advance, settle
from syncpoint.simulation.process import Process
from syncpoint.steps import Batch, Blocking, Call, Done, Failed, Gather, Local, Script, Sleep, Step, Wait
from syncpoint.testing.disks import ProcessKilled

Outcome = Done[Any] | Failed
Latency = Callable[[], float]
"""Draws how long something takes, in seconds."""


class Promise:
    """The result of a Call that has still to come. `keep` may be called once; later calls are ignored."""

    __slots__ = ("_listener", "_outcome", "_waiting")

    def __init__(self) -> None:
        self._outcome: Outcome | None = None
        self._listener: Callable[[Outcome], None] | None = None
        self._waiting: Callable[[Outcome], None] | None = None

    def listen(self, listener: Callable[[Outcome], None]) -> None:
        """Have `listener` called with the outcome before whoever waits for it goes on."""
        self._listener = listener
        if self._outcome is not None:
            listener(self._outcome)

    def keep(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
            if self._listener is not None:
                self._listener(outcome)
            if self._waiting is not None:
                self._waiting(outcome)

    @property
    def is_kept(self) -> bool:
        return self._outcome is not None

    def then(self, call: Callable[[Outcome], None]) -> None:
        if self._outcome is None:
            self._waiting = call
        else:
            call(self._outcome)


class SimSignal(Signal):
    """Whoever waits for it when it is set goes on, in order, a moment later."""

    __slots__ = ("_flag", "_process", "_waiters")

    def __init__(self, process: Process) -> None:
        self._process = process
        self._flag = False
        self._waiters: list[_Waiter] = []

    def set(self) -> None:
        self._flag = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.go_on(True)

    def clear(self) -> None:
        self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def add(self, waiter: _Waiter) -> None:
        self._waiters.append(waiter)

    def remove(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)


class _Waiter:
    """One Sleep or Wait under way."""

    __slots__ = ("_signal", "_task", "_timer")

    def __init__(self, task: Task, signal: SimSignal | None, seconds: float | None) -> None:
        self._task: Task | None = task
        self._signal = signal
        if signal is not None:
            signal.add(self)
        process = task.process
        self._timer = None if seconds is None else process.after(max(0.0, seconds), partial(self.go_on, False))

    def go_on(self, is_set: bool) -> None:
        """With whether the signal was set."""
        task, self._task = self._task, None
        if task is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._signal is not None and not is_set:
            self._signal.remove(self)
        task.waiter = None
        task.process.after(0.0, partial(task.resume, is_set, None))

    def stop(self) -> None:
        """Its script is to end."""
        task, self._task = self._task, None
        if task is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._signal is not None:
            self._signal.remove(self)
        task.waiter = None
        task.process.after(0.0, partial(task.resume, None, Stopped(task.what)))


class Task:
    """A script under way. `ended_with` is set when it is over; `stop` and `ended` make it a handle of `spawn`."""

    def __init__(self, runtime: SimRuntime, script: Script[Any], what: str, *, is_background: bool = False) -> None:
        self.runtime = runtime
        self.process = runtime.process
        self.what = what
        self.script = script
        self.ended = runtime.signal()
        self.outcome: Outcome | None = None
        self.waiter: _Waiter | None = None
        self.then: Callable[[Outcome], None] | None = None
        self._is_background = is_background
        self._stop_asked = False
        self.process.world.keep(script)

    def __repr__(self) -> str:
        return f"<Task {self.what} of {self.process.name} {'ended' if self.outcome else 'running'}>"

    def start(self) -> None:
        self.process.after(0.0, partial(self.resume, None, None))

    def stop(self) -> None:
        """See `runners.background.Background.stop`."""
        self._stop_asked = True
        if self.waiter is not None:
            self._stop_asked = False
            self.waiter.stop()

    def resume(self, value: Any, error: BaseException | None) -> None:
        """Let the script go on, as far as it can without waiting. Only through `Process.now`."""
        process = self.process
        while True:
            try:
                step = advance(self.script, value, error)
            except ProcessKilled:
                process.kill("killed in the middle of a disk operation")
                return
            except BaseException as caught:
                self._end(Failed(caught))
                return
            if isinstance(step, Done):
                self._end(step)
                return
            value, error = None, None
            if isinstance(step, Local):
                try:
                    value = step.run()
                except ProcessKilled:
                    process.kill("killed in the middle of a disk operation")
                    return
                except BaseException as caught:
                    error = caught
                continue
            if isinstance(step, Wait | Sleep):
                if self._stop_asked:
                    self._stop_asked = False
                    error = Stopped(self.what)
                    continue
                if isinstance(step, Wait) and step.signal.is_set():
                    value = True
                    continue
            self._wait_for(step)
            return

    def _wait_for(self, step: Step) -> None:
        match step:
            case Wait():
                assert isinstance(step.signal, SimSignal)
                self.waiter = _Waiter(self, step.signal, step.seconds)
            case Sleep():
                self.waiter = _Waiter(self, None, step.seconds)
            case Call():
                self._call(step)
            case Blocking():
                self.runtime.disk(step.what, lambda: self._run(step.run), self._take)
            case Gather():
                self._gather(step.scripts)
            case Batch():
                assert isinstance(step.batcher, SimBatcher)
                step.batcher.hand_in(step.item, self._take)
            case _:
                raise AssertionError(f"no such step: {step!r}")

    def _run(self, run: Callable[[], Any]) -> Outcome:
        try:
            return Done(run())
        except ProcessKilled:
            raise
        except BaseException as error:
            return Failed(error)

    def _call(self, step: Call) -> None:
        try:
            promise = step.run()
        except BaseException as error:
            self._take(Failed(error))
            return
        assert isinstance(promise, Promise), f"{step.what}: a simulated driver returns promises"
        promise.then(self._take)

    def _take(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self.process.after(0.0, partial(self.resume, None, outcome.error))
        else:
            self.process.after(0.0, partial(self.resume, outcome.value, None))

    def _gather(self, scripts: Sequence[Script[Any]]) -> None:
        tasks = [Task(self.runtime, script, self.what) for script in scripts]
        left = len(tasks)

        def one_ended(_: Outcome) -> None:
            nonlocal left
            left -= 1
            if not left:
                outcomes = [task.outcome for task in tasks if task.outcome is not None]
                self._take(self._run(lambda: settle(outcomes)))

        if not tasks:
            self._take(Done([]))
        for task in tasks:
            task.then = one_ended
            task.start()

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if self._is_background and isinstance(outcome, Failed):
            self.runtime.background_failed(self.what, outcome.error)
        if self.then is not None:
            self.then(outcome)
        self.ended.set()


class SimBatcher(Batcher):
    """Group commit: what is handed in while a call is under way goes together into the next one."""

    def __init__(self, runtime: SimRuntime, handler: Callable[[Sequence[Any]], Sequence[Any]], what: str) -> None:
        self._runtime = runtime
        self._handler = handler
        self._what = what
        self._waiting: list[tuple[Any, Callable[[Outcome], None]]] = []
        self._is_busy = False
        self._is_closed = False

    def hand_in(self, item: Any, take: Callable[[Outcome], None]) -> None:
        if self._is_closed:
            take(Failed(ManagerClosed(f"The {self._what} is closed; nothing was written.", advice="Open a new one.")))
            return
        self._waiting.append((item, take))
        if not self._is_busy:
            self._is_busy = True
            self._runtime.process.after(0.0, self._handle)

    def close(self) -> None:
        self._is_closed = True

    def _handle(self) -> None:
        batch, self._waiting = self._waiting, []
        if not batch:
            self._is_busy = False
            return
        items = [item for item, _ in batch]
        self._runtime.disk(self._what, lambda: self._results(items), partial(self._deliver, batch))

    def _results(self, items: list[Any]) -> Outcome:
        try:
            results = self._handler(items)
            assert len(results) == len(items), f"{self._what}: {len(results)} results for {len(items)} items"
        except ProcessKilled:
            raise
        except BaseException as error:
            return Failed(error)
        return Done(results)

    def _deliver(self, batch: list[tuple[Any, Callable[[Outcome], None]]], outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            for _, take in batch:
                take(outcome)
        else:
            for (_, take), result in zip(batch, outcome.value, strict=True):
                take(Failed(result) if isinstance(result, BaseException) else Done(result))
        self._handle()


class SimRuntime(Runtime):
    """One process's runtime. `disk_latency` draws how long a disk takes to answer."""

    def __init__(self, process: Process, disk_latency: Latency) -> None:
        self.process = process
        self._disk_latency = disk_latency

    def __repr__(self) -> str:
        return f"<SimRuntime of {self.process!r}>"

    def mutex(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()  # nobody else runs between two steps

    def signal(self) -> SimSignal:
        return SimSignal(self.process)

    def batcher(self, handler: Callable[[Sequence[Any]], Sequence[Any]], what: str) -> SimBatcher:
        return SimBatcher(self, handler, what)

    def spawn(self, script: Script[Any], what: str) -> Task:
        task = Task(self, script, what, is_background=True)
        task.start()
        return task

    def run(self, script: Script[Any]) -> Script[Any]:
        """Users' calls of the memory resource: here they are scripts, to be used with `yield from`."""
        return script

    def begin(self, script: Script[Any], what: str, then: Callable[[Outcome], None]) -> Task:
        """Start a script; `then` gets what it returned or raised."""
        task = Task(self, script, what)
        task.then = then
        task.start()
        return task

    def disk(self, what: str, run: Callable[[], Outcome], take: Callable[[Outcome], None]) -> None:
        """Do something on the disk now, and answer when the disk does; in between the process may die."""
        try:
            outcome = run()
        except ProcessKilled:
            self.process.kill(f"killed in the middle of {what}")
            return
        self.process.after(self._disk_latency(), partial(take, outcome))

    def background_failed(self, what: str, error: BaseException) -> None:
        """Background work has no caller: nobody is told, so it must not fail, but for these."""
        if isinstance(error, Stopped | ManagerClosed | JournalFailed):
            return
        self.process.world.violation(f"background work {what!r} of {self.process.name} ended: {error!r}")
