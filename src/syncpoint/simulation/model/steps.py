"""The steps of a live transaction, of resource managers and of the journal; and the faults.

Not for: a pass of recovery (recovering.py), or which steps can happen next (actions.py).
"""

from __future__ import annotations

from syncpoint.ids import BranchNumber
from syncpoint.protocol.coordinator import Coordinator, Decided, Effects, Standing, State, What
from syncpoint.protocol.participant import ENDED, Input
from syncpoint.protocol.participant import State as Side
from syncpoint.protocol.recovery import (
    Missing,
    Settled,
    judge_abort,
    judge_missing,
    judge_settled,
    rests_on_absence,
)
from syncpoint.protocol.words import Answer, Choice, Evidence
from syncpoint.records import Abort, Commit, End, KeyedRecord, Record, key_fields
from syncpoint.simulation.model.manager import WORKING, Manager, NotFound
from syncpoint.simulation.model.names import (
    COORDINATOR,
    MANAGERS,
    Try,
    Unit,
    Violation,
    guid_of,
    key_of,
    listed_in,
    try_of,
)
from syncpoint.simulation.model.process import FINAL, Process
from syncpoint.simulation.model.world import Append, Kind, Message, World, step

USER_ID = "order-4711"
ON_THE_BRANCH = {  # what the manager's own Participant of a branch is told together with it
    What.PREPARE: Input.PREPARE,
    What.COMMIT: Input.COMMIT,
    What.ABORT: Input.ABORT,
    What.RELEASE: Input.ABORT,
    What.COMMIT_ONE_PHASE: Input.COMMIT_ONE_PHASE,
    What.DECIDE: Input.COMMIT_ONE_PHASE,
}


UNTOLD = frozenset({Standing.WORKING, Standing.PREPARING, Standing.YES, Standing.UNKNOWN, Standing.DECIDING})


# --- the coordinator's side ---------------------------------------------------------------------------------------


@step("process {0} runs the transaction", Kind.FAULT)
def run(world: World, index: int) -> World:
    """Claim the id if there is one, begin an attempt, do the work, and ask to commit."""
    scope, process = world.scope, world.processes[index]
    if scope.has_id:
        rows, is_mine = world.journal.visible.claim(process.incarnation)
        assert is_mine
        world = world.lazily(rows)  # not forced: a claim taken back lets two run, of which one commits
    attempt = Try(process.incarnation, process.counter + 1)
    coordinator = Coordinator(key_of(attempt), COORDINATOR)
    for number in range(scope.managers):
        coordinator.enlist(MANAGERS[number], guid_of(number))
        world = world.put_manager(number, world.managers[number].begin(Unit(*attempt, number + 1)))
    sides = (Side.WORKING,) * scope.managers
    process = process._replace(counter=attempt.counter, coordinator=coordinator, sides=sides)
    decided = Decided(at_ms=0, required=scope.has_id, user_id=USER_ID if scope.has_id else None)
    decider = None if scope.decider is None else BranchNumber(scope.decider)
    writers = [BranchNumber(one) for one in scope.writers]
    return _do(world.put(index, process), index, *process.step(lambda it: it.commit(writers, decided, decider=decider)))


def _do(world: World, index: int, process: Process, effects: Effects) -> World:
    """Put what is forced and sent on its way. Nothing is sent before the verdict on what is forced."""
    if effects.force and effects.then:
        raise Violation("force before send", f"{effects.force} and {effects.then} in one")
    for record in effects.force:
        process = process._replace(forcing=record)
        if effects.through is None:
            assert isinstance(record, KeyedRecord)
            world = world._replace(appends=world.appends | {Append(record)})
        else:
            assert isinstance(record, Commit)
            unit = process.unit(effects.through)
            process = process.side(effects.through, ON_THE_BRANCH[What.DECIDE])
            world = world._replace(messages=world.messages | {Message(unit, What.DECIDE, record)})
    for send in effects.then:
        world, process = _send(world, process, send.branch, send.what)
    for record in effects.lazily:
        assert isinstance(record, End)
        world = world.lazily(world.journal.visible.end(try_of(record), process.own))
    assert process.coordinator is not None
    if process.coordinator.state in FINAL:
        return _conclude(world, index, process)
    return world.put(index, process)


