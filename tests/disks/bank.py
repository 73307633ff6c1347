"""Two SQLite files that must agree, a folder journal, and a worker whose disk fails or loses power under them.

Judged from outside, by another SQLite library, after recovery: every row that the caller was told of is in both files,
none that it was told is not, and no row is in one file alone. Not for: what makes the disk fail.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.disks.zygote import Zygote

NAMES = ("a", "b")


@dataclass(frozen=True)
class Bank:
    """Where the three stand: on one file system, or on several."""

    journal: Path
    a: Path
    b: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Bank:
        return cls(folder / "journal", folder / "a.db", folder / "b.db")

    def order(self, job: str, **more: Any) -> dict[str, Any]:
        """An order for `worker.py`."""
        return {"job": job, "journal": str(self.journal), "a": str(self.a), "b": str(self.b), **more}

    def make(self, zygote: Zygote) -> None:
        """The tables, and everything that a first contact leaves. `a` has a write-ahead log, `b` a rollback journal."""
        for path, mode in ((self.a, "wal"), (self.b, "delete")):
            with closing(sqlite3.connect(path)) as connection:
                connection.execute(f"PRAGMA journal_mode = {mode}")
                connection.execute("CREATE TABLE entry (number INTEGER PRIMARY KEY, text TEXT)")
                connection.execute("CREATE TABLE heir (number INTEGER PRIMARY KEY)")  # what only one file is to have
                connection.commit()
        self.recover(zygote)

    def recover(self, zygote: Zygote) -> None:
        """Let a new process settle everything. Nothing may be left in doubt."""
        said = zygote.run(**self.order("recover"))
        assert [(one.get("in_doubt"), one.get("heuristics")) for one in said] == [([], [])], said

    def rows(self) -> dict[str, set[int]]:
        """What is in each file."""
        found = {}
        for name in NAMES:
            with closing(sqlite3.connect(f"file:{getattr(self, name)}?mode=ro", uri=True)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                found[name] = {number for (number,) in connection.execute("SELECT number FROM entry")}
        return found

    def judge(self, said: list[dict[str, Any]], before: set[int]) -> Judged:
        """After recovery. `before`: rows of earlier workers. Raises AssertionError."""
        rows = self.rows()
        assert rows["a"] == rows["b"], f"in one file alone: {sorted(rows['a'] ^ rows['b'])}"
        found = rows["a"] - before
        assert before <= rows["a"], f"lost since an earlier worker: {sorted(before - rows['a'])}"
        told = {what: {one[what] for one in said if what in one} for what in ("handed", "committed", "aborted")}
        assert told["committed"] <= found, f"lost: {sorted(told['committed'] - found)}"
        assert found <= told["handed"], f"invented: {sorted(found - told['handed'])}"
        assert not found & told["aborted"], f"aborted, but there: {sorted(found & told['aborted'])}"
        return Judged(len(told["committed"]), len(found - told["committed"]), rows["a"])


@dataclass(frozen=True)
class Judged:
    acknowledged: int
    found_unacknowledged: int
    rows: set[int]
