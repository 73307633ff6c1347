"""`make reliability`: run what proves Syncpoint's promises, and write the figures into docs/reliability.md.

    .venv/bin/python scripts/reliability.py [PART ...]     run all parts, or these, then write the page
    .venv/bin/python scripts/reliability.py --write        write the page from the figures that are there

Each part leaves its figures in docs/reliability/PART.json, so that one can be run again by itself. A part that finds a
violation is written down as it is, and makes this exit with 1. Not for: deciding what a part does; each is a command of
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BIN = ROOT / ".venv" / "bin"
FIGURES = ROOT / "docs" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"

Figures = Mapping[str, Any]
Row = tuple[str, str]


@dataclass(frozen=True)
class Part:
    """One thing that is run. `command` prints one JSON document, or writes it to the file that `into` names."""

    name: str
    title: str
    command: tuple[str, ...]
    rows: Callable[[Figures], list[Row]]
    into: str = ""
    """An environment variable that names a file for the figures."""


def simulate_rows(found: Figures) -> list[Row]:
    ratio = found["virtual_s"] / max(1e-9, found["worker_s"])
    return [
        ("seeds simulated, of which with a violation", f"{found['seeds']}, {found['violations']}"),
        ("seeds run twice with the same hash, with another", f"{found['repeated']}, {len(found['differing'])}"),
        ("virtual time, and how much faster than real time", f"{found['virtual_s'] / 3600:.1f} h, {ratio:.0f} times"),
        ("commits and faults a seed", f"{found['commits_per_seed']}, {found['faults_per_seed']}"),
        ("kinds of faults that never happened", str(len(found["kinds_missed"]))),
        ("marks reached, of all", f"{len(found['marks']) - len(found['marks_missed'])} of {len(found['marks'])}"),
    ]


def mutants_rows(found: Figures) -> list[Row]:
    by = ", ".join(f"{count} by {name}" for name, count in sorted(found["by"].items()))
    seeds = sorted(one["seeds"] for one in found["each"] if one["by"] == "simulate")
    middle = seeds[len(seeds) // 2] if seeds else 0
    return [
        ("deliberate bugs caught, of all", f"{found['caught']} of {found['mutants']} ({by})"),
        ("seeds until the simulator caught one: median, most", f"{middle}, {max(seeds, default=0)}"),
    ]


def planted_rows(found: Figures) -> list[Row]:
    rows = []
    for name, part in found["by_part"].items():
        possible = part["mutants"] + part["not_tried"]
        tried = "all" if not part["not_tried"] else f"a sample of {part['mutants']} of {possible:,}"
        value = f"{part['killed']} of {part['mutants']} ({part['killed_percent']} %)"
        rows.append((f"{name}, {tried}: small bugs that a test notices", value))
    return [*rows, ("not noticed, of them explained as no gap", f"{found['survived']}, {found['explained']}")]


def model_rows(found: Figures) -> list[Row]:
    states = sum(scope["states"] for scope in found["scopes"])
    return [
        ("states of the real protocol classes explored, complete for their bounds", f"{states:,}"),
        ("scopes", ", ".join(f"{scope['name']} ({scope['states']:,})" for scope in found["scopes"])),
        ("deliberate bugs of the protocol refuted by the model alone", f"{found['refuted']} of {found['mutants']}"),
    ]


def spec_rows(found: Figures) -> list[Row]:
    states = sum(module["distinct_states"] for module in found["modules"])
    return [
        ("distinct states of the TLA+ specification, refinement of atomic commit included", f"{states:,}"),
        ("rules dropped, each with a counterexample", f"{found['rules_dropped']}, {found['counterexamples']}"),
        ("traces of the real code accepted", f"{found['traces_accepted']:,}"),
        ("corrupted traces rejected", f"{found['traces_rejected_corrupted']:,}"),
    ]


def disks_rows(found: Figures) -> list[Row]:
    return [
        ("crash states of the folder journal opened and checked", f"{found['crash_states']:,}"),
        ("real power cuts", f"{found['power_cuts']} ({', '.join(found['fs']) or 'none possible here'})"),
        ("system calls that failed, lied or killed", str(found["injected_faults"])),
        ("acknowledged decisions lost, invented", f"{found['lost']}, {found['invented']}"),
    ]


def crash_rows(found: Figures) -> list[Row]:
    each = [(f"real databases: {what}", str(counts["tried"])) for what, counts in sorted(found["each"].items())]
    return [
        ("kill points in the source, hit", f"{found['points']['hit']} of {found['points']['enumerated']}"),
        *each,
        ("transactions torn, branches left in doubt, after all of these", f"{found['torn']}, {found['in_doubt']}"),
    ]


def demo_rows(found: Figures) -> list[Row]:
    return [
        ("transfers over PostgreSQL, MariaDB and SQLite under kills and restarts", str(found["committed"])),
        (
            "torn, lost, duplicated, in doubt",
            ", ".join(str(found[key]) for key in ("torn", "lost", "duplicated", "in_doubt")),
        ),
        ("longest lock after a worker's death", f"{found['longest_lock_after_kill_ms']} ms"),
    ]


PARTS = (
    Part(
        "simulate",
        "Simulation",
        (f"{BIN}/syncpoint", "simulate", "--seeds", "1:1000", "--twice", "--json"),
        simulate_rows,
    ),
    Part("mutants", "Mutants", (f"{BIN}/syncpoint", "simulate", "--mutants", "--json"), mutants_rows),
    # What `make mutants` has found so far: it takes too long to be run with the others.
    Part("planted", "Planted bugs", ("scripts/mutants.sh", "--show"), planted_rows),
    Part(
        "model",
        "Model",
        (f"{BIN}/python", "-m", "syncpoint.simulation.model", "--mutants", "--json"),
        model_rows,
    ),
    Part("spec", "Specification", (f"{BIN}/python", "-m", "tests.spec.run", "--json"), spec_rows),
    Part("disks", "Disks", ("scripts/disks.sh",), disks_rows),
    Part("crash", "Real databases", ("scripts/crash.sh",), crash_rows, into="SYNCPOINT_CRASH_FIGURES"),
    Part("demo", "Under load", (f"{BIN}/syncpoint", "demo", "transfer", "--json"), demo_rows),
)


def run(part: Part) -> bool:
    """Run one part and keep its figures. Returns whether it found nothing wrong."""
    print(f"{part.name}: {' '.join(part.command)}", file=sys.stderr, flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        env = {**os.environ, **({part.into: str(file)} if part.into else {})}
        done = subprocess.run(  # the commands stand above
            part.command, cwd=ROOT, env=env, stdout=None if part.into else subprocess.PIPE, text=True, check=False
        )
        text = file.read_text() if part.into and file.exists() else done.stdout
    try:
        found = json.loads(text or "")
    except ValueError:
        print(f"{part.name}: no figures (exit code {done.returncode})", file=sys.stderr)
        return False
    kept = {
        "part": part.name,
        "at": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.monotonic() - began),
        "exit_code": done.returncode,
        "figures": found,
    }
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"{part.name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    return done.returncode == 0


def page() -> str:
    """The page, from all figures that are there."""
    lines = [
        "# Reliability",
        "",
        "What was run, and what came of it. Regenerate with `make reliability`, or one part of it with",
        "`.venv/bin/python scripts/reliability.py PART`. The figures as printed stand in [reliability/](reliability/).",
        "",
    ]
    for part in PARTS:
        file = FIGURES / f"{part.name}.json"
        lines += [f"## {part.title}", "", f"`{' '.join(part.command).replace(f'{BIN}/', '')}`", ""]
        if not file.exists():
            lines += ["Not run yet.", ""]
            continue
        kept = json.loads(file.read_text())
        lines += ["| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in part.rows(kept["figures"])]
        result = "nothing wrong" if kept["exit_code"] == 0 else f"**exit code {kept['exit_code']}**"
        lines += ["", f"{kept['at']}, {kept['seconds']} s: {result}.", ""]
    return "\n".join(lines)


def main() -> int:
    """See the top of this file."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description="Run what proves Syncpoint's promises, and write docs/reliability.md.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}; all when none is named")
    parser.add_argument("--write", action="store_true", help="run nothing, only write the page")
    asked = parser.parse_args()
    unknown = set(asked.parts) - set(names)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    good = True
    if not asked.write:
        for part in PARTS:
            if not asked.parts or part.name in asked.parts:
                good = run(part) and good
    PAGE.write_text(page())
    print(f"{PAGE.relative_to(ROOT)} is written.", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
