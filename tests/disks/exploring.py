"""Crash states of the folder journal: every one is opened with the production code, and must keep what was told.

Depth 1: a power failure at any point of a workload. Depth 2: another one while what the first left is recovered. Where
there are too many states, a sample drawn with a fixed seed. Not for: what is checked (account.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from syncpoint.errors import JournalRefused
from syncpoint.testing.crash_states import points
from syncpoint.testing.disk_images import Image, disk_holding
from syncpoint.testing.recording_disk import Recording
from tests.disks.account import Account, Mark
from tests.disks.workloads import NAMED, SEGMENT_SIZE_BYTES, Lot, Stage
from tests.journal.support import Process, commit, end


class Broken(AssertionError):
    """A state in which the journal does not keep what was told."""


@dataclass
class Explored:
    """How much was seen."""

    states: int = 0
    """Different states that were opened and checked, with what had been told by then."""
    of: int = 0
    """States there are, points of one workload added up; those of depth 2 not counted."""
    second: int = 0
    """Of `states`, how many were left by a second crash, during recovery."""
    points: int = 0
    seen: set[int] = field(default_factory=set, repr=False)


@dataclass(frozen=True)
class Effort:
    """How many states are drawn at each point, and how often the recovery of one is crashed too."""

    states_per_point: int
    second_every: int
    second_states_per_point: int


def explore(name: str, recording: Recording, effort: Effort, explored: Explored, *, seed: int = 1) -> None:
    """Raises Broken, which says how to come back to the state."""
    chance = random.Random(f"{name} {seed}")
    for point in points(recording):
        explored.points += 1
        explored.of += point.count()
        for image in point.states(limit=effort.states_per_point, chance=chance):
            if not _is_new(image, point.marks, explored):
                continue
            _check(f"{name}, {point!r}", image, point.marks, explored.states)
            if explored.states % effort.second_every == 0:
                _crash_again(f"{name}, {point!r}", image, point.marks, effort, explored, chance)


def _is_new(image: Image, marks: tuple[Mark, ...], explored: Explored) -> bool:
    told = hash((len(marks), frozenset(image.items())))
    if told in explored.seen:
        return False
    explored.seen.add(told)
    explored.states += 1
    return True


def _check(where: str, image: Image, marks: Iterable[Mark], turn: int) -> None:
    account = Account.of(marks)
    process = Process(disk_holding(image), segment_size_bytes_max=SEGMENT_SIZE_BYTES)
    try:
        if _must_be_refused(account):
            with pytest.raises(JournalRefused):
                process.open()
            return
        try:
            process.open()
        except JournalRefused:
            if _may_be_refused(account):
                return
            raise
        account.check(process, turn)
        process(process.journal.close())
    except Exception as error:
        files = "\n".join(f"  {path} {None if one.data is None else len(one.data)}" for path, one in image.items())
        raise Broken(f"{where}: {type(error).__name__}: {error}\n{files}") from error


def _must_be_refused(account: Account) -> bool:
    return account.refused is not None and account.refused.done


def _may_be_refused(account: Account) -> bool:
    """While a folder is being refused for good, or a copy is being adopted, a crash leaves one or the other."""
    begun = (account.refused, account.adopted)
    return any(one is not None and not one.done for one in begun)


def _crash_again(
    where: str, image: Image, marks: tuple[Mark, ...], effort: Effort, explored: Explored, chance: random.Random
) -> None:
    stage = Stage(disk_holding(image))
    for mark in marks:
        stage.recording.mark(mark)
    actor = stage.actor()
    try:
        actor.open()
        actor.force(commit(actor.key(200), result=b"second" * 100))
        actor.force(*map(end, actor.unended[:2]))
    except JournalRefused:
        return  # checked already: it may be
    for point in points(stage.recording):
        for again in point.states(limit=effort.second_states_per_point, chance=chance):
            if _is_new(again, point.marks, explored):
                explored.second += 1
                _check(f"{where}, then in its recovery {point!r}", again, point.marks, explored.states)


REDUCED = Effort(states_per_point=3, second_every=100, second_states_per_point=2)
FULL = Effort(states_per_point=12, second_every=100, second_states_per_point=4)


def explore_named(name: str, effort: Effort) -> Explored:
    """One workload by its name: one of `NAMED`, or "lot 17"."""
    explored = Explored()
    recording = NAMED[name]() if name in NAMED else Lot(int(name.removeprefix("lot "))).run()
    explore(name, recording, effort, explored)
    explored.seen.clear()
    return explored
