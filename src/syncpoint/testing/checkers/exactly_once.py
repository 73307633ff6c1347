"""Exactly once: whatever was sent again under an id has one effect and one reply.

What is checked, for each id:

    done-twice        more than one effect was found in a resource
    not-done          acknowledged, and a read that began afterwards found no effect
    half-done         settled: an effect at one of the id's resources and none at another
    undone            found by one read, gone in a later one
    refused-but-done  every request of the id was FAIL, and there is an effect
    done-unasked      an effect that nobody asked for, or found before anybody did
    reply-differs     two acknowledged requests of the same content got different replies
    other-request-accepted   two requests of different content were both acknowledged

Time is linear in requests plus, for each id, requests times reads. Not for: what the effect is (bank.py and the
others look at that).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from syncpoint.testing.checkers.finding import Finding, Kind
from syncpoint.testing.checkers.history import History, Operation, Outcome, ReadEffects, Request


@dataclass(slots=True)
class _Id:
    name: str
    requests: list[tuple[Operation, Request]] = field(default_factory=list)
    reads: list[tuple[Operation, ReadEffects]] = field(default_factory=list)
    """Those that are OK."""

    @property
    def acknowledged(self) -> list[tuple[Operation, Request]]:
        return [(operation, request) for operation, request in self.requests if operation.outcome is Outcome.OK]


def check(history: History, *, stale_reads: bool = False) -> list[Finding]:
    """Returns what is wrong, [] when nothing is.

    Parameters: `stale_reads`: a read that is not settled may miss an effect that was there before it began.
    """
    ids: dict[str, _Id] = {}
    for operation in history:
        for action in operation.actions:
            if isinstance(action, Request):
                ids.setdefault(action.id, _Id(action.id)).requests.append((operation, action))
            elif isinstance(action, ReadEffects) and operation.outcome is Outcome.OK:
                ids.setdefault(action.id, _Id(action.id)).reads.append((operation, action))
    findings: list[Finding] = []
    for one in ids.values():
        findings += _judge_replies(one)
        findings += _judge_effects(one)
        findings += _judge_missing(one, stale_reads=stale_reads)
        findings += _judge_halves(one)
    return findings


def _finding(kind: Kind, sentence: str, *operations: Operation) -> Finding:
    return Finding(workload="exactly-once", kind=kind, sentence=sentence, operations=operations)


def _judge_replies(one: _Id) -> Iterator[Finding]:
    """Every acknowledged request against the first."""
    first: tuple[Operation, Request] | None = None
    for operation, request in one.acknowledged:
        if first is None:
            first = operation, request
        elif request.content != first[1].content:
            text = f"{first[0]} asked for {first[1].content!r} under the id {one.name!r}, {operation} for"
            text = f"{text} {request.content!r}, and both were acknowledged."
            yield _finding(Kind.OTHER_REQUEST_ACCEPTED, text, first[0], operation)
        elif request.reply != first[1].reply:
            text = f"{first[0]} and {operation} sent the same request under the id {one.name!r} but were answered"
            text = f"{text} {first[1].reply!r} and {request.reply!r}."
            yield _finding(Kind.REPLY_DIFFERS, text, first[0], operation)


def _judge_effects(one: _Id) -> Iterator[Finding]:
    """What was found and must not be; for each resource one finding of a kind."""
    told: set[tuple[Kind, str]] = set()
    asked = [operation for operation, _ in one.requests if operation.outcome is not Outcome.FAIL]
    for reader, read in one.reads:
        for kind, text, others in _wrong_effects(one, reader, read, asked):
            if (kind, read.resource) not in told:
                told.add((kind, read.resource))
                yield _finding(kind, text, reader, *others)


def _wrong_effects(
    one: _Id, reader: Operation, read: ReadEffects, asked: list[Operation]
) -> Iterator[tuple[Kind, str, list[Operation]]]:
    requests = [operation for operation, _ in one.requests]
    text = f"{reader} found the effect of {one.name!r} in {read.resource}"
    if read.count > 1:
        names = ", ".join(map(str, requests)) or "nobody"
        yield Kind.DONE_TWICE, f"{text} {read.count} times (asked for by {names}).", requests
    if read.count and not requests:
        yield Kind.DONE_UNASKED, f"{text}, but nobody asked for it.", []
    elif read.count and not asked:
        names = ", ".join(map(str, requests))
        yield Kind.REFUSED_BUT_DONE, f"{text}, but it was refused to all who asked for it ({names}).", requests
    elif read.count and all(reader.cannot_have_seen(operation) for operation in asked):
        yield Kind.DONE_UNASKED, f"{text} before anybody had asked for it ({asked[0]} was the first).", asked[:1]


def _judge_missing(one: _Id, *, stale_reads: bool) -> Iterator[Finding]:
    """An effect that must be there is not; for each resource one finding of a kind."""
    found: defaultdict[str, list[Operation]] = defaultdict(list)
    for reader, read in one.reads:
        if read.count:
            found[read.resource].append(reader)
    told: set[tuple[Kind, str]] = set()
    for reader, read in one.reads:
        if read.count or (stale_reads and not reader.settled):
            continue
        undone = [earlier for earlier in found[read.resource] if earlier.precedes(reader)]
        promised = [
            operation
            for operation, request in one.acknowledged
            if operation.precedes(reader) and (not request.resources or read.resource in request.resources)
        ]
        text = f"{reader} found no effect of {one.name!r} in {read.resource}"
        if undone and (Kind.UNDONE, read.resource) not in told:
            told.add((Kind.UNDONE, read.resource))
            yield _finding(Kind.UNDONE, f"{text}, but {undone[0]} had found it there before.", undone[0], reader)
        elif promised and not undone and (Kind.NOT_DONE, read.resource) not in told:
            told.add((Kind.NOT_DONE, read.resource))
            text = f"{text}, but {promised[0]} had been acknowledged before it began."
            yield _finding(Kind.NOT_DONE, text, promised[0], reader)


def _judge_halves(one: _Id) -> Iterator[Finding]:
    """When all has settled, an effect is at every resource of the id or at none. What was asked for since then is not
    looked for there."""
    known = {resource for _, request in one.requests for resource in request.resources}
    last_asked_at = max((operation.invoked_at for operation, _ in one.requests), default=0)
    with_effect: dict[str, Operation] = {}
    without: dict[str, Operation] = {}
    for reader, read in one.reads:
        if reader.settled and reader.invoked_at > last_asked_at and (not known or read.resource in known):
            (with_effect if read.count else without).setdefault(read.resource, reader)
    for resource in sorted(without.keys() - with_effect.keys()) if with_effect else ():
        there, seen = next(iter(with_effect.items()))
        text = f"when all had settled, {seen} found the effect of {one.name!r} in {there}, but {without[resource]}"
        yield _finding(Kind.HALF_DONE, f"{text} found none in {resource}.", seen, without[resource])
