"""A resource manager of a user's own passes the conformance suite of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from syncpoint.testing import ResourceConformance, Subject
from tests.resources.own_world import read

CRASH = (
    "it has no URL to be made from again; tests/resources/test_file_directory.py kills a work of this kind everywhere"
)


class ShelfSubject(Subject):
    """A shelf in a folder."""

    embedded = True

    def __init__(self, folder: Path) -> None:
        options = {"class": "tests.resources.own_world:Shelf", "path": str(folder)}
        super().__init__("", options=options, without={"crash": CRASH})
        self.folder = folder

    def make_table(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def put(self, connection: Any, key: str, value: int) -> Any:
        return connection.put(key, value)

    def get(self, connection: Any, key: str) -> Any:
        return connection.get(key)

    def rows(self) -> dict[str, int]:
        return read(self.folder)

    def fail(self, connection: Any) -> Any:
        return connection.put("below", -1)

    def restart(self) -> None:
        return None


class TestShelf(ResourceConformance):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> ShelfSubject:
        return ShelfSubject(tmp_path / "shelf")
