"""A disk in memory that fails as real ones do: `MemoryDisk`, for tests of whatever keeps records in files.

What was written and what is certain are kept apart, for the bytes of a file and for the entries of a folder:

    content   what a reader sees (the page cache)    append, create, rename, remove change it
    clean     what was last handed to a force        force sets it, even one that failed
    durable   what is there after a power failure    only a force that succeeded sets it

So bytes whose force failed stay readable and are never made durable by forcing again, as on Linux. A
crash drops what is not durable; a killed process loses its locks only. Several processes share one disk
(`process`); the disk is also one process by itself. Code of a killed process that goes on, say in a
`finally`, meets `ProcessKilled`, which is no Exception: it changes nothing any more.

Not for: speed, permissions, or links.
"""

from __future__ import annotations

import errno
import itertools
import posixpath
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from syncpoint.ports import Disk, FileLock, OpenFile

Torn = Callable[[str, bytes], bytes]
"""What a power failure leaves of a file's unforced bytes: gets the path and those bytes, returns what is found."""

_DEVICE = 1
_WHOLE_FILE = -1


class ProcessKilled(BaseException):
    """The process that calls is dead: nothing happened."""


def keep_prefix(size_bytes: int) -> Torn:
    """Of each file's unforced bytes, the first ones reached the disk."""
    return lambda path, unforced: unforced[:size_bytes]


def keep_zeros(size_bytes: int) -> Torn:
    """Each file grew, but the data did not follow: that many of its unforced bytes read as zero."""
    return lambda path, unforced: bytes(min(size_bytes, len(unforced)))


@dataclass(eq=False, slots=True)
class _File:
    inode: int
    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    clean_bytes: int = 0

    def force(self) -> None:
        if self.clean_bytes < len(self.content):
            # A hole stays where an earlier force failed: those pages were marked clean then.
            self.durable.extend(bytes(max(0, self.clean_bytes - len(self.durable))))
            self.durable[self.clean_bytes :] = self.content[self.clean_bytes :]
        self.clean_bytes = len(self.content)

    def fail_force(self) -> None:
        self.clean_bytes = len(self.content)

    def restart(self, path: str, torn: Torn | None) -> None:
        if torn is not None:
            self.durable.extend(torn(path, bytes(self.content[len(self.durable) :])))
        self.content = bytearray(self.durable)
        self.clean_bytes = len(self.content)


@dataclass(eq=False, slots=True)
class _Folder:
    inode: int
    content: dict[str, _File | _Folder] = field(default_factory=dict)
    durable: dict[str, _File | _Folder] = field(default_factory=dict)
    clean: dict[str, _File | _Folder] = field(default_factory=dict)

    def force(self) -> None:
        for name in self.content.keys() | self.clean.keys():
            entry = self.content.get(name)
            if entry is self.clean.get(name):
                continue
            if entry is None:
                self.durable.pop(name, None)
            else:
                self.durable[name] = entry
        self.clean = dict(self.content)

    def fail_force(self) -> None:
        self.clean = dict(self.content)

    def restart(self, entries_kept: bool) -> None:
        if entries_kept:
            self.durable = dict(self.content)
        self.content = dict(self.durable)
        self.clean = dict(self.durable)


@dataclass(eq=False, slots=True)
class _Owner:
    """One process, as the disk knows it."""

    alive: bool = True


