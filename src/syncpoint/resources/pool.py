"""Sessions of one resource, and the turn to write to a single-writer resource: first come, first served.

A `Pool` never hands out a connection with a branch on it (DATABASES PostgreSQL 3, MariaDB 2) nor one whose
state is unknown. A waiter that is cancelled, interrupted or too late passes on what it was given meanwhile,
so no slot is ever lost. Not for: retrying, or knowing why a session is broken (resources/).

Slots: idle + busy + opening + leaving never exceed `size_max`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from syncpoint.errors import ConfigurationError, ManagerClosed, ResourceUnavailable
from syncpoint.ports import Clock, Runtime, Signal
from syncpoint.resources.base import Resource, Session
from syncpoint.steps import Script, Wait

POOL_SIZE_MAX = 32
IDLE_S_MAX = 300.0

G = TypeVar("G")

_abandoned: list[object] = []
"""Sessions of parents of this forked process: kept, so that no destructor writes to their connections."""


class Waiter(Generic[G]):
    """One script in a `Line`, and what it was given."""

    __slots__ = ("grant", "label", "signal")

    def __init__(self, signal: Signal, label: str) -> None:
        self.signal = signal
        self.label = label
        self.grant: G | None = None


class Line(Generic[G]):
    """Scripts that wait for something, first come, first served."""

    def __init__(self, runtime: Runtime) -> None:
        self.mutex = runtime.mutex()
        """Guards the line and whatever its owner keeps with it."""
        self._runtime = runtime
        self._waiters: deque[Waiter[G]] = deque()

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self, label: str = "") -> Waiter[G]:
        """Stand in line; `label` says for people who waits. With the mutex held."""
        waiter: Waiter[G] = Waiter(self._runtime.signal(), label)
        self._waiters.append(waiter)
        return waiter

    def hand(self, grant: G) -> str:
        """Give it to the first in line, there must be one; returns its label. With the mutex held."""
        waiter = self._waiters.popleft()
        waiter.grant = grant
        waiter.signal.set()
        return waiter.label

    def send_away(self) -> None:
        """Let all go without a grant. With the mutex held."""
        while self._waiters:
            self._waiters.popleft().signal.set()

    def wait(self, waiter: Waiter[G], seconds: float, give_back: Callable[[G], None]) -> Script[G | None]:
        """Wait for the grant; None: time is over, or sent away. An error of the wait gives a grant back."""
        try:
            yield Wait(waiter.signal, seconds)
            return self._leave(waiter)
        except BaseException:
            grant = self._leave(waiter)
            if grant is not None:
                give_back(grant)
            raise

    def _leave(self, waiter: Waiter[G]) -> G | None:
        with self.mutex:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            grant, waiter.grant = waiter.grant, None
            return grant


class Sessions(Protocol):
    """Where a branch's session comes from and goes to: a `Pool`, or connections that somebody else keeps and lends."""

    def acquire(self, deadline_monotonic: float) -> Script[Session]:
        """A session without a branch. Raises ResourceUnavailable."""

    def release(self, session: Session) -> Script[None]:
        """Its branch has ended in order, unless `session.broken`. Never raises: the outcome is not to depend on it."""

    def discard(self, session: Session) -> Script[None]:
        """Its state is unknown: it must be closed, and never used again. Never raises."""

    def abandon(self) -> None:
        """In a forked child: see that the parent's connections are never written to. No IO; never raises."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one more session, in place of an idle one that must be closed first, if any."""

    replaces: Session | None = None


