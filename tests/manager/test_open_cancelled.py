"""An asyncio manager whose `open()` is cancelled leaves nothing open: no incarnation that others take for alive.

Not for: cancelled transactions and recoveries (tests/crash/test_cancel.py).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from syncpoint.manager.aio import AsyncTransactionManager


def make(folder: Path) -> AsyncTransactionManager:
    return AsyncTransactionManager(folder / "journal", {"audit": f"sqlite:///{folder / 'audit.db'}"}, background=False)


async def cancel_open(manager: AsyncTransactionManager) -> None:
    opening = asyncio.create_task(manager.open())
    manager._runner.observer = lambda point, step: opening.cancel() and None
    with pytest.raises(asyncio.CancelledError):
        await opening
    manager._runner.observer = None


async def others_alive(folder: Path) -> int:
    async with make(folder) as other:
        view = await other._run(other._core.journal.look())
        return len(view.live)


def test_a_cancelled_open_leaves_no_living_incarnation(tmp_path: Path) -> None:
    async def act() -> None:
        await cancel_open(make(tmp_path))
        assert await others_alive(tmp_path) == 0

    asyncio.run(act())


def test_a_manager_whose_open_was_cancelled_can_be_opened(tmp_path: Path) -> None:
    async def act() -> None:
        manager = make(tmp_path)
        await cancel_open(manager)
        async with manager:
            async with manager.transaction() as tx:
                (await tx.connect("audit")).execute("SELECT 1")
            assert await others_alive(tmp_path) == 1

    asyncio.run(act())
