"""What happens inside the processes: the one in which something happens at a point, and the one that recovers.

    live      open a manager, run the transfer, close; strike at the shot on the way
    recover   open another manager, finish what was left, and say what still is

Both run in a child (child.py) and say what they know through its channel. Not for: choosing shots, or judging
(explore.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from syncpoint.errors import HeuristicOutcome, OutcomePending
from syncpoint.manager.aio import AsyncTransactionManager
from syncpoint.runners.points import StepPoint
from syncpoint.steps import Failed, Step
from syncpoint.testing.crash.child import say
from syncpoint.testing.crash.stops import Outcome, Stop, Striker
from syncpoint.testing.crash.story import Mode, Shot, Story
from syncpoint.testing.crash.trap import Place, die, places_of

PROXIED = {"postgresql": "sslmode=disable", "mariadb": "ssl=false"}
"""Servers behind a proxy when replies are lost, and what keeps their connections readable for it."""


class Watcher(Striker):
    """As `Striker`; steps of an adapter that stands outside this package are points too."""

    def places_of(self, point: StepPoint) -> list[Place]:
        places = places_of(point)
        inner = places_of(StepPoint(point.file, point.function, point.line))
        return places if inner else [*places, (point.file, point.line)]


class Life:
    """One run of a story, in a process of its own."""

    def __init__(self, story: Story, shot: Shot | None, channel: socket.socket) -> None:
        self._story = story
        self._shot = shot
        self._channel = channel
        self._proxies: dict[str, list[Any]] = {}
        self._task: asyncio.Task[Any] | None = None
        self._has_told = False
        self._thread = threading.main_thread().ident
        self._watcher = Watcher(shot.stop if shot else None, self._strike, self._lift)

    def live(self) -> None:
        """Run the story to its end, or to its death."""
        manager = calm(self._story.manager())
        if self._shot is not None and self._shot.mode is Mode.LOST_REPLY:
            manager = self._behind_proxies(manager)
        self._watcher.watch(manager._runner)
        if isinstance(manager, AsyncTransactionManager):
            asyncio.run(self._live_async(manager))
        else:
            self._live(manager)
        self._watcher.over = True
        stops = [[dataclasses.astuple(stop), what] for stop, what in self._watcher.stops.items()]
        say(self._channel, struck=self._watcher.has_struck, stops=stops)

    def _live(self, manager: Any) -> None:
        try:
            with manager:
                say(self._channel, opened=len(self._watcher.stops))
                self._story.transfer(manager)
                self._tell(None)
        except Exception as error:
            self._tell(error)

    async def _live_async(self, manager: AsyncTransactionManager) -> None:
        try:
            async with manager:
                say(self._channel, opened=len(self._watcher.stops))
                self._task = asyncio.ensure_future(self._transfer(manager))
                await asyncio.wait({self._task})
                self._tell(asyncio.CancelledError() if self._task.cancelled() else self._task.exception())
        except Exception as error:
            self._tell(error)

    async def _transfer(self, manager: AsyncTransactionManager) -> None:
        result = self._story.transfer(manager)
        if inspect.isawaitable(result):
            await result

    def _tell(self, error: BaseException | None) -> None:
        """What the caller was told. A close that fails comes later, and changes nothing of it."""
        if not self._has_told:
            self._has_told = True
            why = f"{type(error).__name__}: {error}" if error is not None else ""
            say(self._channel, told=told_by(error), why=why, returned=len(self._watcher.stops))

    # --- striking ------------------------------------------------------------------------------------

    def _strike(self, stop: Stop, step: Step | None) -> None:
        assert self._shot is not None
        say(self._channel, at=self._where())
        match self._shot.mode:
            case Mode.KILL:
                die()
            case Mode.CANCEL:
                assert self._task is not None, "it is cancelled in the middle of the transfer only"
                self._task.cancel()
            case Mode.LOST_REPLY:
                for proxy in self._proxies.get(stop.scheme, ()):
                    proxy.lose_reply()

    def _lift(self, stop: Stop, outcome: Outcome) -> Outcome | None:
        assert self._shot is not None
        if self._shot.mode is Mode.KILL_AFTER:
            die()
        if self._shot.mode is not Mode.LOST_REPLY:
            return None
        for proxy in self._proxies.get(stop.scheme, ()):
            proxy.disarm()
        return _lost_in_sqlite(outcome) if stop.scheme == "sqlite" else None

    def _where(self) -> str:
        """The line of the user's own code that is being executed; empty when it is not in it."""
        file = getattr(getattr(inspect.unwrap(self._story.transfer), "__code__", None), "co_filename", "")
        frames = self._task.get_stack() if self._task is not None else []
        if not frames and self._thread is not None:
            frames = _stack(sys._current_frames().get(self._thread))
        lines = [frame.f_lineno for frame in frames if frame.f_code.co_filename == file]
        return f"{Path(file).name}:{lines[-1]}" if lines else ""

    # --- replies that get lost -----------------------------------------------------------------------------

    def _behind_proxies(self, manager: Any) -> Any:
        plan = manager._plan
        resources = {name: self._proxied_spec(spec) for name, spec in plan.resources.items()}
        return refit(manager, resources=resources, journal=self._proxied(plan.journal))

    def _proxied_spec(self, spec: Any) -> Any:
        if isinstance(spec, Mapping):
            return {**spec, "url": self._proxied(str(spec.get("url", "")))}
        return self._proxied(spec)

    def _proxied(self, url: str) -> str:
        from syncpoint.testing.proxy import FaultProxy

        scheme = url.partition(":")[0]
        if scheme not in PROXIED:
            return url
        proxy = FaultProxy(url)
        self._proxies.setdefault(scheme, []).append(proxy)
        through = proxy.url(url)
        option = PROXIED[scheme]
        if f"{option.partition('=')[0]}=" in through:
            return through
        return f"{through}{'&' if '?' in through else '?'}{option}"


