"""Is a history of appends to lists, and of reads of whole lists, serializable, and in the order of real time?

Every value is appended once, so a list that was read tells who wrote before whom. What is checked, in this order:

    1. each operation by itself: its reads agree with each other and with its own appends (lists_of.py)
    2. each list by itself: one order of versions, no value twice, none from nowhere, none that was aborted (G1a), none
       from the middle of a transaction (G1b) (lists_of.py)
    3. all together: what must come before what, from the order of each list and from real time, has no cycle
       (list_order.py makes the graph, cycles.py searches it)

An operation that is INDETERMINATE is taken for committed when one that is committed has read a value of its, else for
not there. An appended value that a list never shows comes after everything the list does show, for lists only grow.
So also a lost append is a cycle: a reader did not see it, and began after it was acknowledged.

Time and memory are linear in the history, where a read counts as the length of the list it returned, plus the sorting
of times. Only a wrong history costs more, up to a bound (cycles.py). Not for: histories in which values repeat.
"""

from __future__ import annotations

from syncpoint.testing.checkers.cycles import ON, RT, RW, WR, WW, Arc
from syncpoint.testing.checkers.finding import Edge, Finding, Kind, at, listed
from syncpoint.testing.checkers.history import History, Name, Operation
from syncpoint.testing.checkers.list_order import order_of
from syncpoint.testing.checkers.lists_of import Lists

WORKLOAD = "list-append"
STEPS_TOLD_MAX = 4
"""A longer cycle is told by its chain alone."""

_KINDS = {
    (WW, False): Kind.G0,
    (WR, False): Kind.G1C,
    (RW, False): Kind.G_SINGLE,
    (WW, True): Kind.G0_REALTIME,
    (WR, True): Kind.G1C_REALTIME,
    (RW, True): Kind.G_SINGLE_REALTIME,
}
_NAMES = {WW: "ww", WR: "wr", RW: "rw", RT: "rt"}


def check(history: History, *, real_time: bool = True) -> list[Finding]:
    """Returns what is wrong, [] when nothing is.

    Parameters: `real_time`: an operation that began after another had ended comes after it too (strict
    serializability). Without, only a serial order is asked for; but who looked when all had settled comes after what
    had ended before. Raises BadHistory when a value was appended twice.
    """
    lists = Lists(history)
    findings = [*lists.findings]
    graph = order_of(lists, real_time=real_time)
    findings += [_cycle_finding(cycle, lists.committed) for cycle in graph.find_cycles()]
    return findings


def _cycle_finding(cycle: list[Arc], operations: list[Operation]) -> Finding:
    chain = _chain(cycle, operations)
    kind = _kind_of(cycle)
    members = tuple(edge.before for edge in chain)
    names = _together([str(one) for one in members])
    if len(chain) > STEPS_TOLD_MAX:
        sentence = f"no order explains what {names} saw, for each comes before the next, and the last before the first."
    else:
        because = "; ".join(f"{edge.before} comes before {edge.after}, because {edge.reason}" for edge in chain)
        sentence = f"no order explains what {names} saw: {because}."
    return Finding(workload=WORKLOAD, kind=kind, sentence=sentence, operations=members, chain=chain)


def _together(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) <= 6 else f"{names[0]} and {len(names) - 1} others"


def _kind_of(cycle: list[Arc]) -> Kind:
    kinds = [arc.kind for arc in cycle]
    is_timed = RT in kinds
    if kinds.count(RW) > 1:
        return Kind.G2_REALTIME if is_timed else Kind.G2
    worst = max((kind for kind in kinds if kind in (WW, WR, RW)), default=None)
    assert worst is not None  # real time alone has no cycle
    return _KINDS[worst, is_timed]


def _chain(cycle: list[Arc], operations: list[Operation]) -> tuple[Edge, ...]:
    """The cycle from operation to operation: an arc to a helper and those from it on are one step."""
    first = next((place for place, arc in enumerate(cycle) if arc.kind == RW), None)
    if first is None:
        first = next(place for place, arc in enumerate(cycle) if arc.kind != ON)
    cycle = cycle[first:] + cycle[:first]
    steps: list[list[Arc]] = []
    for arc in cycle:
        if arc.kind == ON:
            steps[-1].append(arc)
        else:
            steps.append([arc])
    return tuple(_edge(step, operations) for step in steps)


def _edge(step: list[Arc], operations: list[Operation]) -> Edge:
    first, last = step[0], step[-1]
    before, after = operations[first.source], operations[last.target]
    return Edge(before=before, after=after, kind=_NAMES[first.kind], reason=_reason(first, last, before, after))


def _reason(first: Arc, last: Arc, before: Operation, after: Operation) -> str:
    if first.kind == RT:
        return f"{before} had completed before {after} began"
    place, known, *rest = first.label
    value: Name = (rest or last.label)[0]  # type: ignore[assignment]
    where = at(place)  # type: ignore[arg-type]
    if first.kind == WR:
        return f"{after} read {where} with the {value} that {before} appended"
    if first.kind == WW:
        return f"{before} appended {known} to {where} and {after} appended {value} after it"
    return f"{before} read {where} = {listed(known)} without the {value} that {after} appended"  # type: ignore[arg-type]
