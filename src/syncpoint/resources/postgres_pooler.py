"""What a pooler between us and PostgreSQL (PgBouncer) changes: how it is noticed, and which of its modes will not do.

In transaction mode every packet outside a transaction may run on another server connection, which others use before
and after. The adapter relies on nothing else: its packets are complete in themselves, SET is always SET LOCAL, and a
prepared branch is finished from anywhere. What it cannot do then is take a role for a moment (postgres_owner.py).
Statement mode knows no transactions and is refused; session mode looks from here like transaction mode.
Not for: waiting for one of the pooler's server connections (`Driver.ask`).
"""

from __future__ import annotations

from syncpoint.errors import ConnectionLost
from syncpoint.resources.base import Finding, Severity
from syncpoint.resources.postgres_driver import PostgresSession

PID = "pg_catalog.pg_backend_pid()"

_STATEMENT_MODE = "statement pooling mode"  # "transaction blocks not allowed in …", PgBouncer's words


def stands_between(session: PostgresSession, pid: str | None) -> bool:
    """Whether somebody else than the server answered when we connected. `pid` is what the query PID has told.

    PostgreSQL names its process when it greets. A pooler greets with numbers of its own, by which it knows us when we
    want to cancel something.
    """
    return pid != str(session.pgconn.backend_pid)


def findings(session: PostgresSession, pid: str | None) -> list[Finding]:
    """What `inspect` says of a pooler in which a transaction could be begun; nothing when there is none."""
    if not stands_between(session, pid):
        return []
    return [Finding(Severity.OK, "pooler", "one is in between, in transaction or session mode; either will do")]


def refusal(lost: ConnectionLost) -> Finding | None:
    """What `inspect` says when the connection was lost over BEGIN, if it was for the pooler's mode."""
    if _STATEMENT_MODE not in lost.message:
        return None
    found = "the pooler in between is in statement mode, which knows no transactions"
    fix = "In pgbouncer.ini set pool_mode = transaction, for this database or for all; then RELOAD."
    return Finding(Severity.REFUSED, "pooler", found, fix)
