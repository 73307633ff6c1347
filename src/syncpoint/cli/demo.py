"""`syncpoint demo …`: wired lazily, since the demonstrations need servers that nothing else here needs.

Not for: the demonstrations themselves (demo/).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from syncpoint.cli.options import JsonOption
from syncpoint.cli.output import output_of
from syncpoint.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(help="Demonstrations on private servers that come and go with them.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """With a callback the group stays a group."""


@contextmanager
def _its_modules(name: str) -> Iterator[None]:
    """Raises ConfigurationError when one is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("syncpoint"):
            raise ConfigurationError(f"This Syncpoint has no demonstration `{name}`.") from error
        raise ConfigurationError(
            f"The demonstration needs the Python module {error.name}.", advice="Run: pip install 'syncpoint[demo]'"
        ) from error


@app.command("transfer")
def transfer(
    ctx: typer.Context,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            min=1,
            help="How long to transfer, about; on a busy machine longer, until there is something to show.",
        ),
    ] = 15,
    seed: Annotated[int, typer.Option("--seed", help="Of the transfers, and of what is killed when.")] = 1,
    journal: Annotated[
        str,
        typer.Option("--journal", metavar="folder|bank|ledger", help="Where decisions are: a folder, or a database."),
    ] = "folder",
    pgbouncer: Annotated[
        bool,
        typer.Option(
            "--pgbouncer/--no-pgbouncer", help="With the journal in a database: one in between, if it is installed."
        ),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Transfers between databases while processes and servers are killed; in the end the books must balance."""
    output_of(ctx, as_json)
    with _its_modules("transfer"):
        from syncpoint.demo.transfer import run
    raise typer.Exit(run(seconds=seconds, json=as_json, seed=seed, journal=journal, pgbouncer=pgbouncer))


@app.command("takeover")
def takeover(
    ctx: typer.Context,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            min=1,
            help="For how long to lose processes, about; on a busy machine longer, until there is something to show.",
        ),
    ] = 30,
    seed: Annotated[int, typer.Option("--seed", help="Of the transfers, and of what is lost when.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Transfers across two sites while resource managers, nodes and services are lost; backups finish their work."""
    output_of(ctx, as_json)
    with _its_modules("takeover"):
        from syncpoint.demo.takeover import run
    raise typer.Exit(run(seconds=seconds, json=as_json, seed=seed))
