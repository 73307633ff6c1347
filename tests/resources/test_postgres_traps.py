"""The traps of PostgreSQL that the resource relies on or avoids: DATABASES.md, PostgreSQL, by number."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from syncpoint.errors import SyncpointError
from syncpoint.resources.base import Answer, Choice, Evidence, Mode
from syncpoint.testing.servers.base import wait_until
from syncpoint.testing.servers.postgres import PostgresServer
from tests.resources.postgres_world import World, make_identifier


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[World]:
    mode: Mode = request.param
    with World(postgres_url, mode) as world:
        yield world


def test_trap_1_prepare_of_a_failed_transaction_returns_normally_and_is_a_no(world: World) -> None:
    with psycopg.connect(world.url, autocommit=True) as plain:
        plain.execute("BEGIN")
        with pytest.raises(psycopg.errors.DivisionByZero):
            plain.execute("SELECT 1 / 0")
        assert plain.execute("PREPARE TRANSACTION 'x'").statusmessage == "ROLLBACK"  # the trap itself

    session, _ = world.wrote(1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        world.execute(session, "INSERT INTO account VALUES (1)")
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.NO
    assert isinstance(vote.error, psycopg.errors.UniqueViolation)
    assert not vote.retryable
    assert world.prepared() == []
    assert world.accounts() == []
    assert world.open_transactions() == 0


def test_trap_2_a_duplicate_identifier_is_a_no_and_the_other_branch_stays(world: World) -> None:
    _, identifier = world.prepared_branch(1)
    second, _ = world.begin(identifier=identifier)
    world.execute(second, "INSERT INTO account VALUES (2)")
    # The evidence key waits for the first branch: let that wait end at once.
    world.execute(second, "SET LOCAL lock_timeout = '50ms'")
    vote = world.run(world.resource.prepare(second))
    assert vote.choice is Choice.NO
    assert world.open_transactions() == 0
    assert world.prepared() == [identifier.to_gid()]
    assert world.run(world.resource.abort(second)) is Answer.ABORTED
    assert world.prepared() == [identifier.to_gid()]


def test_trap_2_a_duplicate_gid_is_a_no_and_the_other_branch_stays(world: World) -> None:
    """The same gid prepared by somebody who left no evidence."""
    session, identifier = world.wrote(1)
    with psycopg.connect(world.url, autocommit=True) as plain:
        plain.execute("BEGIN")
        plain.execute("CREATE TABLE other (id int)")
        plain.execute(f"PREPARE TRANSACTION '{identifier.to_gid()}'")
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.NO
    assert isinstance(vote.error, psycopg.errors.DuplicateObject)
    assert "in doubt" in vote.reason
    assert world.run(world.resource.abort(session)) is Answer.ABORTED
    assert world.prepared() == [identifier.to_gid()]
    assert world.accounts() == []


def test_trap_4_a_branch_of_another_database_is_not_finished_from_here(
    world: World, postgres_server: PostgresServer
) -> None:
    session, identifier = world.prepared_branch(1)
    name = session.base.info.dbname
    other_url = postgres_server.create_database(f"{name}_other")
    with World(other_url, world.mode) as other:
        assert other.run(other.resource.scan(other.session())) == []
        with pytest.raises(SyncpointError, match="another database"):
            other.run(other.resource.finish(other.session(), identifier, commit=True, state=b""))
    assert world.prepared() == [identifier.to_gid()]


def test_trap_4_no_slot_left_is_a_no_that_may_be_retried() -> None:
    with PostgresServer(settings={"max_prepared_transactions": "1"}) as server:
        for mode in ("sync", "async"):
            with World(server.create_database("bank"), mode) as world:
                first, _ = world.prepared_branch(1)
                second, _ = world.wrote(2)
                vote = world.run(world.resource.prepare(second))
                assert vote.choice is Choice.NO
                assert vote.retryable
                assert "max_prepared_transactions" in vote.reason
                assert world.run(world.resource.commit(first)) is Answer.COMMITTED
                assert world.accounts() == [1]
                assert world.open_transactions() == 0


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TEMP TABLE t (id int)", "temporary"),
        ("NOTIFY news", "NOTIFY"),
        ("LISTEN news", "LISTEN"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "WITH HOLD"),
        ("SELECT pg_export_snapshot()", "snapshot"),
    ],
)
def test_trap_5_what_cannot_be_prepared_is_a_no_that_says_why(world: World, statement: str, reason: str) -> None:
    session, _ = world.wrote(1)
    world.execute(session, statement)
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.NO
    assert reason in vote.reason
    assert not vote.retryable
    assert world.prepared() == []
    assert world.accounts() == []
    assert world.open_transactions() == 0


def test_trap_5_a_branch_that_only_notified_is_not_released_unheard(world: World) -> None:
    session, _ = world.begin()
    world.execute(session, "NOTIFY news")
    assert world.run(world.resource.prepare(session)).choice is Choice.NO
    session, _ = world.begin()
    world.execute(session, "NOTIFY news")
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED


def test_trap_7_a_prepare_under_way_is_undecided_until_it_is_found(world: World) -> None:
    """O42: the backend completes the PREPARE although the client is gone; a scan may come before that."""
    world.observer.execute(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$"
    )
    world.observer.execute(
        "CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON account DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION hold()"
    )
    identifier = make_identifier()
    gid = identifier.to_gid()
    with psycopg.connect(world.url, autocommit=True) as gate, World(world.url, "sync", ready=False) as client:
        gate.execute("SELECT pg_advisory_lock(7)")
        session, _ = client.begin(identifier=identifier)
        client.execute(session, "INSERT INTO account VALUES (1)")
        pid = session.pgconn.backend_pid
        client.execute(session, "SET LOCAL lock_timeout = 0")
        voting = threading.Thread(target=lambda: client.run(client.resource.prepare(session)))
        voting.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'advisory'"
        wait_until(lambda: world.observer.execute(waiting, (pid,)).fetchone() is not None, "PREPARE is under way")

        looker = world.session()
        assert world.run(world.resource.scan(looker)) == []
        assert world.run(world.resource.finish(looker, identifier, commit=False, state=b"")) is Answer.NOT_FOUND
        assert world.run(world.resource.evidence(looker, identifier)) is Evidence.UNDECIDED
        assert world.run(world.resource.settle(looker, identifier)) is Evidence.UNDECIDED
        gate.execute("SELECT pg_advisory_unlock(7)")
        voting.join()
        assert [found.name for found in world.run(world.resource.scan(looker))] == [gid]
        assert world.run(world.resource.finish(looker, identifier, commit=False, state=b"")) is Answer.ABORTED
        assert world.run(world.resource.evidence(looker, identifier)) is Evidence.ABSENT
    assert world.accounts() == []


def test_trap_8_a_prepared_branch_keeps_its_locks_and_others_stop_waiting_in_time(world: World) -> None:
    """A7: locked while in doubt, after its connection is gone too; released only by the outcome."""
    session, identifier = world.prepared_branch(1)
    world.run(world.resource.close(session))
    other, _ = world.begin(remaining_ms=100)
    with pytest.raises(psycopg.errors.LockNotAvailable) as error:
        world.execute(other, "INSERT INTO account VALUES (1)")
    assert world.resource.is_retryable(error.value)
    vote = world.run(world.resource.prepare(other))
    assert vote.choice is Choice.NO
    assert vote.retryable
    finisher = world.session()
    assert world.run(world.resource.finish(finisher, identifier, commit=True, state=b"")) is Answer.COMMITTED
    assert world.accounts() == [1]


def test_trap_9_commit_of_a_failed_transaction_returns_normally_and_is_no_commit(world: World) -> None:
    session, _ = world.wrote(1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        world.execute(session, "INSERT INTO account VALUES (1)")
    vote = world.run(world.resource.commit_one_phase(session))
    assert vote.choice is Choice.NO
    assert world.accounts() == []
    assert world.evidence_rows() == []
    assert world.open_transactions() == 0


@pytest.mark.parametrize("weak", ["off", "local", "remote_write"])
def test_trap_10_a_weak_synchronous_commit_is_raised_where_it_decides(world: World, weak: str) -> None:
    world.observer.execute("CREATE TABLE seen (value text)")
    world.observer.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$"
    )
    world.observer.execute(
        "CREATE CONSTRAINT TRIGGER note AFTER INSERT ON account DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION note()"
    )
    dbname = world.observer.info.dbname
    world.observer.execute(f'ALTER DATABASE "{dbname}" SET synchronous_commit = {weak}'.encode())
    session, _ = world.wrote(1)
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    session, _ = world.prepared_branch(2)
    assert world.run(world.resource.commit(session)) is Answer.COMMITTED
    assert world.observer.execute("SELECT value FROM seen").fetchall() == [("on",), ("on",)]
    assert session.pgconn.exec_(b"SHOW synchronous_commit").get_value(0, 0) == weak.encode()


def test_trap_11_a_member_finishes_the_branch_of_its_role_and_others_are_told_what_to_grant(
    world: World, postgres_server: PostgresServer
) -> None:
    dbname = world.observer.info.dbname
    owner, member, stranger = (f"{role}_{dbname}" for role in ("owner", "member", "stranger"))
    for role in (owner, member, stranger):
        world.observer.execute(f"CREATE ROLE {role} LOGIN".encode())
    world.observer.execute(f"GRANT {owner} TO {member}".encode())
    for statement in (
        f"GRANT ALL ON account TO {owner}",
        f"GRANT USAGE ON SCHEMA syncpoint TO {owner}",
        f"GRANT INSERT ON syncpoint.evidence TO {owner}",
    ):
        world.observer.execute(statement.encode())

    def as_role(role: str) -> World:
        return World(postgres_server.url(dbname, role), world.mode, ready=False)

    with as_role(owner) as mine, as_role(member) as helper, as_role(stranger) as nobody:
        for account, commit in ((1, True), (2, False)):
            session, identifier = mine.prepared_branch(account)
            mine.run(mine.resource.close(session))
            session = nobody.session()
            with pytest.raises(SyncpointError, match=f"GRANT {owner} TO {stranger}"):
                nobody.run(nobody.resource.finish(session, identifier, commit=commit, state=b""))
            assert world.prepared() == [identifier.to_gid()]
            session = helper.session()
            answer = helper.run(helper.resource.finish(session, identifier, commit=commit, state=b""))
            assert answer is (Answer.COMMITTED if commit else Answer.ABORTED)
            assert session.pgconn.exec_(b"SELECT current_user").get_value(0, 0) == member.encode()
            assert not session.broken
    assert world.accounts() == [1]
    assert world.prepared() == []


def test_trap_11_a_role_taken_in_the_branch_does_not_keep_it_from_being_finished(
    world: World, postgres_server: PostgresServer
) -> None:
    dbname = world.observer.info.dbname
    login, worker = f"login_{dbname}", f"worker_{dbname}"
    for statement in (
        f"CREATE ROLE {login} LOGIN",
        f"CREATE ROLE {worker}",
        f"GRANT {worker} TO {login}",
        f"GRANT ALL ON account TO {worker}",
        f"GRANT USAGE ON SCHEMA syncpoint TO {login}",
        f"GRANT INSERT ON syncpoint.evidence TO {login}",
    ):
        world.observer.execute(statement.encode())
    with World(postgres_server.url(dbname, login), world.mode, ready=False) as mine:
        for account, how in ((1, "SET ROLE"), (2, "SET LOCAL ROLE")):
            session, _ = mine.begin()
            mine.execute(session, f"{how} {worker}")
            mine.execute(session, f"INSERT INTO account VALUES ({account})")
            assert mine.run(mine.resource.prepare(session)).choice is Choice.YES
            assert mine.run(mine.resource.commit(session)) is Answer.COMMITTED
    assert world.accounts() == [1, 2]
