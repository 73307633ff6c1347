"""Scenes of trees: two managers of one process, each with a journal of its own, over memory servers (B10).

What is left after a death in them is looked at in tests/trees/, where every node dies at every moment; here each
force and each message of a tree is a point like any other. Not for: real processes (tests/trees/test_processes.py).
"""

from __future__ import annotations

import syncpoint
from syncpoint.manager.sync import TransactionManager
from syncpoint.messages import Message
from syncpoint.resources.memory import MemoryServer
from syncpoint.resources.subordinate_messages import Tell
from syncpoint.testing.in_process import Fate, Hall
from tests.crash.run import Run
from tests.crash.scenes import scene
from tests.crash.scenes_memory import LEFT, MEMORY, NOWHERE, RIGHT


def _node(run: Run, hall: Hall, name: str) -> TransactionManager:
    tree = syncpoint.Tree(exchange=hall.exchange(name), keys=[b"k" * 32])
    return run.manager((), resources={name: f"memory://{name}"}, journal=f"{run.world.journal}-{name}", tree=tree)


def _lose_tell(source: str, target: str, question: Message) -> Fate | None:
    return Fate.LOST if isinstance(question, Tell) else None


@scene(expects=NOWHERE, forgets=MEMORY)
def memory_tree(run: Run) -> None:
    """A transaction over both; then one whose outcome only a later process of the subordinate gets."""
    hall = Hall()
    root, subordinate = _node(run, hall, LEFT), _node(run, hall, RIGHT)
    _transact(root, subordinate, "a")
    hall.rules.append(_lose_tell)
    _transact(root, subordinate, "b")
    subordinate.close(timeout=0.0)
    hall.rules.clear()
    later = _node(run, hall, RIGHT)
    later.recover(wait_seconds=5.0)
    root.recover(wait_seconds=5.0)
    for name in MEMORY:
        assert MemoryServer.named(name).rows() == {"a": b"1", "b": b"1"}
        assert not MemoryServer.named(name).in_doubt()


def _transact(root: TransactionManager, subordinate: TransactionManager, key: str) -> None:
    with root.transaction() as tx:
        tx.connect(LEFT).put(key, 1)
        with subordinate.join(tx.export()) as part:
            part.connect(RIGHT).put(key, 1)
