"""The bank: accounts are opened, money moves between them, and the total never changes.

What is checked:

    every operation that is OK and read all accounts found the total that was opened
    every account that was opened can be read, and no other has money
    each transfer's amounts add up to nothing (else the test is wrong, not what it tests)
    settled: every balance is what the transfers that are OK make it, plus those of some that are INDETERMINATE, the
    same ones at all accounts, each whole or not at all; nothing of those that are FAIL

Time is linear in the history, plus, for each settled read, the combinations of transfers that are INDETERMINATE; beyond
a bound the accounts are explained one by one, which may miss something and never accuses wrongly. Not for: who read
what when (list_append.py does that).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from syncpoint.testing.checkers.finding import Finding, Kind, at
from syncpoint.testing.checkers.history import BadHistory, History, Move, Open, Operation, Outcome, ReadBalance

COMBINATIONS_MAX = 5_000
"""So many states of all accounts together are kept while transfers of unknown outcome are combined."""

Place: TypeAlias = tuple[str, str]
Amounts: TypeAlias = dict[Place, int]


def check(history: History, *, may_be_negative: bool = True) -> list[Finding]:
    """Returns what is wrong, [] when nothing is.

    Parameters: `may_be_negative`: whether an account may have less than nothing. Raises BadHistory when no account was
    opened, or one twice.
    """
    opened = _opened(history)
    return [
        *_judge_transfers(history, opened),
        *(finding for operation in history.ended(Outcome.OK) for finding in _judge_read(operation, opened)),
        *(() if may_be_negative else _judge_negative(history)),
        *_judge_settled(history, opened),
    ]


def _opened(history: History) -> Amounts:
    opened: Amounts = {}
    for operation in history:
        for action in operation.actions:
            if isinstance(action, Open) and operation.outcome is not Outcome.FAIL:
                if operation.outcome is Outcome.INDETERMINATE:
                    raise BadHistory(f"It is not known whether {operation} opened {at(action.place)}.")
                if action.place in opened:
                    raise BadHistory(f"{operation} opened {at(action.place)} again.")
                opened[action.place] = action.balance
    if not opened:
        raise BadHistory("No account was opened, so the total is not known.", advice="Begin with an Open for each.")
    return opened


def _finding(kind: Kind, sentence: str, *operations: Operation) -> Finding:
    return Finding(workload="bank", kind=kind, sentence=sentence, operations=operations)


def _moved(operation: Operation) -> Amounts:
    amounts: defaultdict[Place, int] = defaultdict(int)
    for action in operation.actions:
        if isinstance(action, Move):
            amounts[action.place] += action.amount
    return amounts


def _read(operation: Operation) -> dict[Place, int | None]:
    return {action.place: action.balance for action in operation.actions if isinstance(action, ReadBalance)}


# --- single operations ---------------------------------------------------------------------------------------


def _judge_transfers(history: History, opened: Amounts) -> Iterator[Finding]:
    for operation in history:
        amounts = _moved(operation)
        total = sum(amounts.values())
        if total:
            text = f"{operation} moves amounts that add up to {total}, not to nothing: the transfer itself is wrong."
            yield _finding(Kind.UNBALANCED_TRANSFER, text, operation)
        for place in (place for place in amounts if place not in opened):
            text = f"{operation} moves {amounts[place]} to {at(place)}, which was never opened."
            yield _finding(Kind.UNKNOWN_ACCOUNT, text, operation)


def _judge_read(operation: Operation, opened: Amounts) -> Iterator[Finding]:
    found = _read(operation)
    for place, balance in found.items():
        if balance is None and place in opened:
            yield _finding(Kind.MISSING_ACCOUNT, f"{operation} did not find {at(place)}, which was opened.", operation)
        elif balance is not None and place not in opened:
            text = f"{operation} found {balance} at {at(place)}, which was never opened."
            yield _finding(Kind.UNKNOWN_ACCOUNT, text, operation)
    if opened.keys() <= found.keys() and not _moved(operation):
        total, right = sum(balance or 0 for balance in found.values()), sum(opened.values())
        if total != right:
            balances = ", ".join(f"{at(place)}={balance}" for place, balance in found.items())
            change = f"{abs(total - right)} {'too much' if total > right else 'too little'}"
            text = f"{operation} found {total} in all instead of {right}, {change} ({balances})."
            yield _finding(Kind.WRONG_TOTAL, text, operation)


def _judge_negative(history: History) -> Iterator[Finding]:
    for operation in history.ended(Outcome.OK):
        for place, balance in _read(operation).items():
            if balance is not None and balance < 0:
                yield _finding(Kind.NEGATIVE_BALANCE, f"{operation} found {balance} at {at(place)}.", operation)


# --- when all has settled ------------------------------------------------------------------------------------


def _judge_settled(history: History, opened: Amounts) -> Iterator[Finding]:
    """Each settled read against what the transfers make of the accounts."""
    transfers = [(one, _moved(one)) for one in history if one.outcome is not Outcome.FAIL]
    transfers = [(one, amounts) for one, amounts in transfers if amounts]
    for reader in history.ended(Outcome.OK):
        if not reader.settled or not _read(reader):
            continue
        sure = dict(opened)
        perhaps = []
        for operation, amounts in transfers:
            if operation.precedes(reader):
                for place, amount in amounts.items():
                    sure[place] = sure.get(place, 0) + amount
            elif not reader.cannot_have_seen(operation):
                perhaps.append((operation, amounts))
        yield from _judge_balances(reader, sure, perhaps)


def _judge_balances(reader: Operation, sure: Amounts, perhaps: list[tuple[Operation, Amounts]]) -> Iterator[Finding]:
    balances = {place: balance for place, balance in _read(reader).items() if balance is not None and place in sure}
    missing = {place: balance - sure[place] for place, balance in balances.items()}
    unexplained = [place for place in missing if not _reachable(missing[place], place, perhaps)]
    for place in unexplained:
        text = (
            f"{reader} found {balances[place]} at {at(place)} when all had settled, but the transfers that certainly "
            f"happened make it {sure[place]}, and no choice of the {len(perhaps)} uncertain ones makes the difference."
        )
        yield _finding(Kind.UNEXPLAINED_BALANCE, text, reader)
    if not unexplained and not _explained_together(missing, [amounts for _, amounts in perhaps]):
        differing = ", ".join(f"{at(place)} by {amount}" for place, amount in missing.items() if amount)
        text = (
            f"{reader} found balances when all had settled that differ from the transfers that certainly happened "
            f"({differing}), and no choice of whole transfers among the {len(perhaps)} uncertain ones explains that."
        )
        yield _finding(Kind.UNEXPLAINED_BALANCE, text, reader)


def _reachable(missing: int, place: Place, possible: Iterable[tuple[Operation, Amounts]]) -> bool:
    """Whether some of the transfers make up for what is missing at one account."""
    sums = {0}
    for _, amounts in possible:
        if amounts.get(place):
            sums |= {amount + amounts[place] for amount in sums}
            if len(sums) > COMBINATIONS_MAX:
                return True
    return missing in sums


def _explained_together(missing: Amounts, possible: list[Mapping[Place, int]]) -> bool:
    """Whether one choice of transfers makes up for what is missing at all accounts that were read. True too when there
    are too many combinations to say. A state is dropped as soon as no later transfer can mend one of its accounts."""
    places = list(missing)
    states = {tuple(missing[place] for place in places)}
    moves = [tuple(amounts.get(place, 0) for place in places) for amounts in possible]
    columns = range(len(places))
    # One account after the other, so that each is done with as early as possible.
    moves = sorted(filter(any, moves), key=lambda move: next(column for column in columns if move[column]))
    last = [max((at for at, move in enumerate(moves) if move[column]), default=-1) for column in columns]
    states = {state for state in states if not any(state[column] for column in columns if last[column] < 0)}
    for number, move in enumerate(moves):
        states |= {tuple(left - part for left, part in zip(state, move, strict=True)) for state in states}
        done = [column for column in columns if last[column] == number]
        states = {state for state in states if not any(state[column] for column in done)}
        if len(states) > COMBINATIONS_MAX:
            return True
    return any(not any(state) for state in states)
