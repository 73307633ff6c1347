"""How much of the crash suite runs: every generated point always; what goes beyond that, a third of it by default.

`make crash` (SYNCPOINT_CRASH=full) runs all. The third is another one at every commit of the project, so that in time
all is run. Not for: leaving out a generated point.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

FULL = os.environ.get("SYNCPOINT_CRASH") == "full"
EVERY = 3


def some(items: Sequence[T]) -> list[T]:
    """All of them in a full run, else every third."""
    return list(items) if FULL else list(items[_offset() :: EVERY])


def is_one_of_some(number: int) -> bool:
    """Whether the n-th is among `some`."""
    return FULL or number % EVERY == _offset()


@cache
def _offset() -> int:
    told = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return int(told.stdout.strip() or "0", 16) % EVERY
