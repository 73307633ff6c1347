"""The MariaDB resource passes the conformance suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncpoint.testing import ResourceConformance
from syncpoint.testing.servers.mariadb import MariadbServer
from tests.testing.conformance.subjects import MariadbSubject, some_points


@pytest.fixture(scope="module")
def subject(mariadb_server: MariadbServer) -> Iterator[MariadbSubject]:
    subject = MariadbSubject(mariadb_server)
    yield subject
    subject.close()


class TestMariadb(ResourceConformance):
    crash_points = some_points()
