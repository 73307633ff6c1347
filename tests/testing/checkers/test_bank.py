"""The bank: totals, and balances once all has settled.

Not for: which order of transfers explains what was read (test_list_append.py).
"""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncpoint.testing.checkers import BadHistory, History, Move, Open, Operation, ReadBalance, bank
from syncpoint.testing.checkers.history import AnyAction
from tests.testing.checkers.histories import A, B, Slot, fail, kinds, of, ok, open_ended, patient, replaced, slots

ACCOUNTS = ((A, "ann"), (B, "bob"), (B, "cyd"))


def opened(balance: int = 10) -> Operation:
    return ok("open", -9, -5, *(Open(resource=where, account=who, balance=balance) for where, who in ACCOUNTS))


def move(*amounts: int) -> list[AnyAction]:
    """What is added to ann, bob and cyd."""
    return [
        Move(resource=where, account=who, amount=amount)
        for (where, who), amount in zip(ACCOUNTS, amounts, strict=False)
        if amount
    ]


def balances(*found: int | None) -> list[AnyAction]:
    """What was read of ann, bob and cyd."""
    return [
        ReadBalance(resource=where, account=who, balance=balance)
        for (where, who), balance in zip(ACCOUNTS, found, strict=False)
    ]


def other(balance: int | None) -> ReadBalance:
    return ReadBalance(resource=A, account="zoe", balance=balance)


GOOD = {
    "nothing moved": [ok(1, 0, 1, *balances(10, 10, 10), settled=True)],
    "one transfer": [ok(1, 0, 1, *move(-3, 3)), ok(2, 2, 3, *balances(7, 13, 10), settled=True)],
    "seen before it ended": [ok(1, 0, 9, *move(-3, 3)), ok(2, 2, 3, *balances(7, 13, 10))],
    "failed": [fail(1, 0, 1, *move(-3, 3)), ok(2, 2, 3, *balances(10, 10, 10), settled=True)],
    "indeterminate, happened": [open_ended(1, 0, *move(-3, 3)), ok(2, 2, 3, *balances(7, 13, 10), settled=True)],
    "indeterminate, did not": [open_ended(1, 0, *move(-3, 3)), ok(2, 2, 3, *balances(10, 10, 10), settled=True)],
    "some of three": [
        open_ended(1, 0, *move(-3, 3)),
        open_ended(2, 0, *move(0, -1, 1)),
        open_ended(3, 0, *move(2, 0, -2)),
        ok(4, 2, 3, *balances(12, 9, 9), settled=True),
    ],
    "a reader of some accounts": [ok(1, 0, 1, *move(-3, 3)), ok(2, 2, 3, *balances(7))],
    "no such account": [ok(1, 0, 1, other(None), *balances(10, 10, 10))],
    "a transfer that reads": [ok(1, 0, 1, *balances(10, 10, 10), *move(-3, 3), *balances(7, 13))],
    "a failed reader may see anything": [fail(1, 0, 1, *balances(0, 0, 0))],
    "begun after the settled look": [
        ok(1, 0, 1, *balances(10, 10, 10), settled=True),
        ok(2, 2, 3, *move(-3, 3)),
        ok(3, 4, 5, *balances(7, 13, 10), settled=True),
    ],
}

