"""asyncmy's connection, as a transaction's code gets it: ending the branch behind our back is refused.

The counterpart of mariadb_sync.py. asyncmy closes a connection whose statement is cancelled; the session is then
broken. Not for: deciding anything (mariadb.py).
"""

from __future__ import annotations

from typing import Any, NoReturn

import asyncmy.connection

from syncpoint.resources.mariadb_session import MariadbSession

__all__ = ["AsyncConnection"]

_BASE: Any = asyncmy.connection.Connection  # its methods have no types


class AsyncConnection(asyncmy.connection.Connection):
    """`session` is None while connecting."""

    session: MariadbSession | None = None

    # --- refused ---------------------------------------------------------------------------------------

    def _refuse(self, what: str) -> NoReturn:
        assert self.session is not None
        raise self.session.refusal(what)

    async def commit(self) -> None:
        self._refuse("commit()")

    async def rollback(self) -> None:
        self._refuse("rollback()")

    async def begin(self) -> None:
        self._refuse("begin()")

    async def kill(self, thread_id: object) -> None:
        self._refuse("kill()")

    async def autocommit(self, value: object) -> None:
        if self.session is not None:
            self._refuse("autocommit()")
        await _BASE.autocommit(self, value)

    async def ping(self, reconnect: bool = False) -> None:
        if reconnect:
            self._refuse("ping(reconnect=True)")
        await _BASE.ping(self, False)

    def close(self) -> None:
        # asyncmy itself calls this when the stream is broken or a statement was cancelled.
        if self.session is not None and not self.session.leaving and not self.session.broken:
            self._refuse("close()")
        _BASE.close(self)

    async def ensure_closed(self) -> None:
        if self.session is not None and not self.session.leaving:
            self._refuse("ensure_closed()")
        await _BASE.ensure_closed(self)

    async def __aenter__(self) -> NoReturn:
        # asyncmy's `async with connection:` closes it at the end: refuse before any work is done.
        self._refuse("async with connection")

    # --- watched ---------------------------------------------------------------------------------------

    def _close_on_cancel(self) -> None:
        if self.session is not None:
            self.session.broken = True
        _BASE._close_on_cancel(self)

    def _write_bytes(self, data: bytes) -> None:
        if self.session is not None and _BASE._stream_broken.__get__(self):
            self.session.broken = True  # the connection closes itself now
        _BASE._write_bytes(self, data)

    async def _execute_command(self, command: int, sql: str | bytes) -> None:
        session = self.session
        if session is None:
            await _BASE._execute_command(self, command, sql)
            return
        session.before(command)
        try:
            await _BASE._execute_command(self, command, sql)
        except BaseException as error:
            session.failed(error)
            raise

    async def read_packet(self, *arguments: Any) -> Any:
        session = self.session
        if session is None:
            return await _BASE.read_packet(self, *arguments)
        try:
            packet = await _BASE.read_packet(self, *arguments)
        except BaseException as error:
            session.failed(error)
            raise
        data = packet.get_all_data()
        if data[:1] in (b"\0", b"\xfe"):  # 0xFE: the OK packet that ends a result set
            session.saw(data)
        return packet

    async def _read_query_result(self, unbuffered: bool = False) -> Any:
        try:
            return await _BASE._read_query_result(self, unbuffered)
        except BaseException as error:
            # A value that cannot be decoded leaves the rest of its result unread: the next reply would be this one's.
            if self.session is not None:
                self.session.failed(error)
            raise

    async def prepare(self, query: str) -> Any:
        if self.session is not None:
            self.session.wrote = True  # its packets are read past us: assume the most
        return await _BASE.prepare(self, query)
