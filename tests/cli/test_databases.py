"""doctor and init at real databases, and at servers set up so that they lie.

Not for: every check of every adapter (resources/).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.pgbouncer import PgBouncerServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.cli.conftest import Command
from tests.cli.test_errors import SECRET, refused


@pytest.fixture(scope="module")
def lying_postgres(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """No prepared transactions, as PostgreSQL comes, and forces off. (The other server tells that one can be run.)"""
    with PostgresServer(settings={"max_prepared_transactions": "0", "fsync": "off"}) as server:
        yield server


@pytest.fixture(scope="module")
def lying_mariadb(mariadb_server: MariadbServer) -> Iterator[MariadbServer]:
    """Forces only once a second."""
    with MariadbServer(settings={"innodb_flush_log_at_trx_commit": "2"}) as server:
        yield server


# --- doctor ------------------------------------------------------------------------------------------------


def test_doctor_of_a_sound_database(command: Command, postgres_url: str) -> None:
    ran = command("doctor", postgres_url)
    assert ran.exit_code == 0
    assert "database-1" in ran.stdout
    assert "can be used" in ran.stdout


def test_doctor_changes_nothing(command: Command, postgres_url: str, postgres_server: PostgresServer) -> None:
    command("doctor", postgres_url)
    with postgres_server.connect(postgres_url.rpartition("/")[2]) as connection:
        [row] = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'syncpoint'").fetchall()
    assert row == (0,)


def test_doctor_as_json(command: Command, postgres_url: str) -> None:
    document = command("doctor", f"bank={postgres_url}", "--json").json
    [bank] = document["resources"]
    assert (bank["name"], bank["url"], bank["ok"]) == ("bank", postgres_url, True)
    assert {finding["severity"] for finding in bank["findings"]} <= {"ok", "warning"}
    assert {"severity", "check", "found", "fix"} == set(bank["findings"][0])


def test_doctor_through_pgbouncer(
    command: Command, postgres_url: str, postgres_server: PostgresServer, pgbouncer: PgBouncerServer
) -> None:
    """Session mode cannot be told from transaction mode, and need not be; statement mode will not do."""
    for pool_mode, usable in (("transaction", True), ("session", True), ("statement", False)):
        with PgBouncerServer(postgres_server.url("postgres"), settings={"pool_mode": pool_mode}) as bouncer:
            ran = command("doctor", bouncer.url(postgres_url.rpartition("/")[2]), "--json")
            [resource] = ran.json["resources"]
            [pooler] = [finding for finding in resource["findings"] if finding["check"] == "pooler"]
            assert resource["ok"] is usable
            assert ran.exit_code == (0 if usable else 1)
            assert pooler["severity"] == ("ok" if usable else "refused")
            assert ("pool_mode = transaction" in pooler["fix"]) is not usable


def test_doctor_of_a_sound_mariadb(command: Command, mariadb_url: str) -> None:
    ran = command("doctor", mariadb_url)
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert "can be used" in ran.stdout


def test_doctor_of_a_lying_mariadb(command: Command, lying_mariadb: MariadbServer) -> None:
    [report] = command("doctor", lying_mariadb.create_database("bank"), "--json").json["resources"]
    [finding] = [one for one in report["findings"] if one["check"] == "innodb_flush_log_at_trx_commit"]
    assert (report["ok"], finding["severity"]) == (False, "refused")
    assert "SET GLOBAL innodb_flush_log_at_trx_commit = 1" in finding["fix"]


def test_doctor_makes_no_sqlite_file_and_switches_none(command: Command) -> None:
    ran = command("doctor", "sqlite:///typo.db", "--json")
    assert (ran.exit_code, os.listdir()) == (0, [])
    [finding] = ran.json["resources"][0]["findings"]
    assert finding["found"] == "not there yet; made at first use"
    Path("empty.db").touch()
    assert command("doctor", "sqlite:///empty.db").exit_code == 0
    assert Path("empty.db").stat().st_size == 0
    before = _plain_sqlite("old.db")
    assert command("doctor", "sqlite:///old.db?journal_mode=wal").exit_code == 0
    assert Path("old.db").read_bytes() == before
    gone = command("doctor", "sqlite:///gone.db?mode=rw", "--json")
    assert (gone.exit_code, "no such file" in gone.stdout) == (1, True)
    assert not Path("gone.db").exists()


def _plain_sqlite(name: str) -> bytes:
    """A file in SQLite's own default mode; its bytes."""
    connection = apsw.Connection(name)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    connection.close()
    return Path(name).read_bytes()


def test_doctor_of_a_lying_sqlite(command: Command) -> None:
    ran = command("doctor", "sqlite:///a.db?synchronous=OFF", "--json")
    assert ran.exit_code == 1
    assert "synchronous" in ran.stdout + ran.stderr


