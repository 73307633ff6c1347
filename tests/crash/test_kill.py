"""SIGKILL at every generated point, against PostgreSQL, MariaDB and SQLite together (O22, O26 to O28, O31).

With the journal in a folder at all of them; with each journal in a database at those that exist only there, and at a
third of the others.

After each death: recovery in a new process, then an audit from outside: all or nothing, what the caller was told
holds, nothing in doubt, no locks, and the same id sent again runs once. Not for: whether every point is reached
(test_points.py).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.crash.budget import some
from tests.crash.conftest import Stages
from tests.crash.harness import NotHit, Stage
from tests.crash.journals import ADDED, DECIDERS, FOLDER
from tests.crash.points import Point
from tests.crash.scenes import load
from tests.crash.shards import (
    SHARDS,
    SHARDS_ADDED,
    Recorded,
    kill_at,
    points_of_added_shard,
    points_of_shard,
    recorded,
)
from tests.crash.trap import Target


@pytest.mark.parametrize("shard", range(SHARDS))
def test_kill_at_every_point(shard: int, stage: Stage, shared_folder: Path, announce: Callable[[str], None]) -> None:
    """O22 O26 O27 O28 O31: every yield, every force, every send; those of recovery too."""
    recordings = recorded(stage, shared_folder)
    _kill_at_all(stage, recordings, points_of_shard(recordings, shard), f"{shard + 1} of {SHARDS}", announce)


@pytest.mark.parametrize("shard", range(SHARDS_ADDED))
@pytest.mark.parametrize("kind", ADDED)
def test_kill_at_every_point_with_the_journal_in_a_database(
    kind: str, shard: int, stages: Stages, shared_folder: Path, announce: Callable[[str], None]
) -> None:
    """O26 O27 O31 O54 O55: the journal's packets, in the background too; settled by another process."""
    recordings = recorded(stages[kind], shared_folder)
    points = points_of_added_shard(recordings, recorded(stages[FOLDER], shared_folder), shard)
    part = f"journal in {kind}, {shard + 1} of {SHARDS_ADDED}"
    _kill_at_all(stages[kind], recordings, points, part, announce)


def _kill_at_all(
    stage: Stage, recordings: Recorded, points: Sequence[Point], part: str, announce: Callable[[str], None]
) -> None:
    failed = []
    began = time.monotonic()
    for point in points:
        try:
            kill_at(stage, recordings, point)
        except AssertionError:
            failed.append(f"at {point}\n{traceback.format_exc(limit=-3)}")
    announce(f"killed at {len(points)} points ({part}), {time.monotonic() - began:.0f} s")
    assert not failed, "\n".join(failed)


STEPWISE = [
    *((FOLDER, name) for name in ("transfer_with_id", "transfer_on_lent_connections", "recover_half")),
    *((kind, "transfer_with_id") for kind in DECIDERS),
]


@pytest.mark.parametrize(("kind", "name"), STEPWISE)
def test_kill_at_every_step(kind: str, name: str, stages: Stages, announce: Callable[[str], None]) -> None:
    """O31 O43: not only at the first time that a point is passed, but before the single steps of a whole run."""
    scene, stage = load()[name], stages[kind]
    steps = stage.play(scene).steps
    chosen = some(range(1, steps + 1))
    died = 0
    for nth in chosen:
        try:
            stage.play(scene, Target(nth=nth))
            died += 1
        except NotHit:
            break  # steps side by side: one run has a few more than another
    announce(f"{name}, journal in {kind}: killed before {died} of {steps} steps")
    assert died >= len(chosen) - 3
