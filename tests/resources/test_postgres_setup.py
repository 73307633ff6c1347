"""Connecting to PostgreSQL, Syncpoint's schema in it, first contact, and lying set-ups."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from syncpoint.errors import (
    ConfigurationError,
    FormatTooNew,
    JournalRefused,
    ResourceUnavailable,
    SetupRefused,
    SyncpointError,
)
from syncpoint.ids import Guid
from syncpoint.resources.base import Answer, Evidence, Finding, Mode, Severity
from syncpoint.resources.postgres import PostgresResource
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing.servers.postgres import PostgresServer
from tests.resources.postgres_world import World, make_identifier

MODES: tuple[Mode, ...] = ("sync", "async")
LYING = {
    "max_prepared_transactions": "0",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


@pytest.fixture(params=MODES)
def empty(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[World]:
    """A database without Syncpoint's schema."""
    mode: Mode = request.param
    with World(postgres_url, mode, ready=False) as world:
        yield world


@pytest.fixture(scope="module")
def lying_server() -> Iterator[PostgresServer]:
    with PostgresServer(settings=LYING) as server:
        yield server


def make(url: str, **options: str) -> PostgresResource:
    return PostgresResource("bank", url, options, mode="sync", clock=SystemClock(), random=SystemRandom())


def contacts(world: World) -> list[tuple[str, int]]:
    sql = "SELECT encode(guid, 'hex'), incarnation_seen FROM syncpoint.coordinator ORDER BY 1"
    return [(row[0], row[1]) for row in world.observer.execute(sql).fetchall()]


# --- first contact -----------------------------------------------------------------------------------------------


def test_first_contact_makes_the_schema_and_always_finds_the_same_guid(empty: World) -> None:
    session = empty.session()
    guid = empty.run(empty.resource.contact(session, empty.contact(3)))
    assert isinstance(guid, Guid)
    assert empty.run(empty.resource.contact(empty.session(), empty.contact(4))) == guid
    empty.run(empty.resource.initialise(session))
    assert empty.run(empty.resource.contact(session, empty.contact(4))) == guid
    assert contacts(empty) == [(str(empty.contact().coordinator), 4)]


def test_the_statements_can_be_typed_by_a_person(empty: World) -> None:
    for statement in empty.resource.init_statements():
        empty.observer.execute(statement.encode())
    row = empty.observer.execute("SELECT encode(guid, 'hex') FROM syncpoint.resource").fetchone()
    assert row is not None
    assert str(empty.run(empty.resource.contact(empty.session(), empty.contact()))) == row[0]


