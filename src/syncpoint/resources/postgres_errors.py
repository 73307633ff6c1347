"""What PostgreSQL's error codes mean to a branch: worth retrying, busy, waiting for a lock, and the word for people.

Not for: raising anything, or errors of connecting (postgres_driver.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import psycopg

DENIED = "42501"
UNKNOWN_GID = "42704"
OTHER_DATABASE = "0A000"
READ_ONLY = "25006"

MISSING = frozenset(("42P01", "3F000"))
"""No such table, no such schema."""

READ_ONLY_SERVER = frozenset((READ_ONLY, "0A000"))
"""The second: "cannot set transaction read-write mode during recovery"."""

LOCK_WAITS = frozenset(("55P03", "40P01", "57014"))
"""Lock timeout, deadlock, statement timeout."""

BUSY = frozenset(("55000", "55P03", "57014", "40001", "40P01", "53100", "53200", READ_ONLY))
"""COMMIT PREPARED may succeed later: somebody else is at it, a timeout, no space or memory, a standby."""

RETRYABLE = frozenset(
    ("40001", "40P01", "55P03", "53200", "53300", "57P01", "57P02", "57P03", "08000", "08003", "08006", "08P01")
)
"""Serialization failure, deadlock, lock timeout, no slot or memory or connection left, server going down, connection
lost; 08P01 is PgBouncer's for whatever ends a connection. Not 57014: a statement that took all of the transaction's
time will do so again."""

REASONS: Mapping[str, str] = {
    "42710": "another branch with this identifier is in doubt in this server",  # A2, A4
    "23505": "if that is the evidence, another branch with this identifier was here",
    "55000": "set max_prepared_transactions, see `syncpoint doctor`",
    "53200": "raise max_prepared_transactions, see `syncpoint doctor`",
    DENIED: "see `syncpoint doctor` for the rights that Syncpoint needs",
    READ_ONLY: "it wrote, and was made read-only afterwards",
}
"""What a no vote adds to the server's own words."""


_REFUSED: Mapping[str, str] = {
    "23505": "another record of this transaction was there first",
    "23502": "this process was taken for dead, and its decisions are refused",
}


def refused_record(error: psycopg.Error) -> str:
    """Why the journal's table did not take a record; empty when the error is about something else."""
    of_journal = (error.diag.schema_name, error.diag.table_name) == ("syncpoint", "record")
    return _REFUSED.get(error.sqlstate or "", "") if of_journal else ""


def is_retryable(error: BaseException) -> bool:
    """Whether the same work may succeed when run again."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # psycopg's own word for a lost connection
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate in RETRYABLE


def is_lock_wait(error: BaseException | None) -> bool:
    """Whether a statement failed because it waited for somebody too long, or in a circle."""
    return isinstance(error, psycopg.Error) and error.sqlstate in LOCK_WAITS


def waited_relation(error: BaseException | None) -> str | None:
    """The table in which a lock wait failed, as far as the server told."""
    if not isinstance(error, psycopg.Error) or not is_lock_wait(error):
        return None
    named = re.search(r'in relation "([^"\']+)"', error.diag.context or "")
    return named.group(1) if named else None


def reason(error: psycopg.Error) -> str:
    """The server's words, and what helps."""
    said = error.diag.message_primary or str(error)
    help_ = REASONS.get(error.sqlstate or "", "")
    return f"{said} ({help_})" if help_ else said
