"""Atomicity: everywhere or nowhere, and nothing left when all has settled.

Not for: what a branch wrote (test_bank.py).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncpoint.testing.checkers import (
    BranchState,
    End,
    History,
    Operation,
    Outcome,
    SeeBranch,
    SeeLock,
    atomicity,
)
from syncpoint.testing.checkers.history import AnyAction
from tests.testing.checkers.histories import A, B, Slot, fail, kinds, of, ok, open_ended, patient, replaced, slots

COMMITTED, ABORTED, IN_DOUBT, ACTIVE = (
    BranchState.COMMITTED,
    BranchState.ABORTED,
    BranchState.IN_DOUBT,
    BranchState.ACTIVE,
)


def end(*resources: str, name: str = "t") -> End:
    return End(transaction=name, resources=resources)


def see(state: BranchState, resource: str = A, name: str = "t") -> SeeBranch:
    return SeeBranch(transaction=name, resource=resource, state=state)


def lock(holder: str = "t") -> SeeLock:
    return SeeLock(resource=A, locked="account 1", holder=holder)


GOOD = {
    "committed": [ok(1, 0, 1, end(A, B)), ok(2, 2, 3, see(COMMITTED), see(COMMITTED, B), settled=True)],
    "aborted": [fail(1, 0, 1, end(A, B)), ok(2, 2, 3, see(ABORTED), see(ABORTED, B), settled=True)],
    "in doubt for a while": [
        ok(1, 0, 1, end(A, B)),
        ok(2, 2, 3, see(COMMITTED), see(IN_DOUBT, B)),
        ok(3, 4, 5, see(COMMITTED), see(COMMITTED, B), settled=True),
    ],
    "indeterminate, committed": [open_ended(1, 0, end(A, B)), ok(2, 2, 3, see(COMMITTED), see(COMMITTED, B))],
    "indeterminate, aborted": [open_ended(1, 0, end(A, B)), ok(2, 2, 3, see(ABORTED), see(ABORTED, B))],
    "locked for a while": [ok(1, 0, 9, end(A)), ok(2, 2, 3, see(ACTIVE), lock())],
    "asked again": [open_ended(1, 0, end(A)), ok(2, 2, 3, end(A)), ok(3, 4, 5, see(COMMITTED), settled=True)],
    "nobody looked there": [ok(1, 0, 1, end(A, B)), ok(2, 2, 3, see(COMMITTED), settled=True)],
    "what a failed look says does not count": [ok(1, 0, 1, end(A)), fail(2, 2, 3, see(ABORTED))],
    "committed after all had settled once": [
        ok(1, 0, 1, see(ABORTED, A, "u"), settled=True),
        ok(2, 2, 3, end(A)),
        fail(3, 0, 1, end(A, name="u")),
    ],
    "two transactions": [
        ok(1, 0, 1, end(A)),
        fail(2, 0, 1, end(A, name="u")),
        ok(3, 2, 3, see(COMMITTED), see(ABORTED, A, "u")),
    ],
}

WRONG: dict[str, tuple[set[str], list[Operation]]] = {
    "torn": ({"torn"}, [open_ended(1, 0, end(A, B)), ok(2, 2, 3, see(COMMITTED), see(ABORTED, B))]),
    "torn, seen by two": (
        {"torn"},
        [open_ended(1, 0, end(A, B)), ok(2, 2, 3, see(COMMITTED)), ok(3, 4, 5, see(ABORTED, B))],
    ),
    "torn, acknowledged": (
        {"torn", "acknowledged-but-aborted"},
        [ok(1, 0, 1, end(A, B)), ok(2, 2, 3, see(COMMITTED), see(ABORTED, B))],
    ),
    "torn, refused": (
        {"torn", "refused-but-committed"},
        [fail(1, 0, 1, end(A, B)), ok(2, 2, 3, see(COMMITTED), see(ABORTED, B))],
    ),
    "torn from the journal": (
        {"torn"},
        [open_ended(1, 0, end(A)), ok(2, 2, 3, see(COMMITTED, "journal"), see(ABORTED))],
    ),
    "changed to aborted": (
        {"changed-outcome"},
        [open_ended(1, 0, end(A)), ok(2, 2, 3, see(COMMITTED)), ok(3, 4, 5, see(ABORTED))],
    ),
    "changed to committed": (
        {"changed-outcome"},
        [open_ended(1, 0, end(A)), ok(2, 2, 3, see(ABORTED)), ok(3, 4, 5, see(COMMITTED))],
    ),
    "acknowledged, aborted": ({"acknowledged-but-aborted"}, [ok(1, 0, 1, end(A)), ok(2, 2, 3, see(ABORTED))]),
    "refused, committed": ({"refused-but-committed"}, [fail(1, 0, 1, end(A)), ok(2, 2, 3, see(COMMITTED))]),
    "refused, committed later": (
        {"refused-but-committed"},
        [fail(1, 0, 1, end(A)), ok(2, 2, 3, see(IN_DOUBT)), ok(3, 4, 5, see(COMMITTED))],
    ),
    "both answers": ({"both-answers"}, [ok(1, 0, 1, end(A)), fail(2, 2, 3, end(A))]),
    "nobody asked": ({"committed-unasked"}, [ok(1, 0, 1, see(COMMITTED))]),
    "committed before it was asked for": (
        {"committed-unasked"},
        [ok(1, 0, 1, see(COMMITTED)), ok(2, 2, 3, end(A))],
    ),
    "left in doubt": ({"left-in-doubt"}, [open_ended(1, 0, end(A)), ok(2, 2, 3, see(IN_DOUBT), settled=True)]),
    "acknowledged, left in doubt": ({"left-in-doubt"}, [ok(1, 0, 1, end(A)), ok(2, 2, 3, see(IN_DOUBT), settled=True)]),
    "left active": ({"left-active"}, [open_ended(1, 0, end(A)), ok(2, 2, 3, see(ACTIVE), settled=True)]),
    "left locked": ({"left-locked"}, [ok(1, 0, 1, end(A)), ok(2, 2, 3, see(COMMITTED), lock(), settled=True)]),
    "left locked by nobody": ({"left-locked"}, [ok(1, 0, 1, lock(""), settled=True)]),
    "acknowledged, and nowhere to be seen": (
        {"unaccounted"},
        [ok(1, 0, 1, end(A, B)), ok(2, 2, 3, see(COMMITTED), see(COMMITTED, B, "u"), end(name="u"), settled=True)],
    ),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_right(operations: list[Operation]) -> None:
    assert atomicity.check(of(*operations)) == []


@pytest.mark.parametrize(("expected", "operations"), WRONG.values(), ids=WRONG)
def test_wrong(expected: set[str], operations: list[Operation]) -> None:
    assert kinds(atomicity.check(of(*operations))) == expected


def play(draw: st.DrawFn, timed: list[Slot]) -> History:
    """Transactions that happen or not; lookers in between find some branches still in doubt."""
    operations = []
    last: list[AnyAction] = []
    for number, slot in enumerate(timed):
        name = f"t{number}"
        operations.append(slot.operation(number, end(A, B, name=name)))
        state = COMMITTED if slot.has_effect else ABORTED
        last += [see(state, A, name), see(state, B, name)]
        if slot.has_effect or slot.outcome is not Outcome.OK:
            point = 100 * (number + 1)
            seen = [see(draw(st.sampled_from([IN_DOUBT, state])), where, name) for where in (A, B)]
            operations.append(ok(f"look {number}", point + 1, point + 2, *seen))
    done = 100 * len(timed) + 1000
    return of(*operations, ok("last", done, done + 1, *last, settled=True))


@patient(40)
@given(slots(), st.data())
def test_what_an_execution_leaves_is_accepted(timed: list[Slot], data: st.DataObject) -> None:
    assert atomicity.check(play(data.draw, timed)) == []


@patient(40)
@given(slots(), st.data())
def test_one_changed_branch_is_rejected(timed: list[Slot], data: st.DataObject) -> None:
    history = play(data.draw, timed)
    looks = [look for look in history.operations[-1].actions if isinstance(look, SeeBranch)]
    at = data.draw(st.integers(0, len(looks) - 1))
    other = data.draw(st.sampled_from([state for state in BranchState if state is not looks[at].state]))
    looks[at] = see(other, looks[at].resource, looks[at].transaction)
    assert atomicity.check(replaced(history, len(history) - 1, looks)) != []
