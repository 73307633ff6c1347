"""How the PostgreSQL adapter talks to libpq: connect, send one packet of statements, read the replies.

The adapter's own statements skip psycopg's `execute` (it costs twice the CPU): several statements go as one
simple-query packet through `pgconn.send_query`, and psycopg's generators wait for the results, blocking or on the
event loop; that choice is all in which the two drivers differ. An error of the database is a value here
(`Reply.error`); a lost connection raises ConnectionLost. Not for: knowing what any statement means.
"""

from __future__ import annotations

import os
import re
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import error_from_result
from psycopg.generators import execute

from syncpoint.errors import ConfigurationError, ConnectionLost, ResourceUnavailable
from syncpoint.resources.base import Mode, Session
from syncpoint.resources.postgres_connection import AsyncBranchConnection, BranchConnection, Watch
from syncpoint.steps import Call

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

    from syncpoint.resources.postgres import Branch

IDLE = pq.TransactionStatus.IDLE
ACTIVE = pq.TransactionStatus.ACTIVE
INTRANS = pq.TransactionStatus.INTRANS
INERROR = pq.TransactionStatus.INERROR

LIBPQ_OPTIONS = frozenset(
    (
        "application_name",
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "dbname",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "gsslib",
        "host",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "krbsrvname",
        "load_balance_hosts",
        "max_protocol_version",
        "min_protocol_version",
        "options",
        "passfile",
        "password",
        "port",
        "require_auth",
        "requirepeer",
        "scram_client_key",
        "scram_server_key",
        "service",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcertmode",
        "sslcompression",
        "sslcrl",
        "sslcrldir",
        "sslkey",
        "sslkeylogfile",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "sslsni",
        "target_session_attrs",
        "tcp_user_timeout",
        "user",
    )
)
_NOT_LIBPQ = frozenset(("pool_size_max",))  # read by the manager's pool

CANCEL_S_MAX = 2.0
ANSWER_S_MAX = 10.0
"""How long an answer is waited for outside a transaction, where a pooler may keep us waiting for a server connection
without end: as long as for a connection (`connect_timeout`)."""

_DEFAULTS: Mapping[str, str] = {
    # A server that stopped answering is noticed (B4): a dead peer within 20 s, an unacknowledged packet too.
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",
    "fallback_application_name": "syncpoint",
}


