"""`make mutants`: plant one small bug at a time and see whether a test notices (mutmut).

    python -m tests.mutation.run [PART ...] [--sample N --seed S] [--show]

Each part (parts.py) is copied to .mutants/PART and mutated there; a run that was stopped goes on where it was, and only
functions that changed are tried again. Every survivor is either explained in survivors.toml or listed, and the run
fails. Prints JSON figures: {"mutants", "killed", "survived", "explained", "by_file", …}.

mutmut mutates the bodies of functions, not the tables of a module or class. Not for: deliberate bugs with names
(syncpoint.simulation).
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any

from tests.mutation.parts import PARTS, Part
from tests.mutation.plugin import MARIADB_PORT, POSTGRES_URL
from tests.mutation.survivors import Survivor, explain

ROOT = Path(__file__).parent.parent.parent
KEPT = ROOT / ".mutants"
COPIED = ("src", "tests", "docs", "pyproject.toml", "README.md", "CONTRIBUTING.md")
START_S = 5
"""What a mutant's tests may take beside the time they took without it; with the factor, also under load."""
FACTOR = 3
PLAIN = "_plain_"
"""Before the name of a function whose decorator was taken off."""
MEMORY = Path("/dev/shm")
KILLED, SURVIVED, TIMEOUT, UNTRIED = "killed", "survived", "timeout", "not tried"


def run(name: str, folder: Path, *, sample: int | None = None, seed: int = 1, again: bool = False) -> dict[str, Any]:
    """Try the mutants of one part, or a sample of them, or those that survived once more; the figures.

    With both, what of the sample is not known to be killed.
    """
    part = PARTS[name]
    stage(part, folder)
    known, everything = dict(results(folder)), sorted(_all_names(folder))
    names = [mutant for mutant in everything if again and known.get(mutant) == SURVIVED]
    if sample is not None:
        names = random.Random(seed).sample(everything, min(sample, len(everything)))
        names = [mutant for mutant in names if not again or known.get(mutant) not in (KILLED, TIMEOUT)]
    if again and not names:
        return _figures(folder, known)
    with ExitStack() as held:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        environment = {**kept, "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= _server(part, held)
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    found = dict(results(folder))
    if not any(result != UNTRIED for result in found.values()):
        raise RuntimeError(f"mutmut tried nothing:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return _figures(folder, found)


def stage(part: Part, folder: Path) -> None:
    """Copy what changed, and say what is to be mutated. Times of files tell mutmut what it knows already."""
    package = ROOT / "src" / "syncpoint"
    is_changed = False
    mutated = {file for pattern in part.files for file in package.glob(pattern)}
    for name in COPIED:
        for source in _files(ROOT / name):
            target = folder / source.relative_to(ROOT)
            wanted = source.read_bytes()
            if source in mutated:
                wanted = undecorated(wanted.decode()).encode()
            if not target.exists() or target.read_bytes() != wanted:
                is_changed |= source in mutated
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(wanted)
    if is_changed:  # which tests reach a function that is new has to be found out
        (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    for name in ("src", "tests"):
        for target in _files(folder / name):
            if not (ROOT / target.relative_to(folder)).exists():
                target.unlink()
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/syncpoint/{file}" for file in part.files],
        "pytest_add_cli_args_test_selection": [f"tests/{test}" for test in part.tests],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "tests.mutation.plugin"],
        "timeout_constant": START_S,
        "timeout_multiplier": FACTOR,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    text = f"{(ROOT / 'pyproject.toml').read_text()}\n[tool.mutmut]\n" + "\n".join(lines) + "\n"
    (folder / "pyproject.toml").write_text(text)


def undecorated(code: str) -> str:
    """Properties and context managers written as plain functions, with the decorator applied behind them: mutmut leaves
    decorated functions alone."""
    lines = code.splitlines(keepends=True)
    functions = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
    for node in sorted(functions, key=lambda one: one.lineno, reverse=True):
        match node.decorator_list:
            case [ast.Name(id="property" | "contextmanager" as decorator)]:
                assert node.end_lineno is not None
                indent = " " * node.col_offset
                lines.insert(node.end_lineno, f"\n{indent}{node.name} = {decorator}({PLAIN}{node.name})\n")
                lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"def {node.name}(", f"def {PLAIN}{node.name}(")
                del lines[node.decorator_list[0].lineno - 1]
    return "".join(lines)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (one for one in path.rglob("*") if one.is_file() and "__pycache__" not in one.parts)
    elif path.exists():
        yield path


def _server(part: Part, held: ExitStack) -> dict[str, str]:
    """Start what the tests need; the environment that tells them. Raises RuntimeError: not on this machine."""
    if part.server == "postgresql":
        from syncpoint.testing.servers.postgres import PostgresServer

        postgres = held.enter_context(PostgresServer(_in_memory(held), settings={"max_connections": "200"}))
        return {POSTGRES_URL: postgres.url("postgres")}
    if part.server == "mariadb":
        from syncpoint.testing.servers.mariadb import MariadbServer

        if not MariadbServer.available():
            raise RuntimeError("MariaDB's part needs a server (scripts/mariadb.sh says how).")
        mariadb = held.enter_context(MariadbServer(_in_memory(held)))
        return {MARIADB_PORT: str(mariadb.port)}
    return {}


def _in_memory(held: ExitStack) -> Path | None:
    """A folder in which a force costs a server nothing, where the machine has one: no power fails in these tests."""
    if not os.access(MEMORY, os.W_OK):
        return None
    return Path(held.enter_context(tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True)))


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """In a part's folder, with its settings: mutmut keeps those it has read first."""
    from mutmut.configuration import reset_config

    with chdir(folder):
        reset_config()
        yield


