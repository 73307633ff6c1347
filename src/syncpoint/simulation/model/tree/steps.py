"""The steps of a tree's transaction, and the faults, as `manager/commit.py`, `joining.py` and `promises.py` have them.

Not for: recovery (recovering.py).
"""

from __future__ import annotations

from collections.abc import Callable

from syncpoint.ids import BranchNumber
from syncpoint.protocol.coordinator import Coordinator, Decided, Effects, Standing, State, What
from syncpoint.protocol.judgement import Result
from syncpoint.protocol.recovery import judge_missing
from syncpoint.protocol.subordinate import Heard, Subordinate, judge_unknown
from syncpoint.protocol.words import Answer, Choice, Decision
from syncpoint.records import Abort, Commit, KeyedRecord, Prepared, key_fields
from syncpoint.simulation.model.manager import WORKING, Manager, NotFound
from syncpoint.simulation.model.names import Violation, guid_of
from syncpoint.simulation.model.tree.scope import TreeScope
from syncpoint.simulation.model.tree.world import (
    BELOW,
    DATABASES,
    GUIDS,
    KEYS,
    PROMISED_AS,
    SUBORDINATE,
    SUPERIOR,
    UNIT,
    Node,
    TreeWorld,
    clone,
    lists,
)
from syncpoint.simulation.model.world import Kind, step

FINAL = (State.COMMITTED, State.ABORTED)
_ANSWERS = {
    Result.COMMITTED: Answer.COMMITTED,
    Result.PENDING: Answer.COMMITTED,
    Result.ABORTED: Answer.ABORTED,
    Result.HEURISTIC_MIXED: Answer.HEURISTIC_MIXED,
    Result.HEURISTIC_HAZARD: Answer.HEURISTIC_HAZARD,
}


def beginning(scope: TreeScope) -> TreeWorld:
    """The work is done everywhere, and the superior is asked to commit."""
    superior = Coordinator(KEYS[SUPERIOR], GUIDS[SUPERIOR])
    superior.enlist(DATABASES[0], guid_of(0))
    superior.enlist("below", GUIDS[SUBORDINATE])
    part = Subordinate(KEYS[SUBORDINATE], GUIDS[SUBORDINATE], PROMISED_AS)
    for number in range(1, scope.branches + 1):
        part.enlist(DATABASES[number], guid_of(number))
    managers = tuple(Manager().begin(UNIT) for _ in range(1 + scope.branches))
    world = TreeWorld(scope, (Node(coordinator=superior), Node(coordinator=part)), managers)
    return take(world, SUPERIOR, lambda it: it.commit([BranchNumber(1), BELOW], Decided(at_ms=0)))


# --- inputs and effects ---------------------------------------------------------------------------------------------


def take(world: TreeWorld, index: int, give: Callable[[Coordinator], Effects]) -> TreeWorld:
    """One input of a copy of the coordinator, and what it leads to."""
    coordinator = clone(world.nodes[index].live())
    return _do(world.put(index, world.nodes[index]._replace(coordinator=coordinator)), index, give(coordinator))


def _do(world: TreeWorld, index: int, effects: Effects) -> TreeWorld:
    node = world.nodes[index]
    if effects.force and effects.then:
        raise Violation("force before send", f"{effects.force} and {effects.then} in one")
    for record in effects.force:
        assert isinstance(record, KeyedRecord)
        node = node._replace(forcing=record)
    for record in effects.lazily:
        assert isinstance(record, KeyedRecord)
        node = write_lazily(node, record)
    world = world.put(index, node)
    for send in effects.then:
        world = _send(world, index, send.branch, send.what)
    return settle_up(world, index)


def write_lazily(node: Node, record: KeyedRecord) -> Node:
    book, accepted = node.book.add(record)
    return node._replace(book=book, unforced=node.unforced | {record}) if accepted else node


def _send(world: TreeWorld, index: int, branch: int, what: What) -> TreeWorld:
    if what is What.COMMIT and not _may_commit(world.nodes[index], index, branch):
        raise Violation("C-I1", f"branch {branch} of node {index} is told to commit before its record is durable")
    if index == SUBORDINATE or branch != BELOW:
        return world._replace(calls=world.calls | {(index, branch, what)})
    return world.send("prepare") if what is What.PREPARE else world.send("tell", what is What.COMMIT)


