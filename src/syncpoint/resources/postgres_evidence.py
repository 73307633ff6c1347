"""The SQL of guard, evidence and prepared branches in PostgreSQL, and how its replies read. No IO.

Literals are hexadecimal digits, numbers and names checked or quoted by the server, so no text needs escaping and
no setting of the session changes what a statement means. Not for: when to run any of it (postgres.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from syncpoint.errors import FormatTooNew
from syncpoint.ids import Attempt, Guid, Identifier, Incarnation, NotOurs
from syncpoint.protocol.words import Evidence
from syncpoint.resources.base import Found
from syncpoint.resources.postgres_driver import Reply, hexadecimal
from syncpoint.resources.postgres_errors import LOCK_WAITS, MISSING, READ_ONLY_SERVER
from syncpoint.resources.postgres_setup import ALONE

XID_ASSIGNED = "pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL"
SERIALIZABLE = "pg_catalog.current_setting('transaction_isolation') = 'serializable'"

_MARKER_MISSING = "syncpoint: the branch has ended"
_KEY = ("coordinator", "incarnation", "counter", "transaction", "branch")

_Row = tuple[str | None, ...]

# --- in the branch ---------------------------------------------------------------------------------------------


def guard(gid: str) -> str:
    """Fails, by a cast that cannot be done, unless the branch's marker is there; tells what the branch is like.

    A role taken with SET ROLE is given back: the branch shall belong to the role that the connection came with,
    or this session could not finish it (trap 11). A weaker synchronous_commit, whoever set it, is raised for this
    transaction (trap 10).
    """
    marker = "pg_catalog.current_setting('syncpoint.branch', true)"
    setting = "pg_catalog.current_setting('synchronous_commit')"
    return (
        f"SELECT CASE WHEN {marker} = '{gid}' THEN 1 ELSE ('{_MARKER_MISSING} ' || coalesce({marker}, ''))::int4 END, "
        f"{XID_ASSIGNED}, {SERIALIZABLE}, "
        f"CASE WHEN {setting} IN ('off', 'local', 'remote_write') "
        "THEN pg_catalog.set_config('synchronous_commit', 'on', true) END; RESET ROLE"
    )


class Guarded:
    """What the guard, the first statement of a packet, told."""

    __slots__ = ("serializable", "wrote_nothing")

    def __init__(self, reply: Reply) -> None:
        rows = reply.rows(0)
        self.wrote_nothing = bool(rows) and rows[0][1] == "f"
        self.serializable = bool(rows) and rows[0][2] == "t"


def marker_missing(reply: Reply) -> bool:
    """Whether the guard failed because the branch had been ended."""
    return reply.error is not None and _MARKER_MISSING in (reply.error.diag.message_primary or "")


def insert(identifier: Identifier) -> str:
    """The evidence row of a branch that wrote."""
    return f"INSERT INTO syncpoint.evidence ({', '.join(_KEY)}) VALUES ({', '.join(_values(identifier))})"


def insert_if_wrote(identifier: Identifier) -> str:
    """The evidence row, if the branch wrote anything: then it has a transaction number."""
    values = ", ".join(_values(identifier))
    return f"INSERT INTO syncpoint.evidence ({', '.join(_KEY)}) SELECT {values} WHERE {XID_ASSIGNED}"


def _values(identifier: Identifier) -> tuple[str, ...]:
    return (
        hexadecimal(identifier.coordinator.raw),
        str(identifier.attempt.incarnation),
        str(identifier.attempt.counter),
        hexadecimal(identifier.transaction.raw),
        str(identifier.branch),
    )


# --- outside it ------------------------------------------------------------------------------------------------


def _try_to_bar(identifier: Identifier) -> str:
    """Write the same key ourselves: waits for whoever is writing it, and tells whose row is there in the end."""
    where = " AND ".join(f"{name} = {value}" for name, value in zip(_KEY, _values(identifier), strict=True))
    return (
        f"{ALONE}INSERT INTO syncpoint.evidence ({', '.join(_KEY)}, outcome) "
        f"VALUES ({', '.join(_values(identifier))}, 'barred') ON CONFLICT DO NOTHING; "
        f"SELECT outcome FROM syncpoint.evidence WHERE {where}"
    )


_OUTCOME = 4  # the statement of `_try_to_bar` that tells, counted from 0


def bar(identifier: Identifier) -> str:
    """Find out, and keep the row: a late commit of the same branch will fail on it."""
    return _try_to_bar(identifier)


def look(identifier: Identifier) -> str:
    """Find out, and leave nothing: the attempt only serves to wait for a branch that is being written (trap 7)."""
    return f"{_try_to_bar(identifier)}; ROLLBACK"


def judge(reply: Reply) -> Evidence:
    """What the reply to `bar` or `look` proves. Raises the database's error when it proves nothing."""
    if reply.error is None:
        rows = reply.rows(_OUTCOME)
        if not rows:
            return Evidence.UNDECIDED  # dropped by somebody in between
        return Evidence.COMMITTED if rows[0][0] == "committed" else Evidence.ABSENT
    if reply.code in LOCK_WAITS:
        return Evidence.UNDECIDED
    if reply.code in MISSING | READ_ONLY_SERVER:
        return Evidence.UNKNOWN
    raise reply.error


