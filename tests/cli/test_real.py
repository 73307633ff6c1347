"""The commands at what a killed process left: two real databases, a real journal, branches in doubt.

What became of the work is read by connections of the test's own. Not for: every point at which a process can die
(crash/).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from syncpoint.ids import GID_PREFIX
from syncpoint.testing.servers.postgres import PostgresServer
from tests.cli.conftest import Command
from tests.cli.test_errors import refused

DIES = """
import os, signal, sys
from syncpoint.manager.sync import TransactionManager

step, scope, bank, ledger = sys.argv[1:]

def die(point, found):
    if getattr(found, "what", "") == step:
        os.kill(os.getpid(), signal.SIGKILL)

with TransactionManager("journal", {"bank": bank, "ledger": ledger}, scope=scope) as manager:
    with manager.transaction(id="order-1") as tx:
        for name in ("bank", "ledger"):
            tx.connect(name).execute("INSERT INTO entry VALUES (1)")
        if step == "live":
            print("working", flush=True)
            sys.stdin.read()
        manager._runner.observer = die
"""


@dataclass
class Site:
    """Two databases, a journal, and a process that dies in the middle."""

    command: Command
    server: PostgresServer
    names: tuple[str, str]

    @property
    def urls(self) -> tuple[str, str]:
        bank, ledger = (self.server.url(name) for name in self.names)
        return bank, ledger

    def arguments(self, step: str) -> list[str]:
        return [sys.executable, "-c", DIES, step, "shop", *self.urls]

    def die_at(self, step: str) -> None:
        """A process that is killed just before it performs this step of its commit."""
        ran = subprocess.run(self.arguments(step), capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == -signal.SIGKILL, ran.stderr

    def rows(self) -> list[int]:
        """Rows in each database, seen from outside."""
        counts = []
        for name in self.names:
            with self.server.connect(name) as connection:
                [(count,)] = connection.execute("SELECT count(*) FROM entry").fetchall()
                counts.append(count)
        return counts

    def prepared(self) -> list[int]:
        """Prepared branches of each database."""
        return [len(self.server.prepared(name)) for name in self.names]


@pytest.fixture
def site(command: Command, postgres_server: PostgresServer, postgres_url: str) -> Site:
    bank = postgres_url.rpartition("/")[2]
    ledger = f"{bank}_ledger"
    postgres_server.create_database(ledger)
    made = Site(command, postgres_server, (bank, ledger))
    for name in made.names:
        with postgres_server.connect(name) as connection:
            connection.execute("CREATE TABLE entry (amount int)")
    Path("syncpoint.toml").write_text(
        f'[syncpoint]\njournal = "journal"\nscope = "shop"\n'
        f'[resources]\nbank = "{made.urls[0]}"\nledger = "{made.urls[1]}"\n',
        encoding="utf-8",
    )
    return made


def test_o27_decided_and_died(command: Command, site: Site) -> None:
    site.die_at("COMMIT PREPARED")
    assert (site.prepared(), site.rows()) == ([1, 1], [0, 0])

    listed = command("in-doubt", "--json").json["branches"]
    assert {(one["resource"], one["status"], one["user_id"]) for one in listed} == {
        ("bank", "decided-commit", "order-1"),
        ("ledger", "decided-commit", "order-1"),
    }
    assert all(one["branch"].startswith(GID_PREFIX) for one in listed)
    shown = command("show", "order-1")
    assert "decided: commit" in shown.stdout
    assert {one["state"] for one in command("show", "order-1", "--json").json["branches"]} == {"prepared"}
    outcome = command("outcome", "order-1", "--json").json
    assert (outcome["state"], sorted(outcome["pending"])) == ("committed", ["bank", "ledger"])
    assert (site.prepared(), site.rows()) == ([1, 1], [0, 0]), "looking changes nothing"

    recovered = command("recover", "--json")
    assert (recovered.exit_code, recovered.json["committed"]) == (0, 2)
    assert (site.prepared(), site.rows()) == ([0, 0], [1, 1])
    assert "Nothing is in doubt." in command("in-doubt").stdout
    assert command("outcome", "order-1", "--json").json["pending"] == []


def test_o26_died_before_the_decision(command: Command, site: Site) -> None:
    site.die_at("journal force")
    assert (site.prepared(), site.rows()) == ([1, 1], [0, 0])
    assert {one["status"] for one in command("in-doubt", "--json").json["branches"]} == {"presumed-abort"}
    assert command("outcome", "order-1", "--json").json["state"] == "aborted-or-unknown"
    assert command("recover", "--wait", "20", "--json").json["aborted"] == 2
    assert (site.prepared(), site.rows()) == ([0, 0], [0, 0])


def test_resolve_shows_the_branches_and_forces_them(command: Command, site: Site) -> None:
    site.die_at("journal force")
    asked = command("resolve", "order-1", "--commit", "--reason", "the customer was told", input="n\n")
    assert asked.exit_code == 1
    assert "prepared" in asked.stdout
    assert (site.prepared(), site.rows()) == ([1, 1], [0, 0])

    forced = command("resolve", "order-1", "--commit", "--reason", "told", "--who", "ann", "--yes", "--json").json
    assert "no decision to commit is known" in forced["warning"]
    assert {one["answer"] for one in forced["resolved"]} == {"COMMITTED"}
    assert (site.prepared(), site.rows()) == ([0, 0], [1, 1])

    heuristics = command("in-doubt", "--json").json["heuristics"]
    assert {(one["resource"], one["outcome"]) for one in heuristics} == {
        ("bank", "HEURISTIC_COMMIT"),
        ("ledger", "HEURISTIC_COMMIT"),
    }
    shown = command("show", "order-1").stdout
    assert "forced by ann: commit" in shown
    assert "told" in shown
    assert command("forget", "order-1", "--json").json["forgotten"] == 2
    assert command("in-doubt", "--json").json["heuristics"] == []


def test_resolve_one_branch_against_the_decision_is_a_heuristic_outcome(command: Command, site: Site) -> None:
    site.die_at("COMMIT PREPARED")
    ran = command("resolve", "order-1", "--abort", "--reason", "disk lost", "--resource-name", "ledger", "--yes")
    assert ran.exit_code == 0
    assert "Warning: its decision is commit" in ran.stderr
    assert (site.prepared(), site.rows()) == ([1, 0], [0, 0])
    assert command("recover").exit_code == 0
    assert (site.prepared(), site.rows()) == ([0, 0], [1, 0])
    [entry] = command("in-doubt", "--json").json["heuristics"]
    assert (entry["resource"], entry["outcome"], entry["decided"]) == ("ledger", "HEURISTIC_ROLLBACK", "commit")
    assert command("outcome", "order-1", "--json").json["state"] == "heuristic"


def test_o34_a_living_transaction_is_left_alone(command: Command, site: Site) -> None:
    with subprocess.Popen(site.arguments("live"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
            assert command("outcome", "order-1", "--json").json["state"] == "running"
            forced = command("resolve", "order-1", "--abort", "--reason", "r", "--yes", "--json")
            assert (forced.exit_code, forced.json["error"]["kind"]) == (1, "TransactionRunning")
            assert command("recover").exit_code == 0
        finally:
            process.communicate("")
    assert process.returncode == 0
    assert (site.prepared(), site.rows()) == ([0, 0], [1, 1])


def test_o44_recover_waits_and_says_what_is_left(command: Command, site: Site) -> None:
    site.die_at("COMMIT PREPARED")
    gone = site.urls[1].replace(f":{site.server.port}/", ":1/")
    ran = command("recover", "--wait", "0.3", "--resource", f"ledger={gone}", "--json")
    assert ran.exit_code == 1
    assert list(ran.json["unreachable"]) == ["ledger"]
    assert (site.prepared(), site.rows()) == ([0, 1], [1, 0])
    assert command("in-doubt", "--resource", f"ledger={gone}").exit_code == 1
    assert command("recover", "--wait", "20").exit_code == 0
    assert (site.prepared(), site.rows()) == ([0, 0], [1, 1])


def test_adopt_finishes_what_a_lost_journal_left(command: Command, site: Site) -> None:
    site.die_at("journal force")
    Path("journal").rename("lost")
    Path("journal").mkdir()
    [coordinator] = {one["coordinator"] for one in command("in-doubt", "--json").json["branches"]}
    left = command("recover", "--json")
    assert left.json["unknown_coordinators"] == [coordinator]
    assert site.prepared() == [1, 1], "an unknown coordinator's branches are not touched"
    assert command("adopt", coordinator, "--yes").exit_code == 0
    assert command("recover", "--wait", "20", "--json").json["aborted"] == 2
    assert (site.prepared(), site.rows()) == ([0, 0], [0, 0])


def test_adopt_of_what_is_no_guid(command: Command, site: Site) -> None:
    Path("journal").mkdir()
    refused(command("adopt", "zzz", "--yes"), "'zzz' is not a coordinator's GUID")


def test_a_wrong_database_under_a_known_name(command: Command, site: Site) -> None:
    site.die_at("COMMIT PREPARED")
    bank, ledger = site.urls
    swapped = ("--resource", f"bank={ledger}", "--resource", f"ledger={bank}")
    refused(command("recover", *swapped), "GUID", "Point the URL at the right database")
    assert (site.prepared(), site.rows()) == ([1, 1], [0, 0])


def test_an_id_too_long(command: Command, site: Site) -> None:
    Path("journal").mkdir()
    refused(command("show", "x" * 300), "has 300 characters; at most 255 are allowed.")


def test_a_file_where_the_journal_should_be(command: Command, site: Site) -> None:
    Path("journal").write_text("not a folder", encoding="utf-8")
    refused(command("in-doubt"), "journal")


@contextmanager
def nobody() -> Iterator[None]:
    """Root may do everything; so be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_a_folder_without_permission(command: Command, mode: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "journal").mkdir()
        (folder / "journal").chmod(mode)
        with nobody():
            ran = command("in-doubt", "--journal", str(folder / "journal"), "--resource", "a=memory://a")
        (folder / "journal").chmod(0o755)
    refused(ran, str(folder / "journal"), "may not be read and written by this user")


def test_a_folder_that_cannot_even_be_looked_for(command: Command) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "journal").mkdir()
        folder.chmod(0)
        with nobody():
            ran = command("in-doubt", "--journal", str(folder / "journal"), "--resource", "a=memory://a")
        folder.chmod(0o755)
    refused(ran, str(folder / "journal"), "may not be read and written by this user")
