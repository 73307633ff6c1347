"""The real clock, chance and disk behind `ports.py`: a POSIX machine with a local file system.

Locks are POSIX record locks (`fcntl.lockf`), because these go when the process dies, however it dies,
and are not inherited by a forked child (a `flock` survives in the child of a killed parent). Their two
traps are met by `_Holdings`, one table for the whole process:

    trap                                                 what the table does
    two holders in one process are not told apart        a byte held here is refused here
    closing *any* descriptor of a file drops its locks   a file of the table is opened once, and a further
                                                         descriptor is closed only with the file's last lock

Not for: network file systems (their locks and fsync promise less), or deciding what to write (journal/).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from dataclasses import dataclass, field

from syncpoint.ports import Clock, Disk, FileLock, OpenFile, Random

FILE_MODE = 0o600
FOLDER_MODE = 0o700
LOCK_TRIES_MAX = 16  # each failed try means that the lock file was removed and made again meanwhile

_WHOLE_FILE = -1  # stands among the positions for a lock on the whole file


class SystemClock(Clock):
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class SystemRandom(Random):
    """The operating system's random numbers: unpredictable, and never the same in a forked child."""

    def bytes(self, size_bytes: int) -> bytes:
        return os.urandom(size_bytes)

    def fraction(self) -> float:
        return (int.from_bytes(os.urandom(8), "big") >> 11) / (1 << 53)


class SystemDisk(Disk):
    """The local file system. See `ports.Disk` for what each call promises; every one may raise OSError."""

    def __repr__(self) -> str:
        return "<SystemDisk>"

    def make_folder(self, path: str) -> None:
        """Make one folder; its parent must be there. Raises FileExistsError if a file goes by that name."""
        made = True
        try:
            os.mkdir(path, FOLDER_MODE)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
            made = False
        try:
            # Also when it was there: whoever made it may have died, or be about to, before forcing it.
            self.force_folder(os.path.dirname(os.path.abspath(path)))
        except OSError as error:
            if not made and isinstance(error, PermissionError):
                return  # an administrator made it, in a parent that we may not even list
            if made:
                # No later force of the parent would prove that this folder lasts: who comes next is to make it anew.
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            raise

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted. Raises FileNotFoundError when there is no such folder."""
        return sorted(os.listdir(folder))

    def exists(self, path: str) -> bool:
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False  # other errors pass: "may not look" is not "not there"
        return True

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def read(self, path: str, offset: int = 0, size_bytes_max: int = -1) -> bytes:
        held = _holdings.read(path, offset, size_bytes_max)
        if held is not None:
            return held
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read_all(descriptor, offset, size_bytes_max)
        finally:
            _holdings.close(descriptor)

    def create(self, path: str) -> OpenFile:
        return _AppendFile(path, _open_new(path))

    def replace(self, path: str, data: bytes) -> None:
        """Raises OSError. Then either the old or the new content stands at `path`, whole: read it to know.

        A process that dies in between leaves a file whose name ends in `.new` beside it.
        """
        beside = f"{path}.{os.urandom(8).hex()}.new"
        try:
            descriptor = _open_new(beside)
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                _holdings.close(descriptor)
            os.rename(beside, path)
        except BaseException:
            self.remove(beside)
            raise
        self.force_folder(os.path.dirname(os.path.abspath(path)))

    def remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return

    def force_folder(self, folder: str) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def identity(self, folder: str) -> tuple[int, int]:
        status = os.stat(folder)
        return status.st_dev, status.st_ino

    def lock(self, path: str) -> FileLock | None:
        return _holdings.lock(path, _WHOLE_FILE)

    def lock_byte(self, path: str, position: int) -> FileLock | None:
        assert position >= 0, f"a byte's position is not negative: {position}"
        return _holdings.lock(path, position)


class _AppendFile(OpenFile):
    """A file opened for appending; used by one thread at a time."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def __repr__(self) -> str:
        return f"<file {self._path} {'closed' if self._descriptor < 0 else 'open'}>"

    def append(self, data: bytes) -> None:
        _write_all(self._open_descriptor(), data)

    def force(self) -> None:
        os.fdatasync(self._open_descriptor())

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            _holdings.close(descriptor)

    def _open_descriptor(self) -> int:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, "the file is closed", self._path)
        return self._descriptor