def _send(world: World, process: Process, branch: int, what: What) -> tuple[World, Process]:
    unit = process.unit(branch)
    if process.sides[branch - 1] in ENDED:
        raise Violation("C-I2", f"{unit} has ended by its vote, and is told to {what.name}")
    if what is What.COMMIT and not any(unit in listed_in(one) for one in world.journal.durable.ever):
        raise Violation("C-I1", f"{unit} is told to commit before a Commit record that lists it is durable")
    process = process.side(branch, ON_THE_BRANCH[what])
    again = world.scope.duplicates and what is not What.RELEASE
    return world._replace(messages=world.messages | {Message(unit, what, again=again)}), process


def _conclude(world: World, index: int, process: Process) -> World:
    attempt, coordinator = process.attempt, process.working_on
    _check_conclusion(process, coordinator)
    process = process.conclude(frozenset().union(*(manager.alone for manager in world.managers)))
    recorded = coordinator.state is State.COMMITTED and coordinator.lone_writer is None
    rows = world.journal.visible
    if recorded and not coordinator.pending and coordinator.heuristic is not None:
        rows = rows.end(attempt, process.own)
    if attempt not in process.deciding:
        rows = rows.release(attempt.incarnation)
    return world.lazily(rows).put(index, process)


def _check_conclusion(process: Process, coordinator: Coordinator) -> None:
    """All that may be prepared has been told the outcome (A9); a vote of its own against it counts."""
    if coordinator.state not in FINAL:
        return
    for view in coordinator.branches.values():
        if view.standing in UNTOLD:
            raise Violation("A9", f"{process.unit(view.number)} is {view.standing.name}, and was told nothing")
    if process.withdrawn and coordinator.state is State.COMMITTED:
        raise Violation("withdrawn", f"{process.attempt} is committed, though its coordinator voted no")


@step("the reply of {1} arrives at process {0}")
def reply(world: World, index: int, unit: Unit) -> World:
    process = world.processes[index]
    branch = unit.branch
    ((_, said),) = (one for one in process.replies if one[0] == branch)
    process = process.without_reply(branch)
    if isinstance(said, Choice):
        process = process.answer_side(branch, said)
        return _do(world, index, *process.step(lambda it: it.voted(BranchNumber(branch), said)))
    if isinstance(said, NotFound):
        commit = process.working_on.branches[BranchNumber(branch)].told is What.COMMIT
        world, answer = judge_absent(world, unit, said.evidence, commit=commit, keeper=unit.incarnation)
    else:
        answer = said
    process = process.answer_side(branch, answer)
    return _do(world, index, *process.step(lambda it: it.answered(BranchNumber(branch), answer)))


def judge_absent(world: World, unit: Unit, evidence: Evidence, *, commit: bool, keeper: int) -> tuple[World, Answer]:
    """A branch that was not there to be ended: what it means, and the redo (`ResourceHandle._missing`)."""
    number = unit.branch - 1
    has_redo = world.scope.has_redo and any(unit in listed_in(one) for one in world.journal.visible.ever)
    confirmed = True
    if rests_on_absence(commit=commit, evidence=evidence):
        confirmed = world.journal.visible.keeps_itself(keeper)
    judged = judge_missing(commit=commit, evidence=evidence, has_redo=has_redo, confirmed=confirmed)
    if judged is Missing.TAKEN_OVER:
        return world, Answer.RETRY
    if judged is Missing.REDO:
        manager, answer = world.managers[number].redo(unit)
        return world.put_manager(number, manager), answer
    assert isinstance(judged, Answer)
    return world, judged


