"""Connecting to MariaDB, Syncpoint's schema there, and the look for lying set-ups."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncpoint.errors import ConfigurationError, FormatTooNew, JournalRefused, ResourceUnavailable, SetupRefused
from syncpoint.ids import Guid
from syncpoint.resources import mariadb_driver
from syncpoint.resources.base import Answer, Finding, Mode, Severity
from syncpoint.resources.mariadb_driver import read_url, read_version
from syncpoint.testing.servers.mariadb import MariadbServer
from tests.resources.mariadb_world import World, make_identifier, private_server, wait_until

BOTH: list[Mode] = ["sync", "async"]


@pytest.fixture(params=BOTH)
def mode(request: pytest.FixtureRequest) -> Mode:
    mode: Mode = request.param
    return mode


@pytest.fixture
def world(mode: Mode, mariadb_server: MariadbServer, mariadb_url: str) -> Iterator[World]:
    with World(mariadb_server, mariadb_url, mode) as world:
        yield world


@pytest.fixture(scope="module")
def bare_server() -> Iterator[MariadbServer]:
    """A server of this module's own, on which the schema comes and goes."""
    with private_server() as server:
        yield server


@pytest.fixture
def bare(bare_server: MariadbServer) -> MariadbServer:
    bare_server.execute("DROP DATABASE IF EXISTS syncpoint")
    bare_server.create_database("bank")
    return bare_server


# --- URLs --------------------------------------------------------------------------------------------------------


def test_a_url_is_read_and_shown_without_its_password() -> None:
    address = read_url("x", "mariadb://me%40home:s%3Acret@[::1]:3307/my%20bank?connect_timeout=3&ssl=false", {})
    assert (address.host, address.port, address.user, address.password) == ("::1", 3307, "me@home", "s:cret")
    assert (address.database, address.connect_timeout_s) == ("my bank", 3.0)
    assert address.safe_url == "mariadb://me%40home@[::1]:3307/my%20bank"
    assert "cret" not in repr(address)
    plain = read_url("x", "mariadb://host", {"read_timeout": "9", "pool_size_max": "3", "charset": "latin1"})
    assert (plain.port, plain.read_timeout_s, plain.charset, plain.safe_url) == (
        3306,
        9.0,
        "latin1",
        "mariadb://host:3306/",
    )
    assert plain.ssl_context() is None
    secure = read_url("x", "mariadb://host?ssl=true&ssl_verify=false", {}).ssl_context()
    assert secure is not None
    assert not secure.check_hostname


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://host/db", "not mariadb://"),
        ("mariadb://host:port/db", "cannot be read"),
        ("mariadb://host/db/more", "more than a database"),
        ("mariadb://host/db?colour=red", "unknown option 'colour'"),
        ("mariadb://host/db?connect_timeout=soon", "connect_timeout must be a number"),
        ("mariadb://host/db?read_timeout=0", "read_timeout must be a number"),
        ("mariadb://host/db?ssl=perhaps", "ssl must be one of"),
    ],
)
def test_a_bad_url_says_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_url("ledger", url, {})


def test_tls_files_that_cannot_be_read_are_named() -> None:
    with pytest.raises(ConfigurationError, match="ssl_ca"):
        read_url("ledger", "mariadb://host/db?ssl_ca=/nonexistent.pem", {}).ssl_context()
    with pytest.raises(ConfigurationError, match="ssl_cert"):
        read_url("ledger", "mariadb://host/db?ssl_cert=/nonexistent.pem", {}).ssl_context()


@pytest.mark.parametrize(("mode", "module"), [("sync", "pymysql"), ("async", "asyncmy.connection")])
def test_a_missing_driver_names_the_extra(mode: Mode, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"syncpoint.resources.mariadb_{mode}", raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install 'syncpoint\[mariadb\]'"):
        mariadb_driver.make_driver(mode, "ledger", read_url("ledger", "mariadb://host/db", {}))


# --- connecting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("app:app@", "app:wrong@"), "Check user and password"),
        (("/bank", "/nosuch"), "Check the database's name"),
        ((":{port}/", ":1/"), "Check that the server runs"),
    ],
)
def test_a_server_that_refuses_is_told_in_one_paragraph(
    mode: Mode, bare: MariadbServer, change: tuple[str, str], said: str
) -> None:
    old, new = (text.format(port=bare.port) for text in change)
    url = bare.url("bank").replace(old, new)
    with World(bare, url, mode, ready=False) as world, pytest.raises(ResourceUnavailable, match=said) as caught:
        world.session()
    assert "wrong" not in str(caught.value).replace("wrong password", "")
    assert "\n" not in str(caught.value)