class PostgresSession(Session):
    """One psycopg connection, and the branch on it."""

    __slots__ = ("base", "branch", "pgconn", "tainted", "waited_for")

    def __init__(self, base: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
        super().__init__()
        self.base = base
        self.pgconn: PGconn = base.pgconn
        self.branch: Branch | None = None
        self.tainted = False
        """A branch on it changed the session's own settings: it is not used for another."""
        self.waited_for: psycopg.Error | None = None
        """The error of the last lock wait that failed."""

    @property
    def status(self) -> pq.TransactionStatus:
        """The transaction's status as the last reply told it; no round trip."""
        return pq.TransactionStatus(self.pgconn.transaction_status)

    @property
    def lost(self) -> bool:
        return self.pgconn.status == pq.ConnStatus.BAD


class Reply:
    """What one packet of statements returned: results in order, up to the first error."""

    __slots__ = ("_results", "error")

    def __init__(self, results: list[PGresult], error: psycopg.Error | None) -> None:
        self._results = results
        self.error = error

    def check(self) -> None:
        """Raises the server's error, if there is one."""
        if self.error is not None:
            raise self.error

    @property
    def code(self) -> str:
        """The error's SQLSTATE; empty when there was none."""
        return (self.error.sqlstate or "") if self.error is not None else ""

    @property
    def tag(self) -> bytes:
        """The command tag of the last statement; empty after an error."""
        return (self._results[-1].command_status or b"") if self.error is None and self._results else b""

    def rows(self, statement: int) -> list[tuple[str | None, ...]]:
        """The rows of one statement of the packet, counted from 0 (-1: the last), as text. Empty if it failed."""
        if not -len(self._results) <= statement < len(self._results):
            return []
        result = self._results[statement]
        return [
            tuple(_text(result.get_value(row, column)) for column in range(result.nfields))
            for row in range(result.ntuples)
        ]

    def __repr__(self) -> str:
        tags = [(result.command_status or b"").decode() for result in self._results]
        return f"<Reply {tags} {self.code}>"


def _text(value: bytes | memoryview | bytearray | None) -> str | None:
    return None if value is None else bytes(value).decode(errors="replace")


def _read(session: PostgresSession, results: list[PGresult], what: str) -> Reply:
    """Sort results into answers and the error that ended them. Raises ConnectionLost when it ends the session."""
    good: list[PGresult] = []
    error: psycopg.Error | None = None
    for result in results:
        if result.status != pq.ExecStatus.FATAL_ERROR:
            good.append(result)
            continue
        error = error_from_result(result)
        severity = result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        if severity in (b"FATAL", b"PANIC"):
            raise _lost(session, what, error) from error
    if session.lost:
        raise _lost(session, what, error) from error
    return Reply(good, error)


def _lost(session: PostgresSession, what: str, error: BaseException | None) -> ConnectionLost:
    session.broken = True
    why = " ".join(str(error).split()) if error is not None else "the server closed it"
    return ConnectionLost(f"The connection was lost during {what}: {why}.")


def _no_longer_than(seconds: float, results: Any, error: Callable[[], Exception]) -> Any:
    """psycopg's generator, with an end: psycopg wakes it ten times a second, with nothing if nothing has come."""
    until = time.monotonic() + seconds
    try:
        wants = next(results)
        while True:
            came = yield wants
            if not came and time.monotonic() > until:
                raise error()
            wants = results.send(came)
    except StopIteration as end:
        return end.value


class Driver(ABC):
    """What the adapter needs of a driver; both halves are below."""

    def __init__(self, name: str, address: Address) -> None:
        self.name = name
        self.address = address

    def open(self) -> Call:
        """Connect; the result is a PostgresSession. Raises ResourceUnavailable."""
        return Call(self._open, "connect")

    def query(self, session: PostgresSession, sql: str, what: str) -> Call:
        """Send statements as one packet; the result is a Reply. Raises ConnectionLost."""
        return Call(partial(self._query, session, sql, what), what)

    def ask(self, session: PostgresSession, sql: str, what: str, seconds_max: float = ANSWER_S_MAX) -> Call:
        """The same for a packet outside any transaction, with an end to the waiting: raises ResourceUnavailable after
        `seconds_max`, and the session is broken. The server may still do what it was sent."""
        return Call(partial(self._query, session, sql, what, seconds_max), what)

    def cancel(self, session: PostgresSession) -> Call:
        """Ask the server to stop what this connection is doing. Raises psycopg.Error."""
        return Call(partial(session.base.cancel_safe, timeout=CANCEL_S_MAX), "cancel")

    @abstractmethod
    def connection(self, session: PostgresSession, watch: Watch) -> Any:
        """A connection object for one branch."""

    @abstractmethod
    def _open(self) -> Any: ...

    @abstractmethod
    def _query(self, session: PostgresSession, sql: str, what: str, seconds_max: float | None = None) -> Any: ...

    def _packet(self, session: PostgresSession, sql: str, what: str, seconds_max: float | None) -> Any:
        """Send statements; returns the generator that waits for the results."""
        encoding = "utf-8" if sql.isascii() else session.base.info.encoding
        session.pgconn.send_query(sql.encode(encoding))
        results = execute(session.pgconn)
        if seconds_max is None:
            return results
        return _no_longer_than(seconds_max, results, lambda: self._unanswered(what, seconds_max))

    def _unanswered(self, what: str, seconds: float) -> ResourceUnavailable:
        return ResourceUnavailable(
            f"The resource {self.name!r} ({self.address.safe_url}) did not answer {what} within {seconds:g} s.",
            advice="Is the server up, and if a pooler is in between: are all its server connections in use? See "
            "docs/databases.md, Behind PgBouncer.",
        )


class SyncDriver(Driver):
    """Blocks the thread that calls."""

    def _open(self) -> PostgresSession:
        try:
            base = psycopg.Connection[Any].connect(self.address.conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            raise unavailable(self.name, self.address, error) from error
        return PostgresSession(base)

    def _query(self, session: PostgresSession, sql: str, what: str, seconds_max: float | None = None) -> Reply:
        base = session.base
        assert isinstance(base, psycopg.Connection)
        try:
            with base.lock:
                return _read(session, base.wait(self._packet(session, sql, what, seconds_max)), what)
        except psycopg.OperationalError as error:
            raise _lost(session, what, error) from error
        except BaseException:
            session.broken = True  # interrupted: what it did is unknown
            raise

    def connection(self, session: PostgresSession, watch: Watch) -> BranchConnection:
        assert isinstance(session.base, psycopg.Connection)
        return BranchConnection.over(session.base, watch)


class AsyncDriver(Driver):
    """Waits on the event loop."""

    async def _open(self) -> PostgresSession:
        try:
            base = await psycopg.AsyncConnection[Any].connect(
                self.address.conninfo, autocommit=True, prepare_threshold=None
            )
        except psycopg.Error as error:
            raise unavailable(self.name, self.address, error) from error
        return PostgresSession(base)

    async def _query(self, session: PostgresSession, sql: str, what: str, seconds_max: float | None = None) -> Reply:
        base = session.base
        assert isinstance(base, psycopg.AsyncConnection)
        try:
            async with base.lock:
                return _read(session, await base.wait(self._packet(session, sql, what, seconds_max)), what)
        except psycopg.OperationalError as error:
            raise _lost(session, what, error) from error
        except BaseException:
            session.broken = True  # cancelled: what it did is unknown
            raise

    def connection(self, session: PostgresSession, watch: Watch) -> AsyncBranchConnection:
        assert isinstance(session.base, psycopg.AsyncConnection)
        return AsyncBranchConnection.over(session.base, watch)


def make_driver(mode: Mode, name: str, address: Address) -> Driver:
    """The driver that fits the runner."""
    return SyncDriver(name, address) if mode == "sync" else AsyncDriver(name, address)


def abandon(pgconn: PGconn) -> None:
    """In a forked child: point the socket at nothing, then free the memory. The parent's connection never notices."""
    try:
        with open(os.devnull, "r+b") as nothing:
            os.dup2(nothing.fileno(), pgconn.socket)
    except (OSError, psycopg.Error):
        return  # closed already: there is nothing to write to
    pgconn.finish()


def has_news(pgconn: PGconn) -> bool:
    """Whether an idle connection is not idle, or has something to read, which is mostly the server's farewell."""
    if pgconn.status != pq.ConnStatus.OK or pgconn.transaction_status != IDLE:
        return True
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


# --- addresses -------------------------------------------------------------------------------------------------


class Address:
    """Where the database is, from a URL and options, both in libpq's words."""

    __slots__ = ("_parts", "conninfo")

    def __init__(self, name: str, url: str, options: Mapping[str, str]) -> None:
        """Raises ConfigurationError; no message shows the URL, which may hold a password."""
        place, parameters = _split(url)
        kept = [part for part in parameters if part.partition("=")[0] not in _NOT_LIBPQ]
        unknown = [key for part in kept if (key := part.partition("=")[0]) not in LIBPQ_OPTIONS]
        unknown += [key for key in options if key not in LIBPQ_OPTIONS | _NOT_LIBPQ]
        if unknown:
            raise ConfigurationError(
                f"The URL of the resource {name!r} has an unknown option {unknown[0]!r}.",
                advice="Options are those of libpq, for example ?sslmode=require&connect_timeout=5, and pool_size_max.",
            )
        plain = f"postgresql://{place}?{'&'.join(kept)}"
        given = {key: value for key, value in options.items() if key not in _NOT_LIBPQ}
        try:
            self._parts = conninfo_to_dict(plain, **given)
            self.conninfo = make_conninfo("", **{**_DEFAULTS, **self._parts})
        except (psycopg.Error, UnicodeError):  # whose text may hold the password
            raise ConfigurationError(
                f"The URL of the resource {name!r} cannot be read.",
                advice="Write postgresql://user:password@host:port/database; escape special characters as %40.",
            ) from None
        ports = [one for one in str(self._parts.get("port") or "").split(",") if one]  # several hosts, several ports
        if not all(one.isascii() and one.isdigit() and 0 < int(one) < 65536 for one in ports):
            raise ConfigurationError(
                f"The URL of the resource {name!r} has a port that is no number from 1 to 65535.",
                advice="Write postgresql://user:password@host:5432/database; escape special characters as %40.",
            )

    @property
    def safe_url(self) -> str:
        """The URL without its password and options."""
        user = self._parts.get("user")
        host = str(self._parts.get("host") or self._parts.get("hostaddr") or "")
        host = f"[{host}]" if ":" in host else host.replace("/", "%2F")
        port = f":{self._parts['port']}" if self._parts.get("port") else ""
        return f"postgresql://{f'{user}@' if user else ''}{host}{port}/{self._parts.get('dbname') or ''}"


def _split(url: str) -> tuple[str, list[str]]:
    """What stands before the parameters, without the scheme, and the parameters. A password may hold a `?` or `#`."""
    rest = url.partition("://")[2]
    user = re.match(r"[^@/]*@", rest)
    start = user.end() if user else 0
    place, _, parameters = rest[start:].partition("?")
    return rest[:start] + place, [part for part in parameters.split("&") if part]


_ADVICE = (
    ("password authentication failed", "Check the user and the password in its URL, or in ~/.pgpass."),
    ("no password supplied", "Put the password into its URL, or into ~/.pgpass."),
    ("pg_hba.conf", "Allow this user and address in the server's pg_hba.conf."),
    ('database "', "Create the database, or correct its name in the URL."),
    ('role "', "Create the role, or correct the user in the URL."),
    ("too many clients", "Raise the server's max_connections, or lower pool_size_max."),
    ("remaining connection slots", "Raise the server's max_connections, or lower pool_size_max."),
    ("onnection refused", "Start the server, or correct host and port in the URL."),
    ("timeout expired", "Is the host right, and does a firewall let the port through?"),
    ("starting up", "Try again in a moment."),
    ("shutting down", "Try again when the server is up."),
    ("resolve", "Correct the host in the URL."),
    (
        "unsupported startup parameter",
        "The pooler in between takes no such option. Set it with ALTER ROLE or ALTER DATABASE, and not in the URL.",
    ),
    ("no such user", "Make the pooler know this user: its auth_file, or auth_query."),
    ("no such database", "Make the pooler know this database: its section [databases]."),
    ("server login", "Is the server behind the pooler up? The pooler tries again after its server_login_retry."),
    ("SSL", "Set sslmode in the URL to what the server offers."),
)


def unavailable(name: str, address: Address, error: psycopg.Error) -> ResourceUnavailable:
    """The error of a connection that could not be made, in one paragraph."""
    why = " ".join(str(error).split()).rstrip(".")
    end = "" if why.endswith("?") else "."  # libpq asks: is the server running there?
    advice = next((advice for text, advice in _ADVICE if text in why), "Is the server up, and is the URL right?")
    what = f"Cannot connect to the resource {name!r} ({address.safe_url})"
    return ResourceUnavailable(f"{what}: {why}{end}", advice=advice)


def quoted(name: str) -> str:
    """An identifier as SQL text."""
    return '"' + name.replace('"', '""') + '"'


def hexadecimal(raw: bytes) -> str:
    """Bytes as SQL text, whatever standard_conforming_strings says."""
    return f"pg_catalog.decode('{raw.hex()}', 'hex')"
