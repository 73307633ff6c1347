"""Claims in a database (C7): exclusive among processes and within one, taken over from the dead, never left behind.

The same tests on PostgreSQL and MariaDB.
"""

from __future__ import annotations

import time

import pytest

from syncpoint.journal.base import Claim
from syncpoint.testing.proxy import FaultProxy
from syncpoint.testing.servers.base import wait_until
from tests.journal.database_world import FAST, InThread, Process, World, all_at_once, commit, transaction

ID = transaction(42)
RELEASE_S_MAX = 0.5
"""How long another process may go on seeing "running" after a release; it is milliseconds, the machine is shared."""


def _claim(process: Process, number: int = 42) -> Claim:
    answer = process(process.journal.claim(transaction(number)))
    assert isinstance(answer, Claim)
    return answer


def test_c7_a_claim_is_exclusive_among_processes_and_within_one(world: World) -> None:
    one, other = world.process(), world.process()
    assert _claim(one).mine
    assert _claim(one).running
    assert _claim(other).running
    assert world.claims() == [one.incarnation]
    one.journal.release(ID)
    wait_until(lambda: world.claims() == [], "it is given back")
    assert _claim(other).mine
    assert _claim(one).running


def test_eight_at_once_one_has_it(world: World) -> None:
    one, other = world.process(), world.process()
    for number in range(10, 18):
        threads = all_at_once(
            [lambda process=process, number=number: _claim(process, number) for process in [one, other] * 4]
        )
        answers = [thread.result() for thread in threads]
        assert [answer.mine for answer in answers].count(True) == 1
        assert [answer.running for answer in answers].count(True) == 7


def test_a_committed_id_stays_committed(world: World) -> None:
    one, other = world.process(), world.process()
    key = one.key(42)
    assert _claim(one).mine
    record = commit(key, user_id="order-42", result=b"r")
    assert one.force(record)
    one.ends(key)
    one.journal.release(ID)
    for process in (one, other):
        assert _claim(process).committed == record
        assert process(process.journal.find(ID)) == record
    wait_until(lambda: world.claims() == [], "who only asked has no claim")


def test_the_claim_of_who_is_not_heard_of_any_more_is_had_without_waiting_for_a_pass(world: World) -> None:
    """An operator's command, or a resend, may come before anybody has taken over."""
    one, other = world.process(), world.process()
    assert _claim(one).mine
    one.fall_silent()
    world.age_heartbeat(one.incarnation, 600)
    assert _claim(other).mine
    assert world.keepers()[one.incarnation] == other.incarnation


def test_released_it_is_visible_again_within_milliseconds(world: World) -> None:
    one, other = world.process(heartbeat_s=5), world.process(heartbeat_s=5)
    waited = []
    for _ in range(10):
        assert _claim(one).mine
        assert _claim(other).running
        one.journal.release(ID)
        began = time.monotonic()
        while not _claim(other).mine:
            assert time.monotonic() - began < RELEASE_S_MAX
        waited.append(time.monotonic() - began)
        other.journal.release(ID)
        while not _claim(one).mine:
            pass
        one.journal.release(ID)
    print(f"released after {sorted(waited)[5] * 1000:.1f} ms (median), {max(waited) * 1000:.1f} ms (worst)")


def test_released_and_claimed_again_by_the_same_process_at_once(world: World) -> None:
    one = world.process(heartbeat_s=5)
    for _ in range(20):
        assert _claim(one).mine
        one.journal.release(ID)
    assert len(world.claims()) <= 1


def test_a_claim_of_a_process_taken_for_dead_goes_to_the_next_who_asks(world: World) -> None:
    dead, one = world.process(**FAST), world.process(**FAST)
    assert _claim(dead).mine
    key = dead.key(42)
    dead.fall_silent()
    assert _claim(one).running, "until it is taken over"
    one.takes_over(dead.incarnation)
    assert _claim(one).mine
    assert world.claims() == [one.incarnation]
    assert not dead.commits(key)
    dead.journal.release(ID)
    dead(dead.journal._lazily.flush(durable=False))
    assert world.claims() == [one.incarnation], "its late release is of its own claim"


def test_claims_of_the_dead_that_nobody_asks_for_are_removed(world: World) -> None:
    dead, one = world.process(**FAST), world.process(**FAST)
    for number in range(1, 6):
        assert _claim(dead, number).mine
    dead.fall_silent()
    one.takes_over(dead.incarnation)
    one.clean()
    assert world.claims() == []


def test_what_a_process_claims_goes_when_it_ends(world: World) -> None:
    one = world.process()
    assert _claim(one).mine
    one.close()
    assert world.claims() == []
    assert world.keepers() == {}
    assert world.count("heartbeat") == 0


@pytest.mark.parametrize("fault", ["lose_reply", "lose_request", "hold_request"])
def test_a_lost_reply_to_claim_leaves_nothing_for_ever(world: World, fault: str) -> None:
    with FaultProxy(world.url) as proxy:
        one, other = world.process(proxy.url(world.url), heartbeat_s=30), world.process()
        wait_until(lambda: bool(world.see("SELECT 1 FROM syncpoint.heartbeat")), "it lives")
        getattr(proxy, fault)()
        assert _claim(one).mine, "a claim may be sent twice"
        one.journal.release(ID)
        proxy.release()
        proxy.settle()
        one.clean()
        wait_until(lambda: world.claims() == [], "nothing of it is left")
        assert _claim(other).mine


def test_a_lost_reply_to_a_release_leaves_nothing_for_ever(world: World) -> None:
    with FaultProxy(world.url) as proxy:
        one, other = world.process(proxy.url(world.url), heartbeat_s=30), world.process()
        for fault in ("lose_reply", "lose_request", "hold_request"):
            assert _claim(one).mine
            getattr(proxy, fault)()
            one.journal.release(ID)
            wait_until(lambda: world.claims() == [], "given back", 5.0)
            proxy.release()
            assert _claim(other).mine
            other.journal.release(ID)
            wait_until(lambda: world.claims() == [], "given back", 5.0)


def test_a_claim_that_arrives_after_its_release_is_found_and_given_back(world: World) -> None:
    """The request was held up on its way: nobody here knows of it."""
    one, other = world.process(), world.process()
    for statement in world.sql.claim(ID, one.incarnation)[:2]:
        world.see(statement)
    assert _claim(other).running
    one.clean()
    assert world.claims() == []
    assert _claim(other).mine


def test_a_claim_made_while_orphans_are_looked_for_is_not_one(world: World) -> None:
    one = world.process()
    rounds = 40

    def claims() -> int:
        held = 0
        for number in range(1, rounds):
            held += _claim(one, number).mine
        return held

    claiming = InThread(claims)
    while claiming.is_running:
        one.clean()
    assert claiming.result() == rounds - 1
    one.clean()
    assert world.claims() == [one.incarnation] * (rounds - 1)
