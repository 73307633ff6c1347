"""What has arrived and was not taken yet, in order, from all connections; taken from any thread.

Whoever sends more than is taken is held up: his connection is not read until half of it was taken. Not for: reading
(connection.py).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from syncpoint.ports import LinkEvent, Signal


class Source(Protocol):
    """A connection, as the inbox sees it."""

    def taken(self, size_bytes: int) -> None:
        """So many bytes of this one's messages were taken. Called from any thread."""
        ...


class Inbox:
    """Parameter: `arrived`, a signal that is set when the inbox stops being empty."""

    def __init__(self, arrived: Signal) -> None:
        self.arrived = arrived
        self._lock = threading.Lock()
        self._events: list[LinkEvent] = []
        self._owed: dict[Source, int] = {}

    def __repr__(self) -> str:
        return f"<Inbox {len(self._events)} events>"

    def put(self, events: Sequence[LinkEvent], source: Source | None = None, size_bytes: int = 0) -> None:
        """Add events; `size_bytes` is what they took on the wire, and `source` hears when they are taken."""
        with self._lock:
            was_empty = not self._events
            self._events.extend(events)
            if source is not None:
                self._owed[source] = self._owed.get(source, 0) + size_bytes
        if was_empty:
            self.arrived.set()

    def take(self) -> list[LinkEvent]:
        """Everything, in order."""
        with self._lock:
            events, self._events = self._events, []
            owed, self._owed = self._owed, {}
        for source, size_bytes in owed.items():
            source.taken(size_bytes)
        return events
