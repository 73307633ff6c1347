"""Forks of a process that has SQLite files open: a child must never come to share what SQLite remembers of locks.

SQLite keeps, per process and file, which locks its connections hold. POSIX locks are not inherited by a forked child,
but that memory is: a child that opens a file its parent has open takes no lock at all and believes that it has one.
Seen: the parent closed its last connection, which removed the WAL under the child, and rows that the child had
committed were gone.

So before a fork every idle connection of this process is closed (it is opened again when next needed), and nothing is
inherited. A file with a branch under way cannot be closed: in the child it is refused for the child's lifetime.

Not for: pools, which forget the parent's sessions themselves (resources/pool.py).
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

import apsw

from syncpoint.errors import ResourceUnavailable

if TYPE_CHECKING:
    from syncpoint.resources.sqlite_connection import GuardedConnection

_open: weakref.WeakKeyDictionary[GuardedConnection, tuple[int, int]] = weakref.WeakKeyDictionary()
"""Every connection of this process, and its file (device, inode)."""
_inherited: list[GuardedConnection] = []
"""Connections that were in use at the fork: never closed here, or this process would roll back its parent's work."""
_refused: set[tuple[int, int]] = set()


def watch(connection: GuardedConnection, path: str) -> None:
    """Remember an open connection until it is closed or gone."""
    file = os.stat(path)
    _open[connection] = (file.st_dev, file.st_ino)


def forget(connection: GuardedConnection) -> None:
    """It was closed."""
    _open.pop(connection, None)


def require_usable(path: str) -> None:
    """Raises ResourceUnavailable when this process was forked while its parent used that file."""
    try:
        file = os.stat(path)
    except OSError:
        return  # opening says what is wrong with it
    if (file.st_dev, file.st_ino) in _refused:
        raise ResourceUnavailable(
            f"This process was forked while its parent had a transaction under way in {path}; SQLite would take no "
            "locks here, and lose data.",
            advice="Fork when no transaction is under way, or start the process with spawn instead of fork.",
        )


def _before_fork() -> None:
    for connection in tuple(_open):
        try:
            connection.close_if_idle()
        except apsw.Error:  # in use by another thread
            continue


def _in_child() -> None:
    for connection, file in tuple(_open.items()):
        _inherited.append(connection)
        _refused.add(file)
    _open.clear()


os.register_at_fork(before=_before_fork, after_in_child=_in_child)
