"""How the MariaDB adapter talks to a server: read the URL, connect, send one packet, read its replies.

Two halves with the same methods: PyMySQL blocks, asyncmy is awaited; that is all in which they differ. Errors that
the server sends are values (`Replies.error`); a connection that is lost raises ConnectionLost. Not for: knowing what
any statement means.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from syncpoint.errors import ConfigurationError, ConnectionLost, ResourceUnavailable, SetupRefused
from syncpoint.resources.base import Mode
from syncpoint.resources.mariadb_session import (
    CAPABILITY_MULTI_STATEMENTS,
    CAPABILITY_SESSION_TRACK,
    Holder,
    MariadbSession,
    error_code,
    is_server_error,
)
from syncpoint.resources.mariadb_sql import GREETING
from syncpoint.steps import Call

VERSION_MIN = (10, 6)
PORT = 3306
CONNECT_TIMEOUT_S = 10
# A peer that is gone without a word is noticed after about this long (B4).
PEER_SILENT_S_MAX = 30

OPTIONS = frozenset(
    ("charset", "connect_timeout", "read_timeout", "ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify", "unix_socket")
)
_OF_THE_POOL = frozenset(("pool_size_max",))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is and how to speak to it."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    charset: str = "utf8mb4"
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    read_timeout_s: float | None = None
    unix_socket: str | None = None
    ssl_mode: str = ""
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None
    ssl_verify: bool = True

    @property
    def safe_url(self) -> str:
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        where = f"[{self.host}]" if ":" in self.host else self.host
        return f"mariadb://{user}{where}:{self.port}/{quote(self.database, safe='')}"

    def driver_arguments(self) -> dict[str, Any]:
        """What PyMySQL and asyncmy both take."""
        arguments: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": self.user or None,
            "password": self.password,
            "database": self.database or None,
            "unix_socket": self.unix_socket,
            "charset": self.charset,
            "connect_timeout": self.connect_timeout_s,
            # While connecting; afterwards a lock wait may take its time.
            "read_timeout": self.connect_timeout_s,
            "autocommit": True,
            "client_flag": CAPABILITY_MULTI_STATEMENTS | CAPABILITY_SESSION_TRACK,
        }
        context = self.ssl_context()
        if context is not None:
            arguments["ssl"] = context
        return arguments

    @property
    def is_local(self) -> bool:
        """Whether nothing leaves this machine."""
        return bool(self.unix_socket) or self.host in ("localhost", "::1") or self.host.startswith("127.")

    def ssl_context(self) -> ssl.SSLContext | None:
        """None when no ssl option asks for one. Raises ConfigurationError on files that cannot be read."""
        if self.ssl_mode == "false" or not (self.ssl_mode or self.ssl_ca or self.ssl_cert):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca)
            if self.ssl_cert:
                context.load_cert_chain(self.ssl_cert, self.ssl_key)
        except OSError as error:
            raise ConfigurationError(
                f"The TLS files of {self.safe_url} cannot be read: {error}.",
                advice="Check ssl_ca, ssl_cert and ssl_key.",
            ) from error
        if not self.ssl_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def read_url(name: str, url: str, options: Mapping[str, str]) -> Address:
    """Read `mariadb://user:password@host:port/database?option=value`. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORT
        given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise _bad(name, f"its URL cannot be read: {error}") from None
    if parts.scheme != "mariadb":
        raise _bad(name, f"its URL begins with {parts.scheme}://, not mariadb://")
    if "/" in parts.path[1:] or parts.fragment:
        raise _bad(name, "its URL has more than a database's name after the host")
    if "\0" in unquote(f"{parts.username}{parts.password}{parts.path}"):  # the protocol's texts end there
        raise _bad(name, "its URL holds a NUL")
    given |= {key: value for key, value in options.items() if key not in _OF_THE_POOL}
    unknown = sorted(set(given) - OPTIONS)
    if unknown:
        raise ConfigurationError(
            f"The resource {name!r} has an unknown option {unknown[0]!r}.",
            advice=f"Known: {', '.join(sorted(OPTIONS))}.",
        )
    return Address(
        host=parts.hostname or "localhost",
        port=port,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=unquote(parts.path[1:]),
        charset=given.get("charset", "utf8mb4"),
        connect_timeout_s=_seconds(name, "connect_timeout", given) or CONNECT_TIMEOUT_S,
        read_timeout_s=_seconds(name, "read_timeout", given),
        unix_socket=given.get("unix_socket"),
        ssl_mode=_choice(name, "ssl", given, ("true", "false")) or "",
        ssl_ca=given.get("ssl_ca"),
        ssl_cert=given.get("ssl_cert"),
        ssl_key=given.get("ssl_key"),
        ssl_verify=_choice(name, "ssl_verify", given, ("true", "false")) != "false",
    )


