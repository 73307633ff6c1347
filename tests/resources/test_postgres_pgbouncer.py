"""PostgreSQL through PgBouncer in transaction mode: server connections are shared, and any of them finishes a branch.

What is the same with and without a pooler is tested without it (test_postgres_branches.py, test_postgres_recovery.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from syncpoint.errors import ConnectionLost, ResourceUnavailable, SyncpointError
from syncpoint.resources.base import Answer, Choice, Evidence, Mode, Severity
from syncpoint.steps import Script
from syncpoint.testing.servers.base import wait_until
from syncpoint.testing.servers.pgbouncer import PgBouncerServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.resources.pgbouncer_world import behind, left_behind, occupied, pid_of
from tests.resources.postgres_world import COORDINATOR, World, make_identifier

MODES: tuple[Mode, ...] = ("sync", "async")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    mode: Mode = request.param
    return mode


@pytest.fixture
def database(postgres_url: str) -> str:
    return postgres_url.rpartition("/")[2]


@pytest.fixture
def world(pgbouncer: PgBouncerServer, postgres_server: PostgresServer, database: str, mode: Mode) -> Iterator[World]:
    with behind(pgbouncer, postgres_server, database, mode) as world:
        yield world


@pytest.fixture(scope="module")
def narrow(postgres_server: PostgresServer, pgbouncer: PgBouncerServer) -> Iterator[PgBouncerServer]:
    """A PgBouncer with one server connection for each database and user."""
    with PgBouncerServer(postgres_server.url("postgres"), settings={"default_pool_size": "1"}) as bouncer:
        yield bouncer


# --- a branch's life ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [True, False])
def test_a_branch_is_finished_on_another_server_connection(world: World, commit: bool) -> None:
    """By its own session: after PREPARE its server connection has gone back to the pool."""
    session, identifier = world.wrote(1)
    pid = pid_of(session)
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    assert world.prepared() == [identifier.to_gid()]
    with occupied(world.url, pid):
        end = world.resource.commit if commit else world.resource.abort
        assert world.run(end(session)) is (Answer.COMMITTED if commit else Answer.ABORTED)
    assert world.accounts() == ([1] if commit else [])
    assert world.prepared() == []
    assert world.resource.is_usable(session)


def test_more_branches_than_server_connections_can_be_in_doubt(world: World) -> None:
    branches = [world.prepared_branch(account) for account in range(12)]
    for number, (session, _) in enumerate(branches):
        assert world.run(world.resource.commit(session) if number % 2 else world.resource.abort(session)) is (
            Answer.COMMITTED if number % 2 else Answer.ABORTED
        )
    assert world.accounts() == [1, 3, 5, 7, 9, 11]
    assert world.prepared() == []


def test_savepoints_one_phase_and_read_only(world: World) -> None:
    session, identifier = world.wrote(1)
    world.run(world.resource.savepoint(session, "s"))
    world.execute(session, "INSERT INTO account VALUES (2)")
    world.run(world.resource.rollback_to_savepoint(session, "s"))
    world.run(world.resource.release_savepoint(session, "s"))
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert world.run(world.resource.evidence(session, identifier)) is Evidence.COMMITTED
    for read_only in (True, False):
        world.begin(session, read_only=read_only)
        world.execute(session, "SELECT * FROM account")
        assert world.run(world.resource.prepare(session)).choice is Choice.READ_ONLY
    world.begin(session)
    world.execute(session, "INSERT INTO account VALUES (3)")
    assert world.run(world.resource.abort(session)) is Answer.ABORTED
    assert world.accounts() == [1]
    assert world.open_transactions() == 0


@pytest.mark.parametrize(
    "statement", ["LISTEN news", "CREATE TEMP TABLE t (id int)", "DECLARE c CURSOR WITH HOLD FOR SELECT 1"]
)
def test_what_would_stay_in_the_server_session_cannot_be_prepared(world: World, statement: str) -> None:
    session, _ = world.wrote(1)
    world.execute(session, statement)
    assert world.run(world.resource.prepare(session)).choice is Choice.NO
    assert world.accounts() == []
    assert world.open_transactions() == 0


# --- after something went wrong ----------------------------------------------------------------------------------


def test_recovery_scans_finishes_and_asks_on_whatever_connection(world: World) -> None:
    session, identifier = world.wrote(1)
    pid = pid_of(session)
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    world.lose(session)
    _, other = world.prepared_branch(2)
    with occupied(world.url, pid):
        finder = world.session()
        assert {found.identifier for found in world.run(world.resource.scan(finder))} == {identifier, other}
        assert world.run(world.resource.evidence(finder, identifier)) is Evidence.UNDECIDED
        assert world.run(world.resource.finish(finder, identifier, commit=True, state=b"")) is Answer.COMMITTED
        assert world.run(world.resource.finish(finder, other, commit=False, state=b"")) is Answer.ABORTED
        assert world.run(world.resource.finish(finder, other, commit=False, state=b"")) is Answer.NOT_FOUND
        assert world.run(world.resource.evidence(finder, identifier)) is Evidence.COMMITTED
        assert world.run(world.resource.settle(finder, other)) is Evidence.ABSENT
        attempts = world.run(world.resource.evidence_attempts(finder, COORDINATOR, identifier.attempt, 9))
        assert attempts == [identifier.attempt]  # what bars a late commit stays
        assert world.run(world.resource.drop_evidence(finder, COORDINATOR, attempts)) == 1
    assert world.accounts() == [1]


def test_a_lost_client_ends_its_branch_and_nobody_gets_its_transaction(world: World) -> None:
    session, identifier = world.wrote(1)
    world.lose(session)
    wait_until(lambda: world.open_transactions() == 0, "PgBouncer ends what its client has left")
    finder = world.session()
    assert world.run(world.resource.settle(finder, identifier)) is Evidence.ABSENT
    assert world.accounts() == []


def test_closing_a_session_that_is_busy_cancels_its_statement_through_the_pooler(world: World) -> None:
    session, _ = world.begin()
    session.pgconn.send_query(b"SELECT pg_sleep(60)")
    world.run(world.resource.close(session))
    wait_until(lambda: world.open_transactions() == 0, "the statement is cancelled")


@pytest.mark.parametrize("what", ["prepare", "one phase", "commit", "statement"])
def test_a_server_process_that_dies_is_lost_or_noticed_by_the_pooler(world: World, what: str) -> None:
    """O43, where PgBouncer is the one to tell."""
    session, identifier = world.wrote(1)
    pid = pid_of(session)
    if what == "commit":
        assert world.run(world.resource.prepare(session)).choice is Choice.YES
    world.observer.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    if what == "commit":  # it was idle: PgBouncer takes another
        wait_until(lambda: world.run(world.resource.commit(session)) is Answer.COMMITTED, "committed", 10)
        assert world.accounts() == [1]
        return
    if what == "statement":
        with pytest.raises(psycopg.OperationalError) as lost:
            world.execute(session, "SELECT 1")
        assert world.resource.is_retryable(lost.value)
        assert world.run(world.resource.prepare(session)).choice is Choice.NO
    else:
        end = world.resource.prepare if what == "prepare" else world.resource.commit_one_phase
        with pytest.raises(ConnectionLost):
            world.run(end(session))
    assert session.broken
    assert world.run(world.resource.settle(world.session(), identifier)) is Evidence.ABSENT
    assert world.accounts() == []
    assert world.prepared() == []


def test_a_killed_pooler_ends_what_was_open_and_keeps_what_was_prepared(
    postgres_server: PostgresServer, pgbouncer: PgBouncerServer, database: str, mode: Mode
) -> None:
    with (
        PgBouncerServer(postgres_server.url("postgres")) as bouncer,
        behind(bouncer, postgres_server, database, mode) as world,
    ):
        working, lost = world.wrote(1)
        ready, voted = world.prepared_branch(2)
        idle = world.session()
        assert world.resource.is_usable(idle)
        bouncer.kill()
        wait_until(lambda: not world.resource.is_usable(idle), "an idle session learns that its connection is gone")
        with pytest.raises(ResourceUnavailable):
            world.session()
        with pytest.raises(ConnectionLost):
            world.run(world.resource.prepare(working))
        with pytest.raises(ConnectionLost):
            world.run(world.resource.commit(ready))
        bouncer.start()
        wait_until(lambda: world.open_transactions() == 0, "the server ends what was open")
        finder = world.session()
        assert [found.identifier for found in world.run(world.resource.scan(finder))] == [voted]
        assert world.run(world.resource.finish(finder, voted, commit=True, state=b"")) is Answer.COMMITTED
        assert world.run(world.resource.settle(finder, lost)) is Evidence.ABSENT
        assert world.accounts() == [2]
        assert world.prepared() == []


def test_who_holds_the_lock_is_named(world: World) -> None:
    world.observer.execute("INSERT INTO account VALUES (1)")
    holder, _ = world.begin()
    world.execute(holder, "UPDATE account SET balance = 5 WHERE id = 1")
    session, _ = world.begin(remaining_ms=100)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        world.execute(session, "UPDATE account SET balance = 6 WHERE id = 1")
    assert world.run(world.resource.abort(session)) is Answer.ABORTED
    assert f"process {pid_of(holder)} of postgres" in world.run(world.resource.blockers(session))


# --- roles (trap 11) ---------------------------------------------------------------------------------------------


def test_trap_11_a_branch_of_another_role_is_refused_and_no_connection_is_left_with_a_role(
    narrow: PgBouncerServer, postgres_server: PostgresServer, database: str, mode: Mode
) -> None:
    owner, member = f"owner_{database}", f"member_{database}"
    with behind(narrow, postgres_server, database, mode) as world:
        for statement in (
            f"CREATE ROLE {owner} LOGIN",
            f"CREATE ROLE {member} LOGIN",
            f"GRANT {owner} TO {member}",
            f"GRANT ALL ON account TO {owner}",
            f"GRANT USAGE ON SCHEMA syncpoint TO {owner}",
            f"GRANT INSERT ON syncpoint.evidence TO {owner}",
        ):
            world.observer.execute(statement.encode())
        with (
            behind(narrow, postgres_server, database, mode, owner, ready=False) as mine,
            behind(narrow, postgres_server, database, mode, member, ready=False) as helper,
            World(postgres_server.url(database, member), mode, ready=False) as directly,
        ):
            _, identifier = mine.prepared_branch(1)
            before = left_behind(helper.url)
            session = helper.session()
            with pytest.raises(SyncpointError, match=f"prepared by the role {owner}") as refused:
                helper.run(helper.resource.finish(session, identifier, commit=True, state=b""))
            assert "leads to the server itself" in refused.value.advice
            assert left_behind(helper.url) == before
            assert world.prepared() == [identifier.to_gid()]
            assert not session.broken
            assert directly.run(directly.resource.finish(directly.session(), identifier, commit=True, state=b"")) is (
                Answer.COMMITTED
            )
            assert world.accounts() == [1]


# --- nothing stays on a shared server connection -----------------------------------------------------------------


def _two_phase(world: World, how: str) -> None:
    session, _ = world.prepared_branch(1)
    world.run(world.resource.commit(session) if how == "commit" else world.resource.abort(session))


def _set_role(world: World, how: str) -> None:
    session, _ = world.begin()
    world.execute(session, "INSERT INTO account VALUES (1)")
    world.execute(session, f"{how} pg_read_all_data")
    if world.run(world.resource.prepare(session)).choice is Choice.YES:
        world.run(world.resource.commit(session))


def _one_phase(world: World, sql: str, *, read_only: bool = False) -> None:
    session, _ = world.begin(read_only=read_only)
    world.execute(session, sql)
    world.run(world.resource.commit_one_phase(session))


def _serializable_reader(world: World) -> None:
    session, _ = world.begin()
    world.execute(session, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    world.execute(session, "SELECT * FROM account")
    world.run(world.resource.wrote(session))
    world.run(world.resource.abort(session))


def _failed(world: World) -> None:
    session, _ = world.wrote(1)
    with pytest.raises(psycopg.Error):
        world.execute(session, "SELECT 1 / 0")
    assert world.run(world.resource.prepare(session)).choice is Choice.NO


def _settled(world: World) -> None:
    session, identifier = world.session(), make_identifier()
    world.run(world.resource.evidence(session, identifier))
    world.run(world.resource.settle(session, identifier))
    world.run(world.resource.scan(session))
    world.run(world.resource.inspect(session))
    world.run(world.resource.contact(session, world.contact(2)))
    world.run(world.resource.initialise(session))


def _parameters(world: World) -> None:
    """psycopg would prepare a statement on the server once it has seen it often enough."""
    session, _ = world.begin()
    connection = world.resource.connection(session)
    for number in range(12):
        world.do(lambda number=number: connection.execute("INSERT INTO account VALUES (%s)", (number,)))
    world.run(world.resource.commit_one_phase(session))


def _given_up(world: World) -> None:
    session, _ = world.wrote(1)
    world.run(world.resource.close(session))


KINDS: dict[str, Any] = {
    "two-phase commit": lambda world: _two_phase(world, "commit"),
    "two-phase abort": lambda world: _two_phase(world, "abort"),
    "one-phase commit": lambda world: _one_phase(world, "INSERT INTO account VALUES (1)"),
    "reader": lambda world: _one_phase(world, "SELECT 1"),
    "declared reader": lambda world: _one_phase(world, "SELECT 1", read_only=True),
    "serializable reader": _serializable_reader,
    "SET LOCAL": lambda world: _one_phase(world, "SET LOCAL session_replication_role = replica"),
    "SET ROLE": lambda world: _set_role(world, "SET ROLE"),
    "SET LOCAL ROLE": lambda world: _set_role(world, "SET LOCAL ROLE"),
    "failed": _failed,
    "given up": _given_up,
    "parameters": _parameters,
    "recovery and set-up": _settled,
}


@pytest.fixture(scope="module", params=MODES)
def alone(request: pytest.FixtureRequest, narrow: PgBouncerServer, postgres_server: PostgresServer) -> Iterator[World]:
    """One database for many tests, on one server connection."""
    mode: Mode = request.param
    postgres_server.create_database(f"alone_{mode}")
    with behind(narrow, postgres_server, f"alone_{mode}", mode) as world:
        yield world


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_connection_is_given_back_as_it_was_taken(alone: World, kind: str) -> None:
    alone.observer.execute("TRUNCATE account")
    before = left_behind(alone.url)
    assert dict(before["settings"])["session_replication_role"] == "origin"
    KINDS[kind](alone)
    wait_until(lambda: alone.open_transactions() == 0, "the branch is over")
    after = left_behind(alone.url)
    if kind == "given up":  # PgBouncer closes it, and the next is new
        del before["process"], after["process"]
    assert after == before


def test_what_the_transactions_own_code_sets_for_the_session_does_stay(alone: World) -> None:
    """A look that finds nothing proves nothing, unless it finds what was planted; docs/databases.md warns of it."""
    before = left_behind(alone.url)
    session, _ = alone.begin()
    alone.execute(session, "SET work_mem = '5MB'")
    alone.execute(session, "LISTEN news")
    alone.run(alone.resource.commit_one_phase(session))
    assert not alone.resource.is_usable(session)
    after = left_behind(alone.url)
    assert dict(after["settings"])["work_mem"] != dict(before["settings"])["work_mem"]
    assert after["listening"] != before["listening"]
    with closing(psycopg.connect(alone.url, autocommit=True)) as stranger:
        stranger.execute("RESET work_mem")
        stranger.execute("UNLISTEN *")
    assert left_behind(alone.url) == before


# --- set-up ------------------------------------------------------------------------------------------------------


def test_the_pooler_is_noticed_and_no_other(world: World, postgres_server: PostgresServer, database: str) -> None:
    def named(world: World) -> list[Severity]:
        findings = world.run(world.resource.inspect(world.session()))
        return [finding.severity for finding in findings if finding.check == "pooler"]

    assert named(world) == [Severity.OK]
    with World(postgres_server.url(database), world.mode, ready=False) as directly:
        assert named(directly) == []


def test_statement_mode_is_refused(
    postgres_server: PostgresServer, pgbouncer: PgBouncerServer, database: str, mode: Mode
) -> None:
    with (
        PgBouncerServer(postgres_server.url("postgres"), settings={"pool_mode": "statement"}) as bouncer,
        behind(bouncer, postgres_server, database, mode, ready=False) as world,
    ):
        (finding,) = world.run(world.resource.inspect(world.session()))
        assert finding.severity is Severity.REFUSED
        assert "statement mode" in finding.found
        assert "pool_mode = transaction" in finding.fix


def test_a_startup_option_that_the_pooler_refuses_is_explained(
    pgbouncer: PgBouncerServer, postgres_server: PostgresServer, database: str
) -> None:
    url = f"{pgbouncer.url(database)}?options=-csearch_path%3Dpublic"
    with (
        World(url, "sync", ready=False, observer_url=postgres_server.url(database)) as world,
        pytest.raises(ResourceUnavailable, match="unsupported startup parameter") as refused,
    ):
        world.session()
    assert "ALTER ROLE" in refused.value.advice


def test_the_options_that_do_work(pgbouncer: PgBouncerServer, postgres_server: PostgresServer, database: str) -> None:
    url = f"{pgbouncer.url(database)}?application_name=till&target_session_attrs=read-write&client_encoding=utf8"
    with World(url, "sync", observer_url=postgres_server.url(database)) as world:
        session, _ = world.begin()
        name = "SELECT application_name FROM pg_stat_activity WHERE pid = %s"
        assert world.observer.execute(name, (pid_of(session),)).fetchone() == ("till",)


# --- waiting for a server connection -----------------------------------------------------------------------------


def test_waiting_for_one_of_the_poolers_connections_ends(
    narrow: PgBouncerServer, postgres_server: PostgresServer, database: str, mode: Mode
) -> None:
    with behind(narrow, postgres_server, database, mode) as world:
        _, identifier = world.prepared_branch(1)
        waiting, asking = world.session(), world.session()

        def ask() -> Script[Any]:
            return (yield world.resource._driver.ask(asking, "SELECT 1", "a question", 0.2))

        with closing(psycopg.connect(world.url, autocommit=True)) as holder:
            holder.execute("BEGIN")
            began = time.monotonic()
            with pytest.raises(ResourceUnavailable, match="did not answer BEGIN") as refused:
                world.begin(waiting, remaining_ms=1)
            with pytest.raises(ResourceUnavailable, match=r"did not answer a question within 0\.2 s"):
                world.run(ask())
            assert time.monotonic() - began < 10
            assert "pooler" in refused.value.advice
            assert waiting.broken
            assert asking.broken
            holder.execute("ROLLBACK")
        world.run(world.resource.close(waiting))
        world.run(world.resource.close(asking))
        finder = world.session()
        assert world.run(world.resource.finish(finder, identifier, commit=True, state=b"")) is Answer.COMMITTED
        assert world.open_transactions() == 0  # the BEGIN that nobody waited for was never run


def test_a_reserve_lets_a_commit_pass_those_who_wait_for_its_locks(
    postgres_server: PostgresServer, pgbouncer: PgBouncerServer, database: str
) -> None:
    """Those who wait for its row hold all the server connections. Without a reserve it waits for their lock timeout."""
    reserve = {"default_pool_size": "1", "reserve_pool_size": "1", "reserve_pool_timeout": "0.2"}
    with (
        PgBouncerServer(postgres_server.url("postgres"), settings=reserve) as bouncer,
        behind(bouncer, postgres_server, database, "sync") as world,
    ):
        session, _ = world.prepared_branch(1)
        waiter, _ = world.begin(remaining_ms=20_000)
        waiter.pgconn.send_query(b"INSERT INTO account VALUES (1)")
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        wait_until(lambda: world.observer.execute(waits).fetchone() == (1,), "somebody waits for its row")
        began = time.monotonic()
        assert world.run(world.resource.commit(session)) is Answer.COMMITTED
        assert time.monotonic() - began < 10
        assert world.accounts() == [1]
