"""The demonstrations' bank: its tables, one transfer, and the audit that reads the databases from outside.

Money moves between accounts in different databases; each transfer leaves a row with its id in every one of them. The
audit uses plain connections of its own, never Syncpoint. Not for: processes and faults (chaos.py, worker.py).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import apsw
import psycopg
import pymysql

from syncpoint.ids import GID_PREFIX, XA_FORMAT_ID, Identifier

T = TypeVar("T")
Execute: TypeAlias = Callable[[str], list[Any]]
"""SQL to rows, on a plain connection."""
ENTRY_SUFFIX = ".txt"
FOLDERS = 50
ACCOUNTS = 200
BALANCE = 1000
TABLES = (
    "CREATE TABLE account (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL)",
    # Not unique by id: a transfer applied twice must show.
    "CREATE TABLE transfer (id VARCHAR(40), attempt VARCHAR(40), delta BIGINT, PRIMARY KEY (id, attempt))",
    "INSERT INTO account VALUES " + ", ".join(f"({number}, {BALANCE})" for number in range(ACCOUNTS)),
)


@dataclass(frozen=True)
class Bank:
    """The databases of one demonstration, name to URL; `kinds` says which is which."""

    urls: Mapping[str, str]

    def kind(self, name: str) -> str:
        return self.urls[name].split(":", 1)[0]

    @property
    def databases(self) -> list[str]:
        """Those with tables; a directory of files has none."""
        return [name for name in self.urls if self.kind(name) != "files"]

    def make_tables(self) -> None:
        for name in self.databases:
            with self.observe(name) as execute:
                if self.kind(name) == "sqlite":
                    execute("PRAGMA journal_mode = WAL")  # readers do not wait for writers
                for statement in TABLES:
                    execute(statement)

    @contextmanager
    def observe(self, name: str) -> Iterator[Execute]:
        """A plain connection of one's own, as a function from SQL to rows."""
        url = self.urls[name]
        kind = self.kind(name)
        if kind == "postgresql":
            with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                yield lambda sql: _rows(connection.execute(sql.encode()))
        elif kind == "mariadb":
            with closing(connect_mariadb(url)) as mariadb, mariadb.cursor() as cursor:
                yield lambda sql: (cursor.execute(sql), list(cursor.fetchall()))[1]
        else:
            with closing(apsw.Connection(url.removeprefix("sqlite:///"))) as sqlite:
                sqlite.set_busy_timeout(5000)
                yield lambda sql: sqlite.execute(sql).fetchall()

    def total(self) -> int:
        total = 0
        for name in self.databases:
            with self.observe(name) as execute:
                total += int(execute("SELECT sum(balance) FROM account")[0][0])
        return total

    def entries(self, name: str) -> list[tuple[str, str]]:
        """(transfer, attempt) of every row; in a directory of files, of every file, by its name."""
        if self.kind(name) == "files":
            files = Path(self.urls[name].removeprefix("files://")).glob(f"*/*{ENTRY_SUFFIX}")
            return [_split_entry(file.name) for file in files]
        with self.observe(name) as execute:
            return [(str(transfer), str(attempt)) for transfer, attempt in execute("SELECT id, attempt FROM transfer")]

    def prepared(self, name: str, execute: Execute) -> list[Identifier]:
        """Branches of Syncpoint's that are prepared in one database now, read from the database itself."""
        kind = self.kind(name)
        if kind == "postgresql":
            rows = execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
            return [Identifier.from_gid(gid) for (gid,) in rows if gid.startswith(GID_PREFIX)]
        if kind == "mariadb":
            return [_from_xa_row(*row) for row in execute("XA RECOVER") if row[0] == XA_FORMAT_ID]
        return []

    def committed(self, branch: Identifier, execute: Execute) -> bool:
        """Whether this try's row is visible in a database: then the transaction is decided."""
        return bool(execute(f"SELECT 1 FROM transfer WHERE attempt = '{branch.attempt}' LIMIT 1"))


