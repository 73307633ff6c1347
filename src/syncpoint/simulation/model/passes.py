"""What a pass of recovery remembers between its steps. The steps themselves: recovering.py.

    SCANNED --look--> FINISHING --one after the other--> ENDING --> CLEANING

Between any two steps everything else may happen, for as long as it likes; and a pass may stop there for ever.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from syncpoint.protocol.words import Evidence
from syncpoint.records import Commit
from syncpoint.simulation.model.names import Try, Unit


class Stage(Enum):
    SCANNED = auto()
    """It has seen what is prepared."""
    FINISHING = auto()
    """It has seen who lives and what is recorded, and finishes one branch after the other."""
    ENDING = auto()
    """What is done everywhere is to be ended."""
    CLEANING = auto()
    """Evidence that nobody can ask for any more is to be removed."""


class Finish(NamedTuple):
    """One branch that the pass is to finish."""

    unit: Unit
    commit: bool
    has_ended: bool = False
    """Its Commit record has ended already: then its absence means nothing."""


class Pass(NamedTuple):
    """A pass over one resource manager."""

    stage: Stage
    found: frozenset[Unit] = frozenset()
    steps: tuple[Finish, ...] = ()
    missing: Evidence | None = None
    """The first of the steps found nothing to finish, and this evidence."""
    keeper: int = 0
    """This process's incarnation when it looked."""
    decisions: frozenset[Commit] = frozenset()
    """The Commit records that it saw, not ended, and this process's to finish."""
    unfinished: frozenset[Try] = frozenset()
    """What was live or not ended then."""
    ceiling: Try = Try(0, 0)
    """Whatever begins later in this process is not below."""
    droppable: frozenset[Try] = frozenset()
