"""What the conformance tests share: two memory servers behind a manager, and looks at them from outside."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.resources.memory_server import MemoryServer

_numbers = itertools.count(1)


class Bench:
    """Memory servers a, b and c, and managers over them on one journal folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        number = next(_numbers)
        self.names = {name: f"{name}{number}" for name in "abc"}
        self.a, self.b, self.c = (MemoryServer.named(name) for name in self.names.values())
        self.servers = {"a": self.a, "b": self.b, "c": self.c}
        self._open: list[syncpoint.TransactionManager] = []

    def manager(self, resources: str = "ab", **options: Any) -> syncpoint.TransactionManager:
        """Another process, as far as the journal can tell: an incarnation of its own. Closed at the end."""
        urls = {name: f"memory://{self.names[name]}" for name in resources}
        options.setdefault("background", False)
        manager = syncpoint.TransactionManager(self.folder / "journal", urls, **options).open()
        self._open.append(manager)
        return manager

    def put(self, tx: Any, resources: str = "ab", key: str = "k", value: Any = 1) -> None:
        for name in resources:
            tx.connect(name).put(key, value)

    def rows(self, key: str = "k") -> str:
        """The servers that hold the key: "ab", "", …; read from the servers themselves."""
        return "".join(name for name, server in self.servers.items() if key in server.rows())

    def assert_quiet(self) -> None:
        """Nothing in doubt, no lock held (R7)."""
        for name, server in self.servers.items():
            assert server.in_doubt() == [], f"{name} is in doubt"
            assert server.locked() == {}, f"{name} holds locks"

    def calls(self, name: str, *methods: str) -> list[str]:
        """Which of these methods reached a server, in order."""
        return [call for call in self.servers[name].calls if call in methods]

    def close(self) -> None:
        for manager in self._open:
            manager.close(1.0)
        for name in self.names.values():
            MemoryServer.remove(name)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()
