"""A journal that lives in a memory server, for tests: it may be away, lose replies, and guess who is dead.

A `Store` is what is durable; every manager that opens it is one `MemoryJournal`. The rule is the real one
(protocol/admission.py). Not for: real databases as journals, which have tests of their own.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from syncpoint.errors import JournalUnavailable, JournalUncertain, ManagerClosed
from syncpoint.ids import Attempt, Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.journal.base import Claim, Journal, Story, Verdict, View
from syncpoint.ports import Runtime
from syncpoint.protocol.admission import admit
from syncpoint.records import (
    Abort,
    Commit,
    CoordinatorKnown,
    End,
    Forgotten,
    Heuristic,
    KeyedRecord,
    Record,
    Resolved,
    ResourceKnown,
)
from syncpoint.resources.memory_server import MemoryServer
from syncpoint.steps import Local, Script

UNCERTAIN_BEFORE, UNCERTAIN_AFTER, UNAVAILABLE = "uncertain before writing", "uncertain after writing", "unavailable"


class Store:
    """What is durable, and the switches. Fulfils `protocol.admission.Standing`."""

    def __init__(self, server: MemoryServer | None) -> None:
        self.server = server
        """Whose database it lives in; None: one that is no resource."""
        self.guid = Guid(os.urandom(16))
        self.records: dict[Key, list[KeyedRecord]] = {}
        self.known: dict[str, ResourceKnown] = {}
        self.directory: list[CoordinatorKnown] = []
        self.claims: dict[TransactionId, Incarnation] = {}
        self.counter = 0
        self.living: set[Incarnation] = set()
        self.keeper: dict[Incarnation, Incarnation] = {}
        """Who sees to the records of an incarnation that was taken for dead: nothing is decided under that any more."""
        self.faults: deque[str] = deque()
        """What the next writes of keyed records do instead, first in, first used."""
        self.is_away = False
        """Every write is uncertain and is not done."""
        self.forced: list[str] = []
        """Kinds of the keyed records that were asked to be forced."""
        self.decisions: list[Callable[[], bool]] = []
        """Every statement given out: a test may deliver one late, or twice."""
        self.mutex = threading.RLock()

    # --- protocol.admission.Standing --------------------------------------------------------------------------

    def committed(self, transaction: TransactionId) -> Key | None:
        return next((key for key in self.records if key.transaction == transaction and self.has(Commit, key)), None)

    def is_aborted(self, key: Key) -> bool:
        return self.has(Abort, key)

    def has(self, kind: type[KeyedRecord], key: Key) -> bool:
        return any(isinstance(record, kind) for record in self.records.get(key, ()))

    # --- written to, and looked at from outside -----------------------------------------------------------------

    def append(self, record: Record) -> bool:
        """First writer wins, and who was taken for dead decides nothing."""
        with self.mutex:
            if isinstance(record, ResourceKnown):
                self.known[record.name] = record
            elif isinstance(record, CoordinatorKnown):
                self.directory.append(record)
            elif isinstance(record, KeyedRecord):
                fenced = isinstance(record, Commit) and record.key.attempt.incarnation in self.keeper
                if fenced or not admit(record, self):
                    return False
                self.records.setdefault(record.key, []).append(record)
            return True

    def take_for_dead(self, incarnation: Incarnation, by: Incarnation) -> None:
        self.keeper[incarnation] = by
        for taken, keeper in self.keeper.items():
            if keeper == incarnation:
                self.keeper[taken] = by

    def kinds(self) -> list[str]:
        """All keyed records' kinds, in order of keys."""
        return [type(record).__name__ for records in self.records.values() for record in records]

    def of(self, kind: type[Any]) -> list[Any]:
        return [record for records in self.records.values() for record in records if isinstance(record, kind)]

    def remove(self, key: Key) -> None:
        """As a taker-over does with what has ended."""
        del self.records[key]


