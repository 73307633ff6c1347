"""Authority: one holder at a time, a term for each holding, and no work outside it.

Not for: the token itself.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncpoint.testing.checkers import Act, History, Hold, Operation, authority
from tests.testing.checkers.histories import fail, kinds, of, ok, open_ended, patient


def hold(holder: str, term: int, domain: str = "d") -> Hold:
    return Hold(domain=domain, holder=holder, term=term)


def act(holder: str, term: int, domain: str = "d") -> Act:
    return Act(domain=domain, holder=holder, term=term)


GOOD = {
    "one after the other": [ok(1, 0, 5, hold("p", 1)), ok(2, 6, 9, hold("q", 2))],
    "when one ends another begins": [ok(1, 0, 5, hold("p", 1)), ok(2, 5, 9, hold("q", 2))],
    "the same again, under another term": [ok(1, 0, 5, hold("p", 1)), ok(2, 5, 9, hold("p", 2))],
    "terms left out": [ok(1, 0, 5, hold("p", 1)), ok(2, 5, 9, hold("q", 7))],
    "two domains": [ok(1, 0, 5, hold("p", 1)), ok(2, 0, 5, hold("q", 1, "e"))],
    "refused": [ok(1, 0, 5, hold("p", 1)), fail(2, 2, 3, hold("q", 1))],
    "not known": [ok(1, 0, 5, hold("p", 1)), open_ended(2, 2, hold("q", 2))],
    "an instant": [ok(1, 0, 5, hold("p", 1)), ok(2, 5, 5, hold("q", 2)), ok(3, 5, 9, hold("r", 3))],
    "work": [ok(1, 0, 5, hold("p", 1)), ok(2, 1, 2, act("p", 1)), ok(3, 5, 9, hold("q", 2)), ok(4, 6, 7, act("q", 2))],
    "work answered late": [ok(1, 0, 5, hold("p", 1)), ok(2, 4, 8, act("p", 1))],
    "work refused": [ok(1, 0, 5, hold("p", 1)), ok(2, 5, 9, hold("q", 2)), fail(3, 8, 9, act("p", 1))],
    "work of one who perhaps held it": [open_ended(1, 0, hold("p", 1), end=2), ok(2, 4, 5, act("p", 1))],
}

WRONG: dict[str, tuple[set[str], list[Operation]]] = {
    "overlap": ({"overlap"}, [ok(1, 0, 5, hold("p", 1)), ok(2, 4, 9, hold("q", 2))]),
    "one within another": ({"overlap"}, [ok(1, 0, 9, hold("p", 1)), ok(2, 4, 5, hold("q", 2))]),
    "exactly at the same time": ({"overlap"}, [ok(1, 0, 9, hold("p", 1)), ok(2, 0, 9, hold("q", 2))]),
    "with one long before": (
        {"overlap"},
        [ok(1, 0, 20, hold("p", 1)), ok(2, 20, 21, hold("q", 3)), ok(3, 15, 16, hold("r", 2))],
    ),
    "with itself": ({"overlap"}, [ok(1, 0, 5, hold("p", 1)), ok(2, 4, 9, hold("p", 2))]),
    "in the second domain": (
        {"overlap"},
        [ok(1, 0, 5, hold("p", 1)), ok(2, 0, 5, hold("q", 1, "e")), ok(3, 4, 9, hold("r", 2, "e"))],
    ),
    "a term for two": ({"term-twice"}, [ok(1, 0, 5, hold("p", 1)), ok(2, 5, 9, hold("q", 1))]),
    "a term continued": ({"term-twice"}, [ok(1, 0, 5, hold("p", 1)), ok(2, 7, 9, hold("p", 1))]),
    "a term for two at once": ({"term-twice", "overlap"}, [ok(1, 0, 5, hold("p", 1)), ok(2, 4, 9, hold("q", 1))]),
    "a lower term": ({"term-went-back"}, [ok(1, 0, 5, hold("p", 2)), ok(2, 5, 9, hold("q", 1))]),
    "a lower term, two later": (
        {"term-went-back"},
        [ok(1, 0, 5, hold("p", 2)), ok(2, 5, 9, hold("q", 5)), ok(3, 9, 12, hold("r", 3))],
    ),
    "work without": ({"acted-without"}, [ok(1, 0, 5, hold("p", 1)), ok(2, 1, 2, act("q", 1))]),
    "work under another term": ({"acted-without"}, [ok(1, 0, 5, hold("p", 1)), ok(2, 1, 2, act("p", 2))]),
    "work of one who was refused": ({"acted-without"}, [fail(1, 0, 5, hold("p", 1)), ok(2, 1, 2, act("p", 1))]),
    "work too late": ({"acted-outside"}, [ok(1, 0, 5, hold("p", 1)), ok(2, 6, 7, act("p", 1))]),
    "work too early": ({"acted-outside"}, [ok(1, 3, 5, hold("p", 1)), ok(2, 1, 2, act("p", 1))]),
    "work before one who perhaps held it": (
        {"acted-outside"},
        [open_ended(1, 3, hold("p", 1)), ok(2, 1, 2, act("p", 1))],
    ),
    "stale work": (
        {"stale-accepted"},
        [
            ok(1, 0, 5, hold("p", 1)),
            ok(2, 5, 9, hold("q", 2)),
            ok(3, 6, 7, act("q", 2)),
            open_ended(4, 0, hold("p", 1)),
            ok(5, 8, 9, act("p", 1)),
        ],
    ),
    "a woken holder writes": (
        {"stale-accepted", "acted-outside"},
        [ok(1, 0, 5, hold("p", 1)), ok(2, 5, 9, hold("q", 2)), ok(3, 6, 7, act("q", 2)), ok(4, 8, 9, act("p", 1))],
    ),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_right(operations: list[Operation]) -> None:
    assert authority.check(of(*operations)) == []


@pytest.mark.parametrize(("expected", "operations"), WRONG.values(), ids=WRONG)
def test_wrong(expected: set[str], operations: list[Operation]) -> None:
    assert kinds(authority.check(of(*operations))) == expected


def play(lengths: list[int]) -> History:
    """One holding after the other, each with some work in its middle."""
    operations = []
    at = 0
    for number, length in enumerate(lengths, 1):
        middle = at + length // 2
        operations += [
            ok(f"hold {number}", at, at + length, hold(f"p{number % 3}", number)),
            ok(f"act {number}", middle, middle + 3, act(f"p{number % 3}", number)),
        ]
        at += length
    return of(*operations)


LENGTHS = st.lists(st.integers(10, 20), min_size=2, max_size=8)


@patient(40)
@given(LENGTHS)
def test_what_an_execution_leaves_is_accepted(lengths: list[int]) -> None:
    assert authority.check(play(lengths)) == []


@patient(40)
@given(LENGTHS, st.integers(1, 9), st.data())
def test_one_who_begins_early_is_found(lengths: list[int], early: int, data: st.DataObject) -> None:
    operations = list(play(lengths))
    at = 2 * data.draw(st.integers(1, len(lengths) - 1))
    one = operations[at]
    assert one.completed_at is not None
    operations[at] = ok(one.id, one.invoked_at - early, one.completed_at, *one.actions)
    assert "overlap" in kinds(authority.check(of(*operations)))


@patient(40)
@given(LENGTHS, st.data())
def test_two_who_swap_their_terms_are_found(lengths: list[int], data: st.DataObject) -> None:
    operations = list(play(lengths))
    first, second = sorted(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=2, max_size=2, unique=True)))
    one, other = operations[2 * first], operations[2 * second]
    assert one.completed_at is not None
    assert other.completed_at is not None
    operations[2 * first] = ok(one.id, one.invoked_at, one.completed_at, *other.actions)
    operations[2 * second] = ok(other.id, other.invoked_at, other.completed_at, *one.actions)
    assert "term-went-back" in kinds(authority.check(of(*operations)))
