"""A user's transfer between PostgreSQL and SQLite: killed, and its replies lost on the wire, blocking and asyncio."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

import syncpoint
from syncpoint.testing import Story, every_point, explore
from tests.testing.crash.places import roomy_folder

HASTY = "heartbeat_s=0.2&dead_after_s=1"


class World:
    """An account in PostgreSQL, and one in a file."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder / "world"
        with psycopg.connect(url, autocommit=True) as bank:
            bank.execute("CREATE TABLE account (id int PRIMARY KEY, balance int)")

    def prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        with psycopg.connect(self.url, autocommit=True) as bank:
            bank.execute("TRUNCATE account")
            bank.execute("INSERT INTO account VALUES (1, 100)")
        with closing(apsw.Connection(str(self.folder / "ledger.db"))) as ledger:
            ledger.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)")
            ledger.execute("INSERT INTO account VALUES (1, 100)")

    def reset(self) -> None:
        """The rows as they were, in the same databases: a journal in one of them knows the other by its GUID."""
        if not self.folder.exists():
            self.prepare()
        with psycopg.connect(self.url, autocommit=True) as bank:
            bank.execute("UPDATE account SET balance = 100")
        with closing(apsw.Connection(str(self.folder / "ledger.db"))) as ledger:
            ledger.execute("UPDATE account SET balance = 100")

    @property
    def configuration(self) -> dict[str, Any]:
        resources = {"bank": self.url, "ledger": f"sqlite:///{self.folder}/ledger.db"}
        return {"journal": str(self.folder / "journal"), "resources": resources}

    def manager(self) -> syncpoint.TransactionManager:
        return syncpoint.TransactionManager(**self.configuration)

    def manager_with_its_journal_in_the_bank(self) -> syncpoint.TransactionManager:
        """A death is guessed there: soon, so that no point waits long."""
        return syncpoint.TransactionManager(**{**self.configuration, "journal": f"bank?{HASTY}"})

    def async_manager(self) -> syncpoint.AsyncTransactionManager:
        return syncpoint.AsyncTransactionManager(**self.configuration)

    def check(self, committed: bool | None) -> None:
        with psycopg.connect(self.url) as bank:
            found = [row[0] for row in bank.execute("SELECT balance FROM account")]
        with closing(apsw.Connection(str(self.folder / "ledger.db"))) as ledger:
            found += [row[0] for row in ledger.execute("SELECT balance FROM account")]
        assert found in ([100, 100], [90, 110]), f"torn: {found}"
        assert committed is None or (found == [90, 110]) == committed, f"told {committed}: {found}"


def transfer(manager: Any) -> None:
    with manager.transaction() as tx:
        tx.connect("bank").execute("UPDATE account SET balance = balance - 10")
        tx.connect("ledger").execute("UPDATE account SET balance = balance + 10")


async def transfer_async(manager: Any) -> None:
    async with manager.transaction(id="order-1") as tx:
        await (await tx.connect("bank")).execute("UPDATE account SET balance = balance - 10")
        (await tx.connect("ledger")).execute("UPDATE account SET balance = balance + 10")


@pytest.fixture
def world(postgres_url: str) -> Iterator[World]:
    with roomy_folder() as folder:
        yield World(postgres_url, folder)


def test_replies_of_a_server_are_lost(world: World) -> None:
    story = Story(transfer=transfer, check=world.check, manager=world.manager, prepare=world.prepare)
    on_the_wire = every_point.where(lambda stop: stop.scheme == "postgresql")
    report = explore(story, on_the_wire.sample(6), ("lost reply",))
    assert report.failures == [], report.explain()
    assert len(report.hit) == 6
    assert report.outcomes.total() == 6
    assert report.outcomes["committed"] >= 1, "a reply lost in phase two does not undo it"
    assert report.outcomes["aborted"] >= 1, "one lost before the vote does"


def test_an_asynchronous_transfer_over_both(world: World) -> None:
    story = Story(transfer=transfer_async, check=world.check, manager=world.async_manager, prepare=world.prepare)
    report = explore(story, every_point.sample(9), ("kill", "cancel", "lost reply"))
    assert report.failures == [], report.explain()
    assert len(report.hit) >= 7
    assert set(report.modes) == {"kill", "cancel", "lost reply"}


def test_the_journal_in_a_database(world: World) -> None:
    story = Story(
        transfer=transfer, check=world.check, manager=world.manager_with_its_journal_in_the_bank, prepare=world.reset
    )
    report = explore(story, every_point.sample(4))
    assert report.failures == [], report.explain()
    assert len(report.hit) >= 3
