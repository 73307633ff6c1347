"""PyMySQL's connection, as a transaction's code gets it: ending the branch behind our back is refused.

Everything sent and every OK packet received passes through here, so that a session knows whether its branch wrote
and when its state is unknown. The adapter's own statements run with `session.inside` set.
Not for: deciding anything (mariadb.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import pymysql
import pymysql.connections

from syncpoint.ids import Identifier
from syncpoint.resources.mariadb_session import MariadbSession

__all__ = ["BranchConnection", "SyncConnection"]

_BASE: Any = pymysql.connections.Connection  # its inner methods have no types

if TYPE_CHECKING:
    _Connection = pymysql.connections.Connection[Any]  # generic in the stubs only
else:
    _Connection = pymysql.connections.Connection


class SyncConnection(_Connection):
    """`session` is None while connecting."""

    session: MariadbSession | None = None

    # --- refused ---------------------------------------------------------------------------------------

    def _refuse(self, what: str) -> NoReturn:
        assert self.session is not None
        raise self.session.refusal(what)

    def commit(self) -> None:
        self._refuse("commit()")

    def rollback(self) -> None:
        self._refuse("rollback()")

    def begin(self) -> None:
        self._refuse("begin()")

    def kill(self, thread_id: object) -> None:
        self._refuse("kill()")

    def autocommit(self, value: object) -> None:
        if self.session is not None:
            self._refuse("autocommit()")
        _BASE.autocommit(self, value)

    def ping(self, reconnect: bool | None = False) -> None:
        if reconnect:
            self._refuse("ping(reconnect=True)")
        _BASE.ping(self)

    def close(self) -> None:
        if self.session is not None and not self.session.leaving:
            self._refuse("close()")
        _BASE.close(self)

    def __enter__(self) -> NoReturn:
        # PyMySQL's `with connection:` closes it at the end: refuse before any work is done.
        self._refuse("with connection")

    # --- watched ---------------------------------------------------------------------------------------

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        session = self.session
        if session is None:
            _BASE._execute_command(self, command, sql)
            return
        session.before(command)
        try:
            _BASE._execute_command(self, command, sql)
        except BaseException as error:
            session.failed(error)
            raise

    def _read_packet(self, *arguments: Any) -> Any:
        session = self.session
        if session is None:
            return _BASE._read_packet(self, *arguments)
        try:
            packet = _BASE._read_packet(self, *arguments)
        except BaseException as error:
            session.failed(error)
            raise
        data = packet.get_all_data()
        if data[:1] == b"\0":
            session.saw(data)
        return packet

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        try:
            return _BASE._read_query_result(self, unbuffered)
        except BaseException as error:
            # A value that cannot be decoded leaves the rest of its result unread: the next reply would be this one's.
            if self.session is not None:
                self.session.failed(error)
            raise


class BranchConnection(SyncConnection):
    """The same connection for one branch only: an object of its own, kept after the branch, can touch no later one.

    All of PyMySQL's state is shared with the session's connection, whose attributes these are.
    """

    __slots__ = ("_branch",)
    _branch: Identifier | None

    @classmethod
    def over(cls, connection: SyncConnection, branch: Identifier | None) -> BranchConnection:
        """For the branch that is on the connection's session now."""
        own = cls.__new__(cls)
        own.__dict__ = connection.__dict__
        own._branch = branch
        return own

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        if self.session is not None and self.session.identifier != self._branch:
            raise self.session.ended()
        super()._execute_command(command, sql)

    def __del__(self) -> None:
        """PyMySQL's would close the session's connection."""
