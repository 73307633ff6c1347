"""The places where a journal can be, for tests that run at each of them from one body: folder, PostgreSQL, MariaDB.

A place hands out journals that nobody has used, and says what differs: how the step is called that makes a decision
durable, and how an older copy comes back. Not for: databases as resources (tests/crash/world.py), or a journal's own
rows (tests/journal).
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.journal.base import Journal
from syncpoint.journal.database import DatabaseJournal
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script
from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.crash.trap import Target
from tests.crash.world import ALL, AUDIT, BANK, LEDGER, World

FOLDER, POSTGRESQL, MARIADB = "folder", "postgresql", "mariadb"
_numbers = itertools.count(1)
KINDS = (FOLDER, POSTGRESQL, MARIADB)
DATABASES = (POSTGRESQL, MARIADB)

PATIENT = "heartbeat_s=0.2&dead_after_s=30"
"""Nobody is taken for dead by mistake, however busy the machine is: for tests in which nobody dies unannounced."""
HASTY = "heartbeat_s=0.05&dead_after_s=0.5"
"""For tests that kill or stop processes: they are soon missed. A wrong guess costs a retry."""

QUIET = "heartbeat_s=60&dead_after_s=300"
"""Nothing is sent but what is asked for: for tests that count packets, or lose one."""

JOURNALS = "journals"
"""The database that journals are in when no resource's is meant."""

TABLES = ("journal", "incarnation", "heartbeat", "record", "claim", "note", "known")


PREPARE = {BANK: "evidence and PREPARE TRANSACTION", LEDGER: "XA PREPARE"}
COMMIT = {BANK: "COMMIT PREPARED", LEDGER: "XA COMMIT"}
DECIDE = {BANK: "decision and COMMIT", LEDGER: "decide and XA COMMIT ONE PHASE"}
"""The texts of the steps at each server of the world."""


@dataclass(frozen=True)
class Course:
    """How a commit in the world goes. Where the journal's database takes part, its branch is no voter: its own commit,
    with the record inside, is the decision."""

    decider: str = ""
    """The resource at whose database the journal is; empty: none of them."""

    @property
    def voters(self) -> tuple[str, ...]:
        return tuple(name for name in ALL if name != self.decider)

    @property
    def voter(self) -> str:
        """A server of the world that is asked to prepare."""
        return LEDGER if self.decider == BANK else BANK

    @property
    def decides(self) -> str:
        """The text of the step that makes the decision durable."""
        return DECIDE[self.decider] if self.decider else Folder.forcing

    @property
    def votes(self) -> str:
        """The text of the step that collects the votes."""
        return ", ".join(f"PREPARE {name}" for name in self.voters)

    @property
    def phase_two(self) -> str:
        return ", ".join(f"COMMIT {name}" for name in self.voters)

    @property
    def undecided(self) -> Target:
        """All have voted, there is no record (O26)."""
        return Target(what=self.votes, after=True)

    @property
    def decided(self) -> Target:
        """There is a record, nobody was told (O27)."""
        return Target(what=self.phase_two)

    @property
    def done(self) -> Target:
        """All were told, the record was not ended (O28)."""
        return Target(what=self.phase_two, after=True)

    @property
    def in_doubt(self) -> int:
        """How many branches are in doubt at the servers between the votes and phase two; SQLite's is in a file."""
        return len(set(self.voters) - {AUDIT})


def place_of(request: pytest.FixtureRequest) -> Place:
    """The place that a fixture's parameter names, a folder without one; servers are started only where needed. The
    schema `syncpoint` in MariaDB is the server's, so there is one journal at a time in the whole of it."""
    kind = getattr(request, "param", FOLDER)
    if kind == FOLDER:
        return Folder()
    if kind == POSTGRESQL:
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        return Database.made(kind, postgres, lambda: postgres.connect(JOURNALS))
    mariadb: MariadbServer = request.getfixturevalue("mariadb_server")
    return Database.made(kind, mariadb, mariadb.connect)


def open_journal(journal: str) -> Journal:
    """What a manager would make of `journal=…`, a folder or a URL, by itself; not opened."""
    return syncpoint.TransactionManager(journal, {})._plan._journal("sync")


class Place(ABC):
    """One place for journals; one journal at a time."""

    kind: str
    forcing: str
    """The text of the step that makes a decision durable."""
    claiming: str
    """The text of the step that claims an id."""

    home = ""
    """Which of the world's databases it is in."""
    course = Course()
    """How commits in the world go."""

    def __repr__(self) -> str:
        return f"<Place {self.kind}>"

    @abstractmethod
    def fresh(self, folder: Path) -> str:
        """A journal that nobody has used: what `TransactionManager(journal=…)` is given. `folder` is the test's."""

    @abstractmethod
    def at(self, world: World) -> Place:
        """The place of the same kind in this world: in a database that takes part in its transactions."""

    @abstractmethod
    def hasty(self, journal: str) -> str:
        """The same journal for those who are quick to take others for dead."""

    @abstractmethod
    def die(self, journal: Journal, runner: ThreadRunner) -> None:
        """The process that has this journal open is gone, without having closed it."""

    @abstractmethod
    def back_up(self, journal: str) -> Callable[[], None]:
        """Copy the journal as it is now; returns what puts that copy in its place again."""

    @abstractmethod
    def claims(self) -> int:
        """How many ids are claimed, as seen from outside."""


