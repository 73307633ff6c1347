"""`syncpoint simulate`: seeds of the simulator, one seed with its timeline, the mutants.

Not for: the simulation itself (simulation/).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from syncpoint.cli.options import JsonOption
from syncpoint.cli.output import Output, output_of
from syncpoint.errors import ConfigurationError

if TYPE_CHECKING:
    from syncpoint.simulation.run import Options, Outcome
    from syncpoint.simulation.sweep import Summary

__all__ = ["add_to"]

_RANGE = re.compile(r"(\d+)(?::(\d+))?\Z")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate")(simulate)


def simulate(
    ctx: typer.Context,
    seeds: Annotated[str, typer.Option("--seeds", metavar="FIRST:LAST", help="Which seeds.")] = "1:100",
    seed: Annotated[int | None, typer.Option("--seed", help="One seed, made smaller if it fails.")] = None,
    workload: Annotated[str | None, typer.Option("--workload", help="Only this workload.")] = None,
    journal: Annotated[str | None, typer.Option("--journal", help="Only this kind of journal.")] = None,
    fault_kinds: Annotated[
        str | None, typer.Option("--faults", metavar="KIND,…", help="Only these kinds of faults; `list` lists them.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="N,…", help="With --seed: only these faults; `none` for none."),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --seed: print what happened, line by line.")] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="With --seed: what happened, as a sequence diagram.")
    ] = None,
    about: Annotated[str, typer.Option("--about", help="With --trace or --svg: only what names this.")] = "",
    since: Annotated[float, typer.Option("--since", help="With --trace or --svg: from this second on.")] = 0.0,
    until: Annotated[float, typer.Option("--until", help="With --trace or --svg: up to this second.")] = 1e9,
    twice: Annotated[bool, typer.Option("--twice", help="Run every seed twice and compare the hashes.")] = False,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Break the code in known ways; each must be caught.")
    ] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="How many seeds side by side.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the real code in a simulated world: networks, disks, clocks and databases that fail, from a seed.

    Exit code 1 when something that must hold did not; then the command that runs it again is printed.
    """
    out = output_of(ctx, as_json)
    if fault_kinds == "list":
        _list_kinds(out)
        return
    options = _options(workload, journal, fault_kinds)
    if mutants:
        from syncpoint.cli.mutants import run_mutants

        raise typer.Exit(run_mutants(out, jobs))
    if seed is not None:
        chosen = replace(options, only=_numbers(only), keep_events=trace or svg is not None)
        raise typer.Exit(_one(out, seed, chosen, trace=trace, svg=svg, window=(about, since, until)))
    if only or trace or svg:
        raise ConfigurationError("--only, --trace and --svg are for one seed.", advice="Give --seed N too.")
    raise typer.Exit(_many(out, _range(seeds), options, twice=twice, jobs=jobs))


# --- what was asked for --------------------------------------------------------------------------------------------


def _range(text: str) -> range:
    match = _RANGE.match(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if last < first:
        raise ConfigurationError(f"--seeds {text} is no range of seeds.", advice="Write for example --seeds 1:1000.")
    return range(first, last + 1)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigurationError(f"--only {text} is no list of numbers.", advice="Write --only 1,4") from None


def _options(workload: str | None, journal: str | None, kinds: str | None) -> Options:
    from syncpoint.simulation.faults import KINDS
    from syncpoint.simulation.run import JOURNALS, Options
    from syncpoint.simulation.workloads import WORKLOADS

    chosen = tuple(kinds.split(",")) if kinds else tuple(KINDS)
    _known("workload", [workload] if workload else [], WORKLOADS)
    _known("journal", [journal] if journal else [], JOURNALS)
    _known("faults", chosen, KINDS)
    return Options(workload=workload, journal=journal, kinds=chosen)


def _known(option: str, given: Sequence[str], known: Iterable[str]) -> None:
    names = sorted(known)
    for one in given:
        if one not in names:
            raise ConfigurationError(f"--{option} {one} is not known.", advice=f"Known are: {', '.join(names)}.")


def _list_kinds(out: Output) -> None:
    from syncpoint.simulation.faults import KINDS

    out.document({name: kind.on for name, kind in KINDS.items()}, lambda: "\n".join(sorted(KINDS)))


# --- many seeds ------------------------------------------------------------------------------------------------------


def _many(out: Output, seeds: range, options: Options, *, twice: bool, jobs: int | None) -> int:
    from syncpoint.simulation.sweep import Summary, replay, run_seeds

    summary = Summary(kinds=options.kinds)
    wanted = [seed for seed in seeds for _ in range(2 if twice else 1)]
    with _progress(out) as progress:
        task = progress.add_task("seeds", total=len(wanted), failed=0)
        for outcome in run_seeds(wanted, options, jobs):
            summary.add(outcome)
            if outcome.violations:
                progress.console.print(
                    f"seed {outcome.seed}: {outcome.violations[0]}\n  {replay(outcome, options)}", soft_wrap=True
                )
            progress.update(task, advance=1, failed=len(summary.failed))
    out.document(summary.document(options), lambda: _summary(summary, options))
    return 0 if summary.is_good else 1


def _progress(out: Output) -> Progress:
    from rich.console import Console

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=False,
    )


