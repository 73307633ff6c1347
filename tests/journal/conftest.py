"""One database of each kind, with a journal in it. Not for: the folder's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.journal.database_world import World, worlds


@pytest.fixture(params=["postgresql", "mariadb"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """An empty database, and processes whose journal is in it; the same test for both kinds."""
    yield from worlds(request)
