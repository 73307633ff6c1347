"""Try mutants: run seeds with a deliberate bug in place until something is caught. Not for: the bugs (mutants*.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from syncpoint.simulation.model import mutants as model_mutants
from syncpoint.simulation.model.report import refute_all
from syncpoint.simulation.mutant import Mutant
from syncpoint.simulation.mutants import MUTANTS
from syncpoint.simulation.run import Options, run_seed
from syncpoint.simulation.sweep import in_workers

SEEDS_MAX = 300


@dataclass(frozen=True, slots=True)
class Catch:
    """What became of one mutant. `by` is empty when it survived."""

    mutant: str
    rule: str
    where: str
    by: str
    seeds: int
    """How many seeds were run."""
    what: str
    """What was seen."""
    real_s: float = 0.0
    states: int = 0
    """How many states the model had explored."""


def try_mutant(name: str, seeds_max: int = SEEDS_MAX) -> Catch:
    """Run seeds 1, 2, ... with the mutant until one fails."""
    mutant = MUTANTS[name]
    options = Options(workload=mutant.workload, journal=mutant.journal, kinds=mutant.kinds)
    began = time.perf_counter()
    for seed in range(1, seeds_max + 1):
        with mutant.patch():
            seen = _what_fails(seed, options)
        if seen:
            return _catch(mutant, "simulate", seed, seen, time.perf_counter() - began)
    return _catch(mutant, "", seeds_max, "", time.perf_counter() - began)


def _what_fails(seed: int, options: Options) -> str:
    try:
        outcome = run_seed(seed, options)
    except Exception as error:  # an assertion of the code under test, outside any process of the simulation
        return f"{type(error).__name__}: {error}"
    return outcome.violations[0] if outcome.violations else ""


def _catch(mutant: Mutant, by: str, seeds: int, what: str, real_s: float) -> Catch:
    return Catch(mutant.name, mutant.rule, mutant.where, by, seeds, what, real_s)


def try_all(names: Sequence[str], jobs: int | None = None, seeds_max: int = SEEDS_MAX) -> Iterator[Catch]:
    """Every mutant of these, side by side."""
    return in_workers(partial(try_mutant, seeds_max=seeds_max), names, jobs, fresh=True)


def of_the_model(jobs: int | None = None) -> list[Catch]:
    """The mutants of the rules themselves, which the model has to refute alone."""
    figures = refute_all(model_mutants.MUTANTS, lambda _: None, workers=jobs or os.cpu_count() or 1)
    return [
        Catch(one.name, one.rule, "protocol", "model" if one.refuted_by else "", 0, one.refuted_by, states=one.states)
        for one in figures
    ]
