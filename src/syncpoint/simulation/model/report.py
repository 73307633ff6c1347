"""Explores many scopes and refutes many mutants, side by side, and puts the figures together.

Not for: printing them (__main__.py).
"""

from __future__ import annotations

import multiprocessing
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syncpoint.simulation.model.explore import Exploration, Explorer
from syncpoint.simulation.model.mutants import MUTANTS, Mutant
from syncpoint.simulation.model.refute import Refutation, refute
from syncpoint.simulation.model.rules import AnyScope
from syncpoint.simulation.model.scopes import SCOPES, scope_named
from syncpoint.simulation.model.transcript import write

Say = Callable[[str], None]


@dataclass(frozen=True)
class MutantFigures:
    """What became of one mutant, as it comes back from another process."""

    name: str
    rule: str
    from_the_design: bool
    refuted_by: str
    scope: str
    states: int
    line: str
    transcript: str


@dataclass
class Report:
    """All figures of one run."""

    scopes: list[Exploration] = field(default_factory=list)
    refutations: list[MutantFigures] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        explored = all(one.is_complete for one in self.scopes)
        return explored and all(one.refuted_by for one in self.refutations)

    def as_json(self) -> dict[str, Any]:
        """The figures for the scoreboard."""
        by = Counter(one.refuted_by for one in self.refutations if one.refuted_by)
        return {
            "scopes": [_scope_figures(one) for one in self.scopes],
            "states": sum(one.states for one in self.scopes),
            "violations": sum(one.counterexample is not None for one in self.scopes),
            "mutants": len(self.refutations),
            "refuted": sum(bool(one.refuted_by) for one in self.refutations),
            "by": dict(sorted(by.items())),
            "table": [
                {
                    "mutant": one.name,
                    "breaks": one.rule,
                    "from_the_design": one.from_the_design,
                    "refuted_by": one.refuted_by,
                    "scope": one.scope,
                    "states": one.states,
                }
                for one in self.refutations
            ],
        }

    def summary(self) -> str:
        """The same for people."""
        lines = []
        if self.scopes:
            states, seconds = sum(one.states for one in self.scopes), sum(one.seconds for one in self.scopes)
            lines.append(f"{states} states of {len(self.scopes)} scopes in {seconds:.0f} s")
        if self.refutations:
            refuted = sum(bool(one.refuted_by) for one in self.refutations)
            lines.append(f"{refuted} of {len(self.refutations)} mutants refuted")
        lines += [write(one.counterexample) for one in self.scopes if one.counterexample is not None]
        return "\n".join(lines)

    def write_transcripts(self, folder: Path) -> None:
        """Every counterexample as a file."""
        folder.mkdir(parents=True, exist_ok=True)
        for one in self.scopes:
            if one.counterexample is not None:
                (folder / f"{_file_name(one.scope.name)}.txt").write_text(write(one.counterexample), encoding="utf-8")
        for refutation in self.refutations:
            if refutation.transcript:
                (folder / f"{_file_name(refutation.name)}.txt").write_text(refutation.transcript, encoding="utf-8")


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _scope_figures(one: Exploration) -> dict[str, Any]:
    return {
        "name": one.scope.name,
        "bounds": one.scope.bounds(),
        "states": one.states,
        "transitions": one.transitions,
        "depth": one.depth,
        "seconds": round(one.seconds, 1),
        "complete": one.is_complete,
        "violation": one.counterexample.rule if one.counterexample else None,
    }


# --- side by side -----------------------------------------------------------------------------------------------


def explore_all(scopes: Sequence[AnyScope], say: Say, *, workers: int) -> list[Exploration]:
    """Explore every scope; those that need longest are begun first (they stand last)."""
    found: dict[str, Exploration] = {}
    with _pool(workers) as pool:
        futures = {pool.submit(_explore, scope.name): scope for scope in reversed(scopes)}
        for future in as_completed(futures):
            one = future.result()
            found[one.scope.name] = one
            say(_line(one))
    return [found[scope.name] for scope in scopes]


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _line(one: Exploration) -> str:
    broken = f", BROKEN: {one.counterexample.rule}" if one.counterexample else ""
    return (
        f"{one.scope.name}: {one.states} states, {one.transitions} transitions, depth {one.depth}, "
        f"{one.seconds:.0f} s{broken}\n    {one.scope.bounds()}"
    )


def _explore(name: str) -> Exploration:
    began = time.monotonic()

    def progress(so_far: Exploration) -> None:
        if so_far.states % 100_000 == 0:
            elapsed = time.monotonic() - began
            print(
                f"  ... {name}: {so_far.states} states, depth {so_far.depth}, {elapsed:.0f} s",
                file=sys.stderr,
                flush=True,
            )

    return Explorer(scope_named(name)).explore(progress)


def refute_all(mutants: Sequence[Mutant], say: Say, *, workers: int) -> list[MutantFigures]:
    """Refute every mutant by the small scopes."""
    found: dict[str, MutantFigures] = {}
    with _pool(workers) as pool:
        for future in as_completed([pool.submit(_refute, mutant.name) for mutant in mutants]):
            one = future.result()
            found[one.name] = one
            say(one.line)
    return [found[mutant.name] for mutant in mutants]


def _refute(name: str) -> MutantFigures:
    mutant = next(one for one in MUTANTS if one.name == name)
    return figures_of(refute(mutant, [scope for scope in SCOPES if scope.small]))


def figures_of(one: Refutation) -> MutantFigures:
    """The figures of a refutation, with its transcript, played with the mutant in place."""
    shown, transcript = one.counterexample, ""
    if shown is not None:
        with one.mutant.applied():
            transcript = write(shown, one.mutant.name)
    return MutantFigures(
        name=one.mutant.name,
        rule=one.mutant.rule,
        from_the_design=one.mutant.from_the_design,
        refuted_by=shown.rule if shown else "",
        scope=shown.scope.name if shown else "",
        states=one.states,
        line=one.line(),
        transcript=transcript,
    )
