"""Cycles in a graph of what must come before what: which knots there are, and the worst short cycle in each.

Nodes are numbers. The first `operations` of them are operations; the others are helpers, which stand for many arcs at
once (what comes after a list's end; what comes after a moment), so that the graph stays linear in the history.
Arcs have a kind, and a search is told which kinds it may use:

    WW, WR, RW   one wrote a version that the other overwrote, one's version was read, one read what was overwritten
    RT           one had ended before the other began
    ON           from a helper to what it stands for; always allowed

Strongly connected components are Tarjan's, without recursion: O(nodes + arcs). Searching inside a component is
bounded by a budget; a right history has no component and costs one pass. Not for: what the arcs mean in words.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

WW, WR, RW, RT, ON = 1, 2, 4, 8, 16
DATA = WW | WR | RW
EVERYTHING = DATA | RT

CYCLES_TRIED_MAX = 64
"""So many cycles of one component are compared before the shortest is taken."""
ARCS_WALKED_MAX = 1_000_000
"""So many arcs are walked in search of a cycle with exactly one RW; then any cycle is taken."""
STEPS_READABLE_MAX = 4
"""A cycle that is longer does not keep a knot from being searched for other kinds, which may be easier to read."""


class Arc(NamedTuple):
    """`source` comes before `target`."""

    source: int
    target: int
    kind: int
    label: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Level:
    """One thing to look for: cycles of these kinds, or those of them with exactly one RW."""

    kinds: int
    is_single: bool = False

    def covers(self, other: Level) -> bool:
        """Whether all that the other looks for, this would find too."""
        return other.kinds & ~self.kinds == 0


LEVELS = tuple(
    Level(kinds | moment, is_single)
    for moment in (0, RT)
    for kinds, is_single in ((WW, False), (WW | WR, False), (DATA, True), (DATA, False))
)
"""The worst first: G0, G1c, G-single, G2; then the same with real time."""


class Graph:
    """Arcs between operations and helpers."""

    def __init__(self, operations: int) -> None:
        self.operations = operations
        self.arcs: list[list[Arc]] = [[] for _ in range(operations)]

    def __repr__(self) -> str:
        return f"<Graph {self.operations} operations, {sum(map(len, self.arcs))} arcs>"

    def add_helper(self) -> int:
        """A new node that stands for many."""
        self.arcs.append([])
        return len(self.arcs) - 1

    def add(self, source: int, target: int, kind: int, *label: object) -> None:
        """An arc. Nothing comes before itself: that one is left out."""
        if source != target:
            self.arcs[source].append(Arc(source, target, kind, label))

    def find_cycles(self) -> list[list[Arc]]:
        """For each knot a cycle of the worst kind that is in it, and where that is long, others; the readable ones
        first. [] when there is a serial order."""
        knots = sorted(self._components(range(len(self.arcs)), EVERYTHING), key=min)
        reported: list[tuple[Level, frozenset[int]]] = []
        cycles = []
        for level in LEVELS if knots else ():
            for knot in knots:
                for component in sorted(self._components(knot, level.kinds), key=min):
                    if any(level.covers(other) and nodes <= component for other, nodes in reported):
                        continue
                    find = self._find_single if level.is_single else self._find_any
                    cycle = find(component, level.kinds)
                    if cycle is not None and cycle not in cycles:
                        cycles.append(cycle)
                        if _steps(cycle) <= STEPS_READABLE_MAX:
                            reported.append((level, frozenset(arc.source for arc in cycle)))
        return sorted(cycles, key=lambda cycle: max(_steps(cycle), STEPS_READABLE_MAX))

    # --- components ----------------------------------------------------------------------------------------

    def _components(self, nodes: Collection[int], kinds: int) -> list[frozenset[int]]:
        """Strongly connected components of two nodes or more, using only arcs of these kinds between these nodes."""
        allowed = kinds | ON
        inside = None if len(nodes) == len(self.arcs) else nodes
        index: dict[int, int] = {}
        lowest: dict[int, int] = {}
        pending: list[int] = []
        is_pending: set[int] = set()
        found: list[frozenset[int]] = []

        def enter(node: int) -> tuple[int, Iterator[Arc]]:
            index[node] = lowest[node] = len(index)
            pending.append(node)
            is_pending.add(node)
            return node, iter(self.arcs[node])

        for root in nodes:
            if root in index:
                continue
            path = [enter(root)]
            while path:
                node, arcs = path[-1]
                for arc in arcs:
                    target = arc.target
                    if not arc.kind & allowed or (inside is not None and target not in inside):
                        continue
                    if target not in index:
                        path.append(enter(target))
                        break
                    if target in is_pending and index[target] < lowest[node]:
                        lowest[node] = index[target]
                else:
                    path.pop()
                    if path and lowest[node] < lowest[path[-1][0]]:
                        lowest[path[-1][0]] = lowest[node]
                    if lowest[node] == index[node]:
                        at = len(pending) - 1
                        while pending[at] != node:
                            at -= 1
                        members = pending[at:]
                        del pending[at:]
                        is_pending.difference_update(members)
                        if len(members) > 1:
                            found.append(frozenset(members))
        return found

    # --- cycles in one component ---------------------------------------------------------------------------

    def _find_any(self, component: frozenset[int], kinds: int) -> list[Arc] | None:
        starts = sorted(node for node in component if node < self.operations)[:CYCLES_TRIED_MAX]
        walk = _Walk(self, component, kinds)
        return _shortest(walk.path(start, start) for start in starts)

    def _find_single(self, component: frozenset[int], kinds: int) -> list[Arc] | None:
        """A cycle with exactly one RW: from where it leads, back to where it began, without another."""
        walk = _Walk(self, component, kinds & ~RW)

        def tries() -> Iterator[list[Arc] | None]:
            found = 0
            for node in sorted(component):
                for arc in self.arcs[node]:
                    if walk.walked > ARCS_WALKED_MAX or found > CYCLES_TRIED_MAX:
                        return
                    if arc.kind == RW and arc.target in component:
                        back = walk.path(arc.target, node)
                        found += back is not None
                        yield None if back is None else [arc, *back]

        return _shortest(tries())


class _Walk:
    """Shortest paths inside a component, by arcs of some kinds. Leaving a helper costs nothing."""

    def __init__(self, graph: Graph, component: frozenset[int], kinds: int) -> None:
        self.graph = graph
        self.component = component
        self.allowed = kinds | ON
        self.walked = 0

    def path(self, start: int, goal: int) -> list[Arc] | None:
        """From start to goal by at least one arc; None when there is no way."""
        came: dict[int, Arc] = {}
        done: set[int] = set()
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            if node in done:
                continue
            done.add(node)
            is_helper = node >= self.graph.operations
            for arc in self.graph.arcs[node]:
                self.walked += 1
                target = arc.target
                if not arc.kind & self.allowed or target not in self.component:
                    continue
                if target == goal:
                    return self._back([arc], came, start)
                if target not in done and (target not in came or is_helper):
                    came[target] = arc
                    (waiting.appendleft if is_helper else waiting.append)(target)
        return None

    def _back(self, path: list[Arc], came: dict[int, Arc], start: int) -> list[Arc]:
        while path[-1].source != start:
            path.append(came[path[-1].source])
        return path[::-1]


def _shortest(cycles: Iterator[list[Arc] | None]) -> list[Arc] | None:
    """The one with the fewest steps; with two it is as short as can be."""
    best: list[Arc] | None = None
    for cycle in cycles:
        if cycle is not None and (best is None or _steps(cycle) < _steps(best)):
            best = cycle
            if _steps(best) <= 2:
                break
    return best


def _steps(cycle: list[Arc]) -> int:
    """From operation to operation: what leads on from a helper is no step of its own."""
    return sum(arc.kind != ON for arc in cycle)
