"""The journal's disk, on which a process dies: before its n-th change, or in the middle of that one.

Every change to the disk is counted, forces included; reading is not. Not for: a disk that fails or loses power
while the process lives (`syncpoint.testing.disks`).
"""

from __future__ import annotations

import threading

from syncpoint.ports import Disk, FileLock, OpenFile
from syncpoint.system import SystemDisk
from tests.crash.trap import die


class DyingDisk(Disk):
    """The real disk. `nth` counts from 1; 0 never. With `torn`, half of what is appended is written first."""

    def __init__(self, nth: int = 0, torn: bool = False) -> None:
        self.done: list[str] = []
        """Every change, in order."""
        self._nth = nth
        self._torn = torn
        self._disk = SystemDisk()
        self._mutex = threading.Lock()

    def is_last(self, what: str) -> bool:
        """Count a change. Returns whether it is the one to be torn; dies when it is not to happen at all."""
        with self._mutex:
            self.done.append(what)
            if len(self.done) != self._nth:
                return False
            if not self._torn:
                die()
            return True

    # --- changes -------------------------------------------------------------------------------------

    def make_folder(self, path: str) -> None:
        self.is_last("make folder")
        self._disk.make_folder(path)

    def create(self, path: str) -> OpenFile:
        self.is_last("create")
        return _DyingFile(self._disk.create(path), self)

    def replace(self, path: str, data: bytes) -> None:
        self.is_last("replace")
        self._disk.replace(path, data)

    def remove(self, path: str) -> None:
        self.is_last("remove")
        self._disk.remove(path)

    def force_folder(self, folder: str) -> None:
        self.is_last("force folder")
        self._disk.force_folder(folder)

    # --- the rest ------------------------------------------------------------------------------------

    def list(self, folder: str) -> list[str]:
        return self._disk.list(folder)

    def exists(self, path: str) -> bool:
        return self._disk.exists(path)

    def size(self, path: str) -> int:
        return self._disk.size(path)

    def read(self, path: str, offset: int = 0, size_bytes_max: int = -1) -> bytes:
        return self._disk.read(path, offset, size_bytes_max)

    def identity(self, folder: str) -> tuple[int, int]:
        return self._disk.identity(folder)

    def lock(self, path: str) -> FileLock | None:
        return self._disk.lock(path)

    def lock_byte(self, path: str, position: int) -> FileLock | None:
        return self._disk.lock_byte(path, position)


class _DyingFile(OpenFile):
    def __init__(self, file: OpenFile, disk: DyingDisk) -> None:
        self._file = file
        self._disk = disk

    def append(self, data: bytes) -> None:
        if self._disk.is_last("append"):
            self._file.append(data[: len(data) // 2])
            die()
        self._file.append(data)

    def force(self) -> None:
        self._disk.is_last("force")
        self._file.force()

    def close(self) -> None:
        self._file.close()
