"""B10, and the parts of A6 and A8 that cross managers. All that may go wrong in between is in tests/trees/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncpoint.records import Commit, Prepared
from syncpoint.testing.in_process import Fate
from tests.trees.conftest import Town


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    for name in ("a", "b"):
        made.manager(name)
    yield made
    made.close()


def transact(town: Town, root: str, below: str, key: str) -> None:
    with town.managers[root].transaction() as tx:
        tx.connect("db").put(key, 1)
        town.work_at(below, tx.export(), key)


def test_b10_prepare_is_broadcast_ready_collected_and_commit_broadcast(town: Town) -> None:
    transact(town, "a", "b", "x")
    assert [what for source, _, what in town.hall.asked if source == "a"] == ["Prepare", "Tell"]
    assert town.rows("a", "b") == [{"x": b"1"}] * 2
    assert town.quiet("a", "b")


def test_a8_each_node_coordinates_one_transaction_and_takes_part_in_another(town: Town) -> None:
    a, b = town.managers["a"], town.managers["b"]
    with a.transaction() as at_a, b.transaction() as at_b:
        at_a.connect("db").put("ours", 1)
        at_b.connect("db").put("theirs", 1)
        town.work_at("b", at_a.export(), "ours")
        town.work_at("a", at_b.export(), "theirs")
    assert town.rows("a", "b") == [{"ours": b"1", "theirs": b"1"}] * 2
    assert town.quiet("a", "b")


def test_a6_both_sides_know_whom_to_ask_and_whom_to_tell(town: Town) -> None:
    """From the identifier a restarted participant knows whom to ask; from its record a coordinator knows whom to
    tell."""
    promised: list[Prepared] = []
    town.hall.rules.append(lambda source, target, question: _note(town, promised, type(question).__name__))
    transact(town, "a", "b", "x")
    a, b = (town.managers[name]._core.journal for name in "ab")
    (prepared,) = promised
    assert prepared.read_identifier().coordinator == a.coordinator
    assert {known.address for known in b.directory()} >= {"a"}
    assert {known.address for known in a.directory()} >= {"b"}


def _note(town: Town, promised: list[Prepared], what: str) -> Fate | None:
    journal = town.managers["b"]._core.journal
    if what == "Tell":
        assert not [one for one in journal._index.alive() if isinstance(one, Commit)]
        promised += journal._index.prepared.values()  # on record before the vote, and so before the outcome
    return None
