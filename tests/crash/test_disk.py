"""SIGKILL before every single change to the journal's disk, and in the middle of every append (O40).

A yield of the journal is one point to the rest of the suite; below it the batcher's thread appends, forces, states,
goes on in a new segment, takes over the dead. Not for: disks that fail or lose power (tests/journal).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.budget import some
from tests.crash.harness import NotHit, Stage
from tests.crash.scenes import load


@pytest.mark.parametrize("name", ["journal_goes_on_in_a_new_segment", "recover_decided"])
def test_kill_at_every_change_of_the_disk(name: str, stage: Stage, announce: Callable[[str], None]) -> None:
    """O26 O27 O31 O40: whatever was reached, recovery ends it one way."""
    scene = load()[name]
    changes = stage.play(scene).disk
    assert "force" in changes
    died = torn = 0
    chosen = some(list(enumerate(changes, 1)))
    for nth, what in chosen:
        died += _died(stage, name, (nth, False))
        if what == "append":
            torn += _died(stage, name, (nth, True))
    announce(f"{name}: killed before {died} of {len(changes)} changes to the disk, and in the middle of {torn}")
    assert died >= len(chosen) * 0.8  # group commit: one run has a few less than another


def _died(stage: Stage, name: str, disk: tuple[int, bool]) -> bool:
    try:
        stage.play(load()[name], disk=disk)
    except NotHit:
        return False
    return True
