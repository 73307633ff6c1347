"""What a history's reads say of each list: who appended what, in which order, and what is wrong with a list by itself.

Not for: the order between operations (list_order.py).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TypeAlias

from syncpoint.testing.checkers.finding import Finding, Kind, at, listed
from syncpoint.testing.checkers.history import Append, BadHistory, History, Name, Operation, Outcome, Read

Place: TypeAlias = tuple[str, str]
Values: TypeAlias = tuple[Name, ...]


@dataclass(slots=True)
class ListAt:
    """One key. Operations are numbers in `Lists.committed`."""

    appends: dict[int, list[Name]] = field(default_factory=dict)
    """What each committed operation appended, in its own order."""
    reads: list[tuple[int, Values]] = field(default_factory=list)
    """What committed operations found there, without what they had appended themselves."""
    longest: Values = ()
    longest_reader: int = -1


class Lists:
    """All lists of a history.

    `committed`: the operations that happened, known or proved by a reader. `places`: each list. `findings`: what is
    wrong already. Raises BadHistory when a value was appended to a key twice.
    """

    def __init__(self, history: History) -> None:
        self.findings: list[Finding] = []
        self._told: set[tuple[Kind, Place, Name]] = set()
        self.writers = _writers(history)
        self.committed = _committed(history, self.writers)
        self.places: defaultdict[Place, ListAt] = defaultdict(ListAt)
        for number, operation in enumerate(self.committed):
            self._take(number, operation)
        for place, one in self.places.items():
            self._judge(place, one)

    def __repr__(self) -> str:
        return f"<Lists {len(self.places)} keys, {len(self.committed)} operations, {len(self.findings)} findings>"

    # --- one operation ---------------------------------------------------------------------------------------

    def _take(self, number: int, operation: Operation) -> None:
        """Note its appends, and what it read of others."""
        known: dict[Place, Values] = {}
        own: dict[Place, list[Name]] = {}
        mine: dict[Place, set[Name]] = {}
        for action in operation.actions:
            if isinstance(action, Append):
                mine.setdefault(action.place, set()).add(action.value)
        for action in operation.actions:
            if isinstance(action, Append):
                place = action.place
                own.setdefault(place, []).append(action.value)
                if place in known:
                    known[place] += (action.value,)
            elif isinstance(action, Read) and action.values is not None:
                place = action.place
                if place not in known:
                    external = self._external(operation, place, action.values, own.get(place, []), mine.get(place))
                    if external is not None:
                        self.places[place].reads.append((number, external))
                elif action.values != known[place]:
                    self._internal(operation, place, action.values, f"it had to be {listed(known[place])} by then")
                known[place] = action.values
        for place, values in own.items():
            self.places[place].appends[number] = values

    def _external(
        self, operation: Operation, place: Place, values: Values, own: list[Name], mine: set[Name] | None
    ) -> Values | None:
        """What it found there before its own appends (`own` so far, `mine` in all); None when they are not where they
        must be."""
        if mine is None:
            return values
        split = len(values) - len(own)
        if split < 0 or list(values[split:]) != own:
            self._internal(operation, place, values, f"it had appended {listed(own)} itself")
            return None
        external = values[:split]
        if not mine.isdisjoint(external):
            self._internal(operation, place, values, "it appended one of these only afterwards, or in another place")
            return None
        return external

    def _internal(self, operation: Operation, place: Place, values: Values, why: str) -> None:
        self._find(Kind.INTERNAL, f"{operation} read {at(place)} = {listed(values)}, but {why}.", operation)

    # --- one list --------------------------------------------------------------------------------------------

    def _judge(self, place: Place, one: ListAt) -> None:
        """Find the order of its versions, and what is wrong with it."""
        if not one.reads:
            return
        for number, values in one.reads:
            if len(values) > len(one.longest) or one.longest_reader < 0:
                one.longest, one.longest_reader = values, number
        self._judge_values(place, one.longest_reader, one.longest)
        fitting = []
        for number, values in one.reads:
            if one.longest[: len(values)] == values:
                fitting.append((number, values))
            else:
                self._judge_values(place, number, values)
                self._incompatible(place, number, values, one)
        self._judge_ends(place, one)
        one.reads = fitting

    def _judge_values(self, place: Place, reader: int, values: Values) -> None:
        operation = self.committed[reader]
        read = f"{operation} read {at(place)} = {listed(values)}"
        seen: set[Name] = set()
        for value in values:
            writer = self.writers.get((place, value))
            if value in seen:
                self._find_once(
                    Kind.DUPLICATE_VALUE, place, value, f"{read}, in which {value} stands twice.", operation
                )
            elif writer is None:
                self._find_once(Kind.PHANTOM_VALUE, place, value, f"{read}, but nobody appended {value}.", operation)
            elif writer.outcome is Outcome.FAIL:
                text = f"{read}, but {writer}, which appended {value}, aborted."
                self._find_once(Kind.G1A, place, value, text, operation, writer)
            seen.add(value)
        self._judge_appends(place, operation, values)

    def _judge_appends(self, place: Place, operation: Operation, values: Values) -> None:
        """Of each operation that appended several values: all of them are there, in its order."""
        positions: dict[Name, int] = {}
        for position, value in enumerate(values):
            positions.setdefault(value, position)
        for number, appended in self._several(place):
            writer = self.committed[number]
            there = [value for value in appended if value in positions]
            text = f"{writer} appended {listed(appended)} to {at(place)}, but {operation} read {listed(values)}"
            if there != sorted(there, key=positions.__getitem__):
                self._find(Kind.REORDERED_APPENDS, f"{text}, in another order.", writer, operation)
            elif there != appended[: len(there)]:
                self._find(Kind.PARTIAL_APPENDS, f"{text}, with a later one and without an earlier.", writer, operation)

    def _several(self, place: Place) -> list[tuple[int, list[Name]]]:
        return [(number, values) for number, values in self.places[place].appends.items() if len(values) > 1]

    def _incompatible(self, place: Place, number: int, values: Values, one: ListAt) -> None:
        operation, other = self.committed[number], self.committed[one.longest_reader]
        text = f"{operation} read {at(place)} = {listed(values)}, but {other} read {listed(one.longest)}"
        self._find(Kind.INCOMPATIBLE_ORDER, f"{text}: neither is the beginning of the other.", operation, other)

    def _judge_ends(self, place: Place, one: ListAt) -> None:
        """A version that somebody saw is where a transaction ended, not its middle."""
        middles = {value: appended[-1] for _, appended in self._several(place) for value in appended[:-1]}
        for number, values in one.reads:
            final = middles.get(values[-1]) if values else None
            if final is not None and final not in values:
                del middles[values[-1]]
                operation, writer = self.committed[number], self.writers[place, values[-1]]
                text = f"{operation} read {at(place)} = {listed(values)}, the middle of {writer}"
                self._find(Kind.G1B, f"{text}, which appended {final} after that.", operation, writer)

    def _find_once(self, kind: Kind, place: Place, value: Name, sentence: str, *operations: Operation) -> None:
        """However many have read the value."""
        if (kind, place, value) not in self._told:
            self._told.add((kind, place, value))
            self._find(kind, sentence, *operations)

    def _find(self, kind: Kind, sentence: str, *operations: Operation) -> None:
        self.findings.append(
            Finding(workload="list-append", kind=kind, sentence=sentence, operations=tuple(operations))
        )


def _writers(history: History) -> dict[tuple[Place, Name], Operation]:
    """Who appended which value to which key, whatever came of it."""
    writers: dict[tuple[Place, Name], Operation] = {}
    for operation in history.operations:
        for action in operation.actions:
            if isinstance(action, Append):
                other = writers.setdefault((action.place, action.value), operation)
                if other is not operation or _appends_twice(operation, action):
                    raise BadHistory(
                        f"{other} and {operation} both appended {action.value} to {at(action.place)}.",
                        advice="Make every value of a key its own, also when an attempt is tried again.",
                    )
    return writers


def _appends_twice(operation: Operation, append: Append) -> bool:
    return len(operation.actions) > 1 and operation.actions.count(append) > 1


def _committed(history: History, writers: dict[tuple[Place, Name], Operation]) -> list[Operation]:
    """The operations that are OK, and those INDETERMINATE that one of these has read from, directly or not."""
    committed = list(history.ended(Outcome.OK))
    taken = {operation.id for operation in committed}
    has_open = any(operation.outcome is Outcome.INDETERMINATE for operation in history.operations)
    for operation in committed if has_open else ():  # grows while it is walked
        for action in operation.actions:
            if isinstance(action, Read) and action.values:
                for value in action.values:
                    writer = writers.get((action.place, value))
                    if writer is not None and writer.outcome is Outcome.INDETERMINATE and writer.id not in taken:
                        taken.add(writer.id)
                        committed.append(writer)
    return committed
