"""List-append: right histories are accepted, and every kind of wrong one is found by its name and explained.

Not for: histories made at random (test_list_append_random.py), or by real databases (test_isolation.py).
"""

from __future__ import annotations

import time

import pytest

from syncpoint.testing.checkers import Append, BadHistory, History, Operation, Outcome, Read, list_append
from tests.testing.checkers.histories import append, fail, kinds, of, ok, open_ended, read

GOOD = {
    "nothing": [],
    "one after the other": [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, read("x", 1), append("x", 2), read("x", 1, 2))],
    "never read": [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, append("x", 2))],
    "a reader at the same time sees it": [ok(1, 0, 9, append("x", 1)), ok(2, 5, 6, read("x", 1))],
    "a reader at the same time does not see it": [ok(1, 0, 9, append("x", 1)), ok(2, 5, 6, read("x"))],
    "it ended just when the reader began": [ok(1, 0, 5, append("x", 1)), ok(2, 5, 6, read("x"))],
    "an aborted value is not seen": [fail(1, 0, 1, append("x", 1)), ok(2, 2, 3, read("x"))],
    "an aborted reader may see anything": [fail(1, 0, 1, read("x", 7)), ok(2, 2, 3, read("x"))],
    "indeterminate, and it happened": [open_ended(1, 0, append("x", 1)), ok(2, 2, 3, read("x", 1))],
    "indeterminate, and it did not": [open_ended(1, 0, append("x", 1)), ok(2, 2, 3, read("x"))],
    "indeterminate, and it happened later": [
        open_ended(1, 0, append("x", 1), end=1),
        ok(2, 2, 3, read("x")),
        ok(3, 4, 5, read("x", 1)),
    ],
    "an answer that is not known": [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, Read(resource="a", key="x"))],
    "the same key of two resources": [
        ok(1, 0, 1, append("x", 1), append("x", 1, resource="b")),
        ok(2, 2, 3, read("x", 1), read("x", 1, resource="b")),
    ],
    "appended twice in one transaction": [ok(1, 0, 1, append("x", 1), append("x", 2)), ok(2, 2, 3, read("x", 1, 2))],
    "read, append, and never seen again": [ok(1, 0, 9, read("x"), append("x", 1)), ok(2, 0, 9, read("x"))],
}

