"""Every statement in the source of the PostgreSQL and MariaDB adapters has lost its reply in some scene (O43).

What was lost is known from the tests that lose it (test_lost_replies.py, test_database_journals.py), in whatever
process: the last of them to end compares it with the source. None waits for another, which may stand in line behind
it. Not for: losing anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from tests.crash.journals import DECIDERS, FOLDER
from tests.crash.points import PACKAGE, Kind, Point, enumerate_points
from tests.crash.scenes import load

FOUND = "crash-lost-replies-"

# Without the scenes in which no statement goes to a server.
SCENES = sorted(
    scene.name
    for scene in load().values()
    if scene.is_tried and FOLDER in scene.journals and not scene.name.startswith(("memory_", "journal_", "file_"))
)
TESTS = {f"test_losing_any_reply_tears_nothing[{name}]": name for name in SCENES} | {
    f"test_losing_any_reply_with_the_journal_in_a_database_tears_nothing[{name}]": name
    for name in (f"{kind}-transfer_with_id" for kind in DECIDERS)
}
"""Tests whose losses are compared, and under which name. What decides in a branch is lost in the last ones only."""


def write_found(shared: Path, name: str, points: Collection[tuple[str, int]]) -> None:
    """What one test has lost. All at once: another process may be about to read it."""
    path = shared / f"{FOUND}{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(sorted(points)))
    partial.rename(path)


def compare(shared: Path, announce: Callable[[str], None]) -> None:
    """Once, when all tests have ended: raises AssertionError naming what none of them has lost."""
    files = [shared / f"{FOUND}{name}.json" for name in TESTS.values()]
    if not all(file.exists() for file in files):
        return
    try:
        (shared / f"{FOUND}compared").touch(exist_ok=False)
    except FileExistsError:
        return
    lost = {(path, line) for file in files for path, line in json.loads(file.read_text())}
    statements = statement_points()
    unhit = [point for point in statements if (point.file, point.line) not in lost]
    announce(f"{len(statements) - len(unhit)} of {len(statements)} statements in the source have lost their reply")
    assert not unhit, "no scene lost the reply of: " + ", ".join(map(str, unhit))


def statement_points() -> list[Point]:
    """Every yield that sends something to a server: all but the local ones."""
    return sorted(
        point
        for point in enumerate_points()
        if point.kind is Kind.YIELD
        and point.file.startswith(("resources/postgres", "resources/mariadb"))
        and "yield Local(" not in (PACKAGE / point.file).read_text().splitlines()[point.line - 1]
    )
