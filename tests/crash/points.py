"""Every point at which a crash is tried, enumerated from the source: nobody lists them by hand.

    YIELD   every `yield` in `resources/` and `journal/`: a statement, a disk operation, a force
    FORCE   every call of `journal.force` in `manager/`: a record on its way to the disk
    SEND    every Gather, and every call of a resource's script, in `manager/`: somebody is told something

`yield from` alone is no point: the yield it leads to is. Not for: running anything (scenarios.py, harness.py).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import syncpoint
from syncpoint.runners.points import StepPoint

PACKAGE = Path(syncpoint.__file__).parent


class Kind(StrEnum):
    YIELD = "yield"
    FORCE = "force"
    SEND = "send"


@dataclass(frozen=True, order=True)
class Point:
    """One place in the source. `line` is where the yielding (or calling) expression begins."""

    file: str
    """Relative to the package: "resources/postgres.py"."""
    line: int
    function: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function} ({self.kind})"


def enumerate_points(package: Path = PACKAGE) -> frozenset[Point]:
    """All points in the source below `package`."""
    points: set[Point] = set()
    for folder in ("resources", "journal"):
        for path in sorted((package / folder).glob("*.py")):
            points.update(_points_in(path, package, only_yields=True))
    for path in sorted((package / "manager").glob("*.py")):
        points.update(_points_in(path, package, only_yields=False))
    return frozenset(points)


def hit_by(step: StepPoint, package: Path = PACKAGE) -> Iterator[tuple[str, int]]:
    """(file, line) of everything on the way to a step that may be a point."""
    for file, line in (*step.callers, (step.file, step.line)):
        path = Path(file)
        if path.is_relative_to(package):
            yield path.relative_to(package).as_posix(), line


def resolve(hits: Iterable[tuple[str, int]], points: frozenset[Point]) -> frozenset[Point]:
    """The points among what was hit."""
    by_place = {(point.file, point.line): point for point in points}
    return frozenset(by_place[place] for place in hits if place in by_place)


def _points_in(path: Path, package: Path, *, only_yields: bool) -> Iterator[Point]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    file = path.relative_to(package).as_posix()
    for function, node in _walk(tree, ""):
        if only_yields:
            if isinstance(node, ast.Yield):
                yield Point(file, node.lineno, function, Kind.YIELD)
        elif isinstance(node, ast.YieldFrom) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            if called.endswith("journal.force"):
                yield Point(file, node.lineno, function, Kind.FORCE)
            elif ".resource." in called or called.startswith("resource."):
                yield Point(file, node.lineno, function, Kind.SEND)
        elif isinstance(node, ast.Yield) and node.value is not None and "Gather(" in ast.unparse(node.value):
            yield Point(file, node.lineno, function, Kind.SEND)


def _walk(node: ast.AST, name: str, *, in_script: bool = False) -> Iterator[tuple[str, ast.AST]]:
    """(function, node) of everything inside scripts. Other generators (readers of files) are no scripts."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            returns = ast.unparse(child.returns) if child.returns is not None else ""
            inner = f"{name}.{child.name}" if name else child.name
            yield from _walk(child, inner, in_script=returns.startswith("Script["))
        elif isinstance(child, ast.ClassDef):
            yield from _walk(child, f"{name}.{child.name}" if name else child.name)
        else:
            if in_script:
                yield name, child
            yield from _walk(child, name, in_script=in_script)
