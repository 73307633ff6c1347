"""A process: something that can be killed, stopped and woken, and whose clock is wrong.

A killed process runs no more code: what it was waiting for never comes, and its scripts are kept, not dropped, until
the seed ends. A paused one (SIGSTOP) gets everything late, all at once; its clock goes on. Not for: what it does.
"""

from __future__ import annotations

from collections.abc import Callable

from syncpoint.ports import Clock
from syncpoint.simulation.world import Timer, World


class SimClock(Clock):
    """A clock with an offset, a rate, and steps of the wall clock."""

    def __init__(self, world: World, offset_s: float) -> None:
        self._world = world
        self._since_s = world.now_s
        self._shown_s = offset_s
        self.rate = 1.0
        self.wall_step_s = 0.0

    def monotonic(self) -> float:
        return self._shown_s + (self._world.now_s - self._since_s) * self.rate

    def wall_ms(self) -> int:
        return int((1_700_000_000 + self._world.now_s + self.wall_step_s) * 1000)

    def drift(self, rate: float) -> None:
        """From now on it runs at this rate; 1 is right."""
        self._shown_s, self._since_s, self.rate = self.monotonic(), self._world.now_s, rate


class Process:
    """One process. `name` is unique among all that ever lived in this world."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.paused = False
        self.clock = SimClock(world, offset_s=world.stream(f"{name} clock").uniform(0, 1e6))
        self.on_death: list[Callable[[], None]] = []
        """Called once, however it dies: its connections are cut."""
        self.moments = 0
        """How often its code has run: between any two steps of its scripts."""
        self.dies_at: int | None = None
        """At which of these moments it dies, before its code runs."""
        self._late: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<Process {self.name} {'paused' if self.paused else 'alive' if self.alive else 'dead'}>"

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call it after so many seconds of this process's own clock, if it lives then; once it is awake."""
        return self.world.after(seconds / self.clock.rate, lambda: self.now(call))

    def now(self, call: Callable[[], None]) -> None:
        """Something has come for it: at once, on waking, or never."""
        if not self.alive or self.world.is_over:
            return
        if self.paused:
            self._late.append(call)
            return
        self.moments += 1
        if self.moments == self.dies_at:
            self.kill(f"at its moment {self.moments}")
            return
        before, self.world.current = self.world.current, self
        try:
            call()
        finally:
            self.world.current = before

    def kill(self, why: str) -> None:
        """SIGKILL."""
        if not self.alive:
            return
        self.world.note(self.name, f"dies: {why}")
        self.alive = False
        self._late.clear()
        for call in self.on_death:
            call()

    def pause(self) -> None:
        """SIGSTOP."""
        if self.alive and not self.paused:
            self.world.note(self.name, "is stopped")
            self.paused = True

    def wake(self) -> None:
        """SIGCONT."""
        if not self.alive or not self.paused:
            return
        self.world.note(self.name, "goes on")
        self.paused = False
        late, self._late = self._late, []
        for call in late:
            self.now(call)
