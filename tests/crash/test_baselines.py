"""What Python has today leaves transfers torn and in doubt (the last table of DATABASES.md); this counts Syncpoint's.

The four columns, on two PostgreSQL databases: the reply to the first COMMIT PREPARED is lost; `asyncio.wait_for` ends
during the commit; a swallowed SQL error, then commit; kill -9 between the two commits. Counted from outside, after
recovery: 0 torn, 0 left in doubt. Not for: measuring the others, or speed (bench/).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from syncpoint.errors import TransactionAborted
from syncpoint.manager.aio import AsyncTransactionManager
from syncpoint.manager.reports import OutcomeState
from syncpoint.manager.sync import TransactionManager
from syncpoint.runners.points import StepPoint
from syncpoint.steps import Step
from syncpoint.testing.proxy import FaultProxy
from syncpoint.testing.servers.postgres import PostgresServer
from tests.crash.faults import quiet
from tests.crash.trap import what_of

TRIES = 20
CANCELLED_TRANSFERS = 300
KILLS = 5
SIDES = ("here", "there")


@dataclass(frozen=True)
class Pair:
    """Two databases, a journal, and what stands between."""

    urls: dict[str, str]
    journal: str

    def count(self, where: str) -> dict[str, int]:
        """Transfer -> how many rows it has in one database."""
        with psycopg.connect(self.urls[where], autocommit=True) as connection:
            return dict(connection.execute("SELECT id, count(*) FROM transfer GROUP BY id").fetchall())

    def recover(self) -> None:
        with TransactionManager(self.journal, self.urls, background=False) as manager:
            report = manager.recover(wait_seconds=20)
            assert not report.left
            assert not report.heuristics

    def judge(self, told: dict[str, str]) -> dict[str, int]:
        """How many of these transfers are torn, lie to their caller, or are in doubt; and how many are committed."""
        here, there = self.count(SIDES[0]), self.count(SIDES[1])
        in_doubt = 0
        for url in self.urls.values():  # the server is shared: other tests leave branches in databases of their own
            with psycopg.connect(url, autocommit=True) as connection:
                query = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
                in_doubt += connection.execute(query).fetchall()[0][0]
        rows = {name: (here.get(name, 0), there.get(name, 0)) for name in told}
        wrong = [name for name, what in told.items() if what and (what == "committed") != (rows[name] == (1, 1))]
        assert wrong == [], f"told otherwise: {wrong}"
        return {
            "torn": sum(one != (0, 0) and one != (1, 1) for one in rows.values()),
            "in doubt": in_doubt,
            "committed": sum(one == (1, 1) for one in rows.values()),
        }


@pytest.fixture
def pair(postgres_server: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    name = f"baseline_{abs(hash(request.node.name)) % 10**8}"
    urls = {side: postgres_server.create_database(f"{name}_{side}") for side in SIDES}
    for url in urls.values():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE transfer (id TEXT, amount INT)")
    with quiet():
        yield Pair(urls, str(tmp_path / "journal"))


@pytest.fixture
def settled(record_property: Callable[[str, object], None]) -> Callable[[str, dict[str, int], int], None]:
    def settled(column: str, judged: dict[str, int], tries: int) -> None:
        print(f"{column}: {judged} of {tries}")
        record_property("faults", [column, tries, judged["torn"], judged["in doubt"]])
        assert judged["torn"] == 0
        assert judged["in doubt"] == 0

    return settled


Settled = Callable[[str, dict[str, int], int], None]


def work(tx: Any, name: str) -> None:
    for side in SIDES:
        tx.connect(side).execute("INSERT INTO transfer VALUES (%s, 1)", (name,))


def test_the_reply_to_the_first_commit_prepared_is_lost(pair: Pair, settled: Settled) -> None:
    told = {}
    with FaultProxy(pair.urls["here"]) as proxy:
        through = {**pair.urls, "here": proxy.url(pair.urls["here"]) + "?sslmode=disable"}

        def arm(point: StepPoint, step: Step) -> None:
            if what_of(step) == "COMMIT PREPARED" and not armed:
                armed.append(proxy.lose_reply())

        for number in range(TRIES):
            armed: list[None] = []
            with TransactionManager(pair.journal, through, background=False) as manager:
                manager._runner.observer = arm
                with manager.transaction() as tx:
                    work(tx, f"lost-{number}")
                told[f"lost-{number}"] = "committed"
            assert armed
    pair.recover()
    judged = pair.judge(told)
    settled("first COMMIT PREPARED lost", judged, TRIES)
    assert judged["committed"] == TRIES


async def _wait_for_transfers(pair: Pair, chance: random.Random) -> dict[str, str]:
    told = {}
    async with AsyncTransactionManager(pair.journal, pair.urls) as manager:

        async def transfer(name: str, started: asyncio.Event) -> None:
            async with manager.transaction(id=name) as tx:
                for side in SIDES:
                    connection = await tx.connect(side)
                    await connection.execute("INSERT INTO transfer VALUES (%s, 1)", (name,))
                started.set()

        usual_s = await _time_of_a_commit(transfer)
        for number in range(CANCELLED_TRANSFERS):
            name, started = f"cancelled-{number}", asyncio.Event()
            task = asyncio.create_task(transfer(name, started))
            await started.wait()
            try:
                await asyncio.wait_for(task, chance.uniform(0, usual_s))
                told[name] = "committed"
            except TimeoutError:
                state = (await manager.outcome(name)).state
                assert state in (OutcomeState.COMMITTED, OutcomeState.ABORTED_OR_UNKNOWN), state
                told[name] = "committed" if state is OutcomeState.COMMITTED else "aborted"
    return told


async def _time_of_a_commit(transfer: Callable[[str, asyncio.Event], Any]) -> float:
    """Seconds from the last statement to the end, the shortest of a few."""
    shortest = 1.0
    for number in range(10):
        started = asyncio.Event()
        task = asyncio.create_task(transfer(f"usual-{number}", started))
        await started.wait()
        began = time.monotonic()
        await task
        shortest = min(shortest, time.monotonic() - began)
    return shortest


def test_wait_for_ends_during_the_commit(pair: Pair, settled: Settled) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    told = asyncio.run(_wait_for_transfers(pair, random.Random(seed)))
    pair.recover()
    judged = pair.judge(told)
    settled("wait_for during commit", judged, CANCELLED_TRANSFERS)
    assert 0 < judged["committed"] < CANCELLED_TRANSFERS, f"not all came at one moment: {judged}"


def swallow(tx: Any, name: str, side: str) -> None:
    work(tx, name)
    with contextlib.suppress(psycopg.Error):
        tx.connect(side).execute("INSERT INTO no_such_table VALUES (1)")


@pytest.mark.parametrize("side", SIDES)
def test_a_swallowed_error_and_then_commit(pair: Pair, settled: Settled, side: str) -> None:
    told = {}
    with TransactionManager(pair.journal, pair.urls) as manager:
        for number in range(TRIES):
            name = f"swallowed-{number}"
            with pytest.raises(TransactionAborted):
                manager.run(swallow, name, side)
            told[name] = "aborted"
    pair.recover()
    settled("swallowed error", pair.judge(told), TRIES)


def test_kill_9_between_the_commits(pair: Pair, settled: Settled) -> None:
    told = {}
    for number in range(KILLS):
        name = f"killed-{number}"
        order = json.dumps([pair.journal, pair.urls, name])
        child = subprocess.run([sys.executable, "-m", "tests.crash.test_baselines", order], check=False)
        assert child.returncode == -signal.SIGKILL
        before = pair.judge({name: ""})
        assert before["torn"] == before["in doubt"] == 1, f"it was not between the commits: {before}"
        pair.recover()
        told[name] = "committed"  # there was a record
    settled("kill -9 between the commits", pair.judge(told), KILLS)


def _die_between_the_commits(journal: str, urls: dict[str, str], name: str) -> None:
    import os
    import threading

    def hold(point: StepPoint, step: Step) -> None:
        if what_of(step) != "COMMIT PREPARED":
            return
        with one_at_a_time:
            held.append(step)
            is_second = len(held) == 2
        if is_second:
            first_is_done.wait()
            os.kill(os.getpid(), signal.SIGKILL)

    def note(point: StepPoint, step: Step, outcome: object) -> None:
        if held and step is held[0]:
            first_is_done.set()

    one_at_a_time, held, first_is_done = threading.Lock(), list[Step](), threading.Event()
    with TransactionManager(journal, urls, background=False) as manager:
        manager._runner.observer, manager._runner.observer_after = hold, note
        with manager.transaction() as tx:
            work(tx, name)


if __name__ == "__main__":
    _die_between_the_commits(*json.loads(sys.argv[1]))
