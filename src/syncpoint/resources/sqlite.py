"""The resource `sqlite:///file.db`: a SQLite file as a participant, through apsw.

    sqlite:///relative.db          relative to the working directory at start
    sqlite:////absolute/path.db    options as ?journal_mode=keep&foreign_keys=on

    option         values                      default
    journal_mode   auto, wal, keep             auto: WAL for a new file, else left as it is
    synchronous    full, extra                 full (extra with a rollback journal); less is refused
    foreign_keys   on, off                     as SQLite was built (off)
    mode           rwc, rw                     rwc: the file is created when it is missing

One branch at a time can write a file. Its vote is volatile and its state information can redo it (DESIGN section 4,
rule 9): sqlite_branch.py has a branch's life, sqlite_settlement.py what is done when its process died, sqlite_note.py
the note between them. This file is what waits: for the write lock, and for the manager's word about another's note.

Contact leaves its marks without settling a note that stands, because recovery, which settles it, comes after contact;
it touches only `syncpoint_*` tables, which no changeset holds.

In one process, use the file through Syncpoint only: never open it with Python's `sqlite3` module there, which would
drop the file's locks (sqlite_locks.py). Other processes may use what they like.

Every step is `Blocking`, in both modes. Not for: several branches under one COMMIT (DESIGN section 4, rule 10).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import apsw

from syncpoint.errors import ConfigurationError, ResourceUnavailable, SyncpointError
from syncpoint.ids import Attempt, Guid, Identifier
from syncpoint.ports import Clock, Random
from syncpoint.resources import sqlite_branch as branch
from syncpoint.resources import sqlite_ledger as ledger
from syncpoint.resources import sqlite_settlement as settlement
from syncpoint.resources.base import (
    Answer,
    BranchStart,
    Contact,
    Decision,
    Evidence,
    Finding,
    Found,
    Mode,
    Resource,
    Ruling,
    Session,
    Severity,
    Vote,
)
from syncpoint.resources.sqlite_branch import Fence, SqliteSession
from syncpoint.resources.sqlite_connection import GuardedConnection, Target, open_connection, quoted
from syncpoint.resources.sqlite_inspect import inspect
from syncpoint.resources.sqlite_locks import lock_holder
from syncpoint.resources.sqlite_note import Note
from syncpoint.steps import Blocking, Local, Script, Sleep

__all__ = ["FileInDoubt", "SqliteResource", "SqliteSession"]

T = TypeVar("T")

BUSY_SLICE_MS = 250
"""One wait inside SQLite: what a cancelled transaction may still wait."""
PATIENCE_S = 5.0
"""How long opening and first contact wait for another connection."""
ASK_AGAIN_S = 0.02

_CHOICES = {
    "journal_mode": ("auto", "wal", "keep"),
    "synchronous": ("full", "extra"),
    "foreign_keys": ("on", "off", "true", "false"),
    "mode": ("rwc", "rw"),
}
_abandoned: list[Session] = []
"""Sessions of parents of this forked process: never closed here, or SQLite would drop the parent's locks."""


class FileInDoubt(SyncpointError):
    """A branch that another process left in this file has no known outcome yet. Nothing was done; try again."""


