"""The connection to the ledger is lost at every single step of a resource manager of a user's own (O16, O18, O20, O43).

What was asked is done, and its answer replaced by ConnectionLost; whatever the caller is told holds, nothing is torn,
and everything comes to an end. In both modes. Not for: deaths of processes (tests/resources/test_file_directory.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost
from syncpoint.resources import own_adapter
from syncpoint.runners.points import StepPoint
from syncpoint.steps import Done, Failed, Step
from tests.resources.own_world import read
from tests.resources.sqlite_world import change, observe

MODES = ("sync", "async")
KINDS = ("two phases", "alone", "given up")


class Loses:
    """Loses the answer of the n-th step that the adapter takes; 0: of none, and counts."""

    def __init__(self, nth: int) -> None:
        self.nth = nth
        self.steps: list[str] = []
        self.is_over = False

    def watch(self, manager: Any) -> None:
        manager._runner.observer_after = self._after

    def _after(self, point: StepPoint, step: Step, outcome: Done[Any] | Failed) -> Done[Any] | Failed | None:
        if self.is_over or own_adapter.__file__ not in {point.file, *(file for file, _ in point.callers)}:
            return None
        self.steps.append(getattr(step, "what", type(step).__name__))
        if len(self.steps) != self.nth or isinstance(outcome, Failed):
            return None
        return Failed(ConnectionLost(f"lost after {self.steps[-1]}, as this test wants it"))


class World:
    """A shelf and a SQLite file, anew for each play."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.shelf = folder / "shelf"
        self.shelf.mkdir(parents=True)
        change(folder / "bank.db", "CREATE TABLE entry (k TEXT NOT NULL PRIMARY KEY, v INTEGER)")
        self.options: dict[str, Any] = {
            "journal": folder / "journal",
            "resources": {
                "shelf": {"class": "tests.resources.own_world:Shelf", "path": self.shelf},
                "bank": f"sqlite:///{folder}/bank.db",
            },
            "background": False,
        }

    def play(self, mode: str, loses: Loses) -> str:
        """One transaction, and a second one after recovery. Returns what the caller of the first was told."""
        return self._play(loses) if mode == "sync" else asyncio.run(self._play_async(loses))

    def _play(self, loses: Loses) -> str:
        with syncpoint.TransactionManager(**self.options) as manager:
            loses.watch(manager)
            with told() as said, manager.transaction() as tx:
                tx.connect("shelf").put("a", 1)
                if self.kind != "alone":
                    tx.connect("bank").execute("INSERT INTO entry VALUES ('a', 1)")
                if self.kind == "given up":
                    raise ZeroDivisionError
            manager.recover(wait_seconds=10)
            assert manager.in_doubt() == []
            loses.is_over = True
            with manager.transaction() as tx:
                tx.connect("shelf").put("z", 26)
        return said[-1]

    async def _play_async(self, loses: Loses) -> str:
        async with syncpoint.AsyncTransactionManager(**self.options) as manager:
            loses.watch(manager)
            with told() as said:
                async with manager.transaction() as tx:
                    await (await tx.connect("shelf")).put("a", 1)
                    if self.kind != "alone":
                        (await tx.connect("bank")).execute("INSERT INTO entry VALUES ('a', 1)")
                    if self.kind == "given up":
                        raise ZeroDivisionError
            await manager.recover(wait_seconds=10)
            assert await manager.in_doubt() == []
            loses.is_over = True
            async with manager.transaction() as tx:
                await (await tx.connect("shelf")).put("z", 26)
        return said[-1]

    def judge(self, said: str) -> None:
        found = read(self.shelf)
        assert found.pop("z") == 26
        rows = dict(observe(self.folder / "bank.db", "SELECT k, v FROM entry"))
        assert found in ({}, {"a": 1})
        if self.kind != "alone":
            assert rows == found, "torn"
        assert said in ("unknown", "committed" if found else "aborted")


@contextlib.contextmanager
def told() -> Iterator[list[str]]:
    """What the caller of the block inside is told, as its last word."""
    said = ["aborted"]
    try:
        yield said
    except syncpoint.OutcomePending:
        said.append("unknown")
    except (syncpoint.TransactionAborted, syncpoint.ResourceUnavailable, ZeroDivisionError, ConnectionLost):
        pass
    else:
        said.append("committed")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_lost_after_every_step(tmp_path: Path, mode: str, kind: str) -> None:
    counting = Loses(0)
    world = World(tmp_path / "0", kind)
    said = world.play(mode, counting)
    world.judge(said)
    assert said == ("aborted" if kind == "given up" else "committed")
    for nth in range(1, len(counting.steps) + 1):
        world = World(tmp_path / str(nth), kind)
        loses = Loses(nth)
        try:
            world.judge(world.play(mode, loses))
        except BaseException as error:
            error.add_note(f"the answer lost: {nth}, {counting.steps[nth - 1]}")
            raise
