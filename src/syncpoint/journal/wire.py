"""Sending packets to the journal's database: a few sessions, and one word for each way in which it can fail.

    JournalUnavailable    nothing was done
    JournalUncertain      the reply was lost: whether it was done is unknown

Not for: what is sent (statements.py), or when (database.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from syncpoint.errors import ConnectionLost, JournalUnavailable, JournalUncertain, ResourceUnavailable
from syncpoint.journal.store import Said, Store, Trouble
from syncpoint.ports import Clock, Runtime
from syncpoint.resources.base import Session
from syncpoint.resources.pool import Pool
from syncpoint.steps import Script

REACH_S_MAX = 10.0
"""How long to wait for a connection to the journal."""


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

    def acquire(self) -> Script[Session]:
        """A session. Raises ResourceUnavailable, SetupRefused."""
        return (yield from self._pool.acquire(self._clock.monotonic() + REACH_S_MAX))

    def release(self, session: Session) -> Script[None]:
        yield from self._pool.release(session)

    def run(self, statements: Sequence[str], what: str, *, repeat: bool, durable: bool = True) -> Script[Said]:
        """One packet; what the database said, also if it was no. Raises JournalUnavailable, JournalUncertain.

        `repeat`: it may be sent twice, so that an idle connection that has died is no matter.
        """
        while True:
            asked_at = self._clock.monotonic()
            try:
                session = yield from self.acquire()
            except ResourceUnavailable as error:
                raise JournalUnavailable(
                    f"The journal cannot be reached to {what}: {error.message}", advice=error.advice
                ) from error
            try:
                return (yield from self.store.run(session, statements, f"journal: {what}", durable=durable))
            except ConnectionLost as error:
                session.broken = True
                if repeat and session.opened_at < asked_at:
                    continue
                raise JournalUncertain(f"The journal did not answer when asked to {what}: {error.message}") from error
            except BaseException:
                session.broken = True
                raise
            finally:
                yield from self.release(session)

    def ask(self, statements: Sequence[str], what: str, *, durable: bool = True) -> Script[Said]:
        """One packet that may be sent twice and must be done. Raises JournalUnavailable, JournalUncertain."""
        return self.check((yield from self.run(statements, what, repeat=True, durable=durable)))

    def check(self, said: Said) -> Said:
        """Raises JournalUnavailable for a packet that did nothing."""
        if said.trouble is Trouble.NONE:
            return said
        raise JournalUnavailable(
            f"The journal's database ({self.store.resource.safe_url}) refused: {said.error}.",
            advice="Nothing was written. Try again; if it stays so, see `syncpoint doctor`.",
        ) from said.error
