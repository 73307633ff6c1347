"""What a journal in a database writes later, and what it removes: ends, claims given back, old rows.

Ends may be lost: the record is then ended again. But what has ended must have ended *durably* before anything is
concluded from it (evidence that is deleted, O59), so what may still be in the air is remembered, until a forced write
has come after it. Rows are removed by their keys, in small batches, so that no decision ever waits for a cleaner; what
belongs to nobody in particular is removed by one process at a time, the oldest that lives.
Not for: SQL (statements.py), or what a claim means (database.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

from syncpoint.ids import Incarnation, Key, TransactionId
from syncpoint.journal import rows
from syncpoint.journal.living import Living
from syncpoint.journal.statements import Statements
from syncpoint.journal.store import Row, Store
from syncpoint.journal.wire import Wire, take_turn
from syncpoint.marks import sometimes
from syncpoint.ports import Clock, Runtime
from syncpoint.resources.pool import Turn
from syncpoint.steps import Script, Sleep, Wait

END_BATCH = 200
CLEAN_BATCH = 200
CLEAN_PERIOD_S = 10.0
CLEAN_S_MAX = 5.0


class Lazily:
    """The rows of one process that are not in a hurry."""

    def __init__(
        self,
        store: Store,
        sql: Statements,
        wire: Wire,
        living: Living,
        runtime: Runtime,
        clock: Clock,
        *,
        period_s: float,
        retention_s: float,
    ) -> None:
        self.claims: dict[TransactionId, Incarnation] = {}
        """Ids that this process has claimed, or is about to, and in whose name."""
        self.mutex = runtime.mutex()
        """Guards the claims and all that is noted here."""
        self._store = store
        self._sql = sql
        self._wire = wire
        self._living = living
        self._clock = clock
        self._wanted = runtime.signal()
        self._turn = Turn(runtime, clock, "the journal's lazy rows")
        self._period_s = period_s
        self._retention_s = retention_s
        self._ends: set[Key] = set()
        self._releases: dict[TransactionId, Incarnation] = {}
        self._in_the_air = False
        """Something was written that a crash of the database may still take back."""

    # --- noting -------------------------------------------------------------------------------------------------

    def end(self, keys: Iterable[Key]) -> None:
        """Write soon that these have ended. Never waits."""
        with self.mutex:
            self._ends.update(keys)
            if len(self._ends) >= END_BATCH:
                self._wanted.set()

    def release(self, transaction: TransactionId) -> None:
        """Give a claim back soon. Never waits."""
        with self.mutex:
            own = self.claims.pop(transaction, None)
            if own is not None:
                self._releases[transaction] = own
                self._wanted.set()

    def hold(self, transaction: TransactionId, own: Incarnation) -> Script[bool]:
        """Among the scripts of this process: whether this one is now the only one that may claim the id. An earlier
        claim is given back first. Raises JournalUnavailable, JournalUncertain; then it is not held."""
        with self.mutex:
            if transaction in self.claims:
                return False
            self.claims[transaction] = own
            returning = transaction in self._releases
        if returning:
            try:
                yield from self.flush(durable=False)
            except BaseException:
                with self.mutex:  # it was not claimed: what is still to be given back stays so
                    del self.claims[transaction]
                raise
        return True

    def ends(self) -> frozenset[Key]:
        """Keys that have ended, though it is not written yet."""
        with self.mutex:
            return frozenset(self._ends)

    # --- writing ------------------------------------------------------------------------------------------------

    def write_soon(self) -> Script[None]:
        """In the background, for ever."""
        while True:
            yield Wait(self._wanted, self._period_s)
            self._wanted.clear()
            try:
                yield from self.flush(durable=False)
            except Exception:  # what could not be written stays noted, and is tried again
                yield Wait(self._wanted, self._period_s)

    def flush(self, *, durable: bool) -> Script[None]:
        """Write what was noted. With `durable` all that was noted ever is on disk then: also what was written lazily.

        Raises JournalUnavailable, JournalUncertain; what could not be written stays noted.
        """
        yield from take_turn(self._turn, self._clock)
        try:
            while True:
                ends, releases = self._some()
                if not ends and not releases:
                    break
                yield from self._write(ends, releases, durable=durable)
            if durable and self._in_the_air:
                yield from self._living.make_durable()
                self._in_the_air = False
        finally:
            self._turn.release()

    def _some(self) -> tuple[list[Key], list[tuple[TransactionId, Incarnation]]]:
        with self.mutex:
            return sorted(self._ends)[:END_BATCH], sorted(self._releases.items())[:END_BATCH]

    def _write(
        self, ends: list[Key], releases: list[tuple[TransactionId, Incarnation]], *, durable: bool
    ) -> Script[None]:
        statements = self._sql.end(ends, self._living.own) if ends else []
        statements += self._sql.release(releases) if releases else []
        if ends and not durable and self._store.can_be_lazy:
            self._in_the_air = True
        yield from self._wire.ask(statements, "write what was noted", durable=durable)
        with self.mutex:
            self._ends.difference_update(ends)
            for transaction, own in releases:
                if self._releases.get(transaction) == own:
                    del self._releases[transaction]
        if durable:  # a forced write has come after all that was in the air
            self._in_the_air = False

    # --- removing -----------------------------------------------------------------------------------------------

    def clean_now_and_then(self) -> Script[None]:
        """In the background, for ever."""
        while True:
            yield Sleep(CLEAN_PERIOD_S)
            with contextlib.suppress(Exception):  # the next time
                yield from self.clean()

    def clean(self) -> Script[None]:
        """Remove what nobody asks for any more. Raises JournalUnavailable, JournalUncertain."""
        yield from self._give_back_orphans()
        own = self._living.incarnation
        said = yield from self._wire.ask([self._sql.oldest_living()], "see who cleans")
        if rows.number(said.rows[0]) == own:
            yield from self._remove(
                self._sql.expired(self._retention_s, CLEAN_BATCH), lambda found: self._sql.remove(rows.keys(found))
            )
            yield from self._remove(
                self._sql.fenced_aborts(CLEAN_BATCH), lambda found: self._sql.remove(rows.keys(found))
            )
            yield from self._remove(
                self._sql.claims_of_the_dead(CLEAN_BATCH), lambda found: self._sql.release(rows.claims(found))
            )
        said = yield from self._wire.ask([self._sql.finished(own)], "look for who has finished")
        if said.rows[0]:
            statements = self._sql.remove_finished(own, rows.incarnations(said.rows[0]))
            yield from self._wire.ask(statements, "remove who has finished", durable=False)

    def _remove(self, select: str, delete: Callable[[Sequence[Row]], list[str]]) -> Script[None]:
        """Batch after batch, for a while; the rest is the next time's."""
        deadline = self._clock.monotonic() + CLEAN_S_MAX
        while self._clock.monotonic() < deadline:
            said = yield from self._wire.ask([select], "look for old rows")
            if said.rows[0]:
                yield from self._wire.ask(delete(said.rows[0]), "remove old rows", durable=False)
            if len(said.rows[0]) < CLEAN_BATCH:
                return

    def _give_back_orphans(self) -> Script[None]:
        """Claims in our name that nobody here holds: the reply to them, or to their release, was lost.

        They are seen before it is looked who holds what: so none is given back that was made in between.
        """
        own = self._living.incarnation
        said = yield from self._wire.ask([self._sql.claims_of(own)], "look at our claims")
        with self.mutex:
            orphans = [one for one in rows.transactions(said.rows[0]) if one not in self.claims]
            for transaction in orphans:
                self._releases.setdefault(transaction, own)
        if orphans:
            sometimes("a claim that nobody knew of was given back")
            yield from self.flush(durable=False)
