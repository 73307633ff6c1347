"""The numbers of the fault suites at the end of a test run: what was tried, torn, and left in doubt.

Not for: counting (`Tally` in faults.py records it with each test), or judging.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

FIGURES = "SYNCPOINT_CRASH_FIGURES"
"""Names a file that gets the numbers as JSON too (scripts/reliability.py)."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Add up what the tests of all processes recorded."""
    tried: Counter[str] = Counter()
    torn: Counter[str] = Counter()
    in_doubt: Counter[str] = Counter()
    points = {"enumerated": 0, "hit": 0}
    for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
        for name, value in report.user_properties:
            if name == "points" and report.when == "call":
                points = value
            if name == "faults" and report.when == "call":
                what, *counts = value
                for total, count in zip((tried, torn, in_doubt), counts, strict=True):
                    total[what] += count
    _write(points, tried, torn, in_doubt)
    if tried:
        terminalreporter.section("faults")
        for what in tried:
            terminalreporter.write_line(f"{what}: {tried[what]}; torn {torn[what]}, left in doubt {in_doubt[what]}")


def _write(points: dict[str, int], tried: Counter[str], torn: Counter[str], in_doubt: Counter[str]) -> None:
    if FIGURES in os.environ:
        found = {
            "points": points,
            "faults": dict(tried),
            "torn": torn.total(),
            "in_doubt": in_doubt.total(),
            "each": {what: {"tried": tried[what], "torn": torn[what], "in_doubt": in_doubt[what]} for what in tried},
        }
        Path(os.environ[FIGURES]).write_text(json.dumps(found, indent=2))
