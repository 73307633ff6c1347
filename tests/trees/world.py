"""Nodes of a tree in virtual time: each a machine with a disk, a journal, a manager and a database of its own.

The managers, journals and scripts are the real ones on the simulator's ports; messages between managers are encoded,
and may be lost, late or doubled. A node can be killed at any of the moments at which its code runs, and is started
again. Not for: what is tried (test_*.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from syncpoint.errors import ConnectionLost, ResourceUnavailable, SyncpointError
from syncpoint.ids import Guid
from syncpoint.journal.folder import FolderJournal
from syncpoint.manager import commit, exporting, joining
from syncpoint.manager.core import Core
from syncpoint.manager.transaction import Work
from syncpoint.manager.tree import Tree
from syncpoint.messages import Message
from syncpoint.ports import Exchange, Random, Runtime
from syncpoint.resources.memory import MemoryConnection
from syncpoint.resources.subordinate_messages import TREE_VOCABULARY
from syncpoint.simulation.database import Habits, SimDatabase, SimResource
from syncpoint.simulation.host import Host
from syncpoint.simulation.network import Network
from syncpoint.simulation.process import Process
from syncpoint.simulation.runtime import Outcome, Promise, SimRuntime
from syncpoint.simulation.world import SimRandom, World
from syncpoint.steps import Call, Done, Failed, Script
from syncpoint.testing.disks import MemoryProcess

KEY = b"k" * 32
RESTART_S = 0.3
SETTLE_S = 60.0
DATABASE = "db"


class CountedProcess(Process):
    """Counts the moments at which its code runs, and dies at one of them, before it does."""

    def __init__(self, world: World, name: str, dies_at: int | None = None) -> None:
        super().__init__(world, name)
        self.moments = 0
        self.dies_at = dies_at

    def now(self, call: Callable[[], None]) -> None:
        if self.alive and not self.world.is_over:
            self.moments += 1
            if self.moments == self.dies_at:
                self.kill(f"at its moment {self.moments}")
        super().now(call)


@dataclass
class Faults:
    """How likely a message between managers is lost, doubled, late."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0


class Wires(Exchange):
    """One process's exchange over the simulated wires."""

    def __init__(self, node: Node, process: Process) -> None:
        self._node = node
        self._process = process

    @property
    def address(self) -> str:
        return self._node.name

    def serve(
        self, answer: Callable[[Message], Script[Message]], *, runtime: Runtime, guid: Guid, random: Random
    ) -> None:
        self._node.answer = answer

    def close(self) -> None:
        self._node.answer = None

    def ask(self, address: str, question: Message, seconds: float) -> Script[Message]:
        raw = TREE_VOCABULARY.encode(question)
        what = type(question).__name__
        promise = yield Call(lambda: self._node.tree.ask(self._process, address, raw, what, seconds), f"ask {what}")
        return TREE_VOCABULARY.decode(promise)