class _Machine:
    """What all processes share: files, locks, faults, counters."""

    def __init__(self) -> None:
        self.mutex = threading.RLock()
        self.inodes = itertools.count(1)
        self.root = _Folder(next(self.inodes))
        self.locks: dict[int, dict[int, _Owner]] = {}  # inode -> position -> holder
        self.owners: list[_Owner] = []
        self.operations = 0
        self.forces = 0
        self.fail_force_at: int | None = None
        self.full_at_bytes: int | None = None
        self.on_operation: Callable[[str, str], None] | None = None

    def new_owner(self) -> _Owner:
        owner = _Owner()
        self.owners.append(owner)
        return owner

    def kill(self, owner: _Owner) -> None:
        with self.mutex:
            owner.alive = False
            for holders in self.locks.values():
                for position in [position for position, holder in holders.items() if holder is owner]:
                    del holders[position]
            self.owners = [other for other in self.owners if other is not owner]

    def before(self, owner: _Owner, operation: str, path: str) -> None:
        """Count, call the hook, which may kill or raise, and let only the living go on."""
        _expect_alive(owner)
        with self.mutex:
            self.operations += 1
        if self.on_operation is not None:
            self.on_operation(operation, path)
        _expect_alive(owner)

    def force(self, path: str, what: _File | _Folder) -> None:
        self.forces += 1
        if self.forces == self.fail_force_at:
            what.fail_force()
            raise OSError(errno.EIO, "the force failed", path)
        what.force()

    def room_bytes(self) -> int | None:
        if self.full_at_bytes is None:
            return None
        return max(0, self.full_at_bytes - sum(len(file.content) for _, file in self.files(self.root)))

    def files(self, folder: _Folder, path: str = "/") -> Iterator[tuple[str, _File]]:
        for name, entry in sorted(folder.content.items()):
            below = posixpath.join(path, name)
            if isinstance(entry, _Folder):
                yield from self.files(entry, below)
            else:
                yield below, entry

    def restart(self, folder: _Folder, path: str, torn: Torn | None, entries_kept: bool) -> None:
        folder.restart(entries_kept)
        for name, entry in folder.content.items():
            below = posixpath.join(path, name)
            if isinstance(entry, _Folder):
                self.restart(entry, below, torn, entries_kept)
            else:
                entry.restart(below, torn)

    # Finding things.

    def find(self, path: str) -> _File | _Folder:
        entry: _File | _Folder = self.root
        for name in _parts(path):
            if not isinstance(entry, _Folder):
                raise NotADirectoryError(errno.ENOTDIR, "no folder", path)
            if name not in entry.content:
                raise FileNotFoundError(errno.ENOENT, "no such file or folder", path)
            entry = entry.content[name]
        return entry

    def find_file(self, path: str) -> _File:
        entry = self.find(path)
        if isinstance(entry, _Folder):
            raise IsADirectoryError(errno.EISDIR, "a folder", path)
        return entry

    def find_folder(self, path: str) -> _Folder:
        entry = self.find(path)
        if not isinstance(entry, _Folder):
            raise NotADirectoryError(errno.ENOTDIR, "no folder", path)
        return entry

    def parent(self, path: str) -> tuple[_Folder, str]:
        *_, name = _parts(path)
        return self.find_folder(posixpath.dirname(_normal(path))), name