def _may_commit(node: Node, index: int, branch: int) -> bool:
    return node.ever is not None and lists(node.ever, index, branch)


def settle_up(world: TreeWorld, index: int) -> TreeWorld:
    """What is due once there are no more effects: a vote, an answer, what the caller is told."""
    node = world.nodes[index]
    if node.coordinator is None or node.forcing is not None:
        return world
    coordinator = node.coordinator
    is_over = coordinator.state in FINAL
    if index == SUBORDINATE:
        assert isinstance(coordinator, Subordinate)
        if node.asked and (is_over or coordinator.vote is Choice.YES):
            assert coordinator.vote is not None
            world = say_vote(world, coordinator.vote)
        if is_over and node.obeys is not None:
            answer = _ANSWERS[coordinator.result]
            if node.obeys and answer is Answer.ABORTED:
                answer = Answer.HEURISTIC_ROLLBACK
            world = say_told(world, node.obeys, answer)
    return _conclude(world, index, coordinator) if is_over else world


def say_vote(world: TreeWorld, choice: Choice) -> TreeWorld:
    node = world.nodes[SUBORDINATE]
    durable = node.book.records - node.unforced
    if choice is Choice.YES and not any(isinstance(one, Prepared) for one in durable):
        raise Violation("S-I1", "the subordinate votes yes, and its Prepared record is not forced")
    return world.send("voted", choice).put(SUBORDINATE, node._replace(asked=False))


def say_told(world: TreeWorld, commit: bool, answer: Answer) -> TreeWorld:
    node = world.nodes[SUBORDINATE]
    if answer is Answer.COMMITTED and node.ever is None:
        raise Violation("S-I3", "the superior is answered before the subordinate's Commit record is forced")
    return world.send("told", commit, answer).put(SUBORDINATE, node._replace(obeys=None))


def _conclude(world: TreeWorld, index: int, coordinator: Coordinator) -> TreeWorld:
    node = world.nodes[index]
    acknowledged = frozenset(
        view.number
        for view in coordinator.branches.values()
        if view.standing is Standing.ENDED and view.answer is not None
    )
    told = coordinator.result if index == SUPERIOR else None
    is_left = coordinator.state is State.COMMITTED and coordinator.pending
    return world.put(
        index,
        node._replace(
            coordinator=None,
            replies=frozenset(),
            acknowledged=acknowledged if is_left else frozenset(),
            told=told,
            asked=False,
            obeys=None,
        ),
    )


# --- databases ------------------------------------------------------------------------------------------------------


@step("the call {2} of branch {1} of node {0} arrives")
def tree_arrive(world: TreeWorld, index: int, branch: int, what: What) -> TreeWorld:
    return _arrive(world, index, branch, what, Choice.YES)


@step("the prepare of branch {1} of node {0} arrives, and the vote is {2}")
def tree_vote(world: TreeWorld, index: int, branch: int, choice: Choice) -> TreeWorld:
    return _arrive(world, index, branch, What.PREPARE, choice)


def _arrive(world: TreeWorld, index: int, branch: int, what: What, choice: Choice) -> TreeWorld:
    world = world._replace(calls=world.calls - {(index, branch, what)})
    manager, said = _received(world.manager(index, branch), what, choice)
    world = world.put_manager(index, branch, manager)
    node = world.nodes[index]
    if node.coordinator is None or not _waits(node.coordinator, branch, what):
        return world
    return world.put(index, node._replace(replies=node.replies | {(branch, said)}))


def _received(manager: Manager, what: What, choice: Choice) -> tuple[Manager, Choice | Answer | NotFound]:
    if what is What.PREPARE:
        return manager.prepare(UNIT, choice)
    if what is What.COMMIT_ONE_PHASE:
        return manager.commit_one_phase(UNIT)
    if manager.state(UNIT) is WORKING and what is not What.COMMIT:
        return manager.roll_back(UNIT), Answer.ABORTED
    return manager.finish(UNIT, commit=what is What.COMMIT)


def _waits(coordinator: Coordinator, branch: int, what: What) -> bool:
    view = coordinator.branches[BranchNumber(branch)]
    if what is What.PREPARE:
        return view.standing is Standing.PREPARING
    return view.standing is Standing.TOLD and view.told is what


