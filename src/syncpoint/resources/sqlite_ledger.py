"""What Syncpoint keeps inside a SQLite file: its GUID, the journal it belongs to, and evidence of branches.

A few small tables whose names begin with `syncpoint_`; they are never part of a branch's changeset. Every function
blocks, runs inside a transaction that its caller has begun, and neither commits nor rolls back.

A file records the one journal (coordinator GUID) it belongs to: two journals would each know only half of the
branches that may be in doubt in it (DESIGN section 4, rule 9).

Not for: deciding anything about a branch (sqlite.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from syncpoint.errors import Fenced, FormatTooNew, JournalRefused, SetupRefused
from syncpoint.ids import Attempt, Guid, Identifier
from syncpoint.resources.base import Contact
from syncpoint.resources.sqlite_connection import GuardedConnection

LEDGER_FORMAT = 1

INIT_STATEMENTS = (
    (
        "CREATE TABLE IF NOT EXISTS syncpoint_resource ("
        "one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, guid BLOB NOT NULL)"
    ),
    (
        "CREATE TABLE IF NOT EXISTS syncpoint_coordinator ("
        "guid BLOB NOT NULL PRIMARY KEY, incarnation INTEGER NOT NULL) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE IF NOT EXISTS syncpoint_evidence ("
        "coordinator BLOB NOT NULL, attempt INTEGER NOT NULL, transaction_id BLOB NOT NULL, branch INTEGER NOT NULL, "
        "at_ms INTEGER NOT NULL, PRIMARY KEY (coordinator, attempt, transaction_id, branch)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE IF NOT EXISTS syncpoint_cleaned (coordinator BLOB NOT NULL, incarnation INTEGER NOT NULL, "
        "counter INTEGER NOT NULL, PRIMARY KEY (coordinator, incarnation)) WITHOUT ROWID"
    ),
)

SERVICE_TABLE = """
    CREATE TABLE IF NOT EXISTS syncpoint_service (
        one INTEGER PRIMARY KEY CHECK (one = 1), incarnation INTEGER NOT NULL)
"""
"""Made by the first process that serves the file; a file that applications use themselves has none."""

_BY_KEY = "coordinator = ? AND attempt = ? AND transaction_id = ? AND branch = ?"


def is_missing(error: BaseException) -> bool:
    """Whether the error says that Syncpoint's tables are not there."""
    text = str(error)
    return isinstance(error, apsw.SQLError) and text.startswith("no such table") and "syncpoint_" in text


def make_tables(connection: GuardedConnection, guid: Guid) -> None:
    """Make what is missing; `guid` becomes the file's GUID if it has none. Idempotent."""
    for statement in INIT_STATEMENTS:
        connection.run(statement)
    connection.run(
        "INSERT OR IGNORE INTO syncpoint_resource (one, format, guid) VALUES (1, ?, ?)", (LEDGER_FORMAT, guid.raw)
    )


def read_guid(connection: GuardedConnection) -> Guid | None:
    """The file's GUID; None when it has none yet. Raises FormatTooNew."""
    try:
        rows = connection.run("SELECT format, guid FROM syncpoint_resource")
    except apsw.SQLError as error:
        if is_missing(error):
            return None
        raise
    if not rows:
        return None
    if rows[0][0] > LEDGER_FORMAT:
        raise FormatTooNew(f"SQLite file {connection.filename}", rows[0][0], LEDGER_FORMAT)
    return Guid(rows[0][1])


def check_contact(connection: GuardedConnection, contact: Contact, name: str) -> None:
    """Whether this journal may use the file; changes nothing.

    Raises SetupRefused (the file belongs to another journal), JournalRefused (it has seen a later incarnation than
    the journal's counter: the journal is an older copy, O53).
    """
    known: dict[bytes, int] = dict(connection.run("SELECT guid, incarnation FROM syncpoint_coordinator"))
    others = [Guid(raw) for raw in known if raw != contact.coordinator.raw]
    if others:
        raise SetupRefused(
            f"Resource {name!r}: the file {connection.filename} belongs to the journal with coordinator GUID "
            f"{others[0]}, and this one is {contact.coordinator}.",
            advice="Use that journal for it. If that journal is gone for good and nothing of it is in doubt, release "
            f'the file: sqlite3 {connection.filename} "DELETE FROM syncpoint_coordinator", and remove the note '
            f"{connection.filename}-syncpoint.",
        )
    seen = known.get(contact.coordinator.raw, 0)
    if seen > contact.highest:
        raise JournalRefused(
            f"Resource {name!r}: the file {connection.filename} has seen incarnation {seen} of this journal, whose "
            f"counter stands at {contact.highest}: the journal is an older copy.",
            advice="Start with the newest copy of the journal; decisions made after this one are not in it.",
        )


def leave_incarnation(connection: GuardedConnection, contact: Contact, name: str) -> None:
    """Record the journal, and which start of its process this is. Raises as `check_contact`."""
    check_contact(connection, contact, name)
    connection.run(
        "INSERT INTO syncpoint_coordinator (guid, incarnation) VALUES (?, ?) "
        "ON CONFLICT (guid) DO UPDATE SET incarnation = max(incarnation, excluded.incarnation)",
        (contact.coordinator.raw, contact.incarnation),
    )


# --- incarnations of processes that serve the file (B7) ---------------------------------------------------------------


