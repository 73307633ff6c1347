"""What came of a story at its points: figures, a sentence, and for what failed the command that repeats it.

Not for: running (explore.py).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from syncpoint.testing.crash.story import Shot

SHOWN_MAX = 5
"""Failures told in full; of the others the point only."""


@dataclass(frozen=True)
class Failure:
    """One point after which something was not as it must be."""

    shot: Shot | None
    """None: nothing had happened to it at all."""
    why: str
    at: str = ""
    """Where the user's own code stood: "test_transfer.py:31"."""
    told: str = ""

    def __str__(self) -> str:
        head = str(self.shot) if self.shot is not None else "nothing had happened to it, and still"
        lines = [head]
        if self.at:
            lines.append(f"your code stood at {self.at}")
        if self.told:
            lines.append(f"told: {self.told}")
        return "\n    ".join([*lines, *self.why.rstrip().splitlines()])


@dataclass
class CrashReport:
    """The figures of one exploration. `str` is one line; `to_json` what a scoreboard reads."""

    points: int = 0
    """How many points there are: all that the run passes, in every mode asked for."""
    hit: list[str] = field(default_factory=list)
    """The keys of those at which something happened, in order."""
    missed: list[str] = field(default_factory=list)
    """Tried, but the run went another way each time."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Mode or point -> why it was not tried."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """What the callers were told: "committed", "aborted", "nobody was told"."""
    modes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        how = ", ".join(f"{mode} {count}" for mode, count in self.modes.items()) or "none"
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.outcomes.items()))
        missed = f", {len(self.missed)} not reached again" if self.missed else ""
        return (
            f"{len(self.hit)} of {self.points} points hit ({how}){missed} in {self.seconds:.1f} s: {told}; "
            f"{len(self.failures)} failed"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            "points": self.points,
            "hit": len(self.hit),
            "missed": list(self.missed),
            "left_out": dict(self.left_out),
            "outcomes": dict(self.outcomes),
            "modes": dict(self.modes),
            "failed": [failure.shot.key if failure.shot else "" for failure in self.failures],
            "seconds": round(self.seconds, 3),
        }

    def dumps(self) -> str:
        """`to_json` as one line."""
        return json.dumps(self.to_json())

    def explain(self, replay: str = "") -> str:
        """What failed, for people. `replay` is the command to which a point's key is added; empty: the key alone."""
        tried = len(self.hit) + len(self.missed) or 1
        text = [f"{len(self.failures)} of {tried} points failed; {self}"]
        for failure in self.failures[:SHOWN_MAX]:
            text.append(f"\n{failure}")
            if failure.shot is not None:
                text.append(f"    this point only: {replay}{failure.shot.key!r}")
        rest = [failure.shot.key for failure in self.failures[SHOWN_MAX:] if failure.shot is not None]
        if rest:
            text.append("\nand at: " + ", ".join(rest))
        return "\n".join(text)
