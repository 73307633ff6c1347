"""What one exploration of a tree contains, and so its bounds. Not for: one manager alone (../scope.py)."""

from __future__ import annotations

from dataclasses import dataclass

from syncpoint.protocol.words import Choice


@dataclass(frozen=True)
class TreeScope:
    """One exploration of a superior with a database of its own, and a subordinate with databases of its own."""

    name: str
    branches: int = 1
    """The subordinate's own."""
    votes: tuple[Choice, ...] = (Choice.YES,)
    starts_max: tuple[int, int] = (2, 2)
    """Of the superior and of the subordinate: each is killed at any time, so often less one."""
    connections_lost: bool = True
    """To the subordinate, and between a manager and its databases."""
    restarts: bool = False
    """Databases restart, at any time."""
    refusals: bool = False
    """The subordinate's journal does not take a record, or its reply is lost."""
    out_of_time: bool = False
    """The superior may run out of time while it collects votes."""
    small: bool = True

    def bounds(self) -> str:
        """Its bounds on one line."""
        words = [f"a tree of depth 2, {1 + self.branches} RMs", f"{self.starts_max[0]} starts of the superior"]
        words += [f"{self.starts_max[1]} of the subordinate", "messages lost, late and any number of times"]
        words += [f"votes {'/'.join(vote.name.lower() for vote in self.votes)}"]
        flags = ("connections_lost", "restarts", "refusals", "out_of_time")
        return ", ".join([*words, *(name.replace("_", " ") for name in flags if getattr(self, name))])
