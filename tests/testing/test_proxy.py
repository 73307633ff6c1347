"""The proxy loses what it says it loses: seen from the server, with both drivers of both databases.

Not for: what Syncpoint does about it (tests/crash/).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pymysql
import pytest

from syncpoint.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from syncpoint.testing.servers.mariadb import MariadbServer
    from syncpoint.testing.servers.postgres import PostgresServer


@pytest.fixture
def bank(postgres_url: str) -> Iterator[tuple[FaultProxy, str, str]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n INT)")
    with FaultProxy(postgres_url) as proxy:
        yield proxy, proxy.url(postgres_url) + "?sslmode=disable", postgres_url


@pytest.fixture
def ledger(mariadb_server: MariadbServer, mariadb_url: str) -> Iterator[tuple[FaultProxy, str, str]]:
    name = mariadb_url.rpartition("/")[2]
    mariadb_server.execute(f"CREATE TABLE {name}.t (n INT)")
    with FaultProxy(mariadb_url) as proxy:
        yield proxy, proxy.url(mariadb_url), name


def pymysql_arguments(url: str) -> dict[str, Any]:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "password": parts.password,
        "database": parts.path[1:],
        "autocommit": True,
        "client_flag": pymysql.constants.CLIENT.MULTI_STATEMENTS,
    }


def count(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        return int(connection.execute("SELECT count(*) FROM t").fetchall()[0][0])


# --- PostgreSQL --------------------------------------------------------------------------------------------


def test_passes_everything_when_nothing_is_armed(bank: tuple[FaultProxy, str, str]) -> None:
    proxy, through, direct = bank
    with psycopg.connect(through, autocommit=True) as connection:
        connection.execute("INSERT INTO t SELECT g FROM generate_series(1, 50000) g")
        assert len(connection.execute("SELECT n FROM t").fetchall()) == 50000
    assert count(direct) == 50000
    proxy.lose_reply()
    assert not proxy.disarm()


def test_a_lost_reply_was_executed(bank: tuple[FaultProxy, str, str]) -> None:
    proxy, through, direct = bank
    with closing(psycopg.connect(through, autocommit=True)) as connection:
        proxy.lose_reply()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO t SELECT 1 FROM pg_sleep(0.2)")
    assert proxy.disarm()
    assert count(direct) == 1


def test_a_large_lost_reply_was_executed_to_its_end(bank: tuple[FaultProxy, str, str]) -> None:
    proxy, through, direct = bank
    with closing(psycopg.connect(through, autocommit=True)) as connection:
        proxy.lose_reply()
        with pytest.raises(psycopg.OperationalError):
            connection.execute(
                b"BEGIN; SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g; INSERT INTO t VALUES (1); COMMIT"
            )
    assert count(direct) == 1


def test_a_lost_request_was_not_executed(bank: tuple[FaultProxy, str, str]) -> None:
    proxy, through, direct = bank
    with closing(psycopg.connect(through, autocommit=True)) as connection:
        proxy.lose_request()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO t VALUES (1)")
    assert count(direct) == 0


def test_a_held_request_is_executed_when_it_is_released(bank: tuple[FaultProxy, str, str]) -> None:
    proxy, through, direct = bank
    with closing(psycopg.connect(through, autocommit=True)) as connection:
        proxy.hold_request()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO t VALUES (1)")
    assert count(direct) == 0
    assert proxy.release() == 1
    assert count(direct) == 1


def test_a_connection_can_be_lost_while_it_is_made(bank: tuple[FaultProxy, str, str]) -> None:
    proxy, through, _ = bank
    proxy.lose_reply()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(through)
    psycopg.connect(through).close()


def test_cut_ends_all_connections(bank: tuple[FaultProxy, str, str]) -> None:
    proxy, through, _ = bank
    with closing(psycopg.connect(through, autocommit=True)) as one:
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            one.execute("SELECT 1")


def test_a_server_that_is_down_refuses() -> None:
    with FaultProxy("postgresql://127.0.0.1:1/x") as proxy, pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.url("postgresql://u@h/x"))


def test_the_url_keeps_all_but_host_and_port() -> None:
    with FaultProxy("mariadb://127.0.0.1:1/x") as proxy:
        url = proxy.url("mariadb://me:p%40ss@db.example:3306/bank?read_timeout=5")
        assert url.startswith("mariadb://me:p%40ss@127.0.0.1:")
        assert url.endswith("/bank?read_timeout=5")


def test_another_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="sqlite"):
        FaultProxy("sqlite:///x.db")


# --- MariaDB ---------------------------------------------------------------------------------------------------

PACKET = "SELECT 1; DO SLEEP(0.2); INSERT INTO t VALUES (1); SELECT 2"


def test_mariadb_a_lost_reply_of_several_statements_was_executed_to_its_end(
    ledger: tuple[FaultProxy, str, str], mariadb_server: MariadbServer
) -> None:
    proxy, through, name = ledger
    connection: Any = pymysql.connect(**pymysql_arguments(through))
    proxy.lose_reply()
    with pytest.raises(pymysql.err.OperationalError):
        connection.query(PACKET)
    assert mariadb_server.execute(f"SELECT count(*) FROM {name}.t") == [(1,)]


def test_mariadb_a_held_request_is_executed_when_it_is_released(
    ledger: tuple[FaultProxy, str, str], mariadb_server: MariadbServer
) -> None:
    proxy, through, name = ledger
    connection: Any = pymysql.connect(**pymysql_arguments(through))
    proxy.hold_request()
    with pytest.raises(pymysql.err.OperationalError):
        connection.query(PACKET)
    assert mariadb_server.execute(f"SELECT count(*) FROM {name}.t") == [(0,)]
    assert proxy.release() == 1
    assert mariadb_server.execute(f"SELECT count(*) FROM {name}.t") == [(1,)]


def test_mariadb_the_other_driver_too(ledger: tuple[FaultProxy, str, str], mariadb_server: MariadbServer) -> None:
    import asyncmy

    proxy, through, name = ledger

    async def lose() -> None:
        arguments = pymysql_arguments(through)
        arguments["db"] = arguments.pop("database")
        connection = await asyncmy.connect(**arguments)
        await connection.query("SELECT 1 UNION SELECT 2")
        proxy.lose_reply()
        with pytest.raises(asyncmy.errors.OperationalError):
            await connection.query(PACKET)
        connection.close()

    asyncio.run(lose())
    assert mariadb_server.execute(f"SELECT count(*) FROM {name}.t") == [(1,)]


def test_mariadb_a_connection_can_be_lost_while_it_is_made(ledger: tuple[FaultProxy, str, str]) -> None:
    proxy, through, _ = ledger
    proxy.lose_reply()
    with pytest.raises(pymysql.err.OperationalError):
        pymysql.connect(**pymysql_arguments(through))
    pymysql.connect(**pymysql_arguments(through)).close()


def test_repr(postgres_server: PostgresServer) -> None:
    with FaultProxy(postgres_server.url("postgres")) as proxy:
        proxy.lose_reply()
        assert repr(proxy) == "<FaultProxy postgresql LOSE_REPLY, 0 connections, 0 held>"
