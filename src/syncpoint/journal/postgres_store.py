"""The journal's rows in PostgreSQL: its words, its tables, and what its error codes say.

A packet is one transaction by itself, and leaves nothing in the server session, so any server connection behind
PgBouncer in transaction mode may run the next. Not for: when to run what (database.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from syncpoint.errors import ConnectionLost, ResourceUnavailable
from syncpoint.journal.store import LOCK_WAIT_MS, Said, Store, Trouble
from syncpoint.resources.base import Session
from syncpoint.resources.postgres import PostgresResource
from syncpoint.resources.postgres_driver import PostgresSession, Reply, hexadecimal
from syncpoint.resources.postgres_errors import DENIED, LOCK_WAITS, MISSING
from syncpoint.steps import Script

STATEMENT_S_MAX = 30
ANSWER_S_MAX = STATEMENT_S_MAX + 10
"""A statement, and before it the queue for one of a pooler's server connections."""
_TURN = f"SELECT pg_catalog.pg_advisory_xact_lock({0x53505431})"

_TROUBLES = {
    "23505": Trouble.DUPLICATE,
    "23502": Trouble.FENCED,
    "40001": Trouble.BUSY,
    DENIED: Trouble.DENIED,
    **dict.fromkeys(LOCK_WAITS, Trouble.BUSY),
    **dict.fromkeys(MISSING, Trouble.MISSING),
}

TABLES: Sequence[str] = (
    """CREATE TABLE IF NOT EXISTS syncpoint.journal (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    guid bytea NOT NULL,
    format integer NOT NULL,
    cluster text NOT NULL,
    counter bigint NOT NULL,
    refused text
)""",
    """CREATE TABLE IF NOT EXISTS syncpoint.incarnation (
    incarnation bigint PRIMARY KEY,
    keeper bigint NOT NULL,
    process text NOT NULL,
    began timestamptz NOT NULL DEFAULT now()
)""",
    """CREATE TABLE IF NOT EXISTS syncpoint.heartbeat (
    incarnation bigint PRIMARY KEY,
    beat timestamptz NOT NULL
) WITH (fillfactor = 50)""",
    """CREATE TABLE IF NOT EXISTS syncpoint.record (
    transaction bytea,
    attempt bigint,
    incarnation bigint NOT NULL,
    once bytea UNIQUE,
    kept boolean NOT NULL,
    data bytea NOT NULL,
    ended timestamptz,
    PRIMARY KEY (transaction, attempt)
)""",
    "CREATE INDEX IF NOT EXISTS record_unended ON syncpoint.record (incarnation) WHERE ended IS NULL",
    "CREATE INDEX IF NOT EXISTS record_ended ON syncpoint.record (ended) WHERE ended IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS syncpoint.claim (
    transaction bytea PRIMARY KEY,
    incarnation bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
)""",
    """CREATE TABLE IF NOT EXISTS syncpoint.note (
    id bigserial PRIMARY KEY,
    transaction bytea NOT NULL,
    attempt bigint NOT NULL,
    data bytea NOT NULL
)""",
    """CREATE TABLE IF NOT EXISTS syncpoint.known (
    kind text,
    name text,
    data bytea NOT NULL,
    PRIMARY KEY (kind, name)
)""",
)

_GRANTS = """-- for each role that the application uses:
-- GRANT USAGE ON SCHEMA syncpoint TO app_role;
-- GRANT SELECT, INSERT, UPDATE, DELETE ON syncpoint.journal, syncpoint.incarnation, syncpoint.heartbeat,
--   syncpoint.record, syncpoint.claim, syncpoint.note, syncpoint.known TO app_role;
-- GRANT USAGE ON SEQUENCE syncpoint.note_id_seq TO app_role"""


class PostgresStore(Store):
    """The journal in PostgreSQL."""

    NOW: ClassVar[str] = "pg_catalog.clock_timestamp()"
    SHARE: ClassVar[str] = "FOR SHARE"
    visible_is_durable: ClassVar[bool] = True  # a forced commit is seen by others only once it is on disk
    can_be_lazy: ClassVar[bool] = True

    def __init__(self, resource: PostgresResource) -> None:
        super().__init__(resource)
        self._driver = resource.driver

    @property
    def tables(self) -> Sequence[str]:
        return TABLES

    @property
    def grants(self) -> str:
        return _GRANTS

    def make_tables(self, session: Session) -> Script[Said]:
        # CREATE … IF NOT EXISTS of two sessions at once fails on the catalogue's own keys: take turns.
        return (yield from self.run(session, (_TURN, *TABLES), "make the journal's tables"))

    def run(self, session: Session, statements: Sequence[str], what: str, *, durable: bool = True) -> Script[Said]:
        assert isinstance(session, PostgresSession)
        before = (
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE",
            f"SET LOCAL lock_timeout = '{LOCK_WAIT_MS}ms'",
            f"SET LOCAL statement_timeout = '{STATEMENT_S_MAX}s'",
            f"SET LOCAL synchronous_commit = {'on' if durable else 'off'}",
        )
        try:
            reply: Reply = yield self._driver.ask(session, "; ".join((*before, *statements)), what, ANSWER_S_MAX)
        except ResourceUnavailable as error:  # a pooler kept it waiting, but may have let it through in the end
            raise ConnectionLost(error.message) from error
        first = len(before)
        rows = tuple(tuple(reply.rows(first + number)) for number in range(len(statements)))
        if reply.error is None:
            return Said(rows)
        return Said(rows, _TROUBLES.get(reply.code, Trouble.REFUSED), reply.error)

    # --- the words -----------------------------------------------------------------------------------------------

    @staticmethod
    def raw(data: bytes) -> str:
        return hexadecimal(data)

    @staticmethod
    def digits(column: str) -> str:
        return f"pg_catalog.encode({column}, 'hex')"

    @staticmethod
    def text(value: str) -> str:
        return f"pg_catalog.convert_from({hexadecimal(value.encode())}, 'UTF8')"

    @staticmethod
    def ago(seconds: float) -> str:
        return f"pg_catalog.clock_timestamp() - interval '{round(seconds * 1000)} ms'"

    @staticmethod
    def unless_there(key: str) -> str:
        return "ON CONFLICT DO NOTHING"

    @staticmethod
    def conditions(columns: Sequence[str], found: Sequence[Sequence[str]]) -> list[str]:
        rows = ", ".join(f"({', '.join(one)})" for one in found)
        return [f"({', '.join(columns)}) IN ({rows})"]

    @staticmethod
    def or_update(key: str, columns: Sequence[str]) -> str:
        return f"ON CONFLICT ({key}) DO UPDATE SET " + ", ".join(f"{one} = EXCLUDED.{one}" for one in columns)
