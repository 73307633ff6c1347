"""Threads that are there whenever one is needed: an idle one if there is one, else a new one.

Without an upper bound, on purpose: a bounded pool deadlocks when jobs wait for each other (a Gather
inside a Gather; waiters for SQLite's write lock while its holder needs a thread to commit). Idle threads
end after a while. Not for: results; a job delivers its own.

Every operation on the shared list of idle workers is a single atomic one (`append`, `pop`, `remove`). An
interrupt in the middle of `submit` can at worst leave one thread waiting for nothing until `close`.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable

IDLE_S_MAX = 30.0
_log = logging.getLogger("syncpoint.runners")


class Workers:
    """Runs jobs side by side in daemon threads named `syncpoint-<name>-<number>`."""

    def __init__(self, name: str, *, idle_s_max: float = IDLE_S_MAX) -> None:
        self.name = name
        self._idle_s_max = idle_s_max
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._gate = threading.RLock()
        """Held by `submit` and `close`: no job is given to a worker that was told to end."""
        self._numbers = itertools.count(1)
        self._closed = False

    def __repr__(self) -> str:
        return f"<Workers {self.name} {len(self._idle)} idle of {len(self._all)}>"

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` in a thread, starting now. Raises RuntimeError when closed or no thread can be started."""
        with self._gate:
            if self._closed:
                raise RuntimeError(f"{self!r} is closed")
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = _Worker(self, f"syncpoint-{self.name}-{next(self._numbers)}")
                worker.inbox.put(job)
                worker.start()
            else:
                worker.inbox.put(job)

    def close(self, seconds: float) -> None:
        """Let every thread end after its present job, and wait for that at most `seconds`."""
        with self._gate:
            self._closed = True
            for worker in tuple(self._all):
                worker.inbox.put(None)
        deadline = time.monotonic() + seconds
        for worker in tuple(self._all):
            worker.join(max(0.0, deadline - time.monotonic()))

    def _rest(self, worker: _Worker) -> Callable[[], None] | None:
        """Wait for the worker's next job; None: end."""
        self._idle.append(worker)
        while True:
            try:
                return worker.inbox.get(timeout=self._idle_s_max)
            except queue.Empty:
                if self._leave(worker):
                    return None
                # Somebody has taken this worker from the list: its job is on the way.

    def _leave(self, worker: _Worker) -> bool:
        try:
            self._idle.remove(worker)
        except ValueError:
            return False
        return True


class _Worker:
    def __init__(self, owner: Workers, name: str) -> None:
        self.inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._owner = owner
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._owner._all.add(self)
        try:
            self._thread.start()
        except RuntimeError:
            self._owner._all.discard(self)
            raise

    def join(self, seconds: float) -> None:
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            job = self.inbox.get()
            while job is not None:
                try:
                    job()
                except BaseException:
                    _log.exception("A job of %r failed.", self._owner)
                job = None  # what it holds may go while this thread rests
                job = self._owner._rest(self)
        finally:
            self._owner._all.discard(self)
