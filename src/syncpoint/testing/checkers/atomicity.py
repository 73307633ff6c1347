"""The atomicity checker.

Not for: other workloads.
"""

from __future__ import annotations

from syncpoint.testing.checkers.finding import Finding
from syncpoint.testing.checkers.history import History


def check(history: History) -> list[Finding]:
    """Not written yet: answers nothing."""
    return []
