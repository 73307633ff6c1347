"""Real processes over real links: SQLite files, journals in folders, and SIGKILL at steps of the scripts (A6..A8, B10).

The rows are counted by a connection of the test's own. A sample of the points: in the simulator every one is tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from syncpoint.testing.servers.base import wait_until

ANSWER_S_MAX = 40.0


class Died(Exception):
    """The service was killed."""


class Process:
    """One service, started again by `start` after it died."""

    def __init__(self, folder: Path, sockets: Path, name: str, peers: list[str]) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.database = self.folder / "data.db"
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute("CREATE TABLE row (key TEXT PRIMARY KEY)")
            connection.commit()
        given = {
            "name": name,
            "listen": f"unix://{sockets / name}",
            "peers": {peer: f"unix://{sockets / peer}" for peer in peers if peer != name},
            "journal": str(self.folder / "journal"),
            "database": str(self.database),
        }
        self.settings = self.folder / "settings.json"
        self.settings.write_text(json.dumps(given))
        self.child: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.trees.service", str(self.settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=Path(__file__).parent.parent.parent,
        )

    def await_ready(self) -> None:
        assert self.read() == {"ready": True}

    def read(self) -> dict[str, Any]:
        assert self.child is not None
        assert self.child.stdout is not None
        ready, _, _ = select.select([self.child.stdout], [], [], ANSWER_S_MAX)
        assert ready, f"{self.name} does not answer"
        line = self.child.stdout.readline()
        if not line:
            self.child.wait()
            raise Died(self.name)
        said: dict[str, Any] = json.loads(line)
        return said

    def do(self, **order: Any) -> Any:
        """Raises Died; an error is returned as it was said."""
        assert self.child is not None
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps({name.replace("_", " "): value for name, value in order.items()}) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            raise Died(self.name) from None
        said = self.read()
        return said.get("done", said)

    def is_dead(self) -> bool:
        return self.child is None or self.child.poll() is not None

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            for pipe in (self.child.stdin, self.child.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def rows(self) -> set[str]:
        with closing(sqlite3.connect(self.database, timeout=10.0)) as connection:
            return {row[0] for row in connection.execute("SELECT key FROM row")}


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[dict[str, Process]]:
    with tempfile.TemporaryDirectory() as sockets:  # a socket's path is short
        made = {name: Process(tmp_path, Path(sockets), name, ["a", "b", "c"]) for name in "abc"}
        for one in made.values():
            one.start()
        for one in made.values():
            one.await_ready()
        yield made
        for one in made.values():
            one.kill()


def transact(processes: dict[str, Process], key: str) -> str:
    """a begins, b takes part under a, c under b. Returns what a's client knows."""
    a, b, c = (processes[name] for name in "abc")
    token = attempt(a, begin=key)
    token = attempt(b, join=token, key=key, stay=True) if isinstance(token, str) else None
    joined = isinstance(token, str) and attempt(c, join=token, key=key)
    if not isinstance(joined, str):
        attempt(b, die_at=0)  # nothing is tried in a transaction that will abort anyhow
    attempt(b, leave=True)
    said = attempt(a, commit=True)
    if isinstance(said, list):
        return "committed"
    aborted = isinstance(said, dict) and said["error"] in ("TransactionAborted", "TransactionTimeout")
    return "aborted" if aborted else "unknown"


def attempt(one: Process, **order: Any) -> Any:
    """What it says; None when it dies."""
    try:
        return one.do(**order)
    except Died:
        return None


def settle(processes: dict[str, Process]) -> None:
    """Whoever is dead is started again, and nobody dies any more."""

    def is_settled() -> bool:
        left = [recovered(one) for one in processes.values()]
        return not any(left)

    wait_until(is_settled, "nothing is in doubt", 60.0)


def recovered(one: Process) -> Any:
    """What is left in doubt there."""
    try:
        if one.is_dead():
            one.kill()
            one.start()
            one.await_ready()
        one.do(die_at=0)
        return one.do(recover=1.0)
    except Died:
        return ["it died"]


def judge(processes: dict[str, Process], key: str, known: str) -> str:
    there = {key in one.rows() for one in processes.values()}
    assert len(there) == 1, f"{key} is torn: {[one.rows() for one in processes.values()]}, told {known}"
    assert known == "unknown" or there == {known == "committed"}, known
    return "committed" if there == {True} else "aborted"


def test_b10_three_processes_commit_together(processes: dict[str, Process]) -> None:
    assert transact(processes, "x") == "committed"
    settle(processes)
    assert judge(processes, "x", "committed") == "committed"


def test_processes_are_killed_at_steps(processes: dict[str, Process]) -> None:
    outcomes, deaths = set(), 0
    for number, (name, step) in enumerate((name, step) for step in (7, 13) for name in "abc"):
        processes[name].do(die_at=step)
        key = f"x{number}"
        known = transact(processes, key)
        deaths += processes[name].is_dead()
        settle(processes)
        outcomes.add(judge(processes, key, known))
    assert outcomes == {"committed", "aborted"}
    assert deaths > 2


def test_a7_in_doubt_over_its_own_restart_while_the_superior_is_away(processes: dict[str, Process]) -> None:
    a, b = processes["a"], processes["b"]
    token = a.do(begin="x")
    assert b.do(join=token, key="x")
    a.do(die_at=int(os.environ.get("SYNCPOINT_TREES_STEP", "9")))
    with pytest.raises(Died):
        a.do(commit=True)
    b.kill()
    b.start()
    b.await_ready()
    settle(processes)
    judge({name: processes[name] for name in "ab"}, "x", "unknown")
