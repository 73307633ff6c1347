"""The life of a MariaDB branch, under threads and under asyncio, seen from outside by a plain connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from syncpoint.errors import ConnectionLost, NotAllowed, TransactionEnded
from syncpoint.resources.base import Answer, Choice, Mode
from syncpoint.resources.mariadb_session import Phase
from syncpoint.testing.servers.mariadb import MariadbServer
from tests.resources.mariadb_world import Wire, World, make_identifier, wait_until

BOTH: list[Mode] = ["sync", "async"]


@pytest.fixture(params=BOTH)
def world(request: pytest.FixtureRequest, mariadb_server: MariadbServer, mariadb_url: str) -> Iterator[World]:
    with World(mariadb_server, mariadb_url, request.param) as world:
        yield world


# --- the ordinary ways -----------------------------------------------------------------------------------------


def test_a_known_writer_prepares_in_one_packet_and_commits_in_one(world: World) -> None:
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    world.insert(session, 1)
    with Wire(session) as wire:
        vote = world.run(world.resource.prepare(session))
        assert wire.sent == 1
    assert vote.choice is Choice.YES
    assert len(vote.state) < 60
    assert world.is_listed(identifier)
    assert world.rows() == []
    with Wire(session) as wire:
        assert world.run(world.resource.commit(session)) is Answer.COMMITTED
        assert wire.sent == 1
    assert world.rows() == [1]
    assert world.evidence_rows(identifier) == ((1,),)
    assert not world.is_listed(identifier)
    assert world.resource.is_usable(session)


def test_begin_is_one_packet(world: World) -> None:
    session = world.session()
    with Wire(session) as wire:
        world.begin(session)
        assert wire.sent == 1


def test_abort_of_work_and_of_a_voted_branch(world: World) -> None:
    session = world.begin()
    world.insert(session, 1)
    with Wire(session) as wire:
        assert world.run(world.resource.abort(session)) is Answer.ABORTED
        assert wire.sent == 1
    assert world.run(world.resource.abort(session)) is Answer.ABORTED  # nothing is left on it
    session, identifier, _ = world.prepared(2)
    assert world.run(world.resource.abort(session)) is Answer.ABORTED
    assert world.rows() == []
    assert world.evidence_rows(identifier) == ()
    assert not world.is_listed(identifier)
    assert world.resource.is_usable(session)


def test_one_phase_commit_leaves_evidence_in_one_packet(world: World) -> None:
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    world.insert(session, 1)
    assert world.run(world.resource.wrote(session)) is True
    with Wire(session) as wire:
        assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
        assert wire.sent == 1
    assert world.rows() == [1]
    assert world.evidence_rows(identifier) == ((1,),)
    assert world.evidence(identifier) == "COMMITTED"


@pytest.mark.parametrize("way", ["prepare", "commit_one_phase"])
def test_a_branch_that_only_read_votes_read_only(world: World, way: str) -> None:
    world.sql("INSERT INTO account VALUES (1, 1)")
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    assert world.execute(session, "SELECT id FROM account") == [(1,)]
    with Wire(session) as wire:
        vote = world.run(getattr(world.resource, way)(session))
        assert wire.sent <= 2
    assert vote.choice is Choice.READ_ONLY
    assert not world.is_listed(identifier)
    assert world.evidence_rows(identifier) == ()
    assert world.resource.is_usable(session)
    world.insert(world.begin(session), 2)  # nothing is left in its way


def test_a_branch_declared_read_only_cannot_write_and_needs_one_packet_to_end(world: World) -> None:
    session = world.begin(read_only=True)
    with pytest.raises(Exception, match="READ ONLY"):
        world.insert(session, 1)
    with Wire(session) as wire:
        assert world.run(world.resource.prepare(session)).choice is Choice.READ_ONLY
        assert wire.sent == 1
    world.insert(world.begin(session), 1)  # the next branch on it may write


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT write_one()",
        "CALL write_two()",
        "SET @x = write_one()",
        "SELECT id FROM account FOR UPDATE",
        "UPDATE account SET balance = 1 WHERE id = 99",
        "INSERT INTO account (id) SELECT 1 UNION SELECT 2",
    ],
)
def test_whatever_may_have_written_is_noticed(world: World, statement: str) -> None:
    """A write hidden in a function, a procedure or a SET must never be taken for reading: it would be lost."""
    world.sql(
        "CREATE FUNCTION write_one() RETURNS INT MODIFIES SQL DATA "
        "BEGIN INSERT INTO account VALUES (5, 5); RETURN 1; END"
    )
    world.sql("CREATE PROCEDURE write_two() INSERT INTO account VALUES (6, 6)")
    session = world.begin()
    world.execute(session, statement)
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    assert world.run(world.resource.commit(session)) is Answer.COMMITTED
    written = {"SELECT w": [5], "CALL wri": [6], "SET @x =": [5], "INSERT I": [1, 2]}.get(statement[:8], [])
    assert world.rows() == written


def test_turning_the_servers_report_off_makes_a_branch_count_as_writing(world: World) -> None:
    session = world.begin()
    world.insert(session, 1)
    session.wrote = None  # as if it had been hidden in a result set
    world.execute(session, "SET session_track_transaction_info = 'OFF'")
    assert world.run(world.resource.prepare(session)).choice is not Choice.READ_ONLY


def test_a_prepared_statement_of_asyncmy_counts_as_writing(mariadb_server: MariadbServer, mariadb_url: str) -> None:
    with World(mariadb_server, mariadb_url, "async") as world:
        session = world.begin()

        async def work() -> None:
            statement = await world.resource.connection(session).prepare("INSERT INTO account (id) VALUES (?)")
            await statement.execute((1,))

        world.do(work)
        assert world.run(world.resource.prepare(session)).choice is Choice.YES
        assert world.run(world.resource.commit(session)) is Answer.COMMITTED
        assert world.rows() == [1]


def test_without_the_servers_report_every_branch_counts_as_writing(world: World) -> None:
    """An old proxy between us and the server may keep the report to itself."""
    session = world.session()
    session.connection.session = None  # nothing is seen
    world.begin(session)
    world.insert(session, 1)
    session.connection.session = session
    assert world.run(world.resource.wrote(session)) is True
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    assert world.run(world.resource.commit(session)) is Answer.COMMITTED
    assert world.rows() == [1]


def test_savepoints(world: World) -> None:
    session = world.begin()
    world.insert(session, 1)
    world.run(world.resource.savepoint(session, "a `b"))
    world.insert(session, 2)
    world.run(world.resource.rollback_to_savepoint(session, "a `b"))
    world.insert(session, 3)
    world.run(world.resource.release_savepoint(session, "a `b"))
    with pytest.raises(Exception, match="SAVEPOINT"):
        world.run(world.resource.rollback_to_savepoint(session, "a `b"))
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert world.rows() == [1, 3]


# --- behind the manager's back ---------------------------------------------------------------------------------


def test_methods_that_would_end_the_branch_are_refused_by_name(world: World) -> None:
    session = world.begin()
    world.insert(session, 1)
    connection: Any = world.resource.connection(session)
    calls = [
        connection.commit,
        connection.rollback,
        connection.begin,
        connection.close,
        lambda: connection.autocommit(True),
        lambda: connection.kill(1),
        lambda: connection.ping(reconnect=True),
        lambda: connection._execute_command(0x1F, b""),  # COM_RESET_CONNECTION
    ]
    if world.mode == "sync":
        calls.append(connection.__enter__)
    else:
        calls += [connection.__aenter__, connection.ensure_closed]
    for call in calls:
        with pytest.raises(NotAllowed, match="'ledger'"):
            world.do(call)
    world.do(lambda: connection.ping(reconnect=False))
    world.do(lambda: connection.select_db(world.database))
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert world.rows() == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "START TRANSACTION",
        "CREATE TABLE other (id INT)",
        "ALTER TABLE account ADD more INT",
        "TRUNCATE account",
        "LOCK TABLES account WRITE",
        "ANALYZE TABLE account",
        "XA START 'x'",
        "XA COMMIT 'x'",
        "BEGIN NOT ATOMIC COMMIT; END",
        "EXECUTE IMMEDIATE 'COMMIT'",
    ],
)
def test_sql_text_that_would_end_the_branch_is_refused_by_the_server(world: World, statement: str) -> None:
    session = world.begin()
    world.insert(session, 1)
    with pytest.raises(Exception, match=r"XAER_|Unknown XID"):
        world.execute(session, statement)
    assert world.rows() == []
    assert world.run(world.resource.abort(session)) is Answer.ABORTED
    assert world.rows() == []


@pytest.mark.parametrize("way", ["prepare", "commit_one_phase"])
@pytest.mark.parametrize("ending", ["{end}", "{end}; XA COMMIT {x} ONE PHASE", "{end}; XA ROLLBACK {x}"])
def test_a_branch_ended_by_xa_statements_votes_no_and_leaves_no_evidence(world: World, way: str, ending: str) -> None:
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    world.insert(session, 1)
    gtrid, bqual = identifier.to_xid()
    name = f"X'{gtrid.hex()}',X'{bqual.hex()}',1397773361"
    for statement in ending.format(end=f"XA END {name}", x=name).split("; "):
        world.execute(session, statement)
    vote = world.run(getattr(world.resource, way)(session))
    assert vote.choice is Choice.NO
    assert not vote.retryable
    assert vote.reason
    assert world.evidence_rows(identifier) == ()
    assert not world.is_listed(identifier)
    assert world.rows() == ([1] if "COMMIT" in ending else [])


def test_after_its_end_the_connection_can_do_nothing_more(world: World) -> None:
    session = world.begin()
    world.insert(session, 1)
    world.run(world.resource.prepare(session))
    with pytest.raises(TransactionEnded):
        world.insert(session, 2)
    world.run(world.resource.commit(session))
    with pytest.raises(TransactionEnded):
        world.insert(session, 2)
    assert world.rows() == [1]


def test_what_one_branch_sets_does_not_reach_the_next(world: World) -> None:
    session = world.begin()
    world.execute(session, "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
    world.execute(session, "SET autocommit = 0")  # the server lets this one pass (DATABASES MariaDB 4)
    world.execute(session, "USE information_schema")
    world.execute(session, "SELECT 1")
    assert world.run(world.resource.prepare(session)).choice is Choice.READ_ONLY
    world.begin(session)
    assert world.execute(session, "SELECT @@tx_isolation, DATABASE(), @@autocommit") == [
        ("REPEATABLE-READ", world.database, 1)
    ]
    world.insert(session, 1)
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert world.rows() == [1]


def test_a_connection_kept_after_its_branch_can_touch_nothing(world: World) -> None:
    if world.mode == "async":
        pytest.skip("asyncmy's connections have one object for all branches: docs/databases.md")
    session = world.begin()
    connection = world.resource.connection(session)
    assert world.resource.connection(session) is connection
    cursor = connection.cursor()
    cursor.execute("INSERT INTO account (id) VALUES (1)")
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    for next_one in (False, True):
        if next_one:
            world.begin(session)
        for use in (connection.query, cursor.execute):
            with pytest.raises(TransactionEnded):
                use("INSERT INTO account (id) VALUES (2)")
    del connection, cursor  # their end closes nothing
    world.insert(session, 3)
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert world.rows() == [1, 3]


# --- lost connections ------------------------------------------------------------------------------------------


def test_a_stale_idle_connection_is_noticed(world: World) -> None:
    session = world.session()
    world.cut(session)
    wait_until(lambda: not _usable(world, session))
    with pytest.raises(ConnectionLost):
        world.begin(session)
    assert session.broken


def _usable(world: World, session: Any) -> bool:
    async def later() -> bool:
        return world.resource.is_usable(session)

    return bool(world.do(later if world.mode == "async" else lambda: world.resource.is_usable(session)))


@pytest.mark.parametrize("way", ["prepare", "commit_one_phase", "abort", "wrote"])
def test_a_lost_connection_raises_and_breaks_the_session(world: World, way: str) -> None:
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    world.insert(session, 1)
    if way == "wrote":
        session.wrote = None
    world.cut(session)
    with pytest.raises(ConnectionLost, match="'ledger'"):
        world.run(getattr(world.resource, way)(session))
    assert session.broken
    assert not world.resource.is_usable(session)
    assert world.evidence(identifier) == "ABSENT"
    assert world.rows() == []


def test_commit_on_a_lost_connection_raises_and_another_finishes(world: World) -> None:
    session, identifier, state = world.prepared()
    world.cut(session)
    with pytest.raises(ConnectionLost):
        world.run(world.resource.commit(session))
    assert world.finish(identifier, state) == "COMMITTED"
    assert world.rows() == [1]


def test_an_error_in_the_users_lost_connection_breaks_the_session(world: World) -> None:
    session = world.begin()
    world.cut(session)
    with pytest.raises(Exception, match=r"Lost connection|gone away|killed"):
        world.insert(session, 1)
    assert session.broken


def test_a_cancelled_statement_breaks_the_session(mariadb_server: MariadbServer, mariadb_url: str) -> None:
    with World(mariadb_server, mariadb_url, "async") as world:
        session = world.begin()
        world.insert(session, 1)

        async def cancelled() -> None:
            cursor = world.resource.connection(session).cursor()
            task = asyncio.ensure_future(cursor.execute("SELECT SLEEP(100)"))
            for _ in range(100):
                await asyncio.sleep(0)  # until it is sent and waits for its reply
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        world.do(cancelled)
        assert session.broken
        wait_until(lambda: not world.lives(session.holder.connection_id))
        assert world.rows() == []


def test_a_value_that_cannot_be_decoded_breaks_the_session(world: World) -> None:
    """The rest of its rows is unread: the next reply would be taken for another statement's."""
    session = world.begin()
    connection: Any = world.resource.connection(session)

    def bad(value: Any) -> Any:
        raise ValueError("cannot decode")

    decoders = connection.decoders if world.mode == "sync" else connection._decoders
    decoders[3] = bad  # INT
    world.sql("INSERT INTO account VALUES (1, 1), (2, 2)")
    with pytest.raises(ValueError, match="cannot decode"):
        world.execute(session, "SELECT id FROM account")
    assert session.broken


