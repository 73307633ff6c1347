"""The SQL that the MariaDB adapter sends, as texts; and the one text it must read: XA RECOVER's literals.

The adapter's statements of one step go as one multi-statement packet: the server runs them in order and stops at
the first error, so one round trip does it and nothing runs after a failure. The price is that connections have
CLIENT.MULTI_STATEMENTS on, for the transaction's own code too (asyncmy always has it). Bytes are written as X'…',
so that no setting of the session (sql_mode, character set) changes what a text means. Not for: sending.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from syncpoint.errors import FormatTooNew
from syncpoint.ids import XA_FORMAT_ID, Attempt, Guid, Identifier, NotOurs
from syncpoint.resources.base import BranchStart, Found

SCHEMA_FORMAT = 1
LINGER_S = 60
"""How long a connection may stay silent beyond its transaction's time before the server closes it, which detaches a
prepared branch, so that others can finish it though its client vanished without a word (DATABASES MariaDB 1)."""
LOCK_WAIT_S = 1  # for statements that finish or find out: they may answer "ask again"

# The state a finishing session needs, whatever an earlier branch has left on it.
CALM = f"SET SESSION autocommit=1,max_statement_time=0,innodb_lock_wait_timeout={LOCK_WAIT_S},lock_wait_timeout=10"

GREETING = (
    "SELECT CONNECTION_ID(),"
    "(SELECT CAST(UNIX_TIMESTAMP() - VARIABLE_VALUE AS INTEGER) FROM information_schema.GLOBAL_STATUS"
    " WHERE VARIABLE_NAME='UPTIME'),"
    "(SELECT CONCAT(USER,'@',HOST) FROM information_schema.PROCESSLIST WHERE ID=CONNECTION_ID())"
)
REPORT = "SET SESSION session_track_transaction_info='STATE'"  # its OK packet reports what is new
RECOVER = "XA RECOVER FORMAT='SQL'"

_RESOURCE = """CREATE TABLE IF NOT EXISTS syncpoint.resource (
    one TINYINT NOT NULL PRIMARY KEY CHECK (one = 1), guid BINARY(16) NOT NULL, format INT NOT NULL
  ) ENGINE=InnoDB"""
_COORDINATOR = """CREATE TABLE IF NOT EXISTS syncpoint.coordinator (
    coordinator BINARY(16) NOT NULL PRIMARY KEY, incarnation BIGINT UNSIGNED NOT NULL
  ) ENGINE=InnoDB"""
_EVIDENCE = """CREATE TABLE IF NOT EXISTS syncpoint.evidence (
    coordinator BINARY(16) NOT NULL, attempt BIGINT UNSIGNED NOT NULL, branch SMALLINT UNSIGNED NOT NULL,
    transaction BINARY(16) NOT NULL, committed BOOLEAN NOT NULL, PRIMARY KEY (coordinator, attempt, branch)
  ) ENGINE=InnoDB"""
TABLES = ("CREATE DATABASE IF NOT EXISTS syncpoint", _RESOURCE, _COORDINATOR, _EVIDENCE)


def hexadecimal(raw: bytes) -> str:
    return f"X'{raw.hex()}'"


def quoted_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def xid(identifier: Identifier) -> str:
    """The branch's name in XA statements."""
    gtrid, bqual = identifier.to_xid()
    return f"{hexadecimal(gtrid)},{hexadecimal(bqual)},{XA_FORMAT_ID}"


# --- set-up ------------------------------------------------------------------------------------------------


def give_guid(guid: bytes) -> str:
    """Give the database its GUID unless it has one; two at once leave one."""
    return (
        f"INSERT INTO syncpoint.resource (one, guid, format) VALUES (1, {hexadecimal(guid)}, {SCHEMA_FORMAT}) "
        "ON DUPLICATE KEY UPDATE one = one"
    )


def grant(user: str) -> str:
    """The least rights an application needs: no DDL, nothing outside our own tables."""
    account = "'" + user.replace("'", "''") + "'@'%'"
    return f"GRANT SELECT, INSERT, UPDATE, DELETE ON syncpoint.* TO {account}"


