"""A real node that starts its resource managers, and again when they are killed (B4, B6); the commands.

Not for: the steps of a takeover (test_takeover_points.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from syncpoint import Transaction, TransactionManager
from syncpoint.errors import SyncpointError
from syncpoint.manager.at_node import node_link
from syncpoint.resources.node_messages import ListResources, ResourceLine, Resources
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemRandom
from syncpoint.testing.servers.base import wait_until

MAIN = (sys.executable, "-c", "from syncpoint.cli import main; main()")


class Site:
    """A node's process, and the commands."""

    def __init__(self, folder: Path, socket: str) -> None:
        self.path = folder / "audit.db"
        with closing(apsw.Connection(str(self.path))) as made:
            made.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY)")
        self.url = f"node://unix://{socket}"
        self.config = folder / "syncpoint.toml"
        self.config.write_text(
            f'[node]\nlisten = "unix://{socket}"\njournal = "{folder / "node-journal"}"\n'
            f'[resources.audit]\nurl = "sqlite:///{self.path}"\nprocess = true\nbackup = "restart"\n'
        )
        self.log = folder / "node.log"
        with self.log.open("wb") as out:
            command = [*MAIN, "node", "--config", str(self.config)]
            self.node = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        self._runner = ThreadRunner()
        self._link = node_link(self.url, role="operator", prefix="op-", random=SystemRandom())
        self._link.open(self._runner, SystemRandom())

    def command(self, *arguments: str) -> Any:
        """What a command says with --json; None while it fails."""
        command = [*MAIN, *arguments, "--config", str(self.config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_line(self, incarnation: int) -> ResourceLine:
        found: list[ResourceLine] = []

        def is_open() -> bool:
            with suppress(SyncpointError):
                listed = self._runner.run(self._link.ask(ListResources(), 1.0))
                assert isinstance(listed, Resources)
                found[:] = listed.lines
            return bool(found) and found[0].state == "open" and found[0].incarnation >= incarnation

        wait_until(is_open, f"incarnation {incarnation} to open", seconds_max=30.0)
        return found[0]

    def rows(self) -> list[int]:
        with closing(apsw.Connection(str(self.path))) as other:
            other.set_busy_timeout(5000)
            return [row for (row,) in other.execute("SELECT id FROM entry ORDER BY id")]

    def close(self) -> None:
        self._link.close()
        self._runner.close()
        self.node.terminate()
        self.node.wait(20.0)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="sp") as short, closing(Site(tmp_path, f"{short}/s")) as site:
        yield site


def add(tx: Transaction, row: int) -> None:
    tx.connect("audit").execute("INSERT INTO entry VALUES (?)", (row,))


def test_b4_b6_a_killed_process_is_started_again_and_commands_say_how_it_is(site: Site) -> None:
    line = site.wait_line(1)
    with TransactionManager(site.url, {"audit": "process://audit"}) as manager:
        manager.run(add, 1)
        os.kill(int(line.place.split()[-1]), signal.SIGKILL)
        line = site.wait_line(line.incarnation + 1)
        manager.run(add, 2)
        plan = site.command("takeover", "audit", "--who", "anna")
        assert (plan["by"], plan["begun"], plan["undecided"]) == ("a new process of this node", True, [])
        site.wait_line(line.incarnation + 2)
        manager.run(add, 3)
    assert site.rows() == [1, 2, 3]
    said = site.log.read_text()
    assert "superseded (taken over by anna)" in said
    (listed,) = site.command("resource", "list")["resources"]
    assert (listed["name"], listed["state"], listed["standbys"], listed["trouble"]) == ("audit", "open", 0, "")
