"""Deciding in a database: first writer wins, whoever was taken for dead decides nothing (O46, O47, O54, O56, O59).

The same tests on PostgreSQL and MariaDB. What stands in the tables is read by a connection of our own.
"""

from __future__ import annotations

import re

import pytest

from syncpoint.journal.base import Verdict
from syncpoint.testing.servers.base import wait_until
from tests.journal.database_world import FAST, InThread, Process, World, abort, all_at_once, commit

# --- first writer wins ----------------------------------------------------------------------------------------------


def test_the_first_of_commit_and_abort_wins_in_both_orders(world: World) -> None:
    one = world.process()
    early, late = one.key(), one.key()
    assert one.commits(early)
    assert not one.aborts(early)
    assert one.aborts(late)
    assert not one.commits(late)
    assert sorted(world.records()) == [("abort", str(late)), ("commit", str(early))]


def test_abort_twice_is_accepted_twice(world: World) -> None:
    one = world.process()
    key = one.key()
    assert one.aborts(key)
    assert one.aborts(key)
    assert world.records() == [("abort", str(key))]


def test_of_two_attempts_at_one_transaction_one_commits(world: World) -> None:
    """O56."""
    one, other = world.process(), world.process()
    first, second, third = one.key(7), other.key(7), other.key(7)
    assert other.commits(second)
    assert not one.commits(first)
    assert one.aborts(first)
    assert not other.commits(third)
    assert not other.commits(second), "the same Commit a second time"
    assert sorted(world.records()) == [("abort", str(first)), ("commit", str(second))]


def test_o47_eight_at_once_under_one_key_exactly_one_wins(world: World) -> None:
    one, other = world.process(), world.process()
    for number in range(1, 9):
        key = one.key(number)
        records = [commit(key), abort(key)] * 4
        calls = [
            lambda process=process, record=record: process.force(record)
            for process, record in zip([one, other] * 4, records, strict=True)
        ]
        outcomes = [thread.result() for thread in all_at_once(calls)]
        accepted = {
            type(record).__name__ for record, said in zip(records, outcomes, strict=True) if Verdict.ACCEPTED in said
        }
        assert len(accepted) == 1, outcomes
        [(kind, _)] = [found for found in world.records() if found[1] == str(key)]
        assert {kind.capitalize()} == accepted


def test_eight_attempts_at_one_transaction_at_once_exactly_one_commits(world: World) -> None:
    one, other = world.process(), world.process()
    for number in range(1, 9):
        keys = [process.key(number) for process in [one, other] * 4]
        calls = [
            lambda process=process, key=key: process.commits(key)
            for process, key in zip([one, other] * 4, keys, strict=True)
        ]
        assert [thread.result() for thread in all_at_once(calls)].count(True) == 1
    assert [kind for kind, _ in world.records()] == ["commit"] * 8


def test_duplicate_key_leaves_no_transaction_open_and_the_winner_is_read_anew(world: World) -> None:
    """DATABASES MariaDB 9: after 1062 the transaction lives on, with its old snapshot."""
    one = world.process(sessions_max=2)
    other = world.process()
    key = one.key()
    one.look()  # a snapshot, had it stayed
    assert other.commits(key)
    assert not one.commits(key)
    assert not one.aborts(key)
    assert one(one.journal.find(key.transaction)) == commit(key)
    assert world.see(f"DELETE FROM syncpoint.record WHERE attempt = {key.attempt.to_int()}") == []
    if world.kind == "mariadb":
        # One that only reads is not listed; ours would hold the lock of the duplicate that it met.
        assert world.see("SELECT count(*) FROM information_schema.INNODB_TRX WHERE trx_rows_locked > 0") == [(0,)]
    else:
        assert world.see("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'") == [(0,)]


# --- a delayed Commit -----------------------------------------------------------------------------------------------


def test_o46_a_delayed_commit_is_refused_after_its_abort(world: World) -> None:
    one = world.process()
    key = one.key()
    assert one.aborts(key)
    with pytest.raises(Exception, match=r"(?i)duplicate"):
        world.see(world.sql.commit(commit(key)))  # as it was sent, arriving late
    assert world.records() == [("abort", str(key))]


def test_o54_the_abort_is_cleaned_up_then_the_delayed_commit_arrives(world: World) -> None:
    paused, keeper = (
        world.process(**FAST),
        world.process(**FAST),
    )
    key = paused.key()
    assert paused.aborts(key)
    keeper.clean()
    assert world.records() == [("abort", str(key))], "kept while its incarnation can still write a Commit"
    paused.fall_silent()
    old = paused.incarnation
    keeper.takes_over(old)
    late = world.sql.commit(commit(key))
    with pytest.raises(Exception, match=r"(?i)incarnation|duplicate"):
        world.see(late)  # fenced
    keeper.clean()
    keeper.clean()
    assert world.records() == []
    assert old not in world.keepers(), "it has nothing left"
    with pytest.raises(Exception, match=r"(?i)incarnation"):
        world.see(late)  # its row is gone
    assert not paused.commits(key)
    assert world.records() == []


