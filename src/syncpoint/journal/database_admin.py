"""What commands do with a journal in a database: make its tables, look at its set-up, adopt a restored copy.

No incarnation is drawn and no process is disturbed. Not for: a manager's own use (database.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncpoint.errors import JournalRefused
from syncpoint.ids import Guid
from syncpoint.journal import rows
from syncpoint.journal.database_opening import make, read_head
from syncpoint.journal.inspect import ADOPTED_RAISE
from syncpoint.journal.statements import JOURNAL_FORMAT, Statements
from syncpoint.journal.store import Store, Trouble
from syncpoint.ports import Random
from syncpoint.resources.base import Finding, Session, Severity
from syncpoint.steps import Script

TABLES_CHECK = "journal tables"


@dataclass(frozen=True, slots=True)
class AdoptedDatabase:
    """What `adopt` did."""

    path: str
    coordinator: Guid
    counter_before: int
    counter_after: int


class DatabaseAdmin:
    """One journal's database, as commands see it. `cluster` is whose journal it must be."""

    def __init__(self, store: Store, random: Random, cluster: str) -> None:
        self.store = store
        self._sql = Statements(store)
        self._random = random
        self._cluster = cluster

    def init_statements(self) -> Sequence[str]:
        """What `syncpoint init` runs, as a person could type it."""
        begin = self._sql.begin_journal(self._random.bytes(16), self._cluster)
        return (*self.store.resource.init_statements(), *self.store.tables, begin, self.store.grants)

    def initialise(self, session: Session) -> Script[None]:
        """Run them, idempotently. Raises SetupRefused."""
        yield from make(self.store, self._sql, session, self._random, self._cluster)

    def inspect(self, session: Session) -> Script[list[Finding]]:
        """The database's own set-up, and the journal's tables in it. Changes nothing."""
        findings = yield from self.store.resource.inspect(session)
        # A journal prepares nothing in its own database.
        return [*(one for one in findings if not one.for_prepare), (yield from self._tables(session))]

    def _tables(self, session: Session) -> Script[Finding]:
        said = yield from read_head(self.store, self._sql, session)
        if said.trouble is Trouble.MISSING or (said.trouble is Trouble.NONE and not said.rows[0]):
            return Finding(Severity.OK, TABLES_CHECK, "not there yet; made at first use when rights allow")
        if said.trouble is not Trouble.NONE:
            fix = f"Run what `syncpoint init --print-sql` prints; {self.store.grants}"
            return Finding(Severity.REFUSED, TABLES_CHECK, f"cannot be read: {said.error}", fix)
        guid, format_, cluster, counter, refused = said.rows[0][0]
        if int(format_ or 0) > JOURNAL_FORMAT:
            found = f"format {format_}; this Syncpoint knows {JOURNAL_FORMAT}"
            return Finding(Severity.REFUSED, TABLES_CHECK, found, "Run the newer Syncpoint that made them.")
        if cluster != self._cluster:
            fix = "Use another database, or give the right ?cluster=… in the journal's URL."
            return Finding(Severity.REFUSED, TABLES_CHECK, f"of the cluster {cluster!r}, not {self._cluster!r}", fix)
        if refused:
            fix = "Restore the newest copy; if it is lost for good: syncpoint journal adopt-copy"
            return Finding(Severity.REFUSED, TABLES_CHECK, f"an older copy: {refused}", fix)
        return Finding(
            Severity.OK, TABLES_CHECK, f"there: coordinator {(guid or '').lower()}, {counter} starts of processes"
        )

    def adopt(self, session: Session) -> Script[AdoptedDatabase]:
        """Make a restored copy the journal from now on.

        Raises JournalRefused when there is no journal, SetupRefused when it cannot be read or written.
        """
        said = yield from read_head(self.store, self._sql, session)
        if said.trouble not in (Trouble.NONE, Trouble.MISSING):
            raise self.store.refused(said.error)
        if said.trouble is Trouble.MISSING or not said.rows[0]:
            raise JournalRefused(
                f"There is no journal in {self.store.resource.safe_url}.",
                advice="Name the database that the application's journal is in.",
            )
        before = int(said.rows[0][0][3] or 0)
        statements = [self._sql.adopt(ADOPTED_RAISE), self._sql.counter()]
        said_then = yield from self.store.run(session, statements, "journal: adopt a copy")
        if said_then.trouble is not Trouble.NONE:
            raise self.store.refused(said_then.error)
        guid = Guid.parse(said.rows[0][0][0] or "")
        return AdoptedDatabase(self.store.resource.safe_url, guid, before, rows.number(said_then.rows[1]))
