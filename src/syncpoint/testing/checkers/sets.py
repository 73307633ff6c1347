"""The set checker.

Not for: other workloads.
"""

from __future__ import annotations

from syncpoint.testing.checkers.finding import Finding
from syncpoint.testing.checkers.history import History


def check(history: History, *, stale_reads: bool = False) -> list[Finding]:
    """Not written yet: answers nothing."""
    return []