def first_contact(coordinator: Guid, incarnation: int) -> str:
    """Read the GUID, leave the incarnation (never lowering it, never in a newer format's table), read what is there."""
    who = hexadecimal(coordinator.raw)
    return (
        f"{CALM}; SELECT guid, format FROM syncpoint.resource; "
        f"INSERT INTO syncpoint.coordinator (coordinator, incarnation) SELECT {who}, {incarnation} "
        f"FROM syncpoint.resource WHERE format <= {SCHEMA_FORMAT} "
        f"ON DUPLICATE KEY UPDATE incarnation = GREATEST(syncpoint.coordinator.incarnation, {incarnation}); "
        f"SELECT incarnation FROM syncpoint.coordinator WHERE coordinator = {who}"
    )


# --- a branch ------------------------------------------------------------------------------------------------


def begin(start: BranchStart, database: str, *, borrowed: bool = False) -> str:
    """On a borrowed connection the isolation level and the database in use are its owner's, and stay."""
    seconds = max(1, start.remaining_ms // 1000)  # the lock timeout comes before the statement's: it says more
    settings = (
        f"{'' if borrowed else _OWN}autocommit=1,"
        f"innodb_lock_wait_timeout={seconds},lock_wait_timeout={seconds},"
        f"max_statement_time={max(start.remaining_ms, 1) / 1000 + 0.5:.3f},wait_timeout={seconds + LINGER_S}"
    )
    use = f"USE {quoted_name(database)}; " if database and not borrowed else ""
    keep = KEEP if borrowed else ""
    access = "SET TRANSACTION READ ONLY; " if start.read_only else ""
    # autocommit=0 and one SELECT before it would make XA START fail (DATABASES MariaDB 4).
    return f"{keep}SET SESSION {settings}; {use}{access}XA START {xid(start.identifier)}"


_OWN = "tx_isolation=DEFAULT,session_track_transaction_info='STATE',"
_KEPT = ("innodb_lock_wait_timeout", "lock_wait_timeout", "max_statement_time", "wait_timeout")
KEEP = f"SET {','.join(f'@syncpoint_{name}=@@SESSION.{name}' for name in _KEPT)}; "
"""What a borrowed connection's owner had set is kept in its session, so that the packet is all it takes."""
GIVE_BACK = f"SET SESSION {','.join(f'{name}=@syncpoint_{name}' for name in _KEPT)}"


def leave_evidence(identifier: Identifier, *, committed: bool) -> str:
    """Never INSERT IGNORE: a key that is there already must be an error (DATABASES MariaDB 9)."""
    return (
        "INSERT INTO syncpoint.evidence (coordinator, attempt, branch, transaction, committed) VALUES "
        f"({hexadecimal(identifier.coordinator.raw)}, {identifier.attempt.to_int()}, {identifier.branch}, "
        f"{hexadecimal(identifier.transaction.raw)}, {int(committed)})"
    )


def prepare(identifier: Identifier) -> str:
    # No statement timeout from here on: nothing may cut an XA PREPARE or COMMIT short.
    evidence = leave_evidence(identifier, committed=True)
    return f"SET SESSION max_statement_time=0; {evidence}; XA END {xid(identifier)}; XA PREPARE {xid(identifier)}"


def commit_one_phase(identifier: Identifier) -> str:
    # XA, never a plain BEGIN, whose deadlock victim would commit its next statement (DATABASES MariaDB 8).
    evidence = leave_evidence(identifier, committed=True)
    name = xid(identifier)
    return f"SET SESSION max_statement_time=0; {evidence}; XA END {name}; XA COMMIT {name} ONE PHASE"


def decide(identifier: Identifier, statement: str) -> str:
    """The decision inside the branch. The SELECT fails (1242) outside a transaction: if the transaction's own SQL has
    ended the branch, the statement would be committed by itself. A deadlock's victim refuses the statement (1399)."""
    name = xid(identifier)
    return (
        "SET SESSION max_statement_time=0; SELECT IF(@@in_transaction, 1, (SELECT 1 UNION SELECT 2)); "
        f"{statement}; XA END {name}; XA COMMIT {name} ONE PHASE"
    )


# --- finding out and finishing -------------------------------------------------------------------------------


def _where(identifier: Identifier) -> str:
    return (
        f"coordinator = {hexadecimal(identifier.coordinator.raw)} AND attempt = {identifier.attempt.to_int()} "
        f"AND branch = {identifier.branch}"
    )


def finish(identifier: Identifier, *, commit: bool) -> str:
    """End a prepared branch. After COMMIT look for its evidence: an OK alone may be a lie (DATABASES MariaDB 2)."""
    if not commit:
        return f"{CALM}; XA ROLLBACK {xid(identifier)}"
    return f"{CALM}; XA COMMIT {xid(identifier)}; SELECT committed FROM syncpoint.evidence WHERE {_where(identifier)}"


def look(connection_id: int) -> str:
    """Is the branch listed, and does the connection that prepared it still live?"""
    return (
        f"{RECOVER}; SELECT CONCAT(USER,'@',HOST),"
        "(SELECT CAST(UNIX_TIMESTAMP() - VARIABLE_VALUE AS INTEGER) FROM information_schema.GLOBAL_STATUS"
        " WHERE VARIABLE_NAME='UPTIME')"
        f" FROM information_schema.PROCESSLIST WHERE ID={connection_id}"
    )


def kill_and_finish(connection_id: int, identifier: Identifier, *, commit: bool) -> str:
    """KILL answers before the connection is gone: a short sleep lets it detach the branch."""
    return f"KILL CONNECTION {connection_id}; DO SLEEP(0.02); {finish(identifier, commit=commit)}"


def read_evidence(identifier: Identifier) -> str:
    """A locking read: it sees the newest row, and a row that is being written makes it fail at once (1205)."""
    where = _where(identifier)
    return f"{CALM}; SELECT committed FROM syncpoint.evidence WHERE {where} LOCK IN SHARE MODE NOWAIT"


def settle(identifier: Identifier) -> str:
    """A statement of its own: an error (1062) rolls it back, and what follows reads anew (DATABASES MariaDB 9)."""
    return f"{CALM}; {leave_evidence(identifier, committed=False)}"


def evidence_attempts(coordinator: Guid, after: Attempt, limit: int) -> str:
    who = hexadecimal(coordinator.raw)
    return (
        f"{CALM}; SELECT DISTINCT attempt FROM syncpoint.evidence "
        f"WHERE coordinator = {who} AND attempt >= {after.to_int()} AND committed "
        f"ORDER BY attempt LIMIT {int(limit)}"
    )


def evidence_rows(coordinator: Guid, attempts: Sequence[Attempt]) -> str:
    """A reading without locks: the row of a prepared branch is not seen, hence never deleted. Nor is a key that
    `settle` wrote: a very late commit must still fail on it."""
    numbers = ",".join(str(attempt.to_int()) for attempt in attempts)
    who = hexadecimal(coordinator.raw)
    return (
        f"{CALM}; SELECT attempt, branch FROM syncpoint.evidence "
        f"WHERE coordinator = {who} AND attempt IN ({numbers}) AND committed"
    )


def drop_evidence(coordinator: Guid, rows: Sequence[tuple[int, int]]) -> str:
    """Each by its full key, so that no other row is locked on the way."""
    who = hexadecimal(coordinator.raw)
    deletes = "; ".join(
        f"DELETE FROM syncpoint.evidence WHERE coordinator = {who} AND attempt = {attempt} AND branch = {branch}"
        for attempt, branch in rows
    )
    return f"START TRANSACTION; {deletes}; COMMIT"


# --- XA RECOVER ------------------------------------------------------------------------------------------------

_LITERAL = r"(X'(?:[0-9a-fA-F]{2})*'|'(?:[^'\\]|''|\\.)*')"
_XID = re.compile(rf"{_LITERAL}(?:,{_LITERAL}(?:,(\d+))?)?\Z", re.DOTALL)


def read_xid(text: str) -> tuple[int, bytes, bytes]:
    """(format, gtrid, bqual) of a literal that FORMAT='SQL' prints; missing parts mean '' and 1. Raises ValueError."""
    match = _XID.match(text)
    if match is None:
        raise ValueError(f"not an xid: {text!r}")
    gtrid, bqual, format_id = match.groups()
    return int(format_id or 1), _read_literal(gtrid), _read_literal(bqual or "''")


def _read_literal(text: str) -> bytes:
    if text[0] == "X":
        return bytes.fromhex(text[2:-1])
    # Printed so only when every byte is a plain letter or digit; quotes are undone for safety's sake.
    return text[1:-1].replace("''", "'").encode("latin-1", "replace")


def found(literal: str) -> Found:
    """One row of XA RECOVER FORMAT='SQL'. What is not ours, or of a later format, is left alone (O33)."""
    try:
        return Found(Identifier.from_xid(*read_xid(literal)), literal)
    except FormatTooNew as error:
        return Found(None, literal, note=str(error))
    except (NotOurs, ValueError):
        return Found(None, literal)
