"""Replies that are lost, ends in the middle of it.

The same tests on PostgreSQL and MariaDB. A lost reply reads neither as success nor as failure: `JournalUncertain`, or
the packet was one that can be sent again. Not for: servers that are stopped (test_database_restarts.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from syncpoint.errors import JournalUncertain
from syncpoint.records import CoordinatorKnown, End, Forgotten, key_fields
from syncpoint.testing.proxy import FaultProxy
from syncpoint.testing.servers.base import wait_until
from tests.journal.database_world import InThread, Process, World, abort, commit

QUIET = {"heartbeat_s": 30.0, "dead_after_s": 60.0}
FAULTS = ["lose_reply", "lose_request", "hold_request"]


@pytest.fixture
def proxied(world: World) -> Any:
    with FaultProxy(world.url) as proxy:
        process = world.process(proxy.url(world.url), **QUIET)
        assert process.commits(process.key())  # a connection is open
        process.fall_silent()  # the fault is for what the test does, not for a sign of life that comes late
        yield proxy, process
        process.close()


# --- every packet ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_o46_a_lost_reply_to_commit_is_settled_by_abort(world: World, proxied: Any, fault: str) -> None:
    proxy, one = proxied
    key = one.key()
    getattr(proxy, fault)()
    with pytest.raises(JournalUncertain):
        one.commits(key)
    if fault == "lose_reply":
        proxy.settle()
    won = one.aborts(key)
    assert won is (fault != "lose_reply")
    proxy.release()
    kind = "abort" if won else "commit"
    assert [found for found in world.records() if found[1] == str(key)] == [(kind, str(key))]
    assert one.aborts(key) is won, "whoever asks again is told the same"


@pytest.mark.parametrize("fault", FAULTS)
def test_everything_that_can_be_sent_twice_is(world: World, proxied: Any, fault: str) -> None:
    """Nobody notices. What was held up arrives later still, and changes nothing."""
    proxy, one = proxied
    journal = one.journal
    kept, plain, aborted, noted, claimed = (one.key() for _ in range(5))
    assert one.commits(kept, user_id="x")
    assert one.commits(plain)
    heuristic = Forgotten(**key_fields(noted), who="w", at_ms=1)
    steps: list[tuple[str, Callable[[], Any], Any]] = [
        ("abort", lambda: one.aborts(aborted), True),
        ("abort of a commit", lambda: one.aborts(kept), False),
        ("claim", lambda: one(journal.claim(claimed.transaction)).mine, True),
        ("claim of a committed id", lambda: one(journal.claim(kept.transaction)).committed, commit(kept, user_id="x")),
        ("find", lambda: one(journal.find(kept.transaction)), commit(kept, user_id="x")),
        ("look", lambda: kept in one.look().decisions, True),
        ("watch", lambda: one(journal.watch()), frozenset()),
        ("confirm", lambda: one(journal.confirm(one.incarnation)), True),
        ("ended", lambda: one(journal.ended_incarnations({99})), {99}),
        ("counter", lambda: one(journal.highest_incarnation()), one.incarnation),
        ("note", lambda: len(one.force(heuristic)), 1),
        ("name", lambda: len(one.force(CoordinatorKnown(guid=b"G" * 16, address="a"))), 1),
        ("notes", lambda: one(journal.heuristics()), []),
        ("story", lambda: len(one(journal.story(kept.transaction)).records), 1),
        ("list", lambda: kept in one(journal.transactions()), True),
        ("end", lambda: len(one.force(End(**key_fields(kept)))), 1),
        ("beat", lambda: one(journal._living._beat()), None),
        ("clean", lambda: one.clean(), None),
    ]
    for name, step, expected in steps:
        one.force()  # what the last step left to be written later
        getattr(proxy, fault)()
        assert step() == expected, name
        assert proxy.disarm(), f"{name}: the fault did not strike"
        proxy.release()
    assert one.look().decisions.keys() == world_decisions(world, one)
    assert world.count("note") == 1
    assert world.keepers() == {one.incarnation: one.incarnation}


def world_decisions(world: World, one: Process) -> set[Any]:
    view = one.look()
    return {key for key in view.decisions if ("commit", str(key)) in world.records()}


def test_a_lost_reply_to_drawing_costs_one_number(world: World, proxied: Any) -> None:
    proxy, one = proxied
    old = one.incarnation
    world.see(f"UPDATE syncpoint.incarnation SET keeper = 99 WHERE incarnation = {old}")
    proxy.lose_reply()
    one(one.journal._living._begin_anew(old))
    assert one.incarnation == old + 2
    assert one.commits(one.key())
    world.age_heartbeat(old + 1, 600)  # nobody ever gives a sign of life for it
    one.takes_over(old + 1)
    one.clean()
    assert set(world.keepers()) == {old, one.incarnation}


def test_a_lost_reply_to_taking_over_hides_nothing(world: World, proxied: Any) -> None:
    proxy, one = proxied
    dead = world.process(**QUIET)
    key = dead.key()
    assert dead.commits(key)
    dead.fall_silent()
    for fault in FAULTS:
        world.see(f"UPDATE syncpoint.incarnation SET keeper = incarnation WHERE incarnation = {dead.incarnation}")
        world.age_heartbeat(dead.incarnation, 600)
        getattr(proxy, fault)()
        one(one.journal._living._take_over(one.incarnation, dead.incarnation, dead.incarnation))
        proxy.release()
        assert one.journal._living.inherited() == {dead.incarnation}
        assert list(one.look().decisions.keys() & {key}) == [key]


# --- ends in the middle of it ----------------------------------------------------------------------------------------


def test_closing_while_the_database_is_away_takes_bounded_time(world: World) -> None:
    with FaultProxy(world.url) as proxy:
        one = world.process(proxy.url(world.url), heartbeat_s=0.1, dead_after_s=30)
        key = one.key()
        assert one.commits(key)
        one.journal.note([End(**key_fields(key))])
        proxy.close()
        began = time.monotonic()
        one(one.journal.close())
        assert time.monotonic() - began < 7


def test_closing_while_a_packet_is_under_way_waits_and_throws_nothing_into_it(world: World) -> None:
    one = world.process(heartbeat_s=0.05, dead_after_s=30)
    holder = world.another()
    holder(world.begin)
    holder(f"UPDATE syncpoint.heartbeat SET beat = beat WHERE incarnation = {one.incarnation}")
    wait_until(world.is_waiting, "a sign of life is stuck in the middle of its packet")
    closing = InThread(lambda: one(one.journal.close()))
    wait_until(lambda: one.journal._state != "open", "it closes")
    holder("COMMIT")
    closing.result(10)
    assert world.keepers() == {}
    assert world.count("heartbeat") == 0
    for task in one.journal._tasks:
        assert task.error is None


def test_a_failed_packet_of_signs_of_life_does_not_end_them(world: World) -> None:
    """Whatever the error: a process without signs of life would be taken over again and again."""
    one = world.process(heartbeat_s=0.05, dead_after_s=30)
    living, errors = one.journal._living, []

    def failing(*_: Any) -> Any:
        errors.append(1)
        raise RuntimeError("anything")

    beat, living._beat = living._beat, failing  # type: ignore[method-assign]
    wait_until(lambda: len(errors) >= 3, "it is tried again")
    living._beat = beat  # type: ignore[method-assign]
    before = world.see("SELECT beat FROM syncpoint.heartbeat")
    wait_until(lambda: world.see("SELECT beat FROM syncpoint.heartbeat") != before, "a sign of life")


def test_abort_behind_an_open_commit_knows_nothing(world: World) -> None:
    """O47: who waits for a Commit that is being written decides nothing; afterwards the Commit is seen."""
    one = world.process()
    key = one.key()
    deciding = world.another()
    deciding(world.begin)
    deciding(one.journal.decision(commit(key)))
    with pytest.raises(JournalUncertain):
        one.force(abort(key))
    deciding("COMMIT")
    assert not one.aborts(key)
    assert world.records() == [("commit", str(key))]