def test_many_first_contacts_at_once_agree(postgres_url: str) -> None:
    guids: list[Guid] = []
    gate = threading.Barrier(8)

    def meet(number: int) -> None:
        with World(postgres_url, "sync", ready=False) as world:
            session = world.session()
            gate.wait(20)
            guids.append(world.run(world.resource.contact(session, world.contact(number, highest=8))))

    threads = [threading.Thread(target=meet, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(guids) == 8
    assert len(set(guids)) == 1
    with World(postgres_url, "sync", ready=False) as world:
        assert contacts(world) == [(str(world.contact().coordinator), 8)]


def test_o53_a_journal_older_than_the_database_has_seen_is_refused_and_changes_nothing(empty: World) -> None:
    session = empty.session()
    empty.run(empty.resource.contact(session, empty.contact(7)))
    with pytest.raises(JournalRefused, match="older copy"):
        empty.run(empty.resource.contact(session, empty.contact(6)))
    assert contacts(empty) == [(str(empty.contact().coordinator), 7)]
    # Several processes share a counter: one that drew a lower incarnation, from a counter that is high enough.
    empty.run(empty.resource.contact(session, empty.contact(5, highest=9)))
    assert contacts(empty) == [(str(empty.contact().coordinator), 7)]
    other = Guid(b"x" * 16)
    empty.run(empty.resource.contact(session, empty.contact(1, coordinator=other)))
    assert dict(contacts(empty))[str(other)] == 1


def test_a_schema_of_a_later_format_is_refused_and_left_alone(empty: World) -> None:
    session = empty.session()
    empty.run(empty.resource.contact(session, empty.contact(1)))
    empty.observer.execute("UPDATE syncpoint.resource SET format = 2")
    with pytest.raises(FormatTooNew):
        empty.run(empty.resource.contact(session, empty.contact(2)))
    with pytest.raises(FormatTooNew):
        empty.run(empty.resource.initialise(session))
    assert contacts(empty) == [(str(empty.contact().coordinator), 1)]


def test_a_role_that_may_not_make_the_schema_is_told_what_to_run(empty: World, postgres_server: PostgresServer) -> None:
    dbname = empty.observer.info.dbname
    role = f"poor_{dbname}"
    empty.observer.execute(f"CREATE ROLE {role} LOGIN".encode())
    with World(postgres_server.url(dbname, role), empty.mode, ready=False) as poor:
        session = poor.session()
        with pytest.raises(SetupRefused, match=r"CREATE TABLE IF NOT EXISTS syncpoint\.evidence") as error:
            poor.run(poor.resource.contact(session, poor.contact()))
        assert "GRANT" in error.value.advice
        (finding,) = [item for item in inspect(poor) if item.check == "schema syncpoint"]
        assert finding.severity is Severity.REFUSED

        empty.run(empty.resource.initialise(empty.session()))
        with pytest.raises(SetupRefused):
            poor.run(poor.resource.initialise(session))
        with pytest.raises(SetupRefused):
            poor.run(poor.resource.contact(session, poor.contact()))
        (finding,) = [item for item in inspect(poor) if item.check == "schema syncpoint"]
        assert finding.severity is Severity.REFUSED
        empty.observer.execute(finding.fix.encode())  # the one line that mends it
        assert poor.run(poor.resource.contact(session, poor.contact()))
        (finding,) = [item for item in inspect(poor) if item.check == "schema syncpoint"]
        assert finding.severity is Severity.OK


# --- lying set-ups -----------------------------------------------------------------------------------------------


def inspect(world: World) -> list[Finding]:
    findings: list[Finding] = world.run(world.resource.inspect(world.session()))
    return findings


def test_a_good_set_up_is_all_ok(empty: World) -> None:
    assert {finding.severity for finding in inspect(empty)} == {Severity.OK}
    assert empty.observer.execute("SELECT to_regnamespace('syncpoint')").fetchone() == (None,)


def test_lying_set_ups_are_refused_each_with_the_line_that_mends_it(lying_server: PostgresServer) -> None:
    for mode in MODES:
        with World(lying_server.create_database("bank"), mode) as world:
            found = {finding.check: finding for finding in inspect(world)}
            assert found["max_prepared_transactions"].severity is Severity.REFUSED
            assert found["max_prepared_transactions"].for_prepare
            assert found["fsync"].severity is Severity.REFUSED
            assert found["full_page_writes"].severity is Severity.WARNING
            assert found["synchronous_commit"].severity is Severity.WARNING
            assert all(finding.fix for finding in found.values() if finding.severity is not Severity.OK)
            session, _ = world.wrote(1)
            vote = world.run(world.resource.prepare(session))
            assert "max_prepared_transactions" in vote.reason
            assert world.accounts() == []


def test_few_slots_and_read_only_by_default_are_warnings(empty: World, lying_server: PostgresServer) -> None:
    dbname = empty.observer.info.dbname
    empty.observer.execute(f'ALTER DATABASE "{dbname}" SET default_transaction_read_only = on'.encode())
    found = {finding.check: finding for finding in inspect(empty)}
    assert found["primary"].severity is Severity.WARNING
    assert empty.run(empty.resource.contact(empty.session(), empty.contact()))
    with PostgresServer(settings={"max_prepared_transactions": "5"}) as server:
        server.create_database("bank")
        with World(server.url("bank"), empty.mode, ready=False) as world:
            found = {finding.check: finding for finding in inspect(world)}
            assert found["max_prepared_transactions"].severity is Severity.WARNING


def test_a_standby_is_refused_and_decides_nothing() -> None:
    with PostgresServer() as server:
        url = server.create_database("bank")
        server.create_database("other")
        with World(url, "sync") as world:
            world.prepared_branch(1)
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        for mode in MODES:
            with World(url, mode, ready=False) as world:
                session = world.session()
                found = {finding.check: finding for finding in inspect(world)}
                assert found["primary"].severity is Severity.REFUSED
                with pytest.raises(SetupRefused, match="standby"):
                    world.run(world.resource.contact(session, world.contact()))
                with pytest.raises(SyncpointError, match="standby"):
                    world.run(world.resource.scan(session))
                identifier = make_identifier()
                assert world.run(world.resource.evidence(session, identifier)) is Evidence.UNKNOWN
                assert world.run(world.resource.settle(session, identifier)) is Evidence.UNKNOWN
                answer = world.run(world.resource.finish(session, identifier, commit=True, state=b""))
                assert answer is Answer.RETRY
            with World(server.url("other"), mode, ready=False) as world, pytest.raises(SetupRefused, match="standby"):
                world.run(world.resource.initialise(world.session()))


# --- URLs and connecting -----------------------------------------------------------------------------------------


def test_the_url_is_shown_without_its_password_and_options() -> None:
    resource = make("postgresql://app:s3cret@db.example:5433/bank?sslmode=require&pool_size_max=3")
    assert resource.safe_url == "postgresql://app@db.example:5433/bank"
    assert "s3cret" not in repr(resource)
    assert make("postgres:///bank?host=%2Frun%2Fpg").safe_url == "postgresql://%2Frun%2Fpg/bank"
    odd = make("postgresql://app:a?b#s3cret@db/bank?connect_timeout=3&pool_size_max=2")
    assert odd.safe_url == "postgresql://app@db/bank"
    assert "a?b#s3cret" in odd._address.conninfo
    assert make("postgresql://[::1]/bank", password="s3cret").safe_url == "postgresql://[::1]/bank"


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("postgresql://h/bank?ssl_mode=require", {}, "ssl_mode"),
        ("postgresql://h/bank", {"colour": "red"}, "colour"),
        ("postgresql://app:s3%ZZcret@h/bank", {}, "cannot be read"),
        ("postgresql://app:s3cret@[h/bank", {}, "cannot be read"),
    ],
)
def test_a_bad_url_or_option_is_refused_without_showing_the_password(
    url: str, options: dict[str, str], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text) as error:
        make(url, **options)
    assert "cret" not in str(error.value)


