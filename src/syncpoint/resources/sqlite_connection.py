"""The SQLite connection as users get it, and how it is opened.

`GuardedConnection` is an ordinary `apsw.Connection` on which a branch cannot be ended behind the adapter's back:

- BEGIN, COMMIT and ROLLBACK by SQL text are refused before they run (authorizer), and the branch goes on;
- whatever still reaches a COMMIT that is not the adapter's, a write after the branch ended included, is refused by
  the commit hook, and SQLite rolls it back;
- a rollback that is not the adapter's (`ON CONFLICT ROLLBACK`, a full disk) is noticed by the rollback hook: the
  branch votes no.

One rule of this file must not be broken: **never open or close the database file by other means than SQLite** in
this process. Closing any descriptor of a file drops all POSIX locks that the process holds on it.

Not for: branches (sqlite.py), what was changed on it (sqlite_changeset.py).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import apsw

from syncpoint.errors import NotAllowed, ResourceUnavailable, SetupRefused
from syncpoint.resources import sqlite_fork

T = TypeVar("T")

SYNCHRONOUS_FULL = 2
SYNCHRONOUS_EXTRA = 3
OPEN_BUSY_MS = 250


@dataclass(frozen=True, slots=True)
class Target:
    """What to open and how. `path` is absolute."""

    path: str
    create: bool = True
    journal_mode: str = "auto"
    """auto: WAL for a new file, else as it is; wal: always WAL; keep: as it is."""
    synchronous: str = "full"
    foreign_keys: bool | None = None
    """None: as SQLite was built."""


class TrackedCursor(apsw.Cursor):
    """A cursor that its connection can find again, to end it before the branch ends."""

    def __init__(self, connection: apsw.Connection) -> None:
        super().__init__(connection)
        if isinstance(connection, GuardedConnection):
            connection.open_cursors.add(self)


class GuardedConnection(apsw.Connection):
    """An `apsw.Connection` whose branch only the adapter ends. See the file's opening."""

    def __init__(self, path: str, flags: int) -> None:
        super().__init__(path, flags=flags)
        self.open_cursors: weakref.WeakSet[apsw.Cursor] = weakref.WeakSet()
        self.open_blobs: list[apsw.Blob] = []
        self.rolled_back = False
        """SQLite or the user rolled the branch back; only the adapter's `begin` resets it."""
        self._adapter_acts = False
        self.set_commit_hook(self._on_commit, id=self)
        self.set_rollback_hook(self._on_rollback, id=self)
        self._authorizer = self._authorize
        self.restore_defaults()
        sqlite_fork.watch(self, path)

    def __repr__(self) -> str:
        return f"<GuardedConnection {self.filename}>"

    # --- for the adapter -----------------------------------------------------------------------------------

    @contextmanager
    def acting(self) -> Iterator[None]:
        """What is done inside is the adapter's own: it may begin, commit and roll back."""
        before, self._adapter_acts = self._adapter_acts, True
        try:
            yield
        finally:
            self._adapter_acts = before

    def run(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement of the adapter's, unmoved by tracers and factories that users have set. All its rows."""
        cursor = apsw.Cursor(self)
        cursor.exec_trace = _run_it
        cursor.row_trace = _plain_row
        try:
            return list(cursor.execute(sql, tuple(bindings)))
        finally:
            cursor.close(True)

    def control(self, sql: str) -> None:
        """BEGIN, COMMIT, ROLLBACK of the adapter's. Never cached: a cached statement passes the authorizer."""
        cursor = apsw.Cursor(self)
        cursor.exec_trace = _run_it
        with self.acting():
            try:
                cursor.execute(sql, can_cache=False)
            finally:
                cursor.close(True)

    def restore_defaults(self) -> None:
        """Between branches, undo what a user of this connection may have set for himself."""
        self.exec_trace = None
        self.row_trace = None
        self.cursor_factory = TrackedCursor
        # Setting an authorizer makes every cached statement compile anew, so only when somebody replaced it.
        if self.authorizer is not self._authorizer:
            self.authorizer = self._authorizer
        # BEGIN IMMEDIATE would lock them too, and it could not be told any more whether they were written.
        for schema in self.attached():
            self.run(f"DETACH {quoted(schema)}")

    def attached(self) -> list[str]:
        """Attached databases, by schema name."""
        return [schema for schema in self.db_names() if schema not in ("main", "temp")]

    def end_statements(self, *, force: bool) -> None:
        """Close the users' cursors and blobs: an unfinished one would make COMMIT fail.

        Without `force`, raises apsw.IncompleteExecutionError when one of them has statements it has not run
        (apsw runs multi-statement SQL lazily, DATABASES SQLite 1).
        """
        for blob in self.open_blobs:
            blob.close(True)
        self.open_blobs.clear()
        for cursor in tuple(self.open_cursors):
            cursor.close(force)
        self.open_cursors.clear()

    def really_close(self) -> None:
        """Close it. An open transaction is rolled back by SQLite."""
        self.set_commit_hook(None, id=self)
        self.set_rollback_hook(None, id=self)
        super().close(True)
        sqlite_fork.forget(self)

    def close_if_idle(self) -> None:
        """Close it unless a transaction is under way. Raises apsw.Error when another thread is using it."""
        if not self.in_transaction:
            self.really_close()

    # --- hooks -----------------------------------------------------------------------------------------------

    def _authorize(self, action: int, first: str | None, *_: str | None) -> int:
        if action == apsw.SQLITE_TRANSACTION and not self._adapter_acts:
            raise NotAllowed(
                f"{first} by SQL text would end or replace this transaction's branch.",
                advice="Leave the transaction's `with` block to commit, raise to abort; use SAVEPOINT inside it.",
            )
        return apsw.SQLITE_OK

    def _on_commit(self) -> bool:
        if self._adapter_acts:
            return False
        raise NotAllowed(
            "This connection's branch has ended, so nothing may be written on it any more; this statement was undone.",
            advice="Write inside a transaction, on the connection that `connect` returns there.",
        )

    def _on_rollback(self) -> None:
        if not self._adapter_acts:
            self.rolled_back = True

    # --- refused to users -------------------------------------------------------------------------------------

    def close(self, force: bool = False) -> None:
        """Refused: the connection belongs to the transaction."""
        raise NotAllowed("The transaction closes this connection itself.", advice="Leave its `with` block.")

    def preupdate_hook(self, *args: Any, **kwargs: Any) -> None:
        """Refused: it must not be mixed with the session that captures the branch's changes (SQLite crashes)."""
        raise NotAllowed("The preupdate hook is in use by Syncpoint on this connection.", advice="Use triggers.")

    def deserialize(self, *args: Any, **kwargs: Any) -> None:
        """Refused: it would replace the database under the branch."""
        raise NotAllowed("deserialize() would replace the database under this branch.", advice="Write rows instead.")

    def blob_open(self, *args: Any, **kwargs: Any) -> apsw.Blob:
        """As apsw's own; the blob is closed when the branch ends."""
        blob = super().blob_open(*args, **kwargs)
        self.open_blobs.append(blob)
        return blob

    blobopen = blob_open  # apsw's older name


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _run_it(*_: Any) -> bool:
    return True


def _plain_row(_: apsw.Cursor, row: Any) -> Any:
    return row


# --- opening ---------------------------------------------------------------------------------------------------


def open_connection(target: Target, name: str) -> GuardedConnection:
    """Open and set up a connection (blocks). `name` is the resource's, for messages.

    Raises apsw.BusyError when another connection is in the way for the moment, ResourceUnavailable when the file
    cannot be reached or written, SetupRefused when it is no database or cannot be made safe.
    """
    sqlite_fork.require_usable(target.path)
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if target.create else 0)
    connection = _translate(target, name, lambda: GuardedConnection(target.path, flags))
    try:
        _translate(target, name, lambda: _set_up(connection, target, name))
    except BaseException:
        connection.really_close()
        raise
    return connection