def attempts(coordinator: Guid, after: Attempt, limit: int) -> str:
    """The oldest attempts, from `after` on, that have rows of committed branches."""
    return (
        "SELECT DISTINCT incarnation, counter FROM syncpoint.evidence "
        f"WHERE coordinator = {hexadecimal(coordinator.raw)} "
        f"AND (incarnation, counter) >= ({after.incarnation}, {after.counter}) AND outcome = 'committed' "
        f"ORDER BY 1, 2 LIMIT {limit}"
    )


def attempt(row: _Row) -> Attempt:
    incarnation, counter = row
    return Attempt(Incarnation(int(incarnation or 0)), int(counter or 0))


def drop(coordinator: Guid, which: Sequence[Attempt]) -> str:
    """Delete rows. Those of a prepared branch cannot be seen, so they are never among them; nor are the barring ones:
    a very late commit must still fail on its key."""
    keys = ", ".join(f"({attempt.incarnation}, {attempt.counter})" for attempt in which)
    return (
        f"{ALONE}DELETE FROM syncpoint.evidence "
        f"WHERE coordinator = {hexadecimal(coordinator.raw)} AND (incarnation, counter) IN ({keys}) "
        "AND outcome = 'committed'"
    )


# --- prepared branches -----------------------------------------------------------------------------------------

SCAN = (
    "SELECT pg_catalog.pg_is_in_recovery(); "
    "SELECT gid, owner, (extract(epoch FROM prepared) * 1000)::int8 FROM pg_catalog.pg_prepared_xacts "
    "WHERE database = pg_catalog.current_database() ORDER BY prepared, gid"
)


def found(row: _Row) -> Found:
    """One row of the scan. A foreign branch, and one of a later format, has no identifier (O33)."""
    gid, owner, at_ms = row[0] or "", row[1], int(row[2] or 0)
    note = f"owner {owner}"
    identifier = None
    try:
        identifier = Identifier.from_gid(gid)
    except NotOurs:
        note = f"not Syncpoint's; {note}"
    except FormatTooNew as error:
        note = f"made by a later Syncpoint (format {error.found}); {note}"
    return Found(identifier, gid, note, at_ms)


# --- lock waits ------------------------------------------------------------------------------------------------


def holders(relation: str) -> str:
    """Who has written to a table of this name, or locked rows in it, and has not ended."""
    return (
        "SELECT DISTINCT CASE WHEN x.gid IS NOT NULL THEN 'the prepared branch ' || x.gid || ' of ' || x.owner "
        "ELSE 'process ' || a.pid || ' of ' || a.usename || ' (' || coalesce(a.state, '?') || '): ' "
        "|| pg_catalog.left(a.query, 120) END "
        "FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation "
        "LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid "
        # A prepared branch's locks have no process; its lock on its own number tells which branch it is.
        "LEFT JOIN pg_catalog.pg_locks n ON l.pid IS NULL AND n.pid IS NULL AND n.locktype = 'transactionid' "
        "AND n.virtualtransaction = l.virtualtransaction "
        "LEFT JOIN pg_catalog.pg_prepared_xacts x ON x.transaction = n.transactionid "
        "WHERE l.locktype = 'relation' AND l.granted AND l.mode <> 'AccessShareLock' "
        "AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) "
        f"AND c.relname = '{relation}' AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() "
        "AND coalesce(x.gid, a.usename::text) IS NOT NULL"
    )
