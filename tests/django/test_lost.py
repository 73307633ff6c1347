"""Connections that die: idle before a block, in its middle, and under a deadlock. Django reconnects afterwards."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from syncpoint.errors import ResourceUnavailable, TransactionAborted
from syncpoint.testing.servers.base import wait_until
from tests.django.world import World, connect, kill_session, outside, session_of


@pytest.mark.parametrize("which", [0, 1])
def test_a_connection_lost_in_the_middle_rolls_both_back(world: World, which: int) -> None:
    from django.db import connections
    from django.db.utils import Error

    from syncpoint.django import atomic

    alias = world.using[which]
    other = world.using[1 - which]
    kept = session_of(other)

    def work() -> None:
        with atomic(using=world.using):
            world.work("Ada")
            kill_session(world.urls[alias], session_of(alias))
            world.work("Bob", using=[alias])

    with pytest.raises(Error):
        work()
    assert world.everywhere() == []
    assert world.in_doubt() == []
    assert connections[alias].connection is None  # Django connects anew
    assert session_of(other) == kept
    with atomic(using=world.using):
        world.work("Cem")
    assert world.everywhere() == ["Cem"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_connection_lost_unnoticed_is_a_no_vote(world: World, which: int) -> None:
    from syncpoint.django import atomic

    alias = world.using[which]
    with pytest.raises(TransactionAborted) as caught, atomic(using=world.using):  # noqa: PT012
        world.work("Ada")
        kill_session(world.urls[alias], session_of(alias))
    assert caught.value.retryable
    assert world.everywhere() == []
    with atomic(using=world.using):
        world.work("Bob")
    assert world.everywhere() == ["Bob"]


def test_an_idle_connection_that_died_is_replaced(world: World) -> None:
    from syncpoint.django import atomic

    for _ in range(2):  # never lent before; lent before
        for alias in world.using:
            kill_session(world.urls[alias], session_of(alias))
        with atomic(using=world.using):
            world.work("Ada")
        assert world.everywhere() == ["Ada"]
        for alias in world.using:
            outside(world.urls[alias], "DELETE FROM account")


def test_a_database_that_cannot_be_reached_leaves_the_other_untouched(world: World) -> None:
    from django.db import connections

    from syncpoint.django import atomic, manager

    manager()  # its own connections are there already
    kept = session_of(world.first)
    table = connections[world.second].settings_dict
    connections[world.second].close()
    port, table["PORT"] = table["PORT"], 1
    try:
        with pytest.raises(ResourceUnavailable, match=world.second), atomic(using=world.using):
            raise AssertionError("nothing of it may run")
    finally:
        table["PORT"] = port
    assert session_of(world.first) == kept
    with atomic(using=world.using):
        world.work("Ada")
    assert world.everywhere() == ["Ada"]


def _lock_the_other_way_round(url: str, changed: threading.Event, second: threading.Event) -> None:
    """From outside: change row 2 and many more, then, when told, row 1."""
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE account SET balance = 9 WHERE id >= 2")
        changed.set()
        second.wait(30)
        cursor.execute("UPDATE account SET balance = 9 WHERE id = 1")
        cursor.execute("COMMIT")


def test_a_deadlocks_victim_aborts_everywhere(mariadb: World, account: Any) -> None:
    from django.db.utils import OperationalError

    from syncpoint.django import atomic

    url = mariadb.urls["ledger"]
    rows = ", ".join(f"({number}, 'Owner {number}', 0, now())" for number in range(1, 100))
    outside(url, f"INSERT INTO account (id, owner, balance, at) VALUES {rows}")
    changed, second = threading.Event(), threading.Event()
    other = threading.Thread(target=_lock_the_other_way_round, args=(url, changed, second))

    def somebody_waits() -> bool:
        return int(outside(url, "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")[0][1]) > 0

    def work() -> None:
        with atomic(using=mariadb.using):
            account.objects.create(owner="Ada")
            ours = account.objects.using("ledger")
            ours.filter(id=1).update(balance=1)
            second.set()
            wait_until(somebody_waits, "the other waits for row 1")
            with pytest.raises(OperationalError, match="1213"):
                ours.filter(id=2).update(balance=1)

    other.start()
    assert changed.wait(30)
    with pytest.raises(TransactionAborted) as caught:
        work()
    other.join(30)
    assert caught.value.retryable
    assert mariadb.owners("default") == []
    assert outside(url, "SELECT balance FROM account WHERE id IN (1, 2)") == [(9,), (9,)]
