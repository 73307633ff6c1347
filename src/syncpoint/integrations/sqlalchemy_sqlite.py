"""SQLAlchemy's SQLite dialect on a branch's apsw connection, through apsw_dbapi; blocking, and for its asyncio half.

Not for: what dialects have in common (sqlalchemy_dialects.py).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.sqlite.base import SQLiteExecutionContext
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import await_only

from syncpoint.integrations import apsw_dbapi
from syncpoint.integrations.sqlalchemy_dialects import BranchDialect


class SqliteDialect(BranchDialect, SQLiteDialect_pysqlite):
    """apsw, through apsw_dbapi."""

    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        return apsw_dbapi

    def get_driver_connection(self, connection: Any) -> Any:
        return connection.driver


async def _nothing() -> None:
    """Something to await: apsw itself never waits in a branch, whose lock it holds from the beginning."""


class AwaitedCursor(apsw_dbapi.Cursor):
    """A cursor in whose place SQLAlchemy's asyncio half expects one that awaits."""

    server_side = False

    def execute(self, sql: str, parameters: apsw_dbapi.Parameters = ()) -> apsw_dbapi.Cursor:
        await_only(_nothing())
        return super().execute(sql, parameters)

    async def _async_soft_close(self) -> None:
        """The rows are still wanted."""


class AwaitedConnection(apsw_dbapi.Connection):
    """Hands out AwaitedCursors."""

    def cursor(self, *, server_side: bool = False) -> AwaitedCursor:
        return AwaitedCursor(self)


class _StreamingContext(SQLiteExecutionContext):
    def create_server_side_cursor(self) -> Any:
        return self._dbapi_connection.cursor(server_side=True)


class SqliteAsyncDialect(SqliteDialect):
    """apsw as it is, for SQLAlchemy's asyncio half."""

    supports_statement_cache = True
    is_async = True
    supports_server_side_cursors = True
    execution_ctx_cls = _StreamingContext


SqliteDialect.async_class = SqliteAsyncDialect
