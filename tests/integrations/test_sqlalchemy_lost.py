"""Branches that die under a Session: a deadlock's victim, a connection that is gone."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from sqlalchemy import exc, select, text
from sqlalchemy.orm import Session

import syncpoint
from syncpoint.errors import TransactionAborted
from syncpoint.testing.servers.base import wait_until
from syncpoint.testing.servers.mariadb import MariadbServer
from tests.integrations.bank import Account, World


def _lock_both_the_other_way_round(world: World, changed: threading.Event, second: threading.Event) -> None:
    """From outside: change row 2 and many more, say so, then, when told, row 1."""
    with world.mariadb() as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE account SET balance = 9 WHERE id >= 2")
        changed.set()
        second.wait(30)
        cursor.execute("UPDATE account SET balance = 9 WHERE id = 1")
        connection.commit()


def test_the_error_of_a_deadlock_is_not_hidden(
    world: World, manager: syncpoint.TransactionManager, mariadb_server: MariadbServer
) -> None:
    rows = ", ".join(f"({number}, 'Owner {number}', 0, 1)" for number in range(1, 100))
    world.outside("ledger", f"INSERT INTO account (id, owner, balance, version) VALUES {rows}")
    changed, second = threading.Event(), threading.Event()
    other = threading.Thread(target=_lock_both_the_other_way_round, args=(world, changed, second))

    def somebody_waits() -> bool:
        # Not INNODB_TRX: its rows are a copy that is not taken anew while it is read more than ten times a second.
        query = "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'"
        return int(mariadb_server.execute(query)[0][1]) > 0

    def work() -> None:
        with manager.transaction() as tx, Session(tx.sqlalchemy("ledger")) as session:
            session.get_one(Account, 1).balance = 1
            session.flush()
            second.set()
            wait_until(somebody_waits, "the other waits for row 1")
            session.get_one(Account, 2).balance = 1
            with pytest.raises(exc.OperationalError, match="1213"):
                session.flush()
            session.rollback()

    other.start()
    assert changed.wait(30)
    with pytest.raises(TransactionAborted):
        work()
    other.join(30)
    assert not other.is_alive()
    assert world.balance("ledger", "Owner 1") == 9
    assert world.balance("ledger", "Owner 2") == 9


def test_a_lost_connection_aborts_and_sends_nothing_more(world: World, manager: syncpoint.TransactionManager) -> None:
    def work() -> None:
        with manager.transaction() as tx, Session(tx.sqlalchemy("bank")) as session:
            connection: psycopg.Connection[Any] = tx.connect("bank")
            tx.sqlalchemy("ledger").execute(text("INSERT INTO account (owner, balance, version) VALUES ('Ada', 0, 1)"))
            session.add(Account(owner="Ada"))
            session.flush()
            world.outside("bank", f"SELECT pg_terminate_backend({connection.info.backend_pid})")
            with pytest.raises(exc.OperationalError) as caught:
                session.scalars(select(Account)).all()
            assert caught.value.connection_invalidated
            session.close()
            with pytest.raises(exc.PendingRollbackError):
                session.scalars(select(Account)).all()

    with pytest.raises(TransactionAborted):
        work()
    assert world.owners("bank") == []
    assert world.owners("ledger") == []
    assert world.in_doubt() == []
