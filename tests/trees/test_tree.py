"""Trees of two and three managers without crashes: who decides, who waits, and what is forced (A8, B10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from syncpoint.manager import operators
from syncpoint.records import Commit, End, Prepared
from syncpoint.simulation.services import Plan
from syncpoint.steps import Done, Failed
from tests.trees.world import BACK, CHAIN, FAN, SimTree, judge_all, start

TWO = Plan("a", (Plan("b"),))


@pytest.fixture
def tree() -> Iterator[SimTree]:
    made = SimTree()
    yield made
    made.end()


@pytest.mark.parametrize("plan", [Plan("a", (Plan("b"),)), CHAIN, FAN], ids=["two", "chain", "fan"])
def test_b10_a_transaction_commits_at_every_node(tree: SimTree, plan: Plan) -> None:
    told = start(tree, plan, "x")
    tree.run(3.0)
    assert (told.outcome, told.errors, told.why) == ("committed", [], "")
    assert judge_all(tree, [(plan, "x", told)]) == ["committed"]


def ask(tree: SimTree, node: str, script: Any) -> Any:
    """What a script returns that runs in a node's process."""
    outcomes: list[Done[Any] | Failed] = []
    tree.begin(node, script, outcomes.append)
    tree.world.run(tree.world.now_s + 20.0, lambda: bool(outcomes))
    (outcome,) = outcomes
    assert isinstance(outcome, Done), outcome
    return outcome.value


def forced(tree: SimTree, node: str, kind: type) -> list[Any]:
    core = tree[node].core
    assert core is not None
    return [one for one in core.journal._index.alive() if isinstance(one, kind)]  # type: ignore[attr-defined]


def until_in_doubt(tree: SimTree, node: str) -> None:
    assert tree.world.run(tree.world.now_s + 10.0, lambda: bool(forced(tree, node, Prepared)))


def test_b10_a_subordinate_that_wrote_nothing_drops_out(tree: SimTree) -> None:
    plan = Plan("a", (Plan("b", writes=False), Plan("c")))
    told = start(tree, plan, "x")
    tree.run(3.0)
    assert told.outcome == "committed"
    assert tree["b"].core.journal._index.keys() == set()  # type: ignore[union-attr,attr-defined]  # no record at all
    assert judge_all(tree, [(plan, "x", told)]) == ["committed"]


def test_a_tree_that_wrote_nothing_leaves_no_record(tree: SimTree) -> None:
    plan = Plan("a", (Plan("b", (Plan("c", writes=False),), writes=False),), writes=False)
    told = start(tree, plan, "x")
    tree.run(3.0)
    assert told.outcome == "committed"
    assert [node.core.journal._index.keys() for node in tree.nodes.values()] == [set()] * 3  # type: ignore[union-attr,attr-defined]


def test_a_subordinate_that_only_passes_it_on_votes_for_those_below(tree: SimTree) -> None:
    plan = Plan("a", (Plan("b", (Plan("c"),), writes=False),))
    told = start(tree, plan, "x")
    tree.run(3.0)
    assert told.outcome == "committed"
    assert judge_all(tree, [(plan, "x", told)]) == ["committed"]


def test_a8_two_transactions_cross(tree: SimTree) -> None:
    plans = [
        (plan, f"x{number}", start(tree, plan, f"x{number}")) for number, plan in enumerate((CHAIN, BACK, FAN, TWO))
    ]
    tree.run(6.0)
    assert [told.outcome for *_, told in plans] == ["committed"] * 4
    assert judge_all(tree, plans) == ["committed"] * 4


def test_o30_a_superior_without_a_record_means_abort(tree: SimTree) -> None:
    told = start(tree, TWO, "x")
    until_in_doubt(tree, "b")
    tree["a"].kill("before its decision")
    assert judge_all(tree, [(TWO, "x", told)]) == ["aborted"]


