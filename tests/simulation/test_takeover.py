"""Takeover under the simulator: the reduced form of `syncpoint simulate --workload takeover`, and its mutants.

Not for: one takeover at a time, and a death at each of its moments (tests/node/).
"""

from __future__ import annotations

from collections import Counter

import pytest

from syncpoint.errors import Fenced
from syncpoint.ids import Guid
from syncpoint.messages import Message
from syncpoint.protocol.backup import Backup, State
from syncpoint.resources.node_messages import Enrol, Enrolled
from syncpoint.resources.process_driver import ProcessDriver
from syncpoint.resources.process_host import ProcessHost
from syncpoint.simulation.catching import try_mutant
from syncpoint.simulation.mutants_takeover import MUTANTS
from syncpoint.simulation.process import Process
from syncpoint.simulation.rm_data import RmData, RmHabits, RmResource
from syncpoint.simulation.run import Options, Outcome, run_seed
from syncpoint.simulation.runtime import SimRuntime
from syncpoint.simulation.sweep import run_seeds
from syncpoint.simulation.world import SimRandom, World
from syncpoint.steps import Done, Failed, Script

SEEDS = range(101, 109)
TAKEOVER = Options(workload="takeover")
MARKS = {
    "a fenced resource manager spoke",
    "a manager did not tell its votes, and was fenced",
    "a manager told a backup what it had not decided",
    "a resource manager was lost because it was silent",
}
QUICK: tuple[str, ...] = (
    "takeover: serve before redoing",
    "takeover: forget state information",
    "takeover: redo backwards",
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


# --- what it has found -----------------------------------------------------------------------------------------------


def test_a_standby_that_was_told_while_it_enrols_as_one_takes_over() -> None:
    """It enrolled as a standby again, after its connection was lost; before that was answered it was told to take
    over. Then waiting must not come between (Illegal: GRANTED in STANDBY)."""
    world = World(1)
    data = RmData(world, "rm", RmHabits())
    process = Process(world, "machine/rm#1")
    resource = _resource(data, "rm")
    runtime = SimRuntime(process, lambda: 0.001)
    asked: list[Message] = []

    def ask(question: Message, seconds: float) -> Script[Message]:
        asked.append(question)
        assert isinstance(question, Enrol)
        return Enrolled(incarnation=0 if question.standby else 7)
        yield from ()

    driver = ProcessDriver(
        ProcessHost(resource, runtime, process.clock),
        ask=ask,
        runtime=runtime,
        clock=process.clock,
        random=SimRandom(world.stream("driver")),
        standby=True,
    )
    backup = driver.backup = Backup(Guid(bytes(16)))
    driver._effects.extend((*backup.start(standby=True),))
    backup.waits()
    driver._effects.extend(backup.activated())
    outcomes: list[Done[object] | Failed] = []

    def go_on() -> Script[object]:
        while driver._effects:
            yield from driver._do(backup, driver._effects.popleft())
        return backup.state

    runtime.begin(go_on(), "the effects", outcomes.append)
    world.run(5.0)
    assert outcomes == [Done(State.FENCING)]
    assert [one.standby for one in asked if isinstance(one, Enrol)] == [False]
    world.end()
