"""A node's pass of recovery over one branch, cut in three, and the superior asked what became of a branch.

The rules are the real ones: `fate_of` with real `Facts`, `judge_missing`. Not for: live transactions (steps.py).
"""

from __future__ import annotations

from syncpoint.protocol.recovery import Facts, Fate, fate_of, judge_missing
from syncpoint.protocol.words import HEURISTICS, Answer
from syncpoint.records import End, key_fields
from syncpoint.simulation.model.manager import IN_DOUBT, NotFound
from syncpoint.simulation.model.names import Violation
from syncpoint.simulation.model.tree.steps import write_lazily
from syncpoint.simulation.model.tree.world import (
    BELOW,
    GUIDS,
    KEYS,
    SUBORDINATE,
    SUPERIOR,
    UNIT,
    Node,
    Pass,
    TreeWorld,
    identifier,
    lists,
)
from syncpoint.simulation.model.world import Kind, step


def is_found(world: TreeWorld, index: int, branch: int) -> bool:
    """Whether a scan would show the branch prepared."""
    if index == SUPERIOR and branch == BELOW:
        return world.nodes[SUBORDINATE].book.promise() is not None
    return world.manager(index, branch).state(UNIT) is IN_DOUBT


def is_to_be_finished(world: TreeWorld, index: int, branch: int) -> bool:
    """Whether it is decided, and has not acknowledged."""
    node = world.nodes[index]
    commit = node.book.commit()
    return commit is not None and lists(commit, index, branch) and branch not in node.acknowledged


@step("node {0} looks for what is prepared at its branch {1}", Kind.RECOVERY)
def tree_scan(world: TreeWorld, index: int, branch: int) -> TreeWorld:
    return world.put(index, world.nodes[index].in_pass(branch, Pass(is_found(world, index, branch))))


@step("node {0} looks at its records, for its branch {1}")
def tree_look(world: TreeWorld, index: int, branch: int) -> TreeWorld:
    node = world.nodes[index]
    work = node.passes[branch - 1]
    assert work is not None
    if work.found:
        commit = ruling(node, index, branch)
    else:
        commit = True if node.coordinator is None and is_to_be_finished(world, index, branch) else None
    return world.put(index, node.in_pass(branch, None if commit is None else work._replace(commit=commit)))


def ruling(node: Node, index: int, branch: int) -> bool | None:
    """Commit or not; None: nobody here can say."""
    commit = node.book.commit()
    listed = set() if commit is None else {entry.read_identifier() for entry in commit.branches}
    facts = Facts(
        coordinators={GUIDS[index]},
        live_incarnations=(),
        live_keys=set() if node.coordinator is None else {KEYS[index]},
        elsewhere=(),
        decisions={} if commit is None else {commit.key: listed},
        promised=() if node.book.promise() is None else {KEYS[index]},
    )
    return {Fate.COMMIT: True, Fate.ABORT: False}.get(fate_of(identifier(index, branch), facts))


@step("node {0} finishes its branch {1}")
def tree_act(world: TreeWorld, index: int, branch: int) -> TreeWorld:
    node = world.nodes[index]
    work = node.passes[branch - 1]
    assert work is not None
    assert work.commit is not None
    world = world.put(index, node.in_pass(branch, None))
    if index == SUPERIOR and branch == BELOW:
        return world.send("tell", work.commit)
    manager, said = world.manager(index, branch).finish(UNIT, commit=work.commit, asked_by_recovery=True)
    world = world.put_manager(index, branch, manager)
    if isinstance(said, NotFound) and not work.commit:
        said = Answer.ABORTED  # merely gone since the scan: nobody asks the evidence
    if isinstance(said, NotFound):
        confirmed = node.book.commit() is not None
        judged = judge_missing(commit=work.commit, evidence=said.evidence, has_redo=False, confirmed=confirmed)
        if not isinstance(judged, Answer):
            return world
        said = judged
    return _took(world, index, branch, said, commit=work.commit)


@step("the subordinate's answer to recovery reaches the superior: {0}")
def tree_acknowledged(world: TreeWorld, answer: Answer) -> TreeWorld:
    return _took(world, SUPERIOR, BELOW, answer, commit=True)


def _took(world: TreeWorld, index: int, branch: int, answer: Answer, *, commit: bool) -> TreeWorld:
    """A record ends when every branch it lists has acknowledged (O28)."""
    if answer in HEURISTICS:
        raise Violation("false alarm", f"{answer.name} of branch {branch}, and nobody decided alone")
    node = world.nodes[index]
    record = node.book.commit()
    if not commit or record is None:
        return world
    node = node._replace(acknowledged=node.acknowledged | {branch})
    listed = {one for one in range(1, 4) if lists(record, index, one)}
    if node.coordinator is None and listed <= node.acknowledged:
        node = write_lazily(node, End(**key_fields(record.key)))._replace(acknowledged=frozenset())
    return world.put(index, node)


@step("the pass of node {0} over its branch {1} stops there", Kind.FAULT)
def tree_stop(world: TreeWorld, index: int, branch: int) -> TreeWorld:
    return world.put(index, world.nodes[index].in_pass(branch, None))


@step("the subordinate asks for the outcome", Kind.RECOVERY)
def tree_ask(world: TreeWorld) -> TreeWorld:
    return world.send("ask")


@step("the superior is asked for the outcome")
def tree_rule(world: TreeWorld) -> TreeWorld:
    commit = ruling(world.nodes[SUPERIOR], SUPERIOR, BELOW)
    return world if commit is None else world.send("outcome", commit)
