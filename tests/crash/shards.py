"""Which plays are tried: every scene is recorded once, and every point is given to the scene that reaches it first.

The recordings are made once a test run, by whichever test process comes first, and shared through a file. Not for:
playing (harness.py), or other faults than SIGKILL.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.crash.budget import some
from tests.crash.harness import NotHit, Stage, scenes_tried
from tests.crash.points import Point, enumerate_points, resolve
from tests.crash.scenes import Scene, load
from tests.crash.trap import Place, Target

SHARDS = 8
SHARDS_ADDED = 4
"""For each journal in a database."""


@dataclass(frozen=True)
class Recorded:
    """Scene name -> the places it passes when nobody dies."""

    places: dict[str, list[Place]]

    def points_hit(self, points: frozenset[Point]) -> frozenset[Point]:
        return resolve((place for places in self.places.values() for place in places), points)

    def scenes_at(self, place: Place) -> list[Scene]:
        return [load()[name] for name, places in self.places.items() if place in places]


def recorded(stage: Stage, shared: Path) -> Recorded:
    """The recordings: read, or made now."""
    file = shared / f"crash-recordings-{stage.kind}.json"
    with _locked(file.with_suffix(".lock")):
        if not file.exists():
            places = {scene.name: stage.play(scene).places for scene in scenes_tried(stage.kind)}
            file.write_text(json.dumps(places))
    loaded = json.loads(file.read_text())
    return Recorded({name: [(path, line) for path, line in places] for name, places in loaded.items()})


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


TRIES = 4


def points_of_shard(recordings: Recorded, shard: int) -> list[Point]:
    """Every shard's points together are all that any scene reaches."""
    return sorted(recordings.points_hit(enumerate_points()))[shard::SHARDS]


def points_of_added_shard(recordings: Recorded, of_folder: Recorded, shard: int) -> list[Point]:
    """With a journal in a database: all that is only reached with it; of what a folder's scenes reach too, some."""
    points, known = enumerate_points(), of_folder.points_hit(enumerate_points())
    hit = sorted(recordings.points_hit(points))
    return [*(one for one in hit if one not in known), *some([one for one in hit if one in known])][shard::SHARDS_ADDED]


def kill_at(stage: Stage, recordings: Recorded, point: Point) -> str:
    """Die at a point in the first scene that passes it; in the next one, should it go another way this time, and in
    all of them anew: whether something is left to be forced may be a question of who was faster."""
    place = (point.file, point.line)
    for _ in range(TRIES):
        for scene in recordings.scenes_at(place):
            try:
                stage.play(scene, Target(place=place))
            except NotHit:
                continue
            return scene.name
    raise AssertionError(f"no scene died at {point}, though these passed it: {recordings.scenes_at(place)}")
