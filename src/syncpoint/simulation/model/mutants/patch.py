"""What a mutant is, and how it is patched in: a method, an entry of a table, or a function wherever it was imported.

Not for: the mutants themselves.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Undo = Callable[[], None]
Patch = Callable[[], Undo]


@dataclass(frozen=True)
class Mutant:
    """One deliberate bug."""

    name: str
    rule: str
    """What is broken, as the design says it."""
    patch: Patch
    from_the_design: bool = False
    scope: str = ""
    """The scope in which it is seen soonest, if it takes a particular one."""

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        undo = self.patch()
        try:
            yield
        finally:
            undo()


def method(owner: type, name: str, mutate: Callable[[Any], Any]) -> Patch:
    """Replace a method by what `mutate` makes of the original."""

    def patch() -> Undo:
        original = owner.__dict__[name]
        setattr(owner, name, mutate(original))
        return lambda: setattr(owner, name, original)

    return patch


def entry(table: dict[Any, Any], key: Any, value: Any) -> Patch:
    """Replace an entry of a transition table."""

    def patch() -> Undo:
        original = table[key]
        table[key] = value

        def undo() -> None:
            table[key] = original

        return undo

    return patch


def function(module: Any, name: str, mutate: Callable[[Any], Any]) -> Patch:
    """Replace a function in every module of the package that has it."""

    def patch() -> Undo:
        original = getattr(module, name)
        mutated = mutate(original)
        holders = [
            one
            for key, one in list(sys.modules.items())
            if key.startswith("syncpoint.") and getattr(one, name, None) is original
        ]
        for one in holders:
            setattr(one, name, mutated)

        def undo() -> None:
            for one in holders:
                setattr(one, name, original)

        return undo

    return patch


def instead(replacement: Any) -> Callable[[Any], Any]:
    return lambda original: replacement
