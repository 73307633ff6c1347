"""SIGKILL at every generated point, against PostgreSQL, MariaDB and SQLite together (O22, O26 to O28, O31).

After each death: recovery in a new process, then an audit from outside: all or nothing, what the caller was told
holds, nothing in doubt, no locks, and the same id sent again runs once. Not for: whether every point is reached
(test_points.py).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.budget import some
from tests.crash.harness import NotHit, Stage
from tests.crash.scenes import load
from tests.crash.shards import SHARDS, kill_at, points_of_shard, recorded
from tests.crash.trap import Target


@pytest.mark.parametrize("shard", range(SHARDS))
def test_kill_at_every_point(shard: int, stage: Stage, shared_folder: Path, announce: Callable[[str], None]) -> None:
    """O22 O26 O27 O28 O31: every yield, every force, every send; those of recovery too."""
    recordings = recorded(stage, shared_folder)
    points = points_of_shard(recordings, shard)
    failed = []
    began = time.monotonic()
    for point in points:
        try:
            kill_at(stage, recordings, point)
        except AssertionError:
            failed.append(f"at {point}\n{traceback.format_exc(limit=-3)}")
    announce(f"killed at {len(points)} points ({shard + 1} of {SHARDS}), {time.monotonic() - began:.0f} s")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", ["transfer_with_id", "transfer_on_lent_connections", "recover_half"])
def test_kill_at_every_step(name: str, stage: Stage, announce: Callable[[str], None]) -> None:
    """O31 O43: not only at the first time that a point is passed, but before the single steps of a whole run."""
    scene = load()[name]
    steps = stage.play(scene).steps
    chosen = some(range(1, steps + 1))
    died = 0
    for nth in chosen:
        try:
            stage.play(scene, Target(nth=nth))
            died += 1
        except NotHit:
            break  # steps side by side: one run has a few more than another
    announce(f"{name}: killed before {died} of {steps} steps")
    assert died >= len(chosen) - 3
