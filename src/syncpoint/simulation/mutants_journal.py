"""Deliberate bugs in the folder journal, for the simulator to catch. Not for: the journal in a database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from syncpoint.ids import Attempt, Incarnation, TransactionId
from syncpoint.journal import gathering, head, opening
from syncpoint.journal.claims import Claims, TransactionClaim
from syncpoint.journal.folder import FolderJournal
from syncpoint.journal.head import Paths
from syncpoint.journal.index import Index
from syncpoint.journal.neighbours import Neighbours
from syncpoint.journal.segment import SegmentWriter
from syncpoint.ports import Disk, FileLock
from syncpoint.records import Record
from syncpoint.simulation.mutant import Mutant, put


def _write_unforced(self: SegmentWriter, records: Sequence[Record]) -> None:
    self._append(folder_batch(self, records))


def folder_batch(writer: SegmentWriter, records: Sequence[Record]) -> bytes:
    """The bytes of one batch, as the writer would append them."""
    from syncpoint.journal.format import encode_batch

    return encode_batch(writer.name, writer.size_bytes, writer._forced, records)


def _state_too_much(self: SegmentWriter, records: Sequence[Record]) -> None:
    """What was appended is said to be forced."""
    self._append(folder_batch(self, records))
    self._forced = self.size_bytes


def _start_unlisted(self: SegmentWriter) -> None:
    """The new file's name is not forced."""
    self._file = self._disk.create(self._paths.segment(self.name))
    self._append(self._header())
    self._force()
    self.state()


def _rotate_empty(self: SegmentWriter, alive: Sequence[Record]) -> None:
    _rotate(self, [])


_rotate = SegmentWriter.rotate


def _remove_first(self: SegmentWriter, alive: Sequence[Record]) -> None:
    """The old segment goes, durably, before the new one is there."""
    self._disk.remove(self._paths.segment(self.name))
    self._disk.force_folder(self._paths.segments)
    _rotate(self, alive)


def _force_twice(self: SegmentWriter) -> None:
    """A failed force is tried again."""
    assert self._file is not None
    try:
        self._file.force()
    except OSError:
        self._file.force()
    self._forced = self.size_bytes


def _never_fail(self: FolderJournal, error: OSError) -> Any:
    """A failed force is forgotten: the journal goes on writing."""
    from syncpoint.errors import JournalFailed

    return JournalFailed(f"{error}")


def _draw_unforced(disk: Disk, paths: Paths, value: int) -> None:
    """The counter of incarnations stays where it is, once there is one."""
    if not disk.exists(paths.counter):
        head.write_counter(disk, paths, value)


def _everybody_is_dead(self: Neighbours, incarnation: Incarnation, *, opening: bool) -> FileLock | None:
    return _NoLock()


class _NoLock(FileLock):
    def release(self) -> None: ...


def _nobody_is_dead(self: Neighbours, incarnation: Incarnation, *, has_segments: bool) -> bool:
    return False


def _copy_nothing(index: Index, dead: Sequence[Any], before_ms: int) -> list[Record]:
    """What the dead left is taken over without being written down again."""
    return []


def _clear_away_first(self: FolderJournal, items: Sequence[Any], noted: list[Record]) -> Any:
    """What the dead left is removed before its copy is forced."""
    if any(item.inherit for item in items):
        for one in list(self._neighbours.dead.values()):
            for number in one.numbers:
                self._disk.remove(self._paths.segment(folder_name(one.incarnation, number)))
            self._disk.force_folder(self._paths.segments)
    return _write(self, items, noted)


def folder_name(incarnation: Incarnation, number: int) -> Any:
    """A segment's name."""
    from syncpoint.journal.format import SegmentName

    return SegmentName(incarnation, number)


_write = FolderJournal._write


def _claim_whatever(self: Claims, claim: TransactionClaim) -> bool:
    """Two processes may claim one id."""
    return True


def _unclaimed(self: Claims, transaction: TransactionId) -> TransactionClaim | None:
    claim = TransactionClaim(self, transaction)
    self._held[transaction] = claim
    return claim