def test_a_server_that_is_no_mariadb_or_too_old_is_refused(
    mode: Mode, bare: MariadbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_version("5.5.5-10.11.19-MariaDB-0+deb12u1") == (10, 11)
    assert read_version("11.4.2-MariaDB") == (11, 4)
    assert read_version("8.0.36") is None
    assert read_version("MariaDB") is None
    monkeypatch.setattr(mariadb_driver, "VERSION_MIN", (99, 0))
    with (
        World(bare, bare.url("bank"), mode, ready=False) as world,
        pytest.raises(SetupRefused, match=r"older than.*99\.0"),
    ):
        world.session()
    monkeypatch.setattr(mariadb_driver, "read_version", lambda text: None)
    with World(bare, bare.url("bank"), mode, ready=False) as world, pytest.raises(SetupRefused, match="no MariaDB"):
        world.session()
    wait_until(lambda: len(bare.execute("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'app'")) == 0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_is_used_when_asked_for(mode: Mode, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    command += " -addext keyUsage=digitalSignature,keyCertSign,keyEncipherment"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with private_server(ssl_cert=str(certificate), ssl_key=str(key)) as server:
        url = server.create_database("bank") + f"?ssl_ca={certificate}"
        with World(server, url, mode, ready=False) as world:
            world.run(world.resource.contact(world.session(), world.contact()))
            session = world.begin()
            ((_, cipher),) = world.execute(session, "SHOW SESSION STATUS LIKE 'Ssl_cipher'")
            assert cipher
            world.resource.abandon(session)
        with World(server, server.url("bank") + "?ssl=false", mode, ready=False) as world:
            ((_, cipher),) = world.execute(world.begin(), "SHOW SESSION STATUS LIKE 'Ssl_cipher'")
            assert not cipher


def test_a_forked_child_never_writes_to_its_parents_connection(world: World) -> None:
    session = world.begin()
    world.insert(session, 1)
    child = os.fork()
    if child == 0:
        try:
            world.resource.abandon(session)
            connection: Any = session.connection
            connection._write_bytes(b"\x01\0\0\0\x01") if world.mode == "sync" else None  # QUIT, as a destructor might
            del connection, session
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert world.rows() == [1]


def test_abandoning_a_closed_session_is_harmless(world: World) -> None:
    session = world.session()
    world.run(world.resource.close(session))
    world.resource.abandon(session)
    assert not world.resource.is_usable(session)
    assert "ledger" in repr(session)
    assert "mariadb://app@127.0.0.1" in repr(world.resource)


# --- the schema --------------------------------------------------------------------------------------------------


def test_first_contact_makes_the_schema_once_and_the_guid_stays(mode: Mode, bare: MariadbServer) -> None:
    bare.create_database("other")
    with (
        World(bare, bare.url("bank"), mode, ready=False) as one,
        World(bare, bare.url("other"), mode, ready=False) as two,
    ):
        guid = one.run(one.resource.contact(one.session(), one.contact(incarnation=3)))
        assert isinstance(guid, Guid)
        one.run(one.resource.initialise(one.session()))
        # One server has one GUID: XA branches are the server's, whatever the database.
        assert two.run(two.resource.contact(two.session(), two.contact(incarnation=2, highest=5))) == guid
        assert one.sql("SELECT incarnation FROM syncpoint.coordinator") == ((3,),)
        assert one.sql("SELECT guid FROM syncpoint.resource") == ((guid.raw,),)


def test_a_journal_older_than_what_the_server_has_seen_is_refused(mode: Mode, bare: MariadbServer) -> None:
    """O53."""
    with World(bare, bare.url("bank"), mode, ready=False) as world:
        world.run(world.resource.contact(world.session(), world.contact(incarnation=9)))
        with pytest.raises(JournalRefused, match="older copy"):
            world.run(world.resource.contact(world.session(), world.contact(incarnation=5, highest=8)))
        other = Guid(b"o" * 16)
        world.run(world.resource.contact(world.session(), world.contact(incarnation=1, coordinator=other)))
        assert set(world.sql("SELECT incarnation FROM syncpoint.coordinator")) == {(9,), (1,)}


def test_a_schema_of_a_later_format_is_refused_and_not_touched(mode: Mode, bare: MariadbServer) -> None:
    with World(bare, bare.url("bank"), mode, ready=False) as world:
        world.run(world.resource.contact(world.session(), world.contact(incarnation=3)))
        world.sql("UPDATE syncpoint.resource SET format = 2")
        with pytest.raises(FormatTooNew):
            world.run(world.resource.contact(world.session(), world.contact(incarnation=4)))
        assert world.sql("SELECT incarnation FROM syncpoint.coordinator") == ((3,),)


def test_without_rights_the_error_prints_the_sql_and_that_sql_mends_it(mode: Mode, bare: MariadbServer) -> None:
    bare.execute("REVOKE ALL ON syncpoint.* FROM app")
    try:
        with World(bare, bare.url("bank"), mode, ready=False) as world:
            with pytest.raises(SetupRefused) as caught:
                world.run(world.resource.contact(world.session(), world.contact()))
            assert "CREATE TABLE IF NOT EXISTS syncpoint.evidence" in str(caught.value)
            assert "GRANT SELECT, INSERT, UPDATE, DELETE ON syncpoint.* TO 'app'@'%'" in str(caught.value)
            (rights,) = [one for one in findings(world) if one.check == "schema syncpoint"]
            assert rights.severity is Severity.REFUSED
            assert "GRANT" in rights.fix
            for statement in world.resource.init_statements():
                world.sql(statement)
            world.run(world.resource.contact(world.session(), world.contact()))
            assert all(one.severity is Severity.OK for one in findings(world))
            world.sql("CREATE TABLE account (id INT PRIMARY KEY, balance INT)")
            session = world.begin()
            world.insert(session, 1)
            assert world.run(world.resource.commit_one_phase(session)) is Answer.COMMITTED
    finally:
        bare.execute("GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON syncpoint.* TO app")


def test_evidence_of_a_server_without_the_schema_is_unknown(mode: Mode, bare: MariadbServer) -> None:
    with World(bare, bare.url("bank"), mode, ready=False) as world:
        assert world.evidence(make_identifier()) == "UNKNOWN"
        with pytest.raises(Exception, match="doesn't exist"):
            world.run(world.resource.settle(world.session(), make_identifier()))


# --- lying set-ups -----------------------------------------------------------------------------------------------


def findings(world: World) -> list[Finding]:
    found: list[Finding] = world.run(world.resource.inspect(world.session()))
    return found


def test_a_good_set_up_has_no_complaints(world: World) -> None:
    found = findings(world)
    assert all(one.severity is Severity.OK for one in found), found
    assert "MariaDB" in next(one.found for one in found if one.check == "version")


def test_every_lie_is_found_with_the_line_that_mends_it(mode: Mode) -> None:
    """DATABASES MariaDB 11, and its like."""
    with private_server(
        innodb_flush_log_at_trx_commit="0", log_bin="on", sync_binlog="0", innodb_doublewrite="OFF"
    ) as server:
        url = server.create_database("bank")
        server.execute("CREATE TABLE bank.log (id INT) ENGINE=MyISAM")
        server.execute("CREATE TABLE bank.good (id INT) ENGINE=InnoDB")
        server.execute("SET GLOBAL read_only = ON")
        with World(server, url, mode, ready=False) as world:
            by_check = {one.check: one for one in findings(world)}
            for check, severity, fix in (
                ("innodb_flush_log_at_trx_commit", Severity.REFUSED, "SET GLOBAL innodb_flush_log_at_trx_commit = 1"),
                ("sync_binlog", Severity.REFUSED, "SET GLOBAL sync_binlog = 1"),
                ("read_only", Severity.REFUSED, "SET GLOBAL read_only = OFF"),
                ("innodb_doublewrite", Severity.WARNING, "innodb_doublewrite = ON"),
                ("engines", Severity.WARNING, "ALTER TABLE `log` ENGINE=InnoDB"),
            ):
                assert by_check[check].severity is severity, check
                assert fix in by_check[check].fix
            assert "good" not in by_check["engines"].found
            server.execute("SET GLOBAL read_only = OFF")
            server.execute("SET GLOBAL sync_binlog = 1")
            server.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
            by_check = {one.check: one for one in findings(world)}
            assert not [one for one in by_check.values() if one.severity is Severity.REFUSED]
            assert by_check["schema syncpoint"].severity is Severity.WARNING
            assert "syncpoint init" in by_check["schema syncpoint"].fix
