"""A pass of recovery, as manager/recovery.py makes it, cut where the world can come in between.

The rules are the real ones: `fate_of` with real `Facts`, `judge_missing`, `rests_on_absence`, `evidence_can_go`.
Not for: the steps of a live transaction (world.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from syncpoint.ids import Identifier, Incarnation, Key
from syncpoint.protocol.recovery import Facts, Fate, evidence_can_go, fate_of, rests_on_absence
from syncpoint.protocol.words import Answer
from syncpoint.records import Commit
from syncpoint.simulation.model.manager import NotFound
from syncpoint.simulation.model.names import (
    COORDINATOR,
    Try,
    Unit,
    identifier_of,
    key_of,
    listed_in,
    try_of,
)
from syncpoint.simulation.model.passes import Finish, Pass, Stage
from syncpoint.simulation.model.process import Process
from syncpoint.simulation.model.steps import judge_absent
from syncpoint.simulation.model.world import Kind, World, step

FINISHED = {Fate.COMMIT: True, Fate.ABORT: False}


@step("process {0} scans {rm}", Kind.RECOVERY)
def scan(world: World, index: int, number: int) -> World:
    found = frozenset(world.managers[number].scan())
    return world.put(index, world.processes[index].in_pass(number, Pass(Stage.SCANNED, found)))


@step("process {0} looks who lives and what is recorded, for {rm}")
def look(world: World, index: int, number: int) -> World:
    """Who lives, then the records: after the scan. What is read is acted on, so it is forced first (O59)."""
    world = world.force(world.journal.visible)
    rows, process = world.journal.visible, world.processes[index]
    work = process.passes[number]
    assert work is not None
    ceiling = Try(process.incarnation, process.counter + 1)
    older = [one for one in rows.decisions(process.incarnation) if _is_older(try_of(one), ceiling, process)]
    elsewhere = [try_of(one) for one in rows.elsewhere(process.incarnation)]
    facts = Facts(
        coordinators=frozenset({COORDINATOR}),
        live_incarnations=frozenset(map(Incarnation, rows.living() - set(process.own))),
        live_keys=frozenset(map(key_of, process.live())),
        elsewhere=frozenset(map(key_of, elsewhere)),
        decisions=_listed(older),
        forced={identifier_of(unit): commit for unit, commit in rows.resolved},
    )
    recorded = {try_of(one) for one in rows.decisions(process.incarnation)}
    process = process._replace(acknowledged=frozenset(u for u in process.acknowledged if u.attempt in recorded))
    work = work._replace(
        stage=Stage.FINISHING,
        found=frozenset(),
        steps=tuple(_plan(world, process, number, work.found, facts, older)),
        keeper=process.incarnation,
        decisions=frozenset(older),
        unfinished=frozenset({*process.live(), *map(try_of, older), *elsewhere}),
        ceiling=ceiling,
    )
    return world.put(index, process.in_pass(number, _next(work)))


def _is_older(attempt: Try, ceiling: Try, process: Process) -> bool:
    return attempt < ceiling or attempt.incarnation not in process.own


def _listed(decisions: Iterable[Commit]) -> dict[Key, frozenset[Identifier]]:
    return {one.key: frozenset(map(identifier_of, listed_in(one))) for one in decisions}


def _plan(
    world: World, process: Process, number: int, found: frozenset[Unit], facts: Facts, older: list[Commit]
) -> Iterable[Finish]:
    """What becomes of each branch that was found, and of each decided one that was not."""
    for unit in sorted(found):
        identifier = identifier_of(unit)
        fate, has_ended = fate_of(identifier, facts), False
        kept = world.journal.visible.kept_commit()
        if fate is Fate.ABORT and identifier not in facts.forced and kept is not None:
            fate = fate_of(identifier, replace(facts, decisions=_listed([kept])))
            has_ended = fate is Fate.COMMIT
        if fate in FINISHED:
            yield Finish(unit, FINISHED[fate], has_ended)
    for commit in older:
        for unit in sorted(listed_in(commit)):
            is_here = unit.branch - 1 == number and unit not in found
            if is_here and unit not in process.acknowledged and commit.key not in facts.live_keys:
                yield Finish(unit, commit=True)


def _next(work: Pass) -> Pass:
    return work if work.steps else work._replace(stage=Stage.ENDING)


@step("process {0} finishes the next branch at {rm}")
def act(world: World, index: int, number: int) -> World:
    return _act(world, index, number, is_lost=False)


@step("process {0} finishes the next branch at {rm}, and its reply is lost", Kind.FAULT)
def act_lost(world: World, index: int, number: int) -> World:
    return _act(world, index, number, is_lost=True)


def _act(world: World, index: int, number: int, *, is_lost: bool) -> World:
    process = world.processes[index]
    work = process.passes[number]
    assert work is not None
    todo = work.steps[0]
    manager, said = world.managers[number].finish(
        todo.unit, commit=todo.commit, remembers=world.scope.remembers, asked_by_recovery=True
    )
    world = world.put_manager(number, manager)
    if is_lost:
        return _took(world, index, number, Answer.RETRY)
    if not isinstance(said, NotFound):
        return _took(world, index, number, said)
    if not todo.commit or todo.has_ended:  # what has ended may have been finished since, and cleaned up
        return _took(world, index, number, Answer.ABORTED)
    if rests_on_absence(commit=todo.commit, evidence=said.evidence):
        return world.put(index, process.in_pass(number, work._replace(missing=said.evidence)))
    world, answer = judge_absent(world, todo.unit, said.evidence, commit=todo.commit, keeper=work.keeper)
    return _took(world, index, number, answer)


@step("process {0} asks who keeps it, and judges the missing branch at {rm}")
def judge_missing_branch(world: World, index: int, number: int) -> World:
    work = world.processes[index].passes[number]
    assert work is not None
    assert work.missing is not None
    todo = work.steps[0]
    world, answer = judge_absent(world, todo.unit, work.missing, commit=todo.commit, keeper=work.keeper)
    return _took(world, index, number, answer)


def _took(world: World, index: int, number: int, answer: Answer) -> World:
    process = world.processes[index]
    work = process.passes[number]
    assert work is not None
    todo = work.steps[0]
    if answer is not Answer.RETRY:
        process = process.note_heuristic(todo.unit, answer, commit=todo.commit)
        if todo.commit:
            process = process._replace(acknowledged=process.acknowledged | {todo.unit})
    work = work._replace(steps=work.steps[1:], missing=None)
    return world.put(index, process.in_pass(number, _next(work)))


@step("process {0} ends what is done everywhere, after {rm}")
def end(world: World, index: int, number: int) -> World:
    """A record ends when every branch it lists has acknowledged (O28)."""
    process = world.processes[index]
    work = process.passes[number]
    assert work is not None
    rows = world.journal.visible
    for commit in work.decisions:
        if try_of(commit) not in process.live() and listed_in(commit) <= process.acknowledged:
            rows = rows.end(try_of(commit), process.own)
            process = process._replace(acknowledged=process.acknowledged - listed_in(commit))
    after = Pass(Stage.CLEANING, keeper=work.keeper, unfinished=work.unfinished, ceiling=work.ceiling)
    return world.lazily(rows).put(index, process.in_pass(number, after if world.scope.cleaning else None))


@step("process {0} looks for evidence at {rm} that nobody can ask for")
def look_at_evidence(world: World, index: int, number: int) -> World:
    """What was ended must be so durably; and if this process was taken for dead, its records are another's."""
    world = world.force(world.journal.visible)
    rows, process = world.journal.visible, world.processes[index]
    work = process.passes[number]
    assert work is not None
    if not rows.keeps_itself(work.keeper):
        return world.put(index, process.in_pass(number, None))
    attempts = world.managers[number].attempts()
    others = {attempt.incarnation for attempt in attempts} - set(process.own)
    ended = rows.ended_incarnations(others) - process.at_work()
    unfinished = work.unfinished | {unit.attempt for unit in process.unsettled}
    low = min([work.ceiling, *(one for one in unfinished if one.incarnation == work.keeper)])
    droppable = frozenset(
        attempt
        for attempt in attempts
        if evidence_can_go(
            key_of(attempt).attempt,
            own=Incarnation(work.keeper),
            oldest_unfinished=key_of(low).attempt,
            ended=frozenset(map(Incarnation, ended)),
        )
    )
    after = work._replace(droppable=droppable) if droppable else None
    return world.put(index, process.in_pass(number, after))


