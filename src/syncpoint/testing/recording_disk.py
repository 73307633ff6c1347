"""Any disk, and every change made to it written down, in order: `Recording`, and what its processes write through.

What is recorded is what `ports.Disk` promises of each call, so `replace` is recorded in its parts. Marks stand between
the changes: an answer that was given, say. Not for: what a crash makes of all this (crash_states.py).
"""

from __future__ import annotations

import contextlib
import itertools
import posixpath
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from syncpoint.ports import Disk, FileLock, OpenFile
from syncpoint.testing.disk_images import ROOT, Entry, Image

UNSEEN_INODE = 500_000
"""Where the numbers of folders begin that were made and removed again at once."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One change to the disk, or a mark."""

    kind: str
    """make_folder, create, append, force, rename, remove, force_folder, failed_force, remove_folder, mark."""
    path: str = ""
    data: bytes = b""
    target: str = ""
    inode: int = 0
    mark: Any = None


class Recording:
    """What happened to one disk, by any number of processes. `start`: what is durable on it at the beginning."""

    def __init__(self, start: Image | None = None) -> None:
        self.start = dict(start or {ROOT: Entry(1, None)})
        self.operations: list[Operation] = []
        self._mutex = threading.RLock()
        self._numbers = itertools.count(1)
        self.on_operation: Callable[[str, str], None] | None = None
        """Called before every change with its kind and path; what it raises, the writer gets."""

    def __repr__(self) -> str:
        return f"<Recording {len(self.operations)} operations>"

    def __len__(self) -> int:
        return len(self.operations)

    def process(self, disk: Disk) -> RecordingDisk:
        """The disk as one more process sees it, recorded."""
        return RecordingDisk(disk, self)

    def mark(self, mark: Any) -> None:
        """Note that something happened, such as an answer: it counts from now on."""
        with self._mutex:
            self.operations.append(Operation("mark", mark=mark))

    def note(self, operation: Operation) -> None:
        with self._mutex:
            self.operations.append(operation)

    def before(self, kind: str, path: str) -> None:
        if self.on_operation is not None:
            self.on_operation(kind, path)

    def number(self) -> int:
        return next(self._numbers)


class RecordingDisk(Disk):
    """Another disk, and every change that it made written down. Made by `Recording.process`."""

    def __init__(self, disk: Disk, recording: Recording) -> None:
        self.disk = disk
        self._recording = recording

    def __repr__(self) -> str:
        return f"<RecordingDisk over {self.disk!r}>"

    # Changes.

    def make_folder(self, path: str) -> None:
        self._recording.before("make_folder", path)
        try:
            self.disk.make_folder(path)
        except OSError:
            self._recording.note(Operation("make_folder", path, inode=UNSEEN_INODE + self._recording.number()))
            self._recording.note(Operation("failed_force", posixpath.dirname(path)))
            if not self.disk.exists(path):
                self._recording.note(Operation("remove_folder", path))
            raise
        self._recording.note(Operation("make_folder", path, inode=self.disk.identity(path)[1]))
        self._recording.before("force_folder", path)
        self._recording.note(Operation("force_folder", posixpath.dirname(path)))

    def create(self, path: str) -> OpenFile:
        self._recording.before("create", path)
        file = self.disk.create(path)
        self._recording.note(Operation("create", path))
        return _RecordingFile(file, path, self._recording)

    def replace(self, path: str, data: bytes) -> None:
        """As its contract says, in parts: beside it, force, rename, force the folder."""
        beside = f"{path}.{self._recording.number()}.new"
        try:
            file = self.create(beside)
            file.append(data)
            file.force()
            file.close()
            self._recording.before("rename", path)
            self.disk.replace(path, data)
            self.disk.remove(beside)
            self._recording.note(Operation("rename", beside, target=path))
        except OSError:
            self.remove(beside)
            raise
        self.force_folder(posixpath.dirname(path))

    def remove(self, path: str) -> None:
        self._recording.before("remove", path)
        was_there = self.disk.exists(path)
        self.disk.remove(path)
        if was_there:
            self._recording.note(Operation("remove", path))

    def force_folder(self, folder: str) -> None:
        self._recording.before("force_folder", folder)
        with _telling(self._recording, folder):
            self.disk.force_folder(folder)
        self._recording.note(Operation("force_folder", folder))

    def lock(self, path: str) -> FileLock | None:
        return self._lock(path, lambda: self.disk.lock(path))

    def lock_byte(self, path: str, position: int) -> FileLock | None:
        return self._lock(path, lambda: self.disk.lock_byte(path, position))

    def _lock(self, path: str, take: Callable[[], FileLock | None]) -> FileLock | None:
        self._recording.before("lock", path)
        was_there = self.disk.exists(path)
        lock = take()
        if not was_there:
            self._recording.note(Operation("create", path))
        return lock

    # What changes nothing.

    def list(self, folder: str) -> list[str]:
        return self.disk.list(folder)

    def exists(self, path: str) -> bool:
        return self.disk.exists(path)

    def size(self, path: str) -> int:
        return self.disk.size(path)

    def read(self, path: str, offset: int = 0, size_bytes_max: int = -1) -> bytes:
        return self.disk.read(path, offset, size_bytes_max)

    def identity(self, folder: str) -> tuple[int, int]:
        return self.disk.identity(folder)


class _RecordingFile(OpenFile):
    def __init__(self, file: OpenFile, path: str, recording: Recording) -> None:
        self._file = file
        self._path = path
        self._recording = recording

    def append(self, data: bytes) -> None:
        self._recording.before("append", self._path)
        self._file.append(data)
        self._recording.note(Operation("append", self._path, data))

    def force(self) -> None:
        self._recording.before("force", self._path)
        with _telling(self._recording, self._path):
            self._file.force()
        self._recording.note(Operation("force", self._path))

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _telling(recording: Recording, path: str) -> Iterator[None]:
    """Note a force that fails."""
    try:
        yield
    except OSError:
        recording.note(Operation("failed_force", path))
        raise
