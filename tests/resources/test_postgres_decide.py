"""PostgreSQL: a branch that carries the journal's decision. The record's table here is a stand-in of the same shape.

Not for: the journal's own statements (tests/journal/), or what follows from the answer (tests/manager/).
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from syncpoint.errors import ConnectionLost
from syncpoint.resources.base import Answer, Choice, Mode
from syncpoint.testing.proxy import FaultProxy
from tests.resources.postgres_world import Packets, World

BOTH: list[Mode] = ["sync", "async"]
TABLES = (
    "CREATE TABLE syncpoint.record (key int PRIMARY KEY, fence int NOT NULL, once int UNIQUE)",
    "CREATE TABLE syncpoint.living (incarnation int PRIMARY KEY)",
    "INSERT INTO syncpoint.living VALUES (1)",
)


def write(key: int = 1, incarnation: int = 1) -> str:
    """Two statements: what a journal wants done inside the branch."""
    return (
        "SET LOCAL search_path = syncpoint; INSERT INTO syncpoint.record VALUES "
        f"({key}, (SELECT incarnation FROM syncpoint.living WHERE incarnation = {incarnation} FOR SHARE), {key})"
    )


@pytest.fixture(params=BOTH)
def world(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[World]:
    with World(postgres_url, request.param) as world:
        for statement in TABLES:
            world.observer.execute(statement)
        yield world


def records(world: World) -> list[int]:
    return [row[0] for row in world.observer.execute("SELECT key FROM syncpoint.record ORDER BY key").fetchall()]


def assert_nothing_stays(world: World) -> None:
    assert (records(world), world.accounts(), world.open_transactions()) == ([], [], 0)


def test_record_and_work_are_committed_in_one_packet(world: World) -> None:
    session, _ = world.wrote(1)
    with Packets(session) as packets:
        assert world.run(world.resource.decide(session, write())) is Answer.COMMITTED
    assert len(packets.sent) == 1
    assert (records(world), world.accounts()) == ([1], [1])
    assert world.evidence_rows() == []  # the record is the evidence
    assert world.resource.is_usable(session)


def test_a_branch_that_wrote_nothing_carries_the_record_all_the_same(world: World) -> None:
    session, _ = world.begin()
    assert world.run(world.resource.decide(session, write())) is Answer.COMMITTED
    assert records(world) == [1]


def test_the_record_is_forced_whatever_the_session_says(world: World) -> None:
    """Trap 10."""
    session, _ = world.wrote(1)
    world.execute(session, "SET LOCAL synchronous_commit = off")
    asked = "INSERT INTO syncpoint.record SELECT length(current_setting('synchronous_commit')), 1, 1"
    assert world.run(world.resource.decide(session, asked)) is Answer.COMMITTED
    assert records(world) == [len("on")]


def test_a_record_that_was_there_first_rolls_the_branch_back(world: World) -> None:
    session, _ = world.wrote(1)
    world.observer.execute("INSERT INTO syncpoint.record VALUES (1, 1, NULL)")
    vote = world.run(world.resource.decide(session, write()))
    assert (vote.choice, vote.retryable) == (Choice.NO, True)
    assert "there first" in vote.reason
    assert world.accounts() == []
    assert world.resource.is_usable(session)


def test_a_commit_of_another_attempt_was_there_first(world: World) -> None:
    session, _ = world.wrote(1)
    world.observer.execute("INSERT INTO syncpoint.record VALUES (7, 1, 1)")
    vote = world.run(world.resource.decide(session, write()))
    assert "there first" in vote.reason
    assert world.accounts() == []


def test_who_was_taken_for_dead_decides_nothing(world: World) -> None:
    session, _ = world.wrote(1)
    world.observer.execute("UPDATE syncpoint.living SET incarnation = 2")
    vote = world.run(world.resource.decide(session, write()))
    assert (vote.choice, vote.retryable) == (Choice.NO, True)
    assert "taken for dead" in vote.reason
    assert_nothing_stays(world)


def test_a_unique_violation_of_the_works_own_is_told_as_it_is(world: World) -> None:
    """Deferred, so that it fails at COMMIT, after the record was inserted."""
    world.observer.execute("CREATE TABLE later (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    session, _ = world.begin()
    world.execute(session, "INSERT INTO later VALUES (1), (1)")
    vote = world.run(world.resource.decide(session, write()))
    assert (vote.choice, vote.retryable) == (Choice.NO, False)
    assert "later" in vote.reason
    assert_nothing_stays(world)


def test_a_failed_transaction_decides_nothing(world: World) -> None:
    """Traps 1 and 9."""
    session, _ = world.wrote(1)
    with pytest.raises(psycopg.errors.DivisionByZero):
        world.execute(session, "SELECT 1 / 0")
    vote = world.run(world.resource.decide(session, write()))
    assert vote.choice is Choice.NO
    assert isinstance(vote.error, psycopg.errors.DivisionByZero)
    assert_nothing_stays(world)


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT", "COMMIT; BEGIN"])
def test_a_branch_that_was_ended_behind_our_back_decides_nothing(world: World, end: str) -> None:
    """Without the guard the record would be committed by itself, though the branch says no."""
    session, _ = world.wrote(1)
    session.pgconn.exec_(end.encode())  # past everything that would refuse it
    vote = world.run(world.resource.decide(session, write()))
    assert vote.choice is Choice.NO
    assert "behind the transaction's back" in vote.reason
    assert (records(world), world.open_transactions()) == ([], 0)


def test_a_serialization_failure_at_commit_may_be_retried(world: World) -> None:
    world.observer.execute("INSERT INTO account VALUES (1), (2)")
    sessions = []
    for mine, other in ((1, 2), (2, 1)):
        session, _ = world.begin()
        world.execute(session, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        world.execute(session, f"SELECT sum(balance) FROM account WHERE id = {other}")
        world.execute(session, f"UPDATE account SET balance = 1 WHERE id = {mine}")
        sessions.append(session)
    said = [world.run(world.resource.decide(session, write(number))) for number, session in enumerate(sessions, 1)]
    assert said[0] is Answer.COMMITTED
    assert (said[1].choice, said[1].retryable) == (Choice.NO, True)
    assert isinstance(said[1].error, psycopg.errors.SerializationFailure)
    assert records(world) == [1]


def test_a_connection_that_was_lost_before_is_a_no(world: World) -> None:
    session, _ = world.wrote(1)
    world.end_backend(session)
    with pytest.raises(psycopg.OperationalError):
        world.execute(session, "SELECT 1")
    assert world.run(world.resource.decide(session, write())).choice is Choice.NO
    assert_nothing_stays(world)


def test_who_was_silent_too_long_does_not_know(world: World) -> None:
    session, _ = world.wrote(1)
    world.end_backend(session)
    with pytest.raises(ConnectionLost):
        world.run(world.resource.decide(session, write()))
    assert session.broken
    assert_nothing_stays(world)


@pytest.mark.parametrize("mode", BOTH)
def test_o46_a_lost_reply_is_no_answer(postgres_url: str, mode: Mode) -> None:
    with FaultProxy(postgres_url) as proxy, World(proxy.url(postgres_url), mode) as world:
        for statement in TABLES:
            world.observer.execute(statement)
        for number, lose in enumerate((proxy.lose_reply, proxy.lose_request), 1):
            session, _ = world.wrote(number)
            lose()
            with pytest.raises(ConnectionLost):
                world.run(world.resource.decide(session, write(number)))
            proxy.settle()
            assert session.broken
        assert (records(world), world.accounts()) == ([1], [1])


def test_barring_evidence_is_neither_listed_nor_dropped(world: World) -> None:
    """A very late one-phase commit must find its key taken, however long after it was settled."""
    late, identifier = world.wrote(1)
    helper = world.session()
    assert world.run(world.resource.settle(helper, identifier)).name == "ABSENT"
    attempt = identifier.attempt
    assert world.run(world.resource.evidence_attempts(helper, identifier.coordinator, attempt, 9)) == []
    assert world.run(world.resource.drop_evidence(helper, identifier.coordinator, [attempt])) == 0
    vote = world.run(world.resource.commit_one_phase(late))
    assert vote.choice is Choice.NO
    assert world.accounts() == []