def _same_attempt(self: FolderJournal) -> Attempt:
    return Attempt(self.incarnation, 1)


def _forget_results(self: Index, key: Any) -> None:
    """An ended Commit is forgotten, though its id may be sent again."""
    commit = self.unended.pop(key, None)
    if commit is not None:
        self._attempts.pop(key.transaction, None)


def _ends_count_early(self: FolderJournal, candidates: Iterable[Incarnation]) -> Any:
    """Every incarnation but our own has ended."""
    return frozenset(candidates) - {self.incarnation}
    yield from ()


F = partial(Mutant, journal="folder", where="journal/folder.py")
W = partial(Mutant, journal="folder", where="journal/segment.py")
_DISK = ("power-cut", "kill", "kill-in-disk-operation", "force-fails", "database-restart", "cut")

MUTANTS: tuple[Mutant, ...] = (
    W(
        "write without force",
        "forced before it is accepted",
        patch=lambda: put(SegmentWriter, "write", _write_unforced),
        kinds=_DISK,
    ),
    W(
        "state what is not forced",
        "a stated offset is forced",
        patch=lambda: put(SegmentWriter, "write", _state_too_much),
        kinds=_DISK,
    ),
    W(
        "no force of the folder",
        "a file's name is forced too",
        patch=lambda: put(SegmentWriter, "start", _start_unlisted),
        kinds=_DISK,
    ),
    W(
        "rotate without what is alive",
        "a new segment begins with everything alive",
        patch=lambda: put(SegmentWriter, "rotate", _rotate_empty),
    ),
    W(
        "remove the old segment first",
        "the new segment is there before the old one goes",
        patch=lambda: put(SegmentWriter, "rotate", _remove_first),
        kinds=_DISK,
    ),
    W(
        "force again after a failure",
        "fsync is never tried again (R5)",
        patch=lambda: put(SegmentWriter, "_force", _force_twice),
        kinds=("force-fails", "power-cut", "kill"),
    ),
    F(
        "go on after a failed force",
        "a failed force ends all writing (R5)",
        patch=lambda: put(FolderJournal, "_fail", _never_fail),
        kinds=("force-fails", "disk-full", "power-cut", "kill"),
    ),
    Mutant(
        "draw an incarnation twice",
        "an incarnation is never reused",
        "journal/opening.py",
        lambda: put(opening, "write_counter", _draw_unforced),
        journal="folder",
    ),
    Mutant(
        "take the living for dead",
        "death is proven by the lock",
        "journal/neighbours.py",
        lambda: put(Neighbours, "_try_lock", _everybody_is_dead),
        journal="folder",
    ),
    Mutant(
        "take nobody for dead",
        "the dead are recovered by the living",
        "journal/neighbours.py",
        lambda: put(Neighbours, "_is_dead", _nobody_is_dead),
        journal="folder",
    ),
    Mutant(
        "take over without copying",
        "what was read is forced again before it is used (O59)",
        "journal/gathering.py",
        lambda: put(gathering, "copies", _copy_nothing),
        journal="folder",
        kinds=_DISK,
    ),
    F(
        "clear away before the copy is forced",
        "a record is always somewhere",
        patch=lambda: put(FolderJournal, "_write", _clear_away_first),
        kinds=_DISK,
    ),
    Mutant(
        "claims exclude nobody",
        "a running id is not run again (C7)",
        "journal/claims.py",
        lambda: put(Claims, "take", _claim_whatever),
        journal="folder",
        workload="resends",
    ),
    F(
        "the same attempt again",
        "an attempt is never reused",
        patch=lambda: put(FolderJournal, "next_attempt", _same_attempt),
        kinds=("lose-a-reply", "cut-replies", "database-restart-while-committing"),
    ),
    F(
        "incarnations end early",
        "evidence outlives its record",
        patch=lambda: put(FolderJournal, "ended_incarnations", _ends_count_early),
    ),
)
