"""A mutant: one deliberate bug, patched in by name while it is tried. No switches stand in the code itself.

Not for: the mutants (mutants*.py), or trying them (catching.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from syncpoint.simulation.faults import KINDS


@dataclass(frozen=True, slots=True)
class Mutant:
    """One deliberate bug."""

    name: str
    rule: str
    """Which rule it breaks, in a few words."""
    where: str
    """The file it stands in, below `syncpoint/`."""
    patch: Callable[[], AbstractContextManager[None]]
    workload: str | None = None
    """Of the simulation, what it is tried with; None: whatever a seed draws."""
    journal: str | None = None
    kinds: tuple[str, ...] = field(default=tuple(KINDS))


@contextmanager
def put(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put `value` in place of an attribute that is there, for a while."""
    before = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