def test_rows_left_unread_by_the_transaction_do_not_disturb_its_end(world: World) -> None:
    world.sql("INSERT INTO account VALUES (1, 1), (2, 2), (3, 3)")
    session = world.begin()
    world.insert(session, 4)
    connection: Any = world.resource.connection(session)
    if world.mode == "sync":
        from pymysql.cursors import SSCursor

        cursor: Any = connection.cursor(SSCursor)
        cursor.execute("SELECT id FROM account")
        assert cursor.fetchone() == (1,)
    else:
        from asyncmy.cursors import SSCursor as AsyncSSCursor

        async def work() -> Any:
            cursor = connection.cursor(AsyncSSCursor)
            await cursor.execute("SELECT id FROM account")
            assert await cursor.fetchone() == (1,)
            return cursor

        cursor = world.do(work)
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert world.rows() == [1, 2, 3, 4]
    assert cursor is not None


def test_several_statements_of_which_the_last_failed_unread_vote_no(world: World) -> None:
    session = world.begin()
    world.insert(session, 1)
    connection: Any = world.resource.connection(session)
    cursor: Any = connection.cursor()
    world.do(lambda: cursor.execute("INSERT INTO account (id) VALUES (2); INSERT INTO account (id) VALUES (1)"))
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.NO
    assert "Duplicate entry" in vote.reason
    assert world.rows() == []