class Pool:
    """Sessions of one resource. All methods that wait are scripts.

    Parameters: `size_max` sessions at most (option `pool_size_max`); an idle session is closed after about
    `idle_s_max` seconds. Raises ConfigurationError when `size_max` is below 1.
    """

    def __init__(
        self,
        resource: Resource,
        runtime: Runtime,
        clock: Clock,
        *,
        size_max: int = POOL_SIZE_MAX,
        idle_s_max: float = IDLE_S_MAX,
    ) -> None:
        if size_max < 1:
            raise ConfigurationError(
                f"The resource {resource.name!r} has pool_size_max = {size_max}.", advice="It must be at least 1."
            )
        self.resource = resource
        self.size_max = size_max
        self.idle_s_max = idle_s_max
        self._runtime = runtime
        self._clock = clock
        self._closed = False
        self._forget_sessions()

    def __repr__(self) -> str:
        waiting = f", {len(self._line)} waiting" if self._line else ""
        closed = ", closed" if self._closed else ""
        busy = self._size() - len(self._idle)
        return f"<Pool {self.resource.name} {len(self._idle)} idle {busy} busy of {self.size_max}{waiting}{closed}>"

    # --- taking --------------------------------------------------------------------------------------

    def acquire(self, deadline_monotonic: float) -> Script[Session]:
        """An idle session, or a new one, or the first that comes free before the deadline (the clock's seconds).

        Raises ResourceUnavailable (none came free, or the database cannot be reached), ManagerClosed.
        """
        grant = self._take_now()
        if isinstance(grant, Waiter):
            grant = yield from self._take_later(grant, deadline_monotonic)
        if isinstance(grant, Session):
            return grant
        return (yield from self._open(grant))

    def _take_now(self) -> Session | Slot | Waiter[Session | Slot]:
        with self._line.mutex:
            self._raise_if_closed()
            if self._line:
                return self._line.join()  # others were here first
            if self._idle:
                session, since = self._idle.pop()
                if self._is_clean(session) and not self._is_stale(since):
                    self._busy[id(session)] = session
                    return session
                self._opening += 1
                return Slot(replaces=session)
            if self._size() < self.size_max:
                self._opening += 1
                return Slot()
            return self._line.join()

    def _take_later(self, waiter: Waiter[Session | Slot], deadline_monotonic: float) -> Script[Session | Slot]:
        seconds = max(0.0, deadline_monotonic - self._clock.monotonic())
        grant = yield from self._line.wait(waiter, seconds, self._give_back)
        if grant is None:
            self._raise_if_closed()
            raise ResourceUnavailable(
                f"No connection to the resource {self.resource.name!r} came free in time: the pool is exhausted, "
                f"all {self.size_max} connections are in use and {len(self._line)} others wait.",
                advice=f"Nothing was done there. Run fewer transactions at once, or raise pool_size_max "
                f"(now {self.size_max}) of {self.resource.name!r}.",
            )
        return grant

    def _open(self, slot: Slot) -> Script[Session]:
        try:
            if slot.replaces is not None:
                yield from self.resource.close(slot.replaces)
            session = yield from self.resource.open()
        except BaseException:
            with self._line.mutex:
                self._opening -= 1
                self._pass_on_slot()
            raise
        session.opened_at = self._clock.monotonic()
        with self._line.mutex:
            self._opening -= 1
            self._busy[id(session)] = session
        return session

    # --- giving back ---------------------------------------------------------------------------------

    def release(self, session: Session) -> Script[None]:
        """Give a session back. One with a branch on it, broken, or no longer usable is closed instead.

        A session this pool has forgotten (`abandon`, or released before) is left alone.
        """
        with self._line.mutex:
            if self._busy.pop(id(session), None) is None:
                return
            doomed = self._keep(session)
            if doomed is not None:
                self._leaving += 1
        if doomed is not None:
            yield from self._close(doomed)

    def discard(self, session: Session) -> Script[None]:
        """Close a session and free its slot, whatever its state. A forgotten one is left alone."""
        with self._line.mutex:
            if self._busy.pop(id(session), None) is None:
                return
            self._leaving += 1
        yield from self._close(session)

    def _keep(self, session: Session) -> Session | None:
        """Hand it on or keep it idle; returns the session that is to be closed: this one, a stale one, or none."""
        if self._closed or not self._is_clean(session):
            return session
        if self._line:
            self._busy[id(session)] = session
            self._line.hand(session)
            return None
        self._idle.append((session, self._clock.monotonic()))
        oldest, since = self._idle[0]
        if not self._is_stale(since):
            return None
        self._idle.popleft()
        return oldest

    def _close(self, session: Session) -> Script[None]:
        try:
            yield from self.resource.close(session)
        finally:
            with self._line.mutex:
                self._leaving -= 1
                self._pass_on_slot()

    def _give_back(self, grant: Session | Slot) -> None:
        """From a waiter that could not use it any more. Never waits."""
        with self._line.mutex:
            if isinstance(grant, Slot):
                self._opening -= 1
                self._pass_on_slot()
            elif self._line:
                self._line.hand(grant)
            else:
                del self._busy[id(grant)]
                self._idle.append((grant, self._clock.monotonic()))

    def _pass_on_slot(self) -> None:
        if self._line and self._size() < self.size_max:
            self._opening += 1
            self._line.hand(Slot())

    # --- ending --------------------------------------------------------------------------------------

    def close(self) -> Script[None]:
        """Close what is idle and send waiters away; a session in use is closed when it is released.

        Later calls of `acquire` raise ManagerClosed.
        """
        with self._line.mutex:
            self._closed = True
            self._line.send_away()
        yield from self.close_idle()

    def close_idle(self) -> Script[None]:
        """Close what is idle now, for example because the server was seen to have restarted."""
        while True:
            with self._line.mutex:
                if not self._idle:
                    return
                session, _ = self._idle.pop()
                self._leaving += 1
            yield from self._close(session)

    def abandon(self) -> None:
        """In a forked child: forget every session, those in use too, without any IO; then usable anew."""
        # No mutex: its holder may be a thread that does not exist in this process.
        sessions = [session for session, _ in self._idle] + list(self._busy.values())
        _abandoned.append((sessions, self._line))
        for session in sessions:
            self.resource.abandon(session)
        self._forget_sessions()

    def _forget_sessions(self) -> None:
        self._line: Line[Session | Slot] = Line(self._runtime)
        self._idle: deque[tuple[Session, float]] = deque()
        """(session, since when by the clock), the longest idle first; the last is used first."""
        self._busy: dict[int, Session] = {}
        self._opening = 0
        self._leaving = 0

    # --- looking -------------------------------------------------------------------------------------

    def _size(self) -> int:
        size = len(self._idle) + len(self._busy) + self._opening + self._leaving
        assert 0 <= size <= self.size_max, f"{self.resource.name}: {size} sessions of {self.size_max}"
        return size

    def _is_clean(self, session: Session) -> bool:
        return session.identifier is None and not session.broken and self.resource.is_usable(session)

    def _is_stale(self, since: float) -> bool:
        return self._clock.monotonic() - since > self.idle_s_max

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ManagerClosed("The manager is closed.", advice="Open a new one to go on.")