@step("process {0} loses its connection for {1}", Kind.FAULT)
def give_up(world: World, index: int, unit: Unit) -> World:
    """The reply is lost; the message may still arrive (O16, O18, O42)."""
    process, number = world.processes[index].without_reply(unit.branch), BranchNumber(unit.branch)
    if process.standing(unit.branch) is Standing.PREPARING:
        process = process._replace(unknown=process.unknown | {unit.branch})
        return _do(world, index, *process.step(lambda it: it.vote_lost(number, "connection lost")))
    told = process.working_on.branches[number].told
    at_work = told is What.RELEASE or (told is What.ABORT and process.working_on.decider == number)
    answer = Answer.ABORTED if at_work else Answer.RETRY  # without a vote, closing rolls back
    process = process.answer_side(unit.branch, answer)
    return _do(world, index, *process.step(lambda it: it.answered(number, answer)))


@step("process {0} runs out of time", Kind.FAULT)
def run_out_of_time(world: World, index: int) -> World:
    process = world.processes[index]._replace(withdrawn=True)

    def withdraw(it: Coordinator) -> Effects:
        it.withdraw("out of time")
        return Effects()

    return _do(world, index, *process.step(withdraw))


@step("process {0} settles {1} by its evidence")
def settle(world: World, index: int, unit: Unit) -> World:
    """A lost one-phase commit, while its caller still waits (O20)."""
    world, answer = _settle(world, unit)
    process = world.processes[index]
    process = process.answer_side(unit.branch, answer)
    return _do(world, index, *process.step(lambda it: it.settled(answer)))


def _settle(world: World, unit: Unit) -> tuple[World, Answer]:
    manager, evidence = world.managers[unit.branch - 1].settle(unit)
    confirmed = world.journal.visible.keeps_itself(unit.incarnation)
    return world.put_manager(unit.branch - 1, manager), judge_settled(evidence, confirmed=confirmed)


@step("process {0} leaves its transaction to recovery", Kind.FAULT)
def stop_waiting(world: World, index: int) -> World:
    """The caller waits no longer for a decision, or for a lost one-phase commit."""
    process = world.processes[index]
    if process.working_on.state is State.DECIDING:
        process = process._replace(deciding=process.deciding | {process.attempt})
    return _conclude(world, index, process)


@step("process {0} settles what it left: {1}")
def settle_left(world: World, index: int, unit: Unit) -> World:
    """Recovery's: a lost one-phase commit of this process (`recovery._settle_one_phase`)."""
    world, answer = _settle(world, unit)
    process = world.processes[index]
    if answer is not Answer.RETRY:
        process = process._replace(unsettled=process.unsettled - {unit}).note_heuristic(unit, answer, commit=True)
    return world.put(index, process)


@step("process {0} writes Abort {1} to learn its decision")
def decide_left(world: World, index: int, attempt: Try) -> World:
    """Recovery's: a decision that was left unknown (`deciding.settle_left`)."""
    rows, accepted = world.journal.visible.append(abort_of(attempt))
    process = world.processes[index]
    process = process._replace(deciding=process.deciding - {attempt})
    settled = judge_abort(accepted=accepted, confirmed=rows.keeps_itself(attempt.incarnation))
    if settled is Settled.COMMITTED and not any(try_of(one) == attempt for one in rows.ever):
        raise Violation("judge_abort", f"{attempt} is taken for committed, and never was")
    return world.force(rows).put(index, process)


def abort_of(attempt: Try) -> Abort:
    return Abort(**key_fields(key_of(attempt)), why="the reply to the Commit record was lost")


# --- at a resource manager ------------------------------------------------------------------------------------------


@step("{0} arrives at {rm}")
def arrive(world: World, message: Message) -> World:
    return _arrive(world, message, Choice.YES)


@step("{0} arrives at {rm}, which votes {1}")
def vote(world: World, message: Message, choice: Choice) -> World:
    return _arrive(world, message, choice)


