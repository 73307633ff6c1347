"""Runs scripts blocking, in the calling thread, with other threads beside it for Gather, Batch and spawn.

An interrupt (KeyboardInterrupt, or what a signal handler raises) that hits this code in the main thread is
thrown into the script like any error of a step, so a script's own cleaning up always runs. Not for: event
loops (aio.py).
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from syncpoint.errors import ManagerClosed
from syncpoint.ports import Signal
from syncpoint.runners.background import Background
from syncpoint.runners.batching import BatchThread, Ticket
from syncpoint.runners.driving import Watched, advance, must_raise, settle
from syncpoint.runners.points import point_of
from syncpoint.runners.workers import Workers
from syncpoint.steps import Batch, Blocking, Call, Done, Failed, Gather, Local, Script, Sleep, Step, Wait

T = TypeVar("T")

CLOSE_S_MAX = 10.0


class ThreadRunner(Watched):
    """A `ports.Runtime` for threads. Any number of threads may call `run` at once."""

    def __init__(self) -> None:
        super().__init__()
        self._closed = False
        self._mutexes: weakref.WeakSet[Any] = weakref.WeakSet()
        self._batchers: set[BatchThread] = set()
        self._forget_threads()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._backgrounds)} in background"
        return f"<ThreadRunner {state}>"

    # --- ports.Runtime -------------------------------------------------------------------------------

    def mutex(self) -> AbstractContextManager[Any]:
        """A lock for short sections. The bare lock, not a wrapper: an interrupt cannot leave it held."""
        lock = threading.RLock()
        self._mutexes.add(lock)
        return lock

    def signal(self) -> ThreadSignal:
        return ThreadSignal(self)

    def batcher(self, handler: Callable[[Sequence[Any]], Sequence[Any]], what: str) -> BatchThread:
        batcher = BatchThread(handler, what, _deliver)
        self._batchers.add(batcher)
        return batcher

    def spawn(self, script: Script[Any], what: str) -> ThreadBackground:
        """Run a script in a worker thread. Raises ManagerClosed after `close`, RuntimeError without more threads."""
        self._raise_if_closed()
        background = ThreadBackground(what, self.signal())
        self._backgrounds.add(background)
        context = contextvars.copy_context()
        try:
            self._workers.submit(lambda: context.run(self._run_background, script, background))
        except RuntimeError:
            self._backgrounds.discard(background)
            raise
        if self._closed:  # closed meanwhile, perhaps without having seen this one
            background.stop()
        return background

    # --- running -------------------------------------------------------------------------------------

    def run(self, script: Script[T]) -> T:
        """Drive a script to its end in this thread; returns what it returns, raises what it raises.

        Raises ManagerClosed when the runner is closed; then the script was not begun.
        """
        self._raise_if_closed()
        return self._drive(script, None)

    def close(self, seconds: float = CLOSE_S_MAX) -> None:
        """Stop background scripts, drain batchers, end threads; waits at most about `seconds` for the scripts.

        Whoever sleeps or waits in `run` gets ManagerClosed. A second call does nothing more.
        """
        self._closed = True
        deadline = time.monotonic() + seconds
        for background in tuple(self._backgrounds):
            background.stop()
        for waiter in tuple(self._waiters):
            waiter.set()
        for background in tuple(self._backgrounds):
            background.join(max(0.0, deadline - time.monotonic()))
        for batcher in tuple(self._batchers):
            batcher.close()
        self._batchers.clear()
        self._workers.close(max(0.0, deadline - time.monotonic()))

    def after_fork(self) -> None:
        """In a forked child: forget the parent's threads and whoever held a lock; then usable anew."""
        self.epoch += 1
        for lock in tuple(self._mutexes):
            lock._at_fork_reinit()
        for batcher in tuple(self._batchers):
            batcher.after_fork()
        self._forget_threads()

    epoch = 0
    """Counts forks: a signal made before the last one has waiters that no longer exist."""

    def _forget_threads(self) -> None:
        self._workers = Workers("worker")
        self._backgrounds: set[ThreadBackground] = set()
        self._waiters: set[_Waiter] = set()

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ManagerClosed("The manager is closed.", advice="Open a new one to go on.")

    # --- driving -------------------------------------------------------------------------------------

    def _drive(self, script: Script[T], background: ThreadBackground | None) -> T:
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    while True:  # inside the `try`, so that an interrupt between two steps is caught too
                        step = advance(script, value, error)
                        if isinstance(step, Done):
                            return step.value
                        error = None
                        value = self._perform(script, step, background)
                except BaseException as caught:
                    if must_raise(script):
                        raise
                    value, error = None, caught
        finally:
            del error  # it refers to this frame: no cycle that keeps connections alive

    def _perform(self, script: Script[Any], step: Step, background: ThreadBackground | None) -> Any:
        if not self._is_watched:
            return self._do(step, background)
        point = point_of(script)
        self._observe(point, step)
        outcome: Done[Any] | Failed
        try:
            outcome = Done(self._do(step, background))
        except BaseException as error:
            outcome = Failed(error)
        try:
            return self._observe_after(point, step, outcome)
        finally:
            del outcome

    def _do(self, step: Step, background: ThreadBackground | None) -> Any:
        match step:
            case Call() | Blocking() | Local():
                return step.run()
            case Gather():
                return self._gather(step.scripts)
            case Batch():
                return self._batch(step)
            case Wait():
                return self._wait(step.signal, step.seconds, background)
            case Sleep():
                return self._wait(None, step.seconds, background)
        raise AssertionError(f"no such step: {step!r}")

    def _run_background(self, script: Script[Any], background: ThreadBackground) -> None:
        ended_by: BaseException | None = None
        try:
            self._drive(script, background)
        except BaseException as error:
            ended_by = error
        self._backgrounds.discard(background)
        background.record_end(ended_by)
        background.finished.set()

    # --- Gather --------------------------------------------------------------------------------------

    def _gather(self, scripts: Sequence[Script[Any]]) -> list[Done[Any] | Failed]:
        finished: queue.SimpleQueue[None] = queue.SimpleQueue()
        jobs = [_Job(self, script, finished) for script in scripts]
        interrupt: BaseException | None = None
        while True:
            try:
                self._finish_all(jobs, finished)
                break
            except (KeyboardInterrupt, SystemExit) as error:  # none is left behind: raise it afterwards
                interrupt = error
        if interrupt is not None:
            raise interrupt
        return settle([job.outcome for job in jobs if job.outcome is not None])

    def _finish_all(self, jobs: Sequence[_Job], finished: queue.SimpleQueue[None]) -> None:
        """Run the first job here, the others beside it. Callable again after an interrupt: goes on where it was."""
        left = []
        for job in jobs[1:]:
            try:
                if job.outcome is None:
                    self._workers.submit(job.run_in_context)
            except RuntimeError:  # no more threads
                left.append(job)
        for job in (*jobs[:1], *left):
            job.run()
        while any(job.outcome is None for job in jobs):
            finished.get()

    # --- Batch, Wait, Sleep --------------------------------------------------------------------------

    def _batch(self, step: Batch) -> Any:
        assert isinstance(step.batcher, BatchThread)
        ticket = _LockTicket(step.item)
        step.batcher.hand_in(ticket)
        ticket.delivered.acquire()
        return ticket.result()

    def _wait(self, signal: Signal | None, seconds: float | None, background: ThreadBackground | None) -> bool:
        assert signal is None or isinstance(signal, ThreadSignal)
        waiter = _Waiter()
        self._waiters.add(waiter)
        if background is not None:
            background.waiter = waiter
        if signal is not None:
            signal.add(waiter)
        try:
            self._raise_if_ending(background)  # after registering: a stop that comes now wakes the waiter
            if signal is not None and signal.is_set():
                return True
            waiter.wait(seconds)
            self._raise_if_ending(background)
            return waiter.is_signalled
        finally:
            self._waiters.discard(waiter)
            if signal is not None:
                signal.remove(waiter)

    def _raise_if_ending(self, background: ThreadBackground | None) -> None:
        if background is not None:
            background.raise_if_stopped()
        else:
            self._raise_if_closed()


