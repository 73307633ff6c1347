"""MariaDB: a branch that carries the journal's decision. The record's table here is a stand-in of the same shape.

Not for: the journal's own statements (tests/journal/), or what follows from the answer (tests/manager/).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from syncpoint.errors import ConnectionLost
from syncpoint.resources import mariadb_sql as sql
from syncpoint.resources.base import Answer, Choice, Mode
from syncpoint.resources.mariadb_session import MariadbSession
from syncpoint.testing.proxy import FaultProxy
from syncpoint.testing.servers.mariadb import MariadbServer
from tests.resources.mariadb_world import Wire, World, make_identifier, wait_until

BOTH: list[Mode] = ["sync", "async"]
TABLES = (
    "CREATE TABLE record (id INT PRIMARY KEY, fence INT NOT NULL, once INT UNIQUE)",
    "CREATE TABLE living (incarnation INT PRIMARY KEY)",
    "INSERT INTO living VALUES (1)",
)


def write(key: int = 1, incarnation: int = 1) -> str:
    """Two statements: what a journal wants done inside the branch."""
    return (
        f"SELECT incarnation FROM living WHERE incarnation = {incarnation} LOCK IN SHARE MODE; INSERT INTO record "
        f"VALUES ({key}, (SELECT incarnation FROM living WHERE incarnation = {incarnation}), {key})"
    )


@pytest.fixture(params=BOTH)
def world(request: pytest.FixtureRequest, mariadb_server: MariadbServer, mariadb_url: str) -> Iterator[World]:
    with World(mariadb_server, mariadb_url, request.param) as world:
        for statement in TABLES:
            world.sql(statement)
        yield world


def wrote(world: World, number: int = 1) -> MariadbSession:
    session = world.begin()
    world.insert(session, number)
    return session


def records(world: World) -> list[int]:
    return [row[0] for row in world.sql("SELECT id FROM record ORDER BY id")]


def assert_nothing_stays(world: World) -> None:
    assert (records(world), world.rows(), world.server.prepared()) == ([], [], [])
    world.sql("SET SESSION innodb_lock_wait_timeout = 1")
    world.sql("DELETE FROM account WHERE id IN (1, 2)")  # no lock is held


def test_record_and_work_are_committed_in_one_packet(world: World) -> None:
    session = wrote(world)
    identifier = session.identifier
    assert identifier is not None
    with Wire(session) as wire:
        assert world.run(world.resource.decide(session, write())) is Answer.COMMITTED
    assert wire.sent == 1
    assert (records(world), world.rows()) == ([1], [1])
    assert world.evidence_rows(identifier) == ()  # the record is the evidence
    assert world.resource.is_usable(session)


def test_a_branch_that_wrote_nothing_carries_the_record_all_the_same(world: World) -> None:
    session = world.begin()
    assert world.run(world.resource.decide(session, write())) is Answer.COMMITTED
    assert records(world) == [1]
    assert world.resource.is_usable(session)


@pytest.mark.parametrize("once", ["NULL", "1"], ids=["an abort", "a commit"])
def test_a_record_that_was_there_first_rolls_the_branch_back(world: World, once: str) -> None:
    """A duplicate key alone would roll nothing back (DATABASES MariaDB 9)."""
    session = wrote(world)
    world.sql(f"INSERT INTO record VALUES ({1 if once == 'NULL' else 7}, 1, {once})")
    vote = world.run(world.resource.decide(session, write()))
    assert (vote.choice, vote.retryable) == (Choice.NO, True)
    assert "there first" in vote.reason
    assert world.rows() == []
    assert world.resource.is_usable(session)


def test_who_was_taken_for_dead_decides_nothing(world: World) -> None:
    session = wrote(world)
    world.sql("UPDATE living SET incarnation = 2")
    vote = world.run(world.resource.decide(session, write()))
    assert (vote.choice, vote.retryable) == (Choice.NO, True)
    assert "taken for dead" in vote.reason
    assert world.resource.is_usable(session)
    assert_nothing_stays(world)


@pytest.mark.parametrize("end", ["XA ROLLBACK", "XA COMMIT … ONE PHASE"])
@pytest.mark.parametrize("reported", [True, False])
def test_a_branch_that_was_ended_behind_our_back_decides_nothing(world: World, end: str, reported: bool) -> None:
    """Outside a branch the record would be committed by itself, though the branch says no."""
    session = wrote(world)
    assert session.identifier is not None
    name = sql.xid(session.identifier)
    world.execute(session, f"XA END {name}")
    world.execute(session, end.replace("…", name) if "…" in end else f"{end} {name}")
    if not reported:  # an old proxy between us and the server may keep its report to itself
        session.over = False
    vote = world.run(world.resource.decide(session, write()))
    assert vote.choice is Choice.NO
    assert records(world) == []
    assert world.rows() == ([] if end == "XA ROLLBACK" else [1])


def test_a_plain_transaction_in_the_branchs_place_decides_nothing(world: World) -> None:
    """It was not even reported. What cannot be told is no vote: Abort, under the same key, will settle it."""
    session = wrote(world)
    assert session.identifier is not None
    name = sql.xid(session.identifier)
    for statement in (f"XA END {name}", f"XA ROLLBACK {name}", "BEGIN", "INSERT INTO account VALUES (2, 0)"):
        world.execute(session, statement)
    session.over = False
    with pytest.raises(ConnectionLost, match="ended in an unknown way"):
        world.run(world.resource.decide(session, write()))
    assert session.broken
    world.run(world.resource.close(session))
    assert (records(world), world.rows()) == ([], [])


def test_a_deadlocks_victim_decides_nothing(world: World) -> None:
    """DATABASES MariaDB 4 and 8: outside XA its next statement would commit by itself."""
    world.sql("INSERT INTO account VALUES (1, 0), (2, 0)")
    session = world.begin()
    world.execute(session, "UPDATE account SET balance = 1 WHERE id = 1")
    with world.server.connect(world.database) as other, other.cursor() as cursor:
        other.begin()
        cursor.execute("UPDATE account SET balance = 2 WHERE id = 2")
        cursor.execute("INSERT INTO account SELECT seq, 0 FROM seq_100_to_200")  # the heavier one survives
        waiting = threading.Thread(target=cursor.execute, args=("UPDATE account SET balance = 2 WHERE id = 1",))
        waiting.start()
        wait_until(lambda: bool(world.sql("SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_state='LOCK WAIT'")))
        with pytest.raises(Exception, match="Deadlock"):
            world.execute(session, "UPDATE account SET balance = 1 WHERE id = 2")
        waiting.join()
        session.over = False  # not even told
        vote = world.run(world.resource.decide(session, write()))
        other.rollback()
    assert (vote.choice, vote.retryable) == (Choice.NO, True)
    assert "Deadlock" in vote.reason
    assert records(world) == []


def test_a_duplicate_identifier_decides_nothing(world: World) -> None:
    identifier = make_identifier()
    world.begin(identifier=identifier)
    session = world.begin(identifier=identifier)
    vote = world.run(world.resource.decide(session, write()))
    assert vote.choice is Choice.NO
    assert "exists already" in vote.reason
    assert records(world) == []


def test_a_connection_that_was_lost_before_does_not_know(world: World) -> None:
    session = wrote(world)
    world.server.execute(f"KILL {session.holder.connection_id}")
    with pytest.raises(ConnectionLost):
        world.run(world.resource.decide(session, write()))
    assert session.broken
    wait_until(lambda: not world.sql("SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_rows_modified > 0"))
    assert_nothing_stays(world)


def test_an_unknown_end_is_no_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit fails though it happened, and XA ROLLBACK finds nothing: nobody can say no to that."""
    session = wrote(world)
    text = sql.decide

    def fails_at_the_end(*arguments: object) -> str:
        return f"{text(*arguments)}; SELECT no_such_column"  # type: ignore[arg-type]

    monkeypatch.setattr(sql, "decide", fails_at_the_end)
    with pytest.raises(ConnectionLost, match="ended in an unknown way"):
        world.run(world.resource.decide(session, write()))
    assert records(world) == [1]