class MemoryJournal(Journal):
    """One process's side of a Store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.coordinator = store.guid
        self.confirmed: Callable[[Incarnation], bool] = lambda incarnation: incarnation not in store.keeper
        self._counter = 0
        self._is_open = False

    def open(self, runtime: Runtime) -> Script[None]:
        server = self.store.server
        if server is not None:
            server.guid = server.guid or Guid(os.urandom(16))
            self.database = server.guid
        self.draw()
        self._is_open = True
        yield Local(lambda: None, "journal open")

    def draw(self) -> None:
        """The next incarnation, at the start or after having been taken for dead."""
        self.store.counter += 1
        self.incarnation = Incarnation(self.store.counter)
        self.store.living.add(self.incarnation)
        self._counter = 0

    def close(self) -> Script[None]:
        self.abandon()
        yield Local(lambda: None, "journal close")

    def abandon(self) -> None:
        if self._is_open:
            self._is_open = False
            self.store.living.discard(self.incarnation)

    def next_attempt(self) -> Attempt:
        self._counter += 1
        return Attempt(self.incarnation, self._counter)

    # --- writing --------------------------------------------------------------------------------------------------

    def force(self, records: Sequence[Record]) -> Script[tuple[Verdict, ...]]:
        verdicts: tuple[Verdict, ...] = yield Local(lambda: self._force(records), "journal force")
        return verdicts

    def _force(self, records: Sequence[Record]) -> tuple[Verdict, ...]:
        store = self.store
        if not self._is_open:
            raise ManagerClosed("The journal is closed.")
        keyed = [type(record).__name__ for record in records if isinstance(record, KeyedRecord)]
        store.forced += keyed
        fault = (UNCERTAIN_BEFORE if store.is_away else store.faults.popleft() if store.faults else "") if keyed else ""
        if fault == UNAVAILABLE:
            raise JournalUnavailable("The journal cannot be reached.")
        if fault == UNCERTAIN_BEFORE:
            raise JournalUncertain("The journal did not answer.")
        verdicts = tuple(Verdict.ACCEPTED if store.append(record) else Verdict.REFUSED for record in records)
        if fault == UNCERTAIN_AFTER:
            raise JournalUncertain("The journal did not answer.")
        return verdicts

    def decision(self, record: Commit) -> Callable[[], bool]:
        self.store.decisions.append(lambda: self.store.append(record))
        return self.store.decisions[-1]

    def note(self, records: Sequence[Record]) -> None:
        for record in records:
            self.store.append(record)

    # --- claims and looking -----------------------------------------------------------------------------------------

    def claim(self, transaction: TransactionId) -> Script[Claim]:
        claim: Claim = yield Local(lambda: self._claim(transaction), "journal: claim")
        return claim

    def _claim(self, transaction: TransactionId) -> Claim:
        committed = self._find(transaction)
        if committed is not None:
            return Claim(committed=committed)
        if self.store.claims.get(transaction) in self.store.living:
            return Claim(running=True)
        self.store.claims[transaction] = self.incarnation
        return Claim(mine=True)

    def release(self, transaction: TransactionId) -> None:
        self.store.claims.pop(transaction, None)

    def find(self, transaction: TransactionId) -> Script[Commit | None]:
        return self._find(transaction)
        yield

    def _find(self, transaction: TransactionId) -> Commit | None:
        return next((one for one in self.store.of(Commit) if one.key.transaction == transaction), None)

    def look(self, *, inherit: bool = True) -> Script[View]:
        view: View = yield Local(lambda: self._look(inherit), "journal look")
        return view

    def _look(self, inherit: bool) -> View:
        store = self.store
        inherited = set()
        for incarnation in map(Incarnation, range(1, store.counter + 1)):
            if inherit and incarnation not in store.living and self._keeper(incarnation) not in store.living:
                store.take_for_dead(incarnation, self.incarnation)
                inherited.add(incarnation)
        unended = {one.key: one for one in store.of(Commit) if not store.has(End, one.key)}
        mine = {key for key in unended if self._keeper(key.attempt.incarnation) == self.incarnation}
        return View(
            live=frozenset(store.living - {self.incarnation} - store.keeper.keys()),
            decisions={key: unended[key] for key in mine},
            elsewhere=frozenset(unended.keys() - mine),
            inherited=frozenset(inherited),
        )

    def _keeper(self, incarnation: Incarnation) -> Incarnation:
        return self.store.keeper.get(incarnation, incarnation)

    def confirm(self, incarnation: Incarnation) -> Script[bool]:
        confirmed: bool = yield Local(lambda: self.confirmed(incarnation), "journal confirm")
        return confirmed

    def unended(self, key: Key) -> Script[bool]:
        unended: bool = yield Local(lambda: not self.store.has(End, key), "journal unended")
        return unended

    def resource(self, name: str) -> Guid | None:
        return Guid(self.store.known[name].guid) if name in self.store.known else None

    def resources(self) -> Sequence[ResourceKnown]:
        return list(self.store.known.values())

    def directory(self) -> Sequence[CoordinatorKnown]:
        return self.store.directory

    def heuristics(self) -> Script[Sequence[Heuristic]]:
        latest = {(one.key, one.identifier): one for one in self.store.of(Heuristic)}
        return [one for (key, _), one in latest.items() if not self.store.has(Forgotten, key)]
        yield

    def resolutions(self) -> Script[Sequence[Resolved]]:
        return self.store.of(Resolved)
        yield

    def story(self, transaction: TransactionId) -> Script[Story]:
        found = [(key, one) for key, records in self.store.records.items() for one in records]
        records = tuple((key.attempt.incarnation, one) for key, one in found if key.transaction == transaction)
        return Story(transaction, records)
        yield

    def transactions(self) -> Script[Sequence[Key]]:
        return list(self.store.records)
        yield

    def refuse_for_good(self, why: str) -> Script[None]:
        raise AssertionError(why)
        yield

    def highest_incarnation(self) -> Script[Incarnation]:
        return Incarnation(self.store.counter)
        yield

    def ended_incarnations(self, candidates: Iterable[Incarnation]) -> Script[frozenset[Incarnation]]:
        unended = {one.key.attempt.incarnation for one in self.store.of(Commit) if not self.store.has(End, one.key)}
        dead = set(candidates) & (self.store.keeper.keys() | set(candidates) - self.store.living)
        return frozenset(dead - unended)
        yield


def identifiers_in(record: Commit) -> list[Identifier]:
    """The branches that a record lists."""
    return [entry.read_identifier() for entry in record.branches]