# --- an open INSERT and an open take-over -----------------------------------------------------------------------------


def test_a_recoverer_behind_an_open_insert_times_out_and_decides_nothing(world: World) -> None:
    alive, recoverer = (
        world.process(**FAST),
        world.process(**FAST),
    )
    key = alive.key()
    alive.fall_silent()
    deciding = world.another()
    deciding(world.begin)
    deciding(alive.journal.decision(commit(key)))
    world.age_heartbeat(alive.incarnation, 10)
    view = recoverer.look()
    assert alive.incarnation in view.live
    assert not view.inherited
    assert world.keepers()[alive.incarnation] == alive.incarnation
    deciding("COMMIT")
    recoverer.takes_over(alive.incarnation)
    view = recoverer.look()
    assert list(view.decisions) == [key]
    assert alive.incarnation not in view.live


@pytest.mark.parametrize("outcome", ["COMMIT", "ROLLBACK"])
def test_a_decision_behind_an_open_take_over_waits_for_how_it_ends(world: World, outcome: str) -> None:
    alive = world.process()
    key = alive.key()
    taking = world.another()
    taking(world.begin)
    taking(f"UPDATE syncpoint.incarnation SET keeper = 99 WHERE incarnation = {alive.incarnation}")
    deciding = InThread(lambda: alive.commits(key))
    assert _waits(world, deciding)
    taking(outcome)
    assert deciding.result() is (outcome == "ROLLBACK")
    assert world.records() == ([("commit", str(key))] if outcome == "ROLLBACK" else [])


def _waits(world: World, thread: InThread) -> bool:
    wait_until(world.is_waiting, "it waits for the lock")
    return thread.is_running


POSTGRES_LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
FENCED_NOW = r"(?i)incarnation|could not serialize|record has changed"


