"""The commands with the journal in a database: init makes its tables, doctor looks at them, a copy can be adopted.

Not for: what is in doubt (test_real.py), or the journal's own rules (tests/journal).
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

import syncpoint
from syncpoint.testing.servers.postgres import PostgresServer
from tests.cli.conftest import Command
from tests.cli.test_errors import refused


def configure(tmp_path: Path, journal: str, **urls: str) -> None:
    lines = [f'{name} = "{url}"' for name, url in urls.items()]
    text = "\n".join(["[syncpoint]", f'journal = "{journal}"', "[resources]", *lines])
    (tmp_path / "syncpoint.toml").write_text(text)


def tables(url: str) -> set[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute("SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('syncpoint')")
        return {name for (name,) in rows.fetchall()}


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_init_makes_the_journals_tables_too(command: Command, tmp_path: Path, postgres_url: str) -> None:
    configure(tmp_path, "bank?cluster=shop", bank=postgres_url)
    printed = command("init", "--print-sql")
    assert printed.exit_code == 0
    assert "CREATE TABLE IF NOT EXISTS syncpoint.record" in printed.stdout
    assert "TO app_role" in printed.stdout
    assert tables(postgres_url) == set()
    for _ in range(2):  # harmless to repeat
        ran = command("init")
        assert (ran.exit_code, ran.stderr) == (0, "")
    assert {"journal", "incarnation", "record", "evidence"} <= tables(postgres_url)
    found = {one["check"]: one for one in command("doctor", "--json").json["resources"][-1]["findings"]}
    assert found["journal tables"]["found"].startswith("there: coordinator")


def test_what_is_printed_makes_a_journal(command: Command, postgres_url: str) -> None:
    printed = command("init", "--journal", postgres_url, "--resource", f"bank={postgres_url}", "--print-sql")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(printed.stdout.encode())
    with syncpoint.TransactionManager(postgres_url, {}, background=False) as manager:
        assert manager.in_doubt() == []


def test_init_on_mariadb(command: Command, tmp_path: Path, mariadb_url: str) -> None:
    configure(tmp_path, mariadb_url, ledger=mariadb_url)
    made = command("init", "--json").json["resources"]
    assert [(one["name"], one["ok"]) for one in made] == [("ledger", True), ("journal", True)]
    assert command("doctor").exit_code == 0


def test_init_without_rights(command: Command, tmp_path: Path, postgres_url: str) -> None:
    execute(
        postgres_url,
        f"CREATE ROLE nobody_much LOGIN; REVOKE CREATE ON DATABASE {postgres_url.rpartition('/')[2]} FROM PUBLIC",
    )
    poor = postgres_url.replace("//postgres@", "//nobody_much@")
    try:
        configure(tmp_path, poor, bank=postgres_url)
        ran = command("init", "--json")
        assert ran.exit_code == 1
        bank, journal = ran.json["resources"]
        assert (bank["ok"], journal["ok"]) == (True, False)
        assert "permission denied" in journal["error"]
        checked = command("doctor", "--json")
        assert checked.exit_code == 1
        found = {one["check"]: one for one in checked.json["resources"][-1]["findings"]}
        assert found["journal tables"]["severity"] in ("ok", "refused")
    finally:
        execute(postgres_url, "DROP ROLE nobody_much")


def test_a_database_that_need_not_prepare(command: Command, tmp_path: Path, postgres_server: PostgresServer) -> None:
    with PostgresServer(settings={"max_prepared_transactions": "0"}) as server:
        url = server.create_database("bank")
        configure(tmp_path, "bank", bank=url)
        ran = command("doctor")
        assert ran.exit_code == 0
        assert "not needed where the journal is" in " ".join(ran.stdout.split())
        assert command("doctor", url).exit_code == 1  # by itself it would have to


def test_doctor_of_a_journal_that_cannot_be_used(command: Command, tmp_path: Path, postgres_url: str) -> None:
    configure(tmp_path, "bank", bank=postgres_url)
    assert command("doctor").exit_code == 0
    assert command("init").exit_code == 0

    def said() -> str:
        ran = command("doctor", "--json")
        assert ran.exit_code == 1
        found = {one["check"]: one for one in ran.json["resources"][-1]["findings"]}
        assert found["journal tables"]["severity"] == "refused"
        return str(found["journal tables"]["found"])

    execute(postgres_url, "UPDATE syncpoint.journal SET refused = 'audit has seen more'")
    assert "older copy: audit has seen more" in said()
    execute(postgres_url, "UPDATE syncpoint.journal SET refused = NULL, cluster = 'other'")
    assert "'other'" in said()
    execute(postgres_url, "UPDATE syncpoint.journal SET format = 99")
    assert "format 99" in said()


def test_adopting_a_restored_copy(command: Command, tmp_path: Path, postgres_url: str) -> None:
    configure(tmp_path, "bank", bank=postgres_url)
    refused(command("journal", "adopt-copy", "bank", "--yes"), "There is no journal")
    assert command("init").exit_code == 0
    execute(postgres_url, "UPDATE syncpoint.journal SET refused = 'audit has seen more'")
    refused(command("in-doubt"), "older copy", "adopt-copy")
    assert command("journal", "adopt-copy", "bank", input="n\n").exit_code == 1
    report = command("journal", "adopt-copy", "bank", "--yes", "--json").json
    assert report["counter_after"] == report["counter_before"] + 1_000_000
    assert command("in-doubt").exit_code == 0


@pytest.mark.parametrize("what", ["verify", "list", "salvage"])
def test_a_database_has_no_files_to_read(command: Command, what: str) -> None:
    refused(command("journal", what, "postgresql://app:secret@nowhere/x"), "no files to read")


@pytest.mark.parametrize(
    ("journal", "why"),
    [
        ("bank?heartbeat_s=5&dead_after_s=1", "not below dead_after_s"),
        ("bank?dead_after_s=soon", "no number above 0"),
        ("bank?sessions_max=0", "no number from 2 on"),
        (f"bank?cluster={'x' * 65}", "cluster name has 65 characters"),
        ("sqlite:///a.db", "cannot live at sqlite://"),
    ],
)
def test_wrong_journals(command: Command, tmp_path: Path, journal: str, why: str) -> None:
    configure(tmp_path, journal, bank="postgresql://nobody@127.0.0.1:1/x")
    refused(command("in-doubt"), why)
