"""Django's connection of one alias, in this thread, lent to a transaction's branch and given back.

A `Loan` is where the branch gets its session from, instead of the manager's pool (`resources.pool.Sessions`): a session
over the very connection that Django holds. It comes back clean, or it is closed, and Django connects anew.

    OUT ── branch ended in order, settings restored ──▶ RETURNED    Django goes on with it
     └──── lost, interrupted, unknown ───────────────▶ CLOSED      never used again

Not for: what Django believes of its connection meanwhile (state.py).
"""

from __future__ import annotations

import contextlib
import threading
from enum import Enum, auto
from typing import Any

from django.db import Error as DjangoError
from django.db.backends.base.base import BaseDatabaseWrapper

from syncpoint.errors import ConnectionLost, ResourceUnavailable, WrongResource
from syncpoint.manager.handle import ResourceHandle
from syncpoint.manager.sync import Transaction
from syncpoint.resources.base import Session
from syncpoint.steps import Call, Script

_KEPT = "_syncpoint_session"
"""Attribute of Django's wrapper: the session over its present connection, so that it is greeted only once."""


class Standing(Enum):
    OUT = auto()
    RETURNED = auto()
    """Django has it; at the beginning, too."""
    CLOSED = auto()


class Loan:
    """One alias's connection, for one block. `original` is the driver's connection that Django holds."""

    def __init__(self, wrapper: BaseDatabaseWrapper, tx: Transaction) -> None:
        core = tx.work.core
        self.wrapper: Any = wrapper
        self.original: Any = None
        self.standing = Standing.RETURNED
        self.over = threading.Event()
        """Set when it is no longer out."""
        self._handle: ResourceHandle = core.handle(wrapper.alias)
        self._runtime = core.runtime
        self._session: Session | None = None
        self._forfeited = False
        self._handlers: tuple[Any, Any] | None = None
        """Where psycopg sends notices and notifications outside a block: every connection object takes them over."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Loan {self.wrapper.alias} {self.standing.name}>"

    # --- resources.pool.Sessions -------------------------------------------------------------------------------

    def acquire(self, deadline_monotonic: float) -> Script[Session]:
        """Django's connection, opened if it was not. Runs in the thread whose connection it is."""
        while True:
            fresh = yield Call(self._connect, f"Django's connection {self.wrapper.alias}")
            try:
                session = yield from self._session_over()
            except ConnectionLost as error:
                self.original = None
                self.wrapper.close()  # an idle one that had died
                if fresh:
                    raise ResourceUnavailable(
                        f"The connection of the database {self.wrapper.alias!r} was lost as soon as it was made.",
                        advice="Nothing was done; try again.",
                    ) from error
                continue
            if fresh:
                session.opened_at = self._handle.clock.monotonic()
            self._session = session
            self.standing = Standing.OUT
            self.over.clear()
            return session

    def _connect(self) -> bool:
        """Returns whether the connection is a new one."""
        if self.original is not None and self.wrapper.connection is self.original:
            self.wrapper.connection = None  # the last one, which the branch could not begin on
        self.wrapper.close_if_health_check_failed()
        before = self.wrapper.connection
        try:
            self.wrapper.ensure_connection()
        except DjangoError as error:
            raise ResourceUnavailable(
                f"Django cannot connect to the database {self.wrapper.alias!r}: {' '.join(str(error).split())}.",
                advice="Nothing was done there. Is the server up, and is its entry in DATABASES right?",
            ) from error
        self.original = self.wrapper.connection
        libpq = getattr(self.original, "pgconn", None)
        self._handlers = None if libpq is None else (libpq.notice_handler, libpq.notify_handler)
        return self.original is not before

    def _session_over(self) -> Script[Session]:
        resource = self._handle.resource
        kept = self.wrapper.__dict__.get(_KEPT)
        if kept is not None and kept[0] is self.original and kept[1] is resource:
            session: Session = kept[2]
            return session
        session, guid = yield from resource.borrow(self.original, self._runtime)
        if guid != self._handle.guid:
            raise WrongResource(
                f"Django's connection {self.wrapper.alias!r} leads to another database than Syncpoint's own: there the "
                f"GUID is {guid or 'missing'}, and the journal knows {self._handle.guid}.",
                advice="Recovery would look in the wrong place. Let SYNCPOINT and DATABASES name the same database; in "
                "tests, open no block before the test databases are made.",
            )
        self.wrapper.__dict__[_KEPT] = (self.original, resource, session)
        return session

    def release(self, session: Session) -> Script[None]:
        if not session.broken:
            yield from self._handle.resource.give_back(session)
            if self._handlers is not None:
                self.original.pgconn.notice_handler, self.original.pgconn.notify_handler = self._handlers
        with self._lock:
            if not session.broken and not self._forfeited:
                self._end(Standing.RETURNED)
                return
        yield from self.discard(session)

    def discard(self, session: Session) -> Script[None]:
        session.broken = True
        yield from self._handle.resource.close(session)
        pool = getattr(self.original, "_pool", None)
        if pool is not None:  # Django's own pool of connections wants it back, to make another
            with contextlib.suppress(Exception):  # a pool that is closed wants nothing any more
                pool.putconn(self.original)
        with self._lock:
            self._end(Standing.CLOSED)

    def abandon(self) -> None:
        # No lock: its holder may be a thread that does not exist in this process.
        if self._session is not None and self.standing is Standing.OUT:
            self._handle.resource.abandon(self._session)
            self.standing = Standing.CLOSED
        self._lock = threading.Lock()
        self.over = threading.Event()
        self.over.set()

    def _end(self, standing: Standing) -> None:
        self.standing = standing
        self.over.set()

    # --- after the block -------------------------------------------------------------------------------------

    def forfeit(self) -> bool:
        """Whoever still has it closes it in the end. Returns False when it was back already."""
        with self._lock:
            self._forfeited = self.standing is Standing.OUT
            return self._forfeited
