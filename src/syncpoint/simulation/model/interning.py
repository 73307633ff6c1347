"""Small numbers for the parts of a world, so that a state is a short tuple, compared exactly.

Two worlds have the same mark if and only if they behave alike and no invariant can tell them apart.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

Mark: TypeAlias = tuple[int, ...]


class World(Protocol):
    """Anything that is made of parts."""

    def parts(self) -> tuple[object, ...]: ...


class Interning:
    """One number for each different part seen so far."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}

    def mark(self, world: World, before: World | None = None, mark: Mark = ()) -> Mark:
        """The mark of a world. `before` with its `mark`: a world it came from; what they share is not looked at."""
        old = () if before is None else before.parts()
        numbers = []
        for place, part in enumerate(world.parts()):
            if before is not None and part is old[place]:
                numbers.append(mark[place])
            else:
                numbers.append(self._number(part))
        return tuple(numbers)

    def _number(self, part: object) -> int:
        key = part.mark() if hasattr(part, "mark") else part
        return self._numbers.setdefault(key, len(self._numbers))
