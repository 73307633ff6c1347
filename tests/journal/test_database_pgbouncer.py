"""The journal through PgBouncer in transaction mode: any server connection runs the next packet, nothing is left in it.

Not for: resources behind PgBouncer (tests/resources, tests/manager), or MariaDB.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncpoint.testing.servers.base import wait_until
from syncpoint.testing.servers.pgbouncer import PgBouncerServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.journal.database_world import FAST, PostgresWorld, all_at_once, commit, transaction


@pytest.fixture
def world(postgres_server: PostgresServer, postgres_url: str) -> Iterator[PostgresWorld]:
    world = PostgresWorld(postgres_server, postgres_url)
    yield world
    world.close()


@pytest.fixture
def through(pgbouncer: PgBouncerServer, postgres_url: str) -> str:
    return pgbouncer.url(postgres_url.rpartition("/")[2])


def test_many_sessions_share_four_server_connections(world: PostgresWorld, through: str) -> None:
    one, other = (world.process(through, sessions_max=12) for _ in range(2))
    keys = [process.key() for process in [one, other] * 16]
    calls = [
        lambda process=process, key=key: process.commits(key, user_id="x")
        for process, key in zip([one, other] * 16, keys, strict=True)
    ]
    assert [thread.result() for thread in all_at_once(calls)] == [True] * 32
    assert {found for _, found in world.records()} == {str(key) for key in keys}
    assert set(one.look().decisions) == set(keys[::2])
    one.ends(*keys[::2])
    assert world.count("record", "ended IS NULL") == 16


def test_what_a_packet_sets_does_not_stay_in_the_server_connection(world: PostgresWorld, through: str) -> None:
    one = world.process(through, sessions_max=2)
    assert one.commits(one.key())
    one.force()
    names = ("lock_timeout", "statement_timeout", "synchronous_commit", "transaction_isolation")
    shown = {name: world.another()(f"SHOW {name}")[0][0] for name in names}
    ask = [f"SELECT current_setting('{name}')" for name in names]

    def plain():  # type: ignore[no-untyped-def]
        session = yield from one.journal._wire.acquire("look")
        try:
            return (yield one.journal._store.resource.driver.query(session, "; ".join(ask), "look"))  # type: ignore[attr-defined]
        finally:
            yield from one.journal._wire.release(session)

    reply = one(plain())
    assert {name: reply.rows(number)[0][0] for number, name in enumerate(names)} == shown


def test_taking_over_and_claims(world: PostgresWorld, through: str) -> None:
    dead, one = world.process(through, **FAST), world.process(through, **FAST)
    key, late = dead.key(), dead.key()
    assert dead.commits(key)
    assert dead(dead.journal.claim(transaction(1))).mine
    dead.fall_silent()
    one.takes_over(dead.incarnation)
    assert list(one.look().decisions) == [key]
    assert one(one.journal.claim(transaction(1))).mine
    assert not dead.commits(late)
    dead.wake()
    wait_until(lambda: dead.commits(dead.key()), "it goes on")


def test_the_pooler_is_killed_and_comes_back(world: PostgresWorld, through: str, pgbouncer: PgBouncerServer) -> None:
    one = world.process(through, heartbeat_s=0.1, dead_after_s=30)
    key = one.key()
    assert one.commits(key)
    pgbouncer.kill()
    pgbouncer.start()
    assert list(one.look().decisions) == [key]
    assert one.aborts(key) is False
    assert one.force(commit(one.key()))