class Node:
    """One node: `core` is its manager while it runs."""

    def __init__(self, tree: SimTree, name: str) -> None:
        self.tree = tree
        self.name = name
        self.host = Host(tree.world, name)
        self.database = SimDatabase(tree.world, tree.network, f"{DATABASE}-{name}", Habits())
        self.core: Core | None = None
        self.process: CountedProcess | None = None
        self.disk: MemoryProcess | None = None
        self.answer: Callable[[Message], Script[Message]] | None = None
        self.serving = False
        self.starts = 0
        self.stays_down = False
        self.next_dies_at: int | None = None
        self.disk_operations = 0
        self._dies_in: int | None = None
        self.host.disk.on_operation = self._on_operation

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.process!r}>"

    def start(self) -> None:
        self.starts += 1
        world = self.tree.world
        dies_at, self.next_dies_at = self.next_dies_at, None
        process = self.process = CountedProcess(world, f"{self.name}/app#{self.starts}", dies_at)
        self.disk = self.host.disk.process()
        self.serving = False
        process.on_death += [self.disk.kill, self._again]
        self.runtime = SimRuntime(process, self.host.disk_s)
        chance = SimRandom(world.stream(f"chance of {process.name}"))
        resource = SimResource(DATABASE, self.database, process, self.tree.network, process.clock, chance)
        self.core = Core(
            journal=FolderJournal("/journal", disk=self.disk, clock=process.clock, random=chance),
            resources=[resource],
            runtime=self.runtime,
            clock=process.clock,
            random=chance,
            timeout_s=5.0,
            address="a folder",
            tree=Tree(exchange=Wires(self, process), keys=[KEY]),
        )
        self.runtime.begin(self.core.start(), "start", partial(self._started, process))

    def die_in_operation(self, number: int) -> None:
        """Its process dies in the middle of its disk operation of that number, counted from now."""
        self._dies_in = self.disk_operations + number

    def _on_operation(self, operation: str, path: str) -> None:
        self.disk_operations += 1
        if self.disk_operations == self._dies_in:
            assert self.disk is not None
            self.disk.kill()

    def _started(self, process: Process, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            if not isinstance(outcome.error, SyncpointError):
                self.tree.world.violation(f"{process.name} could not start: {outcome.error!r}")
            process.kill(f"it could not start: {outcome.error}")
        else:
            self.serving = True

    def _again(self) -> None:
        self.serving, self.answer = False, None
        if not self.stays_down:
            self.tree.world.after(RESTART_S, self.start)

    def kill(self, why: str = "a test") -> None:
        assert self.process is not None
        self.process.kill(why)

    @property
    def rows(self) -> dict[str, bytes]:
        return self.database.engine.rows()


class SimTree:
    """Nodes a, b, c, … that reach each other."""

    def __init__(self, names: str = "abc", seed: int = 1, faults: Faults | None = None) -> None:
        self.world = World(seed)
        self.network = Network(self.world)
        self.faults = faults or Faults()
        self.cut: set[str] = set()
        """Nodes that no message between managers reaches or leaves."""
        self.deaf: set[str] = set()
        """Kinds of questions that get lost."""
        self._chance = self.world.stream("wires")
        self.nodes = {name: Node(self, name) for name in names}
        for node in self.nodes.values():
            node.start()
        self.world.run(30.0, lambda: all(node.serving for node in self.nodes.values()))
        assert all(node.serving for node in self.nodes.values())

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    # --- messages --------------------------------------------------------------------------------------------

    def ask(self, process: Process, address: str, raw: bytes, what: str, seconds: float) -> Promise:
        """A question from one manager to another, and its answer."""
        promise = Promise()
        late = ConnectionLost(f"{address} did not answer {what} in {seconds:g} s.")
        process.after(seconds, lambda: promise.keep(Failed(late)))
        source = process.name[0]
        for _ in range(0 if what in self.deaf else self._copies(source, address)):
            self.world.after(self._latency_s(), partial(self._arrive, source, address, raw, what, promise))
        return promise

    def _copies(self, source: str, target: str) -> int:
        if {source, target} & self.cut or self._chance.random() < self.faults.lost:
            return 0
        return 2 if self._chance.random() < self.faults.doubled else 1

    def _latency_s(self) -> float:
        if self._chance.random() < self.faults.late:
            return self._chance.uniform(0.05, 3.0)
        return self._chance.uniform(0.0002, 0.002)

    def _arrive(self, source: str, target: str, raw: bytes, what: str, promise: Promise) -> None:
        node = self.nodes[target]
        if node.process is None or not node.process.alive or node.answer is None:
            refused = ResourceUnavailable(f"{target} refuses connections.")
            self.world.after(self._latency_s(), lambda: promise.keep(Failed(refused)))
            return
        self.world.note(source, what, target)
        script = node.answer(TREE_VOCABULARY.decode(raw))
        reply = partial(self._reply, source, target, what, promise)
        node.process.now(lambda: self._begin(node, script, what, reply))

    def _begin(self, node: Node, script: Script[Message], what: str, reply: Callable[[Outcome], None]) -> None:
        node.runtime.begin(script, f"answer {what}", reply)

    def _reply(self, source: str, target: str, what: str, promise: Promise, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            if not isinstance(outcome.error, SyncpointError):
                self.world.violation(f"{target} failed to answer {what}: {outcome.error!r}")
            return
        raw = TREE_VOCABULARY.encode(outcome.value)
        self.world.note(target, f"{what}: {outcome.value!r}", source)
        for _ in range(self._copies(target, source)):
            self.world.after(self._latency_s(), lambda: promise.keep(Done(raw)))

    def call(self, caller: Process, target: str, service: Callable[[Core], Script[Any]]) -> Script[Any]:
        """A request from one application to another: `service` runs there. Raises ConnectionLost."""
        return (yield Call(lambda: self._call(caller, target, service), f"call {target}"))

    def _call(self, caller: Process, target: str, service: Callable[[Core], Script[Any]]) -> Promise:
        promise = Promise()
        lost = Failed(ConnectionLost(f"{target} did not answer."))
        caller.after(4.0, lambda: promise.keep(lost))
        node = self.nodes[target]
        process = node.process
        if process is None or not node.serving or node.core is None:
            promise.keep(lost)
            return promise
        process.on_death.append(lambda: self.world.after(0.001, lambda: promise.keep(lost)) and None)
        script = service(node.core)

        def done(outcome: Outcome) -> None:
            self.world.after(0.001, lambda: promise.keep(outcome))

        self.world.after(0.001, lambda: process.now(lambda: node.runtime.begin(script, "service", done) and None))
        return promise

    # --- running and judging -----------------------------------------------------------------------------------

    def begin(self, name: str, script: Script[Any], then: Callable[[Outcome], None]) -> None:
        """Run a script in a node's process."""
        node = self.nodes[name]
        assert node.process is not None
        node.process.now(lambda: node.runtime.begin(script, "client", then) and None)

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now_s + seconds)

    def settle(self) -> None:
        """Faults are over; everything must settle: nothing in doubt, no lock, nothing promised (R7)."""
        self.faults = Faults()
        self.cut.clear()
        self.deaf.clear()
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
            if not node.serving or core is None:
                left.append(f"{name} is not up")
                continue
            if core.live or core.deciding or core.place.parts or core.place.tickets:
                left.append(f"{name}: {core.live} {core.place!r}")
            index = core.journal._index  # type: ignore[attr-defined]
            ends = core.journal._noted_ends  # type: ignore[attr-defined]
            if index.prepared.keys() - ends or index.unended.keys() - ends:
                left.append(f"{name}: records {index!r} promised {list(index.prepared)}")
        return left

    def check(self) -> None:
        """Nothing that must hold was broken, and nobody has decided alone."""
        assert self.world.violations == []
        for node in self.nodes.values():
            assert node.core is not None
            index = node.core.journal._index  # type: ignore[attr-defined]
            assert index.heuristics == {}, f"{node.name} lists {index.heuristics}"

    def end(self) -> None:
        self.world.end()


# --- transactions ------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What one transaction does: at which node it works, and to whom it goes on from there."""

    node: str
    under: tuple[Plan, ...] = ()
    writes: bool = True

    def nodes(self) -> list[str]:
        return [self.node, *(name for one in self.under for name in one.nodes())]

    def writers(self) -> list[str]:
        return [self.node] * self.writes + [name for one in self.under for name in one.writers()]


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


def work_of(tree: SimTree, plan: Plan, key: str, work: Work, process: Process) -> Script[None]:
    """What each node does in the transaction, and whom it calls."""
    if plan.writes:
        yield from put(work, key)
    for below in plan.under:
        token = exporting.export(work).token
        yield from tree.call(process, below.node, partial(serve, tree, below, key, token))


def serve(tree: SimTree, plan: Plan, key: str, token: str, core: Core) -> Script[None]:
    """The service that a node offers: it joins, works, and leaves."""
    process = tree[plan.node].process
    assert process is not None
    part = yield from joining.join(core, token, authenticated=False)
    try:
        yield from work_of(tree, plan, key, part.work, process)
    except Exception as error:
        yield from joining.leave(core, part, error)
        raise
    yield from joining.leave(core, part, None)


def transact(tree: SimTree, plan: Plan, key: str, told: Told) -> Script[None]:
    """One transaction at its root, as the facades run it."""
    node = tree[plan.node]
    core, process = node.core, node.process
    assert core is not None
    assert process is not None
    work = yield from core.begin(user_id=None, timeout_s=None, wait_applied=True)
    try:
        yield from work_of(tree, plan, key, work, process)
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
