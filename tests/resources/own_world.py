"""A resource manager as a user would write it, for the tests: `Shelf`, numbers by key in one file.

It can be told to break its contract, through files in its folder, so that a child process can be told as well.
Not for: the adapter itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import syncpoint
from syncpoint.errors import ConfigurationError

DATA, STAGED = "shelf.json", "staged.json"


class ShelfBusy(Exception):
    """The same work may succeed later."""


class ShelfWork:
    """What users get: `put`, `get`."""

    def __init__(self, shelf: Shelf, *, read_only: bool) -> None:
        self.shelf = shelf
        self.read_only = read_only
        self.written: dict[str, int] = {}
        self.label = "a shelf"

    def put(self, key: str, value: int) -> None:
        if self.read_only:
            raise PermissionError("begun as read-only")
        if value < 0:
            raise ValueError(f"{value} is below 0")
        self.written[key] = value

    def get(self, key: str) -> int | None:
        return {**self.shelf.rows(), **self.written}.get(key)

    def _private(self) -> None: ...


class Shelf(syncpoint.ResourceManager):
    """Options: `path`, a folder."""

    option_names = frozenset({"path"})

    def __init__(self, name: str, url: str, options: Mapping[str, str]) -> None:
        super().__init__(name, url, options)
        if url:
            raise ConfigurationError(f"The resource {name!r} takes no URL.", advice="Give its path alone.")
        if "path" not in options:
            raise ConfigurationError(f"The resource {name!r} has no path.", advice="Give one.")
        if not options["path"]:
            raise ValueError("the path is empty")
        self.folder = Path(options["path"])
        self.calls: list[str] = []

    def place(self) -> str:
        return str(self.folder)

    def check(self) -> None:
        self._misbehave("check")

    def rows(self) -> dict[str, int]:
        return read(self.folder)

    def begin(self, *, read_only: bool) -> ShelfWork:
        self._misbehave("begin")
        if not read_only:
            (self.folder / STAGED).unlink(missing_ok=True)
        return ShelfWork(self, read_only=read_only)

    def wrote(self, work: ShelfWork) -> bool | None:
        return bool(work.written)

    def prepare(self, work: ShelfWork) -> bytes | None:
        if (wrong := self._misbehave("prepare")) is not None:
            return wrong  # type: ignore[return-value]  # that is the point
        if not work.written:
            return None
        _write(self.folder / STAGED, work.written)
        return json.dumps(work.written).encode()

    def commit(self, state: bytes) -> None:
        self._misbehave("commit")
        self._put(json.loads((self.folder / STAGED).read_text()))

    def redo(self, state: bytes) -> None:
        self._misbehave("redo")
        self._put(json.loads(state))

    def abort(self, work: ShelfWork) -> None:
        self._misbehave("abort")
        (self.folder / STAGED).unlink(missing_ok=True)

    def savepoint(self, work: ShelfWork) -> Any:
        return dict(work.written)

    def roll_back_to(self, work: ShelfWork, mark: Any) -> None:
        work.written = dict(mark)

    def is_retryable(self, error: BaseException) -> bool:
        return isinstance(error, ShelfBusy)

    def _put(self, written: Mapping[str, int]) -> None:
        _write(self.folder / DATA, {**self.rows(), **written})
        (self.folder / STAGED).unlink(missing_ok=True)

    def _misbehave(self, method: str) -> object:
        self.calls.append(method)
        try:
            how = (self.folder / f"{method}.wrong").read_text()
        except OSError:
            return None
        if how == "busy":
            raise ShelfBusy("somebody reads a book from it")
        if how == "raise":
            raise RuntimeError(f"{method} is out of order")
        return how


class Nowhere(Shelf):
    """One that forgets to say where it is."""

    def place(self) -> str:
        return ""


class Half(syncpoint.ResourceManager):
    """One that is not written to its end."""

    def place(self) -> str:
        return "/nowhere"


class NoMarks(Shelf):
    """One that has no savepoints."""

    savepoint = syncpoint.ResourceManager.savepoint
    roll_back_to = syncpoint.ResourceManager.roll_back_to


def read(folder: Path) -> dict[str, int]:
    """What is seen from outside."""
    try:
        rows: dict[str, int] = json.loads((folder / DATA).read_text())
    except FileNotFoundError:
        return {}
    return rows


def tell(folder: Path, method: str, how: str | None) -> None:
    """From now on `method` goes wrong: "raise", "busy", or returns the text; None: it is well again."""
    file = folder / f"{method}.wrong"
    if how is None:
        file.unlink()
    else:
        file.write_text(how)


def _write(file: Path, rows: Mapping[str, int]) -> None:
    new = file.with_suffix(".new")
    with new.open("w") as out:
        json.dump(rows, out)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
