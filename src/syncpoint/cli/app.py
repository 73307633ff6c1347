"""The command's root: its groups, its version, and what becomes of an error.

A SyncpointError is one paragraph on stderr and exit code 1, never a traceback; with `--json` it is also the one
document on stdout. Wrong usage is exit code 2. Not for: what the commands do.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer
from typer.core import TyperGroup

from syncpoint.cli import check, databases, demo, journal, node, resource, simulate, takeover, transactions
from syncpoint.cli.options import JsonOption
from syncpoint.cli.output import Output, output_of
from syncpoint.errors import SyncpointError
from syncpoint.ids import IDENTIFIER_FORMAT
from syncpoint.records import RECORD_FORMAT

__all__ = ["app"]


class Root(TyperGroup):
    """Turns every SyncpointError of every command into its paragraph and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        out = ctx.obj = Output()
        try:
            return super().invoke(ctx)
        except SyncpointError as error:
            out.error(error)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Root,
    name="syncpoint",
    help="One piece of work over several databases: everywhere or nowhere, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback that shows local variables would show passwords
)


def show_version(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Versions of Syncpoint, of its formats, and of Python."""
    out = output_of(ctx, as_json)
    found = {
        "syncpoint": _own_version(),
        "identifier_format": IDENTIFIER_FORMAT,
        "record_format": RECORD_FORMAT,
        "python": platform.python_version(),
    }
    out.document(found, lambda: f"syncpoint {found['syncpoint']} (Python {found['python']})")


def _own_version() -> str:
    try:
        return version("syncpoint")
    except PackageNotFoundError:
        return "not installed"


databases.add_to(app)
transactions.add_to(app)
check.add_to(app)
app.add_typer(journal.app, name="journal")
app.add_typer(demo.app, name="demo")
app.add_typer(resource.app, name="resource")
takeover.add_to(app)
simulate.add_to(app)
app.command("node")(node.node)
app.command("version")(show_version)
