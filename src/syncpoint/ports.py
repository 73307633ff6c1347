"""The outside world as small Protocols: Clock, Random, Disk, Link, and the Runtime that drives scripts.

`manager/` and `journal/` receive these and touch nothing else, so that a simulator can run the same
code (R4). The real ones stand in `system.py` (Clock, Random, Disk), `link/` (Link) and `runners/` (Runtime).
Not for: databases; their adapters have drivers of their own (resources/).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol, TypeAlias

from syncpoint.ids import Guid
from syncpoint.messages import Message


class Clock(Protocol):
    """Time. Safety never depends on it (R6)."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970: for people and retention only."""
        ...


class Random(Protocol):
    """Chance."""

    def bytes(self, size_bytes: int) -> bytes:
        """Unpredictable bytes, for GUIDs and transaction ids."""
        ...

    def fraction(self) -> float:
        """A number in [0, 1), for jitter."""
        ...


class OpenFile(Protocol):
    """A file opened for appending."""

    def append(self, data: bytes) -> None:
        """Write at the end. Durable only after `force`. Raises OSError."""
        ...

    def force(self) -> None:
        """Make everything appended durable (fdatasync). An OSError means: unknown, never retry (R5)."""
        ...

    def close(self) -> None: ...


class FileLock(Protocol):
    """An OS lock held by this process; it goes when the process dies, however it dies."""

    def release(self) -> None: ...


class Disk(Protocol):
    """A local file system. Every call may raise OSError."""

    def make_folder(self, path: str) -> None:
        """Make a folder (mode 0700) if it is missing, and make that durable."""
        ...

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted."""
        ...

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int:
        """Bytes. Raises FileNotFoundError."""
        ...

    def read(self, path: str, offset: int = 0, size_bytes_max: int = -1) -> bytes:
        """Bytes from `offset`; to the end when `size_bytes_max` is -1. Raises FileNotFoundError."""
        ...

    def create(self, path: str) -> OpenFile:
        """Make a new file (mode 0600) for appending. Raises FileExistsError. Durable after `force_folder`."""
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Put a whole small file in place durably: write beside it, force, rename, force the folder."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file if it is there. Durable after `force_folder`."""
        ...

    def force_folder(self, folder: str) -> None:
        """Make the folder's entries durable."""
        ...

    def identity(self, folder: str) -> tuple[int, int]:
        """(device, inode): tells a restored copy from the folder itself (O53)."""
        ...

    def lock(self, path: str) -> FileLock | None:
        """Take the exclusive OS lock on a file of its own, making it when missing; None when another holds it.

        Another holder may be another process, or another lock of this same process. (`fcntl.lockf`
        does not tell two holders in one process apart, and closing any descriptor of the file drops the
        lock: implementations keep a table of what this process holds and never open such a file twice.)
        """
        ...

    def lock_byte(self, path: str, position: int) -> FileLock | None:
        """The same for one byte of a shared file: many small locks without many files."""
        ...


class Signal(Protocol):
    """Something that can be waited for with `steps.Wait`. Set once or many times; `clear` re-arms it."""

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def is_set(self) -> bool: ...


class Batcher(Protocol):
    """Group commit: items handed in with `steps.Batch` while a call is under way go together into the next one."""

    def close(self) -> None:
        """Finish what was handed in; later items are refused with ManagerClosed."""
        ...


class Runtime(Protocol):
    """What drives scripts: threads, asyncio, or a simulator. Safe to call from scripts and from outside."""

    def mutex(self) -> AbstractContextManager[Any]:
        """A lock for short sections that neither wait nor yield (batch handlers have threads of their own)."""
        ...

    def signal(self) -> Signal: ...

    def batcher(self, handler: Callable[[Sequence[Any]], Sequence[Any]], what: str) -> Batcher:
        """A batcher whose `handler` blocks, is called by one caller at a time, and returns one result an item.

        An exception from `handler` reaches everyone in that batch; an item whose result is an exception
        instance raises it to that caller alone.
        """
        ...

    def spawn(self, script: Any, what: str) -> Any:
        """Run a script in the background; an exception that ends it is logged. The handle has `stop()`, and `ended`,
        a Signal that is set when the script has ended."""
        ...


# --- Link --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, as proved by certificate or by the operating system.

    `instance` changes with every start of that process. A GUID can move to another process (B7): a name cannot be
    used by two at once.
    """

    name: str
    guid: Guid
    role: str
    instance: bytes

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Connected:
    """The first of a peer's events: from now on messages can reach it."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message came in."""

    peer: Peer
    message: Message


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone: it ended, or the peer stopped answering. `why` is for people.

    What was sent since `Connected` may or may not have arrived; what the peer had sent and did not come before this
    never will. The peer may be well: only the connection is known to be gone (B4 takes more than this).
    """

    peer: Peer
    why: str


LinkEvent: TypeAlias = Connected | Arrived | Lost


class Sent(Enum):
    """What became of a message that was handed to a link."""

    TAKEN = auto()
    """It is on its way. No promise: if it does not arrive, a `Lost` of this peer follows."""
    FULL = auto()
    """Not sent: too much is waiting for this peer already. Wait for `Link.room`, or leave it."""
    AWAY = auto()
    """Not sent: this peer is not connected. Nothing is kept for it."""


class Link(Protocol):
    """Messages to and from other processes. Safe to call from scripts and from any thread; no call waits.

    Between one `Connected` and the next `Lost` of a peer its messages arrive in the order sent, each once, without
    gaps. Delivery is never promised; who needs an answer asks again. What was received waits in order to be taken:

        while True:
            yield Wait(link.arrived, None)
            link.arrived.clear()                # before `take`, so that none is overlooked
            for event in link.take():
                ...
    """

    @property
    def arrived(self) -> Signal:
        """Set when there are events to take. For one consumer."""
        ...

    def take(self) -> Sequence[LinkEvent]:
        """All that has arrived since the last call. While it is not called, peers that send much are held up."""
        ...

    def send(self, to: str, message: Message) -> Sent:
        """Hand a message over for the peer of that name. Raises MessageTooLarge; then it was not sent."""
        ...

    def room(self, to: str) -> Signal:
        """Set once it is worth sending to this peer again: after FULL, when there is room, or when it is gone.

        A fresh signal for every time it is full; nobody clears it.
        """
        ...

    def peers(self) -> Sequence[Peer]:
        """Those connected now, by name."""
        ...


# --- Exchange ----------------------------------------------------------------------------------------


class Exchange(Protocol):
    """Questions and answers between the managers of a tree (B10). An address is whatever the transport understands.

    An answer may never come; a question may arrive twice, late, or after its asker has given up. Who is asked must
    know.
    """

    @property
    def address(self) -> str:
        """Where this manager is reached by others. It should outlive restarts: it is written into journals (A6)."""
        ...

    def serve(self, answer: Callable[[Message], Any], *, runtime: Runtime, guid: Guid, random: Random) -> None:
        """Called once the manager is ready: from now on each question is answered by the script `answer(question)`.
        A script that raises gives no answer. `guid` is the manager's coordinator: who it is to the others."""
        ...

    def ask(self, address: str, question: Message, seconds: float) -> Any:
        """A script: the answer, waited for at most so long. Raises ResourceUnavailable (certainly not asked),
        ConnectionLost (no answer: whether it was taken is unknown)."""
        ...

    def close(self) -> None:
        """No more questions, in either direction. Never raises."""
        ...
