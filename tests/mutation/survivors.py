"""Mutants that no test notices, and why that is no gap: `survivors.toml`, read and matched.

Not for: finding them (run.py).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "survivors.toml"


@dataclass(frozen=True, slots=True)
class Survivor:
    """One mutant: where it stands, and the lines it changed, without their indentation."""

    file: str
    function: str
    was: str
    became: str

    def __str__(self) -> str:
        return f"{self.file} {self.function}: {self.was}  ->  {self.became}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why such a mutant is none: it behaves the same, or only a person's eye sees the difference."""

    file: str
    function: str
    was: str
    """A part of the line as it stands."""
    became: tuple[str, ...]
    """Parts of the changed line, one of which it has."""
    why: str

    def covers(self, one: Survivor) -> bool:
        is_there = (self.file, self.function) == (one.file, one.function) and self.was in one.was
        return is_there and any(part in one.became for part in self.became)


_SQL = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|FROM|WHERE|AND|EXISTS|VALUES|SET|JOIN|ORDER BY|LIMIT|INTERVAL|NOT)\b|digits\("
)


def is_case_of_sql(one: Survivor) -> bool:
    """Whether it only writes SQL in other letters: databases do not look at the case of words and of names of columns.

    One that changes the case of a value, or of a table's name where a database does look at it, is noticed by tests.
    """
    return one.was != one.became and one.was.lower() == one.became.lower() and _SQL.search(one.was) is not None


def explanations() -> list[Explanation]:
    """All that stand in the file. Raises KeyError, tomllib.TOMLDecodeError."""
    return [
        Explanation(one["file"], one["function"], one["was"], tuple(one["became"]), one["why"])
        for one in tomllib.loads(FILE.read_text(encoding="utf-8")).get("survivor", [])
    ]


def explain(survivors: Sequence[Survivor]) -> tuple[list[Survivor], list[Survivor]]:
    """(those that are explained, the others)."""
    known = explanations()
    explained = [
        one for one in survivors if is_case_of_sql(one) or any(explanation.covers(one) for explanation in known)
    ]
    return explained, [one for one in survivors if one not in explained]
