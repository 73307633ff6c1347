"""The PostgreSQL resource: branches, votes, evidence, recovery (traps: DATABASES.md, PostgreSQL).

    begin                BEGIN, marker, timeouts                                   one packet
    prepare, it wrote    guard, evidence INSERT, PREPARE TRANSACTION               one packet
    prepare, unknown     guard, evidence INSERT if an xid is assigned              one packet, then
                         PREPARE TRANSACTION, or the end of a branch that wrote nothing
    commit               COMMIT PREPARED                                           alone, or PostgreSQL refuses it
    commit_one_phase     guard, evidence INSERT if an xid is assigned, COMMIT      one packet
    decide               guard, the journal's record, COMMIT                       one packet

The *guard* is a SELECT that fails unless the branch's marker, set with SET LOCAL at begin, is still there: if the
transaction's own SQL has ended the branch, nothing after the guard runs. Every command tag is checked (traps 1, 9).
Nothing is kept in a server session between branches, so PgBouncer in transaction mode works (postgres_pooler.py).
Not for: talking to libpq (postgres_driver.py), the user's connection (postgres_connection.py), the schema
(postgres_setup.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar

import psycopg
from psycopg import pq

from syncpoint.errors import ConnectionLost, ResourceUnavailable, SyncpointError
from syncpoint.ids import Attempt, Guid, Identifier
from syncpoint.ports import Clock, Random
from syncpoint.resources import postgres_errors as errors
from syncpoint.resources import postgres_evidence as records
from syncpoint.resources import postgres_setup as setup
from syncpoint.resources.base import (
    Answer,
    BranchStart,
    Choice,
    Contact,
    Evidence,
    Finding,
    Found,
    Mode,
    Session,
    Vote,
)
from syncpoint.resources.postgres_borrowed import Borrowing
from syncpoint.resources.postgres_connection import Watch
from syncpoint.resources.postgres_driver import (
    ACTIVE,
    IDLE,
    INERROR,
    LIBPQ_OPTIONS,
    Address,
    PostgresSession,
    Reply,
    abandon,
    has_news,
    make_driver,
    quoted,
)
from syncpoint.resources.postgres_finish import finish_by_gid
from syncpoint.steps import Local, Script

IDLE_GRACE_MS = 10_000
"""How long after the transaction's own timeout the server ends a branch that nobody works on."""
BEGIN_GRACE_S = 1.0
"""How long beyond the transaction's timeout its beginning is waited for: behind a pooler it has to queue."""
STATEMENT_GRACE_MS = 250
"""Statements get so much more than lock waits, so that a lock wait is reported as one."""


class Phase(Enum):
    """How far a branch has come on its session. The middle ones are uncertain until the reply is there."""

    WORKING = auto()
    PREPARING = auto()
    PREPARED = auto()
    COMMITTING = auto()


@dataclass(slots=True)
class Branch:
    """The branch on a session."""

    identifier: Identifier
    gid: str
    read_only: bool
    watch: Watch
    connection: Any
    phase: Phase = Phase.WORKING
    reads_count: bool = False
    """It wrote nothing, and is serializable: ended by COMMIT even when it is let go, or its reads would not count."""


