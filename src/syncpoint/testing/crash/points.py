"""Every point at which a crash is tried, enumerated from the source: nobody lists them by hand.

    YIELD   every `yield` in `resources/` and `journal/`: a statement, a disk operation, a force
    PACKET  every call in `journal/` that has a packet sent to the journal's database
    FORCE   every call of `journal.force` in `manager/`: a record on its way to the disk
    SEND    every Gather, and every call of a resource's script, in `manager/`: somebody is told something

`yield from` alone is no point: the yield it leads to is. Not for: running anything.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import syncpoint
from syncpoint.runners.points import StepPoint

PACKAGE = Path(syncpoint.__file__).parent


class Kind(StrEnum):
    YIELD = "yield"
    PACKET = "packet"
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
    for folder in ("resources", "journal", "manager"):
        for path in sorted((package / folder).glob("*.py")):
            points.update(_points_in(path, package, _KINDS[folder]))
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


def _points_in(path: Path, package: Path, kind_of: Callable[[str, str, ast.AST], Kind | None]) -> Iterator[Point]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    file = path.relative_to(package).as_posix()
    for function, node in _walk(tree, ""):
        kind = kind_of(path.name, function, node)
        if kind is not None:
            assert isinstance(node, ast.expr)
            yield Point(file, node.lineno, function, kind)


def _in_resources(name: str, function: str, node: ast.AST) -> Kind | None:
    return Kind.YIELD if isinstance(node, ast.Yield) else None


def _in_journal(name: str, function: str, node: ast.AST) -> Kind | None:
    """What only passes packets on, for whoever, is no point."""
    passes_on = name == "wire.py" or function.endswith("._ask")
    if _called(node).endswith(_SENDERS) and not passes_on:
        return Kind.PACKET
    return Kind.YIELD if isinstance(node, ast.Yield) else None


def _in_manager(name: str, function: str, node: ast.AST) -> Kind | None:
    called = _called(node)
    if called.endswith("journal.force"):
        return Kind.FORCE
    if ".resource." in called or called.startswith("resource."):
        return Kind.SEND
    is_gather = isinstance(node, ast.Yield) and node.value is not None and "Gather(" in ast.unparse(node.value)
    return Kind.SEND if is_gather else None


_KINDS = {"resources": _in_resources, "journal": _in_journal, "manager": _in_manager}
_SENDERS = ("._ask", ".ask", ".insist", ".run")


def _called(node: ast.AST) -> str:
    """What a `yield from` delegates to."""
    is_call = isinstance(node, ast.YieldFrom) and isinstance(node.value, ast.Call)
    return ast.unparse(node.value.func) if is_call else ""  # type: ignore[attr-defined]


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
