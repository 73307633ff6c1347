"""The world that faults are tried in: one bank over PostgreSQL, MariaDB and SQLite, and how it is audited.

Every transfer leaves one row with its id in each database it touches. The audit reads all three with plain
connections of its own, never through Syncpoint: it counts what is there (R7). Not for: faults (harness.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw
import psycopg

from syncpoint.ids import GID_PREFIX, XA_FORMAT_ID
from syncpoint.resources.sqlite_note import NOTE_SUFFIX
from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.crash import journals

BANK, LEDGER, AUDIT = "bank", "ledger", "audit"
ALL = (BANK, LEDGER, AUDIT)
_numbers = itertools.count(1)

TABLES = (
    "CREATE TABLE account (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL)",
    "INSERT INTO account VALUES (1, 1000000), (2, 1000000)",
    "CREATE TABLE transfer (id VARCHAR(80) NOT NULL, amount BIGINT, number INTEGER, PRIMARY KEY (id, number))",
)


@dataclass(frozen=True)
class World:
    """Three databases, a journal, and the servers behind them. Plain data: a child process can be given it."""

    bank_url: str
    ledger_url: str
    audit_path: str
    journal: str
    apart_url: str
    """A database that takes no part: it may hold the journal."""
    kind: str = journals.FOLDER
    """Where the journal is."""
    postgres: PostgresServer | None = field(default=None, compare=False, repr=False)
    mariadb: MariadbServer | None = field(default=None, compare=False, repr=False)
    strangers: list[str] = field(default_factory=list, compare=False, repr=False)
    """Branches that other tests had left in the same servers before this world was made."""

    @classmethod
    def make(cls, postgres: PostgresServer, mariadb: MariadbServer, folder: Path) -> World:
        """Fresh databases and a fresh folder."""
        name = f"crash_{next(_numbers)}"
        world = cls(
            bank_url=postgres.create_database(name),
            ledger_url=mariadb.create_database(name),
            audit_path=str(folder / f"{name}.db"),
            journal=str(folder / f"{name}-journal"),
            apart_url=postgres.create_database(f"{name}_apart"),
            postgres=postgres,
            mariadb=mariadb,
        )
        world._make_tables()
        world.strangers.extend(world.in_doubt())
        return world

    def again(self, folder: Path, kind: str = journals.FOLDER) -> World:
        """The same servers' databases, with a fresh SQLite file and a fresh journal: cheap, one for every fault."""
        name = f"again_{next(_numbers)}"
        world = replace(
            self,
            audit_path=str(folder / f"{name}.db"),
            journal=journals.option_of(kind, folder=str(folder / f"{name}-journal"), apart_url=self.apart_url),
            kind=kind,
        )
        journals.empty(world)
        with closing(apsw.Connection(world.audit_path)) as audit:
            for statement in TABLES:
                audit.execute(statement)
        return world

    def resources(self, names: Iterable[str] = ALL) -> dict[str, str]:
        urls = {BANK: self.bank_url, LEDGER: self.ledger_url, AUDIT: f"sqlite:///{self.audit_path}"}
        return {name: urls[name] for name in names}

    @property
    def decider(self) -> str:
        """The resource whose branch's commit is the decision; empty when the journal is elsewhere."""
        return self.kind if self.kind in journals.DECIDERS else ""

    def journal_over(self, names: Iterable[str]) -> str:
        """The journal for a manager that has these resources: by URL when its own is not among them."""
        if not self.decider or self.decider in names:
            return self.journal
        url = self.resources()[self.decider]
        return f"{url}{'&' if '?' in url else '?'}{journals.CALM}"

    def _make_tables(self) -> None:
        with self.bank() as bank:
            for statement in TABLES:
                bank.execute(statement)
        with closing(self.ledger()) as ledger, ledger.cursor() as cursor:
            for statement in TABLES:
                cursor.execute(statement)
        with closing(apsw.Connection(self.audit_path)) as audit:
            for statement in TABLES:
                audit.execute(statement)

    # --- looking from outside ---------------------------------------------------------------------------

    def bank(self) -> psycopg.Connection[tuple[Any, ...]]:
        assert self.postgres is not None
        return psycopg.connect(self.bank_url, autocommit=True)

    def ledger(self) -> Any:
        assert self.mariadb is not None
        connection = self.mariadb.connect(self.ledger_url.rsplit("/", 1)[1])
        connection.autocommit(True)
        return connection

    def rows(self, transfer: str) -> dict[str, int]:
        """How many rows each database has of a transfer."""
        query = "SELECT count(*) FROM transfer WHERE id = "
        with self.bank() as bank:
            counted = {BANK: bank.execute(query + "%s", (transfer,)).fetchall()[0][0]}
        with closing(self.ledger()) as ledger, ledger.cursor() as cursor:
            cursor.execute(query + "%s", (transfer,))
            counted[LEDGER] = cursor.fetchone()[0]
        counted[AUDIT] = self.audit_rows(transfer)
        return counted

    def audit_rows(self, transfer: str) -> int:
        """How many rows the SQLite file has of a transfer."""
        with closing(apsw.Connection(self.audit_path)) as audit:
            (row,) = audit.execute("SELECT count(*) FROM transfer WHERE id = ?", (transfer,)).fetchall()
            return int(row[0])

    def in_doubt(self) -> list[str]:
        """Every prepared branch of Syncpoint's in the three databases."""
        with self.bank() as bank:
            found = [
                row[0]
                for row in bank.execute(
                    "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, %s)",
                    (GID_PREFIX,),
                )
            ]
        assert self.mariadb is not None
        with closing(self.mariadb.connect()) as ledger, ledger.cursor() as cursor:
            cursor.execute("XA RECOVER FORMAT='SQL'")
            found += [row[3] for row in cursor.fetchall() if row[0] == XA_FORMAT_ID]
        return [one for one in found if one not in self.strangers]

    def sweep(self) -> None:
        """Roll back by hand whatever is prepared: after a test that failed, so that it fails alone."""
        assert self.mariadb is not None
        with self.bank() as bank:
            prepared = bank.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall()
            for (gid,) in prepared:
                bank.execute(f"ROLLBACK PREPARED '{gid}'")
        for literal in self.mariadb.prepared():
            self.mariadb.execute(f"XA ROLLBACK {literal}")

    def locks(self) -> list[str]:
        """Databases in which the accounts cannot be written to at once."""
        held = []
        with self.bank() as bank:
            try:
                bank.execute("SET lock_timeout = '1500ms'")
                bank.execute("UPDATE account SET balance = balance")
            except psycopg.errors.LockNotAvailable:
                held.append(BANK)
        with closing(self.ledger()) as ledger, ledger.cursor() as cursor:
            try:
                cursor.execute("SET innodb_lock_wait_timeout = 2")
                cursor.execute("UPDATE account SET balance = balance")
            except Exception as error:
                if error.args[0] != 1205:
                    raise
                held.append(LEDGER)
        with closing(apsw.Connection(self.audit_path)) as audit:
            try:
                audit.set_busy_timeout(1500)
                audit.execute("BEGIN IMMEDIATE; ROLLBACK")
            except apsw.BusyError:
                held.append(AUDIT)
        return held

    def audit(self, transfer: str, told: str, where: Iterable[str] = ALL) -> str:
        """Check one transfer after everything has settled; returns "committed" or "aborted".

        `told` is what the caller was told: "committed", "aborted", or "" when nobody lived to be told.
        """
        rows = self.rows(transfer)
        assert set(rows.values()) <= {0, 1}, f"{transfer}: applied twice: {rows}"
        counted = {rows[name] for name in where} or {0}
        assert len(counted) == 1, f"{transfer}: torn: {rows}"
        assert all(rows[name] == 0 for name in ALL if name not in where), f"{transfer}: strange rows: {rows}"
        outcome = "committed" if counted == {1} else "aborted"
        assert told in ("", outcome), f"{transfer}: told {told}, but {outcome}: {rows}"
        assert self.in_doubt() == [], f"{transfer}: left in doubt"
        assert self.locks() == [], f"{transfer}: locks left behind"
        return outcome

    def note_path(self) -> str:
        return self.audit_path + NOTE_SUFFIX


