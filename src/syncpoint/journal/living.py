"""Whose incarnation is whose: our own in the database, its signs of life, and taking over from the dead.

Death is only guessed, from the absence of signs of life. Whoever takes over becomes the *keeper* of the dead one's
incarnation first; nobody who has been taken over ever becomes his own keeper again. So what was done by others after
that needs no regard for him: he finds out with his next sign of life, or when a decision of his is refused, draws
another incarnation, and what he had not decided is aborted.

Nobody judges others right after he was not heard of himself: then the database was away, or its clock was changed,
or we stood still, and the others' absence says nothing. Signs of life have a connection of their own, so that they do
not stand in line behind decisions. Not for: SQL (statements.py), or what the dead one left (database.py).
"""

from __future__ import annotations

from syncpoint.errors import JournalError, JournalRefused, JournalUncertain, SyncpointError
from syncpoint.ids import Attempt, Guid, Incarnation
from syncpoint.journal import rows
from syncpoint.journal.statements import Statements
from syncpoint.journal.store import Store, Trouble
from syncpoint.journal.wire import Wire, take_turn
from syncpoint.marks import sometimes
from syncpoint.ports import Clock, Random, Runtime
from syncpoint.resources.pool import Turn
from syncpoint.steps import Script, Wait


class Living:
    """One process among those that share the journal. `others` are the sessions that decisions use too."""

    def __init__(
        self,
        store: Store,
        sql: Statements,
        runtime: Runtime,
        clock: Clock,
        random: Random,
        *,
        others: Wire,
        process: str,
        heartbeat_s: float,
        dead_after_s: float,
    ) -> None:
        self.incarnation = Incarnation(0)
        self.own: set[Incarnation] = set()
        """Every incarnation this process has drawn."""
        self.wanted = runtime.signal()
        """Set when we should look at once who keeps us."""
        self.failure: JournalError | None = None
        """The journal is not the one any more that was opened: nothing may be done with it."""
        self._store = store
        self._sql = sql
        self._clock = clock
        self._random = random
        self._wire = Wire(store, runtime, clock, 1)
        self._others = others
        self._process = process
        self._heartbeat_s = heartbeat_s
        self._dead_after_s = dead_after_s
        self._mutex = runtime.mutex()
        self._anew = Turn(runtime, clock, "the journal's next incarnation")
        self._journal: Guid | None = None
        self._counter = 0
        self._inherited: set[Incarnation] = set()
        self._heard_since: float | None = None
        """Since when every sign of life came through in time; None: there was no reason to doubt it."""
        self._answered_at: float | None = None
        """When the last one was answered."""

    def __repr__(self) -> str:
        return f"<Living incarnation={self.incarnation} of {sorted(self.own)}>"

    def next_attempt(self) -> Attempt:
        with self._mutex:
            self._counter += 1
            return Attempt(self.incarnation, self._counter)

    # --- our own ------------------------------------------------------------------------------------------------

    def begin(self, journal: Guid) -> Script[None]:
        """Draw this process's first incarnation, forced before use. Raises JournalUnavailable, JournalUncertain."""
        self._journal = journal
        yield from self._draw()

    def _draw(self) -> Script[None]:
        said = yield from self._wire.insist(self._sql.draw(self._process), "draw an incarnation", repeat=True)
        guid, refused = said.rows[0][0] if said.rows and said.rows[0] else (None, None)
        where = self._store.resource.safe_url
        # Without its row there is no number to draw: FENCED.
        if guid is None and said.trouble in (Trouble.NONE, Trouble.MISSING, Trouble.FENCED):
            self._fail(f"The journal in {where} is gone.")
        if guid is not None and Guid.parse(guid) != self._journal:
            self._fail(f"The journal in {where} is not the one any more that this process opened.")
        if refused:
            self._fail(f"The journal in {where} is an older copy: {refused}")
        if said.trouble is not Trouble.DUPLICATE:
            self._wire.check(said)
        drawn = Incarnation(rows.number(said.rows[-1])) if said.trouble is Trouble.NONE else Incarnation(0)
        if drawn <= max(self.own, default=0):
            self._fail(f"The journal in {where} has gone back in time: its counter names an incarnation a second time.")
        if self._answered_at is None:
            self._answered_at = self._clock.monotonic()
        with self._mutex:
            self.incarnation = drawn
            self.own.add(drawn)
            self._counter = 0

    def _fail(self, message: str) -> None:
        self.failure = JournalRefused(
            message, advice="Nothing more is done with it. Restore its newest copy, then restart this process."
        )
        raise self.failure

    def give_signs(self) -> Script[None]:
        """In the background, for ever. The journal may be away for a while."""
        while self.failure is None:
            try:
                yield from self._beat()
            except Exception:  # whoever gave no signs for an error's sake would be taken over again and again
                self._heard_since = self._clock.monotonic()
            yield Wait(self.wanted, self._heartbeat_s)
            self.wanted.clear()

    def _beat(self) -> Script[None]:
        own = self.incarnation
        said = yield from self._wire.ask(self._sql.beat(own, self._dead_after_s), "give a sign of life", durable=False)
        self._answered(in_time=bool(said.rows[0]))
        if rows.number(said.rows[-1]) != own:
            yield from self._begin_anew(own)

    def _answered(self, *, in_time: bool) -> None:
        """A sign of life was answered. It tells whether the one before is old, or from the future; but that may have
        been the same one, whose answer was lost, so our own clock is asked too. Doubt begins now, not when it was
        sent: it may have been on its way during the whole outage."""
        now, before = self._clock.monotonic(), self._answered_at
        if not in_time or (before is not None and now - before >= self._dead_after_s):
            sometimes("a process doubted its own signs of life in the journal")
            self._heard_since = now
        self._answered_at = now

    def _begin_anew(self, taken: Incarnation) -> Script[None]:
        """`taken` was taken for dead: what it had not decided is aborted, what begins now is another incarnation's."""
        yield from take_turn(self._anew, self._clock)
        try:
            if self.incarnation == taken:
                sometimes("a living process was taken for dead, and drew another incarnation")
                yield from self._draw()
        finally:
            self._anew.release()

    def refused(self) -> Script[None]:
        """A record of ours was refused, perhaps since we were taken for dead: then begin anew at once. Never raises."""
        own = self.incarnation
        try:
            if not (yield from self.confirm(own)):
                yield from self._begin_anew(own)
        except SyncpointError:
            self.wanted.set()  # the next sign of life tries again

    def make_durable(self) -> Script[None]:
        """A forced write of our own: all that could be read before it is on disk after it (O59).

        Raises JournalUnavailable, JournalUncertain: then it is not known, and must not be acted on.
        """
        own = self.incarnation
        statements = self._sql.beat(own, self._dead_after_s)
        said = yield from self._others.ask(statements, "make sure that what was read is on disk")
        self._answered(in_time=bool(said.rows[0]))
        if rows.number(said.rows[-1]) != own:  # perhaps without a row to write to
            yield from self._begin_anew(own)

    def leave(self) -> Script[None]:
        """At the end. What is unfinished is somebody else's then. Raises JournalUnavailable, JournalUncertain."""
        for own in sorted(self.own):
            said = yield from self._others.ask([self._sql.kept_by(own), self._sql.claims_of(own)], "see what is ours")
            statements = self._sql.leave(own, rows.incarnations(said.rows[0]), rows.transactions(said.rows[1]))
            yield from self._others.ask(statements, "leave")

    def close(self) -> Script[None]:
        yield from self._wire.close()

    def abandon(self) -> None:
        """In a forked child."""
        self._wire.abandon()

    # --- the others ---------------------------------------------------------------------------------------------

    def take_over(self) -> Script[bool]:
        """Become the keeper of whom nobody has heard of, one after the other: who is faster has it. Returns whether
        there was anybody."""
        own = self.incarnation
        said = yield from self._others.ask([self._sql.forsaken(own, self._dead_after_s)], "look for the dead")
        found = [(Incarnation(int(row[0] or 0)), Incarnation(int(row[1] or 0))) for row in said.rows[0]]
        if not self._may_judge():
            found = [(one, keeper) for one, keeper in found if keeper != one]  # who has left: there is nothing to guess
        if not found:
            return False
        # Each begins somewhere else, so that several share the work.
        start = self._random.bytes(1)[0] % len(found)
        for one, keeper in found[start:] + found[:start]:
            yield from self._take_over(own, one, keeper)
        return True

    def _take_over(self, own: Incarnation, one: Incarnation, keeper: Incarnation) -> Script[None]:
        statements = self._sql.take_over(own, one, keeper, self._dead_after_s)
        try:
            said = yield from self._others.run(statements, "take over for a dead process", repeat=True)
        except JournalUncertain:
            with self._mutex:
                self._inherited.add(one)  # perhaps: then its branches want a scan
            raise
        if said.trouble is Trouble.BUSY:
            sometimes("a take-over waited in vain for a decision under way")
            return  # a decision is being written there: nothing is decided (O47)
        if rows.number(self._others.check(said).rows[1]) == own:
            with self._mutex:
                self._inherited.add(one)

    def _may_judge(self) -> bool:
        return self._heard_since is None or self._clock.monotonic() - self._heard_since >= self._dead_after_s

    def inherited(self) -> frozenset[Incarnation]:
        """Whom we have taken over from since this was asked last."""
        with self._mutex:
            inherited, self._inherited = frozenset(self._inherited), set()
        return inherited

    def confirm(self, incarnation: Incarnation) -> Script[bool]:
        """See `Journal.confirm`."""
        if incarnation not in self.own:
            return False
        said = yield from self._others.ask([self._sql.keeper(incarnation)], "see who keeps us")
        return rows.number(said.rows[0]) == incarnation
