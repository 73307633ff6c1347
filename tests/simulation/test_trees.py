"""Trees of managers under the simulator: the reduced form of `syncpoint simulate --workload tree`, and its mutants.

Not for: one transaction at a time, and a death at each of its moments (tests/trees/).
"""

from __future__ import annotations

from collections import Counter

import pytest

from syncpoint.simulation.catching import try_mutant
from syncpoint.simulation.mutants_tree import MUTANTS
from syncpoint.simulation.run import Options, Outcome, run_seed
from syncpoint.simulation.sweep import run_seeds

SEEDS = range(101, 111)
TREE = Options(workload="tree")
MARKS = {
    "a context was refused by its superior",
    "a manager came too late to join",
    "a part's time was over before it was asked for its vote",
    "a superior could not be asked",
    "a superior was asked for an outcome, and knew it",
    "a vote was asked before the block had ended",
    "a vote was asked of a work that is lost",
    "an earlier process's promise got its outcome",
}
QUICK = (
    "tree: vote before Prepared is forced",
    "tree: a superior out of reach has aborted",
    "tree: find no subordinates after a restart",
    "tree: leave branches when told to abort",
    "tree: forget promises at the restart",
)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return list(run_seeds(SEEDS, TREE))


def test_b10_trees_settle_and_nothing_is_torn(outcomes: list[Outcome]) -> None:
    assert [(one.seed, one.violations) for one in outcomes if one.violations] == []
    assert all(one.virtual_s >= 60 for one in outcomes)
    assert sum(one.counts["transactions ok"] for one in outcomes) / len(outcomes) >= 80


def test_rare_places_of_trees_are_reached(outcomes: list[Outcome]) -> None:
    marks = Counter[str]()
    for one in outcomes:
        marks.update(one.marks)
    assert MARKS - set(marks) == set()


def test_the_same_tree_is_the_same_world() -> None:
    once, again = run_seed(102, TREE), run_seed(102, TREE)
    assert (once.digest, once.counts) == (again.digest, again.counts)


@pytest.mark.parametrize("name", QUICK)
def test_a_deliberate_bug_is_caught(name: str) -> None:
    assert name in {mutant.name for mutant in MUTANTS}
    catch = try_mutant(name, seeds_max=15)
    assert catch.by == "simulate", f"{catch.seeds} seeds saw nothing"
