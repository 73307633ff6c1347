"""`syncpoint check`: was a recorded history right? Exit code 1 when it was not, or cannot be judged.

Not for: judging (testing/checkers/), or recording one.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from syncpoint.cli.options import JsonOption
from syncpoint.cli.output import output_of
from syncpoint.testing.checkers import CHECKERS, Finding, check_history, read_history, workloads_of

__all__ = ["add_to"]

FINDINGS_SHOWN_MAX = 25

FilesArgument: TypeAlias = Annotated[
    list[str], typer.Argument(metavar="HISTORY...", help="Files of JSON lines; several are one history.")
]
WorkloadOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--workload",
        metavar="NAME",
        help=f"Only this checker; repeatable. Else all that find something to check. One of: {', '.join(CHECKERS)}.",
    ),
]
StaleOption: TypeAlias = Annotated[
    bool, typer.Option("--stale-reads", help="A reader may see less than was acknowledged before it began.")
]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("check")(check)


def check(
    ctx: typer.Context,
    history: FilesArgument,
    workload: WorkloadOption = None,
    stale_reads: StaleOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check a recorded history: totals, sets, counters, lists, exactly-once, atomicity, authority."""
    out = output_of(ctx, as_json)
    for name in workload or ():
        if name not in CHECKERS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(CHECKERS)}.", param_hint="--workload")
    operations = read_history(*history)
    chosen = workload or workloads_of(operations)
    findings = check_history(operations, chosen, stale_reads=stale_reads)
    document = {
        "ok": not findings,
        "operations": len(operations),
        "workloads": chosen,
        "findings": [finding.document() for finding in findings],
    }
    out.document(document, lambda: _told(len(operations), chosen, findings))
    if findings:
        raise typer.Exit(1)


def _told(operations: int, workloads: list[str], findings: list[Finding]) -> RenderableType:
    checked = f"{operations} operations, checked as {', '.join(workloads)}"
    if not findings:
        return Text(f"{checked}: nothing is wrong.")
    lines = [Text(str(finding)) for finding in findings[:FINDINGS_SHOWN_MAX]]
    more = len(findings) - len(lines)
    if more:
        lines.append(Text(f"… and {more} more: --json has them all."))
    return Group(*lines, Text(f"{checked}: {len(findings)} violation{'s' if len(findings) > 1 else ''}."))
