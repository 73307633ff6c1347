"""Opening a journal in a database: refused, with what to do, when it could not keep its promise; never half opened.

The same tests on PostgreSQL and MariaDB. No message shows a secret.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from syncpoint.errors import (
    FormatTooNew,
    JournalRefused,
    JournalUnavailable,
    ManagerClosed,
    ResourceUnavailable,
    SetupRefused,
)
from syncpoint.testing.servers.base import free_port, wait_until
from tests.journal.database_world import Process, World, all_at_once, commit

PASSWORD = "sesame-7531"


def test_the_first_makes_the_tables_and_any_number_may_at_once(world: World) -> None:
    processes = [Process(world.url) for _ in range(6)]
    world.processes += processes
    for thread in all_at_once([process.open for process in processes]):
        thread.result()
    assert len({process.journal.coordinator for process in processes}) == 1
    assert len({process.incarnation for process in processes}) == 6
    assert world.count("journal") == 1


def test_a_newer_format_is_refused_and_nothing_is_changed(world: World) -> None:
    world.process().close()
    world.see("UPDATE syncpoint.journal SET format = 2")
    counter = world.see("SELECT counter FROM syncpoint.journal")
    with pytest.raises(FormatTooNew) as raised:
        world.process()
    assert "version 2" in str(raised.value)
    assert world.see("SELECT counter FROM syncpoint.journal") == counter
    assert world.keepers() == {}


def test_a_newer_format_with_other_columns_is_refused_as_such(world: World) -> None:
    world.process().close()
    world.see("UPDATE syncpoint.journal SET format = 2")
    world.see("ALTER TABLE syncpoint.journal RENAME COLUMN refused TO withdrawn")
    try:
        with pytest.raises(FormatTooNew):
            world.process()
    finally:
        world.see("ALTER TABLE syncpoint.journal RENAME COLUMN withdrawn TO refused")


def test_another_cluster_is_refused(world: World) -> None:
    world.process(cluster="shop").close()
    for other in ("", "stock"):
        with pytest.raises(JournalRefused) as raised:
            world.process(**({"cluster": other} if other else {}))
        assert "'shop'" in str(raised.value)
        assert "?cluster=" in str(raised.value)
    assert world.process(cluster="shop").incarnation == 2


def test_o53_refused_for_good_nobody_opens_it_any_more(world: World) -> None:
    one = world.process()
    one(one.journal.refuse_for_good("the ledger has seen incarnation 9"))
    for _ in range(2):
        with pytest.raises(JournalRefused, match="seen incarnation 9"):
            world.process()
    assert world.see("SELECT counter FROM syncpoint.journal") == [(1,)], "none was drawn"


def test_o53_put_back_under_a_running_process_it_is_used_no_more(world: World) -> None:
    one = world.process(heartbeat_s=0.05)
    key = one.key()
    assert one.commits(key)
    world.see("DELETE FROM syncpoint.record")
    world.see("DELETE FROM syncpoint.incarnation")
    world.see("UPDATE syncpoint.journal SET counter = 0")
    wait_until(lambda: one.journal._living.failure is not None, "it is noticed")
    with pytest.raises(JournalRefused, match="gone back in time") as raised:
        one.key()
    assert "Restore" in raised.value.advice
    with pytest.raises(JournalRefused):
        one(one.journal.watch())


def test_another_journal_under_the_same_address_is_not_written_to(world: World) -> None:
    one = world.process(heartbeat_s=0.05)
    world.see(f"UPDATE syncpoint.journal SET guid = {world.store.raw(b'other' + bytes(11))}, counter = 70")
    world.see("DELETE FROM syncpoint.incarnation")
    wait_until(lambda: one.journal._living.failure is not None, "it is noticed")
    with pytest.raises(JournalRefused, match="not the one any more"):
        one.force(commit(one.key()))
    assert world.records() == []


# --- rights ---------------------------------------------------------------------------------------------------------


class Clerk:
    """An account that has no rights but those given here."""

    def __init__(self, world: World) -> None:
        self.world = world
        database = world.url.rpartition("/")[2]
        parts = urlsplit(world.url)
        self.name = "clerk"
        self.url = urlunsplit(parts._replace(netloc=f"clerk:{PASSWORD}@127.0.0.1:{parts.port}"))
        with contextlib.suppress(Exception):
            self.remove()
        if world.kind == "postgresql":
            world.see(f"CREATE ROLE clerk LOGIN PASSWORD '{PASSWORD}'")
        else:
            world.see("CREATE DATABASE IF NOT EXISTS syncpoint")
            world.see(f"CREATE USER 'clerk'@'%' IDENTIFIED BY '{PASSWORD}'")
            world.see(f"GRANT ALL ON `{database}`.* TO 'clerk'@'%'")

    def run(self, script: str) -> None:
        """As an administrator would: the statements, and what is commented out for the role in question."""
        for statement in script.split(";\n"):
            for piece in statement.replace("app_role", "clerk").split(";"):
                lines = [line.removeprefix("-- ").strip() for line in piece.splitlines()]
                sql = " ".join(line for line in lines if line and not line.startswith("for each role"))
                if sql:
                    self.world.see(sql)

    def remove(self) -> None:
        if self.world.kind == "postgresql":
            self.world.see("DROP OWNED BY clerk")
            self.world.see("DROP ROLE clerk")
        else:
            self.world.see("DROP USER 'clerk'@'%'")


@pytest.fixture
def clerk(world: World) -> Iterator[Clerk]:
    clerk = Clerk(world)
    yield clerk
    for process in world.processes:
        process.close()
    clerk.remove()


def _sql_of(error: SetupRefused) -> str:
    return error.advice.partition(":\n")[2]


def test_missing_rights_the_error_prints_the_sql_and_exactly_that_is_enough(world: World, clerk: Clerk) -> None:
    if world.kind == "mariadb":
        world.see("DROP DATABASE syncpoint")
    with pytest.raises(SetupRefused) as raised:
        world.process(clerk.url)
    assert PASSWORD not in str(raised.value)
    why = raised.value.message.partition("this account may not make them: ")[2]
    assert ("permission denied" if world.kind == "postgresql" else "may not make it") in why
    assert "syncpoint.record" in _sql_of(raised.value)
    clerk.run(_sql_of(raised.value))
    one = world.process(clerk.url)
    key, kept = one.key(), one.key()
    assert one.commits(key)
    assert one.commits(kept, user_id="x")
    assert one.aborts(one.key())
    assert one(one.journal.claim(key.transaction)).committed
    one.ends(key, kept)
    assert one.look().decisions == {}
    one.clean()
    one.close()
    assert set(world.keepers().values()) == {0}, "the Abort is the next one's to remove"


def test_rights_that_were_taken_away_the_error_says_so(world: World, clerk: Clerk) -> None:
    world.process().close()
    if world.kind == "postgresql":
        world.see("GRANT USAGE ON SCHEMA syncpoint TO clerk")
        world.see("GRANT SELECT ON ALL TABLES IN SCHEMA syncpoint TO clerk")
    else:
        world.see("GRANT SELECT ON syncpoint.* TO 'clerk'@'%'")
    with pytest.raises((SetupRefused, JournalUnavailable)) as raised:
        world.process(clerk.url)
    assert "denied" in str(raised.value)
    assert PASSWORD not in str(raised.value)


# --- lying and unreachable servers ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _setting(world: World, name: str, value: str, normal: str) -> Iterator[None]:
    def put(to: str) -> None:
        if world.kind == "mariadb":
            world.see(f"SET GLOBAL {name} = {to}")
            return
        world.see(f"ALTER SYSTEM SET {name} = {to}")
        world.see("SELECT pg_reload_conf()")
        wait_until(lambda: world.another()(f"SHOW {name}") == [(to,)], f"{name} = {to}")

    put(value)
    try:
        yield
    finally:
        put(normal)


def test_a_server_that_forgets_is_refused(world: World) -> None:
    name, value, normal = (
        ("fsync", "off", "on") if world.kind == "postgresql" else ("innodb_flush_log_at_trx_commit", "0", "1")
    )
    with _setting(world, name, value, normal), pytest.raises(SetupRefused) as raised:
        world.process()
    begin = (
        f"The journal's database ({world.store.resource.safe_url}) is set up so that a decision could be lost: {name}"
    )
    assert raised.value.message.startswith(begin)
    assert raised.value.message.endswith(".")
    assert len(raised.value.advice) > 10
    world.process()


def test_a_server_that_only_lets_itself_be_read_is_refused(world: World) -> None:
    if world.kind == "postgresql":
        # Like a standby: nothing can be written, whatever a transaction says of itself.
        pytest.skip("a standby of PostgreSQL is found by its adapter: tests/resources/test_postgres_setup.py")
    with _setting(world, "read_only", "1", "0"), pytest.raises(SetupRefused, match="read_only"):
        world.process()


def test_a_journal_needs_no_prepared_transactions(world: World) -> None:
    if world.kind == "postgresql":
        findings = [one for one in _findings(world) if one[0] == "max_prepared_transactions"]
        assert findings, "the adapter looks at it"
    world.process()


def _findings(world: World) -> list[tuple[str, bool]]:
    store = world.store
    one = world.process()

    def ask():  # type: ignore[no-untyped-def]
        session = yield from one.journal._wire.acquire("look")
        try:
            return (yield from store.resource.inspect(session))
        finally:
            yield from one.journal._wire.release(session)

    return [(finding.check, finding.for_prepare) for finding in one(ask())]


def test_an_unreachable_database_is_told_without_secrets(world: World) -> None:
    parts = urlsplit(world.url)
    nowhere = urlunsplit(parts._replace(netloc=f"app:{PASSWORD}@127.0.0.1:{free_port()}"))
    with pytest.raises(JournalUnavailable) as raised:
        world.process(nowhere)
    text = f"{raised.value} {raised.value.advice} {raised.value.__cause__}"
    assert PASSWORD not in text
    assert "refused" in text
    assert isinstance(raised.value.__cause__, ResourceUnavailable)


def test_a_closed_journal_says_so(world: World) -> None:
    one = world.process()
    one.close()
    one = Process(world.url)
    world.processes.append(one)
    one.open()
    one(one.journal.close())
    one(one.journal.close())
    with pytest.raises(ManagerClosed):
        one(one.journal.watch())
    with pytest.raises(ManagerClosed):
        one.key()
    assert PASSWORD not in repr(one.journal)
