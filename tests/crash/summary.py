"""The numbers of the fault suites at the end of a test run: what was tried, torn, and left in doubt.

Not for: counting (`Tally` in faults.py records it with each test), or judging.
"""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Add up what the tests of all processes recorded."""
    tried: Counter[str] = Counter()
    torn: Counter[str] = Counter()
    in_doubt: Counter[str] = Counter()
    for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
        for name, value in report.user_properties:
            if name == "faults" and report.when == "call":
                what, *counts = value
                for total, count in zip((tried, torn, in_doubt), counts, strict=True):
                    total[what] += count
    if tried:
        terminalreporter.section("faults")
        for what in tried:
            terminalreporter.write_line(f"{what}: {tried[what]}; torn {torn[what]}, left in doubt {in_doubt[what]}")
