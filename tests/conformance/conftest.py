"""What the conformance tests share: memory servers and real ones behind a manager, its journal in each place where one
can be, and looks at them from outside.

A test that asks for `place`, `bench` or `world` runs once for each place: one body, three journals.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.ids import BranchNumber, Guid, Identifier, Key, TransactionId
from syncpoint.journal.base import Journal
from syncpoint.records import BranchEntry, Commit, Record, key_fields
from syncpoint.resources.base import Choice
from syncpoint.resources.memory_server import MemoryServer, Work
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing.servers.base import wait_until
from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.conformance.places import (
    FOLDER,
    KINDS,
    MARIADB,
    POSTGRESQL,
    Course,
    Folder,
    Place,
    open_journal,
    place_of,
)
from tests.crash.harness import Stage, Zygote
from tests.crash.world import ALL, BANK, LEDGER, World

_numbers = itertools.count(1)


class Ghost:
    """A process that has left things in the journal and in memory servers, and is gone when its block ends."""

    def __init__(self, bench: Bench, runner: ThreadRunner, journal: Journal) -> None:
        self._bench = bench
        self._runner = runner
        self.journal = journal

    def key(self, user_id: str | None = None) -> Key:
        raw = TransactionId(os.urandom(16)) if user_id is None else TransactionId.from_user_id("", user_id)
        return Key(raw, self.journal.next_attempt())

    def identifiers(self, key: Key, resources: str) -> dict[str, Identifier]:
        return {
            name: Identifier(self.journal.coordinator, key.transaction, key.attempt, BranchNumber(number))
            for number, name in enumerate(resources, 1)
        }

    def prepare(self, key: Key, resources: str = "ab", row: str = "k", value: bytes = b"1") -> dict[str, Identifier]:
        """Its branches have voted yes, having written one row each."""
        branches = self.identifiers(key, resources)
        for name, identifier in branches.items():
            self._bench.prepare(name, identifier, row, value)
        return branches

    def decide(self, key: Key, resources: str = "ab", *, user_id: str | None = None, names: str = "") -> None:
        """Force its Commit record. `names` are what the journal calls the resources, if not as the servers."""
        entries = tuple(
            BranchEntry(
                resource=called, guid=self._bench.guid(name).raw, identifier=identifier.to_bytes(), state=b"state"
            )
            for called, (name, identifier) in zip(
                names or resources, self.identifiers(key, resources).items(), strict=True
            )
        )
        self.force(Commit(**key_fields(key), branches=entries, at_ms=self._bench.clock.wall_ms(), user_id=user_id))

    def force(self, *records: Record) -> None:
        self._runner.run(self.journal.force(records))


class Bench:
    """Memory servers a, b and c, and managers over them on one journal."""

    def __init__(self, folder: Path, place: Place | None = None) -> None:
        self.folder = folder
        self.place = place or Folder()
        self.journal = self.place.fresh(folder)
        number = next(_numbers)
        self.names = {name: f"{name}{number}" for name in "abc"}
        self.a, self.b, self.c = (MemoryServer.named(name) for name in self.names.values())
        self.servers = {"a": self.a, "b": self.b, "c": self.c}
        self.clock = SystemClock()
        self.random = SystemRandom()
        self._open: list[syncpoint.TransactionManager] = []

    def guid(self, name: str) -> Guid:
        server = self.servers[name]
        server.guid = server.guid or Guid(os.urandom(16))
        return server.guid

    def prepare(self, name: str, identifier: Identifier | None, row: str = "k", value: bytes = b"1") -> Choice:
        """A branch is asked for its vote by hand, and its connection is gone."""
        server = self.servers[name]
        session = server.connect()
        assert session is not None
        work = session.work = Work(identifier)
        assert server.lock(work, row, None) is None, "another branch holds the row"
        work.writes[row] = value
        vote = server.prepare(session)
        server.drop_active(session)
        return vote.choice

    def runner(self) -> ThreadRunner:
        return ThreadRunner()

    def await_releases(self) -> None:
        """Until ids that are done with are free for other processes too: a database is told a moment later."""
        wait_until(lambda: self.place.claims() == 0, "every claim is given back", 5.0)

    def journal_named(self, name: str) -> str:
        """The journal of the place; by any other name, one in a folder, whatever the place."""
        return self.journal if name == "journal" else str(self.folder / name)

    @contextmanager
    def ghost(self, journal: str = "journal", *, dies: bool = False) -> Iterator[Ghost]:
        """Another process on the journal, worked by hand; gone when the block ends. In a folder it is all one whether
        it has closed its journal or `dies`; in a database the others must then guess (let them be `hasty`)."""
        runner = ThreadRunner()
        opened = open_journal(self.journal_named(journal))
        runner.run(opened.open(runner))
        try:
            yield Ghost(self, runner, opened)
        finally:
            if dies:
                self.place.die(opened, runner)
            else:
                runner.run(opened.close())
            runner.close()

    def departed(self, resources: str = "ab", *, decided: bool, done: str = "", user_id: str | None = None) -> Key:
        """A process has died after the votes: before its record, or after it with the branches in `done` finished."""
        with self.ghost() as ghost:
            key = ghost.key(user_id)
            branches = ghost.prepare(key, resources)
            if decided:
                ghost.decide(key, resources, user_id=user_id)
            for name in done:
                self.servers[name].finish(branches[name], commit=decided)
        return key

    def manager(self, resources: str = "ab", **options: Any) -> syncpoint.TransactionManager:
        """Another process, as far as the journal can tell: an incarnation of its own. Closed at the end. `hasty`: quick
        to take others for dead, where that is only guessed. `url`: the same journal, by another way."""
        options.setdefault("background", False)
        journal = options.pop("url", "") or self.journal_named(options.pop("journal", "journal"))
        if options.pop("hasty", False):
            journal = self.place.hasty(journal)
        manager = syncpoint.TransactionManager(journal, self.urls(resources), **options).open()
        self._open.append(manager)
        return manager

    def urls(self, resources: str = "ab") -> dict[str, str]:
        return {name: f"memory://{self.names[name]}" for name in resources}

    def in_doubt(self) -> str:
        """The servers that have a branch in doubt."""
        return "".join(name for name, server in self.servers.items() if server.in_doubt())

    def put(self, tx: Any, resources: str = "ab", key: str = "k", value: Any = 1) -> None:
        for name in resources:
            tx.connect(name).put(key, value)

    def rows(self, key: str = "k") -> str:
        """The servers that hold the key: "ab", "", …; read from the servers themselves."""
        return "".join(name for name, server in self.servers.items() if key in server.rows())

    def assert_quiet(self) -> None:
        """Nothing in doubt, no lock held (R7)."""
        for name, server in self.servers.items():
            assert server.in_doubt() == [], f"{name} is in doubt"
            assert server.locked() == {}, f"{name} holds locks"

    def calls(self, name: str, *methods: str) -> list[str]:
        """Which of these methods reached a server, in order."""
        return [call for call in self.servers[name].calls if call in methods]

    def close(self) -> None:
        for manager in self._open:
            manager.close(1.0)
        for name in self.names.values():
            MemoryServer.remove(name)


FOLDER_ONLY = pytest.mark.parametrize("place", [FOLDER], indirect=True)
"""For tests that look at the folder's own disk: torn tails, damage, forces, power cuts, copies (O40, O41, O59, and the
forces of test_costs.py). In a database these are the database's own affair; what is ours there, tests/journal tries."""