def _seconds(name: str, option: str, given: Mapping[str, str]) -> float | None:
    text = given.get(option)
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 31_536_000:
            return float(text)
    raise _bad(name, f"{option} must be a number of seconds above 0, not {text!r}")


def _choice(name: str, option: str, given: Mapping[str, str], choices: tuple[str, ...]) -> str | None:
    text = given.get(option)
    if text is None or text in choices:
        return text
    raise _bad(name, f"{option} must be one of {', '.join(choices)}, not {text!r}")


def _bad(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The resource {name!r} is not configured rightly: {why}.",
        advice="Write mariadb://user:password@host:port/database",
    )


# --- replies -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of one statement."""

    rows: tuple[tuple[Any, ...], ...]
    affected: int


@dataclass(frozen=True, slots=True)
class Replies:
    """What came back for one packet: the results in order, and the error that ended them, if any."""

    results: tuple[Reply, ...]
    error: Exception | None = None

    @property
    def code(self) -> int:
        """The server's error number; 0: every statement succeeded."""
        return error_code(self.error)

    def check(self) -> Replies:
        """Raises the driver's error, if there is one."""
        if self.error is not None:
            raise self.error
        return self

    @property
    def rows(self) -> tuple[tuple[Any, ...], ...]:
        """The last result's rows."""
        return self.results[-1].rows


def _reply(result: Any) -> Reply:
    return Reply(tuple(result.rows or ()), int(result.affected_rows or 0))


# --- the two halves ------------------------------------------------------------------------------------------


