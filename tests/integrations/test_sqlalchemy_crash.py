"""SIGKILL in the middle of the end of a transaction whose work was a Session's: all or nothing, nothing in doubt."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

import syncpoint
from tests.integrations.bank import RESOURCES, World


@dataclass(frozen=True)
class Death:
    """Right before, or right after, a step of the transaction's end. `survives`: the decision was made before."""

    what: str
    survives: bool
    after: bool = False
    nth: int = 1

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.what}"


PREPARES = ("evidence and PREPARE TRANSACTION", "XA PREPARE", "prepare")
COMMITS = ("COMMIT PREPARED", "XA COMMIT", "COMMIT")
DEATHS = (
    Death("PREPARE bank, PREPARE ledger, PREPARE audit", survives=False),
    *(Death(what, survives=False) for what in PREPARES),
    *(Death(what, survives=False, after=True) for what in PREPARES),
    Death("journal force", survives=False),
    Death("journal force", survives=True, after=True),
    Death("COMMIT bank, COMMIT ledger, COMMIT audit", survives=True),
    *(Death(what, survives=True) for what in COMMITS),
    *(Death(what, survives=True, after=True) for what in COMMITS),
)


@pytest.mark.parametrize("death", DEATHS, ids=str)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_killed_sessions_work_is_everywhere_or_nowhere(world: World, mode: str, death: Death) -> None:
    order = {
        "urls": world.urls,
        "journal": world.journal,
        "mode": mode,
        "what": death.what,
        "nth": death.nth,
        "after": death.after,
    }
    child = subprocess.run(
        [sys.executable, "-m", "tests.integrations.orm_child", json.dumps(order)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, f"it was to die {death}:\n{child.stderr}"

    with syncpoint.TransactionManager(world.journal, world.urls, background=False) as manager:
        manager.recover(wait_seconds=30)
        assert manager.in_doubt() == []
        left = {name: world.owners(name) for name in RESOURCES}
        assert left == {name: ["Ada"] if death.survives else [] for name in RESOURCES}
        assert world.in_doubt() == []
        with manager.transaction() as tx:  # no lock is held
            for name in RESOURCES:
                tx.connect(name).cursor().execute("INSERT INTO account (owner, balance, version) VALUES ('Bob', 0, 1)")
    assert all("Bob" in world.owners(name) for name in RESOURCES)
