"""What the whole folder says: this process's index and those of the living others, joined.

All functions are called with the journal's mutex held. Not for: reading files (members.py), or waiting (folder.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from syncpoint.ids import Guid, Incarnation, Key, TransactionId
from syncpoint.journal.base import Holding, Story, View
from syncpoint.journal.index import Branch, Index, covers
from syncpoint.journal.neighbours import Dead, Neighbours
from syncpoint.records import (
    Commit,
    CoordinatorKnown,
    Forgotten,
    Heuristic,
    KeyedRecord,
    Prepared,
    Record,
    Resolved,
    ResourceIncarnation,
    ResourceKnown,
)

Listed = TypeVar("Listed", Heuristic, Resolved)


class Standings:
    """What several indexes and the neighbours hold: `protocol.admission.Standing`."""

    def __init__(self, indexes: Sequence[Index], neighbours: Neighbours) -> None:
        self._indexes = indexes
        self._neighbours = neighbours

    def committed(self, transaction: TransactionId) -> Key | None:
        keys = (index.committed(transaction) for index in self._indexes)
        own = next((key for key in keys if key is not None), None)
        return own or self._neighbours.committed(transaction)

    def is_aborted(self, key: Key) -> bool:
        members = (member.index for member in self._neighbours.living.values())
        return any(index.is_aborted(key) for index in (*self._indexes, *members))


def copies(own: Index, dead: Sequence[Dead], oldest_kept_ms: int) -> list[Record]:
    """What is to be taken over from the dead: everything alive that is not held already.

    Their Aborts are not: an incarnation that has ended appends no Commit any more.
    """
    found: list[Record] = []
    for one in dead:
        one.index.prune(before_ms=oldest_kept_ms, living=())
        found += [record for record in one.index.alive() if not _is_held(own, record)]
    return found


def _is_held(own: Index, record: Record) -> bool:
    match record:
        case ResourceKnown():
            return record.name in own.resources
        case CoordinatorKnown():
            held = own.coordinators.get(record.guid)
            return held is not None and held.at_ms >= record.at_ms
        case ResourceIncarnation():
            counts = own.incarnations.get(record.guid)
            return counts is not None and counts.incarnation >= record.incarnation
        case Heuristic() | Resolved():
            return _is_forgotten(record, [own])
        case _:
            return False


def forgotten_elsewhere(own: Index, neighbours: Neighbours) -> list[Record]:
    """Acknowledgements in others' files that speak for heuristic outcomes in our own: they must outlive those."""
    return [
        forgotten
        for member in neighbours.living.values()
        for key, forgotten in member.index.forgotten.items()
        if key not in own.forgotten and _covers_any(forgotten, own)
    ]


def _covers_any(forgotten: Forgotten, own: Index) -> bool:
    listed: list[Heuristic | Resolved] = [*own.heuristics.values(), *own.resolutions.values()]
    return any(covers(forgotten, record) for record in listed)


def view(
    own: Index,
    noted_ends: Collection[Key],
    neighbours: Neighbours,
    *,
    own_guid: Guid,
    inherited: frozenset[Incarnation],
) -> View:
    """The snapshot for recovery."""
    return View(
        live=neighbours.not_taken_over(),
        decisions={key: commit for key, commit in own.unended.items() if key not in noted_ends},
        elsewhere=frozenset(neighbours.unended()).difference(own.unended),
        ended=frozenset(own.kept) | (own.unended.keys() & noted_ends),
        inherited=inherited,
        promised={key: one for key, one in own.prepared.items() if key not in noted_ends},
        promised_elsewhere={
            one.key: one
            for one in neighbours.promised()
            if one.key not in own.prepared and own.committed(one.key.transaction) is None
        },
        coordinators=frozenset({own_guid, *(Guid(one.guid) for one in directory(own, neighbours) if one.adopted)}),
    )


def _indexes(own: Index, neighbours: Neighbours) -> list[Index]:
    return [own, *(member.index for member in neighbours.living.values())]


def resources(own: Index, neighbours: Neighbours) -> list[ResourceKnown]:
    """Resources by name; our own record counts before others'."""
    known: dict[str, ResourceKnown] = {}
    for index in reversed(_indexes(own, neighbours)):
        known.update(index.resources)
    return [known[name] for name in sorted(known)]


def directory(own: Index, neighbours: Neighbours) -> list[CoordinatorKnown]:
    """Coordinators by GUID; the latest record counts."""
    known: dict[bytes, CoordinatorKnown] = {}
    for index in _indexes(own, neighbours):
        for guid, record in index.coordinators.items():
            if guid not in known or known[guid].at_ms < record.at_ms:
                known[guid] = record
    return [known[guid] for guid in sorted(known)]


def incarnations(own: Index, neighbours: Neighbours) -> list[ResourceIncarnation]:
    """The incarnation that counts of each resource manager that has any; the highest does, also of the dead."""
    known: dict[bytes, ResourceIncarnation] = {}
    for index in (*_indexes(own, neighbours), *(one.index for one in neighbours.dead.values())):
        for guid, record in index.incarnations.items():
            if guid not in known or known[guid].incarnation < record.incarnation:
                known[guid] = record
    return [known[guid] for guid in sorted(known)]


def holding(own: Index, noted_ends: Collection[Key], neighbours: Neighbours, guid: Guid) -> Holding:
    """What is decided, or promised to a superior, and has branches at this resource manager."""
    commits: dict[Key, Commit] = {}
    promised: dict[Key, Prepared] = {}
    for index in _indexes(own, neighbours):
        ended = noted_ends if index is own else ()
        commits.update((key, one) for key, one in index.unended.items() if key not in ended and _is_at(one, guid))
        promised.update((key, one) for key, one in index.prepared.items() if key not in ended and _is_at(one, guid))
    return Holding(tuple(commits.values()), tuple(one for key, one in promised.items() if key not in commits))


def _is_at(record: Commit | Prepared, guid: Guid) -> bool:
    return any(entry.guid == guid.raw for entry in record.branches)


def heuristics(own: Index, neighbours: Neighbours) -> list[Heuristic]:
    """Heuristic outcomes of all processes that nobody has acknowledged."""
    return list(_listed([(index.heuristics, index) for index in _indexes(own, neighbours)]))


def resolutions(own: Index, neighbours: Neighbours) -> list[Resolved]:
    """What operators forced, in any process, and nobody has acknowledged."""
    return list(_listed([(index.resolutions, index) for index in _indexes(own, neighbours)]))


def _listed(tables: Sequence[tuple[dict[Branch, Listed], Index]]) -> Iterator[Listed]:
    seen: set[Branch] = set()
    for table, _ in tables:
        for branch, record in table.items():
            # In its own file, order says what was acknowledged; in another's, time does.
            others = [index for theirs, index in tables if branch not in theirs]
            if branch not in seen and not _is_forgotten(record, others):
                seen.add(branch)
                yield record


def _is_forgotten(record: Heuristic | Resolved, indexes: Iterable[Index]) -> bool:
    forgotten = (index.forgotten.get(record.key) for index in indexes)
    return any(one is not None and covers(one, record) for one in forgotten)


def story(own: Incarnation, index: Index, neighbours: Neighbours, transaction: TransactionId) -> Story:
    """All records kept about one transaction, by whose file holds them."""
    found: list[tuple[Incarnation, KeyedRecord]] = [(own, record) for record in index.story(transaction)]
    for incarnation, member in neighbours.living.items():
        found += [(incarnation, record) for record in member.index.story(transaction)]
    return Story(transaction, tuple(found))
