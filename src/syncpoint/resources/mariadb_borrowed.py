"""Branches on a mysqlclient connection that somebody else has opened and keeps, such as Django's.

    MysqlclientDriver   sends the adapter's packets through it: another half beside mariadb_driver.py's two
    BranchConnection    what the transaction's code gets in its place: ending the branch is refused
    Borrowing           the part of the MariaDB resource that takes such a connection and gives it back

mysqlclient does not show what the server reports in its OK packets (mariadb_session.py), so every branch on such a
connection counts as one that wrote, which is safe: it leaves its evidence, and prepares. Its settings are kept in the
server's session when a branch begins and restored when it is given back.
Not for: statements or rules (mariadb.py, mariadb_sql.py), or connecting.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from syncpoint.errors import ConfigurationError, SetupRefused, TransactionEnded
from syncpoint.ids import Guid
from syncpoint.ports import Runtime
from syncpoint.resources import mariadb_sql as sql
from syncpoint.resources.base import Resource, Session
from syncpoint.resources.mariadb_driver import VERSION_MIN, Address, Driver, Replies, Reply, read_version
from syncpoint.resources.mariadb_session import Holder, MariadbSession
from syncpoint.steps import Script

COM_QUERY = 0x03
NOTHING_MORE = -1
MULTI_STATEMENTS = 1 << 16
_GUID = "SELECT guid FROM syncpoint.resource"


class BranchConnection:
    """A mysqlclient connection, for the time of one branch. What it does not know, it asks the real one.

    One for each branch, so that a reference kept after the branch has ended can touch nothing.
    """

    def __init__(self, session: MariadbSession, raw: Any, mutex: AbstractContextManager[Any]) -> None:
        self.session = session
        self.raw = raw
        """The real connection, whose owner goes on with it after the branch."""
        self.mutex = mutex
        """The C library's handle is one thread's at a time: a statement's, or its end's."""
        self.over = False

    def __repr__(self) -> str:
        return f"<BranchConnection of {self.session!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    # --- watched ---------------------------------------------------------------------------------------

    def query(self, query: Any) -> None:
        self._before(COM_QUERY)
        with self._watched():
            self.raw.query(query)

    def store_result(self) -> Any:
        with self._watched():
            return self.raw.store_result()

    def use_result(self) -> Any:
        with self._watched():
            return self.raw.use_result()

    def next_result(self) -> int:
        if self.over:  # a cursor that is closed late
            return NOTHING_MORE
        with self._watched():
            return int(self.raw.next_result())

    def cursor(self, cursorclass: Any = None) -> Any:
        return (cursorclass or self.raw.cursorclass)(self)

    def ping(self, reconnect: bool = False) -> None:
        if reconnect:
            self._refuse("ping(reconnect=True)")
        self._before(COM_QUERY)
        with self._watched():
            self.raw.ping()

    def _before(self, command: int) -> None:
        """Raises TransactionEnded."""
        if self.over:
            raise TransactionEnded(
                f"The transaction that this connection to {self.session.resource!r} belonged to has ended.",
                advice="Take the connection from its owner anew.",
            )
        self.session.before(command)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            with self.mutex:
                yield
        except BaseException as error:
            self.session.failed(error)
            raise

    # --- refused ---------------------------------------------------------------------------------------

    def _refuse(self, what: str) -> NoReturn:
        raise self.session.refusal(what)

    def commit(self) -> NoReturn:
        self._refuse("commit()")

    def rollback(self) -> NoReturn:
        self._refuse("rollback()")

    def begin(self) -> NoReturn:
        self._refuse("begin()")

    def autocommit(self, on: object) -> NoReturn:
        self._refuse("autocommit()")

    def change_user(self, *arguments: object, **named: object) -> NoReturn:
        self._refuse("change_user()")

    def kill(self, thread_id: object) -> NoReturn:
        self._refuse("kill()")

    def shutdown(self) -> NoReturn:
        self._refuse("shutdown()")

    def send_query(self, query: object) -> NoReturn:
        self._refuse("send_query()")

    def close(self) -> NoReturn:
        self._refuse("close()")

    def __enter__(self) -> NoReturn:
        self._refuse("with connection")

    def __exit__(self, *_: object) -> None:
        """Never entered."""


class MysqlclientDriver(Driver):
    """mysqlclient: blocks the thread that calls. It makes no connections."""

    def is_connected(self, session: MariadbSession) -> bool:
        try:
            descriptor = session.connection.raw.fileno()
        except Exception:  # closed
            return False
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return not poll.poll(0)  # nobody has anything to say on an idle connection

    def socket_of(self, session: MariadbSession) -> Any:
        return session.connection.raw  # has a `fileno`, which is all that is asked of it

    def _open(self) -> NoReturn:
        raise NotImplementedError("borrowed connections are opened by their owner")

    def _send(self, session: MariadbSession, sql: str, what: str) -> Replies:
        connection: BranchConnection = session.connection
        raw = connection.raw
        done: list[Reply] = []
        try:
            with connection.mutex:
                raw.query(sql.encode(raw.encoding))
                while True:
                    result = raw.store_result()
                    rows = () if result is None else tuple(result.fetch_row(0))
                    done.append(Reply(rows, 0 if result is not None else int(raw.affected_rows())))
                    if raw.next_result() == NOTHING_MORE:
                        break
        except BaseException as error:
            return self._failed(session, error, done, what)
        return Replies(tuple(done))

    def _close(self, session: MariadbSession) -> None:
        session.leaving = True
        connection: BranchConnection = session.connection
        connection.over = True
        if session.broken:
            # Another thread may still wait for a reply: wake it. The C library may be closed only when it has left.
            with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.raw.fileno())) as found:
                found.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Exception), connection.mutex:
            connection.raw.close()


class Borrowing(Resource):
    """The part of the MariaDB resource that works on others' connections; blocking ones."""

    address: Address

    def borrow(self, connection: Any, runtime: Runtime) -> Script[tuple[Session, Guid | None]]:
        _check(self, connection)
        session = MariadbSession(self.name, None)
        session.connection = BranchConnection(session, connection, runtime.mutex())
        session.driver = MysqlclientDriver(self.name, self.address)
        session.version = connection.get_server_info()
        found = read_version(session.version)
        if found is None or found < VERSION_MIN:
            raise SetupRefused(
                f"The server of resource {self.name!r} says that it is {session.version!r}; that is no MariaDB 10.6 "
                "or later.",
                advice="Use MariaDB 10.6 or later; MySQL's XA is not supported.",
            )
        replies: Replies = yield session.driver.send(session, f"{sql.GREETING}; {_GUID}", "greeting")
        if not replies.results:
            replies.check()
        connection_id, started, account = replies.results[0].rows[0]
        session.holder = Holder(int(started), int(connection_id), str(account))
        known = replies.results[1].rows if len(replies.results) > 1 else ()
        return session, Guid(bytes(known[0][0])) if known else None

    def give_back(self, session: Session) -> Script[None]:
        assert isinstance(session, MariadbSession)
        connection: BranchConnection = session.connection
        connection.over = True
        session.connection = BranchConnection(session, connection.raw, connection.mutex)
        try:
            replies: Replies = yield session.driver.send(session, sql.GIVE_BACK, "restore the connection's settings")
        except Exception:
            session.broken = True
            return
        session.broken = session.broken or replies.code != 0


def _check(resource: Resource, connection: Any) -> None:
    """Raises ConfigurationError for a connection that the packets above cannot go through."""
    if type(connection).__module__.partition(".")[0] != "MySQLdb":
        raise ConfigurationError(
            f"The connection lent for the resource {resource.name!r} is a {type(connection).__module__} connection, "
            "not one of mysqlclient.",
            advice="Run: pip install mysqlclient",
        )
    if not connection.client_flag & MULTI_STATEMENTS:
        raise ConfigurationError(
            f"The connection lent for the resource {resource.name!r} takes one statement at a time.",
            advice="Remove multi_statements=False from its options: Syncpoint sends several in one packet.",
        )
