"""From a `ResourceManager` of a user's own (own.py) to a Resource that a transaction manager can use.

Beside the author's data stands a SQLite file, the *ledger*, and a branch is a branch of that file: its write lock keeps
other works out, its vote, evidence, GUID and recovery are those of the SQLite resource, nothing of which is repeated
here. What such a branch writes is one row, the author's state information:

    begin     the ledger's branch begins; what stands in the ledger is handed to `commit` first; then author.begin
    prepare   state = author.prepare; the row (identifier, state) is written in the branch, which votes
    commit    the ledger's branch commits: the work is decided for this resource, whoever dies now.
              Then, in a transaction of the ledger's own: author.commit(state), and the row is deleted
    crash     in doubt: the row is in the vote's changeset, so recovery redoes it from the Commit record (B8).
              decided: the row stands, and whoever comes next calls author.redo before anything else is begun

So `commit` is called once, and again only when its row's deletion was not committed: with nothing written in between.

A row that another process left is forced before it is acted on: that one may have been killed before the force of its
COMMIT was done, and after a power failure the row would be gone and the author's part half done (as O59).

Not for: what authors promise (own.py), or what users hold (own_work.py).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any, ClassVar, TypeVar, cast
from urllib.parse import quote

import apsw

from syncpoint.errors import ConfigurationError, ResourceManagerError, ResourceUnavailable, SyncpointError
from syncpoint.ids import Guid, Identifier
from syncpoint.ports import Clock, Random, Runtime
from syncpoint.resources import sqlite_settlement as settlement
from syncpoint.resources.base import (
    Answer,
    Ask,
    BranchStart,
    Choice,
    Contact,
    Finding,
    Found,
    Mode,
    Resource,
    Session,
    Severity,
    Vote,
)
from syncpoint.resources.memory import Runner
from syncpoint.resources.own import ResourceManager
from syncpoint.resources.own_work import OwnWork, end_work, marks_of, target_of
from syncpoint.resources.sqlite import ASK_AGAIN_S, PATIENCE_S, SqliteResource
from syncpoint.resources.sqlite_branch import SqliteSession
from syncpoint.resources.sqlite_connection import open_connection
from syncpoint.steps import Blocking, Script, Sleep

__all__ = ["LEDGER", "OwnResource", "resource_class"]

T = TypeVar("T")
LEDGER = "syncpoint.db"
"""The ledger's file, in the resource manager's place."""
_TABLE = (
    "CREATE TABLE IF NOT EXISTS decided_work "  # in the order of their rowids
    "(identifier BLOB NOT NULL PRIMARY KEY, state BLOB NOT NULL, redos INTEGER NOT NULL DEFAULT 0)"
)
_log = logging.getLogger("syncpoint.resources")


@functools.cache
def resource_class(author: type[ResourceManager]) -> type[Resource]:
    """The Resource for an author's class."""
    members = {
        "author_class": author,
        "option_names": frozenset(author.option_names),
        "scheme": author.__name__,
        "__doc__": author.__doc__,
    }
    return type(f"{author.__name__}Resource", (OwnResource,), members)


class OwnSession(SqliteSession):
    """A session of the ledger, and the author's work on it."""

    __slots__ = ("work",)
    work: OwnWork | None


