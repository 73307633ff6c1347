"""The other processes that share the folder: which of them live, what they have recorded, what the dead left.

One survey lists the members, tries the lock of each, reads whole what the dead left (and keeps their locks, so that
nobody else does), and reads on in the files of the living. Liveness is read before the records (DESIGN section 3).

A lock file without segments is a process just opening, or one that was cleared away except for its lock file. Only
under the folder's lock, which whoever opens holds, is the one told from the other.

Not for: taking the records over (folder.py), or the bytes (members.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from syncpoint.errors import JournalRefused
from syncpoint.ids import Guid, Incarnation, Key, TransactionId
from syncpoint.journal.format import SegmentName
from syncpoint.journal.head import Paths
from syncpoint.journal.index import Index
from syncpoint.journal.members import Member, Vanished, index_dead, list_locks, list_segments
from syncpoint.ports import Disk, FileLock
from syncpoint.records import Commit, Prepared

SURVEYS_MAX = 1000


@dataclass(slots=True)
class Dead:
    """A process proven dead: we hold its lock."""

    incarnation: Incarnation
    lock: FileLock
    numbers: Sequence[int] = ()
    index: Index = field(default_factory=Index)


class Neighbours:
    """Everybody else. `survey` is called by one thread at a time; the mutex guards what others look at."""

    def __init__(
        self, disk: Disk, paths: Paths, mutex: AbstractContextManager[Any], coordinator: Guid, own: Incarnation | None
    ) -> None:
        self._disk = disk
        self._paths = paths
        self._mutex = mutex
        self._coordinator = coordinator
        self.own = own
        self.living: dict[Incarnation, Member] = {}
        self.dead: dict[Incarnation, Dead] = {}
        """Proven dead, their locks held by us, their records not yet taken over. Until they are, nothing is concluded
        from their death, and what they have recorded counts as held by others; it is not answered with (O59)."""

    def __repr__(self) -> str:
        return f"<Neighbours living={sorted(self.living)} dead={sorted(self.dead)}>"

    # --- what is known -----------------------------------------------------------------------------------------

    def highest(self) -> int:
        """The highest incarnation that has left any trace."""
        return max((*self.living, *self.dead), default=0)

    def commit(self, transaction: TransactionId) -> Commit | None:
        """The Commit record of this transaction, if a living process has certainly forced it."""
        for member in self.living.values():
            commit = member.index.commit(transaction)
            if commit is not None:
                return commit
        return None

    def is_uncertain(self, transaction: TransactionId) -> bool:
        """Whether another process has written a Commit of it of which nobody knows whether it is forced (O59)."""
        left = any(one.index.committed(transaction) is not None for one in self.dead.values())
        return left or any(member.is_uncertain(transaction) for member in self.living.values())

    def committed(self, transaction: TransactionId) -> Key | None:
        """The key under which this transaction is committed elsewhere, certain or not: no other attempt may."""
        commit = self.commit(transaction)
        if commit is not None:
            return commit.key
        for one in self.dead.values():
            key = one.index.committed(transaction)
            if key is not None:
                return key
        keys = (commit.key for member in self.living.values() for commit in member.uncertain)
        return next((key for key in keys if key.transaction == transaction), None)

    def unended(self) -> Iterator[Key]:
        """Keys of everything that others have to finish, or have left unfinished."""
        for member in self.living.values():
            yield from member.unended()
        for one in self.dead.values():
            yield from one.index.unended

    def promised(self) -> Iterator[Prepared]:
        """Prepared records without an outcome, of others."""
        for index in (*(one.index for one in self.living.values()), *(one.index for one in self.dead.values())):
            yield from index.prepared.values()

    def not_taken_over(self) -> frozenset[Incarnation]:
        """Those of whom nothing may be presumed: the living, and the dead whose records we have not taken over yet."""
        return frozenset(self.living) | frozenset(self.dead)

    # --- surveying -----------------------------------------------------------------------------------------------

    def survey(self, *, probe: bool) -> None:
        """Look at everybody. With `probe`, find out who is dead; else all are taken for living.

        Raises JournalDamaged, FormatTooNew, OSError.
        """
        for _ in range(SURVEYS_MAX):
            try:
                self._survey(probe)
            except Vanished:
                continue  # cleared away or rotated meanwhile: its records are in another file by now
            return
        raise JournalRefused(
            f"The journal at {self._paths.root} cannot be read: its files vanish while they are looked at.",
            advice="See that nothing but Syncpoint touches that folder.",
        )

    def _survey(self, probe: bool) -> None:
        locks = list_locks(self._disk, self._paths)
        segments = list_segments(self._disk, self._paths)
        living: dict[Incarnation, Member] = {}
        for incarnation in sorted({*locks, *segments} - {self.own} - set(self.dead)):
            numbers = segments.get(incarnation, [])
            if probe and self._is_dead(incarnation, has_segments=bool(numbers)):
                continue
            member = self.living.get(incarnation) or Member(incarnation)
            member.follow(self._disk, self._paths, numbers, self._mutex)
            living[incarnation] = member
        with self._mutex:
            self.living = living

    def _is_dead(self, incarnation: Incarnation, *, has_segments: bool) -> bool:
        lock = self._try_lock(incarnation, opening=not has_segments)
        if lock is None:
            return False
        try:
            # Listed anew: it may have gone on writing, or have been cleared away, until we had its lock.
            numbers = list_segments(self._disk, self._paths).get(incarnation, [])
            index = index_dead(self._disk, self._paths, incarnation, numbers, self._coordinator)
        except BaseException:
            lock.release()
            raise
        with self._mutex:
            self.dead[incarnation] = Dead(incarnation, lock, numbers, index)
        if has_segments and not numbers:
            raise Vanished  # taken over by somebody whose file may have been read before
        return True

    def _try_lock(self, incarnation: Incarnation, *, opening: bool) -> FileLock | None:
        path = self._paths.member(incarnation)
        if not opening:
            return self._disk.lock(path)
        gate = self._disk.lock(self._paths.lock)
        if gate is None:
            return None
        try:
            return self._disk.lock(path)
        finally:
            gate.release()

    # --- clearing away ---------------------------------------------------------------------------------------------

    def clear_away(self, dead: Dead) -> None:
        """Remove what a dead process left, all of it being forced elsewhere. Raises OSError.

        Its oldest segment goes first, durably: a Commit must not outlive the End that follows it.
        """
        for number in dead.numbers:
            self._disk.remove(self._paths.segment(SegmentName(dead.incarnation, number)))
            self._disk.force_folder(self._paths.segments)
        self._disk.remove(self._paths.member(dead.incarnation))
        with self._mutex:
            del self.dead[dead.incarnation]
        dead.lock.release()

    def release(self) -> None:
        """Give back the locks of those not taken over."""
        with self._mutex:
            dead, self.dead = list(self.dead.values()), {}
        for one in dead:
            one.lock.release()
