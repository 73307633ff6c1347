"""Many at once: no error reaches anybody for being in somebody's way; and what one transaction costs.

The same tests on PostgreSQL and MariaDB. Costs are counted as packets seen on the wire and forces of the server.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from syncpoint.testing.servers.base import wait_until
from tests.conformance.wire import CountingProxy
from tests.journal.database_world import InThread, Process, World, all_at_once, commit

QUIET = {"heartbeat_s": 30.0, "dead_after_s": 60.0}


def test_sixty_four_forces_at_once_through_few_sessions(world: World) -> None:
    one = world.process(sessions_max=4)
    keys = [one.key() for _ in range(64)]
    threads = all_at_once([lambda key=key: one.commits(key) for key in keys])
    assert [thread.result() for thread in threads] == [True] * 64
    assert world.count("record") == 64


CHILD = """
import sys, threading
from tests.journal.database_world import Process, commit
from syncpoint.records import End, key_fields

process = Process(sys.argv[1], heartbeat_s=0.1, dead_after_s=30).open()
journal, errors = process.journal, []

def work(thread):
    try:
        for number in range(int(sys.argv[2])):
            key = process.key(1 + (thread * 100 + number) % 40 if number % 3 == 0 else 0)
            mine = process(journal.claim(key.transaction)).mine
            if mine and number % 7 == 0:
                assert process.aborts(key)
            elif mine and process.commits(key, user_id="x" if number % 2 else None):
                journal.note([End(**key_fields(key))])
            if mine:
                journal.release(key.transaction)
            if number % 5 == 0:
                process.look()
            if number % 11 == 0:
                process.force()
    except BaseException as error:
        errors.append(repr(error))

threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
cleaning = threading.Event()
def clean():
    while not cleaning.wait(0.05):
        try:
            process.clean()
        except BaseException as error:
            errors.append(repr(error))
cleaner = threading.Thread(target=clean)
for thread in (cleaner, *threads):
    thread.start()
for thread in threads:
    thread.join()
cleaning.set()
cleaner.join()
process.close()
print(errors[:3] if errors else "well", flush=True)
"""


def test_sixteen_threads_in_four_processes_meet_no_error_and_leave_nothing(world: World) -> None:
    """Claims, decisions, aborts, ends, cleaning, all over the same few ids: locks in every order."""
    world.process().close()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, world.url, "12"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(4)
    ]
    said = [child.communicate(timeout=120)[0].strip() for child in children]
    assert said == ["well"] * 4
    last = world.process()
    last.look()
    last.clean()
    last.clean()
    assert world.count("record", "ended IS NULL") == 0
    assert world.claims() == []
    assert world.keepers() == {last.incarnation: last.incarnation}
    doubles = world.see("SELECT transaction FROM syncpoint.record GROUP BY transaction HAVING count(once) > 1")
    assert doubles == []


def test_signs_of_life_get_through_while_decisions_stand_in_line(world: World) -> None:
    one, other = world.process(sessions_max=2, heartbeat_s=0.1, dead_after_s=1.5), world.process()
    holder = world.another()
    holder(world.begin)
    key = one.key()
    holder(one.journal.decision(commit(key)))
    stuck = [InThread(lambda: one.commits(key)) for _ in range(3)]
    wait_until(world.is_waiting, "the only other session waits for a lock")
    beats = set()

    def heard() -> bool:
        beats.update(world.see(f"SELECT beat FROM syncpoint.heartbeat WHERE incarnation = {one.incarnation}"))
        return len(beats) >= 5

    wait_until(heard, "signs of life", 5.0)
    assert any(thread.is_running for thread in stuck)
    holder("COMMIT")
    assert [thread.result() for thread in stuck] == [False] * 3
    assert one.incarnation in other.look().live


def test_signs_of_life_get_through_while_threads_compute(world: World) -> None:
    """Threads that never wait take turns with the one that gives signs of life (the interpreter's lock)."""
    one, other = world.process(heartbeat_s=0.1, dead_after_s=5), world.process(dead_after_s=5)
    enough = threading.Event()

    def compute() -> None:
        while not enough.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=compute) for _ in range(8)]
    for thread in threads:
        thread.start()
    beats = set()

    def heard() -> bool:
        beats.update(world.see(f"SELECT beat FROM syncpoint.heartbeat WHERE incarnation = {one.incarnation}"))
        return len(beats) >= 5

    try:
        wait_until(heard, "signs of life")
        assert one.incarnation in other.look().live
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert one.commits(one.key())


# --- costs ----------------------------------------------------------------------------------------------------------


class Costs:
    """Round trips on the wire, and forces of the server's log: the least of several times, since servers work too."""

    def __init__(self, world: World, process: Process, proxy: CountingProxy) -> None:
        self.least: dict[str, tuple[int, int]] = {}
        self._world = world
        self._process = process
        self._proxy = proxy

    def count(self, name: str, call: Callable[[], object]) -> None:
        forces, trips = self._forces(), self._proxy.round_trips
        call()
        spent = self._proxy.round_trips - trips, self._forces() - forces
        self.least[name] = min(spent, self.least.get(name, spent))

    def _forces(self) -> int:
        if self._world.kind == "mariadb":
            return int(self._world.see("SHOW GLOBAL STATUS LIKE 'Innodb_log_writes'")[0][1])
        # The session that worked tells what it has counted; it is the only one.
        self._process(self._process.journal._wire.ask(["SELECT pg_catalog.pg_stat_force_next_flush()"], "count"))
        query = "SELECT coalesce(sum(fsyncs), 0) FROM pg_stat_io WHERE object = 'wal'"
        if int(self._world.see("SHOW server_version_num")[0][0]) < 180000:
            query = "SELECT wal_sync FROM pg_stat_wal"
        else:
            query += " AND backend_type = 'client backend'"
        return int(self._world.see(query)[0][0])


@pytest.mark.parametrize("with_id", [False, True], ids=["without-id", "with-id"])
def test_what_one_transaction_costs(world: World, with_id: bool) -> None:
    """One round trip and one force for the decision; one round trip for the claim; ends and releases are lazy, and a
    hundred of them cost no more."""
    with CountingProxy(world.url) as proxy:
        one = world.process(proxy.url(world.url), **QUIET)
        costs, lazily = Costs(world, one, proxy), one.journal._lazily
        for number in range(10):
            key = one.key()
            if with_id:
                costs.count("claim", lambda key=key: one(one.journal.claim(key.transaction)))  # type: ignore[misc]
            costs.count("commit", lambda key=key: one.commits(key, user_id="x" if with_id else None))  # type: ignore[misc]
            with lazily.mutex:  # so that it is not written in the background
                lazily._ends.update([key] + [one.key() for _ in range(number % 2 * 100)])
                if with_id:
                    lazily._releases[key.transaction] = lazily.claims.pop(key.transaction)
            costs.count("end", lambda: one(lazily.flush(durable=False)))
        print(world.kind, "with id" if with_id else "without id", costs.least)
        lazy = 0 if world.kind == "postgresql" else 1
        claimed = {"claim": (1, lazy)} if with_id else {}
        assert costs.least == {**claimed, "commit": (1, 1), "end": (1, lazy)}
        one.close()
