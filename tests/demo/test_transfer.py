"""The demonstration itself, short: it must keep every promise, whatever it managed to kill. Not for: speed."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest

from syncpoint.demo import transfer
from syncpoint.demo.bank import TABLES, Bank, audit
from syncpoint.errors import ConfigurationError
from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.pgbouncer import PgBouncerServer
from syncpoint.testing.servers.postgres import PostgresServer


def test_a_short_run_keeps_every_promise(
    capsys: pytest.CaptureFixture[str], postgres_server: PostgresServer, mariadb_server: MariadbServer
) -> None:
    # The session's servers are asked for only so that a missing one is skipped, or fails in CI.
    assert transfer.run(seconds=6, json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["databases"] == ["postgresql", "mariadb", "sqlite"]
    assert {name: report[name] for name in transfer.ZEROS} == dict.fromkeys(transfer.ZEROS, 0)
    assert report["total_before"] == report["total_after"]
    assert report["committed"] >= 200
    assert report["kills_in_commit"] >= 4
    assert report["restarts"] == 2
    assert report["finished_by_commit"] >= 1
    assert report["finished_by_abort"] >= 1
    assert report["finished_by_commit"] + report["finished_by_abort"] >= report["kills_in_commit"]


def test_it_shows_as_much_without_mariadb(
    capsys: pytest.CaptureFixture[str], postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is prepared shows in one database only: the moment after the decision is harder to meet."""
    monkeypatch.setattr(transfer.MariadbServer, "available", staticmethod(lambda: False))
    assert transfer.run(seconds=3, json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["databases"] == ["postgresql", "sqlite"]
    assert report["kills_in_commit"] >= 2
    assert report["finished_by_commit"] >= 1
    assert report["finished_by_abort"] >= 1
    assert {name: report[name] for name in transfer.ZEROS} == dict.fromkeys(transfer.ZEROS, 0)


@pytest.mark.parametrize("journal", ["bank", "ledger"])
def test_decisions_in_a_database(
    capsys: pytest.CaptureFixture[str],
    postgres_server: PostgresServer,
    mariadb_server: MariadbServer,
    pgbouncer: PgBouncerServer,
    journal: str,
) -> None:
    """Through PgBouncer; the dead are only taken for dead, so locks last a little longer."""
    assert transfer.run(seconds=5, json=True, journal=journal) == 0
    report = json.loads(capsys.readouterr().out)
    assert {name: report[name] for name in transfer.ZEROS} == dict.fromkeys(transfer.ZEROS, 0)
    assert report["total_before"] == report["total_after"]
    assert (report["journal"], report["pgbouncer"]) == (journal, True)
    assert report["kills_in_commit"] >= 3
    assert report["finished_by_commit"] >= 1
    assert report["finished_by_abort"] >= 1


def test_a_journal_that_there_is_not() -> None:
    with pytest.raises(ConfigurationError, match="no journal 'audit'"):
        transfer.run(journal="audit")


@pytest.fixture
def two_files(tmp_path: Path) -> Bank:
    bank = Bank({name: f"sqlite:///{tmp_path / name}.db" for name in ("a", "b")})
    bank.make_tables()
    return bank


def _leave(bank: Bank, name: str, transfer_id: str, attempt: str) -> None:
    connection = apsw.Connection(bank.urls[name].removeprefix("sqlite:///"))
    connection.execute("INSERT INTO transfer VALUES (?, ?, 0)", (transfer_id, attempt))
    connection.close()


def test_the_audit_finds_what_is_wrong(two_files: Bank) -> None:
    """An audit that finds nothing proves nothing, unless it finds what was planted."""
    for name in ("a", "b"):
        _leave(two_files, name, "good", "1.1")
        _leave(two_files, name, "twice", "1.2")
        _leave(two_files, name, "refused", "1.3")
    _leave(two_files, "a", "twice", "2.1")
    _leave(two_files, "a", "half", "1.4")
    found = audit(two_files, {"good": "committed", "twice": "committed", "gone": "committed", "refused": "aborted"})
    assert (found.committed, found.torn, found.lost, found.duplicated, found.in_doubt) == (3, 2, 1, 1, 0)
    assert ("half", "1.4") in found.tries


def test_the_tables_let_a_second_application_show() -> None:
    assert any("PRIMARY KEY (id, attempt)" in statement for statement in TABLES)
