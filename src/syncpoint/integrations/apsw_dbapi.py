"""A small PEP 249 face for apsw: as much as SQLAlchemy's SQLite dialect asks of a driver.

The standard module cannot be used: it has no changesets, and a second copy of SQLite in the process would drop the
locks of the first. `Connection` wraps an apsw connection that somebody else opened, begins and ends; commit,
rollback and close are therefore refused. Cursors read lazily, as those of the standard module do, except that
`RETURNING` is read at once, so that the statement is over when `execute` returns.
Not for: opening files, transactions (resources/sqlite.py), or anything about SQLAlchemy (sqlalchemy_dialects.py).
"""

from __future__ import annotations

import datetime
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import apsw

from syncpoint.errors import NotAllowed
from syncpoint.resources.sqlite_connection import TrackedCursor

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"
sqlite_version = apsw.sqlite_lib_version()
sqlite_version_info = tuple(int(part) for part in sqlite_version.split("."))

STRING, BINARY, NUMBER, DATETIME, ROWID = str, bytes, float, datetime.datetime, int
Binary = bytes
Date, Time, Timestamp = datetime.date, datetime.time, datetime.datetime

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]
Row: TypeAlias = tuple[Any, ...]
Description: TypeAlias = tuple[tuple[str, Any, None, None, None, None, None], ...]

_CHANGES_ROWS = re.compile(r"(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*(?:INSERT|UPDATE|DELETE|REPLACE|WITH)\b", re.I | re.S)
_EMPTY = re.compile(r"(?:\s+|;|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*\Z", re.S)


class Warning(Exception):
    """Never raised; PEP 249 wants the name."""


class Error(Exception):
    """Base of this module's errors. `sqlite_errorcode` is SQLite's extended result code, 0 when it has none."""

    sqlite_errorcode = 0


class InterfaceError(Error):
    """The driver was used wrongly."""


class DatabaseError(Error):
    """Base of the errors that concern the database."""


class DataError(DatabaseError):
    """A value is too big."""


class OperationalError(DatabaseError):
    """Busy, full, unreadable; also bad SQL, as in the standard module."""


class IntegrityError(DatabaseError):
    """A constraint failed."""


class InternalError(DatabaseError):
    """SQLite is in trouble with itself."""


class ProgrammingError(DatabaseError):
    """Wrong parameters, several statements in one text, a closed cursor."""


class NotSupportedError(DatabaseError):
    """Never raised; PEP 249 wants the name."""


_MEANINGS: tuple[tuple[tuple[type[apsw.Error], ...], type[Error]], ...] = (
    ((apsw.ConstraintError, apsw.MismatchError), IntegrityError),
    ((apsw.TooBigError,), DataError),
    ((apsw.InternalError, apsw.NotFoundError), InternalError),
    ((apsw.MisuseError, apsw.RangeError), InterfaceError),
    ((apsw.CorruptError, apsw.NotADBError, apsw.AuthError), DatabaseError),
    (
        (
            apsw.BindingsError,
            apsw.IncompleteExecutionError,
            apsw.CursorClosedError,
            apsw.ConnectionClosedError,
            apsw.ThreadingViolationError,
        ),
        ProgrammingError,
    ),
)


def translated(error: apsw.Error) -> Error:
    """This module's error for one of apsw's; raise it `from` that one."""
    kind = next((ours for theirs, ours in _MEANINGS if isinstance(error, theirs)), OperationalError)
    ours = kind(str(error))
    ours.sqlite_errorcode = getattr(error, "extendedresult", 0)
    return ours


_functions: weakref.WeakKeyDictionary[apsw.Connection, dict[tuple[str, int], Callable[..., Any]]] = (
    weakref.WeakKeyDictionary()
)
"""What `create_function` has registered where. Registering makes SQLite compile every statement anew, and pooled
connections come by again and again."""


