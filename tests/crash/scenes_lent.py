"""Scenes of branches on lent connections, as Django lends its own: psycopg's, and mysqlclient's where it is installed.

Not for: Django itself (tests/django).
"""

from __future__ import annotations

import importlib.util
from typing import Any
from urllib.parse import urlsplit

from syncpoint.manager.sync import Transaction, TransactionManager
from syncpoint.resources.base import Session
from syncpoint.steps import Script
from tests.crash.run import GaveUp, Run
from tests.crash.scenes import scene
from tests.crash.world import ALL, AUDIT, BANK, LEDGER, transfer

HAS_MYSQLCLIENT = importlib.util.find_spec("MySQLdb") is not None


class Lender:
    """One connection of its own, kept from block to block."""

    def __init__(self, run: Run, manager: TransactionManager, name: str) -> None:
        self.connection: Any = None
        """None: it was lost, and is made anew for the next branch."""
        self._connect = lambda: _connect(run, name)
        self._handle = manager._core.handle(name)
        self._runtime = manager._runner

    def acquire(self, deadline_monotonic: float) -> Script[Session]:
        if self.connection is None:
            self.connection = self._connect()
        session, guid = yield from self._handle.resource.borrow(self.connection, self._runtime)
        assert guid == self._handle.guid
        return session

    def release(self, session: Session) -> Script[None]:
        yield from self._handle.resource.give_back(session)
        if session.broken:
            yield from self.discard(session)

    def discard(self, session: Session) -> Script[None]:
        self.connection = None
        yield from self._handle.resource.close(session)

    def abandon(self) -> None:
        """Nothing forks here."""


def _connect(run: Run, name: str) -> Any:
    if name == BANK:
        return run.bank()
    import MySQLdb

    parts = urlsplit(run.world.ledger_url)
    connection = MySQLdb.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=parts.username or "",
        password=parts.password or "",
        database=parts.path[1:],
        autocommit=True,
    )
    run._open.append(connection)
    return connection


class _Lent:
    """A transaction whose branches are on lent connections where there is one."""

    def __init__(self, tx: Transaction, lenders: dict[str, Lender]) -> None:
        self.branches = {name: tx.connect_on(name, lender) for name, lender in lenders.items()}
        self.tx = tx

    def connect(self, name: str) -> Any:
        return self.branches.get(name) or self.tx.connect(name)


def _lenders(run: Run, manager: TransactionManager) -> dict[str, Lender]:
    return {name: Lender(run, manager, name) for name in ((BANK, LEDGER) if HAS_MYSQLCLIENT else (BANK,))}


@scene(user_id=True)
def transfer_on_lent_connections(run: Run) -> None:
    manager = run.manager()
    lenders = _lenders(run, manager)
    with run.block(manager, id=run.name) as tx:
        transfer(_Lent(tx, lenders), run.name)
    for lender in lenders.values():  # their owner goes on with those that were not lost
        if lender.connection is not None:
            lender.connection.cursor().execute("SELECT 1")


@scene(expects={"": (), "-again": ALL})
def lent_connections_after_an_abort(run: Run) -> None:
    manager = run.manager()
    lenders = _lenders(run, manager)
    with run.block(manager, fails=GaveUp) as tx:
        transfer(_Lent(tx, lenders), run.name)
        raise GaveUp
    with run.block(manager, f"{run.name}-again") as tx:
        transfer(_Lent(tx, lenders), f"{run.name}-again", (BANK, LEDGER, AUDIT))
