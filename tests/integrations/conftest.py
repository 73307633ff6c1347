"""Three databases for each test of the integrations. Not for: servers (tests/conftest.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import syncpoint
from tests.integrations.bank import World


@pytest.fixture
def world(postgres_url: str, mariadb_url: str, tmp_path: Path) -> World:
    """PostgreSQL, MariaDB and SQLite with empty tables."""
    return World.make(postgres_url, mariadb_url, tmp_path)


@pytest.fixture
def manager(world: World) -> Iterator[syncpoint.TransactionManager]:
    """A blocking manager over the three."""
    with syncpoint.TransactionManager(world.journal, world.urls) as manager:
        yield manager