def can_lose(stop: Stop) -> bool:
    """Whether there is a reply to be lost at this stop: a server's, or SQLite's own."""
    if stop.scheme in PROXIED:
        return stop.kind == "Call"
    return stop.scheme == "sqlite" and stop.kind == "Blocking" and stop.function != "close"


def told_by(error: BaseException | None) -> bool | None:
    """What the end of a transfer tells its caller: done, not done, or not known."""
    if error is None:
        return True
    unknown = OutcomePending | HeuristicOutcome | asyncio.CancelledError | TimeoutError
    return None if isinstance(error, unknown) else False


def _lost_in_sqlite(outcome: Outcome) -> Failed:
    import apsw

    return Failed(apsw.IOError(f"the reply is lost, as this test wants it; it was {outcome!r}"))


def _stack(frame: FrameType | None) -> list[FrameType]:
    """From the outermost to the innermost."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


# --- managers ----------------------------------------------------------------------------------------------------


def refit(manager: Any, **changes: Any) -> Any:
    """The same manager, not opened yet, by a changed plan."""
    mode = "async" if isinstance(manager, AsyncTransactionManager) else "sync"
    manager._plan = dataclasses.replace(manager._plan, **changes)
    manager._core = manager._plan.build(manager._runner, mode)
    return manager


def calm(manager: Any) -> Any:
    """Without recovery in the background, which would reach its points at another time in every run."""
    return refit(manager, background=False) if manager._plan.background else manager


# --- recovering --------------------------------------------------------------------------------------------------


def recover(story: Story, channel: socket.socket) -> None:
    """Finish what was left, and say what still is."""
    manager = calm(story.manager())
    seconds = story.recovery_seconds_max
    if isinstance(manager, AsyncTransactionManager):
        asyncio.run(_recover_async(manager, seconds, partial(_report, channel)))
    else:
        with manager:
            _report(channel, manager.recover(wait_seconds=seconds), manager.in_doubt())


async def _recover_async(manager: AsyncTransactionManager, seconds: float, report: Callable[..., None]) -> None:
    async with manager:
        report(await manager.recover(wait_seconds=seconds), await manager.in_doubt())


def _report(channel: socket.socket, report: Any, in_doubt: list[Any]) -> None:
    left = {f"{one.branch} at {one.resource}: {one.explanation}" for one in (*report.left, *in_doubt)}
    say(
        channel,
        left=sorted(left),
        unreachable=[f"{name}: {why}" for name, why in report.unreachable.items()],
        heuristics=[f"{one.transaction} at {one.resource}: {one.outcome}" for one in report.heuristics],
    )
