"""What users hold of a work at a resource manager of their own: its methods, for as long as it may work.

The author's object is behind it. After the vote, or the end, every call is refused, so that an author need not think
of it. Under asyncio a call returns an awaitable, and runs in a thread.

Not for: operators such as `work[key]`; give the work's object methods.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from syncpoint.errors import TransactionEnded
from syncpoint.resources.memory import Runner
from syncpoint.steps import Blocking, Script

__all__ = ["OwnWork"]


class OwnWork:
    """See the file's opening."""

    __slots__ = ("_ended", "_marks", "_name", "_runtime", "_target")

    def __init__(self, target: Any, name: str, runtime: Runner | None) -> None:
        self._target = target
        self._name = name
        self._runtime = runtime
        self._ended = False
        self._marks: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<work at {self._name}{' ended' if self._ended else ''}: {self._target!r}>"

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(f"{attribute} is not for users of the resource {self._name!r}")
        self._require_working(attribute)
        value = getattr(self._target, attribute)
        return self._guarded(value, attribute) if callable(value) else value

    def _guarded(self, method: Callable[..., Any], attribute: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            def work() -> Any:
                self._require_working(attribute)
                return method(*args, **kwargs)

            return work() if self._runtime is None else self._runtime.run(_script(work, attribute))

        return call

    def _require_working(self, attribute: str) -> None:
        if self._ended:
            raise TransactionEnded(
                f"{attribute} was called on the work at the resource {self._name!r} after its transaction had voted "
                "or ended; nothing was done.",
                advice="Work inside the transaction's block, on what `connect` returns there.",
            )


def end_work(work: OwnWork) -> None:
    """From now on every call is refused."""
    work._ended = True


def target_of(work: OwnWork) -> Any:
    """The author's own object."""
    return work._target


def marks_of(work: OwnWork) -> dict[str, Any]:
    """The author's marks of this work's savepoints, by name."""
    return work._marks


def _script(work: Callable[[], Any], attribute: str) -> Script[Any]:
    result = yield Blocking(work, attribute)
    return result
