"""What users hold of a branch at a resource manager's process: a small connection for SQL, or their work's methods.

    tx.connect("audit").execute("INSERT INTO entry VALUES (?, ?)", (1, "paid"))
    tx.connect("docs").write("one.txt", b"...")

Under asyncio each of these is awaited. A statement's rows have all arrived when `execute` returns, so reading them from
the cursor waits for nothing. Not for: how questions travel (process.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from syncpoint.errors import NotAllowed
from syncpoint.resources.process_messages import Execute, Invoke, Rows, Value
from syncpoint.steps import Script

__all__ = ["AsyncCursor", "ProcessConnection", "ProcessCursor", "ProcessWork"]

Run = Callable[[Script[Any]], Any]
"""Blocks and returns the result, or returns an awaitable of it."""
Put = Callable[[Callable[[bytes, int], Any]], Script[Any]]
"""Put a question on the branch: it is made of the session's id and the question's number. Returns the answer."""
Parameters = Sequence[Any] | Mapping[str, Any] | None


class ProcessConnection:
    """A connection to a database behind a process."""

    __slots__ = ("_mode", "_name", "_put", "_run")

    def __init__(self, name: str, mode: str, run: Run, put: Put) -> None:
        self._name = name
        self._mode = mode
        self._run = run
        self._put = put

    def __repr__(self) -> str:
        return f"<ProcessConnection {self._name}>"

    def cursor(self) -> ProcessCursor:
        """A new cursor; under asyncio its `execute` and `executemany` are awaited."""
        return ProcessCursor(self) if self._mode == "sync" else AsyncCursor(self)

    def execute(self, sql: str, parameters: Parameters = None) -> Any:
        """Run a statement; returns the cursor with its rows. Raises RemoteError with the driver's own words."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> Any:
        """Run a statement once for each of `parameters`, in one round trip."""
        return self.cursor().executemany(sql, parameters)

    def commit(self) -> NoReturn:
        """Refused: the transaction's end commits."""
        self._refuse("commit")

    def rollback(self) -> NoReturn:
        """Refused: raise an exception in the transaction's block to abort it."""
        self._refuse("rollback")

    def close(self) -> NoReturn:
        """Refused: the connection goes back when the transaction ends."""
        self._refuse("close")

    def _refuse(self, what: str) -> NoReturn:
        raise NotAllowed(
            f"{what}() on the connection to {self._name!r} would end the branch behind the manager's back.",
            advice="Leave the transaction's block instead: normally to commit, with an exception to abort.",
        )

    def ask(self, sql: str, parameters: Any, *, many: bool, take: Callable[[Rows], Any]) -> Any:
        """For its cursors."""

        def script() -> Script[Any]:
            rows = yield from self._put(
                lambda session, number: Execute(
                    session=session, number=number, sql=sql, parameters=parameters, many=many
                )
            )
            return take(rows)

        return self._run(script())


class ProcessCursor:
    """A cursor as PEP 249 describes it, in short."""

    arraysize = 1

    def __init__(self, connection: ProcessConnection) -> None:
        self.connection = connection
        self.description: tuple[tuple[Any, ...], ...] | None = None
        """Seven values for each column, the name first; None when the statement returns no rows."""
        self.rowcount = -1
        """How many rows a statement changed; -1: it is not known."""
        self._rows: Iterator[tuple[Any, ...]] = iter(())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.connection!r}>"

    def execute(self, sql: str, parameters: Parameters = None) -> Any:
        """See `ProcessConnection.execute`."""
        given = dict(parameters) if isinstance(parameters, Mapping) else parameters and list(parameters)
        return self.connection.ask(sql, given, many=False, take=self._take)

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> Any:
        """See `ProcessConnection.executemany`; `rowcount` is the sum."""
        given = [dict(one) if isinstance(one, Mapping) else list(one or ()) for one in parameters]
        return self.connection.ask(sql, given, many=True, take=self._take)

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, or None."""
        return next(self._rows, None)

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """The next rows, at most `size`."""
        wanted = self.arraysize if size is None else size
        return [row for row, _ in zip(self._rows, range(wanted), strict=False)] if wanted > 0 else []

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that are left."""
        return list(self._rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows

    def close(self) -> None:
        """Forget what is left."""
        self._rows = iter(())

    def _take(self, rows: Rows) -> ProcessCursor:
        self.description = tuple((name, None, None, None, None, None, None) for name in rows.columns) or None
        self.rowcount = rows.changed
        self._rows = iter([tuple(row) for row in rows.rows])
        return self


class AsyncCursor(ProcessCursor):
    """The same under asyncio: `async with connection.cursor() as cursor: await cursor.execute(…)`."""

    async def __aenter__(self) -> AsyncCursor:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class ProcessWork:
    """The methods of the work's object in the process. Arguments and results are what MessagePack has: numbers, text,
    bytes, lists and mappings of such."""

    __slots__ = ("_name", "_put", "_run")

    def __init__(self, name: str, run: Run, put: Put) -> None:
        self._name = name
        self._run = run
        self._put = put

    def __repr__(self) -> str:
        return f"<work at {self._name}, in its process>"

    def __getattr__(self, attribute: str) -> Callable[..., Any]:
        if attribute.startswith("_"):
            raise AttributeError(f"{attribute} is not for users of the resource {self._name!r}")

        def call(*arguments: Any, **named: Any) -> Any:
            return self._run(self._invoke(attribute, arguments, named))

        call.__name__ = attribute
        return call

    def _invoke(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Script[Any]:
        said: Value = yield from self._put(
            lambda session, number: Invoke(
                session=session, number=number, method=method, arguments=arguments, named=named
            )
        )
        return said.value