def read_incarnation(connection: GuardedConnection) -> int:
    """The highest incarnation that has served the file; 0: none."""
    try:
        rows = connection.run("SELECT incarnation FROM main.syncpoint_service")
    except apsw.SQLError as error:
        if is_missing(error):
            return 0
        raise
    return int(rows[0][0]) if rows else 0


def require_incarnation(connection: GuardedConnection, incarnation: int) -> None:
    """Raises Fenced when the file has seen a higher incarnation than ours; 0: we are no process that serves it."""
    seen = read_incarnation(connection)
    if seen <= incarnation:
        return
    if incarnation:
        raise Fenced(
            f"The file {connection.filename} is served by incarnation {seen} now, and this process is incarnation "
            f"{incarnation}.",
            advice="Nothing was changed. Stop this process; the other one has taken over.",
        )
    raise Fenced(
        f"The file {connection.filename} is served by a process (`syncpoint resource run`, incarnation {seen}), and "
        "may be changed through that alone.",
        advice="Nothing was changed. Use process://NAME. If no process is to serve it any more and nothing of it is in "
        f'doubt, release it: sqlite3 {connection.filename} "DELETE FROM syncpoint_service".',
    )


def leave_service(connection: GuardedConnection, incarnation: int) -> None:
    """Record that this incarnation serves the file from now on. Under the write lock."""
    connection.run(SERVICE_TABLE)
    connection.run(
        "INSERT INTO main.syncpoint_service (one, incarnation) VALUES (1, ?) "
        "ON CONFLICT (one) DO UPDATE SET incarnation = max(incarnation, excluded.incarnation)",
        (incarnation,),
    )


# --- evidence --------------------------------------------------------------------------------------------------------


def _key(identifier: Identifier) -> tuple[bytes, int, bytes, int]:
    attempt = identifier.attempt.to_int()
    assert attempt < 1 << 63, "an attempt fits SQLite's INTEGER"
    return (identifier.coordinator.raw, attempt, identifier.transaction.raw, identifier.branch)


def insert_evidence(connection: GuardedConnection, identifier: Identifier, at_ms: int) -> None:
    """Leave the branch's evidence, in its own transaction. The key is unique: a second one raises ConstraintError."""
    connection.run("INSERT INTO main.syncpoint_evidence VALUES (?, ?, ?, ?, ?)", (*_key(identifier), at_ms))


def has_evidence(connection: GuardedConnection, identifier: Identifier) -> bool:
    """Whether the branch is committed in this file. False without Syncpoint's tables: then none ever was."""
    try:
        return bool(connection.run(f"SELECT 1 FROM main.syncpoint_evidence WHERE {_BY_KEY}", _key(identifier)))
    except apsw.SQLError as error:
        if is_missing(error):
            return False
        raise


def force_evidence(connection: GuardedConnection, identifier: Identifier) -> bool:
    """As `has_evidence`, under the write lock, and certain once the transaction under way has committed.

    Evidence that can be read need not be on disk: its process may have been killed before the force of its COMMIT was
    done. A further change to the file, forced with its own COMMIT, forces what came before it too. (Another value,
    because SQLite writes nothing when nothing changes.)
    """
    if not has_evidence(connection, identifier):
        return False
    connection.run(f"UPDATE main.syncpoint_evidence SET at_ms = at_ms + 1 WHERE {_BY_KEY}", _key(identifier))
    return True


def list_attempts(connection: GuardedConnection, coordinator: Guid, after: Attempt, limit: int) -> list[Attempt]:
    """The oldest attempts, from `after` on, that have evidence; at most `limit`."""
    rows = connection.run(
        "SELECT DISTINCT attempt FROM main.syncpoint_evidence WHERE coordinator = ? AND attempt >= ? "
        "ORDER BY attempt LIMIT ?",
        (coordinator.raw, after.to_int(), limit),
    )
    return [Attempt.from_int(attempt) for (attempt,) in rows]


def delete_evidence(connection: GuardedConnection, coordinator: Guid, attempts: Sequence[Attempt]) -> int:
    """Delete the evidence of these attempts; returns how many rows went. How far stays (`was_cleaned`)."""
    gone = 0
    for one in {attempt.incarnation: attempt for attempt in sorted(attempts)}.values():
        connection.run(
            "INSERT INTO main.syncpoint_cleaned (coordinator, incarnation, counter) VALUES (?, ?, ?) "
            "ON CONFLICT (coordinator, incarnation) DO UPDATE SET counter = max(counter, excluded.counter)",
            (coordinator.raw, one.incarnation, one.counter),
        )
    for attempt in attempts:
        connection.run(
            "DELETE FROM main.syncpoint_evidence WHERE coordinator = ? AND attempt = ?",
            (coordinator.raw, attempt.to_int()),
        )
        gone += connection.changes()
    return gone


def was_cleaned(connection: GuardedConnection, identifier: Identifier) -> bool:
    """Whether evidence was deleted up to this attempt, or beyond it: then every decided branch of it is finished.

    A process that was taken for dead, and stopped between finding no evidence and the redo, must not redo what its
    keeper has redone and cleaned up since.
    """
    attempt = identifier.attempt
    try:
        rows = connection.run(
            "SELECT 1 FROM main.syncpoint_cleaned WHERE coordinator = ? AND incarnation = ? AND counter >= ?",
            (identifier.coordinator.raw, attempt.incarnation, attempt.counter),
        )
    except apsw.SQLError as error:
        if is_missing(error):
            return False
        raise
    return bool(rows)
