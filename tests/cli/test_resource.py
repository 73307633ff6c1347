"""`syncpoint resource run`: what it refuses, in words, before it serves anything.

Not for: serving (tests/resources/test_process_processes.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from syncpoint.cli import resource
from syncpoint.cli.setup import settings_of
from syncpoint.errors import Fenced
from tests.cli.conftest import Command

NODE = 'journal = "node://unix:///nowhere/node.sock?name=site-a"\n'


def write(folder: Path, text: str) -> str:
    file = folder / "syncpoint.toml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[syncpoint]\n{NODE}[resources]\nbank = 'sqlite:///b.db'\n", ("no resource 'audit'", "It has bank")),
        (f"[syncpoint]\n{NODE}[resources]\naudit = 'process://audit'\n", ("name the data themselves",)),
        (f"[syncpoint]\n{NODE}[resources]\naudit = 'memory://audit'\n", ("no redo",)),
        ("[resources]\naudit = 'sqlite:///a.db'\n", ("no node is named", 'journal = "node://')),
        ("[syncpoint]\njournal = './folder'\n[resources]\naudit = 'sqlite:///a.db'\n", ("no node is named",)),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(
    command: Command, tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    ran = command("resource", "run", "audit", "--config", write(tmp_path, text))
    assert ran.exit_code == 1
    for one in words:
        assert one in " ".join(ran.stderr.split())
    assert not (tmp_path / "a.db").exists()


def test_no_time_is_no_time(command: Command, tmp_path: Path) -> None:
    file = write(tmp_path, f"[syncpoint]\n{NODE}[resources]\naudit = 'sqlite:///a.db'\n")
    ran = command("resource", "run", "audit", "--config", file, "--dead-after", "0")
    assert ran.exit_code == 1
    assert "--dead-after" in ran.stderr


def test_who_must_stop_ends_with_an_exit_code_of_its_own(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(*_: object, **__: object) -> None:
        raise Fenced("Incarnation 8 serves now.", advice="Stop.")

    monkeypatch.setattr(resource, "serve", serve)
    file = write(tmp_path, f"[syncpoint]\n{NODE}[resources]\naudit = 'sqlite:///a.db'\n")
    ran = command("resource", "run", "audit", "--config", file)
    assert ran.exit_code == resource.MUST_STOP
    assert "Incarnation 8" in ran.stderr


def test_the_node_of_the_same_file_is_found(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f'[node]\nname = "site-a"\nlisten = ["unix://{tmp_path}/n.sock"]\njournal = "{tmp_path}/j"\n'
        "[resources]\naudit = 'sqlite:///a.db'\n",
    )
    assert (
        resource.node_url(settings_of(config=file)) == f"node://unix://{tmp_path}/n.sock?name=site-a&cluster=syncpoint"
    )
