"""What a SQLite branch changed: captured as a changeset, carried as state information, applied as redo.

A changeset (SQLite's session extension) holds rows by primary key, with their old values. What it cannot carry must
not be voted on, because a redo would silently lack it (DESIGN section 4, rule 9): `Capture.take` refuses, naming

- tables without a declared PRIMARY KEY (the session is told to record them by rowid, only so that they are seen);
- rows whose key is NULL: the session drops them without a word. Every table in which a key can be NULL (a rowid table
  whose key columns are not NOT NULL) has its NULL-key rows compared with those at begin. That is an index look-up for
  a key of one column and a scan for longer ones, when another connection wrote since: declare keys NOT NULL;
- virtual tables (seen by writes to their shadow tables), and changes of attached files;
- DDL, `PRAGMA user_version`, `PRAGMA application_id`, a sequence of AUTOINCREMENT that was lowered.

Trap: `DELETE FROM t` compiled while no session existed uses SQLite's truncate optimisation, which no session sees; a
cached statement would do so later too. So each connection keeps one disabled session, the *anchor*, from open to
close.

State information, format version 1: one byte of version, then MessagePack [changeset, [[table, sequence], ...]].
The hidden rowid of a table whose key is another column may differ after a redo.

Not for: evidence and notes (sqlite.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import apsw
import msgspec

from syncpoint.errors import FormatTooNew
from syncpoint.resources.sqlite_connection import GuardedConnection, quoted

STATE_FORMAT = 1
OWN_TABLES_PREFIX = "syncpoint_"


class CannotCapture(Exception):
    """The branch changed something that state information cannot carry; the text names it."""


class BadState(ValueError):
    """These bytes are no state information of a SQLite branch."""


class State(msgspec.Struct, frozen=True, array_like=True):
    """What the yes vote carries (B2)."""

    changeset: bytes
    sequences: tuple[tuple[str, int], ...] = ()
    """AUTOINCREMENT: the tables whose sequence the branch raised, and to what."""


def encode_state(state: State) -> bytes:
    return bytes((STATE_FORMAT,)) + msgspec.msgpack.encode(state)


def decode_state(raw: bytes) -> State:
    """Read `encode_state`. Raises BadState, FormatTooNew."""
    if not raw:
        raise BadState("state information has at least one byte")
    if raw[0] > STATE_FORMAT:
        raise FormatTooNew("state information of a SQLite branch", raw[0], STATE_FORMAT)
    try:
        state = msgspec.msgpack.decode(raw[1:], type=State)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadState(str(error)) from None
    for table, sequence in state.sequences:
        if not -(1 << 63) <= sequence < 1 << 63:
            raise BadState(f"the sequence of {table!r} is {sequence}, more than SQLite's 64 bits hold")
    return state


# --- the schema as far as capturing needs it ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a file's schema decides whether its tables can be captured."""

    schema_version: int
    shadows: frozenset[str]
    virtuals: frozenset[str]
    keyless: frozenset[str]
    nullable: dict[str, tuple[str, ...]]
    """Tables whose key can be NULL, and its columns that can."""
    has_sequences: bool


_SHAPE = """
SELECT tl.name, tl.type, tl.wr, k.name, k."notnull",
       EXISTS (SELECT 1 FROM pragma_index_list(tl.name, 'main') AS i WHERE i.origin = 'pk')
FROM pragma_table_list AS tl
LEFT JOIN pragma_table_xinfo(CASE tl.type WHEN 'table' THEN tl.name END, 'main') AS k ON k.pk > 0
WHERE tl.schema = 'main' AND tl.type <> 'view'
"""


def read_shape(connection: GuardedConnection, schema_version: int) -> Shape:
    """Look at every table of the main file."""
    shadows, virtuals, keyless = set(), set(), set()
    nullable: dict[str, list[str]] = {}
    has_sequences = False
    for table, kind, without_rowid, key, not_null, has_key_index in connection.run(_SHAPE):
        if kind == "shadow":
            shadows.add(table)
        elif kind == "virtual":
            virtuals.add(table)
        elif table == "sqlite_sequence":
            has_sequences = True
        elif is_ours_or_sqlites(table):
            continue
        elif key is None:
            keyless.add(table)
        elif has_key_index and not without_rowid and not not_null:
            nullable.setdefault(table, []).append(key)
    return Shape(
        schema_version,
        frozenset(shadows),
        frozenset(virtuals),
        frozenset(keyless),
        {table: tuple(keys) for table, keys in nullable.items()},
        has_sequences,
    )


def is_ours_or_sqlites(table: str) -> bool:
    """Tables that no branch's changeset holds: Syncpoint's own, and SQLite's (statistics, sequences)."""
    return table.lower().startswith((OWN_TABLES_PREFIX, "sqlite_"))


