"""What the tests through PgBouncer share: a resource behind it, its server connections, and what is left on them.

Not for: what is the same without a pooler (postgres_world.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psycopg

from syncpoint.resources.base import Mode
from syncpoint.resources.postgres_driver import PostgresSession
from syncpoint.testing.servers.pgbouncer import PgBouncerServer
from syncpoint.testing.servers.postgres import USER, PostgresServer
from tests.resources.postgres_world import World

PER_CLIENT = ("application_name", "client_encoding")  # which PgBouncer sets for each client itself
CLIENTS_MAX = 8

LEFT_BEHIND = {
    "settings": "SELECT name, setting FROM pg_settings WHERE NOT name = ANY(%s) AND name NOT LIKE 'transaction%%'",
    "role": "SELECT current_user::text, session_user::text, current_setting('role')",
    "marker": "SELECT coalesce(current_setting('syncpoint.branch', true), '')",
    "statements": "SELECT name FROM pg_prepared_statements",
    "cursors": "SELECT name FROM pg_cursors WHERE name <> ''",
    "listening": "SELECT pg_listening_channels()",
    "advisory locks": "SELECT objid::int8 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "temporary tables": "SELECT relname::text FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
}


def behind(
    bouncer: PgBouncerServer, server: PostgresServer, database: str, mode: Mode, user: str = USER, *, ready: bool = True
) -> World:
    """A world whose resource goes through the pooler and whose observer does not."""
    return World(bouncer.url(database, user), mode, ready=ready, observer_url=server.url(database))


def pid_of(session: PostgresSession) -> int:
    """The server process that serves this session's branch. Outside a branch the next packet may meet another."""
    value = session.pgconn.exec_(b"SELECT pg_backend_pid()").get_value(0, 0)
    assert value is not None
    return int(value)


@contextmanager
def occupied(url: str, pid: int) -> Iterator[None]:
    """Meanwhile a transaction of somebody else's sits on this server connection."""
    with ExitStack() as stack:
        for _ in range(CLIENTS_MAX):
            client = stack.enter_context(closing(psycopg.connect(url, autocommit=True)))
            client.execute("BEGIN")
            if client.execute("SELECT pg_backend_pid()").fetchone() == (pid,):
                break
        else:
            raise AssertionError(f"nobody was served by process {pid}")
        yield


def left_behind(url: str) -> dict[str, Any]:
    """What a stranger finds on the one server connection of the pool: settings, role, and everything of a session's."""
    with closing(psycopg.connect(url, autocommit=True, prepare_threshold=None)) as stranger:
        found: dict[str, Any] = {}
        for what, sql in LEFT_BEHIND.items():
            parameters = (list(PER_CLIENT),) if "%s" in sql else None
            found[what] = sorted(stranger.execute(sql.encode(), parameters).fetchall())
        found["process"] = stranger.execute("SELECT pg_backend_pid()").fetchone()
        return found
