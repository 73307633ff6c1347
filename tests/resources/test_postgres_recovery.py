"""PostgreSQL after something went wrong: scans, finishing from any session, evidence, lost replies, lock holders."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from syncpoint.errors import ConnectionLost
from syncpoint.ids import GID_PREFIX, Attempt, Guid, Incarnation
from syncpoint.resources.base import Answer, Choice, Evidence, Mode
from syncpoint.resources.postgres import Phase
from syncpoint.testing.servers.base import wait_until
from syncpoint.testing.servers.postgres import PostgresServer
from tests.resources.postgres_world import COORDINATOR, World, make_identifier

FIRST = Attempt(Incarnation(0), 0)


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[World]:
    mode: Mode = request.param
    with World(postgres_url, mode) as world:
        yield world


# --- scan and finish ---------------------------------------------------------------------------------------------


def test_a_scan_tells_ours_from_foreign_and_later_ones_and_names_who_and_when(world: World) -> None:
    _, identifier = world.prepared_branch(1)
    name = world.observer.info.dbname  # gids are unique in the whole server
    theirs, odd = f"theirs_{name}", f"{GID_PREFIX}odd_{name}"
    later = f"{GID_PREFIX}09{make_identifier().to_bytes()[1:].hex()}"
    for account, gid in enumerate((theirs, odd, later), 10):
        world.observer.execute(f"BEGIN; INSERT INTO account VALUES ({account}); PREPARE TRANSACTION '{gid}'".encode())
    found = {item.name: item for item in world.run(world.resource.scan(world.session()))}
    assert len(found) == 4
    mine = found[identifier.to_gid()]
    assert mine.identifier == identifier
    assert "owner postgres" in mine.note
    row = world.observer.execute("SELECT (extract(epoch FROM now()) * 1000)::int8").fetchone()
    assert row is not None
    assert mine.prepared_at_ms is not None
    assert 0 <= row[0] - mine.prepared_at_ms < 60_000
    assert found[theirs].identifier is None
    assert found[odd].identifier is None
    assert found[later].identifier is None
    assert "later Syncpoint" in found[later].note
    assert len(world.prepared()) == 4  # looking changed nothing


@pytest.mark.parametrize("commit", [True, False])
def test_any_session_finishes_a_branch_even_while_its_own_lives(world: World, commit: bool) -> None:
    """As behind PgBouncer in transaction mode, where every packet may meet another server connection."""
    own, identifier = world.prepared_branch(1)
    other = world.session()
    expected = Answer.COMMITTED if commit else Answer.ABORTED
    assert world.run(world.resource.finish(other, identifier, commit=commit, state=b"")) is expected
    assert world.run(world.resource.finish(other, identifier, commit=commit, state=b"")) is Answer.NOT_FOUND
    assert world.run(world.resource.commit(own)) is Answer.NOT_FOUND
    assert world.run(world.resource.abort(own)) is Answer.NOT_FOUND
    assert world.accounts() == ([1] if commit else [])
    proof = Evidence.COMMITTED if commit else Evidence.ABSENT
    assert world.run(world.resource.evidence(other, identifier)) is proof


def test_prepared_branches_survive_a_crash_of_the_server() -> None:
    """A7."""
    modes: tuple[Mode, ...] = ("sync", "async")
    with PostgresServer() as server:
        for mode in modes:
            with World(server.create_database("bank"), mode) as world:
                session, identifier = world.prepared_branch(1)
                server.kill()
                server.start()
                world.observer.close()
                world.observer = psycopg.connect(world.url, autocommit=True)
                with pytest.raises(ConnectionLost):
                    world.run(world.resource.commit(session))
                other = world.session()
                assert [item.identifier for item in world.run(world.resource.scan(other))] == [identifier]
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    world.observer.execute("SET lock_timeout = '50ms'; INSERT INTO account VALUES (1)")
                assert world.run(world.resource.finish(other, identifier, commit=True, state=b"")) is Answer.COMMITTED
                assert world.accounts() == [1]


def test_a_branch_that_somebody_else_is_finishing_is_to_be_tried_again(world: World) -> None:
    """COMMIT PREPARED under way in another session: 55000, busy."""
    _, identifier = world.prepared_branch(1)
    other = world.session()
    answers: list[Any] = []

    def finish() -> None:
        with World(world.url, "sync", ready=False) as helper:
            session = helper.session()
            answers.append(helper.run(helper.resource.finish(session, identifier, commit=True, state=b"")))

    threads = [threading.Thread(target=finish) for _ in range(4)]
    for thread in threads:
        thread.start()
    answers.append(world.run(world.resource.finish(other, identifier, commit=True, state=b"")))
    for thread in threads:
        thread.join()
    assert answers.count(Answer.COMMITTED) == 1
    assert set(answers) <= {Answer.COMMITTED, Answer.NOT_FOUND, Answer.RETRY}
    assert world.accounts() == [1]


# --- evidence ----------------------------------------------------------------------------------------------------


def test_settle_bars_a_late_commit_for_ever(world: World) -> None:
    late, identifier = world.wrote(1)
    finder = world.session()
    for _ in range(2):
        assert world.run(world.resource.settle(finder, identifier)) is Evidence.ABSENT
    vote = world.run(world.resource.commit_one_phase(late))
    assert vote.choice is Choice.NO
    assert isinstance(vote.error, psycopg.errors.UniqueViolation)
    assert world.accounts() == []
    assert world.run(world.resource.evidence(finder, identifier)) is Evidence.ABSENT
    assert world.evidence_rows() == [(identifier.attempt.counter, "barred")]


def test_settle_finds_a_commit_that_happened(world: World) -> None:
    session, identifier = world.wrote(1)
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    finder = world.session()
    assert world.run(world.resource.settle(finder, identifier)) is Evidence.COMMITTED
    assert world.run(world.resource.evidence(finder, identifier)) is Evidence.COMMITTED
    assert world.run(world.resource.evidence(finder, make_identifier())) is Evidence.ABSENT
    assert world.evidence_rows() == [(identifier.attempt.counter, "committed")]


def test_evidence_of_a_prepared_branch_is_undecided_and_looking_leaves_nothing(world: World) -> None:
    session, identifier = world.prepared_branch(1)
    finder = world.session()
    assert world.run(world.resource.evidence(finder, identifier)) is Evidence.UNDECIDED
    assert world.run(world.resource.settle(finder, identifier)) is Evidence.UNDECIDED
    assert world.run(world.resource.commit(session)) is Answer.COMMITTED
    assert world.run(world.resource.evidence(finder, identifier)) is Evidence.COMMITTED
    assert world.evidence_rows() == [(identifier.attempt.counter, "committed")]


def test_without_the_schema_nothing_can_be_proved(world: World) -> None:
    world.observer.execute("DROP SCHEMA syncpoint CASCADE")
    finder = world.session()
    assert world.run(world.resource.evidence(finder, make_identifier())) is Evidence.UNKNOWN
    assert world.run(world.resource.settle(finder, make_identifier())) is Evidence.UNKNOWN
    session, _ = world.wrote(1)
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.NO
    assert world.open_transactions() == 0


def test_evidence_without_the_right_to_read_it_raises(world: World, postgres_server: PostgresServer) -> None:
    dbname = world.observer.info.dbname
    world.observer.execute(f"CREATE ROLE blind_{dbname} LOGIN".encode())
    with World(postgres_server.url(dbname, f"blind_{dbname}"), world.mode, ready=False) as blind:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            blind.run(blind.resource.evidence(blind.session(), make_identifier()))
        session = blind.session()
        blind.observer.execute("SELECT 1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            blind.run(blind.resource.evidence_attempts(session, COORDINATOR, FIRST, 5))


def test_evidence_goes_in_batches_oldest_first_and_never_that_of_a_prepared_branch(world: World) -> None:
    done = []
    for account in (1, 2, 3):
        session, identifier = world.prepared_branch(account)
        world.run(world.resource.commit(session))
        done.append(identifier.attempt)
    _, in_doubt = world.prepared_branch(4)
    sweeper = world.session()
    attempts = world.run(world.resource.evidence_attempts(sweeper, COORDINATOR, FIRST, 2))
    assert attempts == done[:2]
    assert world.run(world.resource.evidence_attempts(sweeper, COORDINATOR, done[1], 9)) == done[1:]
    assert world.run(world.resource.evidence_attempts(sweeper, Guid(b"y" * 16), FIRST, 9)) == []
    assert world.run(world.resource.drop_evidence(sweeper, Guid(b"y" * 16), done)) == 0
    assert world.run(world.resource.drop_evidence(sweeper, COORDINATOR, [])) == 0
    assert world.run(world.resource.drop_evidence(sweeper, COORDINATOR, [*done[:2], in_doubt.attempt])) == 2
    assert world.evidence_rows() == [(done[2].counter, "committed")]
    assert world.run(world.resource.finish(sweeper, in_doubt, commit=True, state=b"")) is Answer.COMMITTED
    assert world.run(world.resource.evidence(sweeper, in_doubt)) is Evidence.COMMITTED


# --- lost replies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["prepare", "unknown writer", "one phase", "commit", "wrote", "savepoint", "scan"])
def test_a_connection_that_dies_under_a_statement_says_lost_and_breaks_the_session(world: World, what: str) -> None:
    """O43: each statement of a branch."""
    if what == "commit":
        session, identifier = world.prepared_branch(1)
    elif what in ("unknown writer", "wrote"):
        session, identifier = world.begin()
    else:
        session, identifier = world.wrote(1)
    script = {
        "prepare": world.resource.prepare,
        "unknown writer": world.resource.prepare,
        "one phase": world.resource.commit_one_phase,
        "commit": world.resource.commit,
        "wrote": world.resource.wrote,
        "savepoint": lambda session: world.resource.savepoint(session, "s"),
        "scan": world.resource.scan,
    }[what]
    world.end_backend(session)
    with pytest.raises(ConnectionLost):
        world.run(script(session))
    assert session.broken
    assert not world.resource.is_usable(session)
    world.run(world.resource.close(session))
    finder = world.session()
    assert world.run(world.resource.finish(finder, identifier, commit=False, state=b"")) is (
        Answer.ABORTED if what == "commit" else Answer.NOT_FOUND
    )
    assert world.run(world.resource.evidence(finder, identifier)) is Evidence.ABSENT
    assert world.accounts() == []


def test_a_backend_killed_inside_prepare_is_lost_and_leaves_nothing(world: World) -> None:
    world.observer.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60); RETURN NULL; END $$"
    )
    world.observer.execute(
        "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON account DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION die()"
    )
    for end in (world.resource.prepare, world.resource.commit_one_phase):
        session, identifier = world.wrote(1)
        with pytest.raises(ConnectionLost):
            world.run(end(session))
        finder = world.session()
        assert world.run(world.resource.settle(finder, identifier)) is Evidence.ABSENT
    assert world.prepared() == []
    assert world.accounts() == []


def test_a_failed_branch_whose_connection_dies_is_a_no(world: World) -> None:
    session, _ = world.wrote(1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        world.execute(session, "INSERT INTO account VALUES (1)")
    world.end_backend(session)
    assert world.run(world.resource.prepare(session)).choice is Choice.NO
    assert session.broken
    assert world.accounts() == []


@pytest.mark.parametrize("reached", ["nothing", "prepared"])
def test_abort_after_an_interrupted_prepare_looks_what_was_reached(world: World, reached: str) -> None:
    """O16: the vote was asked for and its reply never read; the connection itself has come to rest."""
    session, identifier = world.prepared_branch(1)
    assert session.branch is not None
    session.branch.phase = Phase.PREPARING
    if reached == "nothing":
        world.run(world.resource.finish(world.session(), identifier, commit=False, state=b""))
    assert world.run(world.resource.abort(session)) is Answer.ABORTED
    assert world.prepared() == []
    assert world.accounts() == []


def test_abort_after_an_interrupted_one_phase_commit_does_not_guess(world: World) -> None:
    session, identifier = world.prepared_branch(1)
    assert session.branch is not None
    session.branch.phase = Phase.COMMITTING
    assert world.run(world.resource.abort(session)) is Answer.NOT_FOUND
    assert world.prepared() == [identifier.to_gid()]


# --- who holds the lock --------------------------------------------------------------------------------------------


def test_who_held_the_lock_is_named_with_process_query_and_prepared_branch(world: World) -> None:
    world.observer.execute("INSERT INTO account VALUES (1), (2)")
    world.observer.execute("BEGIN; UPDATE account SET balance = 5 WHERE id = 1")
    _, in_doubt = world.prepared_branch(3)
    session, _ = world.begin(remaining_ms=100)
    assert world.run(world.resource.blockers(session)) == ""
    with pytest.raises(psycopg.errors.LockNotAvailable):
        world.execute(session, "UPDATE account SET balance = 6 WHERE id = 1")
    assert world.run(world.resource.blockers(session)) == ""  # it cannot ask while its own transaction has failed
    assert world.run(world.resource.abort(session)) is Answer.ABORTED
    named = world.run(world.resource.blockers(session))
    assert str(world.observer.info.backend_pid) in named
    assert "UPDATE account SET balance = 5" in named
    assert in_doubt.to_gid() in named
    world.end_backend(session)
    assert world.run(world.resource.blockers(session)) == ""
    world.observer.execute("ROLLBACK")


def test_what_may_be_retried(world: World) -> None:
    errors = psycopg.errors
    retryable = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable, errors.AdminShutdown)
    assert all(world.resource.is_retryable(error("x")) for error in retryable)
    never = (errors.UniqueViolation("x"), errors.QueryCanceled("x"), errors.InFailedSqlTransaction("x"), KeyError("x"))
    assert not any(world.resource.is_retryable(error) for error in never)
    assert world.resource.is_retryable(psycopg.OperationalError("the connection is closed"))


def test_a_deadlock_is_a_no_that_may_be_retried(world: World) -> None:
    world.observer.execute("INSERT INTO account VALUES (1), (2)")
    session, _ = world.begin()
    pid = session.pgconn.backend_pid
    world.execute(session, "SET LOCAL deadlock_timeout = '10ms'")
    world.execute(session, "UPDATE account SET balance = 1 WHERE id = 1")
    with psycopg.connect(world.url) as other:
        other.execute("SET deadlock_timeout = '60s'")
        other.execute("UPDATE account SET balance = 2 WHERE id = 2")
        waiter = threading.Thread(target=lambda: other.execute("UPDATE account SET balance = 2 WHERE id = 1"))
        waiter.start()
        blocked = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        wait_until(lambda: world.observer.execute(blocked, (pid,)).fetchone() is not None, "the other waits")
        with pytest.raises(psycopg.errors.DeadlockDetected):
            world.execute(session, "UPDATE account SET balance = 1 WHERE id = 2")
        vote = world.run(world.resource.prepare(session))
        assert vote.choice is Choice.NO
        assert vote.retryable
        waiter.join()
        other.commit()
    assert world.observer.execute("SELECT balance FROM account ORDER BY id").fetchall() == [(2,), (2,)]