WRONG: dict[str, tuple[set[str], list[Operation]]] = {
    "money lost": ({"wrong-total"}, [ok(1, 0, 1, *balances(10, 10, 9))]),
    "money made": ({"wrong-total"}, [ok(1, 0, 1, *balances(10, 10, 11))]),
    "fractured: one side of a transfer": (
        {"wrong-total"},
        [ok(1, 0, 9, *move(-3, 3)), ok(2, 2, 3, *balances(7, 10, 10))],
    ),
    "an account is gone": ({"missing-account", "wrong-total"}, [ok(1, 0, 1, *balances(10, None, 10))]),
    "an account is gone, alone": ({"missing-account"}, [ok(1, 0, 1, *balances(None))]),
    "an account from nowhere": ({"unknown-account"}, [ok(1, 0, 1, other(0), *balances(10, 10, 10))]),
    "money in an account from nowhere": (
        {"unknown-account", "wrong-total"},
        [ok(1, 0, 1, other(5), *balances(10, 10, 10))],
    ),
    "moved to an account from nowhere": (
        {"unknown-account"},
        [ok(1, 0, 1, *move(-3), Move(resource=A, account="zoe", amount=3))],
    ),
    "less than nothing": ({"negative-balance"}, [ok(1, 0, 1, *move(-13, 13)), ok(2, 2, 3, *balances(-3, 23, 10))]),
    "a transfer that does not add up": ({"unbalanced-transfer"}, [ok(1, 0, 1, *move(-3, 2))]),
    "an acknowledged transfer is lost": (
        {"unexplained-balance"},
        [ok(1, 0, 1, *move(-3, 3)), ok(2, 2, 3, *balances(10, 10, 10), settled=True)],
    ),
    "a failed transfer happened": (
        {"unexplained-balance"},
        [fail(1, 0, 1, *move(-3, 3)), ok(2, 2, 3, *balances(7, 13, 10), settled=True)],
    ),
    "a transfer happened twice": (
        {"unexplained-balance"},
        [ok(1, 0, 1, *move(-3, 3)), ok(2, 2, 3, *balances(4, 16, 10), settled=True)],
    ),
    "half of an indeterminate transfer": (
        {"unexplained-balance"},
        [open_ended(1, 0, *move(-3, 3)), ok(2, 2, 3, *balances(7, 10), settled=True)],
    ),
    "one side each of two indeterminate transfers": (
        {"unexplained-balance"},
        [
            open_ended(1, 0, *move(-3, 3)),
            open_ended(2, 0, *move(-5, 0, 5)),
            ok(3, 2, 3, *balances(5, 13, 15), settled=True),
        ],
    ),
    "an indeterminate transfer happened twice": (
        {"unexplained-balance"},
        [open_ended(1, 0, *move(-3, 3)), ok(2, 2, 3, *balances(4, 16, 10), settled=True)],
    ),
    "the wrong account": (
        {"unexplained-balance"},
        [ok(1, 0, 1, *move(-3, 3)), ok(2, 2, 3, *balances(7, 10, 13), settled=True)],
    ),
    "begun after the settled look that saw it": (
        {"unexplained-balance"},
        [ok(1, 0, 1, *balances(7, 13, 10), settled=True), ok(2, 2, 3, *move(-3, 3))],
    ),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_right(operations: list[Operation]) -> None:
    assert bank.check(of(opened(), *operations), may_be_negative=False) == []


@pytest.mark.parametrize(("found", "operations"), WRONG.values(), ids=WRONG)
def test_wrong(found: set[str], operations: list[Operation]) -> None:
    wrong = kinds(bank.check(of(opened(), *operations), may_be_negative=False))
    assert found <= wrong <= found | {"wrong-total"}


def test_debts_are_allowed_unless_told() -> None:
    assert bank.check(of(opened(), *WRONG["less than nothing"][1])) == []


def test_it_says_what_is_missing() -> None:
    [finding] = bank.check(of(opened(), ok(1, 0, 1, *balances(10, 10, 9))))
    assert str(finding) == (
        "wrong-total: T1 found 29 in all instead of 30, 1 too little (a/ann=10, b/bob=10, b/cyd=9)."
    )


@pytest.mark.parametrize(
    ("operations", "text"),
    [
        ([ok(1, 0, 1, *balances(1))], "No account was opened"),
        ([opened(), ok(1, 0, 1, Open(resource=A, account="ann", balance=1))], "again"),
        ([open_ended(1, 0, Open(resource=A, account="ann", balance=1))], "not known whether"),
    ],
)
def test_without_accounts_there_is_nothing_to_judge(operations: list[Operation], text: str) -> None:
    with pytest.raises(BadHistory, match=text):
        bank.check(of(*operations))


def test_many_transfers_of_unknown_outcome_take_no_time() -> None:
    amounts = [(number % 7 + 1) * (-1) ** number for number in range(300)]
    unknown = [open_ended(number, number, *move(-amount, amount)) for number, amount in enumerate(amounts)]
    done = sum(amounts[::3])
    began = time.process_time()
    history = of(opened(), *unknown, ok("r", 400, 401, *balances(10 - done, 10 + done, 10), settled=True))
    assert bank.check(history) == []
    assert time.process_time() - began < 2


# --- made at random --------------------------------------------------------------------------------------------


def play(draw: st.DrawFn, timed: list[Slot]) -> History:
    """Transfers and readers, one after the other; at last somebody looks at all accounts."""
    found = [10, 10, 10]
    operations = [opened()]
    for number, slot in enumerate(timed):
        if slot.has_effect and draw(st.booleans()):
            operations.append(slot.operation(number, *balances(*found)))
            continue
        amount = draw(st.integers(-9, 9))
        source, target = draw(st.sampled_from([(0, 1), (1, 2), (2, 0)]))
        amounts = [0, 0, 0]
        amounts[source], amounts[target] = -amount, amount
        operations.append(slot.operation(number, *move(*amounts)))
        if slot.has_effect:
            found = [old + new for old, new in zip(found, amounts, strict=True)]
    end = 100 * len(timed) + 1000
    return of(*operations, ok("last", end, end + 1, *balances(*found), settled=True))


@patient(40)
@given(slots(), st.data())
def test_what_an_execution_leaves_is_accepted(timed: list[Slot], data: st.DataObject) -> None:
    assert bank.check(play(data.draw, timed)) == []


@patient(40)
@given(slots(certain=True), st.integers(0, 2), st.integers(1, 5), st.booleans(), st.data())
def test_one_wrong_balance_is_rejected(
    timed: list[Slot], account: int, amount: int, is_moved: bool, data: st.DataObject
) -> None:
    """Made from nothing, or moved by nobody."""
    history = play(data.draw, timed)
    found = [one.balance or 0 for one in history.operations[-1].actions if isinstance(one, ReadBalance)]
    found[account] += amount
    found[(account + 1) % 3] -= amount * is_moved
    assert bank.check(replaced(history, len(history) - 1, balances(*found))) != []
