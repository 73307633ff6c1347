"""What the tests of trees share: managers of one process in a hall, over memory servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.manager.contexts import Context
from syncpoint.resources.memory_server import MemoryServer
from syncpoint.testing.in_process import Hall

KEY = b"a key for contexts, 32 bytes long"


class Town:
    """Managers by name, each with a journal and a memory server of its own, joined by a hall."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hall = Hall()
        self.mark = os.urandom(4).hex()
        self.managers: dict[str, Any] = {}

    def options(self, name: str, **options: Any) -> tuple[str, dict[str, str], dict[str, Any]]:
        tree = syncpoint.Tree(
            exchange=self.hall.exchange(name), keys=options.pop("keys", [KEY]), **options.pop("of", {})
        )
        return (
            str(self.folder / name),
            {"db": f"memory://{name}-{self.mark}"},
            {"tree": tree, "background": False, **options},
        )

    def manager(self, name: str, **options: Any) -> syncpoint.TransactionManager:
        journal, resources, more = self.options(name, **options)
        made = syncpoint.TransactionManager(journal, resources, **more).open()
        self.managers[name] = made
        return made

    def server(self, name: str) -> MemoryServer:
        return MemoryServer.named(f"{name}-{self.mark}")

    def rows(self, *names: str) -> list[dict[str, bytes]]:
        return [self.server(name).rows() for name in names]

    def quiet(self, *names: str) -> bool:
        """Nothing in doubt, no lock."""
        return not any(self.server(name).in_doubt() or self.server(name).locked() for name in names)

    def work_at(self, name: str, context: Context | str | dict[str, str], key: str = "x") -> None:
        """What a service does with a context."""
        with self.managers[name].join(context) as tx:
            tx.connect("db").put(key, 1)

    def close(self) -> None:
        for manager in self.managers.values():
            if isinstance(manager, syncpoint.TransactionManager):
                manager.close(timeout=0.1)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    yield made
    made.close()
