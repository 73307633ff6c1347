"""The model's journal: what can be read in it, what of that is on disk, and who sees to whose records.

The rule of first writer wins is the real one (`protocol.admission.admit`). That of keepers stands in production only
as SQL (`journal/statements.py`); here it is said once more, as functions of the rows, and each names its statement:

    a Commit is let in only while its incarnation keeps itself          may_decide    (`commit`)
    who may be taken over, and by whom                                  is_forsaken   (`forsaken`, `take_over`)
    an id is had by who claims it, unless its holder lives              claim         (`claim`)
    only its keeper ends a record; the row goes unless it has an id     end           (`end`)
    an Abort goes once its incarnation is fenced                        drop_aborts   (`fenced_aborts`)
    an incarnation's row goes once it is taken over and finished        drop_finished (`finished`)

Lazy writes (ends, claims, removals) can be read at once, and are on disk with the next forced write: `Journal` holds
the rows twice. A folder of files behaves the same, but for a record that is readable before it is forced, and that
death is proven there and never guessed: both are the world's (world.py). One force makes all that is readable
durable, as whoever reads another's file copies it first (O59).
Not for: bytes, files, statements.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from syncpoint.ids import Key, TransactionId
from syncpoint.protocol import admission
from syncpoint.records import Abort, Commit, Record
from syncpoint.simulation.model.names import Try, Unit, key_of, try_of

GONE = 0
"""No incarnation has this number: the keeper of an incarnation whose row is gone."""


class Rows(NamedTuple):
    """All that can be read in it. Immutable; fulfils `protocol.admission.Standing`."""

    commits: frozenset[Commit] = frozenset()
    """Commit records that have not ended, and ended ones that are kept for their id."""
    ended: frozenset[Try] = frozenset()
    aborts: frozenset[Try] = frozenset()
    keepers: tuple[int, ...] = ()
    """Who keeps incarnation 1, 2, ...: its own number means that it lives."""
    claimed_by: int = GONE
    """Which incarnation has claimed the transaction's id."""
    resolved: frozenset[tuple[Unit, bool]] = frozenset()
    """What an operator forced."""
    ever: frozenset[Commit] = frozenset()
    """Every Commit that was ever accepted: what the invariants know, and nobody in the model may look at."""

    # --- protocol.admission.Standing --------------------------------------------------------------------------

    def committed(self, transaction: TransactionId) -> Key | None:
        return next((commit.key for commit in self.commits), None)

    def is_aborted(self, key: Key) -> bool:
        return any(key_of(attempt) == key for attempt in self.aborts)

    # --- reading ----------------------------------------------------------------------------------------------

    def keeper(self, incarnation: int) -> int:
        return self.keepers[incarnation - 1]

    def keeps_itself(self, incarnation: int) -> bool:
        return self.keepers[incarnation - 1] == incarnation

    def kept_commit(self) -> Commit | None:
        """The Commit record of the transaction, ended or not (`Journal.find`)."""
        return next(iter(self.commits), None)

    def decisions(self, own: int) -> list[Commit]:
        """Commit records that have not ended, and that `own` must see finished."""
        return [one for one in self.unended() if self.keeper(try_of(one).incarnation) == own]

    def elsewhere(self, own: int) -> list[Commit]:
        """Those of the dead that somebody else sees finished, or nobody yet."""
        keepers = {try_of(one).incarnation: self.keeper(try_of(one).incarnation) for one in self.unended()}
        return [one for one in self.unended() if keepers[try_of(one).incarnation] not in (own, try_of(one).incarnation)]

    def unended(self) -> list[Commit]:
        return [one for one in self.commits if try_of(one) not in self.ended]

    def living(self) -> frozenset[int]:
        return frozenset(one for one in range(1, len(self.keepers) + 1) if self.keeps_itself(one))

    def ended_incarnations(self, candidates: Iterable[int]) -> frozenset[int]:
        """Those of `candidates` that do not live and have nothing unfinished (`unfinished`)."""
        unfinished = self.living() | {try_of(one).incarnation for one in self.unended()}
        return frozenset(candidates) - unfinished

    # --- writing ----------------------------------------------------------------------------------------------

    def append(self, record: Record) -> tuple[Rows, bool]:
        """The rows after, and whether the record was taken."""
        match record:
            case Commit():
                if not may_decide(self, try_of(record).incarnation) or not admission.admit(record, self):
                    return self, False
                return self._replace(commits=self.commits | {record}, ever=self.ever | {record}), True
            case Abort():
                if not admission.admit(record, self):
                    return self, False
                return self._replace(aborts=self.aborts | {try_of(record)}), True
            case _:
                raise AssertionError(f"the model's journal holds no {record!r}")

    def end(self, attempt: Try, own: Iterable[int]) -> Rows:
        if not may_end(self, attempt.incarnation, own):
            return self
        found = {one for one in self.commits if try_of(one) == attempt}
        kept = {try_of(one) for one in found if one.user_id is not None}
        gone = {one for one in found if one.user_id is None}
        return self._replace(commits=self.commits - gone, ended=self.ended | kept)

    def draw(self) -> tuple[Rows, int]:
        """The next incarnation, alive from now on."""
        drawn = len(self.keepers) + 1
        return self._replace(keepers=(*self.keepers, drawn)), drawn

    def keep(self, incarnation: int, keeper: int) -> Rows:
        keepers = list(self.keepers)
        keepers[incarnation - 1] = keeper
        return self._replace(keepers=tuple(keepers))

    def claim(self, own: int) -> tuple[Rows, bool]:
        """Claim the id, also from a process that was taken for dead. Not while it is committed."""
        holder = self.claimed_by
        is_free = holder in (GONE, own) or not self.keeps_itself(holder)
        if self.commits or not is_free:
            return self, False
        return self._replace(claimed_by=own), True

    def release(self, own: int) -> Rows:
        return self._replace(claimed_by=GONE) if self.claimed_by == own else self

    def drop_aborts(self) -> Rows:
        """Aborts whose incarnation can write no Commit any more (O54)."""
        return self._replace(aborts=frozenset(a for a in self.aborts if not may_drop_abort(self, a.incarnation)))

    def drop_finished(self, own: int) -> Rows:
        """Incarnations that `own` keeps and that have nothing left."""
        unfinished = {try_of(one).incarnation for one in self.unended()}
        keepers = (
            GONE if keeper == own and one not in (own, *unfinished) else keeper
            for one, keeper in enumerate(self.keepers, 1)
        )
        return self._replace(keepers=tuple(keepers))


