"""One decoder under atheris, in a process of its own: what `run.py` starts. The name comes first, then libFuzzer's own
arguments. Not for: use by hand."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["syncpoint", "tomllib", "urllib.parse"]):
    from tests.fuzz.decoders import DECODERS


def main() -> None:
    decoder = DECODERS[sys.argv.pop(1)]

    def feed(raw: bytes) -> None:
        decoder.feed(raw)

    atheris.Setup(sys.argv, feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
