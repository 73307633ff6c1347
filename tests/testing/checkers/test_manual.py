"""The worked example of docs/checkers.md runs as it stands there, and finds what it says.

Not for: the tables (test_history.py sees that every kind is in them).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from syncpoint.resources.memory import MemoryServer
from syncpoint.testing.checkers import check_history, read_history

MANUAL = Path(__file__).parents[3] / "docs" / "checkers.md"


def test_the_example_finds_write_skew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    try:
        exec(example, {})  # noqa: S102  # what a reader would paste
    finally:
        for name in ("bank", "ledger"):
            MemoryServer.remove(name)
    printed = capsys.readouterr().out
    findings = check_history(read_history("history.jsonl"))
    assert printed == "".join(f"{finding}\n" for finding in findings)
    assert [finding.kind.value for finding in findings] == ["G2"] * 10
    assert "read ledger/y = [] without the 1 that" in findings[0].sentence
