"""Authority: one holder of a domain's token at a time, a term of its own for each holding, and no work outside it.

A holding is an operation's interval, from the moment its holder began to rely on it to the moment it stopped; the ends
do not belong to it, so that one may begin when another ends. What is checked, for each domain:

    overlap         two holdings at the same time
    term-twice      two holdings with the same term, by whomever: each is granted once
    term-went-back  a later holding with a lower term
    acted-without   work accepted under a term that its holder never held
    acted-outside   work accepted that had certainly begun only after its holding had ended, or ended before it began
    stale-accepted  work of a lower term accepted after work of a higher one (fencing)

A holding that is INDETERMINATE is never a violation, but may excuse work; one that is FAIL was not granted. Where
clocks may drift beyond the margin, count `overlap` instead of failing by it. Time is that of sorting, plus the pairs
found. Not for: how a token is granted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

from syncpoint.testing.checkers.finding import Finding, Kind
from syncpoint.testing.checkers.history import Act, History, Hold, Operation, Outcome

Held: TypeAlias = tuple[Operation, Hold]
Done: TypeAlias = tuple[Operation, Act]


def check(history: History) -> list[Finding]:
    """Returns what is wrong, [] when nothing is."""
    holdings: defaultdict[str, list[Held]] = defaultdict(list)
    acts: defaultdict[str, list[Done]] = defaultdict(list)
    for operation in history:
        for action in operation.actions:
            if isinstance(action, Hold) and operation.outcome is not Outcome.FAIL:
                holdings[action.domain].append((operation, action))
            elif isinstance(action, Act) and operation.outcome is Outcome.OK:
                acts[action.domain].append((operation, action))
    findings: list[Finding] = []
    for domain in dict.fromkeys((*holdings, *acts)):
        certain = [(operation, hold) for operation, hold in holdings[domain] if operation.outcome is Outcome.OK]
        findings += _judge_overlaps(domain, certain)
        findings += _judge_terms(domain, certain)
        findings += _judge_acts(domain, acts[domain], holdings[domain])
        findings += _judge_fencing(domain, acts[domain])
    return findings


def _finding(kind: Kind, sentence: str, *operations: Operation) -> Finding:
    return Finding(workload="authority", kind=kind, sentence=sentence, operations=operations)


def _end(operation: Operation) -> int:
    assert operation.completed_at is not None  # whatever is OK has an end
    return operation.completed_at


def _judge_overlaps(domain: str, holdings: list[Held]) -> Iterator[Finding]:
    """Each holding against the one before it that lasts longest: if any overlaps it, that one does."""
    longest: Held | None = None
    for operation, hold in sorted(holdings, key=lambda held: (held[0].invoked_at, _end(held[0]))):
        if longest is not None and operation.invoked_at < _end(longest[0]) and operation.invoked_at < _end(operation):
            other, held = longest
            until = min(_end(other), _end(operation))
            both = f"{held.holder} (term {held.term}, {other}) and {hold.holder} (term {hold.term}, {operation})"
            text = f"{both} held {domain} together, from {operation.invoked_at} to {until}."
            yield _finding(Kind.OVERLAP, text, other, operation)
        if longest is None or _end(operation) > _end(longest[0]):
            longest = operation, hold


def _judge_terms(domain: str, holdings: list[Held]) -> Iterator[Finding]:
    by_term: dict[int, Held] = {}
    for operation, hold in sorted(holdings, key=lambda held: held[0].invoked_at):
        if hold.term in by_term:
            other, held = by_term[hold.term]
            text = f"term {hold.term} of {domain} was granted twice: to {held.holder} ({other}) and to {hold.holder}"
            yield _finding(Kind.TERM_TWICE, f"{text} ({operation}).", other, operation)
        by_term.setdefault(hold.term, (operation, hold))
    highest: Held | None = None
    by_end = sorted(holdings, key=lambda held: _end(held[0]))
    next_end = 0
    for operation, hold in sorted(holdings, key=lambda held: held[0].invoked_at):
        while next_end < len(by_end) and _end(by_end[next_end][0]) <= operation.invoked_at:
            if by_end[next_end][0] is not operation and (highest is None or by_end[next_end][1].term > highest[1].term):
                highest = by_end[next_end]
            next_end += 1
        if highest is not None and hold.term < highest[1].term:
            text = f"{hold.holder} began to hold {domain} under term {hold.term} ({operation}), although before that"
            text = f"{text} {highest[1].holder} had held it under term {highest[1].term} ({highest[0]})."
            yield _finding(Kind.TERM_WENT_BACK, text, highest[0], operation)


def _judge_acts(domain: str, acts: list[Done], holdings: list[Held]) -> Iterator[Finding]:
    held: defaultdict[tuple[str, int], list[Operation]] = defaultdict(list)
    for operation, hold in holdings:
        held[hold.holder, hold.term].append(operation)
    for operation, act in acts:
        grants = held[act.holder, act.term]
        text = f"{act.holder} had {operation} accepted in {domain} under term {act.term}"
        if not grants:
            yield _finding(Kind.ACTED_WITHOUT, f"{text}, which it never held.", operation)
        elif not any(_may_meet(operation, grant) for grant in grants):
            where = f"from {grants[0].invoked_at} to {grants[0].completed_at}"
            text = f"{text}, which it held only {where} ({grants[0]})."
            yield _finding(Kind.ACTED_OUTSIDE, text, operation, grants[0])


def _may_meet(act: Operation, grant: Operation) -> bool:
    """Whether some moment of the act lies within the holding. One that is INDETERMINATE may last for ever."""
    lasts = grant.outcome is Outcome.INDETERMINATE or act.invoked_at <= _end(grant)
    return lasts and grant.invoked_at <= _end(act)


def _judge_fencing(domain: str, acts: list[Done]) -> Iterator[Finding]:
    """Each act against the highest term that was accepted before it began."""
    highest: Done | None = None
    by_end = sorted(acts, key=lambda done: _end(done[0]))
    next_end = 0
    for operation, act in sorted(acts, key=lambda done: done[0].invoked_at):
        while next_end < len(by_end) and by_end[next_end][0].precedes(operation):
            if highest is None or by_end[next_end][1].term > highest[1].term:
                highest = by_end[next_end]
            next_end += 1
        if highest is not None and act.term < highest[1].term:
            text = (
                f"{operation} of {act.holder} was accepted in {domain} under term {act.term}, although before it began"
            )
            text = f"{text} {highest[0]} had been accepted under term {highest[1].term} before it began."
            yield _finding(Kind.STALE_ACCEPTED, text, highest[0], operation)