# --- others ------------------------------------------------------------------------------------------------------


def test_an_identifier_in_use_votes_no(world: World) -> None:
    """A2, A4."""
    first, identifier, _ = world.prepared()
    second = world.begin(identifier=identifier)
    with pytest.raises(TransactionEnded, match="same identifier"):
        world.insert(second, 2)
    vote = world.run(world.resource.prepare(second))
    assert vote.choice is Choice.NO
    assert "identifier" in vote.reason
    assert second.phase is Phase.NONE
    assert world.run(world.resource.commit(first)) is Answer.COMMITTED
    assert world.rows() == [1]


def test_timeouts_of_the_branch_end_waits_and_statements(world: World) -> None:
    world.sql("INSERT INTO account VALUES (1, 1)")
    holder = world.begin()
    world.execute(holder, "UPDATE account SET balance = 2 WHERE id = 1")
    waiting = world.begin(remaining_ms=1000)
    with pytest.raises(Exception, match="Lock wait timeout") as caught:
        world.execute(waiting, "UPDATE account SET balance = 3 WHERE id = 1")
    assert world.resource.is_retryable(caught.value)
    assert world.run(world.resource.blockers(waiting)) == ""  # the account lacks PROCESS
    with pytest.raises(Exception, match="max_statement_time") as caught:
        world.execute(waiting, "SELECT SLEEP(30)")
    assert world.resource.is_retryable(caught.value)
    assert not world.resource.is_retryable(ValueError(1213))
    assert world.run(world.resource.abort(waiting)) is Answer.ABORTED


def test_blockers_are_named_when_the_account_may_know(world: World) -> None:
    world.server.execute("GRANT PROCESS ON *.* TO app")
    try:
        world.sql("INSERT INTO account VALUES (1, 1)")
        holder = world.begin()
        world.execute(holder, "UPDATE account SET balance = 2 WHERE id = 1")
        said = world.run(world.resource.blockers(world.begin()))
        assert f"connection {holder.holder.connection_id} (app@127.0.0.1" in said
    finally:
        world.server.execute("REVOKE PROCESS ON *.* FROM app")
    broken = world.begin()
    world.cut(broken)
    assert world.run(world.resource.blockers(broken)) == ""
    assert world.run(world.resource.blockers(broken)) == ""
