"""O34, O55, O56 all at once: processes share a journal in a database, one is killed every second, one is stopped in
the middle of a commit and woken long after it was taken for dead. 0 torn, 0 in doubt, counted from outside.

Small in `make test`; `make storm` (SYNCPOINT_STORM=full) runs 8 processes, with one stopped for 30 s.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from contextlib import closing
from dataclasses import dataclass

import pytest

from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import opened
from tests.conformance.places import DATABASES, HASTY, Course
from tests.conformance.processes import Worker
from tests.conformance.worker import ACCOUNTS
from tests.crash.world import BANK, LEDGER, World

FULL = os.environ.get("SYNCPOINT_STORM") == "full"
PROCESSES = 8 if FULL else 4
KILLS = 36 if FULL else 5
SLEEPS_AFTER_KILLS, WAKES_AFTER_KILLS = (3, 33) if FULL else (1, 4)
"""One process stops after the third kill and is woken after the 33rd: 30 s, for there is one a second."""
BALANCE = 1_000_000
STORM_TABLES = (
    "DROP TABLE IF EXISTS storm",
    "CREATE TABLE storm (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL)",
    "INSERT INTO storm VALUES " + ", ".join(f"({number}, {BALANCE})" for number in range(ACCOUNTS)),
)


@pytest.mark.parametrize("place", DATABASES, indirect=True)
def test_o55_processes_are_killed_and_stopped_and_nothing_is_torn(world: World, course: Course, name: str) -> None:
    storm = _Storm(world, course, name)
    with contextlib.ExitStack() as stack:
        storm.stack = stack
        for _ in range(PROCESSES):
            storm.start()
        for worker in storm.alive:
            worker.wait_until_ready()
        sleeper = storm.alive[0]
        for kills in range(KILLS):
            if kills == SLEEPS_AFTER_KILLS:
                sleeper.tell("stop")
                sleeper.wait_until_stopped()
            if kills == WAKES_AFTER_KILLS:
                sleeper.wake()
            storm.kill_one_other_than(sleeper)
            time.sleep(1.0)  # the rhythm of the kills; nothing is waited for
        for worker in storm.alive:
            worker.end()
    told = storm.told()
    _settle(world)
    found = _Found.look(world, name)
    assert found.bank == found.ledger  # nothing is torn
    assert {one for one, outcome in told.items() if outcome == "committed"} <= found.bank
    assert not {one for one, outcome in told.items() if outcome == "aborted"} & found.bank
    assert set(told.values()) <= {"committed", "aborted", ""}, told
    assert found.moved == (len(found.bank), len(found.bank))  # each once
    assert len(found.bank) > 10 * PROCESSES, "hardly anything was done"
    assert sleeper.heard("told")[-1][1] in ("committed", "aborted")  # it has gone on


class _Storm:
    def __init__(self, world: World, course: Course, name: str) -> None:
        self.world, self.course, self.name = world, course, name
        self.stack = contextlib.ExitStack()
        self.workers: list[Worker] = []
        self.alive: list[Worker] = []
        _make_tables(world)

    def start(self) -> None:
        worker = Worker(
            self.world,
            # Not too hasty: on a busy machine all would take each other for dead, again and again.
            journal=self.world.journal.replace(HASTY, "heartbeat_s=0.2&dead_after_s=1.5"),
            name=f"{self.name}-{len(self.workers)}",
            forever=True,
            background=True,
            stop=self.course.decides,
        )
        self.stack.callback(worker.kill)
        self.workers.append(worker)
        self.alive.append(worker)

    def kill_one_other_than(self, sleeper: Worker) -> None:
        victim = random.choice([worker for worker in self.alive if worker is not sleeper])
        self.alive.remove(victim)
        victim.kill()
        self.start()

    def told(self) -> dict[str, str]:
        """Transfer -> what its caller was told; "" when nobody lived to be told, or nobody knew."""
        told: dict[str, str] = {}
        for worker in self.workers:
            told |= dict.fromkeys(worker.heard("begun"), "")
            told |= dict(worker.heard("told"))
        return told


def _make_tables(world: World) -> None:
    with world.bank() as bank:
        for statement in STORM_TABLES:
            bank.execute(statement)
    with closing(world.ledger()) as ledger, ledger.cursor() as cursor:
        for statement in STORM_TABLES:
            cursor.execute(statement)


def _settle(world: World) -> None:
    with opened(world, (BANK, LEDGER)) as manager:
        wait_until(lambda: not manager.recover().left and not manager.in_doubt(), "all is finished", 30.0)
        assert manager.heuristics() == []
    assert world.in_doubt() == []


@dataclass
class _Found:
    """What the databases hold."""

    bank: set[str]
    ledger: set[str]
    moved: tuple[int, int]
    """What has left the bank, and what has come to the ledger."""

    @classmethod
    def look(cls, world: World, name: str) -> _Found:
        rows, balance = f"SELECT id FROM transfer WHERE id LIKE '{name}-%'", "SELECT sum(balance) FROM storm"
        with world.bank() as bank:
            in_bank = bank.execute(rows).fetchall()
            ((left,),) = bank.execute(balance).fetchall()
        with closing(world.ledger()) as ledger, ledger.cursor() as cursor:
            cursor.execute(rows)
            in_ledger = cursor.fetchall()
            cursor.execute(balance)
            ((came,),) = cursor.fetchall()
        total = ACCOUNTS * BALANCE
        return cls({row[0] for row in in_bank}, {row[0] for row in in_ledger}, (int(total - left), int(came - total)))
