"""Exploring a story: all points are tried, a torn transfer is found and repeated, every way to spoil a run is told.

Over two SQLite files. Not for: PostgreSQL (test_lost.py), or pytest's side of it (../test_plugin.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

import syncpoint
from syncpoint.errors import ConfigurationError
from syncpoint.testing import Story, every_point, explore
from syncpoint.testing.crash.child import in_child, say
from syncpoint.testing.crash.story import Mode, spread
from tests.testing.crash.places import roomy_folder

FEW = every_point.sample(6)
NAMES = ("bank", "ledger")


class World:
    """Two files with one account each, in memory where there is room: processes die here, disks do not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "world"

    def prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name in NAMES:
            with closing(apsw.Connection(str(self.folder / f"{name}.db"))) as database:
                database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)")
                database.execute("INSERT INTO account VALUES (1, 100)")

    @property
    def configuration(self) -> dict[str, Any]:
        resources = {name: f"sqlite:///{self.folder}/{name}.db" for name in NAMES}
        return {"journal": str(self.folder / "journal"), "resources": resources}

    def manager(self) -> syncpoint.TransactionManager:
        return syncpoint.TransactionManager(**self.configuration)

    def async_manager(self) -> syncpoint.AsyncTransactionManager:
        return syncpoint.AsyncTransactionManager(**self.configuration)

    def balances(self) -> list[int]:
        found = []
        for name in NAMES:
            with closing(apsw.Connection(str(self.folder / f"{name}.db"))) as database:
                found += [row[0] for row in database.execute("SELECT balance FROM account")]
        return found

    def check(self, committed: bool | None) -> None:
        found = self.balances()
        assert found in ([100, 100], [90, 110]), f"torn: {found}"
        assert committed is None or (found == [90, 110]) == committed, f"told {committed}: {found}"

    def story(self, **changes: Any) -> Story:
        plain = Story(transfer=transfer, check=self.check, manager=self.manager, prepare=self.prepare)
        return dataclasses.replace(plain, **changes)


def transfer(manager: Any) -> None:
    with manager.transaction(id="order-1") as tx:
        move(tx.connect("bank"), -10)
        move(tx.connect("ledger"), 10)


async def transfer_async(manager: Any) -> None:
    async with manager.transaction() as tx:
        move(await tx.connect("bank"), -10)
        move(await tx.connect("ledger"), 10)


def in_two(manager: Any) -> None:
    """What must not be: two transactions, where one was meant."""
    for name, amount in (("bank", -10), ("ledger", 10)):
        with manager.transaction() as tx:
            move(tx.connect(name), amount)


def move(connection: Any, amount: int) -> None:
    connection.execute("UPDATE account SET balance = balance + ?", (amount,))


@pytest.fixture
def world() -> Iterator[World]:
    with roomy_folder() as folder:
        yield World(folder)


def test_a_transfer_is_whole_wherever_it_is_crashed(world: World) -> None:
    told: list[str] = []
    report = explore(world.story(), every_point.sample(12), (Mode.KILL, Mode.KILL_AFTER, Mode.LOST_REPLY), told.append)
    assert report.failures == [], report.explain()
    assert len(report.hit) == 12
    assert report.points > 60
    assert set(report.modes) == {"kill", "kill after", "lost reply"}
    assert len(told) == 12
    assert {"committed", "nobody was told"} <= set(report.outcomes)
    figures = json.loads(report.dumps())
    assert (figures["hit"], figures["failed"], figures["points"]) == (12, [], report.points)
    assert str(report).startswith(f"12 of {report.points} points hit (kill ")


def test_an_asynchronous_transfer_is_cancelled_and_killed(world: World) -> None:
    story = world.story(transfer=transfer_async, manager=world.async_manager)
    report = explore(story, every_point.sample(8), (Mode.KILL, Mode.CANCEL))
    assert report.failures == [], report.explain()
    assert set(report.modes) == {"kill", "cancel"}
    assert len(report.hit) + len(report.missed) == 8
    assert len(report.hit) >= 6


