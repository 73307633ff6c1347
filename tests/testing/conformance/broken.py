"""How an adapter that breaks one promise is registered, with the check that must catch it.

Not for: the adapters (broken_branches.py, broken_manners.py), or running them (test_broken.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from syncpoint.resources.base import Resource


@dataclass(frozen=True)
class Broken:
    """An adapter that breaks one promise."""

    adapter: type[Resource]
    check: str
    """The check that must catch it."""
    row: str
    """What its message begins with."""
    arguments: dict[str, Any] = field(default_factory=dict)


BROKEN: list[Broken] = []


def caught_by(check: str, row: str, **arguments: Any) -> Callable[[type[Resource]], type[Resource]]:
    """Register a broken adapter under the check that must catch it."""

    def register(adapter: type[Resource]) -> type[Resource]:
        BROKEN.append(Broken(adapter, check, row, arguments))
        return adapter

    return register
