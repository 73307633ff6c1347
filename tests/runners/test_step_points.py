"""Observers under both runners: the innermost point, before a step, and after it with its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.points import StepPoint
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Done, Failed, Gather, Local, Script, Step

HERE = str(Path(__file__))


class Adapter:
    """Something with scripts inside scripts."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def outer(self) -> Script[str]:
        try:
            return (yield from self.inner())
        except ConnectionError as error:
            return f"lost: {error}"

    def inner(self) -> Script[str]:
        answer: str = yield Local(self.commit, "COMMIT")
        return answer

    def commit(self) -> str:
        self.done.append("committed")
        return "fine"

    def both(self) -> Script[Any]:
        return (yield Gather([self.outer(), self.outer()], "both"))


def in_mode(mode: str, body: Callable[[Any, Callable[[Script[Any]], Any]], None]) -> None:
    if mode == "threads":
        runner = ThreadRunner()
        body(runner, runner.run)
        runner.close()
    else:
        with asyncio.Runner() as loop:
            async_runner = AsyncRunner()
            body(async_runner, lambda script: loop.run(async_runner.run(script)))
            loop.run(async_runner.close())


MODES = pytest.mark.parametrize("mode", ["threads", "asyncio"])


@MODES
def test_a_point_names_the_innermost_yield(mode: str) -> None:
    def body(runner: Any, drive: Callable[[Script[Any]], Any]) -> None:
        points: list[tuple[StepPoint, Step]] = []
        runner.observer = lambda point, step: points.append((point, step))
        drive(Adapter().both())
        (both, gather), (first, local), (second, _) = points
        line = Adapter.inner.__code__.co_firstlineno + 1
        way = ((HERE, Adapter.outer.__code__.co_firstlineno + 2),)
        assert first == second == StepPoint(HERE, "Adapter.inner", line, way)
        assert str(first) == f"{HERE}:{line} Adapter.inner"
        assert both.function == "Adapter.both"
        assert isinstance(gather, Gather)
        assert isinstance(local, Local)
        runner.observer = None
        drive(Adapter().outer())
        assert len(points) == 3

    in_mode(mode, body)


@MODES
def test_an_observer_can_lose_the_request_or_the_reply(mode: str) -> None:
    def body(runner: Any, drive: Callable[[Script[Any]], Any]) -> None:
        def lose_request(point: StepPoint, step: Step) -> None:
            raise ConnectionError("the request")

        def lose_reply(point: StepPoint, step: Step, outcome: Done[Any] | Failed) -> None:
            assert outcome == Done("fine")
            raise ConnectionError("the reply")

        adapter = Adapter()
        runner.observer = lose_request
        assert drive(adapter.outer()) == "lost: the request"
        assert adapter.done == []
        runner.observer = None
        runner.observer_after = lose_reply
        assert drive(adapter.outer()) == "lost: the reply"
        assert adapter.done == ["committed"]

    in_mode(mode, body)


@MODES
def test_an_observer_can_replace_an_outcome(mode: str) -> None:
    def body(runner: Any, drive: Callable[[Script[Any]], Any]) -> None:
        adapter = Adapter()
        runner.observer_after = lambda point, step, outcome: Done("another")
        assert drive(adapter.outer()) == "another"
        runner.observer_after = lambda point, step, outcome: Failed(ConnectionError("replaced"))
        assert drive(adapter.outer()) == "lost: replaced"
        runner.observer_after = lambda point, step, outcome: None
        assert drive(adapter.outer()) == "fine"

        def fails() -> Script[str]:
            return (yield Local(lambda: 1 // 0, "boom"))

        seen: list[Any] = []
        runner.observer_after = lambda point, step, outcome: seen.append(outcome)
        with pytest.raises(ZeroDivisionError):
            drive(fails())
        assert isinstance(seen[0], Failed)

    in_mode(mode, body)