WRONG: dict[str, tuple[set[str], list[Operation]]] = {
    "internal: an own append is not seen": ({"internal"}, [ok(1, 0, 1, append("x", 1), read("x"))]),
    "internal: an own append is seen before": ({"internal"}, [ok(1, 0, 1, read("x", 1), append("x", 1))]),
    "internal: two reads differ": (
        {"internal"},
        [ok(1, 0, 9, append("x", 1)), ok(2, 0, 9, read("x"), read("x", 1))],
    ),
    "internal: own appends in the wrong place": (
        {"internal"},
        [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, append("x", 2), read("x", 2, 1))],
    ),
    "a value twice": ({"duplicate-value"}, [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, read("x", 1, 1))]),
    "a value from nowhere": ({"phantom-value"}, [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, read("x", 1, 7))]),
    "a value of another key": (
        {"phantom-value"},
        [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, read("x", 1)), ok(3, 2, 3, read("y", 1))],
    ),
    "two orders": (
        {"incompatible-order"},
        [
            ok(1, 0, 9, append("x", 1)),
            ok(2, 0, 9, append("x", 2)),
            ok(3, 0, 9, read("x", 1, 2)),
            ok(4, 0, 9, read("x", 2)),
        ],
    ),
    "a transaction's appends in another order": (
        {"reordered-appends"},
        [ok(1, 0, 1, append("x", 1), append("x", 2)), ok(2, 2, 3, read("x", 2, 1))],
    ),
    "a transaction's first append is missing": (
        {"partial-appends"},
        [ok(1, 0, 1, append("x", 1), append("x", 2)), ok(2, 2, 3, read("x", 2))],
    ),
    "G1a: aborted read": ({"G1a"}, [fail(1, 0, 1, append("x", 1)), ok(2, 2, 3, read("x", 1))]),
    "G1b: intermediate read": (
        {"G1b", "G-single"},
        [ok(1, 0, 9, append("x", 1), append("x", 2)), ok(2, 0, 9, read("x", 1)), ok(3, 0, 9, read("x", 1, 2))],
    ),
    "G0: two transactions wrote two keys in two orders": (
        {"G0"},
        [
            ok(1, 0, 9, append("x", 1), append("y", 1)),
            ok(2, 0, 9, append("x", 2), append("y", 2)),
            ok(3, 0, 9, read("x", 1, 2)),
            ok(4, 0, 9, read("y", 2, 1)),
        ],
    ),
    "G0: one between another's two appends": (
        {"G0"},
        [ok(1, 0, 9, append("x", 1), append("x", 3)), ok(2, 0, 9, append("x", 2)), ok(3, 0, 9, read("x", 1, 2, 3))],
    ),
    "G0: what was never shown was written last": (
        {"G0"},
        [
            ok(1, 0, 9, append("x", 1), append("y", 1)),
            ok(2, 0, 9, append("x", 2), append("y", 2)),
            ok(3, 0, 9, read("x", 1)),
            ok(4, 0, 9, read("y", 2)),
        ],
    ),
    "G1c: each read what the other wrote": (
        {"G1c"},
        [ok(1, 0, 9, append("x", 1), read("y", 1)), ok(2, 0, 9, append("y", 1), read("x", 1))],
    ),
    "G1c: one wrote after what read it": (
        {"G1c"},
        [
            ok(1, 0, 9, append("x", 1), read("y", 1)),
            ok(2, 0, 9, append("x", 2), append("y", 1)),
            ok(3, 0, 9, read("x", 1, 2)),
        ],
    ),
    "G-single: fractured read": (
        {"G-single"},
        [ok(1, 0, 9, append("x", 1), append("y", 1, "b")), ok(2, 0, 9, read("x", 1), read("y", resource="b"))],
    ),
    "G-single: lost update": (
        {"G-single"},
        [ok(1, 0, 9, read("x"), append("x", 1)), ok(2, 0, 9, read("x"), append("x", 2)), ok(3, 0, 9, read("x", 1, 2))],
    ),
    "G-single: half of an indeterminate transaction": (
        {"G-single"},
        [open_ended(1, 0, append("x", 1), append("y", 1)), ok(2, 5, 6, read("x", 1), read("y"))],
    ),
    "G2: write skew": (
        {"G2"},
        [ok(1, 0, 9, read("y", resource="b"), append("x", 1)), ok(2, 0, 9, read("x"), append("y", 2, "b"))],
    ),
    "G2: write skew, seen afterwards": (
        {"G2"},
        [
            ok(1, 0, 9, read("y"), append("x", 1)),
            ok(2, 0, 9, read("x"), append("y", 2)),
            ok(3, 20, 21, read("x", 1), read("y", 2)),
        ],
    ),
    "G2: both read the end and appended, and nobody read it again": (
        {"G2"},
        [ok(1, 0, 9, read("x"), append("x", 1)), ok(2, 0, 9, read("x"), append("x", 2))],
    ),
    "G2: two readers disagree on who was first": (
        {"G2"},
        [
            ok(1, 0, 9, append("x", 1)),
            ok(2, 0, 9, append("y", 1)),
            ok(3, 0, 9, read("x", 1), read("y")),
            ok(4, 0, 9, read("x"), read("y", 1)),
        ],
    ),
    "G0-realtime: the later one was appended before": (
        {"G0-realtime"},
        [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, append("x", 2)), ok(3, 0, 9, read("x", 2, 1))],
    ),
    "G1c-realtime: read before it was begun": (
        {"G1c-realtime"},
        [ok(1, 0, 1, read("x", 1)), ok(2, 2, 3, append("x", 1))],
    ),
    "G1c-realtime: an indeterminate one, read before it was begun": (
        {"G1c-realtime"},
        [ok(1, 0, 1, read("x", 1)), open_ended(2, 2, append("x", 1))],
    ),
    "G-single-realtime: stale read": (
        {"G-single-realtime"},
        [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, read("x")), ok(3, 4, 5, read("x", 1))],
    ),
    "G-single-realtime: an acknowledged append is lost": (
        {"G-single-realtime"},
        [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, read("x"))],
    ),
    "G-single-realtime: it was there, and is gone": (
        {"G-single-realtime"},
        [open_ended(1, 0, append("x", 1)), ok(2, 1, 2, read("x", 1)), ok(3, 3, 4, read("x"))],
    ),
    "G2-realtime: one was over before a reader of neither began": (
        {"G2-realtime"},
        [
            ok(1, 0, 1, append("x", 1)),
            ok(2, 0, 9, append("y", 1)),
            ok(3, 2, 9, read("y")),
            ok(4, 0, 9, read("y", 1), read("x")),
        ],
    ),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_right(operations: list[Operation]) -> None:
    assert list_append.check(of(*operations)) == []


