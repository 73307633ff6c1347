"""Syncpoint's own schema on a MariaDB server, first contact, and the look for lying set-ups.

    syncpoint.resource      one row: the server's GUID and the schema's format
    syncpoint.coordinator   the latest incarnation seen of each coordinator (O53)
    syncpoint.evidence      one row a branch that wrote, inserted in the branch

XA branches belong to a server, not to a database, so there is one schema a server and the GUID is the server's.
Not for: branches (mariadb.py). Functions here read replies; the adapter sends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from syncpoint.errors import FormatTooNew, JournalRefused, SetupRefused
from syncpoint.ids import Guid
from syncpoint.ports import Random
from syncpoint.resources import mariadb_sql as sql
from syncpoint.resources.base import Contact, Finding, Severity
from syncpoint.resources.mariadb_driver import Replies, Reply
from syncpoint.resources.mariadb_session import MariadbSession

if TYPE_CHECKING:
    from syncpoint.resources.mariadb import MariadbResource

ACCESS_DENIED = frozenset((1044, 1045, 1142, 1143, 1227))
MISSING = frozenset((1049, 1146))
SERVER_READ_ONLY = 1290

INSPECT = (
    "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES WHERE VARIABLE_NAME IN "
    "('INNODB_FLUSH_LOG_AT_TRX_COMMIT','SYNC_BINLOG','LOG_BIN','INNODB_DOUBLEWRITE','READ_ONLY','WSREP_ON'); "
    "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES "
    "WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE' AND ENGINE NOT IN "
    "(SELECT ENGINE FROM information_schema.ENGINES WHERE XA = 'YES') ORDER BY TABLE_NAME LIMIT 20; "
    # EXPLAIN asks for the same rights as the statement and changes nothing.
    "EXPLAIN INSERT INTO syncpoint.coordinator (coordinator, incarnation) VALUES ('', 0); "
    "EXPLAIN UPDATE syncpoint.coordinator SET incarnation = 0; "
    "EXPLAIN INSERT INTO syncpoint.evidence (coordinator, attempt, branch, transaction, committed) "
    "VALUES ('', 0, 0, '', 0); "
    "EXPLAIN DELETE FROM syncpoint.evidence; "
    "SELECT guid FROM syncpoint.resource"
)

BLOCKERS = (
    "SELECT t.trx_mysql_thread_id, CONCAT(p.USER,'@',p.HOST), TIMESTAMPDIFF(SECOND, t.trx_started, NOW()), "
    "t.trx_rows_locked FROM information_schema.INNODB_TRX t LEFT JOIN information_schema.PROCESSLIST p "
    "ON p.ID = t.trx_mysql_thread_id WHERE t.trx_mysql_thread_id <> CONNECTION_ID() AND t.trx_rows_locked > 0 "
    "ORDER BY t.trx_started LIMIT 5"
)


# --- the schema --------------------------------------------------------------------------------------------


def init_statements(random: Random, user: str) -> Sequence[str]:
    """What `syncpoint init` runs, and last the rights that the application's account needs."""
    return (*sql.TABLES, sql.give_guid(random.bytes(16)), sql.grant(user))


def make_schema(random: Random) -> str:
    """All but the GRANT: whoever can run this has the rights; to grant them to others is the administrator's."""
    return "; ".join((*sql.TABLES, sql.give_guid(random.bytes(16))))


def check_made(resource: MariadbResource, replies: Replies) -> None:
    """Raises SetupRefused, with the SQL to run, when rights are missing."""
    if replies.code in ACCESS_DENIED:
        raise _missing_schema(resource) from replies.error
    replies.check()


def _missing_schema(resource: MariadbResource) -> SetupRefused:
    statements = ";\n  ".join(init_statements(resource.random, resource.address.user))
    return SetupRefused(
        f"Syncpoint's schema is missing on the server of resource {resource.name!r} ({resource.safe_url}), or the "
        "account may not use it, and may not make it.",
        advice=f"Let an administrator run `syncpoint init`, or this SQL:\n  {statements};",
    )


# --- first contact -------------------------------------------------------------------------------------------


def read_contact(resource: MariadbResource, contact: Contact, replies: Replies) -> Guid | None:
    """The GUID; None when the schema, or its one row, is missing. Raises FormatTooNew, JournalRefused, SetupRefused."""
    if replies.code in MISSING or replies.code in ACCESS_DENIED:
        return None
    own = replies.results[1].rows if len(replies.results) > 1 else ()
    if own and own[0][1] > sql.SCHEMA_FORMAT:
        raise FormatTooNew(f"schema on the server of resource {resource.name!r}", own[0][1], sql.SCHEMA_FORMAT)
    replies.check()
    if not own:
        return None
    seen = replies.rows[0][0]
    if seen > contact.highest:
        raise JournalRefused(
            f"The server of resource {resource.name!r} ({resource.safe_url}) has seen incarnation {seen} of this "
            f"journal; the journal's counter is at {contact.highest}: it is an older copy.",
            advice="Restore the journal's newest copy; an old one has forgotten decisions.",
        )
    return Guid(own[0][0])