def _arrive(world: World, message: Message, choice: Choice) -> World:
    messages = world.messages - {message}
    if message.again:
        messages |= {message._replace(again=False)}
    world = world._replace(messages=messages)
    unit, what = message.unit, message.what
    if what is What.DECIDE:
        assert message.record is not None
        return _decide(world, unit, message.record)
    manager, said = _received(world, unit, what, choice)
    world = world.put_manager(unit.branch - 1, manager)
    index = world.runner_of(unit.attempt)
    if index is None or not world.processes[index].waits_for(unit.branch, what):
        return world
    process = world.processes[index]
    return world.put(index, process._replace(replies=process.replies | {(unit.branch, said)}))


def _received(world: World, unit: Unit, what: What, choice: Choice) -> tuple[Manager, Choice | Answer | NotFound]:
    manager, remembers = world.managers[unit.branch - 1], world.scope.remembers
    if what is What.PREPARE:
        return manager.prepare(unit, choice)
    if what is What.COMMIT_ONE_PHASE:
        return manager.commit_one_phase(unit)
    if what is What.COMMIT:
        return manager.finish(unit, commit=True, remembers=remembers)
    is_overtaken = any(one.unit == unit and one.what is What.PREPARE for one in world.messages)
    if manager.state(unit) is WORKING and (remembers or not is_overtaken):
        return manager.roll_back(unit), Answer.ABORTED
    if what is What.RELEASE:
        return manager, Answer.ABORTED
    return manager.finish(unit, commit=False, remembers=remembers)


def _decide(world: World, unit: Unit, record: Commit) -> World:
    """The decision arrives at the database that the journal lives in: the record and the unit's commit are one."""
    manager = world.managers[unit.branch - 1]
    accepted = False
    if manager.state(unit) is WORKING:
        rows, accepted = world.journal.visible.append(record)
        world = world.force(rows) if accepted else world
        world = world.put_manager(unit.branch - 1, manager.decide(unit, commit=accepted))
    return _verdict_on(world, record, accepted)


@step("{rm} rolls back {0}, whose session is gone")
def hang_up(world: World, unit: Unit) -> World:
    return world.put_manager(unit.branch - 1, world.managers[unit.branch - 1].roll_back(unit))


# --- the journal ----------------------------------------------------------------------------------------------------


@step("{0} arrives at the journal")
def land(world: World, append: Append) -> World:
    """First writer wins. In a folder it is readable now, and durable later."""
    world = world._replace(appends=world.appends - {append})
    rows, accepted = world.journal.visible.append(append.record)
    if world.scope.own_disk and accepted:
        written = world.appends | {append._replace(written=True)}
        return world.lazily(rows)._replace(appends=written)
    return _verdict_on(world.force(rows) if accepted else world, append.record, accepted)


@step("{0} is forced")
def forced(world: World, append: Append) -> World:
    world = world._replace(appends=world.appends - {append})
    return _verdict_on(world.force(world.journal.visible), append.record, True)


def _verdict_on(world: World, record: Record, accepted: bool) -> World:
    for index, process in enumerate(world.processes):
        if process.forcing == record:
            return world.put(index, process._replace(verdict=accepted))
    return world


@step("the journal's verdict arrives at process {0}")
def judge(world: World, index: int) -> World:
    process = world.processes[index]
    record, accepted = process.forcing, process.verdict
    assert record is not None
    assert accepted is not None
    process = process._replace(forcing=None, verdict=None)
    if isinstance(record, Abort):
        return _settled(world, index, process, accepted)
    return _told(world, index, process, committed=accepted)


def _told(world: World, index: int, process: Process, *, committed: bool) -> World:
    decider = process.working_on.decider
    if decider is not None and process.sides[decider - 1] is Side.ENDING:
        process = process.side(decider, Input.COMMIT_DONE if committed else Input.ABORT_DONE)
    if committed:
        return _do(world, index, *process.step(lambda it: it.accepted()))
    return _do(world, index, *process.step(lambda it: it.refused("another record was there first")))


