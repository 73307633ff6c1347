"""The set: what was added is there, once, and nothing else.

Not for: the order in which it was added (test_list_append.py).
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syncpoint.testing.checkers import Add, History, Operation, ReadSet, sets
from syncpoint.testing.checkers.history import AnyAction, Name
from tests.testing.checkers.histories import A, B, Slot, fail, kinds, of, ok, open_ended, patient, replaced, slots


def add(element: Name, resource: str = A) -> Add:
    return Add(resource=resource, key="s", element=element)


def found(*elements: Name, resource: str = A) -> ReadSet:
    return ReadSet(resource=resource, key="s", elements=elements)


GOOD = {
    "nothing": [ok(1, 0, 1, found())],
    "added and found": [ok(1, 0, 1, add(1)), ok(2, 2, 3, add(2)), ok(3, 4, 5, found(2, 1))],
    "at the same time, found": [ok(1, 0, 9, add(1)), ok(2, 2, 3, found(1))],
    "at the same time, not found": [ok(1, 0, 9, add(1)), ok(2, 2, 3, found())],
    "failed": [fail(1, 0, 1, add(1)), ok(2, 2, 3, found(), settled=True)],
    "indeterminate, found": [open_ended(1, 0, add(1)), ok(2, 2, 3, found(1))],
    "indeterminate, not found": [open_ended(1, 0, add(1)), ok(2, 2, 3, found(), settled=True)],
    "indeterminate, found later": [open_ended(1, 0, add(1), end=1), ok(2, 2, 3, found()), ok(3, 4, 5, found(1))],
    "sent again": [fail(1, 0, 1, add(1)), ok(2, 2, 3, add(1)), ok(3, 4, 5, found(1))],
    "a failed reader may see anything": [fail(1, 0, 1, found(7))],
    "another resource": [ok(1, 0, 1, add(1)), ok(2, 2, 3, found(resource=B))],
}

WRONG: dict[str, tuple[set[str], list[Operation]]] = {
    "lost": ({"lost-element"}, [ok(1, 0, 1, add(1)), ok(2, 2, 3, found())]),
    "one of two lost": ({"lost-element"}, [ok(1, 0, 1, add(1), add(2)), ok(2, 2, 3, found(2))]),
    "lost at one of two resources": (
        {"lost-element"},
        [ok(1, 0, 1, add(1), add(1, B)), ok(2, 2, 3, found(1), found(resource=B))],
    ),
    "lost when settled": ({"lost-element"}, [ok(1, 0, 1, add(1)), ok(2, 2, 3, found(), settled=True)]),
    "lost, and back": ({"lost-element"}, [ok(1, 0, 1, add(1)), ok(2, 2, 3, found()), ok(3, 4, 5, found(1))]),
    "sent again, and lost": ({"lost-element"}, [open_ended(1, 0, add(1)), ok(2, 2, 3, add(1)), ok(3, 4, 5, found())]),
    "vanished": ({"vanished-element"}, [open_ended(1, 0, add(1)), ok(2, 2, 3, found(1)), ok(3, 4, 5, found())]),
    "vanished, though still being added": (
        {"vanished-element"},
        [ok(1, 0, 9, add(1)), ok(2, 2, 3, found(1)), ok(3, 4, 5, found())],
    ),
    "from nowhere": ({"phantom-element"}, [ok(1, 0, 1, found(7))]),
    "of another resource": ({"phantom-element"}, [ok(1, 0, 1, add(1, B)), ok(2, 2, 3, found(1))]),
    "aborted": ({"aborted-element"}, [fail(1, 0, 1, add(1)), ok(2, 2, 3, found(1))]),
    "aborted twice": ({"aborted-element"}, [fail(1, 0, 1, add(1)), fail(2, 2, 3, add(1)), ok(3, 4, 5, found(1))]),
    "from the future": ({"future-element"}, [ok(1, 0, 1, found(1)), ok(2, 2, 3, add(1))]),
    "from an uncertain future": ({"future-element"}, [ok(1, 0, 1, found(1)), open_ended(2, 2, add(1))]),
    "twice": ({"duplicate-element"}, [ok(1, 0, 1, add(1)), ok(2, 2, 3, found(1, 1))]),
    "sent again, and twice": (
        {"duplicate-element"},
        [open_ended(1, 0, add(1)), ok(2, 2, 3, add(1)), ok(3, 4, 5, found(1, 1))],
    ),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_right(operations: list[Operation]) -> None:
    assert sets.check(of(*operations)) == []


@pytest.mark.parametrize(("expected", "operations"), WRONG.values(), ids=WRONG)
def test_wrong(expected: set[str], operations: list[Operation]) -> None:
    assert kinds(sets.check(of(*operations))) == expected


def test_a_stale_read_may_miss_until_all_has_settled() -> None:
    late = [ok(1, 0, 1, add(1)), ok(2, 2, 3, found())]
    assert sets.check(of(*late), stale_reads=True) == []
    assert kinds(sets.check(of(*late, ok(3, 4, 5, found(), settled=True)), stale_reads=True)) == {"lost-element"}


def test_each_element_is_told_once() -> None:
    [finding] = sets.check(of(ok(1, 0, 1, add(1)), *(ok(n, 2 * n, 2 * n + 1, found()) for n in range(2, 9))))
    assert finding.sentence == "T2, which began after T1 had ended, read a/s = [], without 1, but T1 had added it."


def play(draw: st.DrawFn, timed: list[Slot]) -> History:
    there: list[Name] = []
    operations = []
    for number, slot in enumerate(timed):
        if slot.has_effect and draw(st.booleans()):
            operations.append(slot.operation(number, found(*there)))
        else:
            actions: list[AnyAction] = [add(10 * number + step) for step in range(draw(st.integers(1, 3)))]
            operations.append(slot.operation(number, *actions))
            if slot.has_effect:
                there += [action.element for action in actions if isinstance(action, Add)]
    end = 100 * len(timed) + 1000
    return of(*operations, ok("last", end, end + 1, found(*there), settled=True))


@patient(40)
@given(slots(), st.data())
def test_what_an_execution_leaves_is_accepted(timed: list[Slot], data: st.DataObject) -> None:
    assert sets.check(play(data.draw, timed)) == []


@patient(40)
@given(slots(certain=True), st.data())
def test_one_changed_read_is_rejected(timed: list[Slot], data: st.DataObject) -> None:
    history = play(data.draw, timed)
    reads = [(at, one.actions[0]) for at, one in enumerate(history) if isinstance(one.actions[0], ReadSet)]
    at, action = data.draw(st.sampled_from(reads))
    assert isinstance(action, ReadSet)
    other = data.draw(st.lists(st.sampled_from([*action.elements, 1000, 10]), max_size=8))
    assume(sorted(other, key=str) != sorted(action.elements, key=str))
    assert sets.check(replaced(history, at, [found(*other)])) != []
