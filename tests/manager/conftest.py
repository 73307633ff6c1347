"""What the manager's tests share: the conformance bench of memory servers, a clock that jumps, and disks that fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.ports import OpenFile
from syncpoint.system import SystemClock, SystemDisk
from tests.conformance.conftest import Bench
from tests.conformance.places import KINDS, Place, place_of

AT_EVERY_PLACE = ("test_async", "test_context", "test_operators", "test_run")
"""Modules whose tests run with the journal in a folder, in PostgreSQL and in MariaDB. The others are about the
manager's own rules, or about disks that fail."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in AT_EVERY_PLACE:
        metafunc.parametrize("place", KINDS, indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """Where the journal is."""
    return place_of(request)


class JumpingClock(SystemClock):
    """The machine's clock, moved on by `jump_s`."""

    def __init__(self) -> None:
        self.jump_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.jump_s


class FailingDisk(SystemDisk):
    """The local disk; while `is_failing`, every force raises OSError (R5)."""

    def __init__(self) -> None:
        self.is_failing = False

    def create(self, path: str) -> OpenFile:
        return _FailingFile(super().create(path), self)


class _FailingFile(OpenFile):
    def __init__(self, file: OpenFile, disk: FailingDisk) -> None:
        self._file = file
        self._disk = disk

    def append(self, data: bytes) -> None:
        self._file.append(data)

    def force(self) -> None:
        if self._disk.is_failing:
            raise OSError(5, "Input/output error")
        self._file.force()

    def close(self) -> None:
        self._file.close()


class AsyncBench(Bench):
    """The same servers behind asyncio managers."""

    @asynccontextmanager
    async def running(self, resources: str = "ab", **options: Any) -> AsyncIterator[syncpoint.AsyncTransactionManager]:
        options.setdefault("background", False)
        journal = self.journal_named(options.pop("journal", "journal"))
        manager = syncpoint.AsyncTransactionManager(journal, self.urls(resources), **options)
        async with manager:
            yield manager

    async def write(self, tx: Any, resources: str = "ab", key: str = "k", value: Any = 1) -> None:
        for name in resources:
            await (await tx.connect(name)).put(key, value)


@pytest.fixture
def bench(tmp_path: Path, place: Place) -> Iterator[AsyncBench]:
    made = AsyncBench(tmp_path, place)
    yield made
    made.close()
