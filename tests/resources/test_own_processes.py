"""The manual's own resource manager in several processes at once, one killed now and then; and what the commands say.

The class is taken from docs/resource-managers.md as it stands there. Not for: every point (test_file_directory.py).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from syncpoint.testing.servers.base import wait_until
from tests.resources.sqlite_world import change, observe

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "docs" / "resource-managers.md"
COUNTING = """
import sys
import syncpoint

folder = sys.argv[1]
resources = {
    "counters": {"class": "counters:Counters", "path": folder + "/numbers"},
    "bank": "sqlite:///" + folder + "/bank.db",
}

def visit(tx):
    counters = tx.connect("counters")
    counters.set("visits", counters.get("visits") + 1)
    tx.connect("bank").execute("INSERT INTO visit DEFAULT VALUES")

with syncpoint.TransactionManager(folder + "/journal", resources) as manager:
    while True:
        manager.run(visit)
        print("one", flush=True)
"""
PROCESSES = 3
KILLS = 3


class World:
    """The manual's class, its folder, a SQLite file beside it, and processes that count visits in both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        [text] = re.findall(r"```python\n# counters\.py\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
        (folder / "counters.py").write_text(text)
        (folder / "numbers").mkdir()
        (folder / "syncpoint.toml").write_text(
            f"[syncpoint]\njournal = '{folder}/journal'\n[resources]\nbank = 'sqlite:///{folder}/bank.db'\n"
            f"[resources.counters]\nclass = 'counters:Counters'\npath = '{folder}/numbers'\n"
        )
        change(folder / "bank.db", "CREATE TABLE visit (number INTEGER PRIMARY KEY)")
        self.environment = {**os.environ, "PYTHONPATH": str(folder)}
        self.running: list[subprocess.Popen[str]] = []
        self.logs: list[Path] = []

    def start(self) -> None:
        log = self.folder / f"{len(self.logs)}.log"
        self.logs.append(log)
        with log.open("w") as out:
            command = [sys.executable, "-W", "error", "-c", COUNTING, str(self.folder)]
            self.running.append(
                subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True, env=self.environment)
            )

    def kill(self, process: subprocess.Popen[str]) -> None:
        self.running.remove(process)
        assert process.poll() is None, "it ended by itself: " + "".join(log.read_text() for log in self.logs)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def acknowledged(self) -> int:
        return sum(log.read_text().count("one\n") for log in self.logs)

    def wait_for_more(self) -> None:
        """Until five more visits are acknowledged."""
        enough = self.acknowledged() + 5
        wait_until(
            lambda: self.acknowledged() >= enough or any(one.poll() is not None for one in self.running), "visits", 60
        )

    def visits(self) -> int:
        try:
            visits: int = json.loads((self.folder / "numbers" / "counters.json").read_text())["visits"]
        except FileNotFoundError:
            return 0
        return visits

    def rows(self) -> int:
        [(count,)] = observe(self.folder / "bank.db", "SELECT count(*) FROM visit")
        return int(count)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "import syncpoint.cli; syncpoint.cli.main()", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_several_processes_count_and_are_killed(world: World) -> None:
    """A7 O38: whoever lives goes on; no count is lost, none is doubled, and files and rows agree."""
    try:
        for _ in range(PROCESSES):
            world.start()
        for _ in range(KILLS):
            world.wait_for_more()
            world.kill(world.running[0])
            world.start()
        world.wait_for_more()
    finally:
        for process in tuple(world.running):
            world.kill(process)
    recovered = world.command("recover", "--json")
    assert recovered.returncode == 0, recovered.stdout + recovered.stderr
    assert world.visits() == world.rows()
    assert world.acknowledged() <= world.visits() <= world.acknowledged() + len(world.logs)


def test_the_commands_know_it(world: World) -> None:
    seen = world.command("doctor", "--json")
    assert seen.returncode == 0, seen.stdout + seen.stderr
    [checkup] = [one for one in json.loads(seen.stdout)["resources"] if one["name"] == "counters"]
    assert checkup["url"] == "counters:Counters"
    assert not (world.folder / "numbers" / "syncpoint.db").exists(), "doctor makes nothing"
    made = world.command("init", "--json")
    assert made.returncode == 0, made.stdout + made.stderr
    assert (world.folder / "numbers" / "syncpoint.db").exists()


def test_a_command_that_does_not_find_the_class_says_so(world: World) -> None:
    (world.folder / "counters.py").rename(world.folder / "elsewhere.py")
    seen = world.command("doctor")
    assert seen.returncode == 1
    assert "there is no module counters. Set PYTHONPATH" in " ".join((seen.stdout + seen.stderr).split())
