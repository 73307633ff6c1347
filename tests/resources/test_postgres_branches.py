"""A branch's life in PostgreSQL: votes, outcomes, and what each costs in round trips on the wire."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from syncpoint.errors import ConnectionLost, TransactionEnded
from syncpoint.resources.base import Answer, BranchStart, Choice, Mode, Vote
from syncpoint.resources.postgres_driver import PostgresSession
from tests.resources.postgres_world import Packets, World, make_identifier


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[World]:
    mode: Mode = request.param
    with World(postgres_url, mode) as world:
        yield world


# --- votes ---------------------------------------------------------------------------------------------------


def test_a_branch_known_to_have_written_prepares_in_one_round_trip(world: World) -> None:
    session, identifier = world.wrote(1)
    with Packets(session) as packets:
        vote = world.run(world.resource.prepare(session))
    assert vote == Vote(Choice.YES)
    assert len(packets.sent) == 1
    assert world.prepared() == [identifier.to_gid()]
    assert world.accounts() == []
    with Packets(session) as packets:
        assert world.run(world.resource.commit(session)) is Answer.COMMITTED
    assert len(packets.sent) == 1
    assert world.prepared() == []
    assert world.accounts() == [1]
    assert world.evidence_rows() == [(identifier.attempt.counter, "committed")]


def test_a_branch_whose_writing_was_not_seen_prepares_in_two_round_trips(world: World) -> None:
    world.observer.execute(
        "CREATE FUNCTION open_account(n int) RETURNS int LANGUAGE sql AS 'INSERT INTO account VALUES (n) RETURNING id'"
    )
    session, identifier = world.begin()
    world.execute(session, "SELECT open_account(1)")
    with Packets(session) as packets:
        assert world.run(world.resource.prepare(session)).choice is Choice.YES
    assert len(packets.sent) == 2
    assert world.prepared() == [identifier.to_gid()]
    assert world.run(world.resource.commit(session)) is Answer.COMMITTED
    assert world.accounts() == [1]
    assert world.evidence_rows() == [(identifier.attempt.counter, "committed")]


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_a_branch_that_wrote_nothing_votes_read_only_and_takes_no_slot(world: World, isolation: str) -> None:
    session, _ = world.begin()
    world.execute(session, f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    world.execute(session, "SELECT count(*) FROM account")
    world.execute(session, "UPDATE account SET balance = 1 WHERE id = 77")
    with Packets(session) as packets:
        assert world.run(world.resource.prepare(session)) == Vote(Choice.READ_ONLY)
    assert len(packets.sent) == 2
    assert world.prepared() == []
    assert world.open_transactions() == 0
    assert world.evidence_rows() == []
    assert world.resource.is_usable(session)


def test_a_branch_begun_read_only_votes_in_one_round_trip(world: World) -> None:
    session, _ = world.begin(read_only=True)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        world.execute(session, "INSERT INTO account VALUES (1)")
    session, _ = world.begin(read_only=True)
    world.execute(session, "SELECT 1")
    assert world.run(world.resource.wrote(session)) is False
    with Packets(session) as packets:
        assert world.run(world.resource.prepare(session)) == Vote(Choice.READ_ONLY)
    assert len(packets.sent) == 1
    session, _ = world.begin(session, read_only=True)
    assert world.run(world.resource.commit_one_phase(session)) == Vote(Choice.READ_ONLY)
    assert world.accounts() == []


def test_a_branch_that_made_itself_read_only_votes_read_only_unless_it_wrote_before(world: World) -> None:
    session, _ = world.begin()
    world.execute(session, "SET TRANSACTION READ ONLY")
    assert world.run(world.resource.prepare(session)) == Vote(Choice.READ_ONLY)
    session, _ = world.begin(session)
    world.execute(session, "SET TRANSACTION READ ONLY")
    assert world.run(world.resource.commit_one_phase(session)) == Vote(Choice.READ_ONLY)
    session, _ = world.wrote(1)
    world.execute(session, "SET TRANSACTION READ ONLY")
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.NO
    assert "made read-only" in vote.reason
    assert world.accounts() == []
    assert world.open_transactions() == 0


def test_a_serialization_failure_at_prepare_is_a_no_that_may_be_retried(world: World) -> None:
    def pivot(mine: int, other: int) -> PostgresSession:
        session, _ = world.begin()
        world.execute(session, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        world.execute(session, f"SELECT sum(balance) FROM account WHERE id = {other}")
        world.execute(session, f"UPDATE account SET balance = 1 WHERE id = {mine}")
        return session

    world.observer.execute("INSERT INTO account VALUES (1), (2)")
    one, two = pivot(1, 2), pivot(2, 1)
    votes = [world.run(world.resource.prepare(session)) for session in (one, two)]
    assert [vote.choice for vote in votes] == [Choice.YES, Choice.NO]
    assert votes[1].retryable
    assert isinstance(votes[1].error, psycopg.errors.SerializationFailure)
    assert world.run(world.resource.commit(one)) is Answer.COMMITTED
    assert world.open_transactions() == 0


@pytest.mark.parametrize("end", ["vote", "release", "release of a declared reader"])
def test_what_a_serializable_reader_saw_is_kept_from_becoming_impossible(world: World, end: str) -> None:
    """Fekete, O'Neil, O'Neil 2004: a reader alone can make two writers unserializable. Rolled back, it would not
    count, and the second writer would make what it has read impossible."""
    world.observer.execute("INSERT INTO account VALUES (1), (2)")
    slow, fast = world.begin()[0], world.begin()[0]
    reader, _ = world.begin(read_only=end == "release of a declared reader")
    for session in (slow, fast, reader):
        world.execute(session, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    world.execute(slow, "SELECT sum(balance) FROM account")
    world.execute(fast, "UPDATE account SET balance = balance + 20 WHERE id = 2")
    assert world.run(world.resource.commit_one_phase(fast)) is Answer.COMMITTED
    world.execute(reader, "SELECT id, balance FROM account")
    if end == "vote":
        assert world.run(world.resource.prepare(reader)) == Vote(Choice.READ_ONLY)
    else:
        assert world.run(world.resource.wrote(reader)) is False
        assert world.run(world.resource.abort(reader)) is Answer.ABORTED
    with pytest.raises(psycopg.errors.SerializationFailure):
        world.execute(slow, "UPDATE account SET balance = balance - 11 WHERE id = 1")
    vote = world.run(world.resource.prepare(slow))
    assert vote.choice is Choice.NO
    assert vote.retryable
    assert world.open_transactions() == 0


def test_wrote_costs_at_most_one_round_trip(world: World) -> None:
    session, _ = world.begin()
    world.execute(session, "SELECT 1")
    with Packets(session) as packets:
        assert world.run(world.resource.wrote(session)) is False
    assert len(packets.sent) == 1
    with pytest.raises(TransactionEnded):  # asked at its end: a stray task cannot make the answer untrue
        world.execute(session, "INSERT INTO account VALUES (1)")
    session, _ = world.wrote(1)
    with Packets(session) as packets:
        assert world.run(world.resource.wrote(session)) is True
    assert packets.sent == []
    other, _ = world.begin()
    with pytest.raises(psycopg.errors.DivisionByZero):
        world.execute(other, "SELECT 1 / 0")
    assert world.run(world.resource.wrote(other)) is None


# --- one phase -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [True, False])
def test_one_phase_is_one_round_trip_with_its_evidence(world: World, seen: bool) -> None:
    session, identifier = world.begin()
    insert = "INSERT INTO account VALUES (1)"
    world.execute(session, insert if seen else f"DO $$ BEGIN {insert}; END $$")
    with Packets(session) as packets:
        assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert len(packets.sent) == 1
    assert world.accounts() == [1]
    assert world.evidence_rows() == [(identifier.attempt.counter, "committed")]


def test_one_phase_of_a_branch_that_wrote_nothing_leaves_nothing(world: World) -> None:
    session, _ = world.begin()
    world.execute(session, "SELECT 1")
    assert world.run(world.resource.commit_one_phase(session)) == Vote(Choice.READ_ONLY)
    assert world.evidence_rows() == []
    assert world.open_transactions() == 0


def test_one_phase_that_fails_at_its_commit_is_a_no(world: World) -> None:
    world.observer.execute("CREATE TABLE entry (account int REFERENCES account DEFERRABLE INITIALLY DEFERRED)")
    session, _ = world.begin()
    world.execute(session, "INSERT INTO entry VALUES (5)")
    vote = world.run(world.resource.commit_one_phase(session))
    assert vote.choice is Choice.NO
    assert not vote.retryable
    assert isinstance(vote.error, psycopg.errors.ForeignKeyViolation)
    assert world.observer.execute("SELECT count(*) FROM entry").fetchone() == (0,)
    assert world.evidence_rows() == []
    assert world.open_transactions() == 0


# --- abort -----------------------------------------------------------------------------------------------------


def test_abort_rolls_back_whatever_was_reached(world: World) -> None:
    working, _ = world.wrote(1)
    assert world.run(world.resource.abort(working)) is Answer.ABORTED
    failed, _ = world.wrote(2)
    with pytest.raises(psycopg.errors.UniqueViolation):
        world.execute(failed, "INSERT INTO account VALUES (2)")
    assert world.run(world.resource.abort(failed)) is Answer.ABORTED
    voted, _ = world.prepared_branch(3)
    assert world.run(world.resource.abort(voted)) is Answer.ABORTED
    assert world.run(world.resource.abort(voted)) is Answer.ABORTED  # nothing is on it any more
    assert world.accounts() == []
    assert world.prepared() == []
    assert world.evidence_rows() == []
    assert world.open_transactions() == 0
    assert all(world.resource.is_usable(session) for session in (working, failed, voted))


def test_abort_on_a_lost_connection_says_so(world: World) -> None:
    session, _ = world.prepared_branch(1)
    session.pgconn.finish()
    with pytest.raises(ConnectionLost):
        world.run(world.resource.abort(session))
    assert session.broken
    other = world.session()
    assert session.branch is not None
    gid = session.branch.identifier
    assert world.run(world.resource.finish(other, gid, commit=False, state=b"")) is Answer.ABORTED


def test_savepoints(world: World) -> None:
    session, _ = world.wrote(1)
    world.run(world.resource.savepoint(session, 'odd "name"'))
    world.execute(session, "INSERT INTO account VALUES (2)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        world.execute(session, "INSERT INTO account VALUES (2)")
    world.run(world.resource.rollback_to_savepoint(session, 'odd "name"'))
    world.execute(session, "INSERT INTO account VALUES (3)")
    world.run(world.resource.release_savepoint(session, 'odd "name"'))
    with pytest.raises(psycopg.errors.InvalidSavepointSpecification):
        world.run(world.resource.release_savepoint(session, 'odd "name"'))
    world.run(world.resource.abort(session))
    session, _ = world.wrote(4)
    world.run(world.resource.savepoint(session, "s"))
    world.execute(session, "INSERT INTO account VALUES (5)")
    world.run(world.resource.rollback_to_savepoint(session, "s"))
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    assert world.run(world.resource.commit(session)) is Answer.COMMITTED
    assert world.accounts() == [4]


# --- begin -----------------------------------------------------------------------------------------------------


def test_begin_sets_the_timeouts_in_one_round_trip_and_leaves_nothing_in_the_session(world: World) -> None:
    session = world.session()
    with Packets(session) as packets:
        world.begin(session, remaining_ms=7000)
    assert len(packets.sent) == 1

    def show(name: str) -> str:
        cursor = world.execute(session, f"SHOW {name}")
        value: str = world.do(cursor.fetchone)[0]
        return value

    assert show("lock_timeout") == "7s"
    assert show("statement_timeout") == "7250ms"
    assert show("idle_in_transaction_session_timeout") == "17s"
    world.run(world.resource.abort(session))
    world.begin(session, remaining_ms=9000)
    assert show("lock_timeout") == "9s"
    world.run(world.resource.prepare(session))
    row = session.pgconn.exec_(b"SHOW lock_timeout").get_value(0, 0)
    assert row == b"0"


def test_the_transaction_may_still_choose_its_isolation_level(world: World) -> None:
    session, _ = world.begin()
    world.execute(session, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    cursor = world.execute(session, "SHOW transaction_isolation")
    assert world.do(cursor.fetchone) == ("repeatable read",)


def test_a_stale_connection_is_noticed_when_it_is_taken_and_when_it_is_used(world: World) -> None:
    session = world.session()
    assert world.resource.is_usable(session)
    world.end_backend(session)
    assert not world.resource.is_usable(session)
    with pytest.raises(ConnectionLost):
        world.run(world.resource.begin(session, BranchStart(make_identifier(), 1000)))
    assert session.broken


def test_begin_that_the_server_refuses_raises_its_error(world: World) -> None:
    session = world.session()
    session.pgconn.exec_(b"BEGIN; SELECT 1 / 0")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        world.run(world.resource.begin(session, BranchStart(make_identifier(), 1000)))
    assert session.broken
    assert not world.resource.is_usable(session)
