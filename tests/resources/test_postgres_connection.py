"""The connection a transaction's code gets: all of psycopg, except ending the branch."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from syncpoint.errors import NotAllowed, TransactionEnded
from syncpoint.resources.base import Answer, Choice, Mode, Vote
from syncpoint.testing.servers.base import wait_until
from tests.resources.postgres_world import Packets, World


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[World]:
    mode: Mode = request.param
    with World(postgres_url, mode) as world:
        yield world


REFUSED: dict[str, Callable[[Any], Any]] = {
    "commit()": lambda connection: connection.commit(),
    "rollback()": lambda connection: connection.rollback(),
    "close()": lambda connection: connection.close(),
    "autocommit": lambda connection: connection.set_autocommit(False),
    "tpc_begin()": lambda connection: connection.tpc_begin("x"),
    "tpc_prepare()": lambda connection: connection.tpc_prepare(),
    "tpc_commit()": lambda connection: connection.tpc_commit(),
    "tpc_rollback()": lambda connection: connection.tpc_rollback(),
}
TEXTS = [
    "COMMIT",
    " end",
    "ROLLBACK",
    "abort work",
    "PREPARE TRANSACTION 'x'",
    "Commit and chain",
    "rollback and chain",
]


@pytest.mark.parametrize("what", REFUSED)
def test_calls_that_would_end_the_branch_are_refused_by_name(world: World, what: str) -> None:
    session, _ = world.wrote(1)
    connection = world.resource.connection(session)
    with pytest.raises(NotAllowed) as error:
        world.do(lambda: REFUSED[what](connection))
    assert what in str(error.value)
    assert "savepoint" in error.value.advice
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    world.run(world.resource.commit(session))
    assert world.accounts() == [1]


def test_the_autocommit_setter_and_the_connection_as_a_context_manager_are_refused(world: World) -> None:
    session, _ = world.wrote(1)
    connection = world.resource.connection(session)

    def enter() -> Any:
        return connection.__enter__() if world.mode == "sync" else connection.__aenter__()

    with pytest.raises(NotAllowed, match="with connection"):
        world.do(enter)
    with pytest.raises((NotAllowed, AttributeError)):  # psycopg's asyncio connection has no setter at all
        connection.autocommit = False
    assert world.run(world.resource.prepare(session)).choice is Choice.YES


@pytest.mark.parametrize("text", TEXTS)
def test_sql_text_that_would_end_the_branch_is_refused_before_it_is_sent(world: World, text: str) -> None:
    session, _ = world.wrote(1)
    with pytest.raises(NotAllowed):
        world.execute(session, text)
    world.execute(session, "SAVEPOINT s")
    world.execute(session, "INSERT INTO account VALUES (2)")
    world.execute(session, "ROLLBACK TO s")
    world.execute(session, "ROLLBACK WORK TO SAVEPOINT s")
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    world.run(world.resource.commit(session))
    assert world.accounts() == [1]


@pytest.mark.parametrize(
    ("text", "kept", "answer"),
    [
        ("SELECT 1; COMMIT", [1], Answer.HEURISTIC_COMMIT),
        ("SELECT 1; COMMIT AND CHAIN", [1], Answer.HEURISTIC_COMMIT),
        ("SELECT 1; COMMIT; BEGIN; INSERT INTO account VALUES (2)", [1], Answer.HEURISTIC_COMMIT),
        ("SELECT 1; ROLLBACK", [], Answer.ABORTED),
        ("SELECT 1; PREPARE TRANSACTION 'mine'", [], Answer.HEURISTIC_HAZARD),
    ],
)
def test_a_branch_ended_inside_many_statements_is_noticed_at_once(
    world: World, text: str, kept: list[int], answer: Answer
) -> None:
    session, _ = world.wrote(1)
    world.execute(session, text)
    with pytest.raises(NotAllowed, match="was ended by"):
        world.execute(session, "INSERT INTO account VALUES (3)")
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.NO
    assert "behind the transaction's back" in vote.reason
    assert world.accounts() == kept
    assert world.open_transactions() == 0

    session, _ = world.begin()
    world.execute(session, text.replace("(2)", "(5)").replace("mine", "mine too"))
    assert world.run(world.resource.abort(session)) is answer
    assert world.open_transactions() == 0
    for gid in world.prepared():
        world.observer.execute(f"ROLLBACK PREPARED '{gid}'".encode())


@pytest.mark.parametrize("wrote", [True, False])
@pytest.mark.parametrize("text", ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT; BEGIN"])
def test_a_branch_ended_where_nobody_watched_is_caught_by_its_marker(world: World, text: str, wrote: bool) -> None:
    session, _ = world.begin()
    if wrote:
        world.execute(session, "INSERT INTO account VALUES (1)")
    session.pgconn.exec_(text.encode())
    session.pgconn.exec_(b"INSERT INTO account VALUES (2)")
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.NO
    assert "behind the transaction's back" in vote.reason
    assert 2 not in world.accounts()
    assert world.prepared() == []
    assert world.open_transactions() == 0


def test_a_read_only_branch_ended_where_nobody_watched_is_caught_too(world: World) -> None:
    for end in (world.resource.prepare, world.resource.commit_one_phase):
        session, _ = world.begin(read_only=True)
        session.pgconn.exec_(b"COMMIT; BEGIN; INSERT INTO account VALUES (1)")
        assert world.run(end(session)).choice is Choice.NO
    assert world.accounts() == []
    session, _ = world.begin()
    session.pgconn.exec_(b"COMMIT")
    with Packets(session) as packets:
        assert world.run(world.resource.prepare(session)).choice is Choice.NO
    assert packets.sent == []
    session, _ = world.begin()
    session.pgconn.exec_(b"COMMIT")
    assert world.run(world.resource.abort(session)) is Answer.HEURISTIC_HAZARD


def test_psycopgs_transaction_blocks_are_savepoints(world: World) -> None:
    session, _ = world.wrote(1)
    connection = world.resource.connection(session)

    two = "INSERT INTO account VALUES (2); INSERT INTO account VALUES (1)"

    def sync() -> None:
        with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
            connection.execute(two)
        with connection.transaction(), connection.transaction("named"):
            connection.execute("INSERT INTO account VALUES (3)")

    async def on_loop() -> None:
        async def fail() -> None:
            async with connection.transaction():
                await connection.execute(two)

        with pytest.raises(psycopg.errors.UniqueViolation):
            await fail()
        async with connection.transaction(), connection.transaction("named"):
            await connection.execute("INSERT INTO account VALUES (3)")

    world.do(sync if world.mode == "sync" else on_loop)
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    world.run(world.resource.commit(session))
    assert world.accounts() == [1, 3]


def test_row_factories_copy_streams_pipelines_and_server_cursors_work(world: World) -> None:
    session, _ = world.begin()
    connection = world.resource.connection(session)
    connection.row_factory = psycopg.rows.dict_row

    def sync() -> list[Any]:
        with connection.cursor() as cursor, cursor.copy("COPY account (id) FROM STDIN") as copy:
            for number in (1, 2):
                copy.write_row((number,))
        with connection.pipeline():
            connection.execute("INSERT INTO account VALUES (3)")
            connection.execute("INSERT INTO account VALUES (4)")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO account VALUES (%s)", [(5,), (6,)])
            streamed = [row["id"] for row in cursor.stream("SELECT id FROM account ORDER BY id")]
        with connection.cursor("named") as cursor:
            cursor.execute("SELECT id FROM account ORDER BY id")
            return [*streamed, cursor.fetchone()]

    async def on_loop() -> list[Any]:
        async with connection.cursor() as cursor, cursor.copy("COPY account (id) FROM STDIN") as copy:
            for number in (1, 2):
                await copy.write_row((number,))
        async with connection.pipeline():
            await connection.execute("INSERT INTO account VALUES (3)")
            await connection.execute("INSERT INTO account VALUES (4)")
        async with connection.cursor() as cursor:
            await cursor.executemany("INSERT INTO account VALUES (%s)", [(5,), (6,)])
            streamed = [row["id"] async for row in cursor.stream("SELECT id FROM account ORDER BY id")]
        async with connection.cursor("named") as cursor:
            await cursor.execute("SELECT id FROM account ORDER BY id")
            return [*streamed, await cursor.fetchone()]

    assert world.do(sync if world.mode == "sync" else on_loop) == [1, 2, 3, 4, 5, 6, {"id": 1}]
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    world.run(world.resource.commit(session))
    assert world.accounts() == [1, 2, 3, 4, 5, 6]
    session, _ = world.begin(session)
    assert world.do(world.execute(session, "SELECT 1").fetchone) == (1,)  # the row factory went with its branch


def test_prepared_statements_of_one_branch_do_not_meet_those_of_the_next(world: World) -> None:
    session = world.session()
    for number in range(3):
        world.begin(session)
        connection = world.resource.connection(session)
        connection.prepare_threshold = 0
        world.do(lambda: connection.execute("INSERT INTO account VALUES (%s)", (number,)))  # noqa: B023
        assert world.run(world.resource.prepare(session)).choice is Choice.YES
        world.run(world.resource.commit(session))
    assert world.accounts() == [0, 1, 2]


def test_a_connection_kept_after_its_branch_can_touch_nothing(world: World) -> None:
    session, _ = world.wrote(1)
    connection = world.resource.connection(session)
    cursor = connection.cursor()
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    world.run(world.resource.commit(session))
    for next_one in (False, True):
        if next_one:
            world.begin(session)
        with pytest.raises(TransactionEnded):
            world.do(lambda: connection.execute("INSERT INTO account VALUES (2)"))
        with pytest.raises(TransactionEnded):
            world.do(lambda: cursor.execute("INSERT INTO account VALUES (3)"))
        connection.cancel()
    world.execute(session, "INSERT INTO account VALUES (4)")
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    world.run(world.resource.commit(session))
    assert world.accounts() == [1, 4]


def test_a_connection_object_that_goes_away_warns_of_nothing(world: World) -> None:
    session, _ = world.begin()
    world.resource.connection(session)
    world.run(world.resource.abort(session))
    gc.collect()  # no warning of a connection left open, which pytest would make an error


def test_an_open_pipeline_or_copy_is_a_no_and_nothing_is_left(world: World) -> None:
    for spoil in ("pipeline", "copy"):
        session, _ = world.wrote(1)
        if spoil == "pipeline":
            session.pgconn.enter_pipeline_mode()
        else:
            session.pgconn.exec_(b"COPY account (id) FROM STDIN")
        vote = world.run(world.resource.prepare(session))
        assert vote.choice is Choice.NO
        assert "still open" in vote.reason
        assert not world.resource.is_usable(session)
        wait_until(lambda: world.open_transactions() == 0, "the server rolls back")
    assert world.prepared() == []
    assert world.accounts() == []


def test_settings_that_outlive_the_branch_keep_its_session_from_being_used_again(world: World) -> None:
    session, _ = world.wrote(1)
    world.execute(session, "SET LOCAL search_path = public")
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    world.run(world.resource.commit(session))
    assert world.resource.is_usable(session)
    world.begin(session)
    world.execute(session, "SET search_path = nowhere")
    assert world.run(world.resource.prepare(session)) == Vote(Choice.READ_ONLY)
    assert not world.resource.is_usable(session)


def test_a_lost_connection_is_a_no_that_may_be_retried(world: World) -> None:
    session, _ = world.wrote(1)
    world.end_backend(session)
    with pytest.raises(psycopg.OperationalError) as error:
        world.execute(session, "SELECT 1")
    assert world.resource.is_retryable(error.value)
    assert session.broken
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.NO
    assert vote.retryable
    assert world.accounts() == []


def test_a_cancelled_statement_breaks_the_session(postgres_url: str) -> None:
    with World(postgres_url, "async") as world:
        session, _ = world.wrote(1)
        connection = world.resource.connection(session)

        running = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"

        async def give_up() -> None:
            statement = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
            while world.observer.execute(running, (session.pgconn.backend_pid,)).fetchone() is None:
                await asyncio.sleep(0.01)
            statement.cancel()
            await asyncio.wait([statement])
            assert statement.cancelled()

        world.do(give_up)
        assert session.broken
        assert world.run(world.resource.abort(session)) is Answer.ABORTED
        wait_until(lambda: world.open_transactions() == 0, "the server stops the statement")
        assert world.accounts() == []


def test_a_forked_child_that_abandons_the_connection_does_not_disturb_it(world: World) -> None:
    idle = world.session()
    session, _ = world.wrote(1)
    child = os.fork()
    if child == 0:
        world.resource.abandon(session)
        world.resource.abandon(idle)
        world.resource.abandon(idle)  # a second time: never raises
        os._exit(0 if session.broken else 1)
    assert os.waitpid(child, 0)[1] == 0
    world.execute(session, "INSERT INTO account VALUES (2)")
    assert world.run(world.resource.prepare(session)).choice is Choice.YES
    assert world.run(world.resource.commit(session)) is Answer.COMMITTED
    assert world.resource.is_usable(idle)
    assert world.accounts() == [1, 2]
