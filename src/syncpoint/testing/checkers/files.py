"""Histories as files: JSON lines, first a header, then one line an operation.

    {"format":"syncpoint-history","version":1}
    {"id":1,"process":3,"invoked_at":10,"completed_at":15,"outcome":"ok","actions":[{"do":"append",…}]}

An id may come again: its last line counts. So a process writes a line before it does anything and another when the
operation has ended; if it is killed between the two, the operation is indeterminate, as it must be. For the same
reason a last line that was cut short is left out. Not for: what the fields mean (history.py).
"""

from __future__ import annotations

import threading
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from syncpoint.errors import FormatTooNew
from syncpoint.testing.checkers.history import BadHistory, History, Name, Operation

FORMAT = "syncpoint-history"
VERSION = 1


class _Header(msgspec.Struct, frozen=True):
    format: str
    version: int


_encoder = msgspec.json.Encoder()
_header_decoder = msgspec.json.Decoder(_Header)
_decoder = msgspec.json.Decoder(Operation)


def encode_history(history: History) -> bytes:
    """The history as a file's bytes."""
    return _encoder.encode_lines([_Header(FORMAT, VERSION), *history.operations])


def decode_history(raw: bytes, source: str = "the history") -> History:
    """Read a file's bytes. `source` names it in errors. Raises BadHistory, or FormatTooNew."""
    return History(tuple(_decode(raw, source).values()))


def write_history(path: str | Path, history: History) -> None:
    """Write a file, in place of what is there."""
    Path(path).write_bytes(encode_history(history))


def read_history(*paths: str | Path) -> History:
    """Read one file, or several that belong together: of several processes with one clock. Raises BadHistory when a
    file cannot be read, is none, or shares an operation's id with another; FormatTooNew."""
    operations: dict[Name, Operation] = {}
    for path in paths:
        found = _decode(_read(path), str(path))
        shared = operations.keys() & found.keys()
        if shared:
            raise BadHistory(
                f"{path} has an operation {min(shared, key=str)!r}, and so has a file before it.",
                advice="Give each recorder a prefix of its own.",
            )
        operations.update(found)
    return History(tuple(operations.values()))


class HistoryWriter:
    """A `Recorder`'s sink: a new file, written a line at once, so that a killed process loses nothing. Raises
    FileExistsError: a process that starts again writes another file, under another prefix."""

    def __init__(self, path: str | Path) -> None:
        self._mutex = threading.Lock()
        self._file = FileIO(path, "x")
        self._write(_encoder.encode(_Header(FORMAT, VERSION)))

    def __call__(self, operation: Operation) -> None:
        """Append the operation as it is now."""
        self._write(_encoder.encode(operation))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        with self._mutex:
            self._file.write(line + b"\n")


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadHistory(f"The history {path} cannot be read: {error.strerror or error}.") from None


def _decode(raw: bytes, source: str) -> dict[Name, Operation]:
    lines = raw.split(b"\n")
    cut_short = lines.pop()
    _check_header(lines[0] if lines else cut_short, source)
    operations = {}
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            operation = _decode_line(line, number, source)
            operations[operation.id] = operation
    if lines and cut_short and not _is_cut_short(cut_short):
        operation = _decode_line(cut_short, len(lines) + 1, source)
        operations[operation.id] = operation
    return operations


def _decode_line(line: bytes, number: int, source: str) -> Operation:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadHistory(
            f"Line {number} of {source} is no operation: {error}.", advice="docs/checkers.md has the format."
        ) from None


def _is_cut_short(line: bytes) -> bool:
    """The line that no newline ends, when its end is missing: a kill cut it short."""
    try:
        msgspec.json.decode(line.rstrip(b"-0123456789"))  # half a number looks like a whole one, or a wrong one
    except UnicodeDecodeError:
        return True
    except msgspec.DecodeError as error:
        return "truncated" in str(error)
    return False


def _check_header(line: bytes, source: str) -> None:
    try:
        header = _header_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        header = _Header("", 0)
    if header.format != FORMAT or header.version < 1:
        raise BadHistory(
            f"There is no history in {source}: its first line is not the header.",
            advice=f'The first line must be {{"format":"{FORMAT}","version":{VERSION}}}.',
        )
    if header.version > VERSION:
        raise FormatTooNew("history", header.version, VERSION)
