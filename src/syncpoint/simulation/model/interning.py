"""Small numbers for the parts of a world, so that a state is a short tuple, compared exactly.

Two worlds have the same mark if and only if they behave alike and no invariant can tell them apart.
"""

from __future__ import annotations

from typing import TypeAlias

from syncpoint.simulation.model.world import World

Mark: TypeAlias = tuple[int, ...]


class Interning:
    """One number for each different part seen so far."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}

    def mark(self, world: World, before: World | None = None, mark: Mark = ()) -> Mark:
        """The mark of a world. `before` with its `mark`: a world it came from; what they share is not looked at."""
        old = () if before is None else parts_of(before)
        numbers = []
        for place, part in enumerate(parts_of(world)):
            if before is not None and part is old[place]:
                numbers.append(mark[place])
            else:
                numbers.append(self._number(part))
        return tuple(numbers)

    def _number(self, part: object) -> int:
        key = part.mark() if hasattr(part, "mark") else part
        return self._numbers.setdefault(key, len(self._numbers))


def parts_of(world: World) -> tuple[object, ...]:
    return (*world.processes, *world.managers, world.journal, world.messages, world.appends)