def _summary(summary: Summary, options: Options) -> Group:
    from syncpoint.simulation.sweep import replay

    document = summary.document(options)
    head = (
        f"{summary.seeds} seeds, {summary.virtual_s / 3600:.1f} h of virtual time in {summary.real_s:.0f} s of work, "
        f"{document['commits_per_seed']} commits and {document['faults_per_seed']} faults a seed; hash {summary.digest}"
    )
    parts: list[Table | str] = [head]
    if summary.repeated or summary.differing:
        parts.append(f"run twice: {summary.repeated} with the same hash, {len(summary.differing)} with another")
    parts.append(_table("fault", document["faults"]))
    parts.append(_table("mark", document["marks"]))
    parts += [f"never happened: {kind}" for kind in summary.kinds_missed]
    parts += [f"mark never reached: {mark}" for mark in summary.marks_missed]
    for outcome in summary.failed:
        parts.append(f"seed {outcome.seed} FAILED: {outcome.violations[0]}")
        parts.append(f"  again: {replay(outcome, options)}")
    parts += [f"seed {seed} FAILED: two runs of it had different hashes" for seed in summary.differing]
    parts.append("no violation" if summary.is_good else f"{len(summary.failed)} seeds failed")
    return Group(*parts)


def _table(what: str, counts: dict[str, int]) -> Table:
    table = Table(what, "times", box=None, pad_edge=False)
    for name, count in counts.items():
        table.add_row(name, str(count))
    return table


# --- one seed -----------------------------------------------------------------------------------------------------


def _one(
    out: Output, seed: int, options: Options, *, trace: bool, svg: Path | None, window: tuple[str, float, float]
) -> int:
    from syncpoint.simulation import timeline
    from syncpoint.simulation.sweep import replay, run_one, shrink_one

    outcome = run_one(seed, options)
    about, since, until = window
    events = timeline.select(outcome.events, about=about, since_s=since, until_s=until)
    if svg is not None:
        title = f"seed {seed}: {outcome.workload}, journal: {outcome.journal}"
        _write(svg, timeline.svg(events, title))
    if trace and not out.as_json:
        for line in timeline.lines(events):
            typer.echo(line)
    smaller = None
    if outcome.violations and options.only is None and outcome.plan:
        smaller = shrink_one(seed, replace(options, keep_events=False))
    document = {
        "seed": seed,
        "digest": outcome.digest,
        "workload": outcome.workload,
        "journal": outcome.journal,
        "violations": list(outcome.violations),
        "plan": [str(fault) for fault in outcome.plan],
        "counts": outcome.counts,
        "marks": outcome.marks,
        "events": [[event.at_s, event.who, event.what, event.to] for event in events] if trace else [],
        "smaller": None if smaller is None else [str(fault) for fault in smaller.plan],
        "replay": None if smaller is None else replay(smaller, options, [fault.number for fault in smaller.plan]),
    }
    out.document(document, lambda: _told(outcome, smaller, options))
    return 1 if outcome.violations else 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} could not be written: {error}.", advice="Give another file.") from error


def _told(outcome: Outcome, smaller: Outcome | None, options: Options) -> Group:
    from syncpoint.simulation.sweep import replay

    commits = outcome.counts.get("transactions ok", 0)
    where = f"{outcome.workload}, journal: {outcome.journal}"
    parts = [
        f"seed {outcome.seed}: {where}, {commits} commits, hash {outcome.digest}",
        *(f"  fault {fault}" for fault in outcome.plan),
        *(f"VIOLATION: {violation}" for violation in outcome.violations),
    ]
    if smaller is not None:
        parts.append(f"{len(smaller.plan)} of its {len(outcome.plan)} faults are enough:")
        parts += [f"  fault {fault}" for fault in smaller.plan]
        parts.append(f"  again: {replay(smaller, options, [fault.number for fault in smaller.plan])}")
    elif not outcome.violations:
        parts.append("no violation")
    return Group(*parts)