@step("process {0} removes that evidence at {rm}")
def drop_evidence(world: World, index: int, number: int) -> World:
    process = world.processes[index]
    work = process.passes[number]
    assert work is not None
    world = world.put_manager(number, world.managers[number].drop_evidence(work.droppable))
    return world.put(index, process.in_pass(number, None))


@step("the pass of process {0} over {rm} stops there", Kind.FAULT)
def stop(world: World, index: int, number: int) -> World:
    return world.put(index, world.processes[index].in_pass(number, None))


@step("process {0} removes Aborts of those that can write no Commit any more", Kind.RECOVERY)
def drop_aborts(world: World, index: int) -> World:
    return world.lazily(world.journal.visible.drop_aborts())


@step("process {0} removes those it has taken over and that have finished", Kind.RECOVERY)
def drop_finished(world: World, index: int) -> World:
    return world.lazily(world.journal.visible.drop_finished(world.processes[index].incarnation))


def next_of(work: Pass) -> str:
    """The step that a pass takes next."""
    match work.stage:
        case Stage.SCANNED:
            return "look"
        case Stage.FINISHING:
            return "act" if work.missing is None else "judge_missing_branch"
        case Stage.ENDING:
            return "end"
        case Stage.CLEANING:
            return "drop_evidence" if work.droppable else "look_at_evidence"
