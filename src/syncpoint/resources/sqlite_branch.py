"""One branch on its own SQLite connection: begin, vote, commit, abort.

SQLite has no PREPARE. A branch is an open write transaction; its vote is the changeset (state information), its
evidence row inside the transaction, and its note beside the file. So in order, all under the file's write lock:

    begin    BEGIN IMMEDIATE; a note that stands without evidence is another's branch: settle it first
    vote     take the changeset -> insert evidence -> write the note -> refuse further writes -> yes
    commit   COMMIT; the note stays, its evidence says that it is settled
    abort    clear the note, then ROLLBACK

Every function blocks and is called by one thread at a time. Not for: finishing a branch whose connection is gone
(sqlite_settlement.py), waiting and asking (sqlite.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import apsw

from syncpoint.errors import ConnectionLost, ResourceUnavailable, SetupRefused
from syncpoint.ids import Guid, Identifier
from syncpoint.resources import sqlite_ledger as ledger
from syncpoint.resources import sqlite_locks
from syncpoint.resources.base import Answer, Choice, Session, Vote
from syncpoint.resources.sqlite_changeset import CannotCapture, Capture, Watcher, encode_state
from syncpoint.resources.sqlite_connection import GuardedConnection
from syncpoint.resources.sqlite_note import Note, NoteFile, NoteRefused, decode_note, encode_note

BUSY_LOOK_S = 0.001
COMMIT_BUSY_MS = 2000
"""How long COMMIT waits for readers to leave (rollback-journal mode only)."""


class Fence:
    """As which incarnation of a resource-manager process all sessions of one resource write; 0: as none."""

    __slots__ = ("incarnation",)

    def __init__(self) -> None:
        self.incarnation = 0


class SqliteSession(Session):
    """A connection, its note file, and the branch on it, if any."""

    __slots__ = (
        "capture",
        "connection",
        "fence",
        "file",
        "guid",
        "lock_is_seen",
        "notes",
        "read_only",
        "settled",
        "voted",
        "watcher",
    )

    def __init__(self, connection: GuardedConnection, path: str, opened_at: float, fence: Fence | None = None) -> None:
        super().__init__()
        self.fence = fence or Fence()
        self.opened_at = opened_at
        self.connection = connection
        self.notes = NoteFile(path)
        self.watcher = Watcher(connection)
        self.file = os.stat(path)
        self.guid: Guid | None = None
        self.capture: Capture | None = None
        self.read_only = False
        self.voted = False
        self.lock_is_seen = False
        """The operating system showed our write lock, so it can be asked whether we still have it."""
        self.settled = b""
        """Bytes of the last note that is known to be settled: it need not be looked up again."""

    def __repr__(self) -> str:
        return f"<SqliteSession {self.connection.filename} {self.identifier or 'idle'}{' voted' if self.voted else ''}>"

    def require_current(self) -> None:
        """Raises ConnectionLost when the connection was closed (before a fork), or another file is at the path now."""
        try:
            same = os.path.samestat(self.file, os.stat(self.connection.filename))
        except (OSError, apsw.ConnectionClosedError):
            same = False
        if not same:
            self.broken = True
            raise ConnectionLost(
                f"The file {self.notes.database} was closed for a fork, or removed or replaced, since it was opened.",
                advice="Open it anew.",
            )
        if not self.notes.is_current():
            self.notes.close()

    def lost_lock(self) -> bool:
        """Whether another copy of SQLite in this process dropped our write lock (sqlite_locks.py)."""
        return self.lock_is_seen and not sqlite_locks.is_ours(self.notes.database)

    def require_guid(self) -> Guid:
        """The file's GUID. Raises SetupRefused when Syncpoint's tables are missing."""
        if self.guid is None:
            self.guid = ledger.read_guid(self.connection)
        if self.guid is None:
            raise SetupRefused(
                f"The file {self.connection.filename} has no tables of Syncpoint's.",
                advice="Run `syncpoint init` for it, or let a manager make its first contact.",
            )
        return self.guid

    def roll_back(self) -> None:
        """End whatever is under way, and be idle."""
        self.connection.end_statements(force=True)
        if self.connection.in_transaction:
            self.connection.control("ROLLBACK")
        self.end()

    def end(self) -> None:
        """The transaction is over: be idle, or broken if somebody else ended it."""
        if self.connection.rolled_back:
            self.broken = True
        if self.capture is not None:
            self.capture.close()
        if self.read_only or self.voted:
            self.connection.run("PRAGMA query_only = 0")
        self.identifier, self.capture, self.read_only, self.voted = None, None, False, False


# --- begin -----------------------------------------------------------------------------------------------------------


def begin_read(session: SqliteSession, identifier: Identifier) -> None:
    """Begin a branch that may not write. It waits for nobody."""
    session.require_current()
    connection = session.connection
    connection.restore_defaults()
    connection.rolled_back = False
    connection.run("PRAGMA query_only = 1")
    session.read_only, session.identifier = True, identifier
    connection.control("BEGIN")


def begin_write(session: SqliteSession, identifier: Identifier, busy_ms: int) -> Note | None:
    """Get the write lock, waiting at most `busy_ms`, and begin. Returns another's note that must be settled first
    (then the lock is held and the branch not begun). Raises apsw.BusyError, ConnectionLost, NoteRefused, FormatTooNew.
    """
    lock(session, busy_ms)
    try:
        note = standing_note(session)
        if note is None:
            start_branch(session, identifier)
        return note
    except BaseException:
        session.roll_back()
        raise


def lock(session: SqliteSession, busy_ms: int) -> None:
    """Get the file's write lock: every change begins here. Raises apsw.BusyError, ConnectionLost, and Fenced: while it
    is held no other incarnation can be written into the file, so it need not be asked again before the COMMIT (B7)."""
    session.require_current()
    connection = session.connection
    connection.restore_defaults()
    connection.rolled_back = False
    connection.set_busy_handler(_patience(busy_ms))
    try:
        connection.control("BEGIN IMMEDIATE")
    finally:
        connection.set_busy_timeout(busy_ms)
    try:
        ledger.require_incarnation(connection, session.fence.incarnation)
    except BaseException:
        session.roll_back()
        raise
    session.lock_is_seen = sqlite_locks.another_sqlite_is_loaded() and sqlite_locks.is_ours(session.notes.database)


def _patience(busy_ms: int) -> Callable[[int], bool]:
    """Look again every millisecond. SQLite's own handler waits up to 100 ms between looks, and whoever waits longest
    looks least: with several writing processes the lock then lies idle, and the unlucky never get it."""
    until = time.monotonic() + busy_ms / 1000

    def wait(tries: int) -> bool:
        if time.monotonic() >= until:
            return False
        time.sleep(BUSY_LOOK_S)
        return True

    return wait


def start_branch(session: SqliteSession, identifier: Identifier) -> None:
    """Watch for changes from here on. Under the write lock."""
    session.require_guid()
    session.capture = Capture(session.watcher)
    session.identifier = identifier


def standing_note(session: SqliteSession) -> Note | None:
    """The branch noted beside the file that has left no evidence. Complete only under the write lock.

    Raises NoteRefused (not ours, or another database's), FormatTooNew.
    """
    raw = session.notes.read()
    if not raw or raw == session.settled:
        return None
    note = _decode(session, raw)
    if note is not None and not ledger.has_evidence(session.connection, note.identifier):
        return note
    session.settled = raw
    return None


def last_note(session: SqliteSession) -> Note | None:
    """The branch noted last and not cleared, with or without evidence. Raises as `standing_note`."""
    return _decode(session, session.notes.read())


def _decode(session: SqliteSession, raw: bytes) -> Note | None:
    note = decode_note(raw, session.notes.path)
    if note is not None and note.guid != session.require_guid():
        raise NoteRefused(
            f"The note {session.notes.path} belongs to another database (GUID {note.guid}) than the file beside it "
            f"({session.guid}).",
            advice="If the database was moved, move its note with it; if it was made anew, remove the note.",
        )
    return note


def write_note(session: SqliteSession, identifier: Identifier, *, standing: bool) -> bytes:
    """Note a branch, or clear its note. Only under the write lock."""
    raw = encode_note(Note(identifier, session.require_guid()), standing=standing)
    session.notes.write(raw)
    return raw


# --- votes -----------------------------------------------------------------------------------------------------------


class _No(Exception):
    """The branch votes no; the text says why."""

    def __init__(self, reason: str, *, error: BaseException | None = None, retryable: bool = False) -> None:
        super().__init__(reason)
        self.vote = Vote(Choice.NO, reason=reason, retryable=retryable, error=error)


def prepare(session: SqliteSession, at_ms: int) -> Vote:
    """Vote (A3, A4). After NO or READ_ONLY nothing is left."""
    assert session.identifier is not None, "prepare follows begin"
    assert not session.voted, "a branch votes once"
    try:
        _require_sound(session)
        state = session.capture.take() if session.capture is not None else None
        if state is None:
            session.roll_back()
            return Vote(Choice.READ_ONLY)
        encoded = encode_state(state)
        _leave_evidence(session, at_ms)
        write_note(session, session.identifier, standing=True)
    except CannotCapture as error:
        return _vote_no(session, _No(str(error)))
    except ResourceUnavailable as error:  # the note could not be written; what is there reads as torn
        return _vote_no(session, _No(str(error), error=error))
    except _No as no:
        return _vote_no(session, no)
    session.voted = True
    session.connection.run("PRAGMA query_only = 1")  # what is written now would not be in the changeset
    return Vote(Choice.YES, state=encoded)


def commit_one_phase(session: SqliteSession, at_ms: int) -> Vote | Answer:
    """Evidence and COMMIT. No changeset, so nothing is refused that SQLite alone can commit atomically."""
    assert session.identifier is not None, "commit follows begin"
    try:
        _require_sound(session)
        if session.capture is None or not session.capture.wrote():
            session.roll_back()
            return Vote(Choice.READ_ONLY)
        _leave_evidence(session, at_ms)
        _commit_now(session)
    except _No as no:
        return _vote_no(session, no)
    session.watcher.forget()
    session.end()
    return Answer.COMMITTED


def _commit_now(session: SqliteSession) -> None:
    """COMMIT. Raises _No when it certainly did not happen, ConnectionLost when that is unknown (O20)."""
    connection = session.connection
    connection.set_busy_timeout(COMMIT_BUSY_MS)
    try:
        connection.control("COMMIT")
    except apsw.Error as error:
        if connection.in_transaction:
            busy = isinstance(error, apsw.BusyError)
            raise _No(f"COMMIT failed: {error}", error=error, retryable=busy) from error
        session.broken = True
        raise ConnectionLost(
            f"COMMIT of {connection.filename} failed, and what it wrote is unknown: {error}.",
            advice="Recovery looks for its evidence.",
        ) from error


def _require_sound(session: SqliteSession) -> None:
    """Raises _No unless the branch is still whole and SQLite could commit it."""
    connection = session.connection
    if connection.rolled_back or not connection.in_transaction:
        raise _No("the branch was rolled back by a statement (ON CONFLICT ROLLBACK), or by SQLite after an error")
    if session.lost_lock():
        session.broken = True
        raise _No(
            "the file's write lock was dropped by another copy of SQLite in this process (the module sqlite3); open "
            "that file only through Syncpoint here"
        )
    try:
        connection.end_statements(force=False)
    except apsw.IncompleteExecutionError as error:
        raise _No(
            "a text of several statements was not run to its end; read its cursor to the end, or run them one by one",
            error=error,
        ) from error
    if session.capture is None:
        if connection.txn_state("main") == apsw.SQLITE_TXN_WRITE:
            raise _No("it wrote, though it was begun as read-only")
        return
    written = session.capture.attached_written()
    if written:
        raise _No(
            f"it wrote to the attached database {written[0]!r}; make that a resource of its own, so that both commit "
            "or neither"
        )
    # SQLite looks at deferred foreign keys in COMMIT only: after a yes vote that would be too late.
    if connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
        raise _No(
            "a deferred foreign key is not satisfied", error=apsw.ConstraintError("FOREIGN KEY constraint failed")
        )


def _leave_evidence(session: SqliteSession, at_ms: int) -> None:
    assert session.identifier is not None
    try:
        ledger.insert_evidence(session.connection, session.identifier, at_ms)
    except apsw.ConstraintError as error:  # A4
        raise _No(f"the identifier {session.identifier} is not unique: it is committed already", error=error) from error


def _vote_no(session: SqliteSession, no: _No) -> Vote:
    session.roll_back()
    return no.vote


# --- phase two -------------------------------------------------------------------------------------------------------


def commit(session: SqliteSession) -> Answer:
    """COMMIT a branch that voted yes. RETRY: still open (readers in the way), or lost; then recovery redoes it."""
    assert session.identifier is not None, "commit follows a yes vote"
    connection = session.connection
    if not session.voted or connection.rolled_back or not connection.in_transaction or session.lost_lock():
        session.broken = True
        return Answer.RETRY
    connection.end_statements(force=True)
    connection.set_busy_timeout(COMMIT_BUSY_MS)
    raw = encode_note(Note(session.identifier, session.require_guid()), standing=True)
    try:
        connection.control("COMMIT")
    except apsw.Error:
        # Busy: the transaction stays open, and the same may be tried again. Else SQLite has rolled it back, or the
        # disk failed: evidence and redo tell and mend (O19), under a new connection.
        session.broken = not connection.in_transaction
        return Answer.RETRY
    session.settled = raw
    session.end()
    return Answer.COMMITTED


def abort(session: SqliteSession) -> Answer:
    """Roll back, whatever was reached."""
    connection = session.connection
    holds_lock = connection.in_transaction and connection.txn_state("main") == apsw.SQLITE_TXN_WRITE
    if session.voted and session.identifier is not None and holds_lock:
        # While the lock is still ours: nobody then finds a note to ask about.
        session.settled = write_note(session, session.identifier, standing=False)
    session.roll_back()
    return Answer.ABORTED
