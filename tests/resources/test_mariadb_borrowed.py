"""The MariaDB resource on a mysqlclient connection that somebody else keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest

from syncpoint.errors import ConfigurationError, ConnectionLost, NotAllowed, TransactionEnded
from syncpoint.resources.base import Answer, BranchStart, Choice, Vote
from syncpoint.resources.mariadb_session import MariadbSession
from syncpoint.testing.servers.mariadb import MariadbServer
from tests.conftest import _missing
from tests.resources.mariadb_world import World, make_identifier


@pytest.fixture
def world(mariadb_server: MariadbServer, mariadb_url: str) -> Iterator[World]:
    try:
        import MySQLdb  # noqa: F401
    except ImportError:
        _missing("Tests of borrowed MariaDB connections need mysqlclient: scripts/mysqlclient.sh installs it")
    with World(mariadb_server, mariadb_url, "sync") as world:
        yield world


@pytest.fixture
def raw(world: World, mariadb_url: str) -> Iterator[Any]:
    connection = _connect(mariadb_url)
    yield connection
    if connection.open:
        connection.close()


def _connect(url: str, **more: Any) -> Any:
    import MySQLdb

    parts = urlsplit(url)
    return MySQLdb.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=parts.username or "",
        password=parts.password or "",
        database=parts.path[1:],
        autocommit=True,
        **more,
    )


def _borrow(world: World, raw: Any) -> MariadbSession:
    session, guid = world.run(world.resource.borrow(raw, world._runner))
    assert guid == world.run(world.resource.contact(world.session(), world.contact()))
    assert isinstance(session, MariadbSession)
    return session


def _begin(world: World, session: MariadbSession) -> Any:
    world.run(world.resource.begin(session, BranchStart(make_identifier(), 20_000)))
    return world.resource.connection(session)


def _execute(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def test_a_branch_prepares_and_commits_on_it(world: World, raw: Any) -> None:
    session = _borrow(world, raw)
    _execute(_begin(world, session), "INSERT INTO account (id) VALUES (1)")
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.YES
    assert world.rows() == []
    assert world.run(world.resource.commit(session)) is Answer.COMMITTED
    world.run(world.resource.give_back(session))
    assert not session.broken
    assert world.rows() == [1]
    assert _execute(raw, "SELECT @@in_transaction, @@autocommit") == [(0, 1)]


def test_after_its_connection_is_lost_another_session_finishes_the_branch(world: World, raw: Any) -> None:
    """DATABASES MariaDB 1: the state information names the borrowed connection, too."""
    session = _borrow(world, raw)
    _execute(_begin(world, session), "INSERT INTO account (id) VALUES (1)")
    identifier = session.identifier
    vote = world.run(world.resource.prepare(session))
    assert identifier is not None
    answer = world.run(world.resource.finish(world.session(), identifier, commit=True, state=vote.state))
    assert answer is Answer.COMMITTED  # it had to be killed for that
    assert world.rows() == [1]
    with pytest.raises(ConnectionLost):
        world.run(world.resource.scan(session))
    assert session.broken


def test_a_branch_that_only_read_counts_as_writing(world: World, raw: Any) -> None:
    session = _borrow(world, raw)
    assert _execute(_begin(world, session), "SELECT id FROM account") == []
    assert world.run(world.resource.wrote(session)) is True
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED


def test_a_connection_killed_in_the_middle_breaks_the_session(world: World, raw: Any) -> None:
    session = _borrow(world, raw)
    connection = _begin(world, session)
    _execute(connection, "INSERT INTO account (id) VALUES (1)")
    world.sql(f"KILL {raw.thread_id()}")
    with pytest.raises(Exception, match=r"2006|2013|1927"):
        _execute(connection, "INSERT INTO account (id) VALUES (2)")
    assert session.broken
    world.run(world.resource.close(session))
    assert world.rows() == []


def test_what_would_end_the_branch_is_refused(world: World, raw: Any) -> None:
    session = _borrow(world, raw)
    connection = _begin(world, session)
    for call in (
        connection.commit,
        connection.rollback,
        connection.begin,
        connection.close,
        connection.shutdown,
        connection.__enter__,
        lambda: connection.autocommit(True),
        lambda: connection.kill(1),
        lambda: connection.change_user("app"),
        lambda: connection.send_query("COMMIT"),
        lambda: connection.ping(True),
    ):
        with pytest.raises(NotAllowed, match="not allowed"):
            call()
    connection.ping()
    with pytest.raises(Exception, match="1399"):
        _execute(connection, "COMMIT")
    _execute(connection, "INSERT INTO account (id) VALUES (1)")
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert world.rows() == [1]


def test_its_object_can_do_nothing_when_the_branch_has_ended(world: World, raw: Any) -> None:
    session = _borrow(world, raw)
    connection = _begin(world, session)
    late = connection.cursor()
    late.execute("SELECT 1")
    assert world.run(world.resource.abort(session)) is Answer.ABORTED
    with pytest.raises(TransactionEnded):
        connection.query("SELECT 1")
    world.run(world.resource.give_back(session))
    late.close()
    again = _begin(world, session)
    for call in (lambda: connection.query("SELECT 1"), connection.ping):
        with pytest.raises(TransactionEnded):
            call()
    assert _execute(again, "SELECT 1") == [(1,)]
    assert world.run(world.resource.abort(session)) is Answer.ABORTED


def test_its_owners_settings_come_back(world: World, raw: Any) -> None:
    names = "@@innodb_lock_wait_timeout, @@lock_wait_timeout, @@max_statement_time, @@wait_timeout, @@tx_isolation"
    _execute(raw, "SET SESSION innodb_lock_wait_timeout = 3, max_statement_time = 1.5, tx_isolation = 'SERIALIZABLE'")
    before = _execute(raw, f"SELECT {names}")
    session = _borrow(world, raw)
    inside = _execute(_begin(world, session), f"SELECT {names}")
    assert inside[0][0] >= 19
    assert inside[0][4] == "SERIALIZABLE"
    world.run(world.resource.abort(session))
    world.run(world.resource.give_back(session))
    assert _execute(raw, f"SELECT {names}") == before


def test_two_at_once_with_one_identifier_vote_no(world: World, raw: Any, mariadb_url: str) -> None:
    """A4 on borrowed connections."""
    other = _connect(mariadb_url)
    first, second = _borrow(world, raw), _borrow(world, other)
    start = BranchStart(make_identifier(), 20_000)
    world.run(world.resource.begin(first, start))
    world.run(world.resource.begin(second, start))
    vote = world.run(world.resource.prepare(second))
    assert isinstance(vote, Vote)
    assert vote.choice is Choice.NO
    world.run(world.resource.give_back(second))
    assert not second.broken
    assert world.run(world.resource.abort(first)) is Answer.ABORTED
    other.close()


def test_connections_that_cannot_be_used_are_refused(world: World, mariadb_url: str) -> None:
    single = _connect(mariadb_url, multi_statements=False)
    with pytest.raises(ConfigurationError, match="one statement at a time"):
        world.run(world.resource.borrow(single, world._runner))
    single.close()
    parts = urlsplit(mariadb_url)
    other = pymysql.connect(host=parts.hostname, port=parts.port or 0, user="app", password="app")
    with pytest.raises(ConfigurationError, match="not one of mysqlclient"):
        world.run(world.resource.borrow(other, world._runner))
    other.close()
