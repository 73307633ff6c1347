"""Everything that can happen next in a world, within the bounds of its scope.

Each action is the name of a step and its arguments, in an order that is the same on every run.
Not for: what the steps do (world.py, recovering.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from syncpoint.ids import BranchNumber
from syncpoint.protocol.coordinator import Standing, State, What
from syncpoint.records import Abort
from syncpoint.simulation.model import recovering
from syncpoint.simulation.model.journal import GONE, is_forsaken
from syncpoint.simulation.model.manager import IN_DOUBT, WORKING
from syncpoint.simulation.model.names import Unit, try_of
from syncpoint.simulation.model.process import Process
from syncpoint.simulation.model.world import STEPS, Append, Message, World

Action: TypeAlias = tuple[str, tuple[Any, ...]]

SESSION_GONE = frozenset({Standing.UNKNOWN, Standing.PENDING, Standing.ENDED})


def apply(world: World, action: Action) -> World:
    name, arguments = action
    after: World = STEPS[name](world, *arguments)
    return after


def actions(world: World) -> list[Action]:
    """Everything that can happen next."""
    return list(one_by_one(world))


def one_by_one(world: World) -> Iterator[Action]:
    """The same, for who needs only the first."""
    yield from _on_the_way(world)
    yield from _at_managers(world)
    yield from _at_journal(world)
    for index, process in enumerate(world.processes):
        if process.is_alive:
            yield from _at_process(world, index, process)
            yield from _recovery(world, index, process)
        elif len(world.journal.visible.keepers) < world.scope.incarnations_max:
            yield "start", (index,)


def _order_of_message(message: Message) -> tuple[Unit, int, bool]:
    return message.unit, message.what.value, message.again


def _order_of_append(append: Append) -> tuple[Any, ...]:
    return try_of(append.record), type(append.record).__name__, append.written


def _on_the_way(world: World) -> Iterator[Action]:
    for message in sorted(world.messages, key=_order_of_message):
        if message.what is What.PREPARE:
            yield from (("vote", (message, choice)) for choice in world.scope.votes)
        else:
            yield "arrive", (message,)
    for append in sorted(world.appends, key=_order_of_append):
        yield "forced" if append.written else "land", (append,)


def _at_managers(world: World) -> Iterator[Action]:
    scope = world.scope
    may_decide_alone = scope.alone and not any(manager.alone for manager in world.managers)
    may_resolve = scope.operator and not world.journal.visible.resolved
    for number, manager in enumerate(world.managers):
        at_work, doubtful = manager.all_in(WORKING), manager.all_in(IN_DOUBT)
        for unit in at_work:
            if is_left(world, unit):
                yield "hang_up", (unit,)
        if (at_work or doubtful) and scope.restarts:
            yield "restart", (number,)
        if scope.replica and doubtful and not any(one.lost for one in world.managers):
            yield "replace", (number,)
        for unit in doubtful:
            if may_decide_alone:
                yield "commit_alone", (unit,)
                yield "abort_alone", (unit,)
            if may_resolve:
                yield "resolve", (unit, "commit")
                yield "resolve", (unit, "abort")


def is_left(world: World, unit: Unit) -> bool:
    """Whether the session of a unit at work is gone, so that its database rolls it back."""
    index = world.runner_of(unit.attempt)
    if index is None:
        return True
    process = world.processes[index]
    standing = process.standing(unit.branch)
    is_given_up = standing is Standing.DECIDING and isinstance(process.forcing, Abort)
    return is_given_up or standing in SESSION_GONE


def _at_journal(world: World) -> Iterator[Action]:
    if not world.scope.journal_crashes or world.journal.visible == world.journal.durable:
        return
    yield "write_back", ()
    yield "power_cut" if world.scope.own_disk else "crash_journal", ()


def _at_process(world: World, index: int, process: Process) -> Iterator[Action]:
    scope = world.scope
    if scope.crashes:
        yield "crash", (index,)
    if process.coordinator is None:
        if may_run(world, index, process):
            yield "run", (index,)
        return
    for branch, _ in sorted(process.replies, key=_branch_of):
        yield "reply", (index, process.unit(branch))
    if scope.connections_lost:
        yield from (("give_up", (index, process.unit(branch))) for branch in process.waiting())
    if process.verdict is not None:
        yield "judge", (index,)
    state = process.coordinator.state
    if process.forcing is not None and not scope.own_disk and scope.replies_of_journal_lost:
        yield "lose_verdict", (index,)
    if scope.out_of_time and state is State.PREPARING and not process.coordinator.why:
        yield "run_out_of_time", (index,)
    if state is State.UNSETTLED:
        yield "settle", (index, process.unit(_lone(process)))
    is_unsettled = state is State.UNSETTLED or isinstance(process.forcing, Abort)
    if scope.caller_gives_up and is_unsettled:
        yield "stop_waiting", (index,)


def _branch_of(reply: tuple[int, object]) -> int:
    return reply[0]


def _lone(process: Process) -> BranchNumber:
    lone = process.working_on.lone_writer
    assert lone is not None
    return lone


def may_run(world: World, index: int, process: Process) -> bool:
    """Whether this process may begin another attempt."""
    scope = world.scope
    if scope.attempts_max == 1 or index >= scope.runners or process.deciding:
        return False
    if not world.journal.visible.claim(process.incarnation)[1]:
        return False
    return len({unit.attempt for unit, _ in world.managers[0].units}) < scope.attempts_max


def _recovery(world: World, index: int, process: Process) -> Iterator[Action]:
    scope, rows = world.scope, world.journal.visible
    for attempt in sorted(process.deciding):
        yield "decide_left", (index, attempt)
    for unit in sorted(process.unsettled):
        yield "settle_left", (index, unit)
    if not rows.keeps_itself(process.incarnation) and len(rows.keepers) < scope.incarnations_max:
        yield "begin_anew", (index,)
    if scope.cleaning:
        yield from _cleaning(world, index, process)
    if scope.recoverers and index not in scope.recoverers and not any(process.passes):
        return
    others = [one for one, keeper in enumerate(rows.keepers, 1) if keeper not in (process.incarnation, GONE)]
    silent = silent_to(world, index) if others else frozenset()
    for one in others:
        if is_forsaken(rows, process.incarnation, one, silent):
            yield "take_over", (index, one)
    at_once = sum(work is not None for one in world.processes for work in one.passes)
    for number, work in enumerate(process.passes):
        if work is None:
            if at_once < scope.passes_max and is_worth_a_pass(world, index, number):
                yield "scan", (index, number)
            continue
        name = recovering.next_of(work)
        yield name, (index, number)
        if name == "act":
            yield "act_lost", (index, number)
        yield "stop", (index, number)


def silent_to(world: World, index: int) -> frozenset[int]:
    """Incarnations that nobody hears of: the dead; and the living, where a wrong guess is possible."""
    everybody = range(1, len(world.journal.visible.keepers) + 1)
    current = {process.incarnation for process in world.processes}
    if world.scope.wrong_guess:
        spared = {
            process.incarnation
            for number, process in enumerate(world.processes)
            if world.scope.suspects and number not in world.scope.suspects
        }
        return frozenset(everybody) - set(world.processes[index].own) - spared
    return frozenset(everybody) - current


def is_worth_a_pass(world: World, index: int, number: int) -> bool:
    """Whether a pass would find anything here. One that finds nothing changes nothing, but for what it has read."""
    manager, rows = world.managers[number], world.journal.visible
    if manager.all_in(IN_DOUBT) or rows.decisions(world.processes[index].incarnation):
        return True
    return world.scope.cleaning and bool(manager.evidence)


def _cleaning(world: World, index: int, process: Process) -> Iterator[Action]:
    rows = world.journal.visible
    if min(rows.living(), default=0) == process.incarnation and rows.drop_aborts() != rows:
        yield "drop_aborts", (index,)
    if rows.drop_finished(process.incarnation) != rows:
        yield "drop_finished", (index,)
