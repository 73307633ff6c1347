"""Our own databases, as the conformance suite is told about them.

Not for: checks.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import psycopg

from syncpoint.resources.base import Resource
from syncpoint.resources.memory import LostReply, MemoryServer
from syncpoint.testing import SqlSubject, Subject, every_point
from syncpoint.testing.crash.story import Points
from syncpoint.testing.proxy import FaultProxy
from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.postgres import PostgresServer

_numbers = itertools.count(1)
CRASH_POINTS = 2
DIES = "it lives in the memory of its process: nothing is left when that dies"


def some_points() -> Points:
    """All in a full run of the crash suite (`make crash`); else so few that they cost little."""
    return every_point if os.environ.get("SYNCPOINT_CRASH") == "full" else every_point.sample(CRASH_POINTS)


class MemorySubject(Subject):
    """A server in this process's memory."""

    def __init__(
        self, name: str, *, adapter: type[Resource] | None = None, without: Mapping[str, str] | None = None
    ) -> None:
        self.bad_urls = ("memory:", "memory://", "memory://a/b")
        super().__init__(f"memory://{name}", adapter=adapter, without={"crash": DIES, **(without or {})})
        self.server = MemoryServer.named(name)

    def close(self) -> None:
        MemoryServer.remove(self.server.name)

    def put(self, connection: Any, key: str, value: int) -> Any:
        return connection.put(key, value)

    def get(self, connection: Any, key: str) -> Any:
        return connection.get(key)

    def rows(self) -> dict[str, int]:
        return {key: msgspec.json.decode(raw) for key, raw in self.server.rows().items()}

    def fail(self, connection: Any) -> Any:
        return connection.put("x", object())

    def restart(self) -> None:
        self.server.restart()

    def lose_reply(self, method: str) -> None:
        self.server.answers[method].append(LostReply())

    def leave_foreign(self) -> str:
        self.server.prepare_foreign("somebody's")
        return "somebody's"

    def drop_foreign(self, name: str) -> bool:
        there = name in self.server.foreign()
        self.server._foreign.clear()
        return there

    def statement(self, key: str, value: int) -> Callable[[], bool]:
        def write() -> bool:
            if key in self.server._rows:
                return False
            self.server._rows[key] = msgspec.json.encode(value)
            return True

        return write


class SqliteSubject(SqlSubject):
    """A file."""

    def __init__(self, path: Path, *, adapter: type[Resource] | None = None) -> None:
        super().__init__(
            f"sqlite:///{path}",
            observe=lambda: _observer(path),
            embedded=True,
            adapter=adapter,
            without={
                "lose_reply": "a file: there is no connection on which a reply could be lost",
                "leave_foreign": "a file has one branch in doubt at most: its note's",
            },
        )
        self.unreachable_url = "sqlite:////nowhere/at/all.db"
        self.bad_urls = ("sqlite:", "sqlite://", "sqlite:///:memory:")


def _observer(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    return connection


class PostgresSubject(SqlSubject):
    """A database of a private server, reached through a proxy that loses replies."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        name = f"conformance_{next(_numbers)}"
        self._direct = server.create_database(name)
        self.proxy = FaultProxy(self._direct)
        super().__init__(
            f"{self.proxy.url(self._direct)}?sslmode=disable", observe=lambda: psycopg.connect(self._direct)
        )
        self.unreachable_url = "postgresql://127.0.0.1:1/nowhere"
        self.bad_urls = ("postgresql://localhost:port/bank", "postgresql://localhost:70000/bank")

    def close(self) -> None:
        self.proxy.close()

    def restart(self) -> None:
        self._server.restart()

    def lose_reply(self, method: str) -> None:
        self.proxy.lose_reply()

    def leave_foreign(self) -> str:
        with psycopg.connect(self._direct, autocommit=True) as stranger:
            stranger.execute("BEGIN")
            stranger.execute("CREATE TABLE strange (n int)")
            stranger.execute("PREPARE TRANSACTION 'strange'")
        return "strange"

    def drop_foreign(self, name: str) -> bool:
        with psycopg.connect(self._direct, autocommit=True) as stranger:
            found = stranger.execute("SELECT 1 FROM pg_prepared_xacts WHERE gid = %s", (name,)).fetchall()
            for _ in found:
                stranger.execute(f"ROLLBACK PREPARED '{name}'")
        return bool(found)

    def lend(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self._direct, autocommit=True)


class MariadbSubject(SqlSubject):
    """A database of a private server, reached through a proxy that loses replies."""

    def __init__(self, server: MariadbServer) -> None:
        self._server = server
        name = f"conformance_{next(_numbers)}"
        direct = server.create_database(name)
        self.proxy = FaultProxy(direct)
        super().__init__(
            f"{self.proxy.url(direct)}?ssl=false",
            observe=lambda: server.connect(name),
            without={"lend": "MariaDB lends mysqlclient's connections; tests/django covers them"},
        )
        self.unreachable_url = "mariadb://app:app@127.0.0.1:1/nowhere"
        self.bad_urls = ("mariadb://localhost:port/bank",)

    def close(self) -> None:
        self.proxy.close()

    def restart(self) -> None:
        self._server.restart()

    def lose_reply(self, method: str) -> None:
        self.proxy.lose_reply()

    def leave_foreign(self) -> str:
        with closing(self._server.connect(self.url.partition("?")[0].rpartition("/")[2])) as stranger:
            cursor = stranger.cursor()
            write = "INSERT INTO conformance_row VALUES ('strange', 1)"
            for statement in ("XA START 'strange'", write, "XA END 'strange'", "XA PREPARE 'strange'"):
                cursor.execute(statement)
        return "strange"

    def drop_foreign(self, name: str) -> bool:
        found = [one for one in self._server.prepared() if name in one or name.encode().hex() in one.lower()]
        for one in found:
            self._server.execute(f"XA ROLLBACK {one}")
        return bool(found)