class OwnResource(SqliteResource):
    """See the file's opening. Made by `resource_class`."""

    speaks_sql = False
    author_class: ClassVar[type[ResourceManager]]

    def __init__(
        self, name: str, url: str, options: Mapping[str, str], *, mode: Mode, clock: Clock, random: Random
    ) -> None:
        """See `Resource`. Raises ConfigurationError, also for whatever the author's constructor raises."""
        try:
            self.author = self.author_class(name, url, options)
            place = os.fspath(self.author.place())
            if not isinstance(place, str) or not place:
                raise ValueError(f"place() returned {place!r}, which names no folder")
            self.place = os.path.abspath(place)
        except SyncpointError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"The resource {name!r} cannot be made: {self.author_class.__qualname__} raised "
                f"{type(error).__name__}: {error}.",
                advice="Correct its URL and options, or the class.",
            ) from error
        ledger = f"sqlite:///{quote(os.path.join(self.place, LEDGER))}"
        super().__init__(name, ledger, {}, mode=mode, clock=clock, random=random)
        self._runner: Runner | None = None

    @property
    def safe_url(self) -> str:
        return f"{self.author_class.__module__}:{self.author_class.__qualname__} at {self.place}"

    def attach(self, ask: Ask, runtime: Runtime) -> None:
        super().attach(ask, runtime)
        self._runner = cast(Runner, runtime)  # both runners are more than a Runtime

    # --- sessions ------------------------------------------------------------------------------------------

    def _open_now(self) -> Session:
        self._ask_author(self.author.check, "check")
        if self.target.create:
            _make_folder(self.place, self.name)
        connection = open_connection(self.target, self.name)
        try:
            session = OwnSession(connection, self.target.path, self.clock.monotonic(), self.fence)
        except BaseException:
            connection.really_close()
            raise
        session.work = None
        return session

    def close(self, session: Session) -> Script[None]:
        """See `Resource`. A work that has not voted is thrown away; one that has is recovery's."""
        ours = _ours(session)
        if ours.work is not None and not ours.voted:
            with contextlib.suppress(Exception):
                yield Blocking(lambda: self._throw_away(ours), "abort (own)")
        yield from super().close(session)

    def connection(self, session: Session) -> Any:
        """The author's work, guarded."""
        work = _ours(session).work
        assert work is not None, "connection follows begin"
        return work

    # --- set-up ----------------------------------------------------------------------------------------------

    def look_only(self) -> Sequence[Finding]:
        findings = super().look_only()
        if findings or os.path.exists(self.place):
            return findings
        return (Finding(Severity.OK, "place", f"{self.place} is not there yet; made at first use"),)

    def init_statements(self) -> Sequence[str]:
        return (*super().init_statements(), _TABLE)

    def _make_tables(self, session: SqliteSession) -> Guid:
        guid = super()._make_tables(session)
        session.connection.run(_TABLE)
        return guid

    def contact(self, session: Session, contact: Contact) -> Script[Guid]:
        """See `Resource`. Finishes what is decided here and was left by a process that died, if it can."""
        guid = yield from super().contact(session, contact)
        try:
            yield from self._apply(_ours(session), patience_s=0.0)
        except ResourceManagerError as error:  # the manager must start (O37); recovery tries again, and tells
            _log.error("%s", error)
        return guid

    # --- a branch's life ----------------------------------------------------------------------------------------

    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        """See `Resource`. Raises what author.begin raises, too."""
        ours = _ours(session)
        deadline = self.clock.monotonic() + start.remaining_ms / 1000
        while True:
            left_ms = max(0, int((deadline - self.clock.monotonic()) * 1000))
            yield from super().begin(session, BranchStart(start.identifier, left_ms, start.read_only))
            begun: bool = yield Blocking(lambda: self._begin_work(ours, start), "begin (own)")
            if begun:
                return
            yield from self._apply(ours, patience_s=max(0.0, deadline - self.clock.monotonic()))

    def _begin_work(self, session: OwnSession, start: BranchStart) -> bool:
        """False: decided work has to be finished first, and the ledger's branch was given up."""
        try:
            if not start.read_only and _decided(session):
                session.roll_back()
                return False
            target = self.author.begin(read_only=start.read_only)
        except BaseException:
            session.roll_back()
            raise
        session.identifier = start.identifier
        session.work = OwnWork(target, self.name, self._runner)
        return True

    def savepoint(self, session: Session, name: str) -> Script[None]:
        work = self._target(session)
        mark = yield Blocking(lambda: self.author.savepoint(work), "savepoint (own)")
        self._marks(session)[name] = mark

    def release_savepoint(self, session: Session, name: str) -> Script[None]:
        self._marks(session).pop(name, None)
        return
        yield from ()

    def rollback_to_savepoint(self, session: Session, name: str) -> Script[None]:
        work, mark = self._target(session), self._marks(session)[name]
        yield Blocking(lambda: self.author.roll_back_to(work, mark), "roll back to a savepoint (own)")

    def _marks(self, session: Session) -> dict[str, Any]:
        work = _ours(session).work
        assert work is not None
        return marks_of(work)

    def wrote(self, session: Session) -> Script[bool | None]:
        work = self._target(session)
        if _ours(session).read_only:
            return False
        result: bool | None = yield Blocking(lambda: self.author.wrote(work), "did it write (own)")
        return result

    def prepare(self, session: Session) -> Script[Vote]:
        ours = _ours(session)
        no: Vote | None = yield Blocking(lambda: self._prepare_work(ours), "prepare (own)")
        vote = (yield from super().prepare(session)) if no is None else no
        if vote.choice is not Choice.YES:
            yield from self._drop(ours)
        return vote

    def commit_one_phase(self, session: Session) -> Script[Vote | Answer]:
        ours = _ours(session)
        identifier = ours.identifier
        no: Vote | None = yield Blocking(lambda: self._prepare_work(ours), "prepare (own)")
        said = (yield from super().commit_one_phase(session)) if no is None else no
        if said is not Answer.COMMITTED:
            yield from self._drop(ours)
            return said
        assert identifier is not None
        try:
            yield from self._committed(ours, identifier)
        except ResourceManagerError as error:  # decided all the same; the next pass of recovery tries it again
            _log.error("%s", error)
        return said

    def _prepare_work(self, session: OwnSession) -> Vote | None:
        """Ask the author, and write the row; or the vote no. A work without anything to commit writes no row."""
        assert session.work is not None, "prepare follows begin"
        end_work(session.work)
        if session.read_only:
            return None
        try:
            state = self.author.prepare(target_of(session.work))
            if not isinstance(state, bytes | None):
                raise self._broken(f"prepare returned {type(state).__name__}; it must be bytes, or None")
            if state is not None:
                assert session.identifier is not None
                row = (session.identifier.to_bytes(), state)
                session.connection.run("INSERT INTO decided_work (identifier, state) VALUES (?, ?)", row)
        except Exception as error:
            self._throw_away(session)  # while the ledger's lock is still ours
            session.roll_back()
            retryable = self.is_retryable(error)
            return Vote(Choice.NO, reason=f"it cannot be prepared: {error}", retryable=retryable, error=error)
        return None

    def commit(self, session: Session) -> Script[Answer]:
        ours = _ours(session)
        identifier = ours.identifier
        answer = yield from super().commit(session)
        if answer is not Answer.COMMITTED:
            return answer
        assert identifier is not None
        return (yield from self._committed(ours, identifier))

    def _committed(self, session: OwnSession, identifier: Identifier) -> Script[Answer]:
        """The ledger has committed: now the author's part. Raises when it failed; then others try it again."""
        session.work = None
        done = yield from self._apply(session, fresh=identifier)
        return Answer.COMMITTED if done else Answer.RETRY

    def abort(self, session: Session) -> Script[Answer]:
        ours = _ours(session)
        yield from self._drop(ours)  # while the ledger's lock is still ours
        return (yield from super().abort(session))

    def _drop(self, session: OwnSession) -> Script[None]:
        if session.work is not None:
            yield Blocking(lambda: self._throw_away(session), "abort (own)")

    def _throw_away(self, session: OwnSession) -> None:
        work, session.work = session.work, None
        assert work is not None
        end_work(work)
        try:
            self.author.abort(target_of(work))
        except Exception:
            # It has voted no, or never yes: it cannot be committed any more, and begin may clean up after it.
            _log.exception("The resource %r: abort of %s raised; its work is not committed.", self.name, self.safe_url)

    # --- finding out and finishing ----------------------------------------------------------------------------

    def scan(self, session: Session) -> Script[list[Found]]:
        """See `Resource`. What is decided here and not done yet is done now, if nobody is at it."""
        yield from self._apply(_ours(session), patience_s=0.0)
        return (yield from super().scan(session))

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        answer = yield from super().finish(session, identifier, commit=commit, state=state)
        if answer is Answer.COMMITTED and not (yield from self._apply(_ours(session), patience_s=0.0)):
            return Answer.RETRY
        return answer

    # --- what is decided and not done ----------------------------------------------------------------------------

    def _apply(
        self, session: OwnSession, *, fresh: Identifier | None = None, patience_s: float = PATIENCE_S
    ) -> Script[bool]:
        """Do whatever is decided here, oldest first. False: somebody else holds the lock and has not done it yet.
        `fresh` was prepared here a moment ago. Raises ResourceManagerError."""
        deadline = self.clock.monotonic() + patience_s
        while True:
            done: bool = yield Blocking(lambda: self._apply_now(session, fresh), "commit (own)")
            if done or self.clock.monotonic() >= deadline:
                return done
            yield Sleep(ASK_AGAIN_S)

    def _apply_now(self, session: OwnSession, fresh: Identifier | None) -> bool:
        session.require_current()
        while decided := _decided(session):
            forced = {raw for raw in decided if fresh is not None and raw == fresh.to_bytes()}
            if forced != set(decided):
                if settlement.under_lock(session, lambda: _count_redos(session)) is None:
                    return False
                forced = set(decided)
            if settlement.under_lock(session, partial(self._apply_forced, session, forced, fresh)) is None:
                return False
        return True

    def _apply_forced(self, session: OwnSession, forced: Set[bytes], fresh: Identifier | None) -> int:
        """Carry out those whose rows are certainly on disk, up to the first that is not."""
        rows = session.connection.run("SELECT identifier, state, redos FROM decided_work ORDER BY rowid")
        certain = list(itertools.takewhile(lambda row: row[0] in forced, rows))
        for raw, state, redos in certain:
            identifier = Identifier.from_bytes(raw)
            do = self.author.commit if identifier == fresh and not redos else self.author.redo
            try:
                do(state)
            except Exception as error:
                raise ResourceManagerError(
                    f"The resource {self.name!r} has branch {identifier} to commit, which is decided, but "
                    f"{self.author_class.__qualname__}.{do.__name__} raised {type(error).__name__}: {error}.",
                    advice="It is kept and tried again; no other work begins there before. Mend the cause.",
                ) from error
            session.connection.run("DELETE FROM decided_work WHERE identifier = ?", (raw,))
        return len(certain)

    # --- errors ---------------------------------------------------------------------------------------------------

    def is_retryable(self, error: BaseException) -> bool:
        return super().is_retryable(error) or self.author.is_retryable(error)

    def _target(self, session: Session) -> Any:
        work = _ours(session).work
        assert work is not None
        return target_of(work)

    def _broken(self, what: str) -> ResourceManagerError:
        return ResourceManagerError(
            f"The class {self.author_class.__qualname__} of the resource {self.name!r} breaks its contract: {what}.",
            advice="Nothing was committed there. Correct it; docs/resource-managers.md says what is asked of it.",
        )

    def _ask_author(self, call: Callable[[], T], what: str) -> T:
        try:
            return call()
        except SyncpointError:
            raise
        except Exception as error:
            raise ResourceUnavailable(
                f"The resource {self.name!r} cannot be used: {self.author_class.__qualname__}.{what} raised "
                f"{type(error).__name__}: {error}.",
                advice="Nothing was done there. Mend the cause, and try again.",
            ) from error


def _ours(session: Session) -> OwnSession:
    assert isinstance(session, OwnSession)
    return session


def _decided(session: OwnSession) -> list[bytes]:
    """Identifiers of what is decided here and not done."""
    try:
        rows = session.connection.run("SELECT identifier FROM decided_work ORDER BY rowid")
    except apsw.SQLError as error:
        if str(error).startswith("no such table"):  # nobody has made contact yet
            return []
        raise
    return [raw for (raw,) in rows]


def _count_redos(session: OwnSession) -> int:
    """A change of every row, whose COMMIT forces what came before it."""
    session.connection.run("UPDATE decided_work SET redos = redos + 1")
    return session.connection.changes()


def _make_folder(path: str, name: str) -> None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ResourceUnavailable(
            f"The folder {path} of the resource {name!r} cannot be made: {error.strerror or error}.",
            advice="Give this user the right to make it, or name another.",
        ) from error
