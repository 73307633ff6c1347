"""What one writer's records amount to, in memory: what is unended, kept, aborted, heuristic, known.

An Index is fed records in the order in which they were written and says what is still alive, which is also what a
checkpoint must hold. Memory stays bounded: a transaction without a user's id leaves nothing once it has ended; one
with an id is kept for the retention (C8). Not for: files, locks, or several writers (folder.py joins them).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from syncpoint.ids import Incarnation, Key, TransactionId
from syncpoint.protocol.words import Answer
from syncpoint.records import (
    Abort,
    AnyRecord,
    Commit,
    CoordinatorKnown,
    End,
    Forgotten,
    Heuristic,
    KeyedRecord,
    Prepared,
    Record,
    Resolved,
    ResourceIncarnation,
    ResourceKnown,
    key_fields,
)

Branch = tuple[Key, bytes]
"""One branch of one transaction: its key and identifier."""


class Index:
    """The alive records of one writer. Fulfils `protocol.admission.Standing`."""

    def __init__(self) -> None:
        self.unended: dict[Key, Commit] = {}
        self.kept: dict[Key, Commit] = {}
        """Ended, but a user's id may be sent again: kept for the retention."""
        self.prepared: dict[Key, Prepared] = {}
        """Promised to a superior, which has not said yet."""
        self.aborts: dict[Key, Abort] = {}
        self.heuristics: dict[Branch, Heuristic] = {}
        self.resolutions: dict[Branch, Resolved] = {}
        self.forgotten: dict[Key, Forgotten] = {}
        """They speak for other writers' records too, so they are kept for the retention."""
        self.resources: dict[str, ResourceKnown] = {}
        self.coordinators: dict[bytes, CoordinatorKnown] = {}
        self.incarnations: dict[bytes, ResourceIncarnation] = {}
        """The highest of each resource manager's, by its GUID."""
        self._attempts: dict[TransactionId, Key] = {}

    def __repr__(self) -> str:
        return (
            f"<Index unended={len(self.unended)} kept={len(self.kept)} heuristics={len(self.heuristics)} "
            f"resources={sorted(self.resources)}>"
        )

    # --- what is known -------------------------------------------------------------------------------------

    def committed(self, transaction: TransactionId) -> Key | None:
        """The key of the Commit record of this transaction."""
        return self._attempts.get(transaction)

    def is_aborted(self, key: Key) -> bool:
        return key in self.aborts

    def commit(self, transaction: TransactionId) -> Commit | None:
        """The Commit record of this transaction, ended or not."""
        key = self._attempts.get(transaction)
        return None if key is None else self.unended.get(key) or self.kept[key]

    def story(self, transaction: TransactionId) -> list[KeyedRecord]:
        """Every record kept about one transaction, in the order in which such records are written."""
        return [record for record in self._keyed() if record.transaction == transaction.raw]

    def keys(self) -> set[Key]:
        """Keys of everything kept."""
        return {record.key for record in self._keyed()}

    # --- feeding -------------------------------------------------------------------------------------------

    def apply(self, record: AnyRecord | Record) -> None:
        """Take a record in. Applying one twice changes nothing more."""
        match record:
            case Commit():
                self._commit(record)
            case End():
                self._end(record.key)
            case Prepared():
                if record.key not in self.aborts and self._attempts.get(record.key.transaction) != record.key:
                    self.prepared[record.key] = record
            case Abort():
                self.prepared.pop(record.key, None)
                self.aborts[record.key] = record
            case Heuristic():
                self._list(record)
            case Resolved():
                self.resolutions[record.key, record.identifier] = record
            case Forgotten():
                self._forget(record)
            case ResourceKnown():
                self.resources[record.name] = record
            case CoordinatorKnown():
                self.coordinators[record.guid] = record
            case ResourceIncarnation():
                held = self.incarnations.get(record.guid)
                if held is None or held.incarnation < record.incarnation:
                    self.incarnations[record.guid] = record
            case _:
                raise AssertionError(f"no such record: {record!r}")

    def _commit(self, record: Commit) -> None:
        self.prepared.pop(record.key, None)  # what was promised is decided
        if record.key not in self.kept:
            self.unended[record.key] = record
            self._attempts[record.key.transaction] = record.key

    def _end(self, key: Key) -> None:
        self.prepared.pop(key, None)
        commit = self.unended.pop(key, None)
        if commit is None:
            return
        if commit.user_id is None:
            self._attempts.pop(key.transaction, None)
        else:
            self.kept[key] = commit

    def _list(self, record: Heuristic) -> None:
        """The first word about a branch stands, unless it was only that nobody knew."""
        held = self.heuristics.get((record.key, record.identifier))
        if held is None or held.outcome == Answer.HEURISTIC_HAZARD.name:
            self.heuristics[record.key, record.identifier] = record

    def _forget(self, record: Forgotten) -> None:
        self.forgotten[record.key] = record
        for branch in [one for one, held in self.heuristics.items() if covers(record, held)]:
            del self.heuristics[branch]
        for branch in [one for one, held in self.resolutions.items() if covers(record, held)]:
            del self.resolutions[branch]

    # --- what must be kept ------------------------------------------------------------------------------------

    def prune(self, *, before_ms: int, living: Collection[Incarnation]) -> None:
        """Let go what was kept long enough, and aborts of incarnations that can append nothing any more (O54)."""
        for key in [key for key, commit in self.kept.items() if commit.at_ms < before_ms]:
            del self.kept[key]
            self._attempts.pop(key.transaction, None)
        for key in [key for key, forgotten in self.forgotten.items() if forgotten.at_ms < before_ms]:
            del self.forgotten[key]
        for key in [key for key in self.aborts if key.attempt.incarnation not in living]:
            del self.aborts[key]

    def alive(self) -> list[Record]:
        """Everything kept, in an order that `apply` turns into the same index again."""
        return [
            *self.resources.values(),
            *self.coordinators.values(),
            *self.incarnations.values(),
            *self._keyed(),
        ]

    def _keyed(self) -> Iterator[KeyedRecord]:
        yield from self.prepared.values()
        yield from self.aborts.values()
        yield from self.unended.values()
        for key, commit in self.kept.items():
            yield commit
            yield End(**key_fields(key))
        yield from self.forgotten.values()  # before the others: it covers only what is older than itself
        yield from self.resolutions.values()
        yield from self.heuristics.values()


def covers(forgotten: Forgotten, record: Heuristic | Resolved) -> bool:
    """Whether an operator who acknowledged a transaction had seen this record: what comes later is listed again."""
    return record.key == forgotten.key and record.at_ms <= forgotten.at_ms