class ThreadSignal:
    """A `ports.Signal`. A set that is cleared at once still wakes everybody who was waiting.

    No lock: adding, removing and taking a waiter are single atomic operations on a dict, a waiter registers
    before it looks at the flag, and `set` raises the flag before it takes the waiters.
    """

    __slots__ = ("_epoch", "_flag", "_runner", "_waiters")

    def __init__(self, runner: ThreadRunner) -> None:
        self._runner = runner
        self._epoch = runner.epoch
        self._flag = False
        self._waiters: dict[_Waiter, None] = {}

    def __repr__(self) -> str:
        return f"<Signal {'set' if self._flag else 'clear'}>"

    def set(self) -> None:
        self._forget_before_fork()
        self._flag = True
        while self._waiters:
            try:
                waiter, _ = self._waiters.popitem()
            except KeyError:
                return
            waiter.is_signalled = True
            waiter.set()

    def clear(self) -> None:
        self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def add(self, waiter: _Waiter) -> None:
        self._forget_before_fork()
        self._waiters[waiter] = None

    def remove(self, waiter: _Waiter) -> None:
        self._waiters.pop(waiter, None)

    def _forget_before_fork(self) -> None:
        if self._epoch != self._runner.epoch:
            self._epoch = self._runner.epoch
            self._waiters = {}


