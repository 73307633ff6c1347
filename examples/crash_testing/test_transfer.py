"""The transfer is crashed at every point, and its databases are looked at afterwards.

pytest test_transfer.py                          every point
pytest test_transfer.py --syncpoint-points 10    ten of them
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from syncpoint.testing import SyncpointCrash, every_point

from transfer import balances, make_databases, make_manager, transfer  # isort: skip


class World:
    """What the test needs: a folder that is made anew before each run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "world"

    def prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        make_databases(self.folder)

    def check(self, committed: bool | None) -> None:
        """All or nothing; and what the caller was told holds."""
        found = balances(self.folder)
        assert found in ({"bank": 100, "ledger": 100}, {"bank": 90, "ledger": 110}), f"torn: {found}"
        if committed is not None:
            assert (found["bank"] == 90) == committed, f"told committed={committed}, but {found}"


@pytest.mark.parametrize("modes", [["kill"], ["kill after", "lost reply"]], ids=["killed", "lost"])
def test_transfer_is_whole_wherever_it_is_crashed(
    modes: list[str], tmp_path: Path, syncpoint_crash: SyncpointCrash
) -> None:
    world = World(tmp_path)
    syncpoint_crash(
        every_point,
        lambda manager: transfer(manager, 10),
        world.check,
        manager=lambda: make_manager(world.folder),
        prepare=world.prepare,
        modes=modes,
    )