def test_doctor_refuses_a_lying_set_up(command: Command, lying_postgres: PostgresServer) -> None:
    url = lying_postgres.url("postgres")
    ran = command("doctor", url)
    assert ran.exit_code == 1
    assert "refused" in ran.stdout
    [report] = command("doctor", url, "--json").json["resources"]
    fixes = {finding["check"]: finding["fix"] for finding in report["findings"] if finding["severity"] == "refused"}
    assert "ALTER SYSTEM SET max_prepared_transactions = " in fixes["max_prepared_transactions"]
    assert "ALTER SYSTEM SET fsync = on" in fixes["fsync"]
    assert all(fix in ran.stdout for fix in fixes.values()), "the line that mends it can be copied"


def test_doctor_goes_on_after_an_unreachable_database(command: Command, postgres_url: str) -> None:
    ran = command("doctor", f"gone=postgresql://app:{SECRET}@127.0.0.1:1/bank", f"bank={postgres_url}", "--json")
    assert ran.exit_code == 1
    gone, bank = ran.json["resources"]
    [finding] = gone["findings"]
    assert (gone["ok"], finding["severity"], finding["check"]) == (False, "refused", "ResourceUnavailable")
    assert finding["fix"]
    assert bank["ok"]
    assert SECRET not in ran.stdout + ran.stderr


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_doctor_of_a_wrong_password_or_database(kind: str, command: Command, request: pytest.FixtureRequest) -> None:
    if kind == "mariadb":
        url: str = request.getfixturevalue("mariadb_url")
        user = url.partition("://")[2].partition(":")[0]
        wrong = url.replace(f"{user}:{user}@", f"{user}:{SECRET}@")
    else:
        wrong = f"{request.getfixturevalue('postgres_url')}_that_is_not_there"
    ran = command("doctor", wrong, "--json")
    assert ran.exit_code == 1
    [finding] = ran.json["resources"][0]["findings"]
    assert finding["check"] == "ResourceUnavailable"
    assert finding["fix"]
    assert SECRET not in ran.stdout + ran.stderr
    assert SECRET not in command("init", wrong).stdout


def test_doctor_looks_at_what_is_configured(command: Command, postgres_url: str) -> None:
    Path("syncpoint.toml").write_text(f'[resources]\nbank = "{postgres_url}"\nspare = "memory://a"', encoding="utf-8")
    assert [one["name"] for one in command("doctor", "--json").json["resources"]] == ["bank", "spare"]
    assert [one["name"] for one in command("doctor", "spare", "--json").json["resources"]] == ["spare"]


def test_doctor_of_a_url_needs_no_configuration(command: Command) -> None:
    Path("syncpoint.toml").write_text("not toml", encoding="utf-8")
    assert command("doctor", "memory://a").exit_code == 0
    refused(command("doctor"), "is not valid TOML")


# --- init --------------------------------------------------------------------------------------------------


def test_init_makes_the_schema_and_can_be_repeated(
    command: Command, postgres_url: str, postgres_server: PostgresServer
) -> None:
    for _ in range(2):
        ran = command("init", postgres_url)
        assert (ran.exit_code, ran.stdout) == (0, f"database-1 {postgres_url}: ready.\n")
    with postgres_server.connect(postgres_url.rpartition("/")[2]) as connection:
        assert len(connection.execute("SELECT guid FROM syncpoint.resource").fetchall()) == 1


def test_init_can_print_what_another_may_run(
    command: Command, postgres_url: str, postgres_server: PostgresServer
) -> None:
    ran = command("init", "--print-sql", postgres_url)
    assert ran.exit_code == 0
    with postgres_server.connect(postgres_url.rpartition("/")[2]) as connection:
        assert connection.execute("SELECT to_regnamespace('syncpoint')").fetchall() == [(None,)], "it touched nothing"
        connection.execute(ran.stdout.encode())
        connection.commit()
    assert command("doctor", postgres_url).exit_code == 0


def test_long_statements_are_not_broken(command: Command) -> None:
    document = command("init", "--print-sql", "sqlite:///a.db", "--json").json
    [one] = document["resources"]
    assert max(map(len, one["statements"])) > 200
    shown = command("init", "--print-sql", "sqlite:///a.db").stdout
    assert shown.splitlines()[1:] == [f"{statement};" for statement in one["statements"]]
    assert not Path("a.db").exists(), "it touched nothing"


def test_init_without_rights_prints_the_sql(
    command: Command, postgres_url: str, postgres_server: PostgresServer
) -> None:
    database = postgres_url.rpartition("/")[2]
    role = f"nobody_{database}"
    with postgres_server.connect(database) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
    ran = command("init", postgres_server.url(database, role))
    assert ran.exit_code == 1
    assert "CREATE SCHEMA IF NOT EXISTS syncpoint;" in ran.stdout
    [one] = command("init", postgres_server.url(database, role), "--json").json["resources"]
    assert not one["ok"]
    assert "init --print-sql" in one["error"]
    assert "\n" not in one["error"], "one paragraph; the statements stand beside it"
    assert ran.stdout.count("CREATE SCHEMA") == 1
    doctor = command("doctor", postgres_server.url(database, role))
    assert doctor.exit_code == 1
    assert "init --print-sql" in doctor.stdout
