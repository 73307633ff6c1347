"""Crash states of the folder journal, enumerated: the reduced form of `make disks`. And that the search would notice.

The second half breaks the journal on purpose, one rule at a time, and sees that some state gives it away. Not for: the
enumeration by itself (tests/testing/test_crash_states.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from syncpoint.journal import format as journal_format
from syncpoint.journal import members
from syncpoint.journal.folder import FolderJournal
from syncpoint.journal.format import SegmentName
from syncpoint.journal.neighbours import Dead, Neighbours
from syncpoint.journal.segment import SegmentWriter
from syncpoint.records import Record
from syncpoint.testing.recording_disk import RecordingDisk
from tests.disks.exploring import REDUCED, Broken, explore_named
from tests.disks.workloads import NAMED

LOTS = [f"lot {seed}" for seed in range(4)]
Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("name", [*NAMED, *LOTS])
def test_every_state_keeps_what_was_told(name: str) -> None:
    """O31 O40: nothing acknowledged is lost, nothing invented, no incarnation drawn twice; nor by a second crash."""
    explored = explore_named(name, REDUCED)
    assert explored.states >= 20
    assert explored.of >= explored.states - explored.second


# --- the search would notice ---------------------------------------------------------------------------------------


def records_are_not_forced(patch: Patch) -> None:
    patch.setattr(SegmentWriter, "write", lambda self, records: _append_only(self, records))


def _append_only(writer: SegmentWriter, records: Sequence[Record]) -> None:
    writer._append(journal_format.encode_batch(writer.name, writer.size_bytes, writer._forced, records))


def a_force_is_stated_before_it_is_done(patch: Patch) -> None:
    def write(self: SegmentWriter, records: Sequence[Record]) -> None:
        _append_only(self, records)
        self._forced = self.size_bytes
        self.state()
        self._force()

    patch.setattr(SegmentWriter, "write", write)


def the_folder_is_not_forced(patch: Patch) -> None:
    patch.setattr(RecordingDisk, "force_folder", lambda self, folder: None)


def the_folder_of_segments_is_not_forced(patch: Patch) -> None:
    real = RecordingDisk.force_folder

    def force_folder(self: RecordingDisk, folder: str) -> None:
        if not folder.endswith("segments"):
            real(self, folder)

    patch.setattr(RecordingDisk, "force_folder", force_folder)


def small_files_are_not_forced(patch: Patch) -> None:
    def replace(self: RecordingDisk, path: str, data: bytes) -> None:
        real(self, path, data)
        operations = self._recording.operations
        last = max(index for index, one in enumerate(operations) if one.kind == "force" and one.path.endswith(".new"))
        del operations[last]

    real = RecordingDisk.replace
    patch.setattr(RecordingDisk, "replace", replace)


def the_old_segment_goes_before_the_new_one_is_forced(patch: Patch) -> None:
    def rotate(self: SegmentWriter, alive: Sequence[Record]) -> None:
        old, force = self._paths.segment(self.name), self._force
        self._force = lambda: None  # type: ignore[method-assign]
        try:
            real(self, alive)
        finally:
            self._force = force  # type: ignore[method-assign]
        self._disk.remove(old)
        self._force()

    real = SegmentWriter.rotate
    patch.setattr(SegmentWriter, "rotate", rotate)


def the_dead_are_cleared_away_before_their_records_are_copied(patch: Patch) -> None:
    def write(self: FolderJournal, items: Sequence[object], noted: list[Record]) -> object:
        if any(item.inherit for item in items):  # type: ignore[attr-defined]
            for one in self._neighbours.dead.values():
                for number in one.numbers:
                    self._disk.remove(self._paths.segment(SegmentName(one.incarnation, number)))
        return real(self, items, noted)  # type: ignore[arg-type]

    real = FolderJournal._write
    patch.setattr(FolderJournal, "_write", write)


def the_dead_are_cleared_away_after_what_they_left_was_ended(patch: Patch) -> None:
    """Their removal is never made durable: a Commit outlives its End."""

    def clear_away(self: Neighbours, dead: Dead) -> None:
        for number in dead.numbers:
            self._disk.remove(self._paths.segment(SegmentName(dead.incarnation, number)))
        del self.dead[dead.incarnation]
        dead.lock.release()

    patch.setattr(Neighbours, "clear_away", clear_away)


def what_the_dead_left_is_answered_with_but_not_copied(patch: Patch) -> None:
    def write(self: SegmentWriter, records: Sequence[Record]) -> None:
        _append_only(self, records)
        if not any(one.key.attempt.incarnation != self.name.incarnation for one in records if hasattr(one, "key")):
            self._force()

    patch.setattr(SegmentWriter, "write", write)


def checksums_are_not_checked(patch: Patch) -> None:
    patch.setattr(journal_format, "_batch_crc", lambda *_: 0)
    patch.setattr(journal_format.zlib, "crc32", lambda *_: 0)


def a_torn_tail_is_taken_for_damage(patch: Patch) -> None:
    patch.setattr(members.SegmentReading, "damage", lambda self, following: self.reading.bad)


BREAKS = [
    records_are_not_forced,
    a_force_is_stated_before_it_is_done,
    the_folder_is_not_forced,
    the_folder_of_segments_is_not_forced,
    small_files_are_not_forced,
    the_old_segment_goes_before_the_new_one_is_forced,
    the_dead_are_cleared_away_before_their_records_are_copied,
    the_dead_are_cleared_away_after_what_they_left_was_ended,
    what_the_dead_left_is_answered_with_but_not_copied,
    checksums_are_not_checked,
    a_torn_tail_is_taken_for_damage,
]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda one: one.__name__)
def test_a_broken_rule_is_noticed(break_it: Callable[[Patch], None], monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    with pytest.raises(Broken):
        _explore_all()


def _explore_all() -> None:
    for name in (*NAMED, *LOTS):
        explore_named(name, REDUCED)
