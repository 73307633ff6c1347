"""List-append against histories made at random: what a serial execution leaves is accepted, one change to it is not,
and on any small history the checker says what trying every order says.

Not for: what the findings say (test_list_append.py).
"""

from __future__ import annotations

from collections import defaultdict
from random import Random

from hypothesis import assume, event, given
from hypothesis import strategies as st

from syncpoint.testing.checkers import Append, History, Operation, Outcome, Read, list_append
from syncpoint.testing.checkers.history import AnyAction, Name
from tests.testing.checkers.brute_force import is_serializable
from tests.testing.checkers.histories import Slot, append, fail, of, ok, open_ended, patient, read, replaced, slots

KEYS = ("x", "y")


@st.composite
def executed(draw: st.DrawFn, *, most: int = 12, certain: bool = False) -> History:
    """What is left of an execution, one after the other, in which clients see no more than clients can."""
    lists: dict[str, list[Name]] = {key: [] for key in KEYS}
    operations = []
    for number, slot in enumerate(draw(slots(most=most, certain=certain))):
        operations.append(slot.operation(number, *_execute(draw, number, slot, lists)))
    return History(tuple(operations))


def _execute(draw: st.DrawFn, number: int, slot: Slot, lists: dict[str, list[Name]]) -> list[AnyAction]:
    seen = {key: list(values) for key, values in lists.items()}
    actions: list[AnyAction] = []
    for step in range(draw(st.integers(1, 4))):
        key = draw(st.sampled_from(KEYS))
        if draw(st.booleans()):
            seen[key].append(10 * number + step)
            actions.append(Append(resource="a", key=key, value=10 * number + step))
        else:
            is_known = slot.outcome is Outcome.OK or draw(st.booleans())
            actions.append(Read(resource="a", key=key, values=tuple(seen[key]) if is_known else None))
    if slot.has_effect:
        lists.update(seen)
    return actions


@patient(60)
@given(executed())
def test_what_an_execution_leaves_is_accepted(history: History) -> None:
    assert list_append.check(history) == []


@patient(60)
@given(executed(certain=True), st.data())
def test_one_changed_read_is_rejected(history: History, data: st.DataObject) -> None:
    """Nothing overlaps, so every read has exactly one right answer."""
    reads = [
        (at, place, action)
        for at, operation in enumerate(history)
        for place, action in enumerate(operation.actions)
        if isinstance(action, Read)
    ]
    assume(reads)
    at, place, action = data.draw(st.sampled_from(reads))
    values = data.draw(st.one_of(st.permutations(action.values or ()), st.lists(st.integers(0, 120), max_size=4)))
    assume(tuple(values) != action.values)
    actions = list(history.operations[at].actions)
    actions[place] = Read(resource="a", key=action.key, values=tuple(values))
    assert list_append.check(replaced(history, at, actions)) != []


def anything(random: Random) -> History:
    """Up to six operations that overlap at random, and read what might be there in some world."""
    plans = [
        [(random.random() < 0.5, random.choice(KEYS)) for _ in range(random.randint(1, 3))]
        for _ in range(random.randint(1, 6))
    ]
    appended: dict[str, list[Name]] = {key: [] for key in KEYS}
    for number, plan in enumerate(plans):
        for step, (is_append, key) in enumerate(plan):
            if is_append:
                appended[key].append(10 * number + step)
    orders = {key: random.sample(values, len(values)) for key, values in appended.items()}
    return of(*(_anything(random, number, plan, orders) for number, plan in enumerate(plans)))


def _anything(random: Random, number: int, plan: list[tuple[bool, str]], orders: dict[str, list[Name]]) -> Operation:
    actions = [
        append(key, 10 * number + step) if is_append else read(key, *_seen(random, orders[key]))
        for step, (is_append, key) in enumerate(plan)
    ]
    begin, length = random.randint(0, 12), random.randint(0, 12)
    match random.randint(0, 6):
        case 0:
            return fail(number, begin, begin + length, *actions)
        case 1:
            return open_ended(number, begin, *actions, end=random.choice([None, begin + length]))
        case _:
            return ok(number, begin, begin + length, *actions)


def _seen(random: Random, order: list[Name]) -> list[Name]:
    """Mostly the beginning of the one order, now and then of another."""
    if random.random() < 0.1:
        order = random.sample(order, len(order))
    return order[: random.randint(0, len(order))]


def compare(history: History, *, real_time: bool) -> bool:
    """Whether it is right, on which both agree."""
    right = is_serializable(history, real_time=real_time)
    found = list_append.check(history, real_time=real_time)
    assert (found == []) == right, "\n".join(map(str, [history, *found]))
    return right


@patient(100)
@given(st.randoms(use_true_random=False), st.booleans())
def test_it_says_what_trying_every_order_says(random: Random, real_time: bool) -> None:
    compare(anything(random), real_time=real_time)


def test_it_says_so_of_thousands() -> None:
    """The same without shrinking, and so ten times as quick. The seed is the number of the history."""
    right = 0
    for seed in range(4000):
        try:
            right += compare(anything(Random(seed)), real_time=seed % 2 == 0)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
    assert 1000 < right < 3000  # it tells apart


@patient(100)
@given(executed(most=6), st.data())
def test_it_says_the_same_of_one_read_changed_a_little(history: History, data: st.DataObject) -> None:
    """Nearer to right histories than those at random."""
    reads = defaultdict(list)
    for at, operation in enumerate(history):
        for place, action in enumerate(operation.actions):
            if isinstance(action, Read) and action.values:
                reads[at].append((place, action))
    assume(reads)
    at = data.draw(st.sampled_from(sorted(reads)))
    place, action = data.draw(st.sampled_from(reads[at]))
    assert action.values is not None
    actions = list(history.operations[at].actions)
    actions[place] = Read(resource="a", key=action.key, values=action.values[: data.draw(st.integers(0, 3))])
    changed = replaced(history, at, actions)
    right = is_serializable(changed)
    event(f"serializable: {right}")
    assert (list_append.check(changed) == []) == right
