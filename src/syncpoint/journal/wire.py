"""Sending packets to the journal's database: a few sessions, and one word for each way in which it can fail.

    JournalUnavailable    nothing was done
    JournalUncertain      the reply was lost: whether it was done is unknown

Not for: what is sent (statements.py), or when (database.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from syncpoint.errors import ConnectionLost, JournalUnavailable, JournalUncertain, ResourceUnavailable
from syncpoint.journal.store import Said, Store, Trouble, in_one_line
from syncpoint.ports import Clock, Runtime
from syncpoint.resources.base import Session
from syncpoint.resources.pool import Pool, Turn
from syncpoint.steps import Script, Sleep

REACH_S_MAX = 10.0
"""How long to wait for a connection to the journal, and to go on repeating a packet whose reply was lost."""
FRESH_TRIES = 3
"""How often a packet that may be sent twice is sent on a fresh connection."""
BUSY_TRIES = 5
BUSY_PAUSE_S = 0.05


class Wire:
    """The sessions of one journal with its database. Not opened until the first packet."""

    def __init__(self, store: Store, runtime: Runtime, clock: Clock, sessions_max: int) -> None:
        self.store = store
        self._clock = clock
        self._pool = Pool(store.resource, runtime, clock, size_max=sessions_max)

    def __repr__(self) -> str:
        return f"<Wire {self._pool!r}>"

    def close(self) -> Script[None]:
        yield from self._pool.close()

    def abandon(self) -> None:
        """In a forked child: forget the parent's sessions without touching them."""
        self._pool.abandon()

    def acquire(self, what: str) -> Script[Session]:
        """A session, for `what`. Raises JournalUnavailable, SetupRefused, ManagerClosed."""
        try:
            return (yield from self._pool.acquire(self._clock.monotonic() + REACH_S_MAX))
        except ResourceUnavailable as error:
            exhausted = "pool is exhausted" in error.message
            raise JournalUnavailable(
                f"The journal cannot be reached to {what}: {error.message}",
                advice="Run fewer transactions at once, or raise sessions_max in the journal's URL."
                if exhausted
                else error.advice,
            ) from error

    def release(self, session: Session) -> Script[None]:
        yield from self._pool.release(session)

    def run(self, statements: Sequence[str], what: str, *, repeat: bool, durable: bool = True) -> Script[Said]:
        """One packet; what the database said, also if it was no. Raises JournalUnavailable, JournalUncertain.

        `repeat`: it may be sent twice, so that a connection that has died is mostly no matter.
        """
        tries_left = FRESH_TRIES if repeat else 1
        deadline = self._clock.monotonic() + REACH_S_MAX
        while True:
            asked_at = self._clock.monotonic()
            session = yield from self.acquire(what)
            try:
                return (yield from self.store.run(session, statements, f"journal: {what}", durable=durable))
            except ConnectionLost as error:
                session.broken = True
                if session.opened_at >= asked_at:
                    tries_left -= 1
                if repeat and tries_left and self._clock.monotonic() < deadline:
                    continue
                raise JournalUncertain(
                    f"The journal did not answer when asked to {what}: {error.message}",
                    advice="Whether it was done is found out.",
                ) from error
            except BaseException:
                session.broken = True
                raise
            finally:
                yield from self.release(session)

    def ask(self, statements: Sequence[str], what: str, *, durable: bool = True) -> Script[Said]:
        """One packet that may be sent twice and must be done. Who is in somebody's way for a moment tries again.

        Raises JournalUnavailable, JournalUncertain.
        """
        return (yield from self.insist(statements, what, repeat=True, durable=durable, check=True))

    def insist(
        self, statements: Sequence[str], what: str, *, repeat: bool, durable: bool = True, check: bool = False
    ) -> Script[Said]:
        """`run`, again and again while the packet waits for others' locks, or in a circle with them; `check`s it."""
        for number in range(BUSY_TRIES):
            if number:
                yield Sleep(BUSY_PAUSE_S)
            said: Said = yield from self.run(statements, what, repeat=repeat, durable=durable)
            if said.trouble is not Trouble.BUSY:
                break
        return self.check(said) if check else said

    def check(self, said: Said) -> Said:
        """Raises JournalUnavailable for a packet that did nothing."""
        if said.trouble is Trouble.NONE:
            return said
        raise JournalUnavailable(
            f"The journal's database ({self.store.resource.safe_url}) refused: {in_one_line(said.error)}.",
            advice="Nothing was written. Try again; if it stays so, see `syncpoint doctor`.",
        ) from said.error


def take_turn(turn: Turn, clock: Clock) -> Script[None]:
    """Wait for a turn of the journal's. Raises JournalUnavailable."""
    try:
        yield from turn.acquire(clock.monotonic() + REACH_S_MAX)
    except ResourceUnavailable as error:
        raise JournalUnavailable(error.message, advice="Nothing was written. Try again.") from error
