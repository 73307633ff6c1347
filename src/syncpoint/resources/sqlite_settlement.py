"""Finishing a SQLite branch whose own connection is gone, and what the file proves about a branch.

Everything is done under the file's write lock: who holds it knows that no branch is open in any process, so a note
without evidence is a branch that was lost, and a redo cannot meet the original (DESIGN section 4, rule 9).

A redo that conflicts (rows were changed by a program that does not use Syncpoint) answers HAZARD, changes no row and
clears the note: those rows are overwritten already, and the file must not stay closed because of one branch. The
decision is still in the journal, which keeps the hazard listed until a person has mended the data and says `forget`.
When the note is settled by a new branch's begin instead, nobody could be told: so the note stays, begin fails, and
recovery's next pass comes here.

Evidence that was found is forced before it is answered with: whoever left it may have been killed before its own COMMIT
was on disk, and once the journal says that the branch has ended, nobody would redo it after a power failure.

Every function blocks and is called by one thread at a time. Not for: asking the manager (sqlite.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import apsw

from syncpoint.errors import FormatTooNew
from syncpoint.ids import Attempt, Guid, Identifier
from syncpoint.resources import sqlite_ledger as ledger
from syncpoint.resources.base import Answer, Evidence, Found
from syncpoint.resources.sqlite_branch import (
    COMMIT_BUSY_MS,
    SqliteSession,
    last_note,
    lock,
    standing_note,
    write_note,
)
from syncpoint.resources.sqlite_changeset import BadState, apply_state, decode_state
from syncpoint.resources.sqlite_note import NoteRefused

T = TypeVar("T")
_log = logging.getLogger("syncpoint.resources")

LOCK_BUSY_MS = 100
"""How long finishing waits for the write lock. A living owner holds it until its own branch has ended."""


def under_lock(session: SqliteSession, work: Callable[[], T], busy_ms: int = LOCK_BUSY_MS) -> T | None:
    """Do `work` in a transaction of its own; None: somebody else holds the write lock, and nothing was done."""
    try:
        lock(session, busy_ms)
    except apsw.BusyError:
        return None
    try:
        result = work()
        if session.connection.in_transaction:
            session.connection.set_busy_timeout(COMMIT_BUSY_MS)
            session.connection.control("COMMIT")
        return result
    except apsw.BusyError:  # readers, in rollback-journal mode
        return None
    finally:
        session.roll_back()


# --- finish ----------------------------------------------------------------------------------------------------------


def finish(session: SqliteSession, identifier: Identifier, *, commit: bool, state: bytes, at_ms: int) -> Answer:
    """Commit or roll back a branch by identifier. RETRY while another connection holds the write lock."""
    if commit:
        answer = under_lock(session, lambda: _redo(session, identifier, state, at_ms))
    else:
        answer = under_lock(session, lambda: _drop(session, identifier))
    return Answer.RETRY if answer is None else answer


def _drop(session: SqliteSession, identifier: Identifier) -> Answer:
    if ledger.force_evidence(session.connection, identifier):
        return Answer.COMMITTED
    return Answer.ABORTED if clear_note(session, identifier) else Answer.NOT_FOUND


def _redo(session: SqliteSession, identifier: Identifier, state: bytes, at_ms: int) -> Answer:
    if ledger.force_evidence(session.connection, identifier):
        return Answer.COMMITTED
    if ledger.was_cleaned(session.connection, identifier):
        return Answer.COMMITTED
    if not state:  # forced by an operator, without a record: it is gone, and must not keep the file closed
        clear_note(session, identifier)
        return Answer.NOT_FOUND
    conflict = redo_now(session, identifier, state, at_ms)
    if not conflict:
        return Answer.COMMITTED
    _log.error(
        "The branch %s of %s is decided but cannot be redone: %s. Nothing of it was applied; mend the data by hand.",
        identifier,
        session.connection.filename,
        conflict,
    )
    clear_note(session, identifier)
    return Answer.HEURISTIC_HAZARD


def redo_now(session: SqliteSession, identifier: Identifier, state: bytes, at_ms: int) -> str:
    """Apply a decided branch and its evidence in the transaction under way. Returns why not; then roll back."""
    try:
        decoded = decode_state(state)
    except BadState as error:
        return f"its state information cannot be read ({error})"
    conflict = apply_state(session.connection, decoded)
    if not conflict:
        ledger.insert_evidence(session.connection, identifier, at_ms)
    return conflict


def clear_note(session: SqliteSession, identifier: Identifier) -> bool:
    """Clear the note if it is this branch's. Only under the write lock. Returns whether it was."""
    note = standing_note(session)
    if note is None or note.identifier != identifier:
        return False
    session.settled = write_note(session, identifier, standing=False)
    return True


# --- finding out -----------------------------------------------------------------------------------------------------


def scan(session: SqliteSession) -> list[Found]:
    """The branch that may be in doubt: the note's, if it has no evidence. Bytes that are not ours are foreign (O33)."""
    session.require_current()
    path = session.notes.path
    try:
        note = standing_note(session)
    except (NoteRefused, FormatTooNew) as error:
        return [Found(None, path, note=str(error))]
    return [] if note is None else [Found(note.identifier, path)]


def evidence(session: SqliteSession, identifier: Identifier) -> Evidence:
    """What the file proves, said only while holding the write lock: then no branch is open anywhere, and what is there
    has been forced."""
    found = under_lock(session, lambda: ledger.force_evidence(session.connection, identifier))
    if found is None:
        return Evidence.UNDECIDED
    return Evidence.COMMITTED if found else Evidence.ABSENT


def drop_evidence(session: SqliteSession, coordinator: Guid, attempts: Sequence[Attempt]) -> int:
    """Delete evidence in one small batch; returns how many rows, 0 while somebody else writes."""
    return under_lock(session, lambda: _drop_evidence(session, coordinator, attempts)) or 0


def _drop_evidence(session: SqliteSession, coordinator: Guid, attempts: Sequence[Attempt]) -> int:
    note = last_note(session)
    if note is not None and ledger.has_evidence(session.connection, note.identifier):
        # Without its evidence a note would be asked about again: clear it first.
        session.settled = write_note(session, note.identifier, standing=False)
    return ledger.delete_evidence(session.connection, coordinator, attempts)