@step("the reply of branch {1} arrives at node {0}")
def tree_reply(world: TreeWorld, index: int, branch: int) -> TreeWorld:
    node = world.nodes[index]
    ((_, said),) = (one for one in node.replies if one[0] == branch)
    world = world.put(index, node._replace(replies=frozenset(one for one in node.replies if one[0] != branch)))
    number = BranchNumber(branch)
    if isinstance(said, Choice):
        return take(world, index, lambda it: it.voted(number, said))
    if isinstance(said, NotFound):
        commit = node.live().branches[number].told is What.COMMIT
        judged = judge_missing(commit=commit, evidence=said.evidence, has_redo=False, confirmed=True)
        assert isinstance(judged, Answer)
        return take(world, index, lambda it: it.answered(number, judged))
    return take(world, index, lambda it: it.answered(number, said))


@step("node {0} loses its connection for branch {1}", Kind.FAULT)
def tree_give_up(world: TreeWorld, index: int, branch: int) -> TreeWorld:
    node, number = world.nodes[index], BranchNumber(branch)
    replies = frozenset(one for one in node.replies if one[0] != branch)
    world = world.put(index, node._replace(replies=replies))
    if node.live().branches[number].standing is Standing.PREPARING:
        return take(world, index, lambda it: it.vote_lost(number, "connection lost"))
    return take(world, index, lambda it: it.answered(number, Answer.RETRY))


@step("the database of branch {1} of node {0} rolls back what is left of a lost session")
def tree_hang_up(world: TreeWorld, index: int, branch: int) -> TreeWorld:
    return world.put_manager(index, branch, world.manager(index, branch).roll_back(UNIT))


@step("the database of branch {1} of node {0} restarts", Kind.FAULT)
def tree_restart(world: TreeWorld, index: int, branch: int) -> TreeWorld:
    return world.put_manager(index, branch, world.manager(index, branch).restart())


# --- journals -------------------------------------------------------------------------------------------------------


@step("what node {0} forces is on disk")
def tree_forced(world: TreeWorld, index: int) -> TreeWorld:
    node, record = world.nodes[index], world.nodes[index].forcing
    assert record is not None
    node, accepted = _write(node, record)
    world = world.put(index, node)
    if node.coordinator is not None:
        if accepted:
            return take(world, index, lambda it: it.accepted())
        return take(world, index, lambda it: it.refused("another record was there first"))
    if node.obeys is None:
        return world
    if accepted:
        return say_told(world, node.obeys, Answer.COMMITTED if node.obeys else Answer.ABORTED)
    return world.put(index, node._replace(obeys=None))


def _write(node: Node, record: KeyedRecord) -> tuple[Node, bool]:
    book, accepted = node.book.add(record)
    ever = record if accepted and isinstance(record, Commit) else node.ever
    return node._replace(book=book, unforced=frozenset(), forcing=None, ever=ever), accepted


@step("the journal of the subordinate does not take the record", Kind.FAULT)
def tree_refused(world: TreeWorld) -> TreeWorld:
    return _unforced(world, world.nodes[SUBORDINATE]._replace(forcing=None, obeys=None))


@step("the subordinate's Prepared record is on disk, and the reply is lost", Kind.FAULT)
def tree_force_lost(world: TreeWorld) -> TreeWorld:
    node = world.nodes[SUBORDINATE]
    assert node.forcing is not None
    return _unforced(world, _write(node, node.forcing)[0])


def _unforced(world: TreeWorld, node: Node) -> TreeWorld:
    world = world.put(SUBORDINATE, node)
    if node.coordinator is None:
        return world  # an earlier process's promise: it is asked for again
    return take(world, SUBORDINATE, lambda it: it.force_lost())


# --- between the nodes ----------------------------------------------------------------------------------------------


@step("the subordinate is asked for its vote")
def tree_prepare(world: TreeWorld) -> TreeWorld:
    node = world.nodes[SUBORDINATE]
    if node.coordinator is None:
        return say_vote(world, Choice.NO)
    world = world.put(SUBORDINATE, node._replace(asked=True))
    if node.coordinator.state is State.IN_DOUBT:
        return settle_up(world, SUBORDINATE)
    writers = [BranchNumber(one) for one in world.own_branches(SUBORDINATE)]

    def prepare(it: Coordinator) -> Effects:
        assert isinstance(it, Subordinate)
        return it.prepare(writers, Decided(at_ms=0))

    return take(world, SUBORDINATE, prepare)


