"""The counter: every value can be explained by additions that had happened by then.

Not for: several counters at once (test_list_append.py).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncpoint.testing.checkers import History, Increment, Operation, ReadCounter, counter
from tests.testing.checkers.histories import A, B, Slot, fail, kinds, of, ok, open_ended, patient, replaced, slots


def up(by: int = 1, resource: str = A) -> Increment:
    return Increment(resource=resource, key="n", by=by)


def value(found: int, resource: str = A) -> ReadCounter:
    return ReadCounter(resource=resource, key="n", value=found)


GOOD = {
    "nothing": [ok(1, 0, 1, value(0))],
    "one, two": [ok(1, 0, 1, up()), ok(2, 2, 3, value(1)), ok(3, 4, 5, up()), ok(4, 6, 7, value(2))],
    "at the same time, counted": [ok(1, 0, 9, up()), ok(2, 2, 3, value(1))],
    "at the same time, not yet": [ok(1, 0, 9, up()), ok(2, 2, 3, value(0))],
    "failed": [fail(1, 0, 1, up()), ok(2, 2, 3, value(0))],
    "indeterminate, counted": [open_ended(1, 0, up(5)), ok(2, 2, 3, value(5))],
    "indeterminate, not": [open_ended(1, 0, up(5)), ok(2, 2, 3, value(0), settled=True)],
    "indeterminate, counted later": [open_ended(1, 0, up(5), end=1), ok(2, 2, 3, value(0)), ok(3, 4, 5, value(5))],
    "two in one": [ok(1, 0, 1, up(2), up(3)), ok(2, 2, 3, value(5))],
    "down": [ok(1, 0, 1, up(5)), ok(2, 2, 3, up(-2)), ok(3, 4, 5, value(3))],
    "down, perhaps": [ok(1, 0, 1, up(5)), open_ended(2, 2, up(-2)), ok(3, 4, 5, value(3)), ok(4, 4, 5, value(5))],
    "another resource": [ok(1, 0, 1, up()), ok(2, 2, 3, value(0, B))],
}

WRONG: dict[str, tuple[set[str], list[Operation]]] = {
    "lost": ({"too-low"}, [ok(1, 0, 1, up()), ok(2, 2, 3, value(0))]),
    "one of two lost": ({"too-low"}, [ok(1, 0, 9, up()), ok(2, 0, 9, up()), ok(3, 10, 11, value(1))]),
    "lost when settled": ({"too-low"}, [ok(1, 0, 1, up()), ok(2, 2, 3, value(0), settled=True)]),
    "never below nothing": ({"too-low"}, [open_ended(1, 0, up()), ok(2, 2, 3, value(-1))]),
    "twice": ({"too-high"}, [ok(1, 0, 1, up()), ok(2, 2, 3, value(2))]),
    "from nowhere": ({"too-high"}, [ok(1, 0, 1, value(1))]),
    "aborted": ({"too-high"}, [fail(1, 0, 1, up()), ok(2, 2, 3, value(1))]),
    "from the future": ({"too-high"}, [ok(1, 0, 1, value(1)), ok(2, 2, 3, up())]),
    "from an uncertain future": ({"too-high"}, [ok(1, 0, 1, value(1)), open_ended(2, 2, up())]),
    "indeterminate, twice": ({"too-high"}, [open_ended(1, 0, up()), ok(2, 2, 3, value(2))]),
    "of another resource": ({"too-high"}, [ok(1, 0, 1, up(1, B)), ok(2, 2, 3, value(1))]),
    "half of one": ({"impossible-value"}, [open_ended(1, 0, up(5)), ok(2, 2, 3, value(3))]),
    "no choice of two": (
        {"impossible-value"},
        [open_ended(1, 0, up(5)), open_ended(2, 0, up(3)), ok(3, 2, 3, value(4))],
    ),
    "no choice with one down": (
        {"impossible-value"},
        [open_ended(1, 0, up(5)), open_ended(2, 0, up(-3)), ok(3, 2, 3, value(-1))],
    ),
    "back": ({"went-back"}, [open_ended(1, 0, up()), ok(2, 2, 3, value(1)), ok(3, 4, 5, value(0))]),
    "back, and on": (
        {"went-back"},
        [ok(1, 0, 20, up(2)), ok(2, 2, 3, value(2)), ok(3, 4, 5, value(0)), ok(4, 6, 7, value(2))],
    ),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_right(operations: list[Operation]) -> None:
    assert counter.check(of(*operations)) == []


@pytest.mark.parametrize(("expected", "operations"), WRONG.values(), ids=WRONG)
def test_wrong(expected: set[str], operations: list[Operation]) -> None:
    assert kinds(counter.check(of(*operations))) == expected


def test_a_stale_read_may_miss_until_all_has_settled() -> None:
    late = [ok(1, 0, 1, up()), ok(2, 2, 3, value(0))]
    assert counter.check(of(*late), stale_reads=True) == []
    assert kinds(counter.check(of(*late, ok(3, 4, 5, value(0), settled=True)), stale_reads=True)) == {"too-low"}


def test_large_amounts_are_held_to_their_limits() -> None:
    unknown = [open_ended(1, 0, up(10**9)), open_ended(2, 0, up(-(10**9)))]
    assert counter.check(of(*unknown, ok(3, 2, 3, value(1)))) == []
    assert kinds(counter.check(of(*unknown, ok(3, 2, 3, value(10**9 + 1))))) == {"too-high"}


def play(draw: st.DrawFn, timed: list[Slot]) -> History:
    count = 0
    operations = []
    for number, slot in enumerate(timed):
        if slot.has_effect and draw(st.booleans()):
            operations.append(slot.operation(number, value(count)))
        else:
            by = draw(st.integers(-2, 9))
            operations.append(slot.operation(number, up(by)))
            count += by * slot.has_effect
    end = 100 * len(timed) + 1000
    return of(*operations, ok("last", end, end + 1, value(count), settled=True))


@patient(40)
@given(slots(), st.data())
def test_what_an_execution_leaves_is_accepted(timed: list[Slot], data: st.DataObject) -> None:
    assert counter.check(play(data.draw, timed)) == []


@patient(40)
@given(slots(certain=True), st.integers(-20, 20).filter(bool), st.data())
def test_one_changed_read_is_rejected(timed: list[Slot], change: int, data: st.DataObject) -> None:
    history = play(data.draw, timed)
    reads = [(at, one.actions[0]) for at, one in enumerate(history) if isinstance(one.actions[0], ReadCounter)]
    at, action = data.draw(st.sampled_from(reads))
    assert isinstance(action, ReadCounter)
    assert counter.check(replaced(history, at, [value(action.value + change)])) != []