def test_a_torn_transfer_is_found_and_one_point_repeats_it(world: World) -> None:
    story = world.story(transfer=in_two)
    report = explore(story, every_point.where(lambda stop: stop.function == "open"))
    keys = [failure.shot.key for failure in report.failures if failure.shot is not None]
    assert keys, "the opening of the second connection lies between the two transactions"
    text = report.explain("pytest -k it --syncpoint-point ")
    assert "torn: [90, 100]" in text
    assert "killed before resources/sqlite.py:" in text
    assert "your code stood at test_explore.py:" in text
    assert f"this point only: pytest -k it --syncpoint-point {keys[0]!r}" in text
    again = explore(story, every_point.only(keys[0]))
    assert [failure.shot.key for failure in again.failures if failure.shot] == keys[:1]
    assert again.hit == keys[:1]


def test_a_point_that_is_not_there_is_told_with_those_that_are(world: World) -> None:
    with pytest.raises(ValueError, match="no point of this run is named kill@nowhere") as caught:
        explore(world.story(), every_point.only("kill@nowhere.py:1#1"))
    assert "kill@resources/sqlite.py:" in str(caught.value)


def test_a_transfer_that_fails_by_itself_is_told_before_anything_is_crashed(world: World) -> None:
    def fails(manager: Any) -> None:
        raise KeyError("no such account")

    report = explore(world.story(transfer=fails))
    assert report.hit == []
    assert "the transfer fails without any fault: KeyError: 'no such account'" in report.explain()


def test_a_check_that_is_wrong_without_any_fault(world: World) -> None:
    def check(committed: bool | None) -> None:
        assert world.balances() == [1, 1]

    report = explore(world.story(check=check))
    assert len(report.failures) == 1
    assert "nothing had happened to it, and still" in report.explain()


def test_what_recovery_cannot_finish_fails_the_point(world: World) -> None:
    """The second database is gone when recovery comes."""

    def manager() -> Any:
        made = world.manager()
        if (world.folder / "journal").exists():
            made._plan.resources["ledger"] = "sqlite:////nowhere/at/all.db"
        return made

    report = explore(world.story(manager=manager, recovery_seconds_max=0.2))
    assert "left in doubt after recovery: " in report.explain()
    assert "there is no folder /nowhere/at" in report.explain()


def test_a_run_that_hangs_is_ended_and_told(world: World) -> None:
    def hangs(manager: Any) -> None:
        signal.pause()

    report = explore(world.story(transfer=hangs, run_seconds_max=0.5))
    assert len(report.failures) == 1
    text = report.explain()
    assert "without a word, or hung for more than 0.5 s" in text
    assert "in hangs" in text, "it is told where"


def test_a_database_that_dies_with_its_process_is_refused() -> None:
    def manager() -> Any:
        return syncpoint.TransactionManager("nowhere", {"bank": "memory://bank"})

    with pytest.raises(ConfigurationError, match="lives in the memory of its process"):
        explore(Story(transfer=transfer, check=lambda committed: None, manager=manager))


def test_cancelling_a_blocking_transfer_is_left_out_with_the_reason(world: World) -> None:
    report = explore(world.story(), FEW, (Mode.CANCEL,))
    assert report.hit == []
    assert "no task to be cancelled" in report.left_out["cancel"]


def test_samples_are_spread_over_the_run() -> None:
    assert spread(range(10), None) == list(range(10))
    assert spread(range(10), 3) == [0, 4, 9]
    assert spread(range(10), 1) == [5]
    assert spread(range(2), 5) == [0, 1]
    with pytest.raises(ValueError, match="tries nothing"):
        every_point.sample(0)


def test_a_child_says_what_it_said_before_it_was_killed() -> None:
    def die_talking(channel: Any) -> None:
        print("to nobody")
        say(channel, first=1)
        say(channel, first=2)
        signal.raise_signal(signal.SIGKILL)

    ended = in_child(die_talking)
    assert ended.killed
    assert ended.last("first") == 2
    assert ended.last("second") is None
    assert "to nobody" in ended.noise

    def fail(channel: Any) -> None:
        asyncio.run(asyncio.sleep(0))
        raise ValueError("no")

    ended = in_child(fail)
    assert not ended.killed
    assert "ValueError: no" in ended.last("error")