class ThreadBackground(Background):
    """The handle of a background script in a thread."""

    def __init__(self, what: str, ended: ThreadSignal) -> None:
        super().__init__(what, ended)
        self.finished = threading.Event()
        self.waiter: _Waiter | None = None

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            waiter.set()

    def join(self, seconds: float | None = None) -> bool:
        """Wait at most `seconds` (None: no bound) for the script to end. Returns whether it has."""
        return self.finished.wait(seconds)


class _Waiter:
    """One Wait or Sleep under way. Set by a signal, by a stop, or by the runner's close.

    A bare lock: an interrupt inside `threading.Event.wait` can come out as another error (RuntimeError).
    """

    __slots__ = ("_lock", "is_signalled")

    def __init__(self) -> None:
        self.is_signalled = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, seconds: float | None) -> None:
        self._lock.acquire(timeout=-1 if seconds is None else min(max(0.0, seconds), threading.TIMEOUT_MAX))

    def set(self) -> None:
        with contextlib.suppress(RuntimeError):  # set already
            self._lock.release()


class _LockTicket(Ticket):
    __slots__ = ("delivered",)

    def __init__(self, item: Any) -> None:
        super().__init__(item)
        self.delivered = threading.Lock()
        self.delivered.acquire()


def _deliver(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        assert isinstance(ticket, _LockTicket)
        ticket.delivered.release()


class _Job:
    """One script of a Gather. Whoever claims it first runs it; a second `run` does nothing."""

    __slots__ = ("_claim", "_context", "_finished", "_runner", "_script", "outcome")

    def __init__(self, runner: ThreadRunner, script: Script[Any], finished: queue.SimpleQueue[None]) -> None:
        self._runner = runner
        self._script = script
        self._finished = finished
        self._claim = threading.Lock()
        self._context = contextvars.copy_context()
        self.outcome: Done[Any] | Failed | None = None

    def run_in_context(self) -> None:
        """In a worker: the caller's context variables are visible there."""
        self._context.run(self.run)

    def run(self) -> None:
        try:
            if self._claim.acquire(blocking=False):
                self.outcome = Done(self._runner._drive(self._script, None))
        except BaseException as error:
            if self.outcome is None:
                self.outcome = Failed(error)
        finally:
            self._finished.put(None)