# --- capturing -------------------------------------------------------------------------------------------------------


class Watcher:
    """What capturing keeps for a connection's lifetime: the anchor session, and what it knows of the file."""

    def __init__(self, connection: GuardedConnection) -> None:
        self.connection = connection
        self._anchor = apsw.Session(connection, "main")
        self._anchor.enabled = False
        self._shape: Shape | None = None
        self._null_rows: dict[str, bytes] = {}
        self._null_rows_at: tuple[int, int] | None = None

    def shape(self, schema_version: int) -> Shape:
        if self._shape is None or self._shape.schema_version != schema_version:
            self._shape = read_shape(self.connection, schema_version)
        return self._shape

    def null_rows(self, shape: Shape) -> dict[str, bytes]:
        """Per table whose key can be NULL, a digest of its NULL-key rows. Remembered while nobody else writes."""
        if not shape.nullable:
            return {}
        # data_version moves with other connections' commits; our own two-phase commits change none of these rows.
        at = (shape.schema_version, self.connection.run("PRAGMA main.data_version")[0][0])
        if at != self._null_rows_at:
            self._null_rows = {table: self.digest(table, keys) for table, keys in shape.nullable.items()}
            self._null_rows_at = at
        return self._null_rows

    def forget(self) -> None:
        """A one-phase commit may have changed anything: look again at the next begin."""
        self._null_rows_at = None

    def digest(self, table: str, keys: Sequence[str]) -> bytes:
        where = " OR ".join(f"{quoted(key)} IS NULL" for key in keys)
        rows = self.connection.run(f"SELECT rowid, * FROM main.{quoted(table)} WHERE {where}")
        return hashlib.sha256(repr(rows).encode("utf-8", "surrogatepass")).digest() if rows else b""


_HEADER = "SELECT * FROM pragma_schema_version, pragma_user_version, pragma_application_id"


