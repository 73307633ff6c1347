"""Everywhere or nowhere: no transaction with one branch committed and another aborted; afterwards nothing is left.

What is checked, for each transaction:

    torn                      a committed branch and an aborted one
    changed-outcome           one branch seen committed and seen aborted
    acknowledged-but-aborted, refused-but-committed   a branch that is not what the caller was told
    both-answers              told to one caller that it was committed, and to another that it was not
    committed-unasked         a committed branch of what nobody asked to commit, or seen before anybody did
    left-in-doubt, left-active, left-locked   settled: something that no outcome has released
    unaccounted               settled: acknowledged, and of one of its resources nothing was seen, committed or not

A branch that is still in doubt or active is nobody's fault before everything has settled. Time is linear in the
actions. Not for: what a branch changed (bank.py and the others look at that).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from syncpoint.testing.checkers.finding import Finding, Kind
from syncpoint.testing.checkers.history import BranchState, End, History, Operation, Outcome, SeeBranch, SeeLock

Seen: TypeAlias = dict[str, Operation]
"""A resource, and who was the first to see its branch so."""


@dataclass(slots=True)
class _Transaction:
    name: str
    ends: list[tuple[Operation, End]] = field(default_factory=list)
    committed: Seen = field(default_factory=dict)
    aborted: Seen = field(default_factory=dict)
    seen_settled: set[str] = field(default_factory=set)

    def told(self, outcome: Outcome) -> Operation | None:
        """The first caller who was told so."""
        return next((operation for operation, _ in self.ends if operation.outcome is outcome), None)


def check(history: History) -> list[Finding]:
    """Returns what is wrong, [] when nothing is."""
    transactions: dict[str, _Transaction] = {}
    findings: list[Finding] = []
    last_looks: dict[str, Operation] = {}
    for operation in history:
        for action in operation.actions:
            if isinstance(action, End):
                transactions.setdefault(action.transaction, _Transaction(action.transaction)).ends.append(
                    (operation, action)
                )
            elif isinstance(action, SeeBranch) and operation.outcome is Outcome.OK:
                one = transactions.setdefault(action.transaction, _Transaction(action.transaction))
                _see(one, operation, action)
                if operation.settled:
                    last = last_looks.setdefault(action.resource, operation)
                    if operation.invoked_at > last.invoked_at:
                        last_looks[action.resource] = operation
                    findings += _judge_left(operation, action)
            elif isinstance(action, SeeLock) and operation.outcome is Outcome.OK and operation.settled:
                holder = f", held by {action.holder}" if action.holder else ""
                text = f"{operation} found {action.locked} in {action.resource} locked{holder}, when all had settled."
                findings.append(_finding(Kind.LEFT_LOCKED, text, operation))
    for one in transactions.values():
        findings += _judge_branches(one)
        findings += _judge_answers(one)
        findings += _judge_accounted(one, last_looks)
    return findings


def _finding(kind: Kind, sentence: str, *operations: Operation) -> Finding:
    return Finding(workload="atomicity", kind=kind, sentence=sentence, operations=operations)


def _see(one: _Transaction, operation: Operation, action: SeeBranch) -> None:
    if action.state is BranchState.COMMITTED:
        one.committed.setdefault(action.resource, operation)
    elif action.state is BranchState.ABORTED:
        one.aborted.setdefault(action.resource, operation)
    if operation.settled:
        one.seen_settled.add(action.resource)


def _judge_left(operation: Operation, action: SeeBranch) -> Iterator[Finding]:
    branch = f"{operation} found the branch of {action.transaction} in {action.resource}"
    if action.state is BranchState.IN_DOUBT:
        yield _finding(Kind.LEFT_IN_DOUBT, f"{branch} in doubt, when all had settled.", operation)
    elif action.state is BranchState.ACTIVE:
        yield _finding(Kind.LEFT_ACTIVE, f"{branch} neither committed nor aborted, when all had settled.", operation)


def _judge_branches(one: _Transaction) -> Iterator[Finding]:
    """Branches against each other."""
    for resource in (resource for resource in one.committed if resource in one.aborted):
        first, second = one.committed[resource], one.aborted[resource]
        text = f"{first} saw the branch of {one.name} in {resource} committed and {second} saw it aborted."
        yield _finding(Kind.CHANGED_OUTCOME, text, first, second)
    pairs = [(here, there) for here in one.committed for there in one.aborted if here != there]
    if pairs:
        here, there = pairs[0]
        first, second = one.committed[here], one.aborted[there]
        text = f"{one.name} is torn: {first} saw it committed in {here}, {second} saw it aborted in {there}."
        yield _finding(Kind.TORN, text, first, second)


def _judge_answers(one: _Transaction) -> Iterator[Finding]:
    """Branches against what callers were told."""
    yes, no = one.told(Outcome.OK), one.told(Outcome.FAIL)
    if yes is not None and no is not None:
        text = f"of {one.name}, {yes} was told that it was committed and {no} that it was not."
        yield _finding(Kind.BOTH_ANSWERS, text, yes, no)
    if yes is not None and one.aborted:
        resource, seer = next(iter(one.aborted.items()))
        text = f"{yes} was told that {one.name} was committed, but {seer} saw it aborted in {resource}."
        yield _finding(Kind.ACKNOWLEDGED_BUT_ABORTED, text, yes, seer)
    if not one.committed:
        return
    resource, seer = next(iter(one.committed.items()))
    asked = [operation for operation, _ in one.ends if operation.outcome is not Outcome.FAIL]
    if not one.ends:
        text = f"{seer} saw {one.name} committed in {resource}, which nobody had asked for."
        yield _finding(Kind.COMMITTED_UNASKED, text, seer)
    elif not asked and no is not None:
        text = f"{no} was told that {one.name} was not committed, but {seer} saw it committed in {resource}."
        yield _finding(Kind.REFUSED_BUT_COMMITTED, text, no, seer)
    else:
        for resource, seer in one.committed.items():
            if all(seer.cannot_have_seen(operation) for operation in asked):
                text = f"{seer} saw {one.name} committed in {resource} before {asked[0]} asked for it."
                yield _finding(Kind.COMMITTED_UNASKED, text, seer, asked[0])


def _judge_accounted(one: _Transaction, last_looks: dict[str, Operation]) -> Iterator[Finding]:
    """Of what was acknowledged, every branch must have been seen where somebody looked when all had settled."""
    for operation, end in one.ends:
        for resource in end.resources if operation.outcome is Outcome.OK else ():
            look = last_looks.get(resource)
            if look is not None and operation.precedes(look) and resource not in one.seen_settled:
                text = f"{operation} was told that {one.name} was committed, but {look}, when all had settled,"
                yield _finding(Kind.UNACCOUNTED, f"{text} saw nothing of it in {resource}.", operation, look)