class Driver:
    """What both halves share. Their `_open`, `_send` and `_close` block, or return an awaitable."""

    def __init__(self, name: str, address: Address) -> None:
        self.name = name
        self.address = address

    def open(self) -> Call:
        """Connect; the result is a MariadbSession. Raises ResourceUnavailable, SetupRefused."""
        return Call(self._open, "connect")

    def send(self, session: MariadbSession, sql: str, what: str) -> Call:
        """Send statements as one packet; the result is Replies. Raises ConnectionLost."""
        return Call(partial(self.of(session)._send, session, sql, what), what)

    def close(self, session: MariadbSession) -> Call:
        """Close the connection; never raises."""
        return Call(partial(self.of(session)._close, session), "close")

    def of(self, session: MariadbSession) -> Driver:
        """Whichever speaks on this session: a borrowed connection brings its own."""
        driver: Driver | None = session.driver
        return self if driver is None else driver

    def connection(self, session: MariadbSession) -> Any:
        """What the code of the branch on this session works with."""
        return session.connection

    def is_connected(self, session: MariadbSession) -> bool:
        """Whether an idle connection looks alive: a server that closed it left an end of file to be read."""
        raise NotImplementedError

    def socket_of(self, session: MariadbSession) -> socket.socket | None:
        raise NotImplementedError

    def _open(self) -> Any:
        raise NotImplementedError

    def _send(self, session: MariadbSession, sql: str, what: str) -> Any:
        raise NotImplementedError

    def _close(self, session: MariadbSession) -> Any:
        raise NotImplementedError

    def abandon(self, session: MariadbSession) -> None:
        """Put /dev/null in the socket's place: whatever a destructor writes, the parent's server never reads."""
        with contextlib.suppress(Exception):
            found = self.of(session).socket_of(session)
            if found is not None:
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.dup2(null, found.fileno(), inheritable=False)
                finally:
                    os.close(null)
        session.broken = True

    # --- inside ------------------------------------------------------------------------------------------

    def _begin_session(self, connection: Any) -> MariadbSession:
        """Just connected. Raises SetupRefused when the server is none that Syncpoint is made for."""
        session = MariadbSession(self.name, connection)
        connection.session = session
        connection._read_timeout = self.address.read_timeout_s
        session.version = connection.get_server_info()
        found = read_version(session.version)
        if found is None or found < VERSION_MIN:
            session.leaving = True
            what = "no MariaDB" if found is None else "older than MariaDB " + ".".join(map(str, VERSION_MIN))
            raise SetupRefused(
                f"The server of resource {self.name!r} ({self.address.safe_url}) is {what}: "
                f"it says {session.version!r}.",
                advice="Use MariaDB 10.6 or later; MySQL's XA is not supported.",
            )
        self._watch_peer(session)
        return session

    def _watch_peer(self, session: MariadbSession) -> None:
        found = self.socket_of(session)
        if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
            return
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", PEER_SILENT_S_MAX // 2),
            ("TCP_KEEPINTVL", PEER_SILENT_S_MAX // 6),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", PEER_SILENT_S_MAX * 1000),
        ):
            if hasattr(socket, option):  # not everywhere
                found.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    @staticmethod
    def _greeted(session: MariadbSession, replies: Replies) -> MariadbSession:
        connection_id, started, account = replies.check().rows[0]
        session.holder = Holder(int(started), int(connection_id), str(account))
        return session

    def _failed(self, session: MariadbSession, error: BaseException, done: list[Reply], what: str) -> Replies:
        """A packet's error as a value, or ConnectionLost."""
        if isinstance(error, Exception) and is_server_error(error) and not session.broken:
            return Replies(tuple(done), error)
        session.broken = True
        if not isinstance(error, Exception):
            raise error
        raise ConnectionLost(
            f"The connection to resource {self.name!r} was lost during {what}: {_text(error)}.",
            advice="Whether it took effect is found out.",
        ) from error

    def _unavailable(self, error: Exception) -> ResourceUnavailable:
        advice = {
            1040: "The server has no connection left: lower pool_size_max, or raise max_connections.",
            1044: "Check the database's name, and the account's rights on it.",
            1045: "Check user and password in the URL.",
            1049: "Check the database's name in the URL.",
            1698: "Check user and password in the URL.",
        }.get(error_code(error), "Check that the server runs and that host and port in the URL are right.")
        return ResourceUnavailable(
            f"The resource {self.name!r} ({self.address.safe_url}) cannot be reached: {_text(error)}.", advice=advice
        )


