"""The connection a transaction's code works with: psycopg's own, on which ending the branch is refused.

Every branch gets a connection object of its own over the session's libpq connection, so that a reference kept
after the branch has ended can touch nothing (`TransactionEnded`), and that row factories and adapters set in one
branch do not show up in the next. psycopg runs in autocommit mode here, which means that it never sends BEGIN,
COMMIT or ROLLBACK by itself; BEGIN is the adapter's, and `conn.transaction()` inside it is a savepoint.

What passes by is watched: command tags (did it write?), the transaction's status (was it ended by SQL text?),
errors. All of it is a shortcut; the marker that the adapter checks in the database is the proof.
Not for: the adapter's own statements (postgres_driver.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn, Self

import psycopg
from psycopg import pq

from syncpoint.errors import NotAllowed, TransactionEnded
from syncpoint.resources.base import Session

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

_ENDS_THE_BRANCH = re.compile(
    rb"\s*(?:commit|end|abort|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b)|prepare\s+transaction)\b", re.IGNORECASE
)
_OUTLIVES_THE_BRANCH = re.compile(rb"\s*(?:set\s+(?!local\b|transaction\b|constraints\b)|listen\b)", re.IGNORECASE)
_CHANGES = frozenset((b"CREATE", b"ALTER", b"DROP", b"TRUNCATE", b"GRANT", b"REVOKE", b"NOTIFY", b"LISTEN"))
_CHANGES_ROWS = frozenset((b"INSERT", b"UPDATE", b"DELETE", b"MERGE"))
_ENDS = frozenset((b"COMMIT", b"PREPARE TRANSACTION"))  # ROLLBACK TO SAVEPOINT has the tag ROLLBACK, too


class Watch:
    """What was seen of one branch on its connection."""

    __slots__ = ("_last_tag", "ended_by", "error", "over", "resource", "session", "taints", "transaction", "wrote")

    def __init__(self, session: Session, resource: str, transaction: str) -> None:
        self.session = session
        self.resource = resource
        self.transaction = transaction
        self.wrote = False
        """It certainly wrote. False says nothing."""
        self.ended_by = ""
        """How the transaction's own SQL ended the branch: "COMMIT", …; empty while it has not been seen."""
        self.taints = False
        """A SET or LISTEN was seen that may outlive the branch: its session is not used again."""
        self.error: BaseException | None = None
        """The last error of a statement."""
        self._last_tag = b""
        self.over = False
        """The branch has ended in order; its connection can do no more."""

    def before(self) -> None:
        """Called before anything is sent."""
        if self.over:
            raise TransactionEnded(
                f"This connection to {self.resource!r} was for the transaction {self.transaction}, which has ended.",
                advice="Ask the new transaction for its connection: `tx.connect(...)`.",
            )
        if self.ended_by:
            raise NotAllowed(
                f"The branch of the transaction {self.transaction} at {self.resource!r} was ended by {self.ended_by}, "
                "behind the transaction's back; nothing more can be done in it.",
                advice="Let the transaction's block end: it will abort.",
            )

    def after(self, pgconn: PGconn) -> None:
        """Called after anything was received."""
        if pgconn.transaction_status == pq.TransactionStatus.IDLE and not self.ended_by:
            self.ended_by = "ROLLBACK" if self._last_tag == b"ROLLBACK" else "SQL text"

    def failed(self, pgconn: PGconn, error: BaseException) -> None:
        """A call raised. After an interrupted or cancelled one the connection is never used again."""
        if isinstance(error, psycopg.Error):
            self.error = error
        if pgconn.status == pq.ConnStatus.BAD or not isinstance(error, Exception):
            self.session.broken = True

    def check_text(self, query: bytes) -> None:
        """Refuse, before it is sent, a statement that would end the branch. Raises NotAllowed."""
        if _ENDS_THE_BRANCH.match(query):
            raise _refusal(self, query.split(None, 1)[0].decode().upper())
        if _OUTLIVES_THE_BRANCH.match(query):
            self.taints = True

    def saw(self, results: list[PGresult]) -> None:
        """Look at the command tags of what was received."""
        for result in results:
            tag = result.command_status
            if not tag or tag.startswith(b"SELECT"):
                continue
            self._last_tag = tag
            verb = tag.split(b" ", 1)[0]
            if verb in _CHANGES_ROWS:
                self.wrote = self.wrote or not tag.endswith(b" 0")
            elif verb in _CHANGES:
                self.wrote = True
            elif tag in _ENDS:
                self.ended_by = tag.decode()


def _refusal(watch: Watch, what: str) -> NotAllowed:
    return NotAllowed(
        f"{what} would end or change the branch of the transaction {watch.transaction} at {watch.resource!r} "
        "behind the transaction's back.",
        advice="Leave the transaction's block instead: it commits everywhere, or, on an exception, nowhere. "
        "For a part that may fail use a savepoint: `with connection.transaction():`.",
    )


