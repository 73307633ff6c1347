"""Behind a process, SQLite and the file directory pass the conformance suite of adapters.

Not for: what only a process has, incarnations and repeated questions (test_process_host.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from syncpoint.resources.base import Mode, Resource
from syncpoint.resources.registry import make_resource
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing import ResourceConformance, SqlSubject, Subject
from syncpoint.testing.conformance.subject import Unsupported
from tests.resources.process_world import World

WITHOUT = {
    "crash": "its data are another process's; tests/resources/test_process_processes.py kills that one",
    "inspect": "it asks nothing: the process looks at its own set-up",
}


def make(spec: Any) -> Resource:
    return make_resource("subject", spec, mode="sync", clock=SystemClock(), random=SystemRandom())


class Behind:
    """Of a subject: it stands behind a process."""

    world: World

    def make(self, mode: Mode, url: str | None = None) -> Resource:
        return self.world.resource(mode, url)

    def restart(self) -> None:
        self.world.kill()
        self.world.start()

    def lose_reply(self, method: str) -> None:
        if method in WITHOUT:
            raise Unsupported(WITHOUT[method])
        self.world.lose_next_answer()


class SqliteBehind(Behind, SqlSubject):
    bad_urls = ("process:", "process://", "process://a/b", "process:///a.db")

    def __init__(self, path: Path, world: World) -> None:
        super().__init__("process://subject", observe=lambda: closing_connection(path), embedded=True, without=WITHOUT)
        self.world = world


class Outside(apsw.Connection):
    """One that commits by itself."""


def closing_connection(path: Path) -> Outside:
    connection = Outside(str(path))
    connection.set_busy_timeout(5000)
    return connection


class DirectoryBehind(Behind, Subject):
    embedded = True

    def __init__(self, folder: Path, world: World) -> None:
        super().__init__("process://subject", without=WITHOUT)
        self.folder = folder
        self.world = world

    def make_table(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def put(self, connection: Any, key: str, value: int) -> Any:
        return connection.write(key, str(value).encode())

    def get(self, connection: Any, key: str) -> Any:
        return connection.exists(key)

    def rows(self) -> dict[str, int]:
        files = (file for file in self.folder.iterdir() if file.is_file())
        return {file.name: int(file.read_bytes()) for file in files}

    def fail(self, connection: Any) -> Any:
        return connection.write("../outside", b"1")


class TestSqliteBehindAProcess(ResourceConformance):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> Iterator[SqliteBehind]:
        path = tmp_path / "a.db"
        with closing(World(lambda: make(f"sqlite:///{path}"))) as world:
            world.start()
            yield SqliteBehind(path, world)


class TestDirectoryBehindAProcess(ResourceConformance):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> Iterator[DirectoryBehind]:
        folder = tmp_path / "docs"
        folder.mkdir()
        spec = {"class": "syncpoint.resources.file_directory:FileDirectory", "path": str(folder)}
        with closing(World(lambda: make(spec))) as world:
            world.start()
            yield DirectoryBehind(folder, world)
