"""Many seeds side by side, and what they add up to.

Every seed runs in a worker whose string hashes are fixed (PYTHONHASHSEED), so that a set is walked through in the same
order today and tomorrow, and a seed's hash is the same on every run. Not for: one seed (run.py).
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import multiprocessing
import multiprocessing.pool
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from importlib.abc import Traversable
from typing import Any, TypeVar

from syncpoint.simulation.faults import KINDS
from syncpoint.simulation.run import EVERYTHING, Options, Outcome, run_seed
from syncpoint.simulation.shrink import shrink

T = TypeVar("T")
R = TypeVar("R")


@contextlib.contextmanager
def _fixed_hashes() -> Iterator[None]:
    """For the workers that are started meanwhile."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before


def in_workers(
    function: Callable[[T], R], items: Sequence[T], jobs: int | None = None, *, fresh: bool = False
) -> Iterator[R]:
    """`function` of each item, in processes of their own with fixed hashes; results in the order they come. With
    `fresh` each item has a process to itself."""
    count = max(1, min(jobs or os.cpu_count() or 1, len(items)))
    context = multiprocessing.get_context("spawn")
    with _fixed_hashes():
        pool = context.Pool(count, maxtasksperchild=1 if fresh else None)
        # Started one by one with `fresh`, so the hashes stay fixed until the last has started.
        yield from _results(pool, pool.imap_unordered(function, items, chunksize=1 if fresh or len(items) < 64 else 4))


def _results(pool: multiprocessing.pool.Pool, results: Iterator[R]) -> Iterator[R]:
    try:
        yield from results
        pool.close()
    finally:
        pool.terminate()
        pool.join()


def run_seeds(seeds: Sequence[int], options: Options = EVERYTHING, jobs: int | None = None) -> Iterator[Outcome]:
    """Every seed once."""
    return in_workers(partial(run_seed, options=options), seeds, jobs)


def run_one(seed: int, options: Options) -> Outcome:
    """One seed, with the hash it has in a sweep."""
    return next(run_seeds([seed], options, jobs=1))


def shrink_one(seed: int, options: Options) -> Outcome:
    """The same seed with as few faults as can be, still failing."""
    return next(in_workers(partial(shrink, options=options), [seed], jobs=1))


# --- marks ------------------------------------------------------------------------------------------------------


def all_marks() -> list[str]:
    """Every mark that stands in the package's source, sorted."""
    found: set[str] = set()
    for text in _sources(resources.files("syncpoint")):
        if "sometimes(" in text:
            found |= set(_marks_in(ast.parse(text)))
    return sorted(found)


def _sources(folder: Traversable) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _sources(entry)
        elif entry.name.endswith(".py"):
            yield entry.read_text(encoding="utf-8")


def _marks_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sometimes":
            [argument] = node.args
            assert isinstance(argument, ast.Constant), "a mark's name is a constant text"
            yield str(argument.value)


# --- adding up --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Summary:
    """What many seeds add up to."""

    kinds: Sequence[str] = tuple(KINDS)
    seeds: int = 0
    virtual_s: float = 0.0
    virtual_s_min: float = float("inf")
    real_s: float = 0.0
    """Of all workers together."""
    faults: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    by_workload: Counter[str] = field(default_factory=Counter)
    by_journal: Counter[str] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)
    differing: list[int] = field(default_factory=list)
    """Seeds that were run twice and had two hashes."""
    repeated: int = 0
    """Seeds that were run twice and had one."""

    def add(self, outcome: Outcome) -> None:
        """Take in one more outcome; of a seed that was there before, only its hash."""
        before = self.digests.get(outcome.seed)
        if before is not None:
            if before == outcome.digest:
                self.repeated += 1
            else:
                self.differing.append(outcome.seed)
            return
        self.digests[outcome.seed] = outcome.digest
        self.seeds += 1
        self.virtual_s += outcome.virtual_s
        self.virtual_s_min = min(self.virtual_s_min, outcome.virtual_s)
        self.real_s += outcome.real_s
        self.faults += len(outcome.plan)
        self.counts.update(outcome.counts)
        self.marks.update(outcome.marks)
        self.by_workload[outcome.workload] += 1
        self.by_journal[outcome.journal] += 1
        if outcome.violations:
            self.failed.append(outcome)

    @property
    def digest(self) -> str:
        """One hash of all seeds' hashes."""
        text = "".join(f"{seed} {self.digests[seed]}\n" for seed in sorted(self.digests))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def kinds_missed(self) -> list[str]:
        return [kind for kind in self.kinds if not self.counts[f"fault {kind}"]]

    @property
    def marks_missed(self) -> list[str]:
        return [mark for mark in all_marks() if mark not in self.marks]

    @property
    def is_good(self) -> bool:
        return not self.failed and not self.differing

    def document(self, options: Options) -> dict[str, Any]:
        """For `--json`."""
        seeds = max(1, self.seeds)
        return {
            "seeds": self.seeds,
            "violations": len(self.failed),
            "failed": [
                {"seed": one.seed, "what": list(one.violations), "replay": replay(one, options)} for one in self.failed
            ],
            "digest": self.digest,
            "repeated": self.repeated,
            "differing": sorted(self.differing),
            "virtual_s": round(self.virtual_s, 1),
            "virtual_s_min": round(self.virtual_s_min, 1),
            "worker_s": round(self.real_s, 1),
            "commits": self.counts["transactions ok"],
            "commits_per_seed": round(self.counts["transactions ok"] / seeds, 1),
            "faults_per_seed": round(self.faults / seeds, 1),
            "faults": {kind: self.counts[f"fault {kind}"] for kind in self.kinds},
            "kinds_missed": self.kinds_missed,
            "counts": {key: count for key, count in sorted(self.counts.items()) if not key.startswith("fault ")},
            "marks": {mark: self.marks[mark] for mark in all_marks()},
            "marks_missed": self.marks_missed,
            "workloads": dict(sorted(self.by_workload.items())),
            "journals": dict(sorted(self.by_journal.items())),
        }


def replay(outcome: Outcome, options: Options, only: Iterable[int] | None = None) -> str:
    """The command that runs this seed again, and shows it."""
    words = ["syncpoint simulate", f"--seed {outcome.seed}"]
    if options.workload:
        words.append(f"--workload {options.workload}")
    if options.journal:
        words.append(f"--journal {options.journal}")
    if tuple(options.kinds) != tuple(KINDS):
        words.append(f"--faults {','.join(options.kinds)}")
    if only is not None:
        words.append(f"--only {','.join(str(number) for number in only) or 'none'}")
    return " ".join([*words, "--trace"])
