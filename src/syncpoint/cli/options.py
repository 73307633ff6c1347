"""The options that several commands share, once each.

Not for: what they mean (setup.py).
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")
]
ConfigOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="FILE", help="The configuration; else $SYNCPOINT_CONFIG, else ./syncpoint.toml if there."
    ),
]
JournalOption: TypeAlias = Annotated[
    str | None, typer.Option("--journal", metavar="URL|NAME|FOLDER", help="The journal, instead of the configured one.")
]
ResourceOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--resource", metavar="NAME=URL", help="One more resource, or another URL for it. Repeatable."),
]
ScopeOption: TypeAlias = Annotated[
    str | None, typer.Option("--scope", help="The scope of user's ids, instead of the configured one.")
]
WhoOption: TypeAlias = Annotated[
    str | None, typer.Option("--who", help="Who acts, for the journal; else this user at this machine.")
]
YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
IdArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="ID", help="The user's id, or the 32 hexadecimal digits of a transaction id.")
]