class Turn:
    """The turn to write to a resource with a single writer (SQLite): one holder at a time, first come, first served.

    Waiting here costs no thread and starves nobody, unlike waiting for the file's lock (DESIGN section 3).
    """

    def __init__(self, runtime: Runtime, clock: Clock, name: str = "") -> None:
        self.name = name
        self.holder: str | None = None
        """For people: who holds the turn."""
        self._runtime = runtime
        self._clock = clock
        self._closed = False
        self._line: Line[bool] = Line(runtime)

    def __repr__(self) -> str:
        held = f"held by {self.holder}" if self.holder is not None else "free"
        waiting = f", {len(self._line)} waiting" if self._line else ""
        return f"<Turn {self.name} {held}{waiting}>"

    def acquire(self, deadline_monotonic: float, holder: str = "another transaction") -> Script[None]:
        """Wait for the turn until the deadline. `holder` says for people who will hold it.

        Raises ResourceUnavailable naming who holds it, ManagerClosed.
        """
        with self._line.mutex:
            self._raise_if_closed()
            if self.holder is None:
                self.holder = holder
                return
            waiter = self._line.join(holder)
        seconds = max(0.0, deadline_monotonic - self._clock.monotonic())
        grant = yield from self._line.wait(waiter, seconds, lambda _: self.release())
        if grant is None:
            self._raise_if_closed()
            raise ResourceUnavailable(
                f"The turn to write to the resource {self.name!r} did not come in time: "
                f"{self.holder or 'nobody'} held it and {len(self._line)} others wait.",
                advice="Nothing was done there. Keep transactions that write to it short, or raise their timeout.",
            )

    def release(self) -> None:
        """Give the turn to the next in line. Only for who holds it. Never waits."""
        with self._line.mutex:
            self.holder = self._line.hand(True) if self._line else None

    def close(self) -> None:
        """Send waiters away; later ones get ManagerClosed. Whoever holds it still gives it back."""
        with self._line.mutex:
            self._closed = True
            self._line.send_away()

    def abandon(self) -> None:
        """In a forked child: nobody holds it, nobody waits."""
        _abandoned.append(self._line)
        self._line = Line(self._runtime)
        self.holder = None

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ManagerClosed("The manager is closed.", advice="Open a new one to go on.")
