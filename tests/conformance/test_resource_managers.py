"""Rows B1, B2, B3, B5, B7 and B9 for a resource manager that is a process, seen from data, journal and messages.

Its process is a host in this one; real ones are killed in tests/resources. Not for: who takes over, and when (node).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import apsw
import pytest

import syncpoint
from syncpoint.errors import Fenced
from syncpoint.journal.inspect import list_records
from syncpoint.records import Commit
from syncpoint.resources import process_messages as messages
from syncpoint.resources import registry
from syncpoint.system import SystemClock, SystemDisk, SystemRandom
from syncpoint.testing.servers.base import wait_until
from tests.resources.process_world import World

MAKER = "syncpoint.manager.assembly.make_resource"
TABLE = "CREATE TABLE entry (id INTEGER PRIMARY KEY)"


class Site(World):
    """A file `audit` behind a process, a file `beside`, and a manager of both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("audit", "beside"):
            with closing(apsw.Connection(str(folder / f"{name}.db"))) as made:
                made.execute(TABLE)
        super().__init__(lambda: self.plain("audit"), name="audit")
        self.start()

    def plain(self, name: str) -> Any:
        url = f"sqlite:///{self.folder / name}.db"
        return registry.make_resource(name, url, mode="sync", clock=SystemClock(), random=SystemRandom())

    def make_resource(self, name: str, spec: Any, **options: Any) -> Any:
        """In place of the registry's, which knows no port without a node."""
        made = registry.make_resource(name, spec, **options)
        if name == "audit":
            made.port = self
        return made

    def manager(self) -> syncpoint.TransactionManager:
        resources = {"audit": "process://audit", "beside": f"sqlite:///{self.folder / 'beside'}.db"}
        with mock.patch(MAKER, self.make_resource):
            return syncpoint.TransactionManager(str(self.folder / "journal"), resources)

    def rows(self, name: str) -> list[int]:
        with closing(apsw.Connection(str(self.folder / f"{name}.db"))) as other:
            other.set_busy_timeout(5000)
            return [row for (row,) in other.execute("SELECT id FROM entry ORDER BY id")]

    def commits(self) -> list[Commit]:
        """Every Commit record of the journal, read by another process's code."""
        found = [line.record for line in list_records(str(self.folder / "journal"), SystemDisk())]
        return [record for record in found if isinstance(record, Commit)]

    def kinds(self) -> list[str]:
        return [type(one).__name__ for one in self.asked]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(Site(tmp_path)) as site:
        yield site


def write(tx: Any, row: int, *names: str) -> None:
    for name in names or ("audit", "beside"):
        tx.connect(name).execute("INSERT INTO entry VALUES (?)", (row,))


def lose_the_process_at_end(site: Site) -> None:
    """Its process dies as phase two arrives: it is decided by then."""

    def rule(question: Any) -> None:
        if isinstance(question, messages.End) and site.host is not None:
            site.rules.clear()
            site.kill()

    site.rules.append(rule)


def test_b1_b2_b3_the_prepare_goes_to_the_process_and_its_state_information_is_kept(site: Site) -> None:
    with site.manager() as manager, manager.transaction() as tx:
        write(tx, 1)
    assert "Prepare" in site.kinds()  # B1
    (record,) = site.commits()
    entry = next(one for one in record.branches if one.resource == "audit")
    met = site.ask(messages.Meet(coordinator=entry.read_identifier().coordinator.raw, incarnation=9, highest=9))
    assert isinstance(met, messages.Met)
    assert met.guid == entry.guid  # B1: by its GUID
    assert entry.state  # B2, B3: what a fresh one would need
    assert entry.incarnation == 1
    assert site.rows("audit") == site.rows("beside") == [1]


def test_b3_a_transaction_of_that_process_alone_is_recorded_too(site: Site) -> None:
    """In one phase nothing would be kept for a backup."""
    with site.manager() as manager, manager.transaction() as tx:
        write(tx, 1, "audit")
    assert "CommitOnePhase" not in site.kinds()
    assert [one.resource for record in site.commits() for one in record.branches] == ["audit"]


def test_b5_b9_the_commit_is_decided_without_it_and_whoever_comes_next_commits(site: Site) -> None:
    with site.manager() as manager:
        lose_the_process_at_end(site)
        with manager.transaction() as tx:
            write(tx, 1)
        assert tx.pending == {"audit"}
        assert (site.rows("audit"), site.rows("beside")) == ([], [1])  # B5
        site.start()
        wait_until(lambda: site.rows("audit") == [1], "its backup to commit")  # B9
        with manager.transaction() as tx:
            write(tx, 2)
    assert site.rows("audit") == site.rows("beside") == [1, 2]


def test_b7_the_lost_one_comes_back_and_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncpoint.resources.process.AWAY_S_MAX", 0.2)
    with site.manager() as manager:
        with manager.transaction() as tx:
            write(tx, 1)
        old = site.host
        assert old is not None
        site.start()
        with manager.transaction() as tx:
            write(tx, 2)
        new, site.host, site.asked = site.host, old, []
        with pytest.raises(syncpoint.errors.ResourceUnavailable), manager.transaction() as tx:
            write(tx, 3)  # it is asked, and says that it is fenced
        assert isinstance(old.service.fenced, Fenced)
        assert "Begin" in site.kinds()
        site.host = new
        with manager.transaction() as tx:
            write(tx, 4)
    site.runner.run(old.close())
    assert site.rows("audit") == site.rows("beside") == [1, 2, 4]
