"""Runs scripts on an asyncio event loop.

Calls are awaited on the loop; what blocks runs in threads of the runner's own (never the loop's default
ones). Cancellation of a task is an error of the step it hits, and is thrown into the script;
`run_shielded` keeps it away from scripts that must not be left half-way. Not for: threads without a loop
(threads.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from syncpoint.errors import ConfigurationError, ManagerClosed
from syncpoint.ports import Signal
from syncpoint.runners.background import Background
from syncpoint.runners.batching import BatchThread, Ticket
from syncpoint.runners.driving import Watched, advance, must_raise, settle
from syncpoint.runners.points import point_of
from syncpoint.runners.workers import Workers
from syncpoint.steps import Batch, Blocking, Call, Done, Failed, Gather, Local, Script, Sleep, Step, Wait

T = TypeVar("T")

CLOSE_S_MAX = 10.0
_log = logging.getLogger("syncpoint.runners")
_abandoned: list[Any] = []
"""Tasks of parents of this forked process: kept, so that no destructor runs their scripts' cleaning up here."""


class AsyncRunner(Watched):
    """A `ports.Runtime` for asyncio. Bound to the loop of its first use; another loop is refused."""

    def __init__(self) -> None:
        super().__init__()
        self._closed = False
        self._mutexes: weakref.WeakSet[Any] = weakref.WeakSet()
        self._batchers: set[BatchThread] = set()
        self._forget_loop()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._tasks)} tasks, {len(self._backgrounds)} in background"
        return f"<AsyncRunner {state}>"

    # --- ports.Runtime -------------------------------------------------------------------------------

    def mutex(self) -> AbstractContextManager[Any]:
        """A lock for short sections: scripts of one loop need none, but handlers of batchers have their thread."""
        lock = threading.RLock()
        self._mutexes.add(lock)
        return lock

    def signal(self) -> AsyncSignal:
        return AsyncSignal(self)

    def batcher(self, handler: Callable[[Sequence[Any]], Sequence[Any]], what: str) -> BatchThread:
        batcher = BatchThread(handler, what, self._deliver)
        self._batchers.add(batcher)
        return batcher

    def spawn(self, script: Script[Any], what: str) -> AsyncBackground:
        """Run a script in a task of its own. Raises ManagerClosed after `close`. Callable from any thread."""
        self._raise_if_closed()
        if self._loop is None:
            self._bind()
        assert self._loop is not None
        background = AsyncBackground(what, self.signal(), self, self._loop.create_future())
        self._backgrounds.add(background)
        context = contextvars.copy_context()
        self.call_on_loop(lambda: self._begin(script, background, context))
        return background

    # --- running -------------------------------------------------------------------------------------

    async def run(self, script: Script[T]) -> T:
        """Drive a script to its end in this task; returns what it returns, raises what it raises.

        A cancellation is thrown into the script at the step it hits. Raises ManagerClosed when the runner is
        closed, ConfigurationError on another loop than before; then the script was not begun.
        """
        self._raise_if_closed()
        self._bind()
        return await self._drive(script, None)

    async def run_shielded(self, script: Script[T], on_cancel: Callable[[], None] | None = None) -> T:
        """Drive a script to its end in a task of its own, whatever happens to the caller.

        When the caller is cancelled, `on_cancel` is called once, the script is awaited to its end however often
        it is cancelled again, and then CancelledError is raised, from the script's error if it had one.
        """
        self._raise_if_closed()
        self._bind()
        task = self._start(self._drive(script, None), "shielded", contextvars.copy_context())
        cancelled = await self._await_end(task, on_cancel)
        try:
            if cancelled is None:
                return task.result()
            raise cancelled from (None if task.cancelled() else task.exception())
        finally:
            del cancelled, task

    async def close(self, seconds: float = CLOSE_S_MAX) -> None:
        """Stop background scripts, drain batchers, end threads; waits at most about `seconds` for the scripts.

        Shielded scripts are awaited too. Whoever sleeps or waits in `run` gets ManagerClosed. A second call does
        nothing more.
        """
        self._closed = True
        for background in tuple(self._backgrounds):
            background.stop()
        for waiter in tuple(self._waiters):
            _resolve(waiter, False)
        if self._loop is not None:
            self._bind()
            tasks = self._tasks - {asyncio.current_task()}
            if tasks:
                await asyncio.wait(tasks, timeout=seconds)
            for batcher in tuple(self._batchers):
                await self._block(batcher.close)
        self._batchers.clear()
        self._workers.close(0.0)

    def after_fork(self) -> None:
        """In a forked child: forget the parent's loop, tasks and threads; then usable anew, on another loop."""
        _abandoned.append((self._loop, self._tasks, self._backgrounds, self._waiters))
        self.epoch += 1
        for lock in tuple(self._mutexes):
            lock._at_fork_reinit()
        for batcher in tuple(self._batchers):
            batcher.after_fork()
        self._forget_loop()

    epoch = 0
    """Counts forks: a signal made before the last one has waiters of a loop that no longer runs."""

    def _forget_loop(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers = Workers("worker")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._backgrounds: set[AsyncBackground] = set()
        self._waiters: set[asyncio.Future[bool]] = set()

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ManagerClosed("The manager is closed.", advice="Open a new one to go on.")

    # --- the loop ------------------------------------------------------------------------------------

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError(
                "This manager belongs to another event loop.",
                advice="Make one AsyncTransactionManager in each event loop, and use it there only.",
            )

    def call_on_loop(self, callback: Callable[[], Any]) -> None:
        """Call back on the loop: now when already there, else soon. Nothing happens when the loop is closed."""
        loop = self._loop
        if loop is None:
            return
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop:
            callback()
            return
        with contextlib.suppress(RuntimeError):  # closed: nobody waits there any more
            loop.call_soon_threadsafe(callback)

    def _start(self, coroutine: Coroutine[Any, Any, T], what: str, context: contextvars.Context) -> asyncio.Task[T]:
        """A task with a strong reference: the loop itself holds only a weak one."""
        assert self._loop is not None
        task = self._loop.create_task(coroutine, name=f"syncpoint-{what}", context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _await_end(
        self, task: asyncio.Future[Any], on_cancel: Callable[[], None] | None = None
    ) -> asyncio.CancelledError | None:
        """Wait until the task has ended; returns the first cancellation of the caller meanwhile, if any."""
        first: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as cancelled:
                if first is None:
                    first = cancelled
                    if on_cancel is not None:
                        _call_back(on_cancel)
        return first

    # --- driving -------------------------------------------------------------------------------------

    async def _drive(self, script: Script[T], background: AsyncBackground | None) -> T:
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    step = advance(script, value, error)
                    if isinstance(step, Done):
                        return step.value
                    error = None
                    value = await self._perform(script, step, background)
                except GeneratorExit:  # the loop is gone: nothing can be awaited any more
                    script.close()
                    raise
                except BaseException as caught:
                    if must_raise(script):
                        raise
                    value, error = None, caught
        finally:
            del error  # it refers to this frame: no cycle that keeps connections alive

    async def _perform(self, script: Script[Any], step: Step, background: AsyncBackground | None) -> Any:
        if not self._is_watched:
            return await self._do(step, background)
        point = point_of(script)
        self._observe(point, step)
        outcome: Done[Any] | Failed
        try:
            outcome = Done(await self._do(step, background))
        except GeneratorExit:
            raise
        except BaseException as error:
            outcome = Failed(error)
        try:
            return self._observe_after(point, step, outcome)
        finally:
            del outcome

    async def _do(self, step: Step, background: AsyncBackground | None) -> Any:
        match step:
            case Call():
                return await step.run()
            case Local():
                return step.run()
            case Blocking():
                return await self._block(step.run)
            case Gather():
                return await self._gather(step.scripts)
            case Batch():
                return await self._batch(step)
            case Wait():
                return await self._wait(step.signal, step.seconds, background)
            case Sleep():
                return await self._wait(None, step.seconds, background)
        raise AssertionError(f"no such step: {step!r}")

    def _begin(self, script: Script[Any], background: AsyncBackground, context: contextvars.Context) -> None:
        task = self._start(self._drive(script, background), background.what, context)
        task.add_done_callback(lambda ended: self._end(ended, background))
        if self._closed:  # closed meanwhile, perhaps without having seen this one
            background.stop()

    def _end(self, task: asyncio.Task[Any], background: AsyncBackground) -> None:
        self._backgrounds.discard(background)
        background.record_end(None if task.cancelled() else task.exception())
        _resolve(background.finished, None)

    # --- Blocking and Gather -------------------------------------------------------------------------

    async def _block(self, run: Callable[[], T]) -> T:
        """Run it in a thread. A cancellation waits until it has finished: nobody may touch the connection before."""
        assert self._loop is not None
        future: asyncio.Future[Done[T] | Failed] = self._loop.create_future()
        context = contextvars.copy_context()
        self._workers.submit(lambda: self._resolve_soon(future, context.run(_outcome_of, run)))
        cancelled = await self._await_end(future)
        if cancelled is not None:
            raise cancelled
        outcome = future.result()
        try:
            if isinstance(outcome, Failed):
                raise outcome.error
            return outcome.value
        finally:
            del outcome

    def _resolve_soon(self, future: asyncio.Future[Any], value: Any) -> None:
        self.call_on_loop(lambda: _resolve(future, value))

    async def _gather(self, scripts: Sequence[Script[Any]]) -> list[Done[Any] | Failed]:
        """All scripts end before this does. A cancellation is passed on to each, and raised when all have ended."""
        tasks = [self._start(self._outcome(script), "branch", contextvars.copy_context()) for script in scripts]
        first: asyncio.CancelledError | None = None
        while not all(task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as cancelled:
                first = first or cancelled
                for task in tasks:
                    task.cancel()
        if first is not None:
            raise first
        return settle([Failed(asyncio.CancelledError()) if task.cancelled() else task.result() for task in tasks])

    async def _outcome(self, script: Script[Any]) -> Done[Any] | Failed:
        try:
            return Done(await self._drive(script, None))
        except GeneratorExit:
            raise
        except BaseException as error:
            return Failed(error)

    # --- Batch, Wait, Sleep --------------------------------------------------------------------------

    async def _batch(self, step: Batch) -> Any:
        assert self._loop is not None
        assert isinstance(step.batcher, BatchThread)
        ticket = _FutureTicket(step.item, self._loop.create_future())
        step.batcher.hand_in(ticket)
        await ticket.delivered
        return ticket.result()

    def _deliver(self, tickets: Sequence[Ticket]) -> None:
        self.call_on_loop(lambda: _resolve_tickets(tickets))

    async def _wait(self, signal: Signal | None, seconds: float | None, background: AsyncBackground | None) -> bool:
        assert self._loop is not None
        assert signal is None or isinstance(signal, AsyncSignal)
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiters.add(waiter)
        if background is not None:
            background.waiter = waiter
        if signal is not None:
            signal.add(waiter)
        timer = None if seconds is None else self._loop.call_later(max(0.0, seconds), _resolve, waiter, False)
        try:
            self._raise_if_ending(background)
            if signal is not None and signal.is_set():
                return True
            is_signalled = await waiter
            self._raise_if_ending(background)
            return is_signalled
        finally:
            self._waiters.discard(waiter)
            if signal is not None:
                signal.remove(waiter)
            if timer is not None:
                timer.cancel()

    def _raise_if_ending(self, background: AsyncBackground | None) -> None:
        if background is not None:
            background.raise_if_stopped()
        else:
            self._raise_if_closed()


class AsyncSignal:
    """A `ports.Signal`, settable from any thread. A set that is cleared at once still wakes whoever was waiting.

    Waiters are futures in a dict, added and taken by single atomic operations; a waiter registers before it
    looks at the flag, and `set` raises the flag before it takes the waiters.
    """

    __slots__ = ("_epoch", "_flag", "_runner", "_waiters")

    def __init__(self, runner: AsyncRunner) -> None:
        self._runner = runner
        self._epoch = runner.epoch
        self._flag = False
        self._waiters: dict[asyncio.Future[bool], None] = {}

    def __repr__(self) -> str:
        return f"<Signal {'set' if self._flag else 'clear'}>"

    def set(self) -> None:
        self._forget_before_fork()
        self._flag = True
        taken = []
        while self._waiters:
            try:
                taken.append(self._waiters.popitem()[0])
            except KeyError:
                break
        if taken:
            self._runner.call_on_loop(lambda: _resolve_all(taken))

    def clear(self) -> None:
        self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def add(self, waiter: asyncio.Future[bool]) -> None:
        self._forget_before_fork()
        self._waiters[waiter] = None

    def remove(self, waiter: asyncio.Future[bool]) -> None:
        self._waiters.pop(waiter, None)

    def _forget_before_fork(self) -> None:
        if self._epoch != self._runner.epoch:
            self._epoch = self._runner.epoch
            self._waiters = {}


class AsyncBackground(Background):
    """The handle of a background script on the loop."""

    def __init__(self, what: str, ended: AsyncSignal, runner: AsyncRunner, finished: asyncio.Future[None]) -> None:
        super().__init__(what, ended)
        self.finished = finished
        self.waiter: asyncio.Future[bool] | None = None
        self._runner = runner

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            self._runner.call_on_loop(lambda: _resolve(waiter, False))

    async def join(self, seconds: float | None = None) -> bool:
        """Wait at most `seconds` (None: no bound) for the script to end. Returns whether it has."""
        await asyncio.wait((self.finished,), timeout=seconds)
        return self.ended.is_set()


class _FutureTicket(Ticket):
    __slots__ = ("delivered",)

    def __init__(self, item: Any, delivered: asyncio.Future[None]) -> None:
        super().__init__(item)
        self.delivered = delivered


def _resolve_tickets(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        assert isinstance(ticket, _FutureTicket)
        _resolve(ticket.delivered, None)


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _call_back(on_cancel: Callable[[], None]) -> None:
    try:
        on_cancel()
    except Exception:  # the script must be awaited all the same
        _log.exception("What was to be done on cancellation failed.")


def _resolve_all(waiters: Sequence[asyncio.Future[bool]]) -> None:
    for waiter in waiters:
        _resolve(waiter, True)


def _outcome_of(run: Callable[[], T]) -> Done[T] | Failed:
    try:
        return Done(run())
    except BaseException as error:
        return Failed(error)
