"""A set that only grows: what was added is found, once, and nothing else.

What is checked, for each element and each read that is OK:

    lost       its adding was acknowledged before the read began, and it is not there
    vanished   an earlier read found it, this one does not
    phantom    nobody added it; aborted: all who did have failed; future: they began only after the read had ended
    duplicate  it was found more than once

Several operations may add the same element (a resend does); one of them is enough. Time is linear in the elements
read. Not for: whether a set of reads has one order (list_append.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

from syncpoint.testing.checkers.finding import Finding, Kind, at, listed
from syncpoint.testing.checkers.history import Add, History, Name, Operation, Outcome, ReadSet

Place: TypeAlias = tuple[str, str]
Adders: TypeAlias = dict[Name, list[Operation]]


def check(history: History, *, stale_reads: bool = False) -> list[Finding]:
    """Returns what is wrong, [] when nothing is; for each element of a set one finding of a kind.

    Parameters: `stale_reads`: a read that is not settled may miss what was there before it began.
    """
    adders: defaultdict[Place, Adders] = defaultdict(dict)
    reads: defaultdict[Place, list[tuple[Operation, tuple[Name, ...]]]] = defaultdict(list)
    for operation in history:
        for action in operation.actions:
            if isinstance(action, Add):
                adders[action.place].setdefault(action.element, []).append(operation)
            elif isinstance(action, ReadSet) and operation.outcome is Outcome.OK:
                reads[action.place].append((operation, action.elements))
    findings: list[Finding] = []
    for place, found in reads.items():
        told: set[tuple[Kind, Name]] = set()
        for element, finding in _judge(place, adders[place], found, stale_reads=stale_reads):
            if (finding.kind, element) not in told:
                told.add((finding.kind, element))
                findings.append(finding)
    return findings


def _judge(
    place: Place, adders: Adders, reads: list[tuple[Operation, tuple[Name, ...]]], *, stale_reads: bool
) -> Iterator[tuple[Name, Finding]]:
    begun_at = {
        element: min(one.invoked_at for one in added if one.outcome is not Outcome.FAIL)
        for element, added in adders.items()
        if any(one.outcome is not Outcome.FAIL for one in added)
    }
    for reader, elements in reads:
        ended_at = reader.completed_at or 0
        is_plain = all(begun_at.get(element, ended_at + 1) <= ended_at for element in elements)
        if not is_plain or len(set(elements)) < len(elements):  # most are right: say so quickly
            yield from _judge_elements(place, adders, reader, elements)
    yield from _judge_missing(place, adders, reads, stale_reads=stale_reads)


def _finding(kind: Kind, sentence: str, *operations: Operation) -> Finding:
    return Finding(workload="set", kind=kind, sentence=sentence, operations=operations)


def _judge_elements(
    place: Place, adders: Adders, reader: Operation, elements: tuple[Name, ...]
) -> Iterator[tuple[Name, Finding]]:
    """What is there and must not be."""
    seen: set[Name] = set()
    for element in elements:
        if element in seen:
            text = f"{reader} found {element} in {at(place)} more than once."
            yield element, _finding(Kind.DUPLICATE_ELEMENT, text, reader)
            continue
        seen.add(element)
        added = adders.get(element, [])
        names = ", ".join(map(str, added))
        if not added:
            text = f"{reader} found {element} in {at(place)}, which nobody added."
            yield element, _finding(Kind.PHANTOM_ELEMENT, text, reader)
        elif all(one.outcome is Outcome.FAIL for one in added):
            text = f"{reader} found {element} in {at(place)}, but {names}, adding it, failed."
            yield element, _finding(Kind.ABORTED_ELEMENT, text, reader, *added)
        elif all(reader.cannot_have_seen(one) for one in added if one.outcome is not Outcome.FAIL):
            text = f"{reader} found {element} in {at(place)} and had ended before {names}, adding it, began."
            yield element, _finding(Kind.FUTURE_ELEMENT, text, reader, *added)


def _judge_missing(
    place: Place, adders: Adders, reads: list[tuple[Operation, tuple[Name, ...]]], *, stale_reads: bool
) -> Iterator[tuple[Name, Finding]]:
    """What is not there and must be: it was acknowledged, or seen, before the read began. The reads are walked in the
    order in which they began, the proofs in the order in which they were complete, so each is met once."""
    proofs = sorted(_first_proofs(adders, reads), key=lambda proof: proof[0].completed_at or 0)
    proved: dict[Name, tuple[Operation, Kind]] = {}
    next_proof = 0
    for reader, elements in sorted(reads, key=lambda read: read[0].invoked_at):
        while next_proof < len(proofs) and proofs[next_proof][0].precedes(reader):
            one, element, kind = proofs[next_proof]
            proved.setdefault(element, (one, kind))
            next_proof += 1
        if stale_reads and not reader.settled:
            continue
        there = set(elements)
        if proved.keys() <= there:
            continue
        for element, (one, kind) in proved.items():
            if element in there:
                continue
            what = "added it" if kind is Kind.LOST_ELEMENT else "found it there"
            when = "when all had settled" if reader.settled else f"after {one} had ended"
            text = f"{reader}, which began {when}, read {at(place)} = {listed(elements)}"
            yield element, _finding(kind, f"{text}, without {element}, but {one} had {what}.", one, reader)


def _first_proofs(
    adders: Adders, reads: list[tuple[Operation, tuple[Name, ...]]]
) -> Iterator[tuple[Operation, Name, Kind]]:
    """For each element who was the first to have added it, and to have found it, for certain."""
    for element, added in adders.items():
        known = [one for one in added if one.outcome is Outcome.OK]
        if known:
            yield min(known, key=lambda one: one.completed_at or 0), element, Kind.LOST_ELEMENT
    found: set[Name] = set()
    for reader, elements in sorted(reads, key=lambda read: read[0].completed_at or 0):
        for element in () if found.issuperset(elements) else elements:
            if element not in found:
                found.add(element)
                yield reader, element, Kind.VANISHED_ELEMENT
