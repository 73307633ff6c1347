"""The demonstration of takeovers, short: it must keep every promise, whatever it managed to kill. Not for: speed."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest

from syncpoint.demo import takeover
from syncpoint.demo.bank import Bank, audit, entry_name
from syncpoint.demo.client import Log, left_open, read_log
from syncpoint.testing.servers.postgres import PostgresServer


def test_a_short_run_keeps_every_promise(
    capsys: pytest.CaptureFixture[str], postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The session's server is asked for only so that a missing one is skipped, or fails in CI.
    monkeypatch.setattr(takeover, "NEEDED", takeover.Needed(takeovers=4, redone=1, zombies=1))
    code = takeover.run(seconds=5, json=True)
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert {name: report[name] for name in takeover.ZEROS} == dict.fromkeys(takeover.ZEROS, 0), captured.err
    assert report["takeovers"] >= 4
    assert report["redone_committed"] >= 1
    assert report["committed"] >= 5
    assert report["old_primary_refused"] is True
    assert report["total_before"] == report["total_after"]
    assert code == 0


def test_the_report_breaks_no_promise_only_if_all_are_kept() -> None:
    """An audit that finds nothing proves nothing, unless it finds what was planted."""
    good = {**dict.fromkeys(takeover.ZEROS, 0), "total_before": 5, "total_after": 5, "old_primary_refused": True}
    assert takeover.keeps_promises(good)
    for name, value in (("lost", 1), ("in_doubt", 1), ("total_after", 6), ("old_primary_refused", False)):
        assert not takeover.keeps_promises({**good, name: value})


def test_files_count_like_rows(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    bank = Bank({"a": f"sqlite:///{tmp_path / 'a.db'}", "files": f"files://{tmp_path / 'files'}"})
    bank.make_tables()
    before = bank.total()
    for transfer, attempt in (("good", "1.1"), ("twice", "1.2"), ("half", "1.3"), ("twice", "2.1")):
        file = tmp_path / "files" / entry_name(transfer, attempt)
        file.parent.mkdir(exist_ok=True)
        file.touch()
    connection = apsw.Connection(str(tmp_path / "a.db"))
    for transfer in ("good", "twice"):
        connection.execute("INSERT INTO transfer VALUES (?, '1.1', 0)", (transfer,))
    connection.close()
    found = audit(bank, {"good": "committed", "gone": "committed"})
    assert (found.committed, found.torn, found.lost, found.duplicated) == (2, 1, 1, 1)
    assert bank.total() == before


def test_what_a_killed_client_was_not_told_is_sent_again(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"))
    for event, what in (("begun", "1 {}"), ("begun", "2 {}"), ("begun", "12 {}"), ("committed", "1")):
        log.write(event, what)
    assert left_open(tmp_path / "log") == ["2 {}", "12 {}"]
    assert read_log(tmp_path / "log")[-1] == ("committed", "1")
    assert left_open(tmp_path / "none") == []