class Capture:
    """One branch's changes, from begin on. Made under the write lock, before the first change."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._connection = watcher.connection
        self._header = self._read_header()
        self._shape = watcher.shape(self._header[0])
        self._null_rows = watcher.null_rows(self._shape)
        self._sequences = self._read_sequences()
        self._total_changes = self._connection.total_changes()
        self._touched: set[str] = set()
        self._session = apsw.Session(self._connection, "main")
        self._session.config(apsw.SQLITE_SESSION_OBJCONFIG_ROWID, True)
        self._session.table_filter(self._keep)

    def close(self) -> None:
        self._session.close()

    def wrote(self) -> bool:
        """Whether anything may have been changed, in this file or an attached one: never a wrong no."""
        return (
            bool(self._touched)
            or not self._session.is_empty
            or self._connection.total_changes() != self._total_changes
            or self._read_header() != self._header
            or bool(self.attached_written())
        )

    def attached_written(self) -> list[str]:
        """Attached databases that the branch wrote to. (It attached them itself: begin detaches all others.)"""
        attached = self._connection.attached()
        return [schema for schema in attached if self._connection.txn_state(schema) == apsw.SQLITE_TXN_WRITE]

    def take(self) -> State | None:
        """What the branch changed; None: nothing. Raises CannotCapture."""
        self._refuse_header()
        changeset = self._session.changeset()
        self._refuse_tables(changeset)
        sequences = self._raised_sequences()
        return State(changeset, sequences) if changeset or sequences else None

    def _keep(self, table: str) -> bool:
        """The session asks at the first change of a table: also how we learn which tables were written."""
        if is_ours_or_sqlites(table):
            return False
        self._touched.add(table)
        return True

    def _read_header(self) -> tuple[int, int, int]:
        schema, user, application = self._connection.run(_HEADER)[0]
        return (schema, user, application)

    def _refuse_header(self) -> None:
        schema, user, application = self._read_header()
        if schema != self._header[0]:
            raise CannotCapture("it changed the schema (DDL); run CREATE, ALTER, DROP and ANALYZE outside transactions")
        if (user, application) != self._header[1:]:
            raise CannotCapture("it set PRAGMA user_version or application_id; set them outside transactions")

    def _refuse_tables(self, changeset: bytes) -> None:
        for table in sorted(self._touched & self._shape.shadows):
            raise CannotCapture(f"it wrote to the virtual table {self._owner(table)!r}, which cannot be captured")
        if self._touched & self._shape.keyless:
            for change in apsw.Changeset.iter(changeset):
                if change.name in self._shape.keyless:
                    raise CannotCapture(f"it wrote to the table {change.name!r}, which has no PRIMARY KEY; declare one")
        for table in sorted(self._touched & self._shape.nullable.keys()):
            if self._watcher.digest(table, self._shape.nullable[table]) != self._null_rows[table]:
                raise CannotCapture(
                    f"it wrote rows of the table {table!r} whose key is NULL; declare the key NOT NULL, and fill it in"
                )

    def _owner(self, shadow: str) -> str:
        owners = [table for table in self._shape.virtuals if shadow.lower().startswith(table.lower() + "_")]
        return max(owners, key=len, default=shadow)

    def _read_sequences(self) -> dict[str, int]:
        if not self._shape.has_sequences:
            return {}
        return dict(self._connection.run("SELECT name, seq FROM main.sqlite_sequence"))

    def _raised_sequences(self) -> tuple[tuple[str, int], ...]:
        now = self._read_sequences()
        for table, before in self._sequences.items():
            if now.get(table, -1) < before:
                raise CannotCapture(f"it lowered the AUTOINCREMENT sequence of {table!r}; do that outside transactions")
        return tuple(sorted((table, seq) for table, seq in now.items() if self._sequences.get(table) != seq))


# --- redo ------------------------------------------------------------------------------------------------------------

_REASONS = {
    apsw.SQLITE_CHANGESET_DATA: "has other values than before",
    apsw.SQLITE_CHANGESET_NOTFOUND: "is gone",
    apsw.SQLITE_CHANGESET_CONFLICT: "is there already",
    apsw.SQLITE_CHANGESET_CONSTRAINT: "would break a constraint",
    apsw.SQLITE_CHANGESET_FOREIGN_KEY: "would break a foreign key",
}


def apply_state(connection: GuardedConnection, state: State) -> str:
    """Redo a branch inside the transaction under way: exactly its rows, triggers and foreign-key actions off
    (DATABASES SQLite 5). Returns why not; then nothing of it was applied. Empty: done."""
    connection.run("SAVEPOINT syncpoint_redo")
    conflict = _misfit(connection, state) or _apply(connection, state)
    if conflict:
        connection.run("ROLLBACK TO syncpoint_redo")
    connection.run("RELEASE syncpoint_redo")
    return conflict


def _apply(connection: GuardedConnection, state: State) -> str:
    conflicts: list[str] = []

    def on_conflict(reason: int, change: apsw.TableChange) -> int:
        conflicts.append(f"{_row_of(change)} {_REASONS.get(reason, f'conflicts ({reason})')}")
        return apsw.SQLITE_CHANGESET_ABORT

    triggers = connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, -1)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    try:
        if state.changeset:
            apsw.Changeset.apply(
                state.changeset, connection, conflict=on_conflict, flags=apsw.SQLITE_CHANGESETAPPLY_FKNOACTION
            )
    except (apsw.AbortError, apsw.ConstraintError):
        if not conflicts:
            raise
        return conflicts[0]
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, triggers)
    if connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
        return "a foreign key would be broken"
    _raise_sequences(connection, state)
    return ""


def _misfit(connection: GuardedConnection, state: State) -> str:
    """Why a table of the changeset does not fit; SQLite would skip it with no more than a log message."""
    tables: dict[str, tuple[int, set[int] | None]] = {}
    try:
        for change in apsw.Changeset.iter(state.changeset) if state.changeset else ():
            tables.setdefault(change.name, (change.column_count, change.pk_columns))
    except (apsw.Error, UnicodeDecodeError) as error:  # of these bytes, not of the file, although SQLite says so
        return f"its changeset cannot be read ({type(error).__name__})"
    for table, (column_count, pk_columns) in tables.items():
        columns = connection.run("SELECT pk, hidden FROM pragma_table_xinfo(?, 'main')", (table,))
        stored = [pk for pk, hidden in columns if not hidden]
        keys = {index for index, pk in enumerate(stored) if pk}
        if not columns:
            return f"the table {table!r} is gone"
        if len(stored) != column_count or keys != pk_columns:
            return f"the table {table!r} has other columns or another key than before"
    return ""


def _row_of(change: apsw.TableChange) -> str:
    """A row as people know it: its table and key, no other data (DESIGN section 8)."""
    try:
        row = change.old if change.old is not None else change.new
        keys = tuple(row[index] for index in sorted(change.pk_columns or ())) if row is not None else ()
    except (apsw.Error, UnicodeDecodeError):
        keys = ()
    return f"a row of {change.name!r} with key {keys!r}" if keys else "a row"


def _raise_sequences(connection: GuardedConnection, state: State) -> None:
    for table, sequence in state.sequences:
        connection.run("UPDATE main.sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (sequence, table))
        if not connection.changes():
            connection.run("INSERT INTO main.sqlite_sequence (name, seq) VALUES (?, ?)", (table, sequence))
