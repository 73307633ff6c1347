"""Two nodes of a tree as one immutable value. Node 0 is the superior, node 1 the subordinate.

Branch 1 of the superior is its own database, branch 2 the subordinate. Not for: what happens (steps.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.protocol.admission import admit
from syncpoint.protocol.coordinator import BranchView, Coordinator, State, What
from syncpoint.protocol.judgement import Result
from syncpoint.protocol.subordinate import Subordinate
from syncpoint.protocol.words import Answer, Choice
from syncpoint.records import Abort, Commit, End, KeyedRecord, Prepared
from syncpoint.simulation.model.manager import Manager, NotFound
from syncpoint.simulation.model.names import COORDINATOR, TRANSACTION, Unit
from syncpoint.simulation.model.tree.scope import TreeScope

SUPERIOR, SUBORDINATE = 0, 1
NODES = ("superior", "subordinate")
BELOW = BranchNumber(2)
"""The superior's branch that is the subordinate."""
UNIT = Unit(1, 1, 1)
"""Each database has one unit of work."""
GUIDS = (COORDINATOR, Guid(bytes(15) + b"\xc1"))
_ATTEMPT = Attempt(Incarnation(1), 1)
PROMISED_AS = Identifier(COORDINATOR, TRANSACTION, _ATTEMPT, BELOW)
KEYS = (Key(TRANSACTION, _ATTEMPT), Key(TransactionId.under(PROMISED_AS), _ATTEMPT))
DATABASES = ("bank", "ledger", "audit")

Message: TypeAlias = tuple[Any, ...]
"""("prepare",), ("voted", Choice), ("tell", commit), ("told", commit, Answer), ("ask",), ("outcome", commit)."""


class Book(NamedTuple):
    """A journal, all of whose records are of one transaction. Fulfils `protocol.admission.Standing`."""

    records: frozenset[KeyedRecord] = frozenset()

    def _has_ended(self) -> bool:
        return any(isinstance(one, End) for one in self.records)

    def commit(self) -> Commit | None:
        """The Commit record that has not ended. One that has is forgotten: the transaction has no id."""
        commits = (one for one in self.records if isinstance(one, Commit))
        return None if self._has_ended() else next(commits, None)

    def promise(self) -> Prepared | None:
        """The Prepared record that has no outcome."""
        others = any(not isinstance(one, Prepared) for one in self.records)
        return None if others else next((one for one in self.records if isinstance(one, Prepared)), None)

    def committed(self, transaction: TransactionId) -> Key | None:
        commit = self.commit()
        return None if commit is None else commit.key

    def is_aborted(self, key: Key) -> bool:
        return any(isinstance(one, Abort) for one in self.records)

    def add(self, record: KeyedRecord) -> tuple[Book, bool]:
        """First writer wins."""
        accepted = admit(record, self)
        return (Book(self.records | {record}) if accepted else self), accepted


class Pass(NamedTuple):
    """A pass of recovery over one branch: what it saw, then what it is to do."""

    found: bool
    commit: bool | None = None


class Node(NamedTuple):
    """One manager's process, and its journal."""

    starts: int = 1
    is_alive: bool = True
    coordinator: Coordinator | None = None
    book: Book = Book()
    unforced: frozenset[KeyedRecord] = frozenset()
    """Of the book: written lazily, not on disk yet."""
    forcing: KeyedRecord | None = None
    asked: bool = False
    """The subordinate owes its vote."""
    obeys: bool | None = None
    """The subordinate owes its superior the answer to this word."""
    replies: frozenset[tuple[int, Choice | Answer | NotFound]] = frozenset()
    """On their way from its databases."""
    passes: tuple[Pass | None, ...] = (None, None)
    acknowledged: frozenset[int] = frozenset()
    told: Result | None = None
    """What the caller was told."""
    ever: Commit | None = None
    """The Commit record that was once durable: what the invariants know."""

    def live(self) -> Coordinator:
        assert self.coordinator is not None
        return self.coordinator

    def in_pass(self, branch: int, work: Pass | None) -> Node:
        passes = list(self.passes)
        passes[branch - 1] = work
        return self._replace(passes=tuple(passes))

    def is_free(self) -> bool:
        """Nobody is in the gate of the subordinate's part."""
        if self.forcing is not None:
            return False
        return self.coordinator is None or self.coordinator.state in (State.ACTIVE, State.IN_DOUBT)

    def mark(self) -> tuple[object, ...]:
        """Equal for nodes that behave alike."""
        return self if self.coordinator is None else (*self[:2], gist(self.coordinator), *self[3:])


class TreeWorld(NamedTuple):
    scope: TreeScope
    nodes: tuple[Node, Node]
    managers: tuple[Manager, ...]
    """The superior's database, and the subordinate's."""
    sent: frozenset[Message] = frozenset()
    calls: frozenset[tuple[int, int, What]] = frozenset()
    """On their way to databases: node, branch, what."""

    def parts(self) -> tuple[object, ...]:
        return (*self.nodes, *self.managers, self.sent, self.calls)

    def put(self, index: int, node: Node) -> TreeWorld:
        nodes = (node, self.nodes[1]) if index == SUPERIOR else (self.nodes[0], node)
        return self._replace(nodes=nodes)

    def send(self, *message: Any) -> TreeWorld:
        return self._replace(sent=self.sent | {message})

    def manager(self, index: int, branch: int) -> Manager:
        return self.managers[place_of(index, branch)]

    def put_manager(self, index: int, branch: int, manager: Manager) -> TreeWorld:
        managers = list(self.managers)
        managers[place_of(index, branch)] = manager
        return self._replace(managers=tuple(managers))

    def own_branches(self, index: int) -> range:
        """Branches that are databases of this node."""
        return range(1, 2 if index == SUPERIOR else self.scope.branches + 1)

    def all_branches(self) -> Iterator[tuple[int, int]]:
        yield from ((index, branch) for index in (0, 1) for branch in self.own_branches(index))


def place_of(index: int, branch: int) -> int:
    return 0 if index == SUPERIOR else branch


def identifier(index: int, branch: int) -> Identifier:
    return Identifier(GUIDS[index], KEYS[index].transaction, KEYS[index].attempt, BranchNumber(branch))


def lists(commit: Commit | Prepared, index: int, branch: int) -> bool:
    return any(entry.read_identifier() == identifier(index, branch) for entry in commit.branches)


def clone(coordinator: Coordinator) -> Coordinator:
    """A copy that can be given inputs of its own."""
    twin = object.__new__(type(coordinator))
    slots = (*Coordinator.__slots__, *(Subordinate.__slots__ if isinstance(coordinator, Subordinate) else ()))
    for name in slots:
        setattr(twin, name, getattr(coordinator, name))
    twin.branches = {
        number: BranchView(v.number, v.resource, v.guid, v.standing, v.state, v.told, v.answer)
        for number, v in coordinator.branches.items()
    }
    return twin


def gist(coordinator: Coordinator) -> tuple[object, ...]:
    """All that its behaviour depends on."""
    is_promised = isinstance(coordinator, Subordinate) and coordinator.is_promised
    views = tuple((v.standing, v.told, v.answer) for v in coordinator.branches.values())
    return (coordinator.state, bool(coordinator.why), coordinator.lone_writer, is_promised, views)