@pytest.mark.parametrize("mode", BOTH)
def test_o46_a_lost_reply_is_no_answer(mariadb_server: MariadbServer, mariadb_url: str, mode: Mode) -> None:
    with FaultProxy(mariadb_url) as proxy, World(mariadb_server, proxy.url(mariadb_url), mode) as world:
        for statement in TABLES:
            world.sql(statement)
        for number, lose in enumerate((proxy.lose_reply, proxy.lose_request), 1):
            session = wrote(world, number)
            lose()
            with pytest.raises(ConnectionLost):
                world.run(world.resource.decide(session, write(number)))
            proxy.settle()
            assert session.broken
        assert (records(world), world.rows()) == ([1], [1])


def test_barring_evidence_is_neither_listed_nor_dropped(world: World) -> None:
    """A very late one-phase commit must find its key taken, however long after it was settled."""
    late = wrote(world)
    identifier = late.identifier
    assert identifier is not None
    helper = world.session()
    assert world.run(world.resource.settle(helper, identifier)).name == "ABSENT"
    assert world.run(world.resource.evidence_attempts(helper, identifier.coordinator, identifier.attempt, 9)) == []
    assert world.run(world.resource.drop_evidence(helper, identifier.coordinator, [identifier.attempt])) == 0
    assert world.run(world.resource.commit_one_phase(late)).choice is Choice.NO
    assert world.rows() == []
