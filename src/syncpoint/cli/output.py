"""How a command answers: one JSON document with `--json`, else text and tables for people.

Not for: what the tables look like (views.py).
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from syncpoint.config import hide_secrets
from syncpoint.errors import SyncpointError
from syncpoint.ids import Attempt, Guid, Identifier, Key, TransactionId

__all__ = ["Output", "kind_of", "output_of", "plain", "without_secrets"]

WIDTH_OF_A_FILE = 4000
"""Columns when stdout is no terminal: nothing is broken over two lines, so that it can be searched and copied."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


class Output:
    """Where a command's answer goes. One for each invocation, kept in the context."""

    def __init__(self) -> None:
        self.as_json = False

    def document(self, value: Any, human: Callable[[], RenderableType]) -> None:
        """Print the answer: `value` as JSON, or what `human` makes."""
        if self.as_json:
            typer.echo(json.dumps(plain(value), indent=2))
        else:
            self.human(human())

    def human(self, *renderables: RenderableType) -> None:
        """Print text or tables for people; nothing with `--json`."""
        if self.as_json:
            return
        console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE, highlight=False, markup=False)
        for renderable in renderables:
            parts = renderable.renderables if isinstance(renderable, Group) else [renderable]
            for part in parts:
                # A terminal folds a long line itself; then it can still be copied as one.
                console.print(part, soft_wrap=isinstance(part, str | Text))

    def error(self, error: SyncpointError) -> None:
        """One paragraph on stderr; with `--json` a document on stdout too, so that there always is exactly one."""
        message, advice = without_secrets(error.message), without_secrets(error.advice)
        if self.as_json:
            document = {"error": {"kind": kind_of(error), "message": message, "advice": advice}}
            typer.echo(json.dumps(document, indent=2))
        typer.echo(f"syncpoint: {message}{' ' if advice else ''}{advice}", err=True)

    def require_yes(self, yes: bool) -> None:
        """Refuse a command that would have to ask while stdout is for one document only."""
        if self.as_json and not yes:
            raise typer.BadParameter("With --json nothing can be asked: give --yes too.", param_hint="--yes")


def output_of(ctx: typer.Context, as_json: bool) -> Output:
    """The invocation's Output, told whether JSON is wanted. The first line of every command."""
    out = ctx.obj
    assert isinstance(out, Output), "the root makes it"
    out.as_json = as_json
    return out


def kind_of(error: BaseException) -> str:
    """The error's class, as JSON names it."""
    return type(error).__name__


def without_secrets(text: str) -> str:
    """A message with the secrets of every URL in it hidden. Our own messages have none; a driver's might."""
    return _URL.sub(lambda match: hide_secrets(match.group(0)), text)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses as objects, enums as lower-case names, bytes as hexadecimal digits."""
    match value:
        case None | bool() | int() | float():
            return value
        case StrEnum():
            return value.value
        case str():
            return value
        case Enum():
            return value.name.lower()
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case Guid() | TransactionId() | Attempt() | Identifier() | Key():
            return str(value)
        case datetime():
            return value.astimezone(UTC).isoformat()
        case Mapping():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case Sequence():
            return [plain(item) for item in value]
        case Set():
            return sorted((plain(item) for item in value), key=str)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = [field.name for field in dataclasses.fields(value) if field.metadata.get("shown", True)]
        return {name: plain(getattr(value, name)) for name in shown}
    return str(value)