class SqliteResource(Resource):
    """A SQLite file. See the file's opening for its URL."""

    scheme = "sqlite"
    single_writer = True
    has_redo = True
    option_names = frozenset(_CHOICES)

    def __init__(
        self, name: str, url: str, options: Mapping[str, str], *, mode: Mode, clock: Clock, random: Random
    ) -> None:
        """See `Resource`. Raises ConfigurationError."""
        super().__init__(name, url, options, mode=mode, clock=clock, random=random)
        self.target = parse_url(name, url, options)
        self.fence = Fence()

    @property
    def safe_url(self) -> str:
        return f"sqlite:///{self.target.path}"

    # --- connections ---------------------------------------------------------------------------------------

    def open(self) -> Script[Session]:
        """Open the file, creating it unless mode=rw. Raises ResourceUnavailable, SetupRefused."""
        deadline = self.clock.monotonic() + PATIENCE_S
        while True:
            try:
                session: Session = yield Blocking(self._open_now, "open")
                return session
            except apsw.BusyError as error:  # for example while another process switches the new file to WAL
                if self.clock.monotonic() >= deadline:
                    raise self._held(error) from error
            yield Sleep(ASK_AGAIN_S)

    def _open_now(self) -> Session:
        connection = open_connection(self.target, self.name)
        try:
            return SqliteSession(connection, self.target.path, self.clock.monotonic(), self.fence)
        except BaseException:
            connection.really_close()
            raise

    def close(self, session: Session) -> Script[None]:
        """Close the connection; never raises. A branch on it, voted or not, is rolled back; a vote's note stays."""
        ours = _ours(session)
        ours.broken = True
        try:
            yield Blocking(lambda: _close_now(ours), "close")
        except Exception:
            return

    def abandon(self, session: Session) -> None:
        """Keep it for ever, untouched: closing it here would end the parent's locks."""
        session.broken = True
        _abandoned.append(session)

    def connection(self, session: Session) -> GuardedConnection:
        return _ours(session).connection

    # --- set-up --------------------------------------------------------------------------------------------

    def init_statements(self) -> Sequence[str]:
        return (
            *ledger.INIT_STATEMENTS,
            (
                f"INSERT OR IGNORE INTO syncpoint_resource (one, format, guid) "
                f"VALUES (1, {ledger.LEDGER_FORMAT}, randomblob(16))"
            ),
        )

    def initialise(self, session: Session) -> Script[None]:
        """Make Syncpoint's tables and the file's GUID. Raises ResourceUnavailable while another process writes."""
        ours = _ours(session)
        yield from self._exclusively(ours, lambda: self._make_tables(ours), "initialise")

    def inspect(self, session: Session) -> Script[list[Finding]]:
        connection = _ours(session).connection
        findings: list[Finding] = yield Blocking(lambda: inspect(connection), "inspect")
        return findings

    def look_only(self) -> Sequence[Finding]:
        """See `Resource`. A new file is not made, and a file is not switched to WAL."""
        folder, made = os.path.dirname(self.target.path), self.target.create
        self.target = replace(self.target, create=False, journal_mode="keep")
        there = os.path.exists(self.target.path) and os.path.getsize(self.target.path) > 0
        if there or not made or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            return ()
        return (Finding(Severity.OK, "file", "not there yet; made at first use"),)

    def contact(self, session: Session, contact: Contact) -> Script[Guid]:
        """See `Resource`. Raises SetupRefused (another journal's file), JournalRefused (O53), ResourceUnavailable."""
        ours = _ours(session)

        def work() -> Guid:
            guid = self._make_tables(ours)
            ledger.leave_incarnation(ours.connection, contact, self.name)
            return guid

        return (yield from self._exclusively(ours, work, "first contact"))

    def recognise(self, session: Session, contact: Contact) -> Script[Guid]:
        ours = _ours(session)

        def look() -> Guid:
            ledger.check_contact(ours.connection, contact, self.name)
            return ours.require_guid()

        guid: Guid = yield Blocking(look, "look at a contact")
        return guid

    def serve_as(self, session: Session, incarnation: int) -> Script[None]:
        """See `Resource`. Waits a while for the write lock: a process that was fenced off may still hold it."""
        ours = _ours(session)
        self.fence.incarnation = max(self.fence.incarnation, incarnation)
        yield from self._exclusively(ours, lambda: self._serve_as_now(ours, incarnation), "taking the file over")

    def _serve_as_now(self, session: SqliteSession, incarnation: int) -> bool:
        ledger.leave_service(session.connection, incarnation)
        return True

    def data_guid(self, session: Session) -> Script[Guid | None]:
        connection = _ours(session).connection
        guid: Guid | None = yield Blocking(lambda: ledger.read_guid(connection), "GUID")
        return guid

    def served_as(self, session: Session) -> Script[int]:
        connection = _ours(session).connection
        seen: int = yield Blocking(lambda: ledger.read_incarnation(connection), "incarnation")
        return seen

    def _make_tables(self, session: SqliteSession) -> Guid:
        if ledger.read_guid(session.connection) is None:
            ledger.make_tables(session.connection, Guid(self.random.bytes(16)))
        session.guid = None
        return session.require_guid()

    def _exclusively(self, session: SqliteSession, work: Callable[[], T], what: str) -> Script[T]:
        """Do `work` under the write lock, waiting for it with patience."""
        deadline = self.clock.monotonic() + PATIENCE_S
        while True:
            try:
                done: T | None = yield Blocking(lambda: settlement.under_lock(session, work, BUSY_SLICE_MS), what)
            except (apsw.IOError, apsw.FullError) as error:
                session.broken = True
                raise ResourceUnavailable(
                    f"Resource {self.name!r}: the disk failed during {what} at {self.target.path}: {error}.",
                    advice="Mend the disk (is it full?), and try again.",
                ) from error
            if done is not None:
                return done
            if self.clock.monotonic() >= deadline:
                raise self._held(None)

    # --- a branch's life -----------------------------------------------------------------------------------

    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        """Begin. A writer waits for the write lock at most the time that is left, and settles what stands there.

        Raises ConnectionLost (the file was replaced), apsw.BusyError (the lock was not to be had), FileInDoubt,
        SetupRefused (a note that is not ours to settle).
        """
        ours = _ours(session)
        if start.read_only:
            yield Blocking(lambda: branch.begin_read(ours, start.identifier), "BEGIN")
            return
        deadline = self.clock.monotonic() + start.remaining_ms / 1000
        while True:
            note = yield from self._lock(ours, start.identifier, deadline)
            if note is None:
                return
            try:
                if (yield from self._settle_standing(ours, note, start.identifier, deadline)):
                    return
            except BaseException:
                ours.broken = True  # the write lock may be held: closing gives it back
                raise

    def _lock(self, session: SqliteSession, identifier: Identifier, deadline: float) -> Script[Note | None]:
        while True:
            left_ms = max(0, int((deadline - self.clock.monotonic()) * 1000))
            busy_ms = min(BUSY_SLICE_MS, left_ms)
            try:
                note: Note | None = yield Blocking(
                    partial(branch.begin_write, session, identifier, busy_ms), "BEGIN IMMEDIATE"
                )
                return note
            except apsw.BusyError as error:
                if left_ms <= busy_ms:
                    who = self._who()
                    if who:
                        error.add_note(f"Syncpoint: at resource {self.name!r}: {who}.")
                    raise

    def _settle_standing(
        self, session: SqliteSession, note: Note, identifier: Identifier, deadline: float
    ) -> Script[bool]:
        """Settle the branch that stands noted (DESIGN section 4, rule 9), holding the write lock: so no connection
        has it open, and whatever the manager is told to say holds. Returns whether our own branch has begun."""
        ruling = Ruling(Decision.UNKNOWN)
        if self.ask is not None:
            ruling = yield from self.ask(note.identifier)
        if ruling.decision is Decision.UNKNOWN:
            yield from self._ask_again(session, note, deadline)
            return False
        if ruling.decision is Decision.ABORT:
            yield Blocking(lambda: _drop_and_begin(session, note, identifier), "drop the branch that stands noted")
            return True
        conflict: str = yield Blocking(lambda: self._redo_and_commit(session, note, ruling.state), "redo and COMMIT")
        if conflict:
            raise self._in_doubt(note, f"it is decided but cannot be redone: {conflict}")
        return False

    def _ask_again(self, session: SqliteSession, note: Note, deadline: float) -> Script[None]:
        """Give the lock back for a moment: whoever has to finish that branch needs it."""
        yield Blocking(session.roll_back, "ROLLBACK")
        left_s = deadline - self.clock.monotonic()
        if left_s <= 0:
            raise self._in_doubt(note, "its coordinator has not said how it was decided")
        yield Sleep(min(ASK_AGAIN_S, left_s))

    def _redo_and_commit(self, session: SqliteSession, note: Note, state: bytes) -> str:
        """Redo another's branch in a transaction of its own, the one that is open. Returns why not."""
        conflict = settlement.redo_now(session, note.identifier, state, self.clock.wall_ms())
        if not conflict:
            session.connection.set_busy_timeout(branch.COMMIT_BUSY_MS)
            session.connection.control("COMMIT")
        session.roll_back()
        return conflict

    def savepoint(self, session: Session, name: str) -> Script[None]:
        yield self._statement(session, f"SAVEPOINT {quoted(name)}")

    def release_savepoint(self, session: Session, name: str) -> Script[None]:
        yield self._statement(session, f"RELEASE {quoted(name)}")

    def rollback_to_savepoint(self, session: Session, name: str) -> Script[None]:
        yield self._statement(session, f"ROLLBACK TO {quoted(name)}")

    def _statement(self, session: Session, sql: str) -> Blocking:
        connection = _ours(session).connection
        return Blocking(lambda: connection.run(sql), sql.partition(' "')[0])

    def wrote(self, session: Session) -> Script[bool | None]:
        ours = _ours(session)
        result: bool = yield Local(lambda: ours.capture is not None and ours.capture.wrote(), "did it write")
        return result

    def prepare(self, session: Session) -> Script[Vote]:
        ours = _ours(session)
        vote: Vote = yield Blocking(lambda: branch.prepare(ours, self.clock.wall_ms()), "prepare")
        return vote

    def commit(self, session: Session) -> Script[Answer]:
        ours = _ours(session)
        answer: Answer = yield Blocking(lambda: branch.commit(ours), "COMMIT")
        return answer

    def commit_one_phase(self, session: Session) -> Script[Vote | Answer]:
        ours = _ours(session)
        result: Vote | Answer = yield Blocking(
            lambda: branch.commit_one_phase(ours, self.clock.wall_ms()), "evidence and COMMIT"
        )
        return result

    def abort(self, session: Session) -> Script[Answer]:
        ours = _ours(session)
        answer: Answer = yield Blocking(lambda: branch.abort(ours), "ROLLBACK")
        return answer

    # --- finding out and finishing -----------------------------------------------------------------------------

    def scan(self, session: Session) -> Script[list[Found]]:
        ours = _ours(session)
        found: list[Found] = yield Blocking(lambda: settlement.scan(ours), "scan")
        return found

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        """See `Resource`. A commit redoes the branch from `state`; RETRY while another connection writes."""
        ours = _ours(session)
        now = self.clock.wall_ms()
        answer: Answer = yield Blocking(
            lambda: settlement.finish(ours, identifier, commit=commit, state=state, at_ms=now), "finish"
        )
        return answer

    def redo(self, session: Session, identifier: Identifier, state: bytes) -> Script[Answer]:
        return (yield from self.finish(session, identifier, commit=True, state=state))

    def evidence(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        ours = _ours(session)
        found: Evidence = yield Blocking(lambda: settlement.evidence(ours, identifier), "evidence")
        return found

    def settle(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        """As `evidence`: whoever holds the write lock knows that the branch is open nowhere and can never commit."""
        return (yield from self.evidence(session, identifier))

    def evidence_attempts(
        self, session: Session, coordinator: Guid, after: Attempt, limit: int
    ) -> Script[list[Attempt]]:
        connection = _ours(session).connection
        attempts: list[Attempt] = yield Blocking(
            lambda: ledger.list_attempts(connection, coordinator, after, limit), "evidence attempts"
        )
        return attempts

    def drop_evidence(self, session: Session, coordinator: Guid, attempts: Sequence[Attempt]) -> Script[int]:
        ours = _ours(session)
        dropped: int = yield Blocking(lambda: settlement.drop_evidence(ours, coordinator, attempts), "drop evidence")
        return dropped

    # --- what errors mean --------------------------------------------------------------------------------------

    def is_retryable(self, error: BaseException) -> bool:
        return isinstance(error, apsw.BusyError | apsw.LockedError | FileInDoubt)

    def blockers(self, session: Session) -> Script[str]:
        who: str = yield Local(self._who, "who holds the write lock")
        return who

    def _who(self) -> str:
        holder = lock_holder(self.target.path)
        return f"{holder} holds the write lock of {self.target.path}" if holder else ""

    def _held(self, cause: BaseException | None) -> ResourceUnavailable:
        who = self._who() or f"another connection holds a lock of {self.target.path}"
        return ResourceUnavailable(
            f"Resource {self.name!r} could not be used within {PATIENCE_S:g} s: {who}.",
            advice="Try again when that transaction has ended.",
        )

    def _in_doubt(self, note: Note, why: str) -> FileInDoubt:
        return FileInDoubt(
            f"Resource {self.name!r}: the branch {note.identifier} of coordinator {note.identifier.coordinator} stands "
            f"noted beside {self.target.path}, and {why}.",
            advice="Nothing was done. Recovery settles it; try again, or look with `syncpoint in-doubt`.",
        )


def _ours(session: Session) -> SqliteSession:
    assert isinstance(session, SqliteSession)
    return session


def _close_now(session: SqliteSession) -> None:
    session.notes.close()
    session.connection.really_close()


def _drop_and_begin(session: SqliteSession, note: Note, identifier: Identifier) -> None:
    session.settled = branch.write_note(session, note.identifier, standing=False)
    branch.start_branch(session, identifier)


# --- the URL ---------------------------------------------------------------------------------------------------------


def parse_url(name: str, url: str, options: Mapping[str, str]) -> Target:
    """What a URL and options say. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")  # which names no file
    path = unquote(parts.path)
    if parts.netloc or parts.fragment or not path.startswith("/") or len(path) < 2 or "\0" in path:
        raise ConfigurationError(
            f"The URL of the resource {name!r} names no SQLite file.",
            advice="Write sqlite:///relative.db, or sqlite:////absolute/path.db with four slashes.",
        )
    path = path[1:]
    if path.startswith((":memory:", "file:")):
        raise ConfigurationError(
            f"The resource {name!r} would be a database in memory, which dies with its process.",
            advice="Name a file: sqlite:///audit.db. For trying things out there is memory://.",
        )
    given = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **options}
    for option, value in given.items():
        if option == "pool_size_max":
            continue
        _check_option(name, option, value)
    keys = given.get("foreign_keys")
    return Target(
        path=os.path.abspath(path),
        create=given.get("mode", "rwc") == "rwc",
        journal_mode=given.get("journal_mode", "auto"),
        synchronous=given.get("synchronous", "full"),
        foreign_keys=None if keys is None else keys in ("on", "true"),
    )


def _check_option(name: str, option: str, value: str) -> None:
    if option not in _CHOICES:
        raise ConfigurationError(
            f"The resource {name!r} has an unknown option {option!r}.", advice=f"Known: {', '.join(sorted(_CHOICES))}."
        )
    if value in _CHOICES[option]:
        return
    why = " Below FULL, a commit that was answered may be gone after a power cut." if option == "synchronous" else ""
    raise ConfigurationError(
        f"The resource {name!r} has {option}={value!r}.{why}", advice=f"Use one of: {', '.join(_CHOICES[option])}."
    )
