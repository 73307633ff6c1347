"""What a decoder under fuzzing is: its name, what it may say to garbage, and valid bytes to begin from.

`Decoder.feed` is the whole property, whoever calls it: the tests with hypothesis, `make fuzz` with atheris, a replay.
Not for: the decoders themselves (codecs.py, files.py, texts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Decoder:
    """One decoder. `read` takes any bytes, and asserts what must hold of whatever it makes of them."""

    name: str
    read: Callable[[bytes], Any]
    refusals: tuple[type[Exception], ...]
    """Its own, documented errors: all that it may raise."""
    seeds: Sequence[bytes]
    """Valid bytes: where fuzzing begins."""

    def feed(self, raw: bytes) -> bool:
        """Read these bytes; returns whether they were accepted. Raises whatever is no documented refusal."""
        try:
            self.read(raw)
        except self.refusals:
            return False
        return True


def as_text(raw: bytes) -> str:
    """Text as it arrives from outside: a command line or a file's name may hold bytes that are no UTF-8."""
    return raw.decode("utf-8", "surrogateescape")
