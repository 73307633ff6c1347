"""Group commit: one dedicated thread hands everything that waits to the handler in one call.

The thread is the batcher's own, so that an interrupt of a caller interrupts only its wait, and so that no
crowd of blocked workers can starve the journal. There is no window: a lone item is handled at once, and
what comes in meanwhile goes together into the next call. Not for: waiting for the result; each runner
waits in its own way (`Ticket` is what it waits for).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from syncpoint.errors import ManagerClosed


class Ticket:
    """One item handed in, and later its result."""

    __slots__ = ("error", "item", "value")

    def __init__(self, item: Any) -> None:
        self.item = item
        self.value: Any = None
        self.error: BaseException | None = None

    def result(self) -> Any:
        """The handler's result for this item; raises its error. Call it after delivery."""
        if self.error is not None:
            raise self.error
        return self.value


class BatchThread:
    """A `ports.Batcher`. `deliver` is called in its thread with the tickets of each finished batch."""

    def __init__(
        self,
        handler: Callable[[Sequence[Any]], Sequence[Any]],
        what: str,
        deliver: Callable[[Sequence[Ticket]], None],
    ) -> None:
        self.what = what
        self.batches = 0
        """Calls of the handler so far."""
        self.items = 0
        """Items in them."""
        self._handler = handler
        self._deliver = deliver
        self._closed = False
        self._reset()

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<Batcher {self.what} {self.items} items in {self.batches} batches{state}>"

    def hand_in(self, ticket: Ticket) -> None:
        """Queue a ticket; never waits for the handler. Raises ManagerClosed after `close`."""
        with self._gate:
            if self._closed:
                raise ManagerClosed(
                    f"The {self.what} is closed; nothing was written.", advice="Open a new manager to go on."
                )
            if self._thread is None:
                self._start()
            self._inbox.put(ticket)

    def close(self) -> None:
        """Finish what was handed in, then end the thread. Later items are refused with ManagerClosed."""
        with self._gate:
            self._closed = True
            thread = self._thread
            if thread is not None:
                self._inbox.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def after_fork(self) -> None:
        """In a forked child: forget the parent's thread and what its callers handed in."""
        self._reset()

    def _reset(self) -> None:
        self._gate = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._inbox: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, args=(self._inbox,), name=f"syncpoint-{self.what}", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except BaseException:
            # An interrupt may come while a started thread is on its way: then two threads may share the
            # inbox, which `_one_at_a_time` makes harmless.
            if not thread.is_alive():
                self._thread = None
            raise

    def _run(self, inbox: queue.SimpleQueue[Ticket | None]) -> None:
        while True:
            waiting = [inbox.get()]
            while not inbox.empty():
                try:
                    waiting.append(inbox.get_nowait())
                except queue.Empty:
                    break
            tickets = [ticket for ticket in waiting if ticket is not None]
            if tickets:
                with self._one_at_a_time:
                    self._handle(tickets)
            if len(tickets) < len(waiting):
                inbox.put(None)  # for a second thread, should there be one
                return
            del waiting, tickets  # what they hold may go while this thread rests

    def _handle(self, tickets: Sequence[Ticket]) -> None:
        self.batches += 1
        self.items += len(tickets)
        try:
            results = self._handler([ticket.item for ticket in tickets])
            assert len(results) == len(tickets), f"{self.what}: {len(results)} results for {len(tickets)} items"
        except BaseException as error:
            for ticket in tickets:
                ticket.error = error
        else:
            for ticket, result in zip(tickets, results, strict=True):
                if isinstance(result, BaseException):
                    ticket.error = result
                else:
                    ticket.value = result
        self._deliver(tickets)
