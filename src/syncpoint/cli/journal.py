"""`syncpoint journal …`: a journal's folder, read as files. No manager is started; only adopt-copy changes anything.

A journal in a database can be adopted; its rows are read by `in-doubt` and `show`, and by any client of the database.

What a commit stored for its caller and for redo is your data: only its size is shown unless `--data` asks for it.
Not for: reading the format (journal/inspect.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from syncpoint.cli import setup
from syncpoint.cli.databases import with_session
from syncpoint.cli.options import ConfigOption, JsonOption, YesOption
from syncpoint.cli.output import output_of, plain
from syncpoint.cli.views import moment, table
from syncpoint.config import hide_secrets
from syncpoint.errors import ConfigurationError
from syncpoint.ids import Attempt, Identifier
from syncpoint.journal import inspect
from syncpoint.journal.database_admin import AdoptedDatabase
from syncpoint.journal.inspect import AdoptReport, Damage, RecordLine, VerifyReport
from syncpoint.journal.urls import is_database
from syncpoint.manager.at_node import is_at_node
from syncpoint.records import AnyRecord
from syncpoint.system import SystemDisk

__all__ = ["app"]

app = typer.Typer(help="Look at a journal's folder, and mend what can be mended.", no_args_is_help=True)

PathArgument: TypeAlias = Annotated[str, typer.Argument(metavar="PATH", help="The journal's folder.")]
PlaceArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="PATH|URL|NAME", help="The journal's folder, or the database that it is in.")
]
DataOption: TypeAlias = Annotated[
    bool, typer.Option("--data", help="Print stored results and state information too: they hold your data.")
]

_DATA = ("state", "result")
"""Fields that hold rows or values of the user's."""