# --- the work ---------------------------------------------------------------------------------------------------


def transfer(tx: Any, name: str, where: Iterable[str] = ALL, *, amount: int = 1) -> str:
    """Move money, and leave one row with the transfer's id in each database. Blocking."""
    for number, resource in enumerate(where):
        connection = tx.connect(resource)
        if resource == LEDGER:
            with connection.cursor() as cursor:
                _each(cursor.execute, "%s", name, amount)
        else:
            _each(connection.execute, "?" if resource == AUDIT else "%s", name, amount)
        assert number < len(ALL)
    return name


async def transfer_async(tx: Any, name: str, where: Iterable[str] = ALL, *, amount: int = 1) -> str:
    """The same on asyncio drivers (apsw blocks, but only for microseconds)."""
    for resource in where:
        connection = await tx.connect(resource)
        if resource == AUDIT:
            _each(connection.execute, "?", name, amount)
        elif resource == BANK:
            for sql, parameters in _statements("%s", name, amount):
                await connection.execute(sql, parameters)
        else:
            async with connection.cursor() as cursor:
                for sql, parameters in _statements("%s", name, amount):
                    await cursor.execute(sql, parameters)
    return name


def _each(execute: Callable[..., Any], mark: str, name: str, amount: int) -> None:
    for sql, parameters in _statements(mark, name, amount):
        execute(sql, parameters)


def _statements(mark: str, name: str, amount: int) -> list[tuple[str, tuple[Any, ...]]]:
    return [
        (f"UPDATE account SET balance = balance - {mark} WHERE id = 1", (amount,)),
        (f"UPDATE account SET balance = balance + {mark} WHERE id = 2", (amount,)),
        (f"INSERT INTO transfer (id, amount, number) VALUES ({mark}, {mark}, 1)", (name, amount)),
    ]


def as_mapping(world: World) -> Mapping[str, str]:
    """What a child process needs to know."""
    return {
        "bank_url": world.bank_url,
        "ledger_url": world.ledger_url,
        "audit_path": world.audit_path,
        "journal": world.journal,
        "apart_url": world.apart_url,
        "kind": world.kind,
    }
