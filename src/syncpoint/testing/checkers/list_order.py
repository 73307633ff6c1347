"""The graph of what must come before what: from the order of each list's versions, and from real time.

    WW  the writer of a version, to the writer of the next
    WR  the writer of a version, to its reader
    RW  the reader of a version, to the writer of the next
    RT  what had ended, to what began afterwards

Arcs carry as their label what `list_append` needs to give the reason: (place, what was there, the value). Values
that a list never showed come after the last version that it did show; the arcs to their writers go through one
helper for each list, and those of real time through a chain of helpers, one for each moment that something ended:
so there are as many arcs as actions, not as pairs. Not for: searching it (cycles.py).
"""

from __future__ import annotations

from bisect import bisect_left

from syncpoint.testing.checkers.cycles import ON, RT, RW, WR, WW, Graph
from syncpoint.testing.checkers.history import Name, Outcome
from syncpoint.testing.checkers.lists_of import ListAt, Lists, Place

BOTH_MAX = 50
"""So many operations that read a list's end and also appended something it never showed are linked one by one. In a
right history there is at most one."""


def order_of(lists: Lists, *, real_time: bool) -> Graph:
    """The graph over `lists.committed`. Without `real_time`, only who looked when all had settled comes after what had
    ended before."""
    graph = Graph(len(lists.committed))
    for place, one in lists.places.items():
        _add_list(graph, place, one)
    _add_real_time(graph, lists, everywhere=real_time)
    return graph


def _add_list(graph: Graph, place: Place, one: ListAt) -> None:
    if one.longest_reader < 0:
        return  # never read: nothing is known of its order
    appended = {value: number for number, values in one.appends.items() for value in values}
    # Once each: a value that stands there twice is reported already, and says nothing of an order.
    writers = [appended.pop(value, None) for value in one.longest]
    before, last = _add_versions(graph, place, one, writers)
    following = _following(writers)
    at_end: list[int] = []
    for reader, values in one.reads:
        size = len(values)
        writer = before[size]
        if writer is not None:
            graph.add(writer[0], reader, WR, place, values, writer[1])
        if size in following:
            position, next_writer = following[size]
            graph.add(reader, next_writer, RW, place, values, one.longest[position])
        else:
            at_end.append(reader)
    _add_never_shown(graph, place, one, at_end, last)


def _add_versions(
    graph: Graph, place: Place, one: ListAt, writers: list[int | None]
) -> tuple[list[tuple[int, Name] | None], tuple[int, Name] | None]:
    """WW arcs. Returns who wrote last before each position, and who at the end. Values from nowhere are left out."""
    last: tuple[int, Name] | None = None
    before: list[tuple[int, Name] | None] = [None]
    for writer, value in zip(writers, one.longest, strict=True):
        if writer is not None:
            if last is not None:
                graph.add(last[0], writer, WW, place, last[1], value)
            last = writer, value
        before.append(last)
    return before, last


def _following(writers: list[int | None]) -> dict[int, tuple[int, int]]:
    """For each size of what was read: the position of the next value that somebody wrote, and who."""
    following: dict[int, tuple[int, int]] = {}
    found: tuple[int, int] | None = None
    for position in range(len(writers) - 1, -1, -1):
        writer = writers[position]
        if writer is not None:
            found = position, writer
        if found is not None:
            following[position] = found
    return following


def _add_never_shown(
    graph: Graph, place: Place, one: ListAt, readers: list[int], last: tuple[int, Name] | None
) -> None:
    """Values appended but never shown come after the list's end: after its last writer, and after who read it so."""
    shown = set(one.longest)
    hidden = {number: values[-1] for number, values in one.appends.items() if values[-1] not in shown}
    if not hidden:
        return
    helper = graph.add_helper()
    for writer, value in hidden.items():
        graph.add(helper, writer, ON, value)
    sources = [(reader, RW, one.longest) for reader in readers]
    if last is not None:
        sources.append((last[0], WW, last[1]))  # type: ignore[arg-type]
    both = 0
    for source, kind, known in sources:
        if source not in hidden:
            graph.add(source, helper, kind, place, known)
        elif both < BOTH_MAX:
            both += 1
            for writer, value in hidden.items():
                graph.add(source, writer, kind, place, known, value)


def _add_real_time(graph: Graph, lists: Lists, *, everywhere: bool) -> None:
    """What had ended comes before what began then; or only before who looked when all had settled."""
    ended = sorted(
        (operation.completed_at, number)
        for number, operation in enumerate(lists.committed)
        if operation.outcome is Outcome.OK and operation.completed_at is not None
    )
    times = [time for time, _ in ended]
    helpers = [graph.add_helper() for _ in ended]
    for place, (_, number) in enumerate(ended):
        graph.add(number, helpers[place], RT)
        if place:
            graph.add(helpers[place - 1], helpers[place], ON)
    for number, operation in enumerate(lists.committed):
        if not everywhere and not operation.settled:
            continue
        place = bisect_left(times, operation.invoked_at)
        if place:
            graph.add(helpers[place - 1], number, ON)
