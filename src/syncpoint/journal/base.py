"""The Journal: where decisions are durable. The interface that every place for it fulfils.

Making a Commit record durable *is* the decision. All methods that wait are scripts (see `steps.py`).
First writer wins under a key: `Commit(x, n)` is accepted if and only if there is no Commit of x and no
`Abort(x, n)`; `Abort(x, n)` if and only if there is no `Commit(x, n)`. The rule itself stands in
`protocol/admission.py` (`admit`). Not for: deciding what to write (protocol/), or databases (resources/).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from syncpoint.ids import Attempt, Guid, Incarnation, Key, TransactionId
from syncpoint.ports import Runtime
from syncpoint.records import (
    Commit,
    CoordinatorKnown,
    Heuristic,
    KeyedRecord,
    Prepared,
    Record,
    Resolved,
    ResourceIncarnation,
    ResourceKnown,
)
from syncpoint.steps import Script


class Verdict(Enum):
    """What the journal says to a record: it is durable now, or another was there first."""

    ACCEPTED = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to claiming a transaction's id (C7). Exactly one of the three."""

    mine: bool = False
    running: bool = False
    committed: Commit | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A snapshot for recovery. Everything in it is certainly on disk (O59).

    It must be taken *after* the scan of prepared branches (DESIGN section 3: scan, then live, then records).
    """

    live: frozenset[Incarnation]
    """Incarnations of other living processes: whatever is theirs is left alone (O34)."""

    decisions: Mapping[Key, Commit]
    """Commit records not yet ended that this process must see finished: its own, and inherited ones."""

    elsewhere: frozenset[Key]
    """Keys of Commit records that another living process has to finish: left alone."""

    ended: frozenset[Key] = frozenset()
    """Keys of this process's Commit records that have ended but are still kept (results, retention)."""

    inherited: frozenset[Incarnation] = frozenset()
    """Incarnations proven dead whose records this very call took over: their branches want a scan now."""

    coordinators: frozenset[Guid] = frozenset()
    """Coordinators this journal answers for: its own, and adopted ones."""

    promised: Mapping[Key, Prepared] = field(default_factory=dict)
    """Prepared records without an outcome that this process must see finished: its own, and inherited ones."""

    promised_elsewhere: Mapping[Key, Prepared] = field(default_factory=dict)
    """The same, of other living processes."""