@pytest.mark.parametrize(("found", "operations"), WRONG.values(), ids=WRONG)
def test_wrong(found: set[str], operations: list[Operation]) -> None:
    assert kinds(list_append.check(of(*operations))) == found


@pytest.mark.parametrize("name", [name for name in WRONG if "realtime" in name])
def test_real_time_can_be_left_out(name: str) -> None:
    found = kinds(list_append.check(of(*WRONG[name][1]), real_time=False))
    assert not any("realtime" in kind for kind in found)


def test_without_real_time_what_is_settled_must_be_there() -> None:
    late = [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, read("x"))]
    assert list_append.check(of(*late), real_time=False) == []
    found = list_append.check(of(*late, ok(3, 4, 5, read("x"), settled=True)), real_time=False)
    assert kinds(found) == {"G-single-realtime"}


def test_a_cycle_is_told_step_by_step() -> None:
    [finding] = list_append.check(of(*WRONG["G2: write skew"][1]))
    assert str(finding) == (
        "G2: no order explains what T1 and T2 saw: "
        "T1 comes before T2, because T1 read b/y = [] without the 2 that T2 appended; "
        "T2 comes before T1, because T2 read a/x = [] without the 1 that T1 appended.\n"
        "    T1 --rw-> T2: T1 read b/y = [] without the 2 that T2 appended\n"
        "    T2 --rw-> T1: T2 read a/x = [] without the 1 that T1 appended"
    )


def test_real_time_is_a_reason() -> None:
    [finding] = list_append.check(of(*WRONG["G-single-realtime: an acknowledged append is lost"][1]))
    assert finding.sentence == (
        "no order explains what T2 and T1 saw: T2 comes before T1, because T2 read a/x = [] without the 1 that T1 "
        "appended; T1 comes before T2, because T1 had completed before T2 began."
    )


def test_every_edge_begins_where_the_last_ended() -> None:
    for _, operations in WRONG.values():
        for finding in list_append.check(of(*operations)):
            ends = [edge.after for edge in finding.chain]
            assert [edge.before for edge in finding.chain] == ends[-1:] + ends[:-1]


def test_a_long_cycle_is_a_chain() -> None:
    ring = 7
    operations = [ok(n, 0, 9, append(f"k{n}", 1), read(f"k{(n + 1) % ring}")) for n in range(ring)]
    [finding] = list_append.check(of(*operations))
    assert (finding.kind.value, len(finding.chain)) == ("G2", ring)
    assert "T0 and 6 others" in finding.sentence


@pytest.mark.parametrize(
    "operations",
    [
        [ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, append("x", 1))],
        [fail(1, 0, 1, append("x", 1)), ok(2, 2, 3, append("x", 1))],
        [ok(1, 0, 1, append("x", 1), append("x", 1))],
    ],
    ids=["two operations", "one that failed", "one operation"],
)
def test_a_value_appended_twice_cannot_be_judged(operations: list[Operation]) -> None:
    with pytest.raises(BadHistory, match="appended 1 to a/x"):
        list_append.check(of(*operations))


# --- size ----------------------------------------------------------------------------------------------------


def long_history(size: int, *, stale_every: int = 0) -> History:
    """Ten clients over twenty keys that change every hundred values; now and then, a read as of long ago."""
    lists: dict[str, list[int]] = {}
    operations = []
    for number in range(size):
        era = number // 1000
        keys = [f"k{era}.{(number * step) % 20}" for step in (1, 3, 7)]
        is_stale = stale_every and number % stale_every == stale_every - 1
        appended = lists.setdefault(keys[0], [])
        reads = [Read(resource="a", key=key, values=tuple(lists.get(key, []))) for key in dict.fromkeys(keys)]
        if is_stale:
            reads = [Read(resource="a", key=one.key, values=(one.values or ())[:-1]) for one in reads]
        appended.append(number)
        operations.append(
            Operation(
                id=number,
                process=number % 10,
                invoked_at=10 * number - 50,
                completed_at=10 * number + 45,
                outcome=Outcome.OK,
                actions=(*reads, Append(resource="a", key=keys[0], value=number)),
            )
        )
    return History(tuple(operations))


def test_ten_thousand_transactions_take_seconds() -> None:
    history = long_history(10_000)
    began = time.process_time()
    assert list_append.check(history) == []
    assert time.process_time() - began < 8


def test_ten_thousand_transactions_of_which_many_are_wrong_take_seconds() -> None:
    history = long_history(10_000, stale_every=50)
    began = time.process_time()
    assert list_append.check(history) != []
    assert time.process_time() - began < 20
