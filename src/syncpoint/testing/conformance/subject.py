"""What the conformance suite must be told about a database: the author of an adapter writes one `Subject`.

    class TestMine(ResourceConformance):
        @pytest.fixture
        def subject(self, tmp_path):
            return SqlSubject(f"mine://{tmp_path}/a.db", observe=lambda: mydriver.connect(tmp_path / "a.db"))

What is not overridden raises `Unsupported`, and the checks that need it are skipped with its reason.
Not for: checking anything.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from syncpoint.resources.base import Mode, Resource
from syncpoint.resources.registry import make_resource
from syncpoint.system import SystemClock, SystemRandom

TABLE = "conformance_row"
ON_CONFLICT = "ON CONFLICT (k) DO UPDATE SET v = excluded.v"
ON_DUPLICATE_KEY = "ON DUPLICATE KEY UPDATE v = VALUES(v)"


class Unsupported(Exception):
    """The subject or its adapter cannot do this; the text says why. The check is skipped with it."""


class Subject:
    """A database behind an adapter. Keys are short lower-case names, values are whole numbers.

    Parameters: `url`, as a user would write it; `options`, as in a configuration table; `adapter`, the Resource
    subclass while it is not registered under the entry point group `syncpoint.resources`; `without`, what the adapter
    does not have, each with the reason: "async", "sync", "crash" (its data dies with its process), or a hook's name.
    """

    embedded = False
    """There is no server: what a process has open dies with it, and a restart is only the end of every connection."""
    unreachable_url = ""
    """A well-formed URL at which nobody answers."""

    bad_urls: Sequence[str] = ()
    """URLs of its scheme that mean nothing."""

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, str] | None = None,
        adapter: type[Resource] | None = None,
        without: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self.options = dict(options or {})
        self.adapter = adapter
        self.without = dict(without or {})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url.partition(':')[0]}>"

    def make(self, mode: Mode, url: str | None = None) -> Resource:
        """The resource, touching nothing. Raises ConfigurationError."""
        where = self.url if url is None else url
        if self.adapter is None:
            table = {"url": where, **self.options}
            return make_resource("subject", table, mode=mode, clock=SystemClock(), random=SystemRandom())
        return self.adapter("subject", where, self.options, mode=mode, clock=SystemClock(), random=SystemRandom())

    # --- rows: these must be written -------------------------------------------------------------------------

    def make_table(self) -> None:
        """Make what `put` writes to, if it is not there. Called before the adapter's first use."""

    def put(self, connection: Any, key: str, value: int) -> Any:
        """Set a row on the connection that a branch has. May return an awaitable."""
        raise NotImplementedError(f"{type(self).__name__}.put")

    def get(self, connection: Any, key: str) -> Any:
        """Read a row there: any value, or an awaitable of it. It must lock nothing."""
        raise NotImplementedError(f"{type(self).__name__}.get")

    def rows(self) -> dict[str, int]:
        """Every committed row, seen from outside: never through the adapter."""
        raise NotImplementedError(f"{type(self).__name__}.rows")

    # --- faults and surroundings: each may stay away --------------------------------------------------------

    def restart(self) -> None:
        """Restart the server, orderly or not; return when it answers again."""
        self._cannot("restart", "restart its server")

    def lose_reply(self, method: str) -> None:
        """The next request of the adapter's is done, and its reply lost with the connection. `method` is the script
        that is about to be run ("commit"), for who wants to know."""
        self._cannot("lose_reply", "lose a reply")

    def fail(self, connection: Any) -> Any:
        """Run a statement that the database refuses, such as a duplicate key; let its error pass."""
        self._cannot("fail", "make a statement fail")

    def end_behind(self, connection: Any) -> Any:
        """End the transaction on a branch's connection with its own language, for example the SQL text COMMIT."""
        self._cannot("end_behind", "end a branch behind the adapter's back")

    def leave_foreign(self) -> str:
        """Leave a prepared branch that is not Syncpoint's; returns the name that a scan shows."""
        self._cannot("leave_foreign", "leave a foreign prepared branch")

    def drop_foreign(self, name: str) -> bool:
        """Remove it again; returns whether it was still there."""
        self._cannot("drop_foreign", "remove a foreign prepared branch")

    def statement(self, key: str, value: int) -> Any:
        """For an adapter that can decide: what a journal would hand to `decide`, here one that inserts a new row, and
        is refused when there is one."""
        self._cannot("statement", "write a decision")

    def lend(self) -> Any:
        """A connection of the driver's own, in no transaction, for an adapter that can borrow."""
        self._cannot("lend", "lend a connection")

    def _cannot(self, hook: str, what: str) -> NoReturn:
        reason = self.without.get(hook) or f"{type(self).__name__}.{hook}() is not written: the subject cannot {what}"
        raise Unsupported(reason)


