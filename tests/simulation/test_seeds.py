"""Seeds of the simulator: nothing that must hold is broken, and the same seed is the same world."""

from __future__ import annotations

from collections import Counter

import pytest

from syncpoint.simulation.faults import KINDS, OF_A_FOLDER
from syncpoint.simulation.faults_site import OF_A_SITE, OF_WIRES
from syncpoint.simulation.run import FAULTS_S, JOURNALS, Options, run_seed
from syncpoint.simulation.sweep import Summary, all_marks, replay, run_seeds
from syncpoint.simulation.workloads import WORKLOADS

SEEDS = range(1, 31)


@pytest.fixture(scope="module")
def summary() -> Summary:
    summary = Summary()
    for outcome in run_seeds(SEEDS):
        summary.add(outcome)
    return summary


def test_nothing_is_broken(summary: Summary) -> None:
    told = [f"{outcome.violations[0]}\n  {replay(outcome, Options())}" for outcome in summary.failed]
    assert told == []


def test_the_seeds_are_worth_their_time(summary: Summary) -> None:
    assert summary.virtual_s_min >= 60
    assert summary.counts["transactions ok"] / summary.seeds >= 200
    assert summary.faults / summary.seeds >= 5
    missed = set(summary.kinds_missed) - OF_WIRES - OF_A_SITE
    assert len(missed) <= 3, "a few seeds have nearly all of them; 1,000 all"
    assert set(summary.by_workload) == set(WORKLOADS)
    assert set(summary.by_journal) == {*JOURNALS, "node"}


def test_every_mark_that_was_reached_stands_in_the_source(summary: Summary) -> None:
    marks = all_marks()
    assert len(marks) == len(set(marks)) > 20
    assert set(summary.marks) <= set(marks)
    assert len(set(marks) - set(summary.marks)) <= 12, "a few seeds reach most of them; 1,000 all"


def test_the_same_seed_is_the_same_world() -> None:
    once, again, other = run_seed(7), run_seed(7), run_seed(8)
    assert once.digest == again.digest
    assert once.counts == again.counts
    assert other.digest != once.digest


def test_a_seed_in_a_worker_is_the_same_on_every_run() -> None:
    first = {outcome.seed: outcome.digest for outcome in run_seeds(range(1, 5))}
    second = {outcome.seed: outcome.digest for outcome in run_seeds(range(1, 5))}
    assert first == second


def test_a_part_of_a_plan_can_be_replayed() -> None:
    whole = run_seed(3)
    assert len(whole.plan) > 2
    part = run_seed(3, Options(only=(1, 2)))
    assert [fault.number for fault in part.plan] == [1, 2]
    assert part.plan == whole.plan[1:3]
    assert run_seed(3, Options(only=())).plan == ()


def test_without_faults_transactions_have_an_answer() -> None:
    """But for one now and then whose journal is slower than its time is long."""
    known: Counter[str] = Counter()
    for seed in (1, 2, 3, 4):
        outcome = run_seed(seed, Options(only=()))
        assert outcome.violations == ()
        known.update(outcome.counts)
    assert known["transactions ok"] > 200
    assert known["transactions unknown"] <= 2


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_of_fault_alone_breaks_nothing(kind: str) -> None:
    journal = "folder" if kind in OF_A_FOLDER else "database"
    options = Options(kinds=(kind,), journal=journal)
    if kind in OF_WIRES:
        options = Options(kinds=(kind,), workload="tree")
    if kind in OF_A_SITE:
        options = Options(kinds=(kind,), workload="takeover")
    outcome = run_seed(len(kind), options)
    assert outcome.violations == ()
    assert outcome.counts[f"fault {kind}"] > 0
    assert outcome.virtual_s >= FAULTS_S
