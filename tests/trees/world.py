"""Nodes of a tree in virtual time, for tests: the simulator's, one by one, with a database each.

A node can be killed at any of the moments at which its code runs, and is started again. Not for: seeds
(simulation/trees.py), or what is tried (test_*.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from syncpoint.errors import SyncpointError
from syncpoint.journal.folder import FolderJournal
from syncpoint.manager import commit
from syncpoint.manager.transaction import Work
from syncpoint.manager.tree import Tree
from syncpoint.resources.memory import MemoryConnection
from syncpoint.resources.subordinate_messages import TREE_VOCABULARY
from syncpoint.simulation.database import Habits, SimDatabase, SimResource
from syncpoint.simulation.host import Application, Host
from syncpoint.simulation.network import Network
from syncpoint.simulation.process import Process
from syncpoint.simulation.runtime import Outcome
from syncpoint.simulation.services import Plan, Services
from syncpoint.simulation.trees import JOURNAL, KEY, unsettled_at
from syncpoint.simulation.wires import Mishaps, Wires
from syncpoint.simulation.world import World
from syncpoint.steps import Failed, Script
from syncpoint.testing.disks import MemoryProcess

RESTART_S = 0.3
SETTLE_S = 60.0
DATABASE = "db"


class Node(Application):
    """One node: `core` is its manager while it runs."""

    def __init__(self, tree: SimTree, name: str) -> None:
        super().__init__(
            Host(tree.world, name),
            "app",
            journal=lambda _: FolderJournal(JOURNAL, disk=self._disk(), clock=self.there.clock, random=self.random),
            resources=lambda _: [
                SimResource(DATABASE, self.database, self.there, tree.network, self.there.clock, self.random)
            ],
            client=lambda *_: _nothing(),
            clients=0,
            timeout_s=5.0,
            tree=lambda _: Tree(exchange=tree.wires.exchange(name, self.there, self.runtime), keys=[KEY]),
        )
        self.restart_s = (RESTART_S, RESTART_S)
        self.database = SimDatabase(tree.world, tree.network, f"{DATABASE}-{name}", Habits())
        self.next_dies_at: int | None = None
        self.disk_operations = 0
        self._dies_in: int | None = None
        self.host.disk.on_operation = self._on_operation

    def start(self) -> None:
        super().start()
        self.there.dies_at, self.next_dies_at = self.next_dies_at, None

    @property
    def there(self) -> Process:
        """Its process."""
        assert self.process is not None
        return self.process

    def _disk(self) -> MemoryProcess:
        assert self.disk is not None
        return self.disk

    def die_in_operation(self, number: int) -> None:
        """Its process dies in the middle of its disk operation of that number, counted from now."""
        self._dies_in = self.disk_operations + number

    def _on_operation(self, operation: str, path: str) -> None:
        self.disk_operations += 1
        if self.disk_operations == self._dies_in:
            self._disk().kill()

    @property
    def rows(self) -> dict[str, bytes]:
        return self.database.engine.rows()


def _nothing() -> Script[None]:
    yield from ()


class SimTree:
    """Nodes a, b, c, … that reach each other."""

    def __init__(self, names: str = "abc", seed: int = 1, mishaps: Mishaps | None = None) -> None:
        self.world = World(seed)
        self.network = Network(self.world)
        self.wires = Wires(self.network, TREE_VOCABULARY)
        self.wires.mishaps = mishaps or Mishaps()
        self.nodes = {name: Node(self, name) for name in names}
        self.services = Services(self.wires, self.nodes)
        for node in self.nodes.values():
            node.start()
        self.world.run(30.0, lambda: all(node.is_serving for node in self.nodes.values()))
        assert all(node.is_serving for node in self.nodes.values())

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    # --- running and judging -----------------------------------------------------------------------------------

    def cut_off(self, name: str) -> None:
        """No message between managers reaches or leaves it."""
        for other in self.nodes:
            if other != name:
                self.network.cut(name, other)
                self.network.cut(other, name)

    def begin(self, name: str, script: Script[Any], then: Callable[[Outcome], None]) -> None:
        """Run a script in a node's process."""
        node = self.nodes[name]
        node.there.now(lambda: node.runtime.begin(script, "client", then) and None)

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now_s + seconds)

    def settle(self) -> None:
        """Faults are over; everything must settle: nothing in doubt, no lock, nothing promised (R7)."""
        self.wires.mend()
        self.network.mend_all()
        limit_s = self.world.now_s + SETTLE_S
        while self.world.now_s < limit_s:
            self.world.run(self.world.now_s + 0.5)
            if not self.unsettled():
                return
        raise AssertionError(f"after {SETTLE_S:g} s without faults: {self.unsettled()}")

    def unsettled(self) -> list[str]:
        left = []
        for name, node in self.nodes.items():
            engine, core = node.database.engine, node.core
            if engine.in_doubt() or engine.locked():
                left.append(f"{name}: in doubt {engine.in_doubt()}, locked {engine.locked()}")
            if not node.is_serving or core is None:
                left.append(f"{name} is not up")
            elif core.live or core.deciding:
                left.append(f"{name}: {core.live}")
            left += unsettled_at(node)
        return left

    def check(self) -> None:
        """Nothing that must hold was broken, and nobody has decided alone."""
        assert self.world.violations == []
        for name, node in self.nodes.items():
            assert node.core is not None
            index = node.core.journal._index  # type: ignore[attr-defined]
            assert index.heuristics == {}, f"{name} lists {index.heuristics}"

    def end(self) -> None:
        self.world.end()