def _translate(target: Target, name: str, work: Callable[[], T]) -> T:
    try:
        return work()
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.AuthError, apsw.ReadOnlyError, apsw.IOError) as error:
        raise ResourceUnavailable(
            f"Resource {name!r}: the file {target.path} cannot be opened: {_why_not(target, error)}.",
            advice="Make the folder, or give this user the right to read and write the file and its folder.",
        ) from error
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise SetupRefused(
            f"Resource {name!r}: {target.path} is not a sound SQLite database: {error}.",
            advice="Point the URL at the right file, or restore it from a backup. Nothing was changed.",
        ) from error


def _why_not(target: Target, error: apsw.Error) -> str:
    folder = os.path.dirname(target.path)
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    if os.path.isdir(target.path):
        return "it is a folder"
    if not os.path.exists(target.path) and not target.create:
        return "there is no such file, and mode=rw forbids to create it"
    return str(error)


def _set_up(connection: GuardedConnection, target: Target, name: str) -> None:
    connection.set_busy_timeout(OPEN_BUSY_MS)
    # No direct writes to the schema, to shadow tables or pages: nothing of that could be captured.
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    if connection.readonly("main"):
        raise ResourceUnavailable(
            f"Resource {name!r}: the file {target.path} can be read but not written.",
            advice="Give this user the right to write the file.",
        )
    with connection.acting():
        journal_mode = _set_journal_mode(connection, target, name)
        _set_synchronous(connection, target, name, journal_mode)
        connection.run("PRAGMA fullfsync = 1")  # macOS: fsync alone does not reach the disk
        connection.run("PRAGMA checkpoint_fullfsync = 1")
        if target.foreign_keys is not None:
            connection.run(f"PRAGMA foreign_keys = {int(target.foreign_keys)}")


def _set_journal_mode(connection: GuardedConnection, target: Target, name: str) -> str:
    is_new = connection.run("PRAGMA page_count")[0][0] == 0
    mode = str(connection.run("PRAGMA journal_mode")[0][0])
    wanted = target.journal_mode == "wal" or (target.journal_mode == "auto" and is_new)
    if wanted and mode != "wal":
        mode = str(connection.run("PRAGMA journal_mode = WAL")[0][0])
        if mode != "wal":
            raise SetupRefused(
                f"Resource {name!r}: {target.path} could not be switched to WAL; it says {mode}.",
                advice="Write journal_mode=keep into the URL to leave it as it is.",
            )
    return mode


def _set_synchronous(connection: GuardedConnection, target: Target, name: str, journal_mode: str) -> None:
    # Below FULL a commit that was answered may be gone after a power cut. With a rollback journal only EXTRA also
    # forces the folder, without which the journal may reappear and roll the commit back.
    extra = target.synchronous == "extra" or journal_mode != "wal"
    wanted = SYNCHRONOUS_EXTRA if extra else SYNCHRONOUS_FULL
    connection.run(f"PRAGMA main.synchronous = {wanted}")
    found = connection.run("PRAGMA main.synchronous")[0][0]
    if found != wanted:
        raise SetupRefused(
            f"Resource {name!r}: SQLite would not force commits of {target.path} (synchronous is {found}).",
            advice="Use an ordinary build of SQLite and an ordinary file.",
        )
