"""The journal of a seed whose applications keep it in a database: how it is set up, and what is left in it.

Not for: the server's tables (journal_rows.py), or the journal in a folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from syncpoint.journal import lazily
from syncpoint.journal.database import DatabaseJournal, Options
from syncpoint.manager.transaction import Work
from syncpoint.records import Heuristic, decode_record
from syncpoint.simulation.database import SimDatabase, SimResource
from syncpoint.simulation.host import Application
from syncpoint.simulation.journal_rows import Habits
from syncpoint.simulation.journal_store import SimEarlyStore, SimStore
from syncpoint.simulation.network import Network
from syncpoint.simulation.process import Process
from syncpoint.simulation.world import World


class DatabaseJournals:
    """One journal, in the database `server`, for every application of a seed."""

    def __init__(self, world: World, network: Network, server: SimDatabase) -> None:
        chance = world.stream("journal")
        self.world = world
        self.network = network
        self.server = server
        self.habits = Habits(
            early=chance.random() < 0.4,
            stalls=chance.choice([0.0, 0.03, 0.15]),
            pauses=chance.choice([0.0, 0.02, 0.1]),
        )
        self.rows = server.keep_journal(self.habits)
        dead_after_s = chance.choice([0.6, 1.0, 2.0, 3.0])
        self.options = Options(
            heartbeat_s=dead_after_s / chance.choice([3, 6]),
            dead_after_s=dead_after_s,
            sessions_max=chance.choice([2, 4, 16]),
        )
        self.rows.dead_after_s = dead_after_s
        self._claims: dict[str, tuple[Work, Process, int, int]] = {}
        self.clean_period_s = chance.choice([0.4, 2.0, lazily.CLEAN_PERIOD_S])

    def __repr__(self) -> str:
        return f"<DatabaseJournals {self.server.name} {self.habits} {self.options}>"

    def journal(self, application: Application) -> DatabaseJournal:
        """For one process."""
        process = application.process
        assert process is not None
        resource = SimResource("journal", self.server, process, self.network, process.clock, application.random)
        store = (SimEarlyStore if self.habits.early else SimStore)(resource)
        return DatabaseJournal(
            store, clock=process.clock, random=application.random, process=process.name, options=self.options
        )

    def heal(self) -> None:
        self.rows.heal()

    def is_taken_over(self, incarnation: int) -> bool:
        """Whether somebody has become its keeper: it was taken for dead, rightly or not."""
        return incarnation in self.rows.taken or not self.rows.lives(incarnation)

    def claimed(self, user_id: str, application: Application, work: Work) -> None:
        """A transaction with an id has begun: then no other runs it, in a process that lives and is not taken for dead.
        A crash of the database may take a claim back."""
        process, core = application.process, application.core
        assert process is not None
        assert core is not None
        assert isinstance(core.journal, DatabaseJournal)
        # Either may have been taken for dead since it asked, and have claimed the id in the name of the dead one.
        own = core.journal._lazily.claims[work.key.transaction]
        if user_id in self._claims:
            other, holder, its, crashes = self._claims[user_id]
            is_running = holder.alive and other.claimed and not self.is_taken_over(its)
            if is_running and not self.is_taken_over(own) and crashes == self.rows.crashes:
                self.world.violation(f"{user_id!r} runs in {holder.name} and in {process.name}")
        self._claims[user_id] = (work, process, own, self.rows.crashes)

    def unsettled(self) -> list[str]:
        """What has not come to an end in it."""
        left = self.rows.select("SELECT COUNT(*) FROM syncpoint.record WHERE once IS NOT NULL AND ended IS NULL")
        count = left[0][0] if left else 0
        return [f"{count} Commit records in the journal have not ended"] if count else []

    def check(self) -> list[str]:
        """What is wrong in it in the end: nobody has decided alone, so no branch ended otherwise than decided. What can
        never be told (client.py says when) is listed too."""
        notes = [decode_record(data) for (data,) in self.rows.select("SELECT data FROM syncpoint.note")]
        return [
            f"nobody decided alone, and yet it is recorded: {note!r}"
            for note in notes
            if isinstance(note, Heuristic)
            and not (note.outcome == "HEURISTIC_HAZARD" and self.is_taken_over(note.key.attempt.incarnation))
        ]

    @contextlib.contextmanager
    def hurried(self) -> Iterator[None]:
        """While the seed runs, rows may be removed more often than real journals do."""
        before, lazily.CLEAN_PERIOD_S = lazily.CLEAN_PERIOD_S, self.clean_period_s
        try:
            yield
        finally:
            lazily.CLEAN_PERIOD_S = before