# --- lying set-ups -------------------------------------------------------------------------------------------


def findings(resource: MariadbResource, session: MariadbSession, replies: Replies) -> list[Finding]:
    """What `syncpoint doctor` prints. Raises the driver's error when the server does not answer the questions."""
    if len(replies.results) < 2:
        replies.check()
    variables = {str(name).lower(): str(value) for name, value in replies.results[0].rows}
    return [
        Finding(Severity.OK, "version", session.version),
        *_durability(variables),
        *_binlog(variables),
        *_role(variables),
        *_engines(replies.results[1]),
        _rights(resource, replies),
    ]


def _durability(variables: dict[str, str]) -> Iterator[Finding]:
    value = variables.get("innodb_flush_log_at_trx_commit", "?")
    if value in ("1", "3"):  # 3 forces at prepare and at commit
        yield Finding(Severity.OK, "innodb_flush_log_at_trx_commit", value)
    else:
        yield Finding(
            Severity.REFUSED,
            "innodb_flush_log_at_trx_commit",
            f"{value}: a yes vote can be lost in a crash",  # DATABASES MariaDB 11
            "SET GLOBAL innodb_flush_log_at_trx_commit = 1; and the same in the server's configuration file.",
        )
    if variables.get("innodb_doublewrite", "ON").upper() in ("OFF", "0"):
        yield Finding(
            Severity.WARNING,
            "innodb_doublewrite",
            "OFF: a torn page cannot be repaired, unless the file system writes pages atomically",
            "Put innodb_doublewrite = ON into the server's configuration file and restart it.",
        )


def _binlog(variables: dict[str, str]) -> Iterator[Finding]:
    if variables.get("log_bin", "OFF").upper() in ("ON", "1") and variables.get("sync_binlog") != "1":
        yield Finding(
            Severity.REFUSED,
            "sync_binlog",
            f"{variables.get('sync_binlog')} with the binary log on: a crash loses votes from the log",
            "SET GLOBAL sync_binlog = 1; and the same in the server's configuration file.",
        )


def _role(variables: dict[str, str]) -> Iterator[Finding]:
    if variables.get("read_only", "OFF").upper() not in ("OFF", "0"):
        yield Finding(
            Severity.REFUSED,
            "read_only",
            "ON: nothing can be committed here",
            "Connect to the primary, or SET GLOBAL read_only = OFF;",
        )
    if variables.get("wsrep_on", "OFF").upper() in ("ON", "1"):
        yield Finding(
            Severity.REFUSED,
            "wsrep_on",
            "ON: a Galera cluster does not support XA",
            "Use a server that is no member of a Galera cluster.",
        )


def _engines(reply: Reply) -> Iterator[Finding]:
    if reply.rows:
        names = ", ".join(f"{table} ({engine})" for table, engine in reply.rows)
        table, _ = reply.rows[0]
        yield Finding(
            Severity.WARNING,
            "engines",
            f"tables that no rollback can undo: {names}",
            f"ALTER TABLE {sql.quoted_name(table)} ENGINE=InnoDB;",
        )


def _rights(resource: MariadbResource, replies: Replies) -> Finding:
    if replies.code == 0:
        return Finding(Severity.OK, "schema syncpoint", "made, with the rights needed")
    if replies.code in MISSING:
        return Finding(
            Severity.WARNING,
            "schema syncpoint",
            "not made yet; first use makes it when rights allow",
            "Run `syncpoint init` with an account that may.",
        )
    if replies.code == SERVER_READ_ONLY:
        return Finding(Severity.WARNING, "schema syncpoint", "not checked: the server is read-only")
    return Finding(
        Severity.REFUSED,
        "schema syncpoint",
        f"rights are missing, or the schema: {replies.error}",
        f"{sql.grant(resource.address.user)}; after `syncpoint init` has made the schema.",
    )


# --- who holds what ------------------------------------------------------------------------------------------


def describe_blockers(replies: Replies) -> str:
    """One sentence, or nothing: without the PROCESS privilege it cannot be told."""
    if replies.code != 0 or not replies.rows:
        return ""
    return "locks are held by " + "; ".join(
        f"{f'connection {thread} ({account})' if thread else 'a prepared branch'} for {seconds} s, {locked} row locks"
        for thread, account, seconds, locked in replies.rows
    )