# --- transactions ------------------------------------------------------------------------------------------------


CHAIN = Plan("a", (Plan("b", (Plan("c"),)),))
FAN = Plan("a", (Plan("b"), Plan("c")))
BACK = Plan("c", (Plan("a"),))


@dataclass
class Told:
    """What the client of one transaction was told."""

    outcome: str = "unknown"
    why: str = ""
    errors: list[str] = field(default_factory=list)


def put(work: Work, key: str) -> Script[None]:
    branch = yield from work.branch(DATABASE)
    assert branch.session is not None
    connection: MemoryConnection = branch.handle.resource.connection(branch.session)
    yield from connection.put(key, 1)


def work_of(tree: SimTree, plan: Plan, key: str, work: Work) -> Script[None]:
    """Each node of the plan puts the row, and calls the next ones."""

    def act(_: Application, part: Plan, there: Work) -> Script[None]:
        if part.writes:
            yield from put(there, key)

    yield from tree.services.visit(tree[plan.node], plan, work, act)


def transact(tree: SimTree, plan: Plan, key: str, told: Told) -> Script[None]:
    """One transaction at its root, as the facades run it."""
    node = tree[plan.node]
    core = node.core
    assert core is not None
    work = yield from core.begin(user_id=None, timeout_s=None, wait_applied=True)
    try:
        yield from work_of(tree, plan, key, work)
    except Exception as error:
        told.errors.append(repr(error))
        yield from commit.abort(work, f"{error}", error)
        told.outcome = "aborted"
        return
    try:
        yield from commit.commit(work)
    except SyncpointError as error:
        told.why = str(error)
        told.outcome = (
            "aborted" if "Aborted" in type(error).__name__ or "Timeout" in type(error).__name__ else "unknown"
        )
        return
    told.outcome = "committed"


def start(tree: SimTree, plan: Plan, key: str) -> Told:
    """Begin a transaction; what its client is told comes later."""
    told = Told()

    def over(outcome: Outcome) -> None:
        if isinstance(outcome, Failed) and not isinstance(outcome.error, SyncpointError):
            tree.world.violation(f"{key} failed: {outcome.error!r}")

    tree.begin(plan.node, transact(tree, plan, key, told), over)
    return told


def judge(tree: SimTree, plan: Plan, key: str, told: Told) -> str:
    """Rows in all databases agree with each other and with what was told. Returns "committed" or "aborted"."""
    there = {name: key in tree[name].rows for name in plan.writers()}
    assert len(set(there.values())) <= 1, f"{key} is torn: {there} {told}"
    assert told.outcome == "unknown" or set(there.values()) <= {told.outcome == "committed"}, f"{there} {told}"
    return "committed" if all(there.values()) else "aborted"


def judge_all(tree: SimTree, plans: Sequence[tuple[Plan, str, Told]]) -> list[str]:
    tree.settle()
    tree.run(8.0)  # nothing comes back
    assert tree.unsettled() == []
    tree.check()
    return [judge(tree, *one) for one in plans]