@dataclass(frozen=True, slots=True)
class Story:
    """All the journal holds about one transaction: (incarnation that wrote it, record), in order."""

    transaction: TransactionId
    records: tuple[tuple[Incarnation, KeyedRecord], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Holding:
    """All of one resource manager's branches that the journal knows of and that have, as far as it knows, not ended:
    of the living and the dead, whoever has to see them finished. Each writer's records are in the order in which they
    were decided."""

    commits: tuple[Commit, ...] = ()
    promised: tuple[Prepared, ...] = ()
    """Promised to a superior, which has not said yet."""


class Journal(ABC):
    """A place where decisions are durable. Opened once by one manager; a forked child opens its own.

    Constructors take their ports (Clock, Random, Disk) and touch nothing; `open` does.
    """

    coordinator: Guid
    """The journal's GUID: the coordinator of every transaction decided in it."""

    incarnation: Incarnation
    """This process's, drawn from the journal's single counter and forced before use. A journal that can only guess
    who has died may fence a living process: that one draws another, for what it begins from then on."""

    database: Guid | None = None
    """The GUID of the database that the journal lives in: a branch there can carry the decision (`decision`)."""

    keeps_promises: bool = False
    """Whether Prepared records are kept and shown in `View.promised`: a manager can take part under another."""

    @abstractmethod
    def open(self, runtime: Runtime) -> Script[None]:
        """Check, draw an incarnation, read. Raises JournalRefused, JournalDamaged, FormatTooNew, nothing changed."""

    @abstractmethod
    def close(self) -> Script[None]:
        """Write what is lazy, give the locks back. What has not ended stays for whoever opens next."""

    @abstractmethod
    def abandon(self) -> None:
        """In a forked child: forget the parent's files and locks without touching them. Never blocks."""

    @abstractmethod
    def next_attempt(self) -> Attempt:
        """An attempt number of this incarnation, never reused."""

    @abstractmethod
    def force(self, records: Sequence[Record]) -> Script[tuple[Verdict, ...]]:
        """Make records durable before returning; one force for all that wait (group commit).

        Raises JournalFailed (local disk: the manager stops, R5), JournalUncertain (remote: settle by proof),
        JournalUnavailable (remote: nothing was written).
        """

    def decision(self, record: Commit) -> Any:
        """What `Resource.decide` must do in a branch at this journal's own database (`database`), so that the branch's
        ordinary commit makes the record durable, under the same first-writer-wins rule: SQL text."""
        raise NotImplementedError(f"{type(self).__name__} lives in no database")

    @abstractmethod
    def note(self, records: Sequence[Record]) -> None:
        """Write records with the next force, or at close; losing them is harmless (End)."""

    @abstractmethod
    def claim(self, transaction: TransactionId) -> Script[Claim]:
        """Make this transaction's id exclusive among all processes, or say that it runs or is committed (C7)."""

    @abstractmethod
    def release(self, transaction: TransactionId) -> None:
        """Give a claim back. A committed id stays committed. Never blocks."""

    @abstractmethod
    def find(self, transaction: TransactionId) -> Script[Commit | None]:
        """The Commit record of a transaction, with its stored result, if the journal still keeps it."""

    @abstractmethod
    def look(self, *, inherit: bool = True) -> Script[View]:
        """A snapshot for recovery. With `inherit`, first take over the records of every process proven dead."""

    def watch(self) -> Script[frozenset[Incarnation]]:
        """Look for processes that have died and take their records over; returns whose. Asked often."""
        view = yield from self.look()
        return view.inherited

    def confirm(self, incarnation: Incarnation) -> Script[bool]:
        """Whether `incarnation` is this process's, and nobody else has taken over its work until now.

        Only then does evidence that is absent prove anything: whoever takes over cleans up. Where death is proven
        and never guessed it is always so.
        """
        return True
        yield from ()

    @abstractmethod
    def unended(self, key: Key) -> Script[bool]:
        """Whether the Commit record of `key`, which this process has to see finished, has not ended until now.

        To be asked after the evidence was: evidence outlives its record, and no longer. What is absent proves nothing
        of a record that has ended meanwhile, by another pass here, or by a process that was wrongly taken for dead.
        """

    def refused(self) -> Script[None]:
        """A branch could not commit with our decision inside. If that is because this process was taken for dead, draw
        another incarnation now: a wrong guess costs one retry, not each until we notice (O34). Never raises."""
        return
        yield from ()

    @abstractmethod
    def resource(self, name: str) -> Guid | None:
        """The GUID recorded under this resource name."""

    @abstractmethod
    def resources(self) -> Sequence[ResourceKnown]: ...

    def resource_incarnations(self) -> Sequence[ResourceIncarnation]:
        """The incarnation that counts of each resource manager that has any (B7). Only a journal that a node keeps has
        some."""
        return ()

    def holding(self, guid: Guid) -> Script[Holding]:
        """What a backup of this resource manager has to know (B8). Everything in it is certainly durable, and
        everything that is durable and has not ended is in it."""
        raise NotImplementedError(f"{type(self).__name__} is not kept by a node")
        yield from ()

    @abstractmethod
    def directory(self) -> Sequence[CoordinatorKnown]:
        """Coordinator GUIDs and their addresses (A6)."""

    @abstractmethod
    def heuristics(self) -> Script[Sequence[Heuristic]]:
        """Heuristic outcomes of all processes, until forgotten."""

    @abstractmethod
    def resolutions(self) -> Script[Sequence[Resolved]]:
        """What operators forced and nobody has forgotten yet."""

    @abstractmethod
    def story(self, transaction: TransactionId) -> Script[Story]:
        """All records kept about one transaction."""

    @abstractmethod
    def transactions(self) -> Script[Sequence[Key]]:
        """Keys of all transactions the journal keeps anything about."""

    @abstractmethod
    def refuse_for_good(self, why: str) -> Script[None]:
        """A database has proved that this journal is an older copy (O53): durably, nobody opens it any more.

        Without that, every refused start would draw one more incarnation, until the counter had caught up.
        """

    @abstractmethod
    def highest_incarnation(self) -> Script[Incarnation]:
        """The counter: a database that has seen a later one proves that this journal is an older copy (O53)."""

    @abstractmethod
    def ended_incarnations(self, candidates: Iterable[Incarnation]) -> Script[frozenset[Incarnation]]:
        """Those of `candidates` that are proven dead and have nothing unfinished: their evidence can go."""
