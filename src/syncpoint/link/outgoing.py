"""What waits to be sent over one connection: a bounded queue of frames, filled from any thread.

Everything that is handed in within one turn of the loop leaves it as one piece. Not for: writing (connection.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from syncpoint.ports import Signal

PIECE_BYTES = 256 * 1024
"""About how much is joined for one write; more would only be copied once more."""


class Put(Enum):
    """What became of a frame."""

    WAKE = auto()
    """Taken, and somebody must empty the queue soon."""
    TAKEN = auto()
    """Taken; the queue will be emptied anyway."""
    FULL = auto()
    CLOSED = auto()


class Outgoing:
    """Parameters: `size_bytes_max`, what may wait (a single frame always may); `signal`, which makes a Signal."""

    def __init__(self, size_bytes_max: int, signal: Callable[[], Signal]) -> None:
        self._size_bytes_max = size_bytes_max
        self._signal = signal
        self._lock = threading.Lock()
        self._frames: deque[bytes] = deque()
        self._room: Signal | None = None
        self._awaited = False
        self._held_up = False
        self._closed = False
        self.size_bytes = 0
        """What waits now."""

    def __repr__(self) -> str:
        return f"<Outgoing {len(self._frames)} frames, {self.size_bytes} of {self._size_bytes_max} bytes>"

    def put(self, frame: bytes, *, bounded: bool = True) -> Put:
        """Hand in a frame. Not `bounded`: a sign of life, which is small and of which few can wait."""
        with self._lock:
            if self._closed:
                return Put.CLOSED
            size_bytes = self.size_bytes + len(frame)
            if bounded and self.size_bytes and size_bytes > self._size_bytes_max:
                if self._room is None:
                    self._room = self._signal()
                return Put.FULL
            self._frames.append(frame)
            self.size_bytes = size_bytes
            if self._awaited or self._held_up:
                return Put.TAKEN
            self._awaited = True
            return Put.WAKE

    def room(self) -> Signal | None:
        """Set when there is room again; None when there is."""
        with self._lock:
            return self._room

    def next_piece(self) -> bytes:
        """Frames to be written now, joined; empty when there are none or while they are held up."""
        with self._lock:
            self._awaited = False
            if self._held_up or not self._frames:
                return b""
            taken = [self._frames.popleft()]
            size_bytes = len(taken[0])
            while self._frames and size_bytes + len(self._frames[0]) <= PIECE_BYTES:
                taken.append(self._frames.popleft())
                size_bytes += len(taken[-1])
            self.size_bytes -= size_bytes
            room = self._room if self.size_bytes <= self._size_bytes_max // 2 else None
            if room is not None:
                self._room = None
        if room is not None:
            room.set()
        return b"".join(taken)

    def hold_up(self, held_up: bool) -> None:
        """The operating system takes no more, or takes it again."""
        with self._lock:
            self._held_up = held_up

    @property
    def is_held_up(self) -> bool:
        return self._held_up

    def close(self) -> None:
        """Drop what waits, and whoever waits for room."""
        with self._lock:
            self._closed = True
            self._frames.clear()
            self.size_bytes = 0
            room, self._room = self._room, None
        if room is not None:
            room.set()
