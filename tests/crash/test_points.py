"""Every point in the source is reached by a scene; the numbers are printed, and a new yield makes this fail.

Points are enumerated from the source, never listed by hand. Not for: dying at them (test_kill.py).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.conftest import Stages
from tests.crash.points import PACKAGE, Kind, Point, enumerate_points
from tests.crash.scenes_lent import HAS_MYSQLCLIENT
from tests.crash.shards import recorded

FORGOTTEN = '''

def forgotten() -> Script[None]:
    """A script that no scene runs."""
    yield Local(lambda: None, "forgotten")
'''


def unhit(points: frozenset[Point], hit: frozenset[Point]) -> list[str]:
    """What would be reported."""
    return [str(point) for point in sorted(points - hit)]


PLAYED_ELSEWHERE = (
    # A journal at a node waits for answers only: tests/node has a fault at every question, generated too.
    "journal/node.py",
    "journal/node_link.py",
    # Resource managers' processes: tests/node lets a backup die at every step, tests/resources kills real ones, and the
    # simulator kills them anywhere.
    "resources/process.py",
    "resources/process_driver.py",
    "resources/process_host.py",
    "resources/process_session.py",
)
ASKED_BY_PROCESSES = ("SqliteResource.recognise", "SqliteResource.data_guid", "SqliteResource.served_as")
"""Of resources/sqlite.py. They only look, and no manager asks them."""


def unreachable(package: Path = PACKAGE) -> frozenset[Point]:
    """mysqlclient is compiled on the spot; where it cannot be, nobody gets to what is made for its connections."""
    gone = PLAYED_ELSEWHERE if HAS_MYSQLCLIENT else (*PLAYED_ELSEWHERE, "resources/mariadb_borrowed.py")
    return frozenset(
        point
        for point in enumerate_points(package)
        if point.file in gone or (point.file == "resources/sqlite.py" and point.function in ASKED_BY_PROCESSES)
    )


def table(points: frozenset[Point], hit: frozenset[Point]) -> str:
    """The numbers, a line for each folder."""
    folders = Counter(point.file.partition("/")[0] for point in points)
    hits = Counter(point.file.partition("/")[0] for point in hit)
    rows = [
        f"{folder + '/':12} points: {count} enumerated, {hits[folder]} hit, {count - hits[folder]} unhit"
        for folder, count in sorted(folders.items())
    ]
    kinds = Counter(point.kind for point in points)
    total = ", ".join(f"{kinds[kind]} {kind}" for kind in Kind)
    rows.append(f"{'all':12} points: {len(points)} enumerated, {len(hit)} hit, {len(points - hit)} unhit ({total})")
    return "\n".join(rows)


def hit_by_all(points: frozenset[Point], stages: Stages, shared_folder: Path) -> frozenset[Point]:
    """What the scenes reach, with every kind of journal together."""
    return frozenset().union(*(recorded(stage, shared_folder).points_hit(points) for stage in stages.values()))


def test_every_point_is_hit(
    stages: Stages,
    shared_folder: Path,
    announce: Callable[[str], None],
    record_property: Callable[[str, object], None],
) -> None:
    """Enumerated from the source, and compared with what the scenes reach: none may be left."""
    points = enumerate_points() - unreachable()
    hit = hit_by_all(points, stages, shared_folder)
    announce(table(points, hit))
    record_property("points", {"enumerated": len(points), "hit": len(hit)})
    missed = unhit(points, hit)
    assert not missed, "no scene reaches these; write one, or remove the code if it is dead:\n" + "\n".join(missed)


def test_every_folder_has_points() -> None:
    """An enumeration that finds nothing would leave nothing unhit."""
    points = enumerate_points()
    files = {point.file for point in points}
    assert {"resources/postgres.py", "resources/mariadb.py", "resources/sqlite.py"} <= files
    assert {"journal/folder.py", "journal/database.py", "journal/living.py", "journal/lazily.py"} <= files
    assert {point.kind for point in points} == set(Kind)


@pytest.mark.parametrize("file", ["resources/sqlite.py", "journal/database.py"])
def test_a_new_yield_is_noticed(file: str, tmp_path: Path, stages: Stages, shared_folder: Path) -> None:
    """The suite fails, naming it, when somebody adds a yield that no scene reaches."""
    package = tmp_path / "syncpoint"
    for folder in ("resources", "journal", "manager"):
        shutil.copytree(PACKAGE / folder, package / folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = package / file
    source.write_text(source.read_text(encoding="utf-8") + FORGOTTEN, encoding="utf-8")
    points = enumerate_points(package) - unreachable(package)
    missed = unhit(points, hit_by_all(points, stages, shared_folder))
    assert len(missed) == 1
    assert "forgotten" in missed[0]
