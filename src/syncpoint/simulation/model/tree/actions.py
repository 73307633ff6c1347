"""Everything that can happen next in a tree, in an order that is the same on every run. Not for: what it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from syncpoint.ids import BranchNumber
from syncpoint.protocol.coordinator import Coordinator, Standing, State, What
from syncpoint.protocol.subordinate import Subordinate
from syncpoint.records import Prepared
from syncpoint.simulation.model.manager import IN_DOUBT, WORKING
from syncpoint.simulation.model.tree.recovering import is_found, is_to_be_finished
from syncpoint.simulation.model.tree.world import BELOW, SUBORDINATE, SUPERIOR, UNIT, Node, TreeWorld

Action: TypeAlias = tuple[str, tuple[Any, ...]]


def actions(world: TreeWorld) -> list[Action]:
    """Everything that can happen next."""
    found = [*_at_databases(world), *_between(world)]
    for index, node in enumerate(world.nodes):
        if node.is_alive:
            found += _at_node(world, index, node)
            found += _recovery(world, index, node)
        elif node.starts < world.scope.starts_max[index]:
            found.append(("tree_start", (index,)))
    return found


def _order(call: tuple[int, int, What]) -> tuple[int, int, int]:
    return call[0], call[1], call[2].value


def _at_databases(world: TreeWorld) -> Iterator[Action]:
    for index, branch, what in sorted(world.calls, key=_order):
        if what is What.PREPARE:
            yield from (("tree_vote", (index, branch, choice)) for choice in world.scope.votes)
        else:
            yield "tree_arrive", (index, branch, what)
    for index, branch in world.all_branches():
        state = world.manager(index, branch).state(UNIT)
        if state is WORKING and _is_left(world.nodes[index].coordinator, branch):
            yield "tree_hang_up", (index, branch)
        if world.scope.restarts and state in (WORKING, IN_DOUBT):
            yield "tree_restart", (index, branch)


def _is_left(coordinator: Coordinator | None, branch: int) -> bool:
    """Whether the session of a unit at work is gone."""
    gone = (Standing.UNKNOWN, Standing.PENDING, Standing.ENDED)
    return coordinator is None or coordinator.branches[BranchNumber(branch)].standing in gone


def _between(world: TreeWorld) -> Iterator[Action]:
    superior, subordinate = world.nodes
    if subordinate.is_alive and subordinate.is_free():
        if ("prepare",) in world.sent:
            yield "tree_prepare", ()
        for commit in (True, False):
            if ("tell", commit) in world.sent:
                yield "tree_tell", (commit,)
            if ("outcome", commit) in world.sent:
                yield "tree_outcome", (commit,)
    if not superior.is_alive:
        return
    if ("ask",) in world.sent:
        yield "tree_rule", ()
    yield from _to_the_superior(world, superior)


def _to_the_superior(world: TreeWorld, superior: Node) -> Iterator[Action]:
    said = sorted((one for one in world.sent if one[0] in ("voted", "told")), key=str)
    if superior.coordinator is None:
        if is_to_be_finished(world, SUPERIOR, BELOW):
            yield from (("tree_acknowledged", (one[2],)) for one in said if one[:2] == ("told", True))
        return
    view = superior.coordinator.branches[BELOW]
    if view.standing is Standing.PREPARING:
        yield from (("tree_voted", (one[1],)) for one in said if one[0] == "voted")
    if view.standing is Standing.TOLD:
        commit = view.told is What.COMMIT
        yield from (("tree_answered", (one[2],)) for one in said if one[:2] == ("told", commit))


def _at_node(world: TreeWorld, index: int, node: Node) -> Iterator[Action]:
    scope = world.scope
    if scope.starts_max[index] > node.starts:
        yield "tree_kill", (index,)
        if node.forcing is not None or node.unforced:
            yield "tree_kill_kept", (index,)
    if node.forcing is not None:
        yield "tree_forced", (index,)
        if index == SUBORDINATE and scope.refusals:
            yield "tree_refused", ()
            if isinstance(node.forcing, Prepared):
                yield "tree_force_lost", ()
    if node.coordinator is None:
        return
    for branch, _ in sorted(node.replies, key=lambda one: one[0]):
        yield "tree_reply", (index, branch)
    if scope.connections_lost:
        waited = (Standing.PREPARING, Standing.TOLD)
        views = node.coordinator.branches.values()
        yield from (("tree_give_up", (index, int(view.number))) for view in views if view.standing in waited)
    is_collecting = node.coordinator.state is State.PREPARING and not node.coordinator.why
    if index == SUPERIOR and scope.out_of_time and is_collecting:
        yield "tree_out_of_time", ()
    if isinstance(node.coordinator, Subordinate) and node.is_free() and node.coordinator.vote is None:
        yield "tree_expire", ()


def _recovery(world: TreeWorld, index: int, node: Node) -> Iterator[Action]:
    if index == SUBORDINATE and ("ask",) not in world.sent and waits_for_outcome(node):
        yield "tree_ask", ()
    for branch, work in enumerate(branch_passes(world, index), 1):
        if work is None:
            if is_worth_a_pass(world, index, branch):
                yield "tree_scan", (index, branch)
            continue
        yield "tree_look" if work.commit is None else "tree_act", (index, branch)
        yield "tree_stop", (index, branch)


def branch_passes(world: TreeWorld, index: int) -> tuple[Any, ...]:
    """Passes over the branches that this node has."""
    return world.nodes[index].passes[: 2 if index == SUPERIOR else world.scope.branches]


def waits_for_outcome(node: Node) -> bool:
    """A part in doubt, or an earlier process's promise."""
    if node.coordinator is not None:
        return node.coordinator.state is State.IN_DOUBT
    return node.forcing is None and node.book.promise() is not None


def is_worth_a_pass(world: TreeWorld, index: int, branch: int) -> bool:
    """Whether a pass would find anything. Beyond the subordinate's own, it must be there to be asked."""
    if index == SUPERIOR and branch == BELOW and not world.nodes[SUBORDINATE].is_alive:
        return is_to_be_finished(world, index, branch) and ("tell", True) not in world.sent
    return is_found(world, index, branch) or is_to_be_finished(world, index, branch)
