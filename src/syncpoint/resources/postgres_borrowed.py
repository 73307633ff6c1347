"""Branches on a psycopg connection that somebody else has opened and keeps, such as Django's.

The adapter's statements and the branch's connection object need nothing but a libpq connection in no transaction, and
leave nothing in the server's session (SET LOCAL only), so that little is left to do here.
Not for: branches (postgres.py).
"""

from __future__ import annotations

from typing import Any

import psycopg

from syncpoint.errors import ConfigurationError
from syncpoint.ids import Guid
from syncpoint.ports import Runtime
from syncpoint.resources import postgres_setup as setup
from syncpoint.resources.base import Resource, Session
from syncpoint.resources.postgres_driver import IDLE, Driver, PostgresSession
from syncpoint.steps import Script


class Borrowing(Resource):
    """The part of the PostgreSQL resource that works on others' connections; blocking ones."""

    _driver: Driver

    @property
    def driver(self) -> Driver:
        """For a journal that lives in this database."""
        return self._driver

    def borrow(self, connection: Any, runtime: Runtime) -> Script[tuple[Session, Guid | None]]:
        if not isinstance(connection, psycopg.Connection):
            raise ConfigurationError(
                f"The connection lent for the resource {self.name!r} is a {type(connection).__module__} connection, "
                "not one of psycopg 3.",
                advice="Run: pip install 'psycopg[binary]>=3.2'",
            )
        session = PostgresSession(connection)
        guid = yield from setup.guid(self._driver, session)
        return session, guid

    def give_back(self, session: Session) -> Script[None]:
        assert isinstance(session, PostgresSession)
        session.tainted = False  # what the branch's code has SET is its owner's to judge
        session.broken = session.broken or session.status != IDLE
        return
        yield from ()
