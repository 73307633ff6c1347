"""Every node of a tree dies at every moment of a transaction, and every moment of what follows (O29, O30, A6..A8, B10).

A moment is one at which some code of its process runs: between any two steps of any script, so nobody lists them by
hand. After each: all databases agree with each other and with what the client was told, nothing is in doubt, locked or
promised. With SYNCPOINT_TREES_STRIDE=1 every moment is tried, else one of so many.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from syncpoint.simulation.services import Plan
from syncpoint.simulation.wires import Mishaps
from tests.trees.world import BACK, CHAIN, FAN, SimTree, judge_all, start

STRIDE = int(os.environ.get("SYNCPOINT_TREES_STRIDE", "3"))
AFTER_S = 0.4
PLANS = {"two": Plan("a", (Plan("b"),)), "chain": CHAIN, "fan": FAN}


class NotHit(Exception):
    """The node did not die: this time it went another way."""


def moments(plan: Plan, node: str) -> int:
    """How many moments a transaction takes at a node, and a while after it."""
    tree = SimTree()
    try:
        before = tree[node].process.moments  # type: ignore[union-attr]
        told = start(tree, plan, "x")
        tree.world.run(tree.world.now_s + 20.0, lambda: told.outcome != "unknown")
        tree.run(AFTER_S)
        return tree[node].process.moments - before  # type: ignore[union-attr]
    finally:
        tree.end()


def die(plan: Plan, node: str, moment: int, *, again: int | None = None, others: tuple[Plan, ...] = ()) -> list[str]:
    """The node dies at that moment; its next process at its moment `again`, in the middle of its recovery (O31)."""
    tree = SimTree()
    try:
        process = tree[node].process
        assert process is not None
        process.dies_at = process.moments + moment
        tree[node].next_dies_at = again
        plans = [(one, f"x{number}", start(tree, one, f"x{number}")) for number, one in enumerate((plan, *others))]
        tree.run(6.0)
        if tree[node].starts == 1:
            raise NotHit(f"{node} did not come to its moment {moment}")
        return judge_all(tree, plans)
    finally:
        tree.end()


@pytest.mark.parametrize("node", "abc")
@pytest.mark.parametrize("name", PLANS)
def test_every_node_dies_at_every_moment(name: str, node: str) -> None:
    plan = PLANS[name]
    if node not in plan.nodes():
        pytest.skip(f"{node} takes no part")
    outcomes = Counter(die(plan, node, moment)[0] for moment in range(1, moments(plan, node), STRIDE))
    assert set(outcomes) == {"committed", "aborted"}, outcomes


@pytest.mark.parametrize("node", "abc")
def test_it_dies_again_while_it_recovers(node: str) -> None:  # O31
    count = moments(CHAIN, node)
    for index, moment in enumerate(range(count // 3, count, STRIDE)):
        die(CHAIN, node, moment, again=40 + 17 * index)


def operations(plan: Plan, node: str) -> int:
    """How many disk operations a transaction takes at a node."""
    tree = SimTree()
    try:
        before = tree[node].disk_operations
        told = start(tree, plan, "x")
        tree.world.run(tree.world.now_s + 20.0, lambda: told.outcome != "unknown")
        tree.run(AFTER_S)
        return tree[node].disk_operations - before
    finally:
        tree.end()


@pytest.mark.parametrize("node", "abc")
def test_every_node_dies_in_every_disk_operation(node: str) -> None:
    for number in range(1, operations(CHAIN, node), STRIDE):
        tree = SimTree()
        try:
            tree[node].die_in_operation(number)
            told = start(tree, CHAIN, "x")
            tree.run(6.0)
            judge_all(tree, [(CHAIN, "x", told)])
        finally:
            tree.end()


@pytest.mark.parametrize("pair", ["ab", "ac", "bc"])
def test_two_nodes_die_in_one_transaction(pair: str) -> None:
    first, second = pair
    for index, moment in enumerate(range(5, moments(CHAIN, first), 2 * STRIDE)):
        tree = SimTree()
        try:
            for node, at in ((first, moment), (second, 8 + 3 * index)):
                process = tree[node].process
                assert process is not None
                process.dies_at = process.moments + at
            told = start(tree, CHAIN, "x")
            tree.run(6.0)
            judge_all(tree, [(CHAIN, "x", told)])
        finally:
            tree.end()


def test_a8_roots_and_participants_at_once_die_together() -> None:
    """a is the root of one transaction and takes part in another of c's, and c the other way round."""
    for node in "ac":
        for moment in range(4, moments(CHAIN, node) + 10, 2 * STRIDE):
            die(CHAIN, node, moment, others=(BACK, FAN))


@pytest.mark.parametrize("seed", range(1, 13))
def test_messages_are_lost_doubled_and_late_while_nodes_die(seed: int) -> None:
    tree = SimTree(seed=seed, mishaps=Mishaps(lost=0.15, doubled=0.3, late=0.2))
    chance = tree.world.stream("deaths")
    try:
        plans = []
        for number in range(8):
            plan = chance.choice([CHAIN, FAN, BACK, PLANS["two"]])
            plans.append((plan, f"x{number}", start(tree, plan, f"x{number}")))
            tree.run(chance.uniform(0.0, 1.0))
            node = tree[chance.choice("abc")]
            if chance.random() < 0.6 and node.process is not None and node.is_serving:
                node.process.dies_at = node.process.moments + chance.randint(1, 60)
            tree.world.run(tree.world.now_s + 30.0, lambda: all(one.is_serving for one in tree.nodes.values()))
        tree.run(10.0)
        judge_all(tree, plans)
    finally:
        tree.end()
