"""What the explorer asks of a kind of model: one manager's processes, or a tree of managers. Not for: exploring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from syncpoint.simulation.model import actions as plain_actions
from syncpoint.simulation.model import healing, invariants
from syncpoint.simulation.model.interning import Interning, Mark
from syncpoint.simulation.model.manager import Manager
from syncpoint.simulation.model.process import Process
from syncpoint.simulation.model.scope import Scope
from syncpoint.simulation.model.steps import run, start
from syncpoint.simulation.model.tree import actions as tree_actions
from syncpoint.simulation.model.tree import holding
from syncpoint.simulation.model.tree import steps as tree_steps
from syncpoint.simulation.model.tree.scope import TreeScope
from syncpoint.simulation.model.world import STEPS, World

AnyScope: TypeAlias = Scope | TreeScope
Action: TypeAlias = tuple[str, tuple[Any, ...]]


class Heals(Protocol):
    """Plays futures without faults."""

    way: list[Action]

    def check(self, world: Any, mark: Mark) -> None:
        """Raises Violation."""


class Rules(NamedTuple):
    """A world is any immutable value with `parts()`."""

    beginning: Callable[[Any], Any]
    actions: Callable[[Any], list[Action]]
    check: Callable[[Any], None]
    healing: Callable[[Interning], Heals]


def beginning(scope: Scope) -> World:
    """All processes have started, and the first has run the transaction up to its wish to commit."""
    process = Process(passes=(None,) * scope.managers)
    world = World(scope, (process,) * scope.processes, (Manager(),) * scope.managers)
    for index in range(min(scope.processes, scope.incarnations_max)):
        world = start(world, index)
    return run(world, 0)


def apply(world: Any, action: Action) -> Any:
    """The world after a step."""
    name, arguments = action
    return STEPS[name](world, *arguments)


PLAIN = Rules(beginning, plain_actions.actions, invariants.check, healing.Healing)
TREE = Rules(tree_steps.beginning, tree_actions.actions, holding.check, holding.TreeHealing)


def rules_of(scope: AnyScope) -> Rules:
    return TREE if isinstance(scope, TreeScope) else PLAIN