@pytest.mark.parametrize("restarts", [False, True], ids=["it lives", "it restarts"])
def test_a7_in_doubt_it_stays_locked_until_its_superior_is_back(tree: SimTree, restarts: bool) -> None:
    told = start(tree, TWO, "x")
    until_in_doubt(tree, "b")
    tree["a"].stays_down = True
    tree["a"].kill("for long")
    if restarts:
        tree["b"].kill("in doubt")
    tree.run(60.0)  # far beyond every timeout
    assert set(tree["b"].database.engine.locked()) == {"x"}
    assert len(tree["b"].database.engine.in_doubt()) == 1
    (line,) = ask(tree, "b", operators.in_doubt(tree["b"].core))  # type: ignore[arg-type]
    superior = tree["a"].core.journal.coordinator  # type: ignore[union-attr]
    assert line.status == "in-doubt"
    assert f"waits for its superior {superior} at a" in line.explanation
    tree["a"].stays_down = False
    tree["a"].start()
    assert judge_all(tree, [(TWO, "x", told)]) == ["aborted"]


def test_o29_a_subordinate_that_was_away_is_told_commit(tree: SimTree) -> None:
    told = start(tree, TWO, "x")
    assert tree.world.run(tree.world.now_s + 10.0, lambda: bool(forced(tree, "a", Commit)))
    tree["b"].stays_down = True
    tree["b"].kill("after its vote")
    tree.run(30.0)
    assert told.outcome == "committed"
    assert tree["a"].rows
    assert forced(tree, "a", Commit)  # kept until it has acknowledged
    tree["b"].stays_down = False
    tree["b"].start()
    assert judge_all(tree, [(TWO, "x", told)]) == ["committed"]


def test_a6_a_restarted_superior_tells_whom_its_record_lists(tree: SimTree) -> None:
    """The subordinate cannot ask: only the superior's messages come through."""
    told = start(tree, TWO, "x")
    assert tree.world.run(tree.world.now_s + 10.0, lambda: bool(forced(tree, "a", Commit)))
    tree["a"].kill("after its decision")
    tree.run(0.01)
    tree.wires.deaf = {"AskOutcome"}
    tree.run(20.0)
    assert tree["b"].rows.keys() == {"x"}
    assert judge_all(tree, [(TWO, "x", told)]) == ["committed"]


def test_a_superior_that_is_cut_off_holds_nobody_for_ever(tree: SimTree) -> None:
    """Before its vote a part is free: when its time is over it aborts of its own."""
    told = start(tree, TWO, "x")
    assert tree.world.run(tree.world.now_s + 10.0, lambda: "x" in tree["b"].database.engine.locked())
    tree.cut_off("a")
    tree.run(20.0)
    assert tree["b"].database.engine.locked() == {}
    assert told.outcome == "aborted"
    assert judge_all(tree, [(TWO, "x", told)]) == ["aborted"]


def test_records_of_a_tree(tree: SimTree) -> None:
    """What each node has forced: Prepared below the root, Commit everywhere, and all of it ended."""
    kinds: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for name, node in tree.nodes.items():
        journal = node.core.journal  # type: ignore[union-attr]
        write = journal._write  # type: ignore[attr-defined]

        def note(items: Any, noted: Any, name: str = name, write: Any = write) -> Any:
            kinds[name] += [type(one).__name__ for item in items for one in item.records]
            kinds[name] += [type(one).__name__ for one in noted]
            return write(items, noted)

        journal._write = note  # type: ignore[attr-defined]
    start(tree, CHAIN, "x")
    tree.run(12.0)
    wanted = {
        "a": ["CoordinatorKnown", "Commit", "End"],
        "b": ["CoordinatorKnown", "CoordinatorKnown", "Prepared", "Commit", "End"],
        "c": ["CoordinatorKnown", "Prepared", "Commit", "End"],
    }
    assert kinds == wanted
    assert [forced(tree, name, End) for name in "abc"] == [[], [], []]