@pytest.mark.parametrize("gone", [False, True], ids=["taken", "removed"])
@pytest.mark.parametrize("level", POSTGRES_LEVELS)
@pytest.mark.parametrize("snapshot_isolation", [False, True], ids=["", "snapshot-isolation"])
def test_a_branch_with_an_old_snapshot_cannot_decide_after_the_take_over(
    world: World, level: str, gone: bool, snapshot_isolation: bool
) -> None:
    """Whatever the branch's isolation: the decision reads the newest row, or fails."""
    process = world.process()
    key = process.key()
    branch = world.another()
    if world.kind == "postgresql":
        if snapshot_isolation:
            pytest.skip("MariaDB's only")
        branch(f"BEGIN ISOLATION LEVEL {level}")
    else:
        if snapshot_isolation:
            if not branch("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'"):
                pytest.skip("this MariaDB does not have it")
            branch("SET SESSION innodb_snapshot_isolation = ON")
        branch(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
        branch(f"XA START '{world.xid}'")
    assert branch("SELECT count(*) FROM syncpoint.known") == [(0,)]  # the snapshot is taken
    if not (world.kind == "mariadb" and level == "SERIALIZABLE"):  # there reading locks
        assert branch(f"SELECT keeper FROM syncpoint.incarnation WHERE incarnation = {process.incarnation}")
    if gone:
        world.see(f"DELETE FROM syncpoint.incarnation WHERE incarnation = {process.incarnation}")
    else:
        world.see(f"UPDATE syncpoint.incarnation SET keeper = 99 WHERE incarnation = {process.incarnation}")
    with pytest.raises(Exception, match=FENCED_NOW):
        branch(process.journal.decision(commit(key)))
    branch.close()
    assert world.records() == []


@pytest.mark.parametrize("level", POSTGRES_LEVELS)
def test_a_branch_with_an_old_snapshot_decides_while_its_process_lives(world: World, level: str) -> None:
    """Signs of life stand in a table of their own, so that they do not fail such a decision."""
    process = world.process(heartbeat_s=0.02)
    key = process.key()
    branch = world.another()
    if world.kind == "postgresql":
        branch(f"BEGIN ISOLATION LEVEL {level}")
    else:
        branch(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
        branch(f"XA START '{world.xid}'")
    branch("SELECT count(*) FROM syncpoint.known")
    before = world.see("SELECT beat FROM syncpoint.heartbeat")
    _changed(world, before)
    branch(process.journal.decision(commit(key)))
    if world.kind == "postgresql":
        branch("COMMIT")
    else:
        branch(f"XA END '{world.xid}'")
        branch(f"XA COMMIT '{world.xid}' ONE PHASE")
    assert world.records() == [("commit", str(key))]
    assert not process.aborts(key)


def _changed(world: World, before: list[tuple[object, ...]]) -> None:
    wait_until(lambda: world.see("SELECT beat FROM syncpoint.heartbeat") != before, "a sign of life")


def test_a_branch_whose_session_checks_little_cannot_decide_a_second_time(world: World) -> None:
    if world.kind != "mariadb":
        pytest.skip("MariaDB's settings")
    one, other = world.process(), world.process()
    mine, theirs = one.key(3), other.key(3)
    branch = world.another()
    for setting in ("unique_checks = 0", "foreign_key_checks = 0", "sql_mode = ''"):
        branch(f"SET SESSION {setting}")
    branch(f"XA START '{world.xid}'")
    branch(one.journal.decision(commit(mine)))
    with pytest.raises(Exception, match=r"(?i)duplicate"):
        branch(one.journal.decision(commit(theirs)))
    branch(f"XA END '{world.xid}'")
    branch(f"XA ROLLBACK '{world.xid}'")
    late = one.key()  # before it can notice, and begin anew
    world.see(f"UPDATE syncpoint.incarnation SET keeper = 99 WHERE incarnation = {late.attempt.incarnation}")
    branch = world.another()
    branch("SET SESSION sql_mode = ''")
    branch(f"XA START '{world.xid}'")
    with pytest.raises(Exception, match=r"(?i)incarnation.*cannot be null"):
        branch(one.journal.decision(commit(late)))
    branch.close()


# --- durable --------------------------------------------------------------------------------------------------------

_SPY = """CREATE TABLE spied (kind text, setting text);
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
INSERT INTO public.spied VALUES (TG_TABLE_NAME || ' ' || TG_OP, current_setting('synchronous_commit'));
RETURN NULL; END $$"""


def test_synchronous_commit_off_for_the_role_decisions_are_forced_all_the_same(world: World) -> None:
    if world.kind != "postgresql":
        pytest.skip("PostgreSQL's setting")
    for statement in (
        *_SPY.split(";\n", 1),
        f"ALTER DATABASE {world.url.rpartition('/')[2]} SET synchronous_commit = off",
    ):
        world.see(statement)
    one = world.process()
    for table in ("record", "incarnation", "claim"):
        world.see(
            f"CREATE TRIGGER spy AFTER INSERT OR UPDATE OR DELETE ON syncpoint.{table} "
            "FOR EACH ROW EXECUTE FUNCTION spy()"
        )
    key, kept = one.key(), one.key()
    assert one.commits(key)
    assert one.commits(kept, user_id="order-1")
    assert one.aborts(one.key())
    assert one(one.journal.claim(one.key().transaction)).mine
    world.process()
    spied = set(world.see("SELECT kind, setting FROM public.spied"))
    assert spied == {("record INSERT", "on"), ("incarnation INSERT", "on"), ("claim INSERT", "off")}
    one.journal.note([_end(key), _end(kept)])
    one(one.journal._lazily.flush(durable=False))
    assert ("record DELETE", "off") in set(world.see("SELECT kind, setting FROM public.spied"))


def _end(key: object) -> object:
    from syncpoint.records import End, key_fields

    return End(**key_fields(key))  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["ends", "ended", "abort", "claim", "find", "look"])
def test_o59_a_forced_write_of_our_own_comes_after_what_was_read_and_before_it_is_acted_on(
    world: World, what: str
) -> None:
    """Forced: what is lazy was written before; InnoDB lets others see a commit a moment before it is on disk."""
    one, other = world.process(), world.process()
    key, kept = one.key(), one.key()
    assert one.commits(key)
    assert one.commits(kept, user_id="x")
    beats = _Forced(one)
    needed = world.kind == "mariadb"
    if what == "ends":
        one.journal.note([_end(key)])  # type: ignore[list-item]
        one(one.journal._lazily.flush(durable=False))
        beats.seen.clear()
        one.force()
        needed = world.kind == "postgresql"
    elif what == "ended":
        other.close()
        assert one(one.journal.ended_incarnations({other.incarnation})) == {other.incarnation}
        needed = True
    elif what == "abort":
        assert not one.aborts(key)
    elif what == "claim":
        assert one(one.journal.claim(kept.transaction)).committed == commit(kept, user_id="x")
    elif what == "find":
        assert one(one.journal.find(kept.transaction)) == commit(kept, user_id="x")
    elif what == "look":
        assert set(one.look().decisions) == {key, kept}
    assert bool(beats.seen) is needed


class _Forced:
    """Watches what a process sends: forced signs of life, each after the last packet that read."""

    def __init__(self, process: Process) -> None:
        self.seen: list[str] = []
        store = process.journal._store
        run = store.run

        def watched(session, statements, what, *, durable=True):  # type: ignore[no-untyped-def]
            if what.endswith("on disk") and durable:
                self.seen.append(what)
            elif re.search("SELECT .* FROM syncpoint.record", " ".join(statements)):
                self.seen.clear()
            return run(session, statements, what, durable=durable)

        store.run = watched  # type: ignore[method-assign]