@app.command("verify")
def verify(ctx: typer.Context, path: PathArgument, as_json: JsonOption = False) -> None:
    """Read everything and check it. Exit code 1 when a process that opens this journal would be refused."""
    out = output_of(ctx, as_json)
    report = inspect.verify(_folder(path), SystemDisk())
    document = {"ok": report.ok, "records": report.records, **_plain_fields(report)}
    out.document(document, lambda: _verified(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command("list")
def list_records(ctx: typer.Context, path: PathArgument, data: DataOption = False, as_json: JsonOption = False) -> None:
    """List every record, process by process, in the order written."""
    out = output_of(ctx, as_json)
    lines = list(inspect.list_records(_folder(path), SystemDisk()))
    out.document({"records": [_line(line, data=data) for line in lines]}, lambda: _lines_table(lines, data=data))


@app.command("salvage")
def salvage(ctx: typer.Context, path: PathArgument, data: DataOption = False, as_json: JsonOption = False) -> None:
    """List every record that can be read, in whatever state the files are, and each place that cannot be read."""
    out = output_of(ctx, as_json)
    found = list(inspect.salvage(_folder(path), SystemDisk()))
    lines = [one for one in found if isinstance(one, RecordLine)]
    damages = [one for one in found if isinstance(one, Damage)]
    out.document(
        {"records": [_line(line, data=data) for line in lines], "damages": damages},
        lambda: Group(_lines_table(lines, data=data), Text(), _damages(damages)),
    )


@app.command("adopt-copy")
def adopt_copy(
    ctx: typer.Context,
    path: PlaceArgument,
    yes: YesOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a copied, moved or restored journal the one in use from now on. The original must be out of use for good."""
    out = output_of(ctx, as_json)
    shown = hide_secrets(path)
    out.require_yes(yes)
    if not yes:
        typer.echo(
            "If the original is still in use, or decided anything after this copy was made, databases can end up torn.",
            err=True,
        )
        typer.confirm(f"Use {shown} from now on?", abort=True, err=True)
    report = _adopt(path, config)
    out.document(report, lambda: Text(f"{shown} is the journal of coordinator {report.coordinator} from now on."))


def _adopt(path: str, config: str | None) -> AdoptReport | AdoptedDatabase:
    if Path(path.removeprefix("file://")).exists():
        return inspect.adopt_copy(_folder(path), SystemDisk())
    settings = setup.settings_of(config=config, journal=path)
    if not is_database(path, settings.resources):
        return inspect.adopt_copy(_folder(path), SystemDisk())
    admin = setup.journal_admin(settings)
    return with_session(admin.store.resource, lambda _, session: admin.adopt(session))


def _folder(path: str) -> str:
    """The folder that is meant. Raises ConfigurationError for a database."""
    if is_at_node(path):
        raise ConfigurationError(
            "This journal is kept by a node: its files are where that runs.",
            advice="Run it there, with the node's folder; or use `syncpoint in-doubt` and `syncpoint show ID`.",
        )
    if is_database(path, ()):
        raise ConfigurationError(
            "This journal is in a database: there are no files to read.",
            advice="Use `syncpoint in-doubt` and `syncpoint show ID`; its rows are in the table syncpoint.record.",
        )
    return path.removeprefix("file://")


def _plain_fields(report: VerifyReport) -> dict[str, Any]:
    fields: dict[str, Any] = plain(report)
    return fields


# --- records -------------------------------------------------------------------------------------------


def _line(line: RecordLine, *, data: bool) -> dict[str, Any]:
    kind = str(type(line.record).__struct_config__.tag)
    where = {"file": line.file, "offset": line.offset, "incarnation": line.incarnation, "kind": kind}
    return {**where, **dict(_fields(line.record, data=data))}


def _fields(record: AnyRecord | msgspec.Struct, *, data: bool) -> Iterator[tuple[str, Any]]:
    """A record's fields as people read them: identifiers as text, data as its size."""
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if name in _DATA and not data:
            yield f"{name}_size_bytes", len(value or b"")
        elif name == "attempt":
            yield name, str(Attempt.from_int(value))
        elif name == "identifier":
            yield name, str(Identifier.from_bytes(value))
        elif name == "branches":
            yield name, [dict(_fields(entry, data=data)) for entry in value]
        else:
            yield name, plain(value)


def _lines_table(lines: list[RecordLine], *, data: bool) -> RenderableType:
    if not lines:
        return Text("No records.")
    return table(
        ("file", "byte", "process", "record", "transaction", "attempt", "when", "detail"),
        [_row(_line(line, data=data)) for line in lines],
    )


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    taken = [str(line.pop(name)) for name in ("file", "offset", "incarnation", "kind")]
    transaction, attempt = line.pop("transaction", ""), line.pop("attempt", "")
    when = moment(line.pop("at_ms", None))
    branches = [f"{entry['resource']} #{entry['identifier'].rpartition('#')[2]}" for entry in line.pop("branches", ())]
    detail = [", ".join(branches), *(f"{name}={value}" for name, value in line.items() if value not in ("", None, 0))]
    return (*taken, transaction, attempt, when, "; ".join(part for part in detail if part))


# --- verdicts ------------------------------------------------------------------------------------------


def _verified(report: VerifyReport) -> RenderableType:
    parts: list[RenderableType] = [
        Text(f"Journal {report.path}, coordinator {report.coordinator or 'unknown'}: {report.records} records."),
        table(
            ("segment", "process", "bytes", "records", "tail"),
            [
                (
                    one.file,
                    str(one.incarnation),
                    str(one.size_bytes),
                    str(one.records),
                    one.torn and f"torn: {one.torn}",
                )
                for one in report.segments
            ],
        ),
        _damages(report.damages),
    ]
    if report.is_copy:
        parts.append(
            Text("This folder is a copy. Once the original is certainly out of use: syncpoint journal adopt-copy PATH")
        )
    if report.damages:
        parts.append(Text(f"List what can be read with: syncpoint journal salvage {report.path}"))
    return Group(*parts)


def _damages(damages: list[Damage] | tuple[Damage, ...]) -> RenderableType:
    if not damages:
        return Text("Nothing is damaged.")
    return table(("damaged file", "byte", "why"), [(damage.file, str(damage.offset), damage.why) for damage in damages])
