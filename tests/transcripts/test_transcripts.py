"""Plays every transcript and compares all it prints with what its file says.

A file has comments (#) and blocks: commands, `----`, and their whole output, up to an empty line. To write the
outputs anew: `pytest tests/transcripts --regenerate`, then review the difference as text. The commands: stage.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transcripts.stage import Stage

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("*.txt"))
HEADER = "# regenerate: pytest tests/transcripts --regenerate"


def commands_of(block: str) -> list[str]:
    return [line for line in block.partition("----")[0].splitlines() if not line.startswith("#")]


def play(text: str, stage: Stage) -> str:
    """The same file with the outputs that its commands print now."""
    blocks = []
    for block in text.strip().split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("#")]
        if commands := commands_of(block):
            lines += [*commands, "----", stage.play(commands)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path, regenerate: bool) -> None:
    text = path.read_text(encoding="utf-8")
    played = play(text, Stage())
    if regenerate:
        path.write_text(played, encoding="utf-8")
    else:
        assert played == text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_transcript_says_how_it_is_regenerated(path: Path) -> None:
    assert path.read_text(encoding="utf-8").splitlines()[0] == HEADER


def test_every_transcript_ends_with_nothing_in_doubt() -> None:
    for path in FILES:
        stage = Stage()
        play(path.read_text(encoding="utf-8"), stage)
        assert stage.play(["scan"]) == "nothing in doubt", path.name
