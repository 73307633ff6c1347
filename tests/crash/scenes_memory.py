"""Scenes of the memory resource: every request to its server. It dies with its process, so nothing can be torn."""

from __future__ import annotations

import contextlib
import threading
from typing import Any
from unittest import mock

from syncpoint.manager import assembly
from syncpoint.manager.sync import TransactionManager
from syncpoint.resources.memory import LostReply, MemoryResource, MemoryServer, RowLocked
from tests.crash.run import GaveUp, Run
from tests.crash.scenes import scene
from tests.manager.memory_journal import MemoryJournal, Store

NOWHERE: dict[str, tuple[str, ...]] = {"": ()}
LEFT, RIGHT = MEMORY = ("left", "right")


def _manager(run: Run, **options: Any) -> TransactionManager:
    resources = {name: f"memory://{name}" for name in MEMORY}
    manager = run.manager((), resources=resources, open=False, **options)
    for handle in manager._core.handles.values():
        assert isinstance(handle.resource, MemoryResource)
        handle.resource.runtime = manager._runner
    return manager.open()


@scene(expects=NOWHERE, forgets=MEMORY)
def memory_transfers(run: Run) -> None:
    manager = _manager(run)
    with manager.transaction(id=run.name) as tx:
        tx.connect(LEFT).put("a", 1)
        with contextlib.suppress(GaveUp), manager.transaction():
            tx.connect(RIGHT).put("a", 2)
            raise GaveUp
        with manager.transaction():
            tx.connect(RIGHT).put("a", 3)
    with manager.transaction() as tx:
        tx.connect(LEFT).put("b", 1)
    with contextlib.suppress(GaveUp), manager.transaction() as tx:
        tx.connect(LEFT).put("b", 2)
        raise GaveUp
    manager.recover()
    assert MemoryServer.named(LEFT).rows() == {"a": b"1", "b": b"1"}
    assert MemoryServer.named(RIGHT).rows() == {"a": b"3"}


@scene(expects=NOWHERE, forgets=MEMORY)
def memory_replies_lost(run: Run) -> None:
    manager = _manager(run)
    server = MemoryServer.named(LEFT)
    server.answers["commit_one_phase"].append(LostReply())
    with manager.transaction() as tx:
        tx.connect(LEFT).put("a", 1)
    server.answers["commit"].append(LostReply())
    server.answers["finish"].append(LostReply())
    with manager.transaction() as tx:
        for name in MEMORY:
            tx.connect(name).put("b", 1)
    manager.recover(wait_seconds=5.0)
    assert not server.in_doubt()
    assert server.rows() == {"a": b"1", "b": b"1"}


@scene(expects=NOWHERE, forgets=MEMORY)
def memory_waits(run: Run) -> None:
    """For a row that another branch holds: in time, and in vain."""
    manager = _manager(run)
    holds, go = threading.Event(), threading.Event()

    def hold() -> None:
        with manager.transaction() as tx:
            tx.connect(LEFT).put("a", 1)
            holds.set()
            go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    with contextlib.suppress(RowLocked), manager.transaction(timeout=0.2) as tx:
        tx.connect(LEFT).put("a", 2)
    go.set()
    thread.join()
    with manager.transaction() as tx:
        assert tx.connect(LEFT).get("a", for_update=True) == 1


@scene(expects=NOWHERE, forgets=MEMORY)
def memory_initialised(run: Run) -> None:
    manager = _manager(run)
    resource = manager._core.handles[LEFT].resource
    session = manager._runner.run(resource.open())
    manager._runner.run(resource.initialise(session))
    manager._runner.run(resource.close(session))


@scene(expects=NOWHERE, forgets=MEMORY)
def memory_decides(run: Run) -> None:
    """The journal lives in one of the servers: the branch there carries the decision."""
    store = Store(MemoryServer.named(LEFT))
    with mock.patch.object(assembly.Plan, "_journal", return_value=MemoryJournal(store)):
        manager = _manager(run)
    with manager.transaction() as tx:
        for name in MEMORY:
            tx.connect(name).put("a", 1)
    assert MemoryServer.named(RIGHT).rows() == {"a": b"1"}
