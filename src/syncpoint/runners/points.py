"""Where in the source a script stands: the name of one point at which a crash can be tried.

Not for: choosing points or crashing; tests do that through a runner's `observer`.
"""

from __future__ import annotations

from types import FrameType, GeneratorType
from typing import Any, NamedTuple

from syncpoint.steps import Script


class StepPoint(NamedTuple):
    """The `yield` a script stands at, in the innermost of the generators that delegate to each other."""

    file: str
    """Absolute path of the source file."""
    function: str
    """Qualified name: `PostgresResource.prepare`."""
    line: int
    """Line of the statement that yields, counted from 1."""
    callers: tuple[tuple[str, int], ...] = ()
    """(file, line) of every `yield from` on the way here, outermost first."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


def point_of(script: Script[Any]) -> StepPoint:
    """The point at which a suspended script stands. It must be a generator that has yielded and not ended."""
    inner = _generator(script)
    callers = []
    while isinstance(inner.gi_yieldfrom, GeneratorType):
        callers.append((inner.gi_code.co_filename, _frame(inner).f_lineno))
        inner = inner.gi_yieldfrom
    frame = _frame(inner)
    return StepPoint(frame.f_code.co_filename, frame.f_code.co_qualname, frame.f_lineno, tuple(callers))


def _frame(generator: GeneratorType[Any, Any, Any]) -> FrameType:
    frame = generator.gi_frame
    assert frame is not None, f"{generator!r} has ended; it stands nowhere"
    return frame


def has_ended(script: Script[Any]) -> bool:
    """Whether the script has returned or raised."""
    return _generator(script).gi_frame is None


def is_running(script: Script[Any]) -> bool:
    """Whether somebody is inside the script right now."""
    return _generator(script).gi_running


def _generator(script: Script[Any]) -> GeneratorType[Any, Any, Any]:
    assert isinstance(script, GeneratorType), f"a script is a generator, not {script!r}"
    return script
