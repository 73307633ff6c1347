"""A site of real processes: `syncpoint node` with its configuration, databases, and applications (child.py).

Not for: what is tested.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg

from syncpoint.testing.servers.base import wait_until

DEAD_AFTER_S = 0.6
RESUME_S = 0.2
LINE_S_MAX = 30.0
PROGRAM = "from syncpoint.cli import main; main()"


class Child:
    """One application."""

    def __init__(self, site: Site, *, number: int, resources: dict[str, str], **more: Any) -> None:
        self.settings = site.folder / f"child-{number}.json"
        given = {"journal": site.journal, "number": number, "resources": resources, **more}
        self.settings.write_text(json.dumps(given))
        with (site.folder / f"child-{number}.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.node.child", str(self.settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def line(self) -> str:
        assert self.process.stdout is not None
        text = self.process.stdout.readline().strip()
        assert text, f"the child has ended: {self.settings.with_suffix('.log').read_text()}"
        return text

    def reach(self, point: str) -> None:
        """Go on until it stops at this point."""
        while (found := self.line()) != point:
            assert not found.startswith("{"), f"it ended without {point}: {found}"
            self.go_on()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def told(self) -> dict[str, Any]:
        """Go on to the end; what its caller was told."""
        self.go_on()
        while not (found := self.line()).startswith("{"):
            self.go_on()
        said: dict[str, Any] = json.loads(found)
        return said

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


class Site:
    """The node, and two databases: SQLite files, or the first a PostgreSQL."""

    def __init__(self, folder: Path, *, postgres_url: str = "") -> None:
        self.folder = folder
        self.socket = f"{folder}/node.sock"
        self.journal = f"node://unix://{self.socket}?name=site-a"
        self.resources = {"a": postgres_url or f"sqlite:///{folder}/a.db", "b": f"sqlite:///{folder}/b.db"}
        self._postgres_url = postgres_url
        for name in "ab":
            self._run(name, "CREATE TABLE item (id INTEGER PRIMARY KEY)")
        lines = [f'{name} = "{url}"' for name, url in self.resources.items()]
        self.config = folder / "syncpoint.toml"
        self.config.write_text(
            f'[node]\nname = "site-a"\nlisten = ["unix://{self.socket}"]\njournal = "{folder}/journal"\n'
            f"dead_after_s = {DEAD_AFTER_S}\nresume_s = {RESUME_S}\n[resources]\n" + "\n".join(lines) + "\n"
        )
        self.children: list[Child] = []
        self.node: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with (self.folder / "node.log").open("a") as log:
            before = self.logged().count(" listens at ")
            self.node = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "node", "--config", str(self.config), "--json-logs"],
                stderr=log,
                text=True,
            )
        wait_until(lambda: self.logged().count(" listens at ") > before or self.is_over(), "the node listens")
        assert not self.is_over(), self.logged()

    def is_over(self) -> bool:
        assert self.node is not None
        return self.node.poll() is not None

    def logged(self) -> str:
        return (self.folder / "node.log").read_text()

    def kill(self) -> None:
        assert self.node is not None
        self.node.kill()
        self.node.wait()

    def stop(self) -> int:
        """As systemd does; the exit code."""
        assert self.node is not None
        self.node.send_signal(signal.SIGTERM)
        return self.node.wait(LINE_S_MAX)

    def child(self, number: int = 1, **more: Any) -> Child:
        made = Child(self, number=number, resources=self.resources, **more)
        self.children.append(made)
        return made

    def close(self) -> None:
        for child in self.children:
            child.end()
        if self.node is not None and not self.is_over():
            self.kill()

    # --- from outside --------------------------------------------------------------------------------------------

    def rows(self, name: str) -> list[int]:
        return [int(row[0]) for row in self._run(name, "SELECT id FROM item ORDER BY id")]

    def prepared(self) -> int:
        """Prepared transactions of the PostgreSQL database."""
        return int(self._run("a", "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()")[0][0])

    def has(self, rows: list[int]) -> bool:
        return all(self.rows(name) == rows for name in self.resources)

    def _run(self, name: str, sql: str) -> list[Any]:
        if name == "a" and self._postgres_url:
            with psycopg.connect(self._postgres_url) as connection:
                cursor = connection.execute(sql)  # type: ignore[call-overload]
                return cursor.fetchall() if cursor.description else []
        with closing(sqlite3.connect(f"{self.folder}/{name}.db", timeout=30)) as connection:
            found = connection.execute(sql).fetchall()
            connection.commit()
            return found

    def connected(self, *, again: int) -> None:
        """Wait until a session was opened once more."""
        wait_until(lambda: self.logged().count("has incarnation") > 2 * again + 1, "an application is back")

    def fenced(self, times: int) -> None:
        """Wait until so many sessions have been ended for their applications' absence."""
        wait_until(lambda: self.logged().count("it was not connected for") >= times, "the node fences it")