def _all_names(folder: Path) -> Iterator[str]:
    with _inside(folder):
        from mutmut.configuration import config
        from mutmut.mutation.file_mutation import mutate_file_contents
        from mutmut.utils.format_utils import get_mutant_name

        for path in sorted(Path("src").rglob("*.py")):
            if config().should_mutate(path):
                mutated = mutate_file_contents(str(path), path.read_text())
                yield from (get_mutant_name(path, one) for one in mutated.mutant_names)


def results(folder: Path) -> Iterator[tuple[str, str]]:
    """(mutant, what became of it) of every mutant in a part's folder."""
    from mutmut.stats import status_by_exit_code

    words = {"killed": KILLED, "timeout": TIMEOUT, "not checked": UNTRIED, "segfault": KILLED}
    for meta in sorted((folder / "mutants").rglob("*.meta")):
        for mutant, code in json.loads(meta.read_text())["exit_code_by_key"].items():
            yield mutant, words.get(status_by_exit_code[code], SURVIVED)  # no test reaches it: it survives


def _figures(folder: Path, found: dict[str, str]) -> dict[str, Any]:
    survivors = [survivor(folder, mutant) for mutant, result in found.items() if result == SURVIVED]
    explained, unexplained = explain(survivors)
    by_file: dict[str, dict[str, int]] = {}
    for mutant, result in found.items():
        counts = by_file.setdefault(_file(mutant), dict.fromkeys((KILLED, SURVIVED, TIMEOUT, UNTRIED), 0))
        counts[result] += 1
    totals = {word: sum(counts[word] for counts in by_file.values()) for word in (KILLED, SURVIVED, TIMEOUT, UNTRIED)}
    tried = len(found) - totals[UNTRIED]
    return {
        "mutants": tried,
        "killed": totals[KILLED] + totals[TIMEOUT],
        "survived": totals[SURVIVED],
        "explained": len(explained),
        "killed_percent": round(100 * (totals[KILLED] + totals[TIMEOUT]) / tried, 1) if tried else 0.0,
        "of_them_by_timeout": totals[TIMEOUT],
        "not_tried": totals[UNTRIED],
        "by_file": by_file,
        "unexplained": [str(one) for one in unexplained],
    }


def _file(mutant: str) -> str:
    """`protocol/judgement.py` of `syncpoint.protocol.judgement.x_judge__mutmut_4`."""
    return "/".join(mutant.split(".")[1:-1]) + ".py"


def survivor(folder: Path, mutant: str) -> Survivor:
    """What a mutant changed, in words that stay when other mutants come and go."""
    with _inside(folder):
        from mutmut.mutation.diff_apply import get_diff_for_mutant
        from mutmut.utils.format_utils import orig_function_and_class_names_from_key

        lines = [line for line in get_diff_for_mutant(mutant).splitlines() if line[:3] not in ("---", "+++")]
        function, owner = orig_function_and_class_names_from_key(mutant)
    return Survivor(
        file=_file(mutant),
        function=(f"{owner}.{function}" if owner else function).replace(PLAIN, ""),
        was=" ".join(line[1:].strip() for line in lines if line.startswith("-")),
        became=" ".join(line[1:].strip() for line in lines if line.startswith("+")),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS), default=[])
    parser.add_argument("--sample", type=int, help="so many mutants of each part, drawn by --seed, instead of all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="try the survivors once more, with the tests of now")
    parser.add_argument("--anew", action="store_true", help="forget what earlier runs found")
    parser.add_argument("--show", action="store_true", help="only tell what earlier runs found")
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in asked.parts or [one for one in PARTS if one != "smoke"]:
        folder = KEPT / name
        if asked.anew:
            shutil.rmtree(folder, ignore_errors=True)
        if asked.show:
            found = dict(results(folder))
            if any(result != UNTRIED for result in found.values()):
                figures[name] = _figures(folder, found)
        else:
            figures[name] = run(name, folder, sample=asked.sample, seed=asked.seed, again=asked.again)
    if not figures:
        sys.exit("Nothing has been tried yet: make mutants")
    total: dict[str, Any] = {
        word: sum(one[word] for one in figures.values()) for word in ("mutants", "killed", "survived", "explained")
    }
    total["killed_percent"] = round(100 * total["killed"] / max(1, total["mutants"]), 1)
    total["by_file"] = {file: counts for one in figures.values() for file, counts in one["by_file"].items()}
    print(json.dumps({**total, "by_part": figures}, indent=2))
    return 1 if any(one["unexplained"] for one in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
