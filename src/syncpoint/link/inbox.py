"""What has arrived and was not taken yet, in order, from all peers; taken from any thread.

Whoever sends more than is taken is held up: nothing of his is read until half of it was taken, over however many
connections it came. Not for: reading (connection.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from syncpoint.ports import LinkEvent, Signal


class Account:
    """How much of one peer's was not taken yet. Parameter: `size_bytes_max`, how much may be."""

    def __init__(self, size_bytes_max: int) -> None:
        self._size_bytes_max = size_bytes_max
        self._lock = threading.Lock()
        self._untaken_bytes = 0
        self._resume: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Account {self._untaken_bytes} of {self._size_bytes_max} bytes>"

    def add(self, size_bytes: int, resume: Callable[[], None]) -> bool:
        """So much has arrived. Returns whether to stop reading; then `resume` is called, from any thread, to go on."""
        with self._lock:
            self._untaken_bytes += size_bytes
            is_over = self._untaken_bytes > self._size_bytes_max
            if is_over:
                self._resume = resume
            return is_over

    def taken(self, size_bytes: int) -> None:
        """So much of it was taken."""
        with self._lock:
            self._untaken_bytes -= size_bytes
            if self._untaken_bytes > self._size_bytes_max // 2:
                return
            resume, self._resume = self._resume, None
        if resume is not None:
            resume()


class Inbox:
    """Parameter: `arrived`, a signal that is set when the inbox stops being empty."""

    def __init__(self, arrived: Signal) -> None:
        self.arrived = arrived
        self._lock = threading.Lock()
        self._events: list[LinkEvent] = []
        self._owed: dict[Account, int] = {}

    def __repr__(self) -> str:
        return f"<Inbox {len(self._events)} events>"

    def put(self, events: Sequence[LinkEvent], account: Account | None = None, size_bytes: int = 0) -> None:
        """Add events; `size_bytes` is what they took on the wire, and `account` hears when they are taken."""
        with self._lock:
            was_empty = not self._events
            self._events.extend(events)
            if account is not None:
                self._owed[account] = self._owed.get(account, 0) + size_bytes
        if was_empty:
            self.arrived.set()

    def take(self) -> list[LinkEvent]:
        """Everything, in order."""
        with self._lock:
            events, self._events = self._events, []
            owed, self._owed = self._owed, {}
        for account, size_bytes in owed.items():
            account.taken(size_bytes)
        return events