class BranchCursor(psycopg.Cursor[Any]):
    """psycopg's cursor, watched."""

    def _convert_query(self, *args: Any, **kwargs: Any) -> Any:
        query = super()._convert_query(*args, **kwargs)
        _watch(self._conn).check_text(query.query)
        return query

    def _check_results(self, results: list[PGresult]) -> None:
        _watch(self._conn).saw(results)
        super()._check_results(results)


class AsyncBranchCursor(psycopg.AsyncCursor[Any]):
    """psycopg's cursor, watched."""

    def _convert_query(self, *args: Any, **kwargs: Any) -> Any:
        query = super()._convert_query(*args, **kwargs)
        _watch(self._conn).check_text(query.query)
        return query

    def _check_results(self, results: list[PGresult]) -> None:
        _watch(self._conn).saw(results)
        super()._check_results(results)


class BranchConnection(psycopg.Connection[Any]):
    """psycopg's connection, for the time of one branch."""

    watch: Watch

    @classmethod
    def over(cls, base: psycopg.Connection[Any], watch: Watch) -> Self:
        """A connection object for one branch over the libpq connection of `base`, sharing its lock."""
        connection = cls(base.pgconn)
        connection.watch = watch
        connection.lock = base.lock
        connection.cursor_factory = BranchCursor
        connection._autocommit = True
        # Names of statements prepared on the server outlive the branch, so their list does.
        connection._prepared = base._prepared
        return connection

    def __del__(self, *_: Any) -> None:
        """The libpq connection is the session's: nothing to warn of."""

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """All of psycopg's traffic passes here."""
        self.watch.before()
        try:
            value = super().wait(gen, *args, **kwargs)
        except BaseException as error:
            self.watch.failed(self.pgconn, error)
            raise
        finally:
            self.watch.after(self.pgconn)
        return value

    def _should_cancel(self) -> bool:
        return not self.watch.over and super()._should_cancel()

    def commit(self) -> NoReturn:
        raise _refusal(self.watch, "commit()")

    def rollback(self) -> NoReturn:
        raise _refusal(self.watch, "rollback()")

    def close(self) -> NoReturn:
        raise _refusal(self.watch, "close()")

    def set_autocommit(self, value: bool) -> NoReturn:
        raise _refusal(self.watch, "Setting autocommit")

    def tpc_begin(self, xid: Any) -> NoReturn:
        raise _refusal(self.watch, "tpc_begin()")

    def tpc_prepare(self) -> NoReturn:
        raise _refusal(self.watch, "tpc_prepare()")

    def tpc_commit(self, xid: Any = None) -> NoReturn:
        raise _refusal(self.watch, "tpc_commit()")

    def tpc_rollback(self, xid: Any = None) -> NoReturn:
        raise _refusal(self.watch, "tpc_rollback()")

    def __enter__(self) -> NoReturn:
        raise _refusal(self.watch, "`with connection:` commits and closes when it is left; it")


class AsyncBranchConnection(psycopg.AsyncConnection[Any]):
    """psycopg's asyncio connection, for the time of one branch."""

    watch: Watch

    @classmethod
    def over(cls, base: psycopg.AsyncConnection[Any], watch: Watch) -> AsyncBranchConnection:
        """A connection object for one branch over the libpq connection of `base`, sharing its lock."""
        connection = cls(base.pgconn)
        connection.watch = watch
        connection.lock = base.lock
        connection.cursor_factory = AsyncBranchCursor
        connection._autocommit = True
        connection._prepared = base._prepared
        return connection

    def __del__(self, *_: Any) -> None:
        """The libpq connection is the session's: nothing to warn of."""

    async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """All of psycopg's traffic passes here."""
        self.watch.before()
        try:
            value = await super().wait(gen, *args, **kwargs)
        except BaseException as error:
            self.watch.failed(self.pgconn, error)
            raise
        finally:
            self.watch.after(self.pgconn)
        return value

    def _should_cancel(self) -> bool:
        return not self.watch.over and super()._should_cancel()

    async def commit(self) -> NoReturn:
        raise _refusal(self.watch, "commit()")

    async def rollback(self) -> NoReturn:
        raise _refusal(self.watch, "rollback()")

    async def close(self) -> NoReturn:
        raise _refusal(self.watch, "close()")

    async def set_autocommit(self, value: bool) -> NoReturn:
        raise _refusal(self.watch, "Setting autocommit")

    async def tpc_begin(self, xid: Any) -> NoReturn:
        raise _refusal(self.watch, "tpc_begin()")

    async def tpc_prepare(self) -> NoReturn:
        raise _refusal(self.watch, "tpc_prepare()")

    async def tpc_commit(self, xid: Any = None) -> NoReturn:
        raise _refusal(self.watch, "tpc_commit()")

    async def tpc_rollback(self, xid: Any = None) -> NoReturn:
        raise _refusal(self.watch, "tpc_rollback()")

    async def __aenter__(self) -> NoReturn:
        raise _refusal(self.watch, "`async with connection:` commits and closes when it is left; it")


def _watch(connection: Any) -> Watch:
    watch: Watch = connection.watch
    return watch