@step("the superior's word reaches the subordinate: commit {0}")
def tree_tell(world: TreeWorld, commit: bool) -> TreeWorld:
    return _told(world, commit, answers=True)


@step("the outcome that it asked for reaches the subordinate: commit {0}")
def tree_outcome(world: TreeWorld, commit: bool) -> TreeWorld:
    return _told(world, commit, answers=False)


def _told(world: TreeWorld, commit: bool, *, answers: bool) -> TreeWorld:
    node = world.nodes[SUBORDINATE]
    obeys = commit if answers else None
    if node.coordinator is None:
        return _told_of_none(world, commit, answers=answers)
    assert isinstance(node.coordinator, Subordinate)
    heard = node.coordinator.hear(commit=commit)
    if heard is Heard.WRONG:
        return world
    world = world.put(SUBORDINATE, node._replace(obeys=obeys))
    if heard is Heard.EARLY:
        return take(world, SUBORDINATE, lambda it: it.abort("its superior aborted"))
    if heard is Heard.AGAIN:
        return settle_up(world, SUBORDINATE)

    def obey(it: Coordinator) -> Effects:
        assert isinstance(it, Subordinate)
        return it.told(commit=commit)

    return take(world, SUBORDINATE, obey)


def _told_of_none(world: TreeWorld, commit: bool, *, answers: bool) -> TreeWorld:
    """No live part: an earlier process's, or one that has ended (`promises.told`)."""
    node = world.nodes[SUBORDINATE]
    promise = node.book.promise()
    if promise is not None:
        fields = key_fields(promise.key)
        record: KeyedRecord = Abort(**fields, why="its superior aborted")
        if commit:
            record = Commit(**fields, branches=promise.branches, at_ms=0)
        return world.put(SUBORDINATE, node._replace(forcing=record, obeys=commit if answers else None))
    is_committed = node.book.committed(KEYS[SUBORDINATE].transaction) is not None
    decision = judge_unknown(committed=is_committed, held_elsewhere=False, commit=commit)
    if not answers or decision is Decision.UNKNOWN:
        return world
    return say_told(world, commit, Answer.COMMITTED if decision is Decision.COMMIT else Answer.ABORTED)


@step("the subordinate's vote reaches the superior: {0}")
def tree_voted(world: TreeWorld, choice: Choice) -> TreeWorld:
    return take(world, SUPERIOR, lambda it: it.voted(BELOW, choice))


@step("the subordinate's answer reaches the superior: {0}")
def tree_answered(world: TreeWorld, answer: Answer) -> TreeWorld:
    return take(world, SUPERIOR, lambda it: it.answered(BELOW, answer))


# --- faults -----------------------------------------------------------------------------------------------------------


@step("the superior runs out of time", Kind.FAULT)
def tree_out_of_time(world: TreeWorld) -> TreeWorld:
    def withdraw(it: Coordinator) -> Effects:
        it.withdraw("out of time")
        return Effects()

    return take(world, SUPERIOR, withdraw)


@step("the time of the subordinate's part is over", Kind.FAULT)
def tree_expire(world: TreeWorld) -> TreeWorld:
    return take(world, SUBORDINATE, lambda it: it.abort("its time was over"))


@step("node {0} is killed, and what it had not forced is lost", Kind.FAULT)
def tree_kill(world: TreeWorld, index: int) -> TreeWorld:
    node = world.nodes[index]
    return world.put(index, _dead(node, node.book.records - node.unforced, node.ever))


@step("node {0} is killed, and what it had not forced is there", Kind.FAULT)
def tree_kill_kept(world: TreeWorld, index: int) -> TreeWorld:
    node = world.nodes[index]
    if node.forcing is not None:
        node, _ = _write(node, node.forcing)
    return world.put(index, _dead(node, node.book.records, node.ever))


def _dead(node: Node, records: frozenset[KeyedRecord], ever: Commit | None) -> Node:
    return Node(starts=node.starts, is_alive=False, book=node.book._replace(records=records), told=node.told, ever=ever)


@step("node {0} starts", Kind.FAULT)
def tree_start(world: TreeWorld, index: int) -> TreeWorld:
    node = world.nodes[index]
    return world.put(index, node._replace(is_alive=True, starts=node.starts + 1))