@pytest.mark.parametrize("mode", MODES)
def test_what_keeps_us_from_connecting_is_said_in_one_paragraph(lying_server: PostgresServer, mode: Mode) -> None:
    hba = lying_server.data / "pg_hba.conf"
    if "locked" not in hba.read_text():
        hba.write_text("host all locked 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
        with lying_server.connect() as observer:
            observer.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
            observer.execute("SELECT pg_reload_conf()")
    address = f"127.0.0.1:{lying_server.port}"
    with contextlib.closing(socket.socket()) as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        cases = {
            f"postgresql://locked:wr0ng@{address}/postgres": "password",
            f"postgresql://postgres@{address}/nowhere": "Create the database",
            f"postgresql://ghost@{address}/postgres": "Create the role",
            "postgresql://postgres@127.0.0.1:1/postgres": "Start the server",
            f"postgresql://postgres@127.0.0.1:{port}/postgres?connect_timeout=2": "firewall",
            "postgresql://postgres@no.such.host.invalid/postgres": "host",
        }
        for url, advice in cases.items():
            world = World(lying_server.url("postgres"), mode, ready=False)
            with world:
                world.resource = PostgresResource(
                    "bank", url, {}, mode=mode, clock=SystemClock(), random=SystemRandom()
                )
                with pytest.raises(ResourceUnavailable) as error:
                    world.run(world.resource.open())
            assert advice in error.value.advice, (url, str(error.value))
            assert "wr0ng" not in str(error.value)
            assert "\n" not in str(error.value)
            assert "'bank'" in str(error.value)
