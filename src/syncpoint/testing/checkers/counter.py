"""A counter: every value that was read can be explained by additions that had happened by then.

An addition that was acknowledged before the read began counts; one that was FAIL, or began after the read had ended,
does not; any other may. What is checked, for each read that is OK:

    too low, too high   no choice of additions reaches that far down, or up
    impossible          it lies between, but no choice of additions makes exactly that
    went back           without subtractions, a later read found less than an earlier one

Time is that of sorting, plus, for each read, the additions that may or may not count. Not for: several counters in one
transaction (list_append.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeAlias

from syncpoint.testing.checkers.finding import Finding, Kind, at, listed
from syncpoint.testing.checkers.history import History, Increment, Operation, Outcome, ReadCounter

RANGE_MAX = 100_000
"""If all that may or may not count differs by more than this, only its limits are checked."""

Place: TypeAlias = tuple[str, str]


@dataclass(slots=True)
class _Counter:
    additions: list[tuple[Operation, int]] = field(default_factory=list)
    reads: list[tuple[Operation, int]] = field(default_factory=list)


def check(history: History, *, stale_reads: bool = False) -> list[Finding]:
    """Returns what is wrong, [] when nothing is.

    Parameters: `stale_reads`: a read that is not settled may miss what was there before it began.
    """
    counters: defaultdict[Place, _Counter] = defaultdict(_Counter)
    for operation in history:
        for action in operation.actions:
            if isinstance(action, Increment) and operation.outcome is not Outcome.FAIL:
                counters[action.place].additions.append((operation, action.by))
            elif isinstance(action, ReadCounter) and operation.outcome is Outcome.OK:
                counters[action.place].reads.append((operation, action.value))
    findings: list[Finding] = []
    for place, one in counters.items():
        findings += _judge_values(place, one, stale_reads=stale_reads)
        if all(by >= 0 for _, by in one.additions):
            findings += _judge_order(place, one, stale_reads=stale_reads)
    return findings


def _finding(kind: Kind, sentence: str, *operations: Operation) -> Finding:
    return Finding(workload="counter", kind=kind, sentence=sentence, operations=operations)


def _judge_values(place: Place, one: _Counter, *, stale_reads: bool) -> Iterator[Finding]:
    """The additions in the order of their ends: those before a read count, so only the rest is looked at one by one."""
    ended = sorted(
        ((operation, by) for operation, by in one.additions if operation.outcome is Outcome.OK),
        key=lambda addition: addition[0].completed_at or 0,
    )
    ends = [operation.completed_at or 0 for operation, _ in ended]
    sums = [0, *accumulate(by for _, by in ended)]
    unknown = [(operation, by) for operation, by in one.additions if operation.outcome is Outcome.INDETERMINATE]
    for reader, value in one.reads:
        certain = bisect_left(ends, reader.invoked_at) if reader.settled or not stale_reads else 0
        perhaps = [by for operation, by in (*ended[certain:], *unknown) if not reader.cannot_have_seen(operation)]
        finding = _judge_value(place, reader, value, sums[certain], perhaps)
        if finding is not None:
            yield finding


def _judge_value(place: Place, reader: Operation, value: int, certain: int, perhaps: list[int]) -> Finding | None:
    lowest = certain + sum(by for by in perhaps if by < 0)
    highest = certain + sum(by for by in perhaps if by > 0)
    text = f"{reader} found {value} in {at(place)}"
    if value < lowest:
        return _finding(Kind.TOO_LOW, f"{text}, but what was acknowledged before makes at least {lowest}.", reader)
    if value > highest:
        return _finding(Kind.TOO_HIGH, f"{text}, but all that can have been added makes {highest} at most.", reader)
    if highest - lowest <= RANGE_MAX and not _makes(value - certain, perhaps):
        text = f"{text}, but {certain} and no choice of {listed(sorted(perhaps))} make that."
        return _finding(Kind.IMPOSSIBLE_VALUE, text, reader)
    return None


def _makes(wanted: int, parts: list[int]) -> bool:
    """Whether some of the parts add up to it. Bit n of a number stands for the sum n above the lowest."""
    lowest = sum(part for part in parts if part < 0)
    sums = 1 << -lowest
    for part in parts:
        sums |= sums << part if part >= 0 else sums >> -part
    return bool(sums >> (wanted - lowest) & 1)


def _judge_order(place: Place, one: _Counter, *, stale_reads: bool) -> Iterator[Finding]:
    """The highest value of the reads that had ended, against each that began later."""
    by_end = sorted(one.reads, key=lambda read: read[0].completed_at or 0)
    highest: tuple[Operation, int] | None = None
    next_end = 0
    for reader, value in sorted(one.reads, key=lambda read: read[0].invoked_at):
        while next_end < len(by_end) and by_end[next_end][0].precedes(reader):
            if highest is None or by_end[next_end][1] > highest[1]:
                highest = by_end[next_end]
            next_end += 1
        if highest is not None and value < highest[1] and (reader.settled or not stale_reads):
            text = f"{reader} found {value} in {at(place)}, after {highest[0]} had found {highest[1]} there."
            yield _finding(Kind.WENT_BACK, text, highest[0], reader)
