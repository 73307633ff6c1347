"""Rows that nobody asks for any more are removed: never before it is safe, in small batches, in nobody's way.

The same tests on PostgreSQL and MariaDB; and what recovery is shown (`look`, `story`, `ended_incarnations`, notes).
"""

from __future__ import annotations

import pytest

from syncpoint.ids import Guid, Incarnation
from syncpoint.journal import lazily
from syncpoint.journal.base import Verdict
from syncpoint.records import CoordinatorKnown, End, Forgotten, Heuristic, Resolved, ResourceKnown, key_fields
from syncpoint.testing.servers.base import wait_until
from tests.journal.database_world import FAST, InThread, Process, World, abort, commit

# --- removed, and not -----------------------------------------------------------------------------------------------


def test_a_result_goes_after_its_retention_and_only_when_it_has_ended(world: World) -> None:
    one = world.process(retention_s=3600)
    ended, open_, plain = one.key(), one.key(), one.key()
    for key, user_id in ((ended, "a"), (open_, "b"), (plain, None)):
        assert one.commits(key, user_id=user_id)
    one.ends(ended, plain)
    assert sorted(world.records()) == sorted([("commit", str(ended)), ("commit", str(open_))]), "no result, no row"
    one.clean()
    assert len(world.records()) == 2
    ago = world.store.ago(3601)
    world.see(f"UPDATE syncpoint.record SET ended = {ago} WHERE ended IS NOT NULL")
    one.clean()
    assert world.records() == [("commit", str(open_))]
    assert list(one.look().decisions) == [open_]
    assert one(one.journal.find(ended.transaction)) is None


def test_ended_twice_keeps_the_first_time(world: World) -> None:
    one = world.process()
    key = one.key()
    assert one.commits(key, user_id="a")
    one.ends(key)
    first = world.see("SELECT ended FROM syncpoint.record")
    one.ends(key)
    assert world.see("SELECT ended FROM syncpoint.record") == first


def test_an_abort_goes_only_when_its_incarnation_can_decide_no_more(world: World) -> None:
    one, other = world.process(**FAST), world.process(**FAST)
    key = other.key()
    assert other.aborts(key)
    one.clean()
    assert world.records() == [("abort", str(key))]
    other.fall_silent()
    one.takes_over(other.incarnation)
    one.clean()
    one.clean()
    assert world.records() == []
    assert world.keepers() == {one.incarnation: one.incarnation}
    assert world.count("heartbeat") == 1


def test_an_incarnation_stays_while_it_has_something_unfinished(world: World) -> None:
    one, other = world.process(**FAST), world.process(**FAST)
    key = other.key()
    assert other.commits(key)
    other.fall_silent()
    one.takes_over(other.incarnation)
    one.clean()
    assert world.keepers() == {one.incarnation: one.incarnation, other.incarnation: one.incarnation}
    assert one(one.journal.ended_incarnations({other.incarnation, one.incarnation})) == set()
    one.ends(key)
    assert one(one.journal.ended_incarnations({other.incarnation, one.incarnation})) == {other.incarnation}
    one.clean()
    assert world.keepers() == {one.incarnation: one.incarnation}


def test_one_process_cleans_for_all(world: World) -> None:
    one, other = world.process(), world.process()
    dead = Incarnation(1000)
    world.see(f"INSERT INTO syncpoint.claim (transaction, incarnation) VALUES ({world.store.raw(b'c' * 16)}, {dead})")
    other.clean()
    assert world.claims() == [dead], "the oldest that lives does it"
    one.clean()
    assert world.claims() == []


def test_it_is_cleaned_now_and_then(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazily, "CLEAN_PERIOD_S", 0.05)
    world.process()
    for letter in (b"c", b"d"):  # more than once
        raw = world.store.raw(letter * 16)
        world.see(f"INSERT INTO syncpoint.claim (transaction, incarnation) VALUES ({raw}, 1000)")
        wait_until(lambda: world.claims() == [], "the claim of a dead process is gone")