def may_decide(rows: Rows, incarnation: int) -> bool:
    """Whether a Commit of this incarnation can still appear."""
    return rows.keeps_itself(incarnation)


def may_end(rows: Rows, incarnation: int, own: Iterable[int]) -> bool:
    """Whether a process with these incarnations ends a record of that one: it keeps it."""
    return rows.keeper(incarnation) in own


def may_drop_abort(rows: Rows, incarnation: int) -> bool:
    """Whether an Abort of this incarnation may be removed: it can write no Commit any more (O54)."""
    return not rows.keeps_itself(incarnation)


def is_forsaken(rows: Rows, own: int, one: int, silent: frozenset[int]) -> bool:
    """Whether `own` may take over for `one`: not heard of, or kept by somebody who was taken over himself."""
    keeper = rows.keeper(one)
    if one == own or keeper in (own, GONE):
        return False
    return one in silent if keeper == one else not rows.keeps_itself(keeper)


class Journal(NamedTuple):
    """The rows that can be read, and those that are on disk."""

    visible: Rows = Rows()
    durable: Rows = Rows()

    def force(self, rows: Rows) -> Journal:
        """Write, durably: and with it all that was written lazily before."""
        return Journal(rows, rows)

    def lazily(self, rows: Rows) -> Journal:
        return Journal(rows, self.durable)

    def crash(self) -> Journal:
        """What was not on disk is gone."""
        return Journal(self.durable, self.durable)

    def forget_ever(self) -> Rows:
        """The rows without what only the invariants know."""
        return self.visible._replace(ever=frozenset())
