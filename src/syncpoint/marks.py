"""Marks: named places in the code that are reached only sometimes, so that the simulator can tell which it reached.

    sometimes("recovery redid a lost branch")

Costs one test of a global while nobody listens, and decides nothing: taking every mark away changes no behaviour.
A mark's name is a constant text, and stands in one place only (tests/test_project.py). Not for: logging, metrics.
"""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[str], None] | None = None


def sometimes(name: str) -> None:
    """This place was reached. `name` says in a few words what is rare about it."""
    if _listener is not None:
        _listener(name)


def listen(listener: Callable[[str], None] | None) -> None:
    """Tell `listener` of every mark that is reached from now on; None: nobody."""
    global _listener
    _listener = listener