def _settled(world: World, index: int, process: Process, accepted: bool) -> World:
    """What the Abort proves that was written because a verdict was lost (`commit._settle`)."""
    confirmed = world.journal.visible.keeps_itself(process.attempt.incarnation)
    settled = judge_abort(accepted=accepted, confirmed=confirmed)
    if settled is Settled.TAKEN_OVER:
        return _conclude(world, index, process)
    return _told(world, index, process, committed=settled is Settled.COMMITTED)


@step("process {0} loses the journal's verdict", Kind.FAULT)
def lose_verdict(world: World, index: int) -> World:
    """The record may have landed, or land later (O46)."""
    process = world.processes[index]._replace(verdict=None)
    return _do(world, index, *process.step(lambda it: it.force_lost()))


# --- faults -----------------------------------------------------------------------------------------------------------


@step("process {0} is killed", Kind.FAULT)
def crash(world: World, index: int) -> World:
    process = world.processes[index]
    world = world.put(index, process.die())
    if world.scope.own_disk:  # what it had not written it never will
        mine = {one for one in world.appends if try_of(one.record).incarnation in process.own}
        world = world._replace(appends=world.appends - mine)
    return world


@step("process {0} starts", Kind.FAULT)
def start(world: World, index: int) -> World:
    rows, drawn = world.journal.visible.draw()
    process = world.processes[index]._replace(incarnation=drawn, own=(drawn,), counter=0)
    return world.force(rows).put(index, process)


@step("process {0} learns that it was taken for dead", Kind.RECOVERY)
def begin_anew(world: World, index: int) -> World:
    rows, drawn = world.journal.visible.draw()
    process = world.processes[index]
    process = process._replace(incarnation=drawn, own=(*process.own, drawn), counter=0)
    return world.force(rows).put(index, process)


@step("process {0} takes over for incarnation {1}", Kind.RECOVERY)
def take_over(world: World, index: int, one: int) -> World:
    return world.force(world.journal.visible.keep(one, world.processes[index].incarnation))


@step("all that was on its way is lost", Kind.FAULT)
def lose_all(world: World) -> World:
    return world._replace(messages=frozenset(), appends=frozenset())


@step("{rm} restarts", Kind.FAULT)
def restart(world: World, number: int) -> World:
    return world.put_manager(number, world.managers[number].restart())


@step("a replica that has nothing prepared takes the place of {rm}", Kind.FAULT)
def replace(world: World, number: int) -> World:
    return world.put_manager(number, world.managers[number].replace_by_replica())


@step("somebody at {rm} commits {0} without asking", Kind.FAULT)
def commit_alone(world: World, unit: Unit) -> World:
    return world.put_manager(unit.branch - 1, world.managers[unit.branch - 1].decide_alone(unit, commit=True))


@step("somebody at {rm} rolls {0} back without asking", Kind.FAULT)
def abort_alone(world: World, unit: Unit) -> World:
    return world.put_manager(unit.branch - 1, world.managers[unit.branch - 1].decide_alone(unit, commit=False))


@step("an operator resolves {0} at {rm}: {1}", Kind.FAULT)
def resolve(world: World, unit: Unit, outcome: str) -> World:
    rows = world.journal.visible
    return world.force(rows._replace(resolved=rows.resolved | {(unit, outcome == "commit")}))


@step("the journal's disk catches up")
def write_back(world: World) -> World:
    return world.force(world.journal.visible)


@step("the journal's database dies and comes back", Kind.FAULT)
def crash_journal(world: World) -> World:
    return world._replace(journal=world.journal.crash())


@step("the machine of the processes loses power", Kind.FAULT)
def power_cut(world: World) -> World:
    for index in range(len(world.processes)):
        world = crash(world, index)
    return world._replace(journal=world.journal.crash())