class MemoryProcess(Disk):
    """The disk as one process sees it: a `ports.Disk`. Made by `MemoryDisk.process`."""

    def __init__(self, machine: _Machine) -> None:
        self._machine = machine
        self._owner = machine.new_owner()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'alive' if self._owner.alive else 'killed'}>"

    def kill(self) -> None:
        """End this process as SIGKILL does: its locks go, what it wrote stays readable."""
        self._machine.kill(self._owner)

    def make_folder(self, path: str) -> None:
        self._before("make_folder", path)
        with self._machine.mutex:
            folder, name = self._machine.parent(path)
            made = name not in folder.content
            entry = folder.content.setdefault(name, _Folder(next(self._machine.inodes)))
            if not isinstance(entry, _Folder):
                raise FileExistsError(errno.EEXIST, "a file goes by that name", path)
        try:
            self.force_folder(posixpath.dirname(_normal(path)))
        except OSError:
            with self._machine.mutex:
                if made and not entry.content:
                    del folder.content[name]  # as SystemDisk does
            raise

    def list(self, folder: str) -> list[str]:
        self._before("list", folder)
        with self._machine.mutex:
            return sorted(self._machine.find_folder(folder).content)

    def exists(self, path: str) -> bool:
        self._before("exists", path)
        with self._machine.mutex:
            try:
                self._machine.find(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def size(self, path: str) -> int:
        self._before("size", path)
        with self._machine.mutex:
            return len(self._machine.find_file(path).content)

    def read(self, path: str, offset: int = 0, size_bytes_max: int = -1) -> bytes:
        self._before("read", path)
        with self._machine.mutex:
            content = self._machine.find_file(path).content
            end = len(content) if size_bytes_max < 0 else offset + size_bytes_max
            return bytes(content[offset:end])

    def create(self, path: str) -> OpenFile:
        self._before("create", path)
        with self._machine.mutex:
            folder, name = self._machine.parent(path)
            if name in folder.content:
                raise FileExistsError(errno.EEXIST, "it is there already", path)
            file = _File(next(self._machine.inodes))
            folder.content[name] = file
            return _MemoryFile(self._machine, self._owner, path, file)

    def replace(self, path: str, data: bytes) -> None:
        """Counted and hooked as its parts: create, append, force, close, rename, force_folder."""
        beside = f"{path}.{next(self._machine.inodes)}.new"
        try:
            file = self.create(beside)
            file.append(data)
            file.force()
            file.close()
            self._rename(beside, path)
        except OSError:
            self.remove(beside)
            raise
        self.force_folder(posixpath.dirname(_normal(path)))

    def remove(self, path: str) -> None:
        self._before("remove", path)
        with self._machine.mutex:
            try:
                self._machine.find_file(path)
            except FileNotFoundError:
                return
            folder, name = self._machine.parent(path)
            del folder.content[name]

    def force_folder(self, folder: str) -> None:
        self._before("force_folder", folder)
        with self._machine.mutex:
            self._machine.force(folder, self._machine.find_folder(folder))

    def identity(self, folder: str) -> tuple[int, int]:
        self._before("identity", folder)
        with self._machine.mutex:
            return _DEVICE, self._machine.find(folder).inode

    def lock(self, path: str) -> FileLock | None:
        return self._lock("lock", path, _WHOLE_FILE)

    def lock_byte(self, path: str, position: int) -> FileLock | None:
        assert position >= 0, f"a byte's position is not negative: {position}"
        return self._lock("lock_byte", path, position)

    def _lock(self, operation: str, path: str, position: int) -> FileLock | None:
        self._before(operation, path)
        with self._machine.mutex:
            folder, name = self._machine.parent(path)
            folder.content.setdefault(name, _File(next(self._machine.inodes)))
            inode = self._machine.find_file(path).inode
            holders = self._machine.locks.setdefault(inode, {})
            if _WHOLE_FILE in holders or position in holders or (position == _WHOLE_FILE and holders):
                return None
            holders[position] = self._owner
            return _MemoryLock(self._machine, self._owner, path, inode, position)

    def _rename(self, source: str, target: str) -> None:
        self._before("rename", target)
        with self._machine.mutex:
            source_folder, source_name = self._machine.parent(source)
            target_folder, target_name = self._machine.parent(target)
            if isinstance(target_folder.content.get(target_name), _Folder):
                raise IsADirectoryError(errno.EISDIR, "a folder", target)
            target_folder.content[target_name] = source_folder.content.pop(source_name)

    def _before(self, operation: str, path: str) -> None:
        self._machine.before(self._owner, operation, path)


class MemoryDisk(MemoryProcess):
    """A disk with faults on demand; itself one process, and more with `process`.

    Attributes to read: `operations` (calls so far, of all processes), `forces` (of files and folders). To set:
    `fail_force_at` (that force, counted from 1, raises EIO), `full_at_bytes` (of all files together; the write
    that passes it is short and raises ENOSPC), `on_operation` (called before every operation with its name and
    path; it may raise OSError, `crash` or kill).
    """

    def __init__(self) -> None:
        super().__init__(_Machine())

    @property
    def operations(self) -> int:
        return self._machine.operations

    @property
    def forces(self) -> int:
        return self._machine.forces

    @property
    def fail_force_at(self) -> int | None:
        return self._machine.fail_force_at

    @fail_force_at.setter
    def fail_force_at(self, number: int | None) -> None:
        self._machine.fail_force_at = number

    @property
    def full_at_bytes(self) -> int | None:
        return self._machine.full_at_bytes

    @full_at_bytes.setter
    def full_at_bytes(self, size_bytes: int | None) -> None:
        self._machine.full_at_bytes = size_bytes

    @property
    def on_operation(self) -> Callable[[str, str], None] | None:
        return self._machine.on_operation

    @on_operation.setter
    def on_operation(self, hook: Callable[[str, str], None] | None) -> None:
        self._machine.on_operation = hook

    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(len(file.content) for _, file in self._machine.files(self._machine.root))

    def process(self) -> MemoryProcess:
        """Another process on the same disk; `kill` ends it."""
        return MemoryProcess(self._machine)

    def kill(self) -> None:
        """End the disk's own process, and start its next one: files opened and locks taken before are dead."""
        super().kill()
        self._owner = self._machine.new_owner()

    def kill_all(self) -> None:
        """End every process; the machine stays up, so all that was written stays readable."""
        with self._machine.mutex:
            for owner in tuple(self._machine.owners):
                self._machine.kill(owner)
            self._owner = self._machine.new_owner()

    def crash(self, torn: Torn | None = None, *, entries_kept: bool = False) -> None:
        """Power failure: every process is gone, and with it whatever was not durable.

        Parameters: `torn` says what is left of each file's unforced bytes (nothing when None);
        `entries_kept`: unforced changes to folders reached the disk after all.
        """
        with self._machine.mutex:
            self.kill_all()
            self._machine.restart(self._machine.root, "/", torn, entries_kept)

    def flip(self, path: str, offset: int, mask: int = 0x01) -> None:
        """Damage: flip bits of one byte, in the cache and on the disk."""
        with self._machine.mutex:
            file = self._machine.find_file(path)
            file.content[offset] ^= mask
            if offset < len(file.durable):
                file.durable[offset] ^= mask

    def copy_folder(self, source: str, target: str) -> None:
        """A durable copy of a folder and all below, as a backup tool makes: same bytes, other identities (O53)."""
        with self._machine.mutex:
            folder, name = self._machine.parent(target)
            copied = self._copy(self._machine.find_folder(source))
            for entries in (folder.content, folder.durable, folder.clean):
                entries[name] = copied

    def _copy(self, entry: _File | _Folder) -> _File | _Folder:
        inode = next(self._machine.inodes)
        if isinstance(entry, _File):
            return _File(inode, bytearray(entry.content), bytearray(entry.content), len(entry.content))
        entries = {name: self._copy(below) for name, below in entry.content.items()}
        return _Folder(inode, dict(entries), dict(entries), dict(entries))


class _MemoryFile(OpenFile):
    def __init__(self, machine: _Machine, owner: _Owner, path: str, file: _File) -> None:
        self._machine = machine
        self._owner = owner
        self._path = path
        self._file = file
        self._closed = False

    def append(self, data: bytes) -> None:
        self._before("append")
        with self._machine.mutex:
            room_bytes = self._machine.room_bytes()
            self._file.content += data if room_bytes is None else data[:room_bytes]
            if room_bytes is not None and room_bytes < len(data):
                raise OSError(errno.ENOSPC, "no space left on the disk", self._path)

    def force(self) -> None:
        self._before("force")
        with self._machine.mutex:
            self._machine.force(self._path, self._file)

    def close(self) -> None:
        if not self._closed:
            self._before("close")
            self._closed = True

    def _before(self, operation: str) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the file is closed", self._path)
        self._machine.before(self._owner, operation, self._path)


class _MemoryLock(FileLock):
    def __init__(self, machine: _Machine, owner: _Owner, path: str, inode: int, position: int) -> None:
        self._machine = machine
        self._owner = owner
        self._path = path
        self._inode = inode
        self._position = position
        self._released = False

    def release(self) -> None:
        if self._released:
            return
        self._machine.before(self._owner, "release", self._path)
        with self._machine.mutex:
            self._released = True
            del self._machine.locks[self._inode][self._position]


def _expect_alive(owner: _Owner) -> None:
    if not owner.alive:
        raise ProcessKilled("this process was killed")


def _normal(path: str) -> str:
    return posixpath.normpath(posixpath.join("/", path))


def _parts(path: str) -> list[str]:
    return [part for part in _normal(path).split("/") if part]