class PostgresResource(Borrowing):
    """PostgreSQL 15 and later through psycopg 3; URL `postgresql://user:password@host:port/database?option=…`."""

    scheme: ClassVar[str] = "postgresql"
    can_decide: ClassVar[bool] = True
    option_names: ClassVar[frozenset[str]] = LIBPQ_OPTIONS

    def __init__(
        self, name: str, url: str, options: Mapping[str, str], *, mode: Mode, clock: Clock, random: Random
    ) -> None:
        super().__init__(name, url, options, mode=mode, clock=clock, random=random)
        self._address = Address(name, url, options)
        self._driver = make_driver(mode, name, self._address)

    @property
    def safe_url(self) -> str:
        return self._address.safe_url

    # --- connections -------------------------------------------------------------------------------------------

    def open(self) -> Script[Session]:
        session: PostgresSession = yield self._driver.open()
        session.opened_at = self.clock.monotonic()
        return session

    def close(self, session: Session) -> Script[None]:
        mine = _mine(session)
        self._end(mine)
        yield from self._hang_up(mine)

    def _hang_up(self, session: PostgresSession) -> Script[None]:
        """Close the connection; the server rolls back. One that is busy would notice only when it is done."""
        if session.status == ACTIVE:
            with contextlib.suppress(psycopg.Error):
                yield self._driver.cancel(session)
        yield Local(session.pgconn.finish, "disconnect")

    def abandon(self, session: Session) -> None:
        mine = _mine(session)
        self._end(mine)
        mine.broken = True
        abandon(mine.pgconn)

    def is_usable(self, session: Session) -> bool:
        mine = _mine(session)
        return super().is_usable(session) and mine.branch is None and not mine.tainted and not has_news(mine.pgconn)

    # --- set-up ------------------------------------------------------------------------------------------------

    def init_statements(self) -> Sequence[str]:
        return (*setup.STATEMENTS, setup.GRANTS)

    def initialise(self, session: Session) -> Script[None]:
        yield from setup.initialise(self._driver, _mine(session))

    def inspect(self, session: Session) -> Script[list[Finding]]:
        return (yield from setup.inspect(self._driver, _mine(session)))

    def contact(self, session: Session, contact: Contact) -> Script[Guid]:
        return (yield from setup.contact(self._driver, _mine(session), contact))

    # --- a branch's life ---------------------------------------------------------------------------------------

    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        mine = _mine(session)
        assert mine.branch is None, f"{mine.branch} is on this session already"
        gid = start.identifier.to_gid()
        lock_ms = max(1, start.remaining_ms)
        # SET LOCAL only, and no query: the transaction's own SET TRANSACTION ISOLATION LEVEL must still be allowed.
        sql = (
            f"BEGIN{' READ ONLY' if start.read_only else ''}; SET LOCAL syncpoint.branch = '{gid}'; "
            f"SET LOCAL lock_timeout = {lock_ms}; SET LOCAL statement_timeout = {lock_ms + STATEMENT_GRACE_MS}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {lock_ms + IDLE_GRACE_MS}"
        )
        reply: Reply = yield self._driver.ask(mine, sql, "BEGIN", lock_ms / 1000 + BEGIN_GRACE_S)
        if reply.error is not None:
            mine.broken = True
            raise reply.error
        watch = Watch(mine, self.name, str(start.identifier.key))
        connection = self._driver.connection(mine, watch)
        mine.branch = Branch(start.identifier, gid, start.read_only, watch, connection)
        mine.identifier = start.identifier
        mine.waited_for = None

    def connection(self, session: Session) -> Any:
        return _branch(session).connection

    def savepoint(self, session: Session, name: str) -> Script[None]:
        reply: Reply = yield self._driver.query(_mine(session), f"SAVEPOINT {quoted(name)}", "SAVEPOINT")
        reply.check()

    def release_savepoint(self, session: Session, name: str) -> Script[None]:
        sql = f"RELEASE SAVEPOINT {quoted(name)}"
        reply: Reply = yield self._driver.query(_mine(session), sql, "RELEASE SAVEPOINT")
        reply.check()

    def rollback_to_savepoint(self, session: Session, name: str) -> Script[None]:
        sql = f"ROLLBACK TO SAVEPOINT {quoted(name)}"
        reply: Reply = yield self._driver.query(_mine(session), sql, "ROLLBACK TO SAVEPOINT")
        reply.check()

    def wrote(self, session: Session) -> Script[bool | None]:
        mine, branch = _mine(session), self._last_words(session)
        if branch.read_only or branch.watch.wrote:
            return not branch.read_only
        if self._refusal(mine) is not None:
            return None  # prepare will say why
        sql = f"SELECT {records.XID_ASSIGNED}, {records.SERIALIZABLE}"
        reply: Reply = yield self._driver.query(mine, sql, "ask whether it wrote")
        reply.check()
        branch.watch.wrote = reply.rows(0)[0][0] == "t"
        branch.reads_count = reply.rows(0)[0] == ("f", "t")
        return branch.watch.wrote

    # --- votes -------------------------------------------------------------------------------------------------

    def prepare(self, session: Session) -> Script[Vote]:
        mine, branch = _mine(session), self._last_words(session)
        refusal = self._refusal(mine)
        if refusal is not None:
            yield from self._drop(mine)
            return refusal
        if branch.read_only:
            return (yield from self._release(mine, serializable=True))
        if branch.watch.wrote:
            branch.phase = Phase.PREPARING
            sql = f"{records.guard(branch.gid)}; {records.insert(branch.identifier)}; {_prepare(branch)}"
            reply: Reply = yield self._driver.query(mine, sql, "evidence and PREPARE TRANSACTION")
            return (yield from self._count(mine, reply))
        sql = f"{records.guard(branch.gid)}; {records.insert_if_wrote(branch.identifier)}"
        reply = yield self._driver.query(mine, sql, "evidence, if it wrote")
        seen = records.Guarded(reply)
        if seen.wrote_nothing:  # trap 5: it would take a slot for nothing
            return (yield from self._release(mine, serializable=seen.serializable))
        if reply.error is not None:
            return (yield from self._count(mine, reply))
        branch.phase = Phase.PREPARING
        reply = yield self._driver.query(mine, _prepare(branch), "PREPARE TRANSACTION")
        return (yield from self._count(mine, reply))

    @staticmethod
    def _last_words(session: Session) -> Branch:
        """From its end on, a stray thread or task can no longer write through the branch's connection."""
        branch = _branch(session)
        branch.watch.over = True
        return branch

    def _count(self, session: PostgresSession, reply: Reply) -> Script[Vote]:
        """The vote that the reply to PREPARE amounts to."""
        if reply.tag == b"PREPARE TRANSACTION":
            _branch(session).phase = Phase.PREPARED
            return Vote(Choice.YES)
        vote = self._no(reply)
        yield from self._drop(session)
        return vote

    def _release(self, session: PostgresSession, *, serializable: bool) -> Script[Vote]:
        """End a branch that wrote nothing. A serializable one must commit: only then was what it read consistent."""
        branch = _branch(session)
        if serializable:
            sql = f"{records.guard(branch.gid)}; COMMIT"
            reply: Reply = yield self._driver.query(session, sql, "COMMIT of a branch that wrote nothing")
            if reply.tag != b"COMMIT":
                vote = self._no(reply)
                yield from self._drop(session)
                return vote
        yield from self._drop(session)
        return Vote(Choice.READ_ONLY)

    def _refusal(self, session: PostgresSession) -> Vote | None:
        """The no vote that can be told without asking the server."""
        branch = _branch(session)
        error = branch.watch.error
        if session.lost:
            return Vote(Choice.NO, reason="its connection was lost before it was asked", retryable=True, error=error)
        if _ended_by(session):
            return Vote(Choice.NO, reason=_ended(_ended_by(session)))
        if session.status == INERROR:  # trap 1
            why = "one of its statements failed, and the rest of the branch with it"
            return Vote(Choice.NO, reason=why, retryable=error is not None and errors.is_retryable(error), error=error)
        if session.status == ACTIVE or session.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            return Vote(Choice.NO, reason="a COPY, a stream or a pipeline is still open on its connection")
        return None

    def _no(self, reply: Reply) -> Vote:
        error = reply.error
        if error is None:  # traps 1 and 9: it returned normally after rolling back
            tag = reply.tag.decode() or "nothing"
            return Vote(Choice.NO, reason=f"the transaction had failed before: PostgreSQL answered {tag}")
        if records.marker_missing(reply):
            return Vote(Choice.NO, reason=_ended("SQL text"), error=error)
        refused = errors.refused_record(error)
        if refused:
            return Vote(Choice.NO, reason=refused, retryable=True, error=error)
        return Vote(Choice.NO, reason=errors.reason(error), retryable=errors.is_retryable(error), error=error)

    def _drop(self, session: PostgresSession) -> Script[None]:
        """Make sure that nothing of a branch that never prepared is left, and end it."""
        in_transaction = session.status not in (IDLE, ACTIVE)
        if session.lost or session.status == ACTIVE or session.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            session.broken = True
            yield from self._hang_up(session)
        elif in_transaction:
            try:
                yield self._driver.query(session, "ROLLBACK", "ROLLBACK")
            except ConnectionLost:
                session.broken = True  # the server rolls back
        self._end(session)

    def _end(self, session: PostgresSession) -> None:
        """The branch has ended: its connection object can do no more."""
        branch, session.branch = session.branch, None
        session.identifier = None
        if branch is not None:
            branch.watch.over = True
            session.tainted = session.tainted or branch.watch.taints
            error, branch.watch.error = branch.watch.error, None
            session.waited_for = error if isinstance(error, psycopg.Error) and errors.is_lock_wait(error) else None

    # --- outcomes ----------------------------------------------------------------------------------------------

    def commit(self, session: Session) -> Script[Answer]:
        mine, branch = _mine(session), _branch(session)
        assert branch.phase is Phase.PREPARED, f"commit of a branch that is {branch.phase.name}"
        answer = yield from finish_by_gid(self._driver, mine, branch.gid, commit=True)
        if answer is Answer.COMMITTED:
            self._end(mine)
        return answer

    def commit_one_phase(self, session: Session) -> Script[Vote | Answer]:
        mine, branch = _mine(session), self._last_words(session)
        refusal = self._refusal(mine)
        if refusal is not None:
            yield from self._drop(mine)
            return refusal
        wrote = branch.watch.wrote
        evidence = records.insert if wrote else records.insert_if_wrote
        middle = "" if branch.read_only else f"{evidence(branch.identifier)}; "
        branch.phase = Phase.COMMITTING
        sql = f"{records.guard(branch.gid)}; {middle}COMMIT"
        reply: Reply = yield self._driver.query(mine, sql, "evidence and COMMIT")
        seen = records.Guarded(reply)
        if reply.tag == b"COMMIT":  # trap 9
            self._end(mine)
            return Vote(Choice.READ_ONLY) if seen.wrote_nothing and not wrote else Answer.COMMITTED
        vote = Vote(Choice.READ_ONLY) if seen.wrote_nothing and reply.code == errors.READ_ONLY else self._no(reply)
        yield from self._drop(mine)
        return vote

    def decide(self, session: Session, statement: str) -> Script[Vote | Answer]:
        mine, branch = _mine(session), self._last_words(session)
        vote = self._refusal(mine)
        if vote is None:
            branch.phase = Phase.COMMITTING
            sql = f"{records.guard(branch.gid)}; {statement}; COMMIT"
            reply: Reply = yield self._driver.query(mine, sql, "decision and COMMIT")
            if reply.tag == b"COMMIT":  # trap 9
                self._end(mine)
                return Answer.COMMITTED
            vote = self._no(reply)
        yield from self._drop(mine)
        return vote

    def abort(self, session: Session) -> Script[Answer]:
        mine = _mine(session)
        branch = mine.branch
        if branch is None:
            return Answer.ABORTED
        if mine.lost or (branch.phase is not Phase.WORKING and mine.status == ACTIVE):
            mine.broken = True
            raise ConnectionLost(f"The connection of the branch {branch.identifier} was lost before it was aborted.")
        if branch.phase is Phase.WORKING or mine.status != IDLE:
            self._last_words(mine)
            if (branch.reads_count or branch.read_only) and self._refusal(mine) is None:
                yield from self._release(mine, serializable=True)
                return Answer.ABORTED
            ended_by = _ended_by(mine)
            yield from self._drop(mine)
            return _ALONE.get(ended_by, Answer.ABORTED)
        if branch.phase is Phase.COMMITTING:
            return Answer.NOT_FOUND  # interrupted in the middle: `settle` finds out, or the journal
        answer = yield from finish_by_gid(self._driver, mine, branch.gid, commit=False)
        if answer is Answer.NOT_FOUND and branch.phase is Phase.PREPARING:
            # Its own server session is idle, so its PREPARE is not under way any more: it has failed (O16).
            answer = Answer.ABORTED
        if answer is Answer.ABORTED:
            self._end(mine)
        return answer

    # --- finding out and finishing -----------------------------------------------------------------------------

    def scan(self, session: Session) -> Script[list[Found]]:
        mine = _mine(session)
        reply: Reply = yield self._driver.ask(mine, records.SCAN, "list prepared branches")
        reply.check()
        if reply.rows(0)[0][0] == "t":
            raise SyncpointError(
                f"The resource {self.name!r} ({self.safe_url}) is a standby, which does not list prepared branches.",
                advice="Point its URL at the primary, for example with ?target_session_attrs=read-write.",
            )
        return [records.found(row) for row in reply.rows(1)]

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        return (yield from finish_by_gid(self._driver, _mine(session), identifier.to_gid(), commit=commit))

    def evidence(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        reply: Reply = yield self._driver.ask(_mine(session), records.look(identifier), "look for evidence")
        return records.judge(reply)

    def settle(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        reply: Reply = yield self._driver.ask(_mine(session), records.bar(identifier), "write barring evidence")
        return records.judge(reply)

    def evidence_attempts(
        self, session: Session, coordinator: Guid, after: Attempt, limit: int
    ) -> Script[list[Attempt]]:
        sql = records.attempts(coordinator, after, limit)
        reply: Reply = yield self._driver.ask(_mine(session), sql, "list evidence")
        reply.check()
        return [records.attempt(row) for row in reply.rows(0)]

    def drop_evidence(self, session: Session, coordinator: Guid, attempts: Sequence[Attempt]) -> Script[int]:
        if not attempts:
            return 0
        reply: Reply = yield self._driver.ask(_mine(session), records.drop(coordinator, attempts), "drop evidence")
        reply.check()
        return int(reply.tag.rpartition(b" ")[2])

    # --- what errors mean --------------------------------------------------------------------------------------

    def is_retryable(self, error: BaseException) -> bool:
        return errors.is_retryable(error)

    def blockers(self, session: Session) -> Script[str]:
        mine = _mine(session)
        error = mine.waited_for or (mine.branch.watch.error if mine.branch is not None else None)
        relation = errors.waited_relation(error)
        if relation is None or mine.broken or mine.lost or mine.status != IDLE:
            return ""
        try:
            reply: Reply = yield self._driver.ask(mine, records.holders(relation), "ask who holds the lock")
        except (ConnectionLost, ResourceUnavailable):
            return ""
        return "; ".join(row[0] or "" for row in reply.rows(0))


_ALONE: Mapping[str, Answer] = {
    "COMMIT": Answer.HEURISTIC_COMMIT,
    "PREPARE TRANSACTION": Answer.HEURISTIC_HAZARD,
    "SQL text": Answer.HEURISTIC_HAZARD,
}
"""What aborting a branch comes to that the transaction's own SQL has ended before."""


def _ended_by(session: PostgresSession) -> str:
    """How the transaction's own SQL ended a working branch; empty if it did not, as far as can be seen from here."""
    idle = session.status == IDLE and _branch(session).phase is Phase.WORKING
    return _branch(session).watch.ended_by or ("SQL text" if idle else "")


def _ended(how: str) -> str:
    kept = "" if how == "ROLLBACK" else "; what it did until then is not undone"
    return f"the branch was ended by {how} behind the transaction's back{kept}"


def _prepare(branch: Branch) -> str:
    return f"PREPARE TRANSACTION '{branch.gid}'"


def _mine(session: Session) -> PostgresSession:
    assert isinstance(session, PostgresSession), f"not a session of this adapter: {session!r}"
    return session


def _branch(session: Session) -> Branch:
    branch = _mine(session).branch
    assert branch is not None, "no branch is on this session"
    return branch
