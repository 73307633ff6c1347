"""psycopg's connection as Django works on it, over a branch.

Django's own has a cursor class, type adapters for the time zone and an isolation level; the branch's connection, over
the same libpq connection, gets all of it, and still watches and refuses. Not for: MariaDB, which needs nothing.
"""

from __future__ import annotations

import functools
from typing import Any

from psycopg import IsolationLevel

from syncpoint.resources.postgres_connection import BranchConnection as _BranchConnection
from syncpoint.resources.postgres_connection import BranchCursor


class BranchConnection(_BranchConnection):
    """What Django's wrapper holds during a block."""

    @property
    def autocommit(self) -> bool:
        """False: Django asks, to learn whether it is in a transaction; a named cursor needs no WITH HOLD here."""
        return False

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self.set_autocommit(value)


def as_django_wants_it(of_branch: Any, original: Any) -> BranchConnection:
    """A connection object over the same branch as `of_branch`, set up as `original`, which is Django's own."""
    connection = BranchConnection.over(of_branch, of_branch.watch)
    connection.cursor_factory = _watched(original.cursor_factory)
    connection.row_factory = original.row_factory
    connection.server_cursor_factory = original.server_cursor_factory
    connection._adapters = original.adapters
    connection._prepared = original._prepared
    connection._notice_handlers = original._notice_handlers
    connection._notify_handlers = original._notify_handlers
    connection._isolation_level = original.isolation_level
    return connection


def characteristics(original: Any) -> str:
    """SQL that gives the transaction the isolation level that Django has set on its connection; empty for none."""
    level, read_only = original.isolation_level, original.read_only
    words = [f"ISOLATION LEVEL {IsolationLevel(level).name.replace('_', ' ')}"] if level is not None else []
    words += ["READ ONLY" if read_only else "READ WRITE"] if read_only is not None else []
    return f"SET TRANSACTION {', '.join(words)}" if words else ""


@functools.cache
def _watched(cursor_class: type[Any]) -> type[Any]:
    """Django's cursor class, watched."""
    return type(f"Branch{cursor_class.__name__}", (BranchCursor, cursor_class), {})
