"""The enumeration of crash states, by hand-counted examples; and the images it works with."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from syncpoint.ports import Disk
from syncpoint.testing.crash_states import Point, points
from syncpoint.testing.disk_images import disk_holding, image_of
from syncpoint.testing.disks import MemoryDisk
from syncpoint.testing.recording_disk import Recording

ALL = 1_000_000


def recorded(work: Callable[[Disk, Recording], None]) -> list[tuple[Point, list[dict[str, bytes]]]]:
    """Every point, and the files of every state there."""
    recording = Recording()
    work(recording.process(MemoryDisk()), recording)
    return [(point, states_of(point)) for point in points(recording)]


def states_of(point: Point) -> list[dict[str, bytes]]:
    images = list(point.states(limit=ALL, chance=random.Random(1)))
    assert 0 < len(images) <= point.count()
    return [{path: entry.data for path, entry in image.items() if entry.data is not None} for image in images]


def the_last(work: Callable[[Disk, Recording], None]) -> set[tuple[tuple[str, bytes], ...]]:
    return {tuple(sorted(state.items())) for state in recorded(work)[-1][1]}


def test_bytes_that_were_not_forced_may_be_there_or_zero_or_cut() -> None:
    def work(disk: Disk, recording: Recording) -> None:
        file = disk.create("/f")
        disk.force_folder("/")
        file.append(b"ab")
        file.force()
        file.append(b"cd")

    found = {state[0][1] for state in the_last(work)}
    assert {b"ab", b"abcd", b"ab\0\0"} <= found <= {b"ab", b"abcd", b"ab\0\0", b"abc", b"ab\0"}


def test_sectors_are_written_independently() -> None:
    def work(disk: Disk, recording: Recording) -> None:
        file = disk.create("/f")
        disk.force_folder("/")
        file.append(b"1" * 512 + b"2" * 512)

    found = {state[0][1] for state in the_last(work)}
    assert bytes(512) + b"2" * 512 in found
    assert b"1" * 512 + bytes(512) in found
    assert b"1" * 512 in found


def test_a_sector_may_be_as_an_earlier_append_left_it() -> None:
    def work(disk: Disk, recording: Recording) -> None:
        file = disk.create("/f")
        disk.force_folder("/")
        file.append(b"one")
        file.append(b"two")

    assert {b"", b"one", b"onetwo", b"one\0\0\0", bytes(6)} <= {state[0][1] for state in the_last(work)}


def test_what_was_removed_may_show_through() -> None:
    def work(disk: Disk, recording: Recording) -> None:
        old = disk.create("/old")
        old.append(b"OLD!")
        old.force()
        disk.force_folder("/")
        disk.remove("/old")
        new = disk.create("/new")
        disk.force_folder("/")
        new.append(b"new.")

    assert b"OLD!" in {dict(state)["/new"] for state in the_last(work)}


def test_each_name_of_a_folder_by_itself() -> None:
    def work(disk: Disk, recording: Recording) -> None:
        disk.create("/kept")
        disk.force_folder("/")
        disk.create("/new")
        disk.remove("/kept")

    assert the_last(work) == {
        (),
        (("/kept", b""),),
        (("/new", b""),),
        (("/kept", b""), ("/new", b"")),
    }


def test_a_replaced_file_is_the_old_or_the_new_one_and_new_once_the_folder_is_forced() -> None:
    def work(disk: Disk, recording: Recording) -> None:
        disk.replace("/f", b"old")
        recording.mark("old is there")
        disk.replace("/f", b"new")

    seen = recorded(work)
    marked = [states for point, states in seen if point.marks]
    assert {state["/f"] for states in marked for state in states} == {b"old", b"new"}
    assert {state["/f"] for state in seen[-1][1]} == {b"new"}
    assert [point.before for point, _ in seen] == [
        *["create", "append", "force", "rename", "force_folder"] * 2,
        "end",
    ]


def test_a_failed_force_promises_nothing_even_when_tried_again() -> None:
    disk, recording = MemoryDisk(), Recording()
    seen = recording.process(disk)
    file = seen.create("/f")
    seen.force_folder("/")
    file.append(b"x")
    disk.fail_force_at = disk.forces + 1
    with pytest.raises(OSError, match="the force failed"):
        file.force()
    file.force()
    *_, last = points(recording)
    assert {b"", b"x"} <= {state["/f"] for state in states_of(last)}


def test_too_many_states_are_sampled_and_the_same_ones_again() -> None:
    recording = Recording()
    file = recording.process(MemoryDisk()).create("/f")
    file.append(b"z" * 9000)
    *_, last = points(recording)
    assert last.count() > 10_000
    first = list(last.states(limit=50, chance=random.Random(7)))
    assert first == list(last.states(limit=50, chance=random.Random(7)))
    assert len(first) == 50
    assert "/f" not in first[0]
    assert first[1]["/f"].data == b"z" * 9000


def test_an_image_is_the_disk_again_with_the_same_folders() -> None:
    disk = MemoryDisk()
    disk.make_folder("/a")
    disk.replace("/a/f", b"bytes")
    again = disk_holding(image_of(disk))
    assert image_of(again) == image_of(disk)
    assert again.identity("/a") == disk.identity("/a")
    again.crash()
    assert again.read("/a/f") == b"bytes"


def test_a_folder_whose_force_failed_is_made_anew_by_who_comes_next() -> None:
    """No later force would prove anything about the first one, and all that is put into it would hang on it."""
    disk, recording = MemoryDisk(), Recording()
    process = recording.process(disk)
    disk.fail_force_at = disk.forces + 1
    with pytest.raises(OSError, match="the force failed"):
        process.make_folder("/a")
    assert not process.exists("/a")
    process.make_folder("/a")
    *_, last = points(recording)
    assert {tuple(sorted(state)) for state in last.states(limit=99, chance=random.Random(1))} == {("/", "/a")}


def test_a_name_whose_force_failed_stays_uncertain() -> None:
    disk, recording = MemoryDisk(), Recording()
    process = recording.process(disk)
    process.create("/f")
    disk.fail_force_at = disk.forces + 1
    with pytest.raises(OSError, match="the force failed"):
        process.force_folder("/")
    process.force_folder("/")
    *_, last = points(recording)
    assert {tuple(sorted(state)) for state in last.states(limit=99, chance=random.Random(1))} == {("/",), ("/", "/f")}