class Eyes:
    """Plain connections that stay open, for looking often; opened again after an error. For one thread."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.names = [name for name in bank.urls if bank.kind(name) in ("postgresql", "mariadb")]
        """The databases that show what is prepared."""
        self._open: dict[str, tuple[ExitStack, Execute]] = {}

    def prepared(self, name: str) -> list[Identifier]:
        return self._look(name, lambda execute: self.bank.prepared(name, execute))

    def committed(self, name: str, branch: Identifier) -> bool:
        return self._look(name, lambda execute: self.bank.committed(branch, execute))

    def _look(self, name: str, look: Callable[[Execute], T]) -> T:
        if name not in self._open:
            stack = ExitStack()
            self._open[name] = stack, stack.enter_context(self.bank.observe(name))
        stack, execute = self._open[name]
        try:
            return look(execute)
        except BaseException:
            del self._open[name]
            with suppress(Exception):
                stack.close()
            raise

    def close(self) -> None:
        while self._open:
            _, (stack, _) = self._open.popitem()
            with suppress(Exception):
                stack.close()


def connect_mariadb(url: str) -> Any:
    """A plain PyMySQL connection, autocommit on."""
    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path.lstrip("/"),
        autocommit=True,
        connect_timeout=5,
        read_timeout=10,
        charset="latin1",  # XA RECOVER returns bytes as text
    )


def _rows(cursor: psycopg.Cursor[Any]) -> list[Any]:
    return cursor.fetchall() if cursor.description else []


def _from_xa_row(format_id: int, gtrid_length: int, bqual_length: int, data: str | bytes) -> Identifier:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return Identifier.from_xid(format_id, raw[:gtrid_length], raw[gtrid_length : gtrid_length + bqual_length])


# --- one transfer ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """One transfer: `amount` from an account in one database to an account in another."""

    source: str
    target: str
    account: int
    other: int
    amount: int

    def delta(self, name: str) -> int:
        return self.amount * ((name == self.target) - (name == self.source))

    def place(self, name: str) -> int:
        return self.account if name == self.source else self.other


def carry_out(tx: Any, order: Order, transfer: str, names: list[str]) -> str:
    """The user's own code: plain SQL on the drivers' own connections. SQLite comes last: it has one writer."""
    for name in names:
        connection = tx.connect(name)
        mark = "?" if isinstance(connection, apsw.Connection) else "%s"
        enter(connection, mark, transfer, str(tx.attempt), order.delta(name), order.place(name))
    return transfer


def enter(connection: Any, mark: str, transfer: str, attempt: str, delta: int, account: int) -> None:
    """Change one balance and leave the transfer's row, in one database; `mark` stands for a value in its SQL."""
    statements = (
        ("UPDATE account SET balance = balance + {0} WHERE id = {0}", (delta, account)),
        ("INSERT INTO transfer VALUES ({0}, {0}, {0})", (transfer, attempt, delta)),
    )
    if hasattr(connection, "execute"):
        for sql, values in statements:
            connection.execute(sql.format(mark), values)
    else:
        with connection.cursor() as cursor:
            for sql, values in statements:
                cursor.execute(sql.format(mark), values)


def entry_name(transfer: str, attempt: str) -> str:
    """The name of a transfer's file in a directory of files; with the attempt, so that a second application shows."""
    return f"{zlib.crc32(transfer.encode()) % FOLDERS}/{transfer},{attempt}{ENTRY_SUFFIX}"


def _split_entry(name: str) -> tuple[str, str]:
    transfer, _, attempt = name.removesuffix(ENTRY_SUFFIX).partition(",")
    return transfer, attempt


# --- the audit --------------------------------------------------------------------------------------------------------


@dataclass
class Audit:
    """What is in the databases, against what clients were told."""

    committed: int = 0
    torn: int = 0
    lost: int = 0
    duplicated: int = 0
    in_doubt: int = 0
    tries: set[tuple[str, str]] = field(default_factory=set)
    """(transfer, attempt) of every row."""


def audit(bank: Bank, told: Mapping[str, str]) -> Audit:
    """Count from outside. `told` maps a transfer's id to "committed" or "aborted", as the clients' logs have it."""
    in_doubt = 0
    seen: dict[str, Counter[str]] = {}
    tries: set[tuple[str, str]] = set()
    for name in bank.urls:
        entries = bank.entries(name)
        tries.update(entries)
        seen[name] = Counter(transfer for transfer, _ in entries)
    for name in bank.databases:
        with bank.observe(name) as execute:
            in_doubt += len(bank.prepared(name, execute))
    everywhere = set.intersection(*(set(ids) for ids in seen.values()))
    anywhere = set.union(*(set(ids) for ids in seen.values()))
    refused = {transfer for transfer, word in told.items() if word == "aborted"}
    acknowledged = {transfer for transfer, word in told.items() if word == "committed"}
    return Audit(
        committed=len(everywhere),
        torn=len(anywhere - everywhere) + len(refused & anywhere),
        lost=len(acknowledged - everywhere),
        duplicated=len({transfer for ids in seen.values() for transfer, count in ids.items() if count > 1}),
        in_doubt=in_doubt,
        tries=tries,
    )
