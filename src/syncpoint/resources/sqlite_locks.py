"""Who holds a SQLite file's write lock, as the operating system tells (Linux; elsewhere nobody can be named).

Besides naming whom somebody waits for, this shows a lock that was lost. POSIX locks belong to the process, and closing
any descriptor of a file drops them all. Python's `sqlite3` module brings its own copy of SQLite, which knows nothing
of apsw's locks: **a program that opens the same file with both, in one process, loses its locks** when the `sqlite3`
connection is closed, and another process can then write in the middle of a branch. So where that module is loaded, a
branch makes sure of its lock before it votes and before it commits.

Not for: taking locks; SQLite does.
"""

from __future__ import annotations

import os
import sys

PROC_LOCKS = "/proc/locks"
_WAL_WRITE_LOCK_BYTE = 120  # in <file>-shm
_RESERVED_BYTE = 0x4000_0001  # in the database, with a rollback journal


def another_sqlite_is_loaded() -> bool:
    """Whether this process holds a second copy of SQLite, the standard library's."""
    return "_sqlite3" in sys.modules


def lock_holder_pid(path: str) -> int | None:
    """The process that holds the file's write lock; None when nobody does or it cannot be told."""
    try:
        with open(PROC_LOCKS, encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    wanted = _lock_bytes(path)
    for line in lines:
        fields = line.split()
        if len(fields) != 8 or fields[1] != "POSIX" or fields[3] != "WRITE":
            continue  # "->" before the type: one that waits
        byte = wanted.get(fields[5].rpartition(":")[2])
        if byte is None or not int(fields[6]) <= byte:
            continue
        if fields[7] == "EOF" or byte <= int(fields[7]):
            return int(fields[4])
    return None


def lock_holder(path: str) -> str:
    """Who holds the file's write lock, in words; empty when nobody can be named."""
    pid = lock_holder_pid(path)
    if pid is None or pid <= 0:
        return ""
    return "another connection of this process" if pid == os.getpid() else f"process {pid}"


def is_ours(path: str) -> bool:
    """Whether the operating system shows the write lock as this process's. False also where it shows nothing."""
    return lock_holder_pid(path) == os.getpid()


def _lock_bytes(path: str) -> dict[str, int]:
    """Inode, as text, of the files that hold the lock, and its byte there."""
    wanted = {}
    for name, byte in ((path + "-shm", _WAL_WRITE_LOCK_BYTE), (path, _RESERVED_BYTE)):
        try:
            wanted[str(os.stat(name).st_ino)] = byte
        except OSError:
            continue
    return wanted
