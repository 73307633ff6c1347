"""For the tests of a mutant: one PostgreSQL, started once by run.py, serves them all.

Loaded with `-p tests.mutation.plugin`. A mutant's tests run in a forked process of their own, where starting a server
would take longer than they do. MariaDB's half of a test is left out. Not for: the ordinary tests.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

POSTGRES_URL = "SYNCPOINT_MUTANTS_POSTGRES"
"""The environment variable with the URL of the database `postgres` of that server."""


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


_made: list[tuple[str, str]] = []


def pytest_unconfigure(config: pytest.Config) -> None:
    """Thousands of mutants' databases would fill the disk."""
    import psycopg

    for url, name in _made:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    _made.clear()


def pytest_configure(config: pytest.Config) -> None:
    url = os.environ.get(POSTGRES_URL)
    if url:
        import syncpoint.testing.servers.postgres as servers

        servers.PostgresServer = lambda: RunningServer(url)  # type: ignore[assignment,misc]
        servers.PostgresServer.available = RunningServer.available  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    left_out = [item for item in items if "mariadb" in item.name]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if "mariadb" not in item.name]
