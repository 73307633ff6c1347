"""Servers that go away and come back: nothing decided is lost, and nobody is judged by an outage.

The same tests on PostgreSQL and MariaDB. Apart from test_database_faults.py, since these stop the server that others
use too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from syncpoint.errors import JournalError, JournalUnavailable, JournalUncertain
from syncpoint.testing.servers.base import wait_until
from tests.journal.database_world import InThread, Process, World


def test_a_server_restarted_between_packets_is_no_matter(world: World) -> None:
    one = world.process(heartbeat_s=0.1, dead_after_s=30)
    key = one.key()
    assert one.commits(key)
    _restart(world)
    assert list(one.look().decisions) == [key]
    second = one.key()
    try:
        accepted = one.commits(second)
    except JournalUncertain:  # an idle connection had not noticed yet
        accepted = not one.aborts(second)
    assert (("commit", str(second)) in world.records()) is accepted
    one.ends(key)


def test_a_server_killed_after_the_decision_still_has_it(world: World) -> None:
    one = world.process(heartbeat_s=0.1, dead_after_s=30)
    keys = [one.key() for _ in range(20)]
    for key in keys:
        assert one.commits(key)
    _restart(world, kill=True)
    assert {found for _, found in world.records()} == {str(key) for key in keys}
    wait_until(lambda: set(_or_none(one.look, "decisions") or ()) == set(keys), "it goes on")


def _or_none(call: Callable[[], Any], name: str) -> Any:
    try:
        return getattr(call(), name)
    except JournalError:
        return None


def _restart(world: World, *, kill: bool = False) -> None:
    world.see.close()
    (world.server.kill if kill else world.server.stop)()
    world.server.start()
    world.see = world.connect()


def test_away_for_longer_than_it_takes_to_be_taken_for_dead_and_back(world: World) -> None:
    """Nobody was heard of: those who run judge nobody by it."""
    one, other = (world.process(heartbeat_s=0.2, dead_after_s=1.0) for _ in range(2))
    numbers = {one.incarnation, other.incarnation}
    enough = threading.Event()
    watching = [InThread(lambda process=process: _watch_until(process, enough)) for process in (one, other)]
    world.see.close()
    world.server.stop()
    with pytest.raises((JournalUnavailable, JournalUncertain)):
        one.commits(one.key())
    away_since = time.monotonic()
    wait_until(lambda: time.monotonic() - away_since > 1.2, "longer than dead_after_s")
    world.server.start()
    world.see = world.connect()
    fresh = f"beat > {world.store.ago(0.5)}"
    wait_until(lambda: world.count("heartbeat", fresh) == 2, "both are heard of again")
    enough.set()
    assert [thread.result() for thread in watching] == [frozenset(), frozenset()]
    assert world.keepers() == {number: number for number in numbers}
    assert {one.incarnation, other.incarnation} == numbers
    for process in (one, other):
        assert process.commits(process.key())


def _watch_until(process: Process, enough: threading.Event) -> frozenset[Any]:
    found: frozenset[Any] = frozenset()
    while not enough.wait(0.02):
        with contextlib.suppress(JournalError):
            found |= process(process.journal.watch())
    return found