class SyncDriver(Driver):
    """PyMySQL: blocks the thread that calls."""

    def __init__(self, name: str, address: Address) -> None:
        super().__init__(name, address)
        from syncpoint.resources.mariadb_sync import BranchConnection, SyncConnection

        self._connection_class = SyncConnection
        self._branch_class = BranchConnection

    def connection(self, session: MariadbSession) -> Any:
        if session.handed is None:
            session.handed = self._branch_class.over(session.connection, session.identifier)
        return session.handed

    def is_connected(self, session: MariadbSession) -> bool:
        found = self.socket_of(session)
        if found is None:
            return False
        poll = select.poll()
        poll.register(found, select.POLLIN)
        return not poll.poll(0)  # nobody has anything to say on an idle connection

    def socket_of(self, session: MariadbSession) -> socket.socket | None:
        found: socket.socket | None = session.connection._sock
        return found

    def _open(self) -> MariadbSession:
        arguments = self.address.driver_arguments()
        if self.address.ssl_mode == "false" or ("ssl" not in arguments and self.address.is_local):
            # Unasked, PyMySQL reads every CA certificate for each connection: 50 ms and more, and nothing gained here.
            arguments["ssl_disabled"] = True
        session = None
        try:
            connection = self._connection_class(**arguments)
            session = MariadbSession(self.name, connection)
            session = self._begin_session(connection)
            return self._greeted(session, self._send(session, GREETING, "greeting"))
        except BaseException as error:
            if session is not None:
                self._close(session)
            if isinstance(error, Exception) and not isinstance(error, SetupRefused):
                raise self._unavailable(error) from error
            raise

    def _send(self, session: MariadbSession, sql: str, what: str) -> Replies:
        connection = session.connection
        done: list[Reply] = []
        session.inside = True
        try:
            left = connection._result
            if left is not None and left.unbuffered_active:
                left._finish_unbuffered_query()  # rows that the transaction's code did not want
            connection.query(sql)
            done.append(_reply(connection._result))
            while connection._result.has_next:
                connection.next_result()
                done.append(_reply(connection._result))
        except BaseException as error:
            return self._failed(session, error, done, what)
        finally:
            session.inside = False
        return Replies(tuple(done))

    def _close(self, session: MariadbSession) -> None:
        session.leaving = True
        with contextlib.suppress(Exception):
            if session.broken:
                session.connection._force_close()
            else:
                session.connection.close()


class AsyncDriver(Driver):
    """asyncmy: to be awaited on the event loop."""

    def __init__(self, name: str, address: Address) -> None:
        super().__init__(name, address)
        from syncpoint.resources.mariadb_async import AsyncConnection

        self._connection_class: Any = AsyncConnection

    def is_connected(self, session: MariadbSession) -> bool:
        return not session.connection._stream_broken

    def socket_of(self, session: MariadbSession) -> socket.socket | None:
        transport = session.connection._transport
        return None if transport is None else transport.get_extra_info("socket")

    async def _open(self) -> MariadbSession:
        connection: Any = self._connection_class(**self.address.driver_arguments())
        session = MariadbSession(self.name, connection)
        try:
            await connection.connect()
            session = self._begin_session(connection)
            return self._greeted(session, await self._send(session, GREETING, "greeting"))
        except BaseException as error:
            await self._close(session)
            if isinstance(error, Exception) and not isinstance(error, SetupRefused):
                raise self._unavailable(error) from error
            raise

    async def _send(self, session: MariadbSession, sql: str, what: str) -> Replies:
        connection = session.connection
        done: list[Reply] = []
        session.inside = True
        try:
            left = connection._result
            if left is not None and left.unbuffered_active:
                await left._finish_unbuffered_query()  # rows that the transaction's code did not want
            await connection.query(sql)
            done.append(_reply(connection._result))
            while connection._result.has_next:
                await connection.next_result()
                done.append(_reply(connection._result))
        except BaseException as error:
            return self._failed(session, error, done, what)
        finally:
            session.inside = False
        return Replies(tuple(done))

    async def _close(self, session: MariadbSession) -> None:
        session.leaving = True
        with contextlib.suppress(Exception):
            if session.broken:
                session.connection.close()
            else:
                await session.connection.ensure_closed()


def make_driver(mode: Mode, name: str, address: Address) -> Driver:
    """The half that fits the runner. Raises ConfigurationError when its package is missing."""
    try:
        return SyncDriver(name, address) if mode == "sync" else AsyncDriver(name, address)
    except ImportError as error:
        raise ConfigurationError(
            f"For mariadb:// the Python module {error.name} is missing.", advice="Run: pip install 'syncpoint[mariadb]'"
        ) from error


def read_version(text: str) -> tuple[int, int] | None:
    """(10, 11) of "5.5.5-10.11.19-MariaDB-…"; None when it is no MariaDB."""
    if "mariadb" not in text.lower():
        return None
    numbers = text.removeprefix("5.5.5-").partition("-")[0].split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (ValueError, IndexError):
        return None


def _text(error: BaseException) -> str:
    arguments = [str(argument) for argument in error.args]
    return (arguments[-1] if arguments and arguments[-1] else type(error).__name__).rstrip(".")
