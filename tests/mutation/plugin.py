"""For the tests of a mutant: one database server, started once by run.py, serves them all.

Loaded with `-p tests.mutation.plugin`. A mutant's tests run in a forked process of their own, where starting a server
would take longer than they do. Of tests for both kinds the other kind's half is left out. Not for: the ordinary tests.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

POSTGRES_URL = "SYNCPOINT_MUTANTS_POSTGRES"
"""The environment variable with the URL of the database `postgres` of that server."""
MARIADB_PORT = "SYNCPOINT_MUTANTS_MARIADB"
"""The same, with the port of a MariaDB: then it is MariaDB's half of the tests that is run."""


class RunningServer:
    """What tests use of a PostgresServer, of one that is not theirs to start or stop."""

    running = True

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_: object) -> None:
        return

    @staticmethod
    def available() -> bool:
        return True

    def url(self, database: str) -> str:
        return f"{self._url.rpartition('/')[0]}/{database}"

    def create_database(self, name: str) -> str:
        """Named after the process: forked ones count alike."""
        import psycopg

        name = f"{name}_{os.getpid()}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}"')
        _made.append((self._url, name))
        return self.url(name)


def _running_mariadb(original: type[Any], port: int) -> Any:
    """What it does through its port is what MariadbServer does."""

    class RunningMariadb(original):  # type: ignore[misc]
        running = True

        def __init__(self) -> None:
            self.port = port

        def __enter__(self) -> RunningMariadb:
            return self

        def __exit__(self, *_: object) -> None:
            return

    return RunningMariadb()


_made: list[tuple[str, str]] = []


def pytest_unconfigure(config: pytest.Config) -> None:
    """Thousands of mutants' databases would fill the disk."""
    import psycopg

    for url, name in _made:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    _made.clear()


def pytest_configure(config: pytest.Config) -> None:
    if url := os.environ.get(POSTGRES_URL):
        import syncpoint.testing.servers.postgres as postgres

        postgres.PostgresServer = lambda: RunningServer(url)  # type: ignore[assignment,misc]
        postgres.PostgresServer.available = RunningServer.available  # type: ignore[attr-defined]
    if port := os.environ.get(MARIADB_PORT):
        import syncpoint.testing.servers.mariadb as mariadb

        original = mariadb.MariadbServer
        if isinstance(original, type):  # mutmut runs pytest several times in one process
            mariadb.MariadbServer = lambda: _running_mariadb(original, int(port))  # type: ignore[assignment,misc]
            mariadb.MariadbServer.available = RunningServer.available  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    other = "postgresql" if os.environ.get(MARIADB_PORT) else "mariadb"
    left_out = [item for item in items if other in item.name]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if other not in item.name]