def _open_new(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_all(descriptor: int, offset: int, size_bytes_max: int) -> bytes:
    """To the end of the file, even if it grows meanwhile, or to `size_bytes_max`; a read may come short."""
    chunks = []
    left = size_bytes_max if size_bytes_max >= 0 else None
    while left is None or left > 0:
        chunk = os.pread(descriptor, 1 << 20 if left is None else min(left, 1 << 20), offset)
        if not chunk:
            break
        chunks.append(chunk)
        offset += len(chunk)
        left = None if left is None else left - len(chunk)
    return b"".join(chunks)


# --- locks -----------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _HeldFile:
    """A file that this process holds locks on."""

    identity: tuple[int, int]
    descriptor: int
    positions: set[int] = field(default_factory=set)
    parked: list[int] = field(default_factory=list)
    """Further descriptors of this file: closing one now would drop every lock."""

    def conflicts_with(self, position: int) -> bool:
        if position == _WHOLE_FILE:
            return bool(self.positions)
        return position in self.positions or _WHOLE_FILE in self.positions


class _Lock(FileLock):
    """One lock of this process. Releasing twice, or in a forked child, does nothing."""

    def __init__(self, path: str, file: _HeldFile, position: int) -> None:
        self._path = path
        self._file: _HeldFile | None = file
        self._position = position

    def __repr__(self) -> str:
        what = self._path if self._position == _WHOLE_FILE else f"{self._path} byte {self._position}"
        return f"<lock {what} {'released' if self._file is None else 'held'}>"

    def release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            _holdings.release(file, self._position)


class _Holdings:
    """Every file that this process holds locks on, by (device, inode). Safe from many threads."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: the locks are the parent's. Its descriptors stay open and untouched."""
        self._mutex = threading.Lock()  # the parent's may be held by a thread that does not exist here
        self._files: dict[tuple[int, int], _HeldFile] = {}

    def lock(self, path: str, position: int) -> _Lock | None:
        with self._mutex:
            for _ in range(LOCK_TRIES_MAX):
                file = self._file_at(path)
                if file.conflicts_with(position) or not self._acquire(file, position):
                    return None
                if _identity_of(path) == file.identity:
                    return _Lock(path, file, position)
                # It was removed, and perhaps made again, between opening and locking: this lock guards nothing.
                self._let_go(file, position)
            return None

    def release(self, file: _HeldFile, position: int) -> None:
        with self._mutex:
            if self._files.get(file.identity) is file:  # else it is the parent's
                self._let_go(file, position)

    def read(self, path: str, offset: int, size_bytes_max: int) -> bytes | None:
        """Read a file of the table through its one descriptor; None when it is not in the table."""
        with self._mutex:
            identity = _identity_of(path)
            file = self._files.get(identity) if identity is not None else None
            return None if file is None else _read_all(file.descriptor, offset, size_bytes_max)

    def close(self, descriptor: int) -> None:
        """Close a descriptor of any file, unless that dropped a lock: then park it until the last one goes."""
        with self._mutex:
            status = os.fstat(descriptor)
            file = self._files.get((status.st_dev, status.st_ino))
            if file is None:
                os.close(descriptor)
            else:
                file.parked.append(descriptor)

    def _file_at(self, path: str) -> _HeldFile:
        """The file that goes by this path, made when missing: from the table, or newly opened."""
        identity = _identity_of(path)
        held = self._files.get(identity) if identity is not None else None
        if held is not None:
            return held
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        status = os.fstat(descriptor)
        opened = status.st_dev, status.st_ino
        held = self._files.get(opened)
        if held is not None:  # the path was turned to a file of the table since we looked
            held.parked.append(descriptor)
            return held
        return _HeldFile(opened, descriptor)

    def _acquire(self, file: _HeldFile, position: int) -> bool:
        """Ask the system. False when another process holds it."""
        try:
            fcntl.lockf(file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *_range(position))
        except OSError as error:
            self._drop_if_unused(file)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        file.positions.add(position)
        self._files[file.identity] = file
        return True

    def _let_go(self, file: _HeldFile, position: int) -> None:
        file.positions.discard(position)
        try:
            fcntl.lockf(file.descriptor, fcntl.LOCK_UN, *_range(position))
        finally:
            self._drop_if_unused(file)

    def _drop_if_unused(self, file: _HeldFile) -> None:
        if not file.positions:
            self._files.pop(file.identity, None)
            for descriptor in (file.descriptor, *file.parked):
                os.close(descriptor)


def _range(position: int) -> tuple[int, int]:
    """(length, start) for lockf; a length of 0 is the whole file."""
    return (0, 0) if position == _WHOLE_FILE else (1, position)


def _identity_of(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


_holdings = _Holdings()
os.register_at_fork(after_in_child=_holdings.forget)