def test_batch_after_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazily, "CLEAN_BATCH", 7)
    one = world.process(retention_s=0.001)
    keys = [one.key() for _ in range(30)]
    for key in keys:
        assert one.commits(key, user_id="x")
    one.ends(*keys)
    one.clean()
    assert world.records() == []


def test_cleaning_never_waits_for_an_open_decision_nor_it_for_cleaning(world: World) -> None:
    """Rows are named by their whole key: with (a, b) IN ((1, 2)) MariaDB would lock the whole table."""
    one, other = world.process(retention_s=0.001), world.process()
    open_key, abort_key, done = other.key(), one.key(), [one.key() for _ in range(20)]
    deciding = world.another()
    deciding(world.begin)
    deciding(other.journal.decision(commit(open_key)))
    for key in done:
        assert one.commits(key, user_id="x" if key.attempt.counter % 2 else None)
    assert one.aborts(abort_key)
    one.ends(done[0])
    one.ends(*done)
    assert one(one.journal.claim(done[0].transaction)).mine or True
    one.journal.release(done[0].transaction)
    cleaning = InThread(one.clean)
    cleaning.result(0.9)  # less than it would wait for a lock
    deciding(other.journal.decision(commit(other.key())))
    deciding("COMMIT")
    assert [kind for kind, _ in world.records()].count("commit") == 2


