"""SQLAlchemy's dialects, on a connection that is a transaction's branch.

Each is SQLAlchemy's own for that driver, with one difference: it neither begins nor ends anything on the connection
(`BranchDialect`). MariaDB's also counts rows as SQLAlchemy expects it.
Not for: Session and Connection (sqlalchemy_connection.py), SQLite (sqlalchemy_sqlite.py), or the drivers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar

from sqlalchemy.dialects.mysql.asyncmy import MySQLDialect_asyncmy
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
from sqlalchemy.engine import URL
from sqlalchemy.engine.default import DefaultDialect

from syncpoint.errors import NotAllowed
from syncpoint.integrations.sqlalchemy_connection import BranchConnection
from syncpoint.resources.mariadb_session import error_code


class BranchDialect(DefaultDialect):
    """Nothing of it ends, resets or closes a connection: that is the transaction's."""

    driver = "syncpoint"
    async_class: ClassVar[type[DefaultDialect]]
    """The one for asyncio."""

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> type[Any]:
        return cls.async_class

    def do_begin(self, dbapi_connection: Any) -> None:
        """The branch has begun."""

    def do_rollback(self, dbapi_connection: Any) -> None:
        """SQLAlchemy asks for it after it has learnt about the server; users are refused before they come here."""

    def do_commit(self, dbapi_connection: Any) -> None:
        raise NotAllowed("COMMIT is the transaction's.", advice="Leave the transaction's block.")

    def do_close(self, dbapi_connection: Any) -> None:
        """The branch's connection goes back to the manager's pool, not to SQLAlchemy's."""

    def do_terminate(self, dbapi_connection: Any) -> None:
        """As `do_close`."""

    def do_begin_twophase(self, connection: Any, xid: Any) -> None:
        raise NotAllowed("Syncpoint does the two-phase commit.", advice="Leave out twophase=True.")

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        raise NotAllowed("The isolation level of a branch that has begun stays.", advice="Set it in the database.")

    def reset_isolation_level(self, dbapi_conn: Any) -> None:
        """Never changed."""

    # --- savepoints ------------------------------------------------------------------------------------------

    def do_savepoint(self, connection: Any, name: str) -> None:
        _untyped(super()).do_savepoint(connection, name)
        if isinstance(connection, BranchConnection):
            connection.savepoint_made(name)

    def do_rollback_to_savepoint(self, connection: Any, name: str) -> None:
        if not isinstance(connection, BranchConnection):
            _untyped(super()).do_rollback_to_savepoint(connection, name)
            return
        if connection.has_ended:
            return  # a Session that outlives its transaction is closed: there is nothing left to roll back
        connection.check_savepoint(name)
        try:
            _untyped(super()).do_rollback_to_savepoint(connection, name)
        except BaseException as error:
            # What was to be undone may still be there, or more is gone than was to be undone.
            connection.work.cancel(f"a Session at {connection.resource!r} could not be rolled back", error)
            if not self.is_branch_gone(error):
                raise
        connection.savepoint_gone(name, kept=False)

    def do_release_savepoint(self, connection: Any, name: str) -> None:
        if isinstance(connection, BranchConnection):
            connection.work.check_active()
            connection.check_savepoint(name)
        _untyped(super()).do_release_savepoint(connection, name)
        if isinstance(connection, BranchConnection):
            connection.savepoint_gone(name, kept=True)

    def is_branch_gone(self, error: BaseException) -> bool:
        """Whether a rollback to a savepoint failed because the server has rolled back the whole branch. The error
        that did that is on its way to the user, and this one is not to hide it."""
        return False

    # --- statements ------------------------------------------------------------------------------------------

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        _before(statement, context)
        _untyped(super()).do_execute(cursor, statement, parameters, context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        _before(statement, context)
        _untyped(super()).do_execute_no_params(cursor, statement, context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        _before(statement, context)
        _untyped(super()).do_executemany(cursor, statement, parameters, context)


def _untyped(parent: Any) -> Any:
    """SQLAlchemy's dialects have no types."""
    return parent


def _before(statement: str, context: Any) -> None:
    connection = getattr(context, "root_connection", None)
    if isinstance(connection, BranchConnection):
        connection.before_statement(statement, context)


# --- PostgreSQL ----------------------------------------------------------------------------------------------


class PostgresAsyncDialect(BranchDialect, PGDialectAsync_psycopg):
    """psycopg, asyncio."""

    supports_statement_cache = True


class PostgresDialect(BranchDialect, PGDialect_psycopg):
    """psycopg, blocking."""

    supports_statement_cache = True
    async_class = PostgresAsyncDialect


PostgresAsyncDialect.async_class = PostgresAsyncDialect


def own_postgres_connection(raw: Any, dialect: Any) -> Any:
    """A second psycopg connection object over the same branch, as SQLAlchemy wants it set up.

    So that row factories and adapters which the transaction's code sets on its own do not reach SQLAlchemy, nor the
    other way round. Notices and notifications go on to the first.
    """
    from psycopg.adapt import AdaptersMap

    libpq = raw.pgconn
    notices, notifications = libpq.notice_handler, libpq.notify_handler
    connection = type(raw).over(raw, raw.watch)
    libpq.notice_handler, libpq.notify_handler = notices, notifications
    connection._adapters = AdaptersMap(dialect._psycopg_adapters_map)
    return connection


# --- MariaDB -------------------------------------------------------------------------------------------------


NO_SUCH_SAVEPOINT = 1305  # as after a deadlock (DATABASES MariaDB 4)
_UPDATE = re.compile(r"\s*(?:/\*.*?\*/\s*)*update\b", re.IGNORECASE | re.DOTALL)


class MariadbBranchDialect(BranchDialect):
    """What both of MariaDB's have in common.

    SQLAlchemy wants to know how many rows an UPDATE matched, to notice that another has changed a row meanwhile, and
    asks for that when it connects (CLIENT.FOUND_ROWS). The branch's connection says how many it *changed*; how many
    matched stands in the text that the server adds.
    """

    def on_connect(self) -> Any:
        """Nothing: the adapter has set the character set, and SET NAMES would cost a round trip a branch."""
        return None

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        _untyped(super()).do_execute(cursor, statement, parameters, context)
        if context is not None and _UPDATE.match(statement):
            matched = rows_matched(self._message(context))
            if matched is not None:
                context._rowcount = matched

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        self.do_execute(cursor, statement, None, context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Iterable[Any], context: Any = None) -> None:
        if context is None or not _UPDATE.match(statement):
            _untyped(super()).do_executemany(cursor, statement, parameters, context)
            return
        total = 0  # the driver, too, sends them one by one
        for one in parameters:
            context._rowcount = None
            self.do_execute(cursor, statement, one, context)
            total += context.rowcount
        context._rowcount = total

    def _message(self, context: Any) -> bytes:
        """What the server added to its last OK packet."""
        driver = self.get_driver_connection(context.root_connection.connection.dbapi_connection)
        message: bytes | None = getattr(getattr(driver, "_result", None), "message", None)
        return message or b""

    def is_branch_gone(self, error: BaseException) -> bool:
        original = getattr(error, "orig", None)
        return original is not None and error_code(original) == NO_SUCH_SAVEPOINT


def rows_matched(message: bytes) -> int | None:
    """The first of the three numbers of "Rows matched: 1  Changed: 0  Warnings: 0", in whatever language.

    A length of one byte stands before it, and the session's state may follow, when the server reports that.
    """
    if message and message[0] < len(message):
        message = message[1 : 1 + message[0]]
    numbers = re.findall(rb"\d+", message)
    return int(numbers[0]) if len(numbers) == 3 else None


class MariadbAsyncDialect(MariadbBranchDialect, MariaDBDialect, MySQLDialect_asyncmy):
    """asyncmy."""

    supports_statement_cache = True


class MariadbDialect(MariadbBranchDialect, MariaDBDialect, MySQLDialect_pymysql):
    """PyMySQL."""

    supports_statement_cache = True
    async_class = MariadbAsyncDialect


MariadbAsyncDialect.async_class = MariadbAsyncDialect