def _nothing() -> Script[None]:
    return
    yield


class Folder(Place):
    """Deaths are proven by locks; the disk is the test's own."""

    kind = FOLDER
    forcing = "journal force"
    claiming = "journal: claim"

    def fresh(self, folder: Path) -> str:
        path = folder / "journal"
        return str(folder / f"journal-{next(_numbers)}" if path.exists() else path)

    def at(self, world: World) -> Place:
        return self

    def hasty(self, journal: str) -> str:
        return journal

    def die(self, journal: Journal, runner: ThreadRunner) -> None:
        runner.run(journal.close())  # what a kill leaves of it, tests/journal tries: here its lock is what counts

    def back_up(self, journal: str) -> Callable[[], None]:
        copy = Path(f"{journal}-copy-{time.monotonic_ns()}")
        shutil.copytree(journal, copy)
        return lambda: restore_in_place(copy, Path(journal))

    def claims(self) -> int:
        return 0  # a lock goes with its holder, at once


def restore_in_place(source: Path, journal: Path) -> None:
    """As a backup tool that keeps the folder itself: only the databases can tell."""
    for name in os.listdir(journal):
        path = journal / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.copytree(source, journal, dirs_exist_ok=True)


class Database(Place):
    """Rows that every process reaches. `connect` is an observer's: an account that may do everything."""

    forcing = "journal: force a Commit record"
    claiming = "journal: claim an id"

    def __init__(self, kind: str, url: str, connect: Callable[[], Any]) -> None:
        self.kind = kind
        self.url = url
        self.connect = connect
        self.home = {POSTGRESQL: BANK, MARIADB: LEDGER}[kind]
        self.course = Course(self.home)

    @classmethod
    def made(cls, kind: str, server: PostgresServer | MariadbServer, connect: Callable[[], Any]) -> Database:
        """In a database of its own at this server, made when it is not there yet."""
        try:
            return _databases[server]
        except KeyError:
            return _databases.setdefault(server, cls(kind, server.create_database(JOURNALS), connect))

    def fresh(self, folder: Path) -> str:
        """Emptying the tables costs a hundredth of making a database; the journal is a new one, with a new GUID."""
        if self._has_tables():
            self.execute(*(f"DELETE FROM syncpoint.{table}" for table in TABLES))
        separator = "&" if "?" in self.url else "?"
        return f"{self.url}{separator}{PATIENT}"

    def at(self, world: World) -> Place:
        connect, url = (world.bank, world.bank_url) if self.kind == POSTGRESQL else (world.ledger, world.ledger_url)
        return Database(self.kind, url, connect)

    def hasty(self, journal: str) -> str:
        return journal.replace(PATIENT, HASTY)

    def die(self, journal: Journal, runner: ThreadRunner) -> None:
        assert isinstance(journal, DatabaseJournal)
        journal._living.leave = _nothing  # type: ignore[method-assign]
        runner.run(journal.close())

    def back_up(self, journal: str) -> Callable[[], None]:
        """All that a restored database would hold, also as a resource."""
        tables = (*TABLES, "coordinator")
        self.execute("CREATE SCHEMA IF NOT EXISTS older")
        for table in tables:
            self.execute(
                f"DROP TABLE IF EXISTS older.{table}", f"CREATE TABLE older.{table} AS SELECT * FROM syncpoint.{table}"
            )

        def restore() -> None:
            for table in tables:
                self.execute(
                    f"DELETE FROM syncpoint.{table}", f"INSERT INTO syncpoint.{table} SELECT * FROM older.{table}"
                )

        return restore

    def claims(self) -> int:
        return self.count("claim")

    def count(self, table: str, where: str = "true") -> int:
        """How many rows a table of the journal has."""
        ((count,),) = self.query(f"SELECT count(*) FROM syncpoint.{table} WHERE {where}")
        return int(count)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def execute(self, *statements: str) -> None:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in ("BEGIN", *statements, "COMMIT"):
                cursor.execute(statement)

    def _has_tables(self) -> bool:
        sql = "SELECT 1 FROM information_schema.tables WHERE table_schema = 'syncpoint' AND table_name = 'known'"
        return bool(self.query(sql))


_databases: dict[PostgresServer | MariadbServer, Database] = {}
