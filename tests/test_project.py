"""Guards over the source as text: purity, layers, sizes, docstrings, and that the papers name what the code has.

They read files and import nothing of the product, so they say at once what a change broke. Not for: behaviour.
"""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "syncpoint"
LINES_MAX = 500

# R1: what the rules of commit may never touch.
IMPURE = frozenset(["time", "os", "random", "socket", "asyncio", "threading", "logging", "uuid", "datetime", "secrets"])

# A folder or file of the package, and what it may import besides itself. Imports point downward only.
WORDS = frozenset({"errors", "ids", "marks", "messages", "records", "ports", "steps"})
BELOW_MANAGER = WORDS | {"protocol", "journal", "resources", "link"}
EVERYTHING = BELOW_MANAGER | {
    "",
    "cli",
    "config",
    "demo",
    "django",
    "integrations",
    "manager",
    "marks",
    "node",
    "runners",
    "simulation",
    "system",
    "testing",
}
MAY_IMPORT: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "marks": frozenset(),
    "ids": frozenset({"errors"}),
    "records": frozenset({"errors", "ids"}),
    "messages": frozenset({"errors", "ids"}),
    "ports": frozenset({"errors", "ids", "messages"}),
    "steps": frozenset({"ports"}),
    "system": frozenset({"errors", "ports"}),
    "protocol": frozenset({"errors", "ids", "records"}),
    "journal": WORDS | {"protocol", "resources"},  # a journal may live in a database
    "resources": WORDS | {"protocol"},
    "link": frozenset({"errors", "ids", "messages", "ports", "steps"}),
    "runners": frozenset({"errors", "ports", "steps"}),
    "manager": BELOW_MANAGER,
    "config": BELOW_MANAGER,
    "integrations": BELOW_MANAGER | {"", "manager", "config", "system"},
    "django": BELOW_MANAGER | {"manager"},
    "node": BELOW_MANAGER | {"", "config", "manager", "runners", "system"},
    "testing": EVERYTHING - {"cli", "demo", "django", "simulation"},
    "simulation": EVERYTHING - {"cli", "demo", "django"},
    "demo": EVERYTHING - {"cli", "django", "simulation"},
    "cli": EVERYTHING,
    "": EVERYTHING - {"cli", "demo", "django", "simulation", "testing"},
}
# Single files that may import more than their folder, each with the reason.
MAY_IMPORT_TOO: dict[str, frozenset[str]] = {
    # A facade joins the manager with its runner, and offers the integrations, loaded only when asked for.
    "manager/sync.py": frozenset({"runners", "system", "integrations"}),
    "manager/aio.py": frozenset({"runners", "system", "integrations"}),
    "manager/assembly.py": frozenset({"system"}),  # puts a manager together on the real ports
}

# Threads and event loops belong to the runners; these cannot do without.
CONCURRENCY = frozenset({"asyncio", "threading", "concurrent", "multiprocessing", "queue"})
MAY_BE_CONCURRENT = (
    "runners/",
    "demo/",
    "testing/",
    "simulation/",
    "cli/",
    "node/",  # a process of its own
    "integrations/",
    "django/",
    "system.py",  # one mutex
    # An event loop is what a link is made of; what needs none of it stands in the other files of link/.
    "link/connection.py",
    "link/dialling.py",
    "link/inbox.py",
    "link/listening.py",
    "link/outgoing.py",
    "link/sockets.py",
    "link/stream.py",
    "link/threaded.py",
)

SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _layer(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(_read(path), str(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, those under TYPE_CHECKING and in functions too."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the whole name"
            assert node.module is not None
            yield node.lineno, node.module
            if node.module == "syncpoint":  # `from syncpoint import errors` imports a layer as well
                yield from ((node.lineno, f"syncpoint.{alias.name}") for alias in node.names)


def _own_layers(path: Path) -> Iterator[tuple[int, str]]:
    for line, module in _imports(path):
        parts = module.split(".")
        if parts[0] == "syncpoint":
            layer = parts[1] if len(parts) > 1 else ""
            yield line, layer if layer in MAY_IMPORT else ""


@pytest.mark.parametrize("path", [path for path in SOURCES if _layer(path) == "protocol"], ids=_name)
def test_r1_protocol_is_pure(path: Path) -> None:
    found = [f"{_name(path)}:{line}: {module}" for line, module in _imports(path) if module.split(".")[0] in IMPURE]
    assert found == []


def test_every_layer_is_in_the_table() -> None:
    assert {_layer(path) for path in SOURCES} <= set(MAY_IMPORT)


def test_imports_point_downward_only() -> None:
    found = [
        f"{_name(path)}:{line}: {_layer(path) or 'syncpoint'} may not import {layer or 'syncpoint'}"
        for path in SOURCES
        for line, layer in _own_layers(path)
        if layer != _layer(path)
        and layer not in MAY_IMPORT[_layer(path)] | MAY_IMPORT_TOO.get(_name(path), frozenset())
    ]
    assert found == []


def test_threads_and_event_loops_belong_to_the_runners() -> None:
    found = [
        f"{_name(path)}:{line}: {module}"
        for path in SOURCES
        if not _name(path).startswith(MAY_BE_CONCURRENT)
        for line, module in _imports(path)
        if module.split(".")[0] in CONCURRENCY
    ]
    assert found == []


def test_files_stay_small() -> None:
    sizes = {path: len(_read(path).splitlines()) for path in (*SOURCES, *TESTS)}
    found = [f"{path.relative_to(ROOT)}: {lines} lines" for path, lines in sizes.items() if lines > LINES_MAX]
    assert found == [], "look for the second subject in them"


def test_every_source_file_says_what_it_is_for() -> None:
    assert [_name(path) for path in SOURCES if not ast.get_docstring(_tree(path))] == []


def test_the_adapters_stand_in_both_tables() -> None:
    """The entry points of pyproject.toml, and the registry's own table for a checkout that was never installed."""
    [own] = [
        ast.literal_eval(node.value)
        for node in _tree(PACKAGE / "resources" / "registry.py").body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_OWN"
    ]
    assert own == _project()["project"]["entry-points"]["syncpoint.resources"]


def test_every_dependency_is_justified() -> None:
    project = _project()
    named = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(line for extra in project["project"]["optional-dependencies"].values() for line in extra),
        *(line for group in project["dependency-groups"].values() for line in group),
    ]
    names = {re.split(r"[^A-Za-z0-9_-]", line)[0] for line in named} - {"syncpoint"}
    text = _read(ROOT / "CONTRIBUTING.md")
    assert [name for name in sorted(names) if f"| {name} |" not in text] == []


def test_the_scripts_can_be_run() -> None:
    scripts = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]
    assert [script.name for script in scripts if not script.stat().st_mode & 0o100] == []
    assert [script.name for script in scripts if "set -euo pipefail" not in _read(script)] == []


def _project() -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    return tomllib.loads(_read(ROOT / "pyproject.toml"))


def test_every_mark_stands_in_one_place() -> None:
    """`sometimes("…")`: a name in two places would say of neither whether it was reached."""
    names = [
        node.args[0].value
        for path in SOURCES
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "sometimes"
        and isinstance(node.args[0], ast.Constant)
    ]
    assert len(names) > 20
    assert sorted(names) == sorted(set(names))