ONE_PLACE = FOLDER_ONLY
"""For tests that end before anything is decided, or look at the servers alone: the journal is never asked."""


VOTERS = pytest.mark.parametrize(
    ("place", "resource"),
    [(FOLDER, BANK), (FOLDER, LEDGER), (POSTGRESQL, LEDGER), (MARIADB, BANK)],
    indirect=["place"],
)
"""Each server of the world wherever it is asked to prepare: not where the journal is its own, and it decides."""


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    """Where the journal is: the test runs once for each."""
    return place_of(request)


@pytest.fixture(scope="session")
def stage(
    postgres_server: PostgresServer, mariadb_server: MariadbServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """Real databases, and a process that forks children which are killed at chosen points."""
    folder = tmp_path_factory.mktemp("conformance")
    with Zygote() as zygote:
        yield Stage(World.make(postgres_server, mariadb_server, folder), zygote, folder)


@pytest.fixture
def world(stage: Stage, place: Place) -> Iterator[World]:
    """Three real databases, the journal and the SQLite file fresh. Nothing may be left in doubt there (R7)."""
    made = stage.world.again(stage.folder)
    made = dataclasses.replace(made, journal=place.hasty(place.at(made).fresh(stage.folder)))
    try:
        yield made
        assert made.in_doubt() == []
    finally:
        made.sweep()


@pytest.fixture
def course(place: Place) -> Course:
    """How a commit in the world goes, with the journal where it is."""
    return place.course


def raises(
    kind: type[BaseException] | tuple[type[BaseException], ...], match: str | None = None
) -> pytest.RaisesExc[Any]:
    """As `pytest.raises`, for the end of a transaction's block: there it is no single statement that raises."""
    return pytest.raises(kind, match=match)


def opened(world: World, names: Iterable[str] = ALL, **options: Any) -> syncpoint.TransactionManager:
    """A manager over real databases, without recovery of its own. To be closed by the test."""
    options.setdefault("background", False)
    return syncpoint.TransactionManager(world.journal, world.resources(names), **options).open()


@pytest.fixture
def name() -> str:
    """A transfer's id that no other test uses: the databases are shared."""
    return f"transfer-{next(_numbers)}"


@pytest.fixture
def bench(tmp_path: Path, place: Place) -> Iterator[Bench]:
    made = Bench(tmp_path, place)
    yield made
    made.close()
