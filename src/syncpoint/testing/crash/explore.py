"""Try a story at its points: list them in a run without harm, then strike at each in a process of its own.

    prepare -> [child: open, transfer, close; something happens at the point] -> [child: recover] -> check

After each, nothing may be left in doubt, unreachable, or decided by somebody alone; then the story's own check looks
at the databases. Every point is tried, whatever fails. Not for: pytest (plugin.py).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from syncpoint.errors import ConfigurationError
from syncpoint.manager.aio import AsyncTransactionManager
from syncpoint.testing.crash.child import Ended, in_child
from syncpoint.testing.crash.lives import Life, can_lose, recover
from syncpoint.testing.crash.report import CrashReport, Failure
from syncpoint.testing.crash.stops import Stop
from syncpoint.testing.crash.story import Mode, Points, Shot, Story, every_point

TRIES_MAX = 2
"""How often a point is tried that the run did not reach: steps side by side go another way now and then."""
RECOVERIES_MAX = 3
"""A server may do what a dead client had asked for after recovery has looked (O42): the next pass finds it."""

_MARK = {True: "committed", False: "aborted", None: "nobody was told"}


def explore(
    story: Story,
    points: Points = every_point,
    modes: Sequence[Mode | str] = (Mode.KILL,),
    tell: Callable[[str], object] = lambda line: None,
) -> CrashReport:
    """Try `story` at its points in every mode; returns what came of it, failures included.

    `tell` is called with a line for each point as it is tried. Raises ConfigurationError when the story cannot be
    tried so, ValueError when `points` names one that is not there.
    """
    return _Exploration(story, tell).run(points, [Mode(mode) for mode in modes])


class _Exploration:
    def __init__(self, story: Story, tell: Callable[[str], object]) -> None:
        self._story = story
        self._tell = tell
        self._report = CrashReport()
        self._is_async = _check(story)

    def run(self, points: Points, modes: Sequence[Mode]) -> CrashReport:
        began = time.monotonic()
        recorded = self._play(None)
        if recorded is not None:  # the first run may have made what later ones find: Syncpoint's schema
            recorded = self._play(None)
        if recorded is not None:
            shots = [shot for mode in modes for shot in self._shots(mode, recorded)]
            self._report.points = len(shots)
            for shot in points.choose(shots):
                self._try(shot)
        self._report.seconds = time.monotonic() - began
        return self._report

    def _shots(self, mode: Mode, recorded: Ended) -> list[Shot]:
        """The points of the run at which this can happen."""
        if mode is Mode.CANCEL and not self._is_async:
            self._report.left_out[mode] = "the manager is a blocking one: there is no task to be cancelled"
            return []
        opened, returned = recorded.last("opened"), recorded.last("returned")
        shots = []
        for number, (fields, what) in enumerate(recorded.last("stops")):
            stop, is_inside = Stop(*fields), opened <= number < returned
            if stop.in_background or (mode is Mode.CANCEL and not is_inside):
                continue
            if mode is Mode.KILL_AFTER and stop.kind == "Gather":
                continue
            if mode is Mode.LOST_REPLY and not can_lose(stop):
                continue
            shots.append(Shot(mode, stop, what))
        if mode is Mode.LOST_REPLY and not shots:
            self._report.left_out[mode] = "no step goes to a database whose replies can be lost (PostgreSQL, MariaDB)"
        return shots

    def _try(self, shot: Shot) -> None:
        for _ in range(TRIES_MAX):
            if self._play(shot) is not None:
                return
        self._report.missed.append(shot.key)
        self._tell(f"not reached: {shot}")

    def _play(self, shot: Shot | None) -> Ended | None:
        """One run, recovered and checked. None: it did not come to the point, or the run without harm failed."""
        self._story.prepare()
        ended = in_child(
            lambda channel: Life(self._story, shot, channel).live(), seconds_max=self._story.run_seconds_max
        )
        told, why = ended.last("told"), self._why(shot, ended)
        if not why:
            why = self._settle()
        if not why:
            why = _raised_by(partial(self._story.check, told))
        was_hit = ended.killed if shot and shot.mode in (Mode.KILL, Mode.KILL_AFTER) else bool(ended.last("struck"))
        if why:
            self._report.failures.append(Failure(shot, why, ended.last("at") or "", self._told(told, ended)))
        if shot is None:
            return None if why else ended
        if was_hit or why:
            self._count(shot, told)
            return ended
        return None

    def _count(self, shot: Shot, told: bool | None) -> None:
        self._report.hit.append(shot.key)
        self._report.modes[shot.mode] += 1
        self._report.outcomes[_MARK[told]] += 1
        self._tell(f"{shot} -> {_MARK[told]}")

    def _told(self, told: bool | None, ended: Ended) -> str:
        why = ended.last("why")
        return _MARK[told] + (f" ({why})" if why else "")

    def _why(self, shot: Shot | None, ended: Ended) -> str:
        """What went wrong in the run that was not meant to."""
        error = ended.last("error")
        if error is not None:
            return f"the run itself failed: {error}\n{ended.noise}"
        if not ended.killed and ended.last("stops") is None:
            limit = self._story.run_seconds_max
            return f"the process ended without a word, or hung for more than {limit:g} s:\n{ended.noise}"
        if shot is None and ended.last("told") is not True:
            return f"the transfer fails without any fault: {ended.last('why')}\n{ended.noise}"
        return ""

    def _settle(self) -> str:
        """Recover until nothing is left. Returns what is, for people."""
        why = ""
        for _ in range(RECOVERIES_MAX):
            limit = self._story.recovery_seconds_max + self._story.run_seconds_max
            ended = in_child(lambda channel: recover(self._story, channel), seconds_max=limit)
            if ended.last("error") is not None:
                return f"recovery failed: {ended.last('error')}\n{ended.noise}"
            if ended.last("heuristics"):
                return f"somebody decided a branch alone: {'; '.join(ended.last('heuristics'))}"
            left = (ended.last("left") or []) + (ended.last("unreachable") or [])
            if not left:
                return ""
            why = f"left in doubt after recovery: {'; '.join(left)}"
        return why


def _check(story: Story) -> bool:
    """Whether the manager is asynchronous. Raises ConfigurationError on one that cannot be tried."""
    manager: Any = story.manager()
    for name, spec in manager._plan.resources.items():
        url = spec if isinstance(spec, str) else str(spec.get("url", ""))
        if url.startswith("memory:"):
            raise ConfigurationError(
                f"The resource {name!r} lives in the memory of its process: nothing of it is left when that dies.",
                advice="Try the transaction with a database that outlives it, for example sqlite:///….",
            )
    return isinstance(manager, AsyncTransactionManager)


def _raised_by(check: Callable[[], object]) -> str:
    """What a check found wrong, with the line that did; empty when nothing."""
    try:
        check()
    except AssertionError as error:
        return f"the check failed: {_line_of(error)}{error or 'assertion failed'}"
    except Exception as error:
        return f"the check raised: {_line_of(error)}{type(error).__name__}: {error}"
    return ""


def _line_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
