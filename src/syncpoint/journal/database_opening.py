"""Opening a journal in a database: refuse what cannot keep its promise, and make the tables.

Not for: anything after that (database.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncpoint.errors import FormatTooNew, JournalRefused, SetupRefused
from syncpoint.ids import Guid
from syncpoint.journal.statements import JOURNAL_FORMAT, Statements
from syncpoint.journal.store import Row, Said, Store, Trouble
from syncpoint.journal.wire import BUSY_PAUSE_S, BUSY_TRIES
from syncpoint.ports import Random
from syncpoint.resources.base import Session, Severity
from syncpoint.steps import Script, Sleep

SCHEMA_CHECK = "schema syncpoint"
"""What an adapter's findings call the rights on its own tables. Those on the journal's are tried here."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A journal's head."""

    journal: Guid
    database: Guid


def open_head(store: Store, sql: Statements, session: Session, random: Random, cluster: str) -> Script[Opened]:
    """Check the database and the journal in it, making it when it is not there.

    Raises SetupRefused, JournalRefused, FormatTooNew; nothing is changed then. `cluster` is whose journal it must be.
    """
    yield from _refuse_lies(store, session)
    said = yield from read_head(store, sql, session)
    if said.trouble in (Trouble.MISSING, Trouble.DENIED):
        yield from make(store, sql, session, random, cluster)
        said = yield from read_head(store, sql, session)
    elif said.trouble is Trouble.NONE and not said.rows[0]:  # somebody who may has made the tables
        yield from _begin(store, sql, session, random, cluster)
        said = yield from read_head(store, sql, session)
    if said.trouble is not Trouble.NONE:
        raise store.refused(said.error)
    guid, format_, whose, _, refused = said.rows[0][0]
    if int(format_ or 0) > JOURNAL_FORMAT:
        raise FormatTooNew("journal's schema", int(format_ or 0), JOURNAL_FORMAT)
    _check_cluster(store, whose or "", cluster)
    if refused:
        raise JournalRefused(
            f"The journal in {store.resource.safe_url} is an older copy: {refused}",
            advice="Restore the newest one. If that is lost for good: `syncpoint journal adopt-copy`.",
        )
    return Opened(_guid(store, guid, "journal"), _guid(store, _only(said.rows[1]), "resource"))


def _refuse_lies(store: Store, session: Session) -> Script[None]:
    findings = yield from store.resource.inspect(session)
    # A journal prepares nothing in its own database, and makes its own tables.
    refused = [
        one
        for one in findings
        if one.severity is Severity.REFUSED and not one.for_prepare and one.check != SCHEMA_CHECK
    ]
    if refused:
        raise SetupRefused(
            f"The journal's database ({store.resource.safe_url}) is set up so that a decision could be lost: "
            + "; ".join(f"{one.check}: {one.found}" for one in refused)
            + ".",
            advice=" ".join(one.fix for one in refused if one.fix),
        )


def read_head(store: Store, sql: Statements, session: Session) -> Script[Said]:
    """The journal's one row, then the database's GUID. Raises FormatTooNew when it can only be read by a newer one."""
    said: Said = yield from _patiently(store, session, [sql.head(), sql.database_guid()], "journal: read its head")
    if said.trouble is Trouble.REFUSED:  # columns of a later format?
        found = yield from store.run(session, [sql.format()], "journal: read its format")
        if found.trouble is Trouble.NONE and found.rows[0] and int(found.rows[0][0][0] or 0) > JOURNAL_FORMAT:
            raise FormatTooNew("journal's schema", int(found.rows[0][0][0] or 0), JOURNAL_FORMAT)
    return said


def _patiently(store: Store, session: Session, statements: Sequence[str], what: str) -> Script[Said]:
    """Others may open it at the same moment: who is in somebody's way tries again."""
    for _ in range(BUSY_TRIES):
        said: Said = yield from store.run(session, statements, what)
        if said.trouble is not Trouble.BUSY:
            break
        yield Sleep(BUSY_PAUSE_S)
    return said


def make(store: Store, sql: Statements, session: Session, random: Random, cluster: str) -> Script[None]:
    """Make the tables and the journal's one row, unless they are there. Raises SetupRefused."""
    try:
        yield from store.resource.initialise(session)
    except SetupRefused as error:
        raise store.refused(error.message) from error
    said = yield from store.make_tables(session)
    if said.trouble is not Trouble.NONE:
        raise store.refused(said.error)
    yield from _begin(store, sql, session, random, cluster)


def _begin(store: Store, sql: Statements, session: Session, random: Random, cluster: str) -> Script[None]:
    said = yield from _patiently(store, session, [sql.begin_journal(random.bytes(16), cluster)], "journal: begin it")
    if said.trouble is not Trouble.NONE:
        raise store.refused(said.error)


def _check_cluster(store: Store, found: str, wanted: str) -> None:
    if found != wanted:
        raise JournalRefused(
            f"The schema syncpoint in {store.resource.safe_url} holds the journal of the cluster {found!r}, "
            f"not of {wanted!r}.",
            advice="Two clusters never share a journal: use another database, or give the right ?cluster=….",
        )


def _guid(store: Store, digits: str | None, table: str) -> Guid:
    try:
        return Guid.parse(digits or "")
    except ValueError as error:  # none, or not ours
        raise store.refused(f"syncpoint.{table} does not hold the GUID that it must: {error}") from None


def _only(found: tuple[Row, ...]) -> str | None:
    return found[0][0] if found else None
