"""The SQLite resource passes the conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncpoint.testing import ResourceConformance
from tests.testing.conformance.subjects import SqliteSubject, some_points


class TestSqlite(ResourceConformance):
    crash_points = some_points()

    @pytest.fixture
    def subject(self, tmp_path: Path) -> SqliteSubject:
        return SqliteSubject(tmp_path / "a.db")
