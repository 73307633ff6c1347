"""What the real code does under faults is what the specification allows; and what is made wrong is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from syncpoint.simulation.mutants import MUTANTS
from tests.spec.corruption import RULES, corrupted
from tests.spec.histories import Action, Trace
from tests.spec.simulated import record_seed
from tests.spec.tlc import validate

TRACES_MIN = 1000
CORRUPTED_MIN = 100


def record(at_least: int, first_seed: int = 1) -> list[Trace]:
    """Traces of as many seeds as it takes."""
    traces: list[Trace] = []
    seed = first_seed
    while len(traces) < at_least:
        traces += record_seed(seed)
        seed += 1
    return traces


def kinds(traces: Sequence[Trace]) -> Counter[str]:
    return Counter(action.e for trace in traces for action in trace.actions)


def test_recorded_traces_are_accepted() -> None:
    """Every transaction of some seeds: processes that die, power cuts, lost messages, recovery by others."""
    traces = record(TRACES_MIN)
    verdicts = validate(traces)
    assert not verdicts.rejected, "\n".join(f"at event {event}:\n{trace}" for trace, event in verdicts.rejected)
    assert len(verdicts.accepted) >= TRACES_MIN
    seen = kinds(traces)
    assert {"die", "abort", "missing", "evidence", "finish abort", "end", "clean"} <= seen.keys(), seen


def test_corrupted_traces_are_rejected() -> None:
    """Each is wrong by a rule that says what it breaks; the specification notices every one."""
    broken = list(corrupted(record(400, first_seed=11), each=5))
    verdicts = validate([trace for _, trace in broken])
    assert not verdicts.accepted, "\n".join(map(str, verdicts.accepted))
    assert len(verdicts.rejected) >= CORRUPTED_MIN
    assert len({name for name, _ in broken}) >= len(RULES) - 5, "hardly any rule found a trace to break"


@pytest.mark.parametrize("mutant", ["recover what living processes work on", "end without acknowledgement"])
def test_traces_of_a_mutant_are_rejected(mutant: str) -> None:
    """What is recorded is enough to see a bug of the real code, though nothing came of it in this seed."""
    with MUTANTS[mutant].patch():
        traces = record_seed(1)
    assert validate(traces).rejected


def test_it_is_told_where_a_trace_goes_wrong() -> None:
    start, begin = Action("start", p=1), Action("begin", a=(1, 1), names=("a", "b"))
    votes = [Action(what, a=(1, 1), r=name, s="yes") for name in "ab" for what in ("voted", "vote")]
    decide = Action("decide", a=(1, 1), names=("a", "b"))
    good = Trace("good", (start, begin, *votes, decide, Action("accepted", a=(1, 1))))
    bad = Trace("bad", (start, begin, *votes[:-1], decide, Action("accepted", a=(1, 1))))
    verdicts = validate([good, bad])
    assert verdicts.accepted == (good,)
    assert verdicts.rejected == ((bad, 6),)
