"""The journal's rows in MariaDB: its words, its tables, and what its error numbers say.

The schema `syncpoint` is the server's, so the journal serves every database of that server. Not for: when to run what
(database.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from syncpoint.errors import ConnectionLost
from syncpoint.journal.store import Said, Store, Trouble
from syncpoint.resources.base import Session
from syncpoint.resources.mariadb import DEADLOCK, DUPLICATE_KEY, LOCK_TIMEOUT, NO_SUCH_TABLE, MariadbResource
from syncpoint.resources.mariadb_driver import Replies
from syncpoint.resources.mariadb_session import MariadbSession
from syncpoint.resources.mariadb_setup import ACCESS_DENIED
from syncpoint.resources.mariadb_sql import CALM, grant, hexadecimal
from syncpoint.steps import Script

NOT_NULL = 1048
CHANGED_SINCE_READ = 1020
STATEMENT_TIMEOUT = 1969
ERROR_DURING_COMMIT = 1180

_TROUBLES = {
    DUPLICATE_KEY: Trouble.DUPLICATE,
    NOT_NULL: Trouble.FENCED,
    **dict.fromkeys((DEADLOCK, LOCK_TIMEOUT, CHANGED_SINCE_READ, STATEMENT_TIMEOUT), Trouble.BUSY),
    **dict.fromkeys(NO_SUCH_TABLE, Trouble.MISSING),
    **dict.fromkeys(ACCESS_DENIED, Trouble.DENIED),
}

TABLES: Sequence[str] = (
    """CREATE TABLE IF NOT EXISTS syncpoint.journal (
    single TINYINT NOT NULL PRIMARY KEY CHECK (single = 1), guid BINARY(16) NOT NULL, format INT NOT NULL,
    cluster VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL, counter BIGINT NOT NULL, refused TEXT CHARACTER SET utf8mb4
  ) ENGINE=InnoDB""",
    """CREATE TABLE IF NOT EXISTS syncpoint.incarnation (
    incarnation BIGINT NOT NULL PRIMARY KEY, keeper BIGINT NOT NULL,
    process VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL, began DATETIME(6) NOT NULL DEFAULT UTC_TIMESTAMP(6)
  ) ENGINE=InnoDB""",
    """CREATE TABLE IF NOT EXISTS syncpoint.heartbeat (
    incarnation BIGINT NOT NULL PRIMARY KEY, beat DATETIME(6) NOT NULL
  ) ENGINE=InnoDB""",
    """CREATE TABLE IF NOT EXISTS syncpoint.record (
    transaction BINARY(16) NOT NULL, attempt BIGINT NOT NULL, incarnation BIGINT NOT NULL,
    once BINARY(16) UNIQUE, kept BOOLEAN NOT NULL, data LONGBLOB NOT NULL, ended DATETIME(6),
    PRIMARY KEY (transaction, attempt), KEY record_unended (incarnation, ended), KEY record_ended (ended)
  ) ENGINE=InnoDB""",
    """CREATE TABLE IF NOT EXISTS syncpoint.claim (
    transaction BINARY(16) NOT NULL PRIMARY KEY, incarnation BIGINT NOT NULL,
    at DATETIME(6) NOT NULL DEFAULT UTC_TIMESTAMP(6), KEY claim_incarnation (incarnation)
  ) ENGINE=InnoDB""",
    """CREATE TABLE IF NOT EXISTS syncpoint.note (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, transaction BINARY(16) NOT NULL, attempt BIGINT NOT NULL,
    data LONGBLOB NOT NULL
  ) ENGINE=InnoDB""",
    """CREATE TABLE IF NOT EXISTS syncpoint.known (
    kind VARCHAR(16) CHARACTER SET ascii NOT NULL, name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (kind, name)
  ) ENGINE=InnoDB""",
)


class MariadbStore(Store):
    """The journal in MariaDB."""

    NOW: ClassVar[str] = "UTC_TIMESTAMP(6)"
    SHARE: ClassVar[str] = "LOCK IN SHARE MODE"
    visible_is_durable: ClassVar[bool] = False  # InnoDB lets others see a commit a moment before it is forced
    can_be_lazy: ClassVar[bool] = False  # innodb_flush_log_at_trx_commit is the server's

    def __init__(self, resource: MariadbResource) -> None:
        super().__init__(resource)
        self._mariadb = resource

    @property
    def tables(self) -> Sequence[str]:
        return TABLES

    @property
    def grants(self) -> str:
        return grant(self._mariadb.address.user)

    def make_tables(self, session: Session) -> Script[Said]:
        return (yield from self.run(session, TABLES, "make the journal's tables"))

    def run(self, session: Session, statements: Sequence[str], what: str, *, durable: bool = True) -> Script[Said]:
        assert isinstance(session, MariadbSession)
        before = [CALM, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"]
        after = []
        if len(statements) > 1:
            before.append("START TRANSACTION")
            after.append("COMMIT")
        text = "; ".join((*before, *statements, *after))
        replies: Replies = yield self._mariadb.driver.send(session, text, what)
        first = len(before)
        found = replies.results[first : first + len(statements)]
        rows = tuple(tuple(tuple(map(_text, row)) for row in reply.rows) for reply in found)
        if replies.error is None and len(replies.results) == first + len(statements) + len(after):
            return Said(rows)
        if replies.error is None:
            session.broken = True
            raise ConnectionLost(f"The journal's {what} was answered in part only.")
        yield from self._undo(session)
        if replies.code == ERROR_DURING_COMMIT or len(replies.results) >= first + len(statements):  # who knows
            raise ConnectionLost(f"The journal's {what} ended in an unknown way: {replies.error}.")
        return Said(rows, _TROUBLES.get(replies.code, Trouble.REFUSED), replies.error)

    def _undo(self, session: MariadbSession) -> Script[None]:
        """The server stopped at the error, and the transaction is still open."""
        replies: Replies = yield self._mariadb.driver.send(session, "ROLLBACK", "ROLLBACK")
        session.broken = session.broken or replies.error is not None

    # --- the words -----------------------------------------------------------------------------------------------

    @staticmethod
    def raw(data: bytes) -> str:
        return hexadecimal(data)

    @staticmethod
    def digits(column: str) -> str:
        return f"HEX({column})"

    @staticmethod
    def text(value: str) -> str:
        return f"CONVERT({hexadecimal(value.encode())} USING utf8mb4)"

    @staticmethod
    def ago(seconds: float) -> str:
        return f"UTC_TIMESTAMP(6) - INTERVAL {round(seconds * 1_000_000)} MICROSECOND"

    @staticmethod
    def unless_there(key: str) -> str:
        return f"ON DUPLICATE KEY UPDATE {key} = {key}"  # never INSERT IGNORE (DATABASES MariaDB 9)

    @staticmethod
    def conditions(columns: Sequence[str], found: Sequence[Sequence[str]]) -> list[str]:
        # (a, b) IN ((1, 2)) scans the whole table, locks every row on the way, and waits for every open decision.
        return [
            " AND ".join(f"{column} = {value}" for column, value in zip(columns, one, strict=True)) for one in found
        ]

    @staticmethod
    def in_branch(statement: str) -> str:
        # With unique_checks=0 InnoDB may skip the check that lets the first writer win.
        return f"SET STATEMENT unique_checks=1, foreign_key_checks=1 FOR {statement}"

    @staticmethod
    def or_update(key: str, columns: Sequence[str]) -> str:
        return "ON DUPLICATE KEY UPDATE " + ", ".join(f"{one} = VALUES({one})" for one in columns)


def _text(value: object) -> str | None:
    if value is None:
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
