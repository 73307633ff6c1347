"""Exactly once: one effect and one reply for each id, however often it was sent.

Not for: the manager's own resends (tests/conformance/test_resends.py).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncpoint.testing.checkers import History, Operation, ReadEffects, Request, exactly_once
from tests.testing.checkers.histories import A, B, Slot, fail, kinds, of, ok, open_ended, patient, replaced, slots


def ask(reply: str = "done", *, content: str = "pay 5", id: str = "i", resources: tuple[str, ...] = ()) -> Request:
    return Request(id=id, content=content, reply=reply, resources=resources)


def effects(count: int, resource: str = A, id: str = "i") -> ReadEffects:
    return ReadEffects(id=id, resource=resource, count=count)


GOOD = {
    "once": [ok(1, 0, 1, ask()), ok(2, 2, 3, effects(1), effects(1, B), settled=True)],
    "sent again": [ok(1, 0, 1, ask()), ok(2, 2, 3, ask()), ok(3, 4, 5, effects(1), settled=True)],
    "sent again after silence": [open_ended(1, 0, ask()), ok(2, 2, 3, ask()), ok(3, 4, 5, effects(1), settled=True)],
    "sent again after a failure": [fail(1, 0, 1, ask()), ok(2, 2, 3, ask()), ok(3, 4, 5, effects(1), settled=True)],
    "failed": [fail(1, 0, 1, ask()), ok(2, 2, 3, effects(0), settled=True)],
    "silence, done": [open_ended(1, 0, ask()), ok(2, 2, 3, effects(1), effects(1, B), settled=True)],
    "silence, not done": [open_ended(1, 0, ask()), ok(2, 2, 3, effects(0), effects(0, B), settled=True)],
    "silence, done later": [open_ended(1, 0, ask(), end=1), ok(2, 2, 3, effects(0)), ok(3, 4, 5, effects(1))],
    "seen before the answer": [ok(1, 0, 9, ask()), ok(2, 2, 3, effects(1))],
    "not seen before the answer": [ok(1, 0, 9, ask()), ok(2, 2, 3, effects(0))],
    "another request under its id is refused": [
        ok(1, 0, 1, ask()),
        fail(2, 2, 3, ask(content="pay 7")),
        ok(3, 4, 5, effects(1), settled=True),
    ],
    "two ids": [ok(1, 0, 1, ask("1")), ok(2, 2, 3, ask("2", id="j")), ok(3, 4, 5, effects(1), effects(1, A, "j"))],
    "where it leaves no effect": [
        ok(1, 0, 1, ask(resources=(A,))),
        ok(2, 2, 3, effects(1), effects(0, B), settled=True),
    ],
    "what a failed request was answered does not matter": [fail(1, 0, 1, ask("no")), ok(2, 2, 3, ask("yes"))],
    "asked for after all had settled": [
        ok(1, 0, 1, effects(0), effects(0, B), settled=True),
        ok(2, 2, 3, ask()),
        ok(3, 4, 5, effects(1), effects(1, B), settled=True),
    ],
    "asked for after somebody looked elsewhere": [
        ok(1, 0, 1, effects(0, B), settled=True),
        ok(2, 2, 3, ask()),
        ok(3, 4, 5, effects(1), settled=True),
    ],
}

WRONG: dict[str, tuple[set[str], list[Operation]]] = {
    "twice": ({"done-twice"}, [ok(1, 0, 1, ask()), ok(2, 2, 3, effects(2))]),
    "sent again, and twice": ({"done-twice"}, [open_ended(1, 0, ask()), ok(2, 2, 3, ask()), ok(3, 4, 5, effects(2))]),
    "twice at one of two resources": (
        {"done-twice"},
        [ok(1, 0, 1, ask()), ok(2, 2, 3, effects(1), effects(2, B), settled=True)],
    ),
    "silence, and twice": ({"done-twice"}, [open_ended(1, 0, ask()), ok(2, 2, 3, effects(2))]),
    "acknowledged, not done": ({"not-done"}, [ok(1, 0, 1, ask()), ok(2, 2, 3, effects(0))]),
    "acknowledged, not done when settled": ({"not-done"}, [ok(1, 0, 1, ask()), ok(2, 2, 3, effects(0), settled=True)]),
    "acknowledged to the resend, not done": (
        {"not-done"},
        [open_ended(1, 0, ask()), ok(2, 2, 3, ask()), ok(3, 4, 5, effects(0))],
    ),
    "half": ({"half-done"}, [open_ended(1, 0, ask()), ok(2, 2, 3, effects(1), effects(0, B), settled=True)]),
    "half, seen by two": (
        {"half-done"},
        [open_ended(1, 0, ask()), ok(2, 2, 3, effects(0, B), settled=True), ok(3, 4, 5, effects(1), settled=True)],
    ),
    "half, acknowledged": (
        {"half-done", "not-done"},
        [ok(1, 0, 1, ask()), ok(2, 2, 3, effects(1), effects(0, B), settled=True)],
    ),
    "undone": ({"undone"}, [open_ended(1, 0, ask()), ok(2, 2, 3, effects(1)), ok(3, 4, 5, effects(0))]),
    "acknowledged and undone": ({"undone"}, [ok(1, 0, 1, ask()), ok(2, 2, 3, effects(1)), ok(3, 4, 5, effects(0))]),
    "refused, and done": ({"refused-but-done"}, [fail(1, 0, 1, ask()), ok(2, 2, 3, effects(1))]),
    "refused twice, and done": (
        {"refused-but-done"},
        [fail(1, 0, 1, ask()), fail(2, 2, 3, ask()), ok(3, 4, 5, effects(1))],
    ),
    "nobody asked": ({"done-unasked"}, [ok(1, 0, 1, ask()), ok(2, 2, 3, effects(1, A, "j"))]),
    "done before it was asked for": ({"done-unasked"}, [ok(1, 0, 1, effects(1)), ok(2, 2, 3, ask())]),
    "another reply": ({"reply-differs"}, [ok(1, 0, 1, ask("5 left")), ok(2, 2, 3, ask("4 left"))]),
    "another reply to the third": (
        {"reply-differs"},
        [ok(1, 0, 1, ask("5 left")), ok(2, 2, 3, ask("5 left")), ok(3, 4, 5, ask("already exists"))],
    ),
    "another request under its id": (
        {"other-request-accepted"},
        [ok(1, 0, 1, ask()), ok(2, 2, 3, ask(content="pay 7"))],
    ),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_right(operations: list[Operation]) -> None:
    assert exactly_once.check(of(*operations)) == []


@pytest.mark.parametrize(("expected", "operations"), WRONG.values(), ids=WRONG)
def test_wrong(expected: set[str], operations: list[Operation]) -> None:
    assert kinds(exactly_once.check(of(*operations))) == expected


def test_a_stale_read_may_miss_until_all_has_settled() -> None:
    late = [ok(1, 0, 1, ask()), ok(2, 2, 3, effects(0))]
    assert exactly_once.check(of(*late), stale_reads=True) == []
    assert kinds(exactly_once.check(of(*late, ok(3, 4, 5, effects(0), settled=True)), stale_reads=True)) == {"not-done"}


def play(draw: st.DrawFn, timed: list[Slot]) -> History:
    """Three ids, sent again and again; whoever comes after the first gets the first's reply."""
    done: dict[str, str] = {}
    operations = []
    for number, slot in enumerate(timed):
        id = draw(st.sampled_from("ijk"))
        if slot.has_effect and draw(st.integers(0, 3)) == 0:
            operations.append(slot.operation(number, effects(int(id in done), A, id), effects(int(id in done), B, id)))
        else:
            reply = done.get(id, f"reply {number}")
            operations.append(slot.operation(number, ask(reply, id=id, content=f"pay {id}")))
            if slot.has_effect:
                done[id] = reply
    end = 100 * len(timed) + 1000
    looks = [effects(int(id in done), where, id) for id in "ijk" for where in (A, B)]
    return of(*operations, ok("last", end, end + 1, *looks, settled=True))


@patient(40)
@given(slots(), st.data())
def test_what_an_execution_leaves_is_accepted(timed: list[Slot], data: st.DataObject) -> None:
    assert exactly_once.check(play(data.draw, timed)) == []


@patient(40)
@given(slots(certain=True), st.integers(0, 5), st.integers(0, 3), st.data())
def test_one_changed_count_is_rejected(timed: list[Slot], at: int, count: int, data: st.DataObject) -> None:
    history = play(data.draw, timed)
    looks = [look for look in history.operations[-1].actions if isinstance(look, ReadEffects)]
    looks[at] = effects(count if count != looks[at].count else 2, looks[at].resource, looks[at].id)
    assert exactly_once.check(replaced(history, len(history) - 1, looks)) != []