class SqlSubject(Subject):
    """A database that speaks SQL, seen from outside through any DB-API connection, or apsw's.

    Parameters, besides those of `Subject`: `observe` makes a new connection that is not the adapter's; `embedded`;
    `upsert`, the end of an INSERT that changes the row `v` of the key `k` when there is one.
    """

    def __init__(
        self,
        url: str,
        *,
        observe: Callable[[], Any],
        embedded: bool = False,
        options: Mapping[str, str] | None = None,
        adapter: type[Resource] | None = None,
        without: Mapping[str, str] | None = None,
        upsert: str = "",
    ) -> None:
        super().__init__(url, options=options, adapter=adapter, without=without)
        self.embedded = embedded
        self._upsert = upsert or (ON_DUPLICATE_KEY if url.startswith(("mariadb:", "mysql:")) else ON_CONFLICT)
        self._observe = observe

    def make_table(self) -> None:
        self._outside(f"CREATE TABLE IF NOT EXISTS {TABLE} (k VARCHAR(40) NOT NULL PRIMARY KEY, v BIGINT NOT NULL)")

    def put(self, connection: Any, key: str, value: int) -> Any:
        return execute(connection, f"INSERT INTO {TABLE} (k, v) VALUES ('{key}', {value}) {self._upsert}")

    def get(self, connection: Any, key: str) -> Any:
        return execute(connection, f"SELECT v FROM {TABLE} WHERE k = '{key}'")

    def rows(self) -> dict[str, int]:
        return {key: int(value) for key, value in self._outside(f"SELECT k, v FROM {TABLE}")}

    def fail(self, connection: Any) -> Any:
        return execute(connection, f"INSERT INTO {TABLE} (k, v) VALUES ('twice', 1), ('twice', 2)")

    def end_behind(self, connection: Any) -> Any:
        return execute(connection, "COMMIT")

    def statement(self, key: str, value: int) -> Any:
        return f"INSERT INTO {TABLE} (k, v) VALUES ('{key}', {value})"

    def restart(self) -> None:
        if not self.embedded:
            super().restart()

    def _outside(self, sql: str) -> Sequence[Any]:
        with contextlib.closing(self._observe()) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            rows = list(cursor.fetchall()) if sql.startswith("SELECT") else []
            if hasattr(connection, "commit"):
                connection.commit()
            return rows


def execute(connection: Any, *statements: str) -> Any:
    """Run statements on a driver's connection, one after the other; returns an awaitable where the driver's does."""
    made = connection.cursor()
    if hasattr(made, "__aenter__"):
        return _execute_async(made, statements)
    for statement in statements:
        made.execute(statement)
        _read(made, statement)
    return _end(made)


def _read(cursor: Any, statement: str) -> Any:
    return cursor.fetchall() if statement.startswith("SELECT") else None


def _end(cursor: Any) -> None:
    cursor.close()


async def _execute_async(made: Any, statements: Sequence[str]) -> None:
    async with made as cursor:
        for statement in statements:
            await cursor.execute(statement)
            if statement.startswith("SELECT"):
                rows = cursor.fetchall()
                if inspect.isawaitable(rows):
                    await rows
