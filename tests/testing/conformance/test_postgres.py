"""The PostgreSQL resource passes the conformance suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncpoint.testing import ResourceConformance
from syncpoint.testing.servers.postgres import PostgresServer
from tests.testing.conformance.subjects import PostgresSubject, some_points


@pytest.fixture(scope="module")
def subject(postgres_server: PostgresServer) -> Iterator[PostgresSubject]:
    subject = PostgresSubject(postgres_server)
    yield subject
    subject.close()


class TestPostgres(ResourceConformance):
    crash_points = some_points()