def test_a_long_lived_process_leaves_no_rows(world: World) -> None:
    one = world.process()
    for _ in range(5000 // 100):
        keys = [one.key() for _ in range(100)]
        # As the decisions of a hundred transactions arrive: one packet, so that the test is quick.
        one(one.journal._wire.ask([world.sql.commit(commit(key)) for key in keys], "decide"))
        one.journal.note([End(**key_fields(key)) for key in keys])
    one.force()
    one.clean()
    counts = {table: world.count(table) for table in ("record", "claim", "note", "incarnation", "heartbeat")}
    assert counts == {"record": 0, "claim": 0, "note": 0, "incarnation": 1, "heartbeat": 1}


# --- what recovery sees ---------------------------------------------------------------------------------------------


def test_look_tells_whose_everything_is(world: World) -> None:
    one, other, gone = world.process(), world.process(), world.process()
    mine, theirs, left, noted = one.key(), other.key(), gone.key(), one.key()
    assert one.commits(mine)
    assert one.commits(noted)
    assert other.commits(theirs)
    assert gone.commits(left)
    gone.close()
    one.journal.note([End(**key_fields(noted))])
    one.force(CoordinatorKnown(guid=b"A" * 16, address="old", adopted=True))
    one.force(CoordinatorKnown(guid=b"B" * 16, address="known only"))
    view = one(one.journal.look(inherit=False))
    assert view.live == {other.incarnation}
    assert set(view.decisions) == {mine} if noted in view.ended else {mine, noted}
    assert view.elsewhere == {left}, "nobody's yet"
    assert view.coordinators == {one.journal.coordinator, Guid(b"A" * 16)}
    view = one.look()
    assert view.inherited == {gone.incarnation}
    assert set(view.decisions) >= {mine, left}
    assert theirs not in view.decisions
    assert other.look().elsewhere == {left} | ({mine, noted} & set())


def test_ended_and_noted_is_told_from_open(world: World) -> None:
    one = world.process(heartbeat_s=30)
    open_, noted = one.key(), one.key()
    assert one.commits(open_)
    assert one.commits(noted)
    one.journal.note([End(**key_fields(noted))])
    view = one.look()
    assert (set(view.decisions), view.ended) == ({open_}, {noted})


def test_ends_are_written_soon_without_a_force(world: World) -> None:
    one = world.process(heartbeat_s=0.05)
    key = one.key()
    assert one.commits(key)
    one.journal.note([End(**key_fields(key))])
    wait_until(lambda: world.records() == [], "it is ended", 5.0)


def test_confirm_is_for_our_own_only(world: World) -> None:
    one, other = world.process(), world.process()
    assert one(one.journal.confirm(one.incarnation))
    assert not one(one.journal.confirm(other.incarnation))
    world.see(f"DELETE FROM syncpoint.incarnation WHERE incarnation = {one.incarnation}")
    assert not one(one.journal.confirm(one.incarnation))


def test_whether_a_record_has_ended_is_seen_by_all(world: World) -> None:
    """O19: evidence that is absent proves something only while the record is still to be ended."""
    one, other = world.process(), world.process()
    plain, with_id, aborted = one.key(), one.key(), one.key()
    assert one.commits(plain)
    assert one.commits(with_id, user_id="x")
    assert one.aborts(aborted)
    unended = [other(other.journal.unended(key)) for key in (plain, with_id, aborted, one.key())]
    assert unended == [True, True, False, False]
    one(one.journal.force([End(**key_fields(plain)), End(**key_fields(with_id))]))
    assert not other(other.journal.unended(plain))
    assert not other(other.journal.unended(with_id)), "it is kept for its result"


def test_notes_of_all_processes_until_forgotten(world: World) -> None:
    one, other = world.process(), world.process()
    key = one.key()
    identifier = commit(key).branches[0].identifier
    heuristic = Heuristic(
        **key_fields(key),
        resource="bank",
        identifier=identifier,
        outcome="HEURISTIC_ROLLBACK",
        decided="commit",
        detail="",
        at_ms=5,
    )
    resolved = Resolved(
        **key_fields(key), resource="bank", identifier=identifier, commit=True, reason="r", who="w", at_ms=5
    )
    assert one.commits(key, user_id="x")
    one.force(heuristic, resolved)
    one.force(heuristic)  # sent again after a lost reply
    assert world.count("note") == 2
    assert other(other.journal.heuristics()) == [heuristic]
    assert other(other.journal.resolutions()) == [resolved]
    one.ends(key)
    story = other(other.journal.story(key.transaction))
    told = [commit(key, user_id="x"), End(**key_fields(key)), heuristic, resolved]
    assert story.transaction == key.transaction
    assert story.records == tuple((one.incarnation, record) for record in told)
    assert other(other.journal.transactions()) == [key]
    other.force(Forgotten(**key_fields(key), who="w", at_ms=6))
    assert one(one.journal.heuristics()) == []


def test_a_name_keeps_the_database_it_was_first_given(world: World) -> None:
    one, other = world.process(), world.process()
    assert one.force(ResourceKnown(name="bank", guid=b"1" * 16)) == (Verdict.ACCEPTED,)
    assert other.force(ResourceKnown(name="bank", guid=b"2" * 16)) == (Verdict.REFUSED,)
    assert other.journal.resource("bank") == Guid(b"1" * 16)
    assert other.force(ResourceKnown(name="bank", guid=b"1" * 16)) == (Verdict.ACCEPTED,)
    assert one.journal.resource("ledger") is None
    awkward = "b'\\\"`;-- " + "ö" * 20
    assert one.force(ResourceKnown(name=awkward, guid=b"3" * 16)) == (Verdict.ACCEPTED,)
    assert world.process().journal.resource(awkward) == Guid(b"3" * 16)


def test_every_process_draws_an_incarnation_of_its_own(world: World) -> None:
    processes = [world.process() for _ in range(3)]
    assert len({process.incarnation for process in processes}) == 3
    assert len({process.journal.coordinator for process in processes}) == 1
    assert len({process.journal.database for process in processes}) == 1
    assert {_highest(process) for process in processes} == {max(process.incarnation for process in processes)}


def _highest(process: Process) -> int:
    return int(process(process.journal.highest_incarnation()))


def test_a_large_record_comes_back_whole(world: World) -> None:
    one = world.process()
    key = one.key()
    record = commit(key, user_id="x", result=bytes(range(256)) * 400, size_bytes=100_000)
    assert one.force(record) == (Verdict.ACCEPTED,)
    assert one(one.journal.find(key.transaction)) == record
    assert one.look().decisions == {key: record}
    assert one.force(abort(key)) == (Verdict.REFUSED,)
