"""Takeover under the simulator: the reduced form of `syncpoint simulate --workload takeover`, and its mutants.

Not for: one takeover at a time, and a death at each of its moments (tests/node/).
"""

from __future__ import annotations

from collections import Counter

import pytest

from syncpoint.errors import Fenced
from syncpoint.simulation.catching import try_mutant
from syncpoint.simulation.mutants_takeover import MUTANTS
from syncpoint.simulation.process import Process
from syncpoint.simulation.rm_data import RmData, RmHabits, RmResource
from syncpoint.simulation.run import Options, Outcome, run_seed
from syncpoint.simulation.sweep import run_seeds
from syncpoint.simulation.world import SimRandom, World

SEEDS = range(101, 109)
TAKEOVER = Options(workload="takeover")
MARKS = {
    "a fenced resource manager spoke",
    "a manager did not tell its votes, and was fenced",
    "a manager told a backup what it had not decided",
    "a resource manager was lost while its node was away",
}
QUICK: tuple[str, ...] = (
    "takeover: data without a fence",
    "takeover: give out incarnations unforced",
)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return list(run_seeds(SEEDS, TAKEOVER))


def test_b7_b8_b9_sites_settle_and_nothing_is_lost(outcomes: list[Outcome]) -> None:
    assert [(one.seed, one.violations) for one in outcomes if one.violations] == []
    assert all(one.virtual_s >= 60 for one in outcomes)
    assert sum(one.counts["transactions ok"] for one in outcomes) / len(outcomes) >= 80


def test_rare_places_of_takeover_are_reached(outcomes: list[Outcome]) -> None:
    marks, counts = Counter[str](), Counter[str]()
    for one in outcomes:
        marks.update(one.marks)
        counts.update(one.counts)
    assert MARKS - set(marks) == set()
    assert counts["branches redone"] > 0


def test_the_same_site_is_the_same_world() -> None:
    once, again = run_seed(102, TAKEOVER), run_seed(102, TAKEOVER)
    assert (once.digest, once.counts) == (again.digest, again.counts)


@pytest.mark.parametrize("seed", [8, 18, 23, 28])
def test_what_it_has_found_stays_mended(seed: int) -> None:
    """Standbys that nobody told when the node came back after the loss; one that was told while it enrolled."""
    assert run_seed(seed, TAKEOVER).violations == ()


@pytest.mark.parametrize("name", QUICK)
def test_a_deliberate_bug_is_caught(name: str) -> None:
    assert name in {mutant.name for mutant in MUTANTS}
    catch = try_mutant(name, seeds_max=12)
    assert catch.by == "simulate", f"{catch.seeds} seeds saw nothing"


# --- the data ----------------------------------------------------------------------------------------------------


def _resource(data: RmData, name: str) -> RmResource:
    process = Process(data.world, name)
    return RmResource(data.name, data, process, process.clock, SimRandom(data.world.stream(name)))


def test_b7_data_refuse_a_lower_incarnation() -> None:
    data = RmData(World(1), "rm", RmHabits())
    first, second = _resource(data, "first"), _resource(data, "second")
    data.serve_as(1)
    first.incarnation = 1
    first.check()
    data.serve_as(2)
    second.incarnation = 2
    second.check()
    with pytest.raises(Fenced, match="Incarnation 2 serves rm"):
        first.check()
    with pytest.raises(Fenced):
        data.serve_as(1)