class Connection:
    """A connection over an apsw connection that belongs to a transaction's branch."""

    isolation_level = None

    def __init__(self, driver: apsw.Connection) -> None:
        self.driver = driver

    def __repr__(self) -> str:
        return f"<apsw_dbapi.Connection {self.driver.filename}>"

    def cursor(self) -> Cursor:
        """A new cursor."""
        return Cursor(self)

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        """A new cursor on which `sql` was executed."""
        cursor = self.cursor()
        cursor.execute(sql, parameters)
        return cursor

    def create_function(self, name: str, narg: int, func: Callable[..., Any], *, deterministic: bool = False) -> None:
        """Make a Python function known to SQL, for as long as the apsw connection lives."""
        known = _functions.setdefault(self.driver, {})
        if known.get((name, narg)) is not func:
            self.driver.create_scalar_function(name, func, narg, deterministic=deterministic)
            known[name, narg] = func

    @property
    def in_transaction(self) -> bool:
        return self.driver.in_transaction

    @property
    def total_changes(self) -> int:
        return self.driver.total_changes()

    def commit(self) -> NoReturn:
        raise _refusal("commit()")

    def rollback(self) -> NoReturn:
        raise _refusal("rollback()")

    def close(self) -> NoReturn:
        raise _refusal("close()")


def _refusal(what: str) -> NotAllowed:
    return NotAllowed(
        f"{what} would end this transaction's SQLite branch behind the transaction's back.",
        advice="Leave the transaction's block instead: it commits everywhere, or, on an exception, nowhere.",
    )


class _Seen:
    """What was seen of a statement as it began: only then can apsw describe one that returns no row.

    An object of its own, so that a cursor and its tracer are no cycle and a dropped cursor is closed at once.
    """

    __slots__ = ("description", "reads_only", "statements")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.description: Description | None = None
        self.reads_only = True
        self.statements = 0

    def look(self, cursor: apsw.Cursor, sql: str, _: Any) -> bool:
        """Called before each statement of a text."""
        self.statements += 1
        if self.statements == 1:
            self.description = cursor.description or None
            self.reads_only = cursor.is_readonly
        elif not _EMPTY.match(sql):
            raise ProgrammingError("You can only execute one statement at a time.")
        return True


class Cursor:
    """A cursor as PEP 249 describes it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1
        self._seen = _Seen()
        self._rows: Iterator[Row] = iter(())
        # Made here and not by the connection, whose factory and tracers may be the user's own.
        self._cursor = TrackedCursor(connection.driver)
        self._cursor.exec_trace = self._seen.look
        self._cursor.convert_binding = _convert
        if connection.driver.row_trace is not None:
            self._cursor.row_trace = _plain_row

    @property
    def description(self) -> Description | None:
        """Seven values for each column, the name first; None when the statement returns no rows."""
        return self._seen.description

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        """Execute one statement. Raises this module's errors."""
        self._rows = iter(())
        self.rowcount = -1
        self._seen.forget()
        driver = self.connection.driver
        try:
            self._cursor.execute(sql, parameters if isinstance(parameters, Mapping) else tuple(parameters))
            self._rows = self._cursor if self._seen.reads_only else iter(self._cursor.fetchall())
        except apsw.Error as error:
            raise translated(error) from error
        if not self._seen.reads_only and _CHANGES_ROWS.match(sql):
            self.rowcount = driver.changes()
            self.lastrowid = driver.last_insert_rowid()
        return self

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> Cursor:
        """Execute one statement once for each of `parameters`; `rowcount` is the sum."""
        changed = 0
        for one in parameters:
            self.execute(sql, one)
            changed += max(self.rowcount, 0)
        self._rows, self.rowcount = iter(()), changed
        return self

    def fetchone(self) -> Row | None:
        """The next row, or None."""
        try:
            return next(self._rows, None)
        except apsw.Error as error:
            raise translated(error) from error

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """The next `size` rows (default: `arraysize`), or as many as there are."""
        rows: list[Row] = []
        wanted = self.arraysize if size is None else size
        while len(rows) < wanted and (row := self.fetchone()) is not None:
            rows.append(row)
        return rows

    def fetchall(self) -> list[Row]:
        """All rows that are left."""
        try:
            return list(self._rows)
        except apsw.Error as error:
            raise translated(error) from error

    def __iter__(self) -> Iterator[Row]:
        return iter(self.fetchone, None)

    def close(self) -> None:
        """Close it; what was not read is dropped."""
        self._rows = iter(())
        self._cursor.close(True)

    def setinputsizes(self, sizes: Any) -> None:
        """Does nothing."""

    def setoutputsize(self, size: Any, column: Any = None) -> None:
        """Does nothing."""


def _convert(_: apsw.Cursor, number: int, value: Any) -> str:
    """What the standard module makes of a value that SQLite has no type for. Called for such values only."""
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise ProgrammingError(f"Error binding parameter {number}: type {type(value).__name__!r} is not supported")


def _plain_row(_: apsw.Cursor, row: Row) -> Row:
    return row
