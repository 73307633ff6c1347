"""Scenes of resource managers of a user's own: every step of their adapter, beside the SQLite file.

Whoever settles afterwards does not know the shelf, so what was decided there stays listed; that it is whole after each
death is judged in tests/resources/test_own_crash.py.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import apsw

from syncpoint.errors import ConnectionLost
from syncpoint.manager.sync import TransactionManager
from syncpoint.resources.own_adapter import LEDGER
from syncpoint.steps import Failed
from tests.crash.run import GaveUp, Run
from tests.crash.scenes import scene
from tests.crash.world import AUDIT, transfer
from tests.resources.own_world import read

SHELF = "shelf"
NOWHERE: dict[str, tuple[str, ...]] = {"": ()}


def _place(run: Run) -> Path:
    place = Path(f"{run.world.journal}-{SHELF}")
    place.mkdir(exist_ok=True)
    return place


def _manager(run: Run) -> TransactionManager:
    shelf = {"class": "tests.resources.own_world:Shelf", "path": str(_place(run))}
    return run.manager((AUDIT,), resources={SHELF: shelf})


def _lost(outcome: Any) -> Failed:
    return Failed(ConnectionLost(f"The reply was lost, as this scene wants it; it was {outcome!r}."))


@scene(expects={"": (AUDIT,)}, forgets=(SHELF,))
def own_resource_with_a_file(run: Run) -> None:
    """Two phases, with a block inside that is rolled back."""
    manager = _manager(run)
    with run.block(manager) as tx:
        transfer(tx, run.name, (AUDIT,))
        tx.connect(SHELF).put("a", 1)
        with contextlib.suppress(GaveUp), manager.transaction():
            tx.connect(SHELF).put("a", 2)
            raise GaveUp
        with manager.transaction():
            tx.connect(SHELF).put("b", 3)
    assert read(_place(run)) == {"a": 1, "b": 3}


@scene(expects=NOWHERE, forgets=(SHELF,))
def own_resource_alone(run: Run) -> None:
    """One phase; an abort; a vote whose reply is lost."""
    manager = _manager(run)
    with manager.transaction() as tx:
        tx.connect(SHELF).put("a", 1)
    with contextlib.suppress(GaveUp), manager.transaction() as tx:
        tx.connect(SHELF).put("b", 1)
        raise GaveUp
    run.trap.after("prepare (own)", _lost)
    with run.block(manager) as tx:
        tx.connect(SHELF).put("c", 1)
        tx.connect(AUDIT).execute("UPDATE account SET balance = balance")
    manager.recover(wait_seconds=5.0)
    assert read(_place(run)) == {"a": 1}


@scene(expects=NOWHERE, forgets=(SHELF,))
def own_resource_waits_for_its_ledger(run: Run) -> None:
    """Somebody else holds the ledger's lock when the author's part is to be done."""
    manager = _manager(run)
    other = apsw.Connection(str(_place(run) / LEDGER))

    def lock() -> None:
        other.execute("BEGIN IMMEDIATE")
        run.trap.before("sleep", lambda: other.execute("ROLLBACK"))

    with manager.transaction() as tx:
        tx.connect(SHELF).put("a", 1)
        run.trap.before("commit (own)", lock)
    other.close()
    assert read(_place(run)) == {"a": 1}
