"""What people see: tables, a timeline, and sentences made from the reports.

Everything a user or a database wrote goes in as plain text, never as markup. Not for: JSON (output.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from syncpoint.cli.output import plain
from syncpoint.manager.reports import (
    BranchReport,
    HeuristicEntry,
    InDoubtBranch,
    Outcome,
    OutcomeState,
    RecoveryReport,
    ResolvedBranch,
    TimelineEvent,
    TransactionReport,
)
from syncpoint.resources.base import Finding, Severity

__all__ = [
    "Checkup",
    "Made",
    "age",
    "checkups",
    "in_doubt",
    "made",
    "moment",
    "outcome",
    "recovery",
    "resolved",
    "sql",
    "table",
    "transaction",
]

_STYLES = {
    "committed": "green",
    "decided-commit": "green",
    "live": "cyan",
    "running": "cyan",
    "presumed-abort": "yellow",
    "in-doubt": "yellow",
    "pending": "yellow",
    "undecided": "yellow",
    "elsewhere": "blue",
    "unreachable": "red",
    "unknown-coordinator": "red",
    "heuristic": "red",
    "ok": "green",
    "warning": "yellow",
    "refused": "red",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What `doctor` found at one database."""

    name: str
    url: str
    ok: bool
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What `init` did at one database, or would do."""

    name: str
    url: str
    ok: bool = True
    error: str = ""
    statements: Sequence[str] = field(default=())


# --- pieces ------------------------------------------------------------------------------------------


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> Table:
    """A table of plain text; nothing in it is cut off, long words are folded."""
    made = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False
    )
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(_word(cell) for cell in row))
    return made


def moment(at_ms: int | None) -> str:
    """A wall-clock time in UTC, or nothing."""
    if at_ms is None:
        return ""
    try:
        when = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"
    return f"{when:%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d}Z"


def age(age_ms: int | None) -> str:
    """How long ago, roughly."""
    if age_ms is None:
        return ""
    seconds = age_ms / 1000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _word(text: str) -> Text:
    return Text(text, style=_STYLES.get(text, ""))


def _name(transaction: str, user_id: str | None) -> str:
    return f"{user_id} ({transaction})" if user_id else transaction


# --- transactions --------------------------------------------------------------------------------------


def in_doubt(branches: Sequence[InDoubtBranch], heuristics: Sequence[HeuristicEntry]) -> RenderableType:
    """The answer of `in-doubt`."""
    parts: list[RenderableType] = [_in_doubt_table(branches) if branches else Text("Nothing is in doubt.")]
    if heuristics:
        parts += [Text(), _heuristics_table(heuristics)]
    return Group(*parts)


def _in_doubt_table(branches: Sequence[InDoubtBranch]) -> Table:
    columns = ("transaction", "resource", "status", "age", "coordinator", "what will happen")
    rows = [
        (
            _name(branch.transaction, branch.user_id) or branch.branch,
            branch.resource,
            branch.status,
            age(branch.age_ms),
            branch.coordinator,
            branch.explanation,
        )
        for branch in branches
    ]
    return table(columns, rows)


def _heuristics_table(heuristics: Sequence[HeuristicEntry]) -> Table:
    return table(
        ("transaction", "resource", "decided", "outcome", "when", "detail"),
        [
            (
                _name(entry.transaction, entry.user_id),
                entry.resource,
                entry.decided,
                entry.outcome,
                moment(entry.at_ms),
                entry.detail,
            )
            for entry in heuristics
        ],
        title="Heuristic outcomes: look, mend the data, then `syncpoint forget ID`",
    )


def transaction(report: TransactionReport) -> RenderableType:
    """The answer of `show`."""
    heading = Text.assemble(
        ("Transaction ", "bold"), _name(report.transaction, report.user_id), ": ", _state(report.state)
    )
    parts: list[RenderableType] = [heading, Text()]
    parts.append(_branches_table(report.branches) if report.branches else Text("No branch of it is known."))
    if report.timeline:
        parts += [Text(), Text("What happened", style="bold"), _timeline(report.timeline)]
    if report.heuristics:
        parts += [Text(), _heuristics_table(report.heuristics)]
    return Group(*parts)


def _branches_table(branches: Sequence[BranchReport]) -> Table:
    return table(
        ("resource", "branch", "in the database", "evidence", "detail"),
        [(one.resource, one.identifier, one.state, one.evidence, one.detail) for one in branches],
    )


def _timeline(events: Sequence[TimelineEvent]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for overflow in ("fold",) * 4:
        grid.add_column(overflow=overflow)
    for event in events:
        what = Text(event.what, style="bold")
        grid.add_row(Text(moment(event.at_ms) or "(no time kept)"), Text("●"), what, Text(_where(event)))
    return grid


def _where(event: TimelineEvent) -> str:
    return f"{event.where}: {event.detail}" if event.where and event.detail else event.where or event.detail


def _state(state: OutcomeState) -> Text:
    return _word(state.value)


def outcome(answer: Outcome) -> RenderableType:
    """The answer of `outcome`."""
    lines = [Text.assemble(_name(answer.transaction, answer.user_id), ": ", _state(answer.state))]
    if answer.result is not None:
        lines.append(Text(f"result: {json.dumps(plain(answer.result), ensure_ascii=False)}"))
    if answer.pending:
        lines.append(Text(f"not acknowledged yet by: {', '.join(answer.pending)}"))
    if answer.heuristic:
        lines.append(Text(f"heuristic: {answer.heuristic}"))
    return Group(*lines)


def recovery(report: RecoveryReport) -> RenderableType:
    """The answer of `recover`."""
    done = f"Committed {report.committed}, aborted {report.aborted}, redone {report.redone}."
    parts: list[RenderableType] = [Text(done)]
    if report.foreign:
        parts.append(Text(f"Left alone, not Syncpoint's: {report.foreign}."))
    parts += [
        Text(f"The coordinator {guid} is unknown here. If its journal is lost for good: syncpoint adopt {guid}")
        for guid in report.unknown_coordinators
    ]
    if report.left:
        parts += [Text(), Text("Still in doubt", style="bold"), _in_doubt_table(report.left)]
    if report.unreachable:
        parts += [Text(), table(("unreachable", "why"), list(report.unreachable.items()))]
    if report.heuristics:
        parts += [Text(), _heuristics_table(report.heuristics)]
    if not report.left and not report.unreachable:
        parts.append(Text("Nothing of ours is in doubt."))
    return Group(*parts)


def resolved(branches: Sequence[ResolvedBranch]) -> RenderableType:
    """The answer of `resolve`."""
    if not branches:
        return Text("No branch of it was found; nothing was forced.")
    return table(("resource", "branch", "answer"), [(one.resource, one.identifier, one.answer) for one in branches])


# --- databases --------------------------------------------------------------------------------------------


def checkups(found: Sequence[Checkup]) -> RenderableType:
    """The answer of `doctor`."""
    parts: list[RenderableType] = []
    for checkup in found:
        verdict = Text("can be used", style="green") if checkup.ok else Text("refused", style="red")
        parts.append(Text.assemble((f"{checkup.name} ", "bold"), f"{checkup.url}: ", verdict))
        parts.append(_findings_table(checkup.findings))
        parts.append(Text())
    return Group(*parts[:-1])


def _findings_table(findings: Sequence[Finding]) -> Table:
    ordered = sorted(findings, key=lambda finding: list(Severity).index(finding.severity), reverse=True)
    return table(
        ("", "check", "found", "mend it with"),
        [(finding.severity.name.lower(), finding.check, finding.found, finding.fix) for finding in ordered],
    )


def made(results: Sequence[Made]) -> RenderableType:
    """The answer of `init`."""
    lines: list[RenderableType] = []
    for result in results:
        if result.ok:
            lines.append(Text(f"{result.name} {result.url}: ready."))
            continue
        lines.append(Text(f"{result.name} {result.url}: {result.error}", style="red"))
        lines.append(Text("Someone with the rights can run this instead:"))
        lines.append(Text(sql(result)))
    return Group(*lines)


def sql(result: Made) -> str:
    """The statements as a client program takes them."""
    return "\n".join((f"-- {result.name}: {result.url}", *map(_ended, result.statements)))


def _ended(statement: str) -> str:
    statement = statement.rstrip().rstrip(";")
    ends_in_comment = statement.rpartition("\n")[2].lstrip().startswith("--")
    return statement if ends_in_comment else f"{statement};"
