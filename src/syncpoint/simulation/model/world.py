"""Everything there is, as one immutable value; and how a step of it is told in words.

    processes    each may run an attempt at the transaction, and recover what others left (passes.py)
    managers     resource managers
    journal      what can be read, and what is on disk
    messages     on their way to resource managers: they may be overtaken, arrive late, twice, or never
    appends      records on their way to the journal; they outlive their process, unless it is on its own disk

A step is a function from a world to the next, with `@step`: its text is what a transcript says, its kind whether it
is progress, or a fault that may happen. Not for: the steps (steps.py, recovering.py), which of them can happen next
(actions.py), or what must hold (invariants.py).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, NamedTuple, TypeVar

from syncpoint.protocol.coordinator import What
from syncpoint.protocol.words import Answer, Choice
from syncpoint.records import Commit, KeyedRecord
from syncpoint.simulation.model.journal import Journal, Rows
from syncpoint.simulation.model.manager import Manager
from syncpoint.simulation.model.names import MANAGERS, Try, Unit, try_of
from syncpoint.simulation.model.process import Process
from syncpoint.simulation.model.scope import Scope


class Message(NamedTuple):
    """On its way to a resource manager."""

    unit: Unit
    what: What
    record: Commit | None = None
    """What a decision carries."""
    again: bool = False
    """It will arrive once more."""


class Append(NamedTuple):
    """On its way to the journal."""

    record: KeyedRecord
    written: bool = False
    """On its process's own disk: readable, not yet forced."""


class World(NamedTuple):
    """Immutable."""

    scope: Scope
    processes: tuple[Process, ...]
    managers: tuple[Manager, ...]
    journal: Journal = Journal()
    messages: frozenset[Message] = frozenset()
    appends: frozenset[Append] = frozenset()

    def parts(self) -> tuple[object, ...]:
        return (*self.processes, *self.managers, self.journal, self.messages, self.appends)

    def put(self, index: int, process: Process) -> World:
        processes = list(self.processes)
        processes[index] = process
        return World(self[0], tuple(processes), *self[2:])

    def put_manager(self, index: int, manager: Manager) -> World:
        managers = list(self.managers)
        managers[index] = manager
        return World(self[0], self[1], tuple(managers), *self[3:])

    def force(self, rows: Rows) -> World:
        return self._replace(journal=self.journal.force(rows))

    def lazily(self, rows: Rows) -> World:
        return self._replace(journal=self.journal.lazily(rows))

    def runner_of(self, attempt: Try) -> int | None:
        """Which process works on this attempt."""
        for index, process in enumerate(self.processes):
            if process.coordinator is not None and process.attempt == attempt:
                return index
        return None

    def is_alone(self, unit: Unit) -> bool:
        """Whether somebody ended it without asking: the only units that may differ from the decision."""
        if unit in self.managers[unit.branch - 1].alone:
            return True
        return any(unit == one for one, _ in self.journal.visible.resolved)


# --- steps ------------------------------------------------------------------------------------------------------


class Kind(Enum):
    PROGRESS = auto()
    """Happens by itself, sooner or later."""
    FAULT = auto()
    """May happen, and need not."""
    RECOVERY = auto()
    """A process decides to look for what is left."""


Step = Callable[..., Any]
F = TypeVar("F", bound=Step)
TEXTS: dict[str, str] = {}
KINDS: dict[str, Kind] = {}
STEPS: dict[str, Step] = {}


def step(text: str, kind: Kind = Kind.PROGRESS) -> Callable[[F], F]:
    """Register a step. In the text, {0}, {1}, ... are its arguments after the world."""

    def register(function: F) -> F:
        TEXTS[function.__name__], KINDS[function.__name__], STEPS[function.__name__] = text, kind, function
        return function

    return register


def words(argument: Any) -> str:
    """An argument of a step, as a transcript says it."""
    if isinstance(argument, Message):
        return f"{argument.what.name.lower().replace('_', '-')} to {argument.unit}"
    if isinstance(argument, Append):
        return f"{type(argument.record).__name__} {try_of(argument.record)}"
    if isinstance(argument, Choice | Answer | What):
        return argument.name.lower().replace("_", "-")
    return str(argument)


def text_of(name: str, arguments: tuple[Any, ...]) -> str:
    return TEXTS[name].format(*map(words, arguments), rm=_manager_name(arguments))


def _manager_name(arguments: tuple[Any, ...]) -> str:
    for one in arguments:
        if isinstance(one, Unit):
            return MANAGERS[one.branch - 1]
        if isinstance(one, Message):
            return MANAGERS[one.unit.branch - 1]
    numbers = [one for one in arguments if isinstance(one, int)]
    return MANAGERS[numbers[-1]] if numbers and numbers[-1] < len(MANAGERS) else ""
