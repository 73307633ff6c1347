"""The MariaDB adapter: branches are XA transactions, always, one-phase ones too (DATABASES MariaDB 8).

    XA START … work … [INSERT evidence; XA END; XA PREPARE] … XA COMMIT        votes yes, phase two
    XA START … work … [INSERT evidence; XA END; XA COMMIT ONE PHASE]           the only branch that wrote
    XA START … work … [record; XA END; XA COMMIT ONE PHASE]                    it carries the decision (`decide`)
    XA START … reads …  XA END; XA ROLLBACK                                    read-only: nothing to prepare

What stands in brackets is one packet. The yes vote's state information names the connection that prepared, because
while that one lives nobody else can finish the branch and the server says "unknown XID" (DATABASES MariaDB 1).
COM_RESET_CONNECTION is never sent (DATABASES MariaDB 2). What is read of the server's set-up stands in
mariadb_setup.py, the SQL in mariadb_sql.py, the drivers in mariadb_driver.py. Not for: deciding what a vote means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from syncpoint.errors import ConnectionLost, ResourceUnavailable
from syncpoint.ids import Attempt, Guid, Identifier
from syncpoint.ports import Clock, Random
from syncpoint.resources import mariadb_setup as setup
from syncpoint.resources import mariadb_sql as sql
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
from syncpoint.resources.mariadb_borrowed import Borrowing
from syncpoint.resources.mariadb_driver import OPTIONS, Replies, make_driver, read_url
from syncpoint.resources.mariadb_session import WRONG_STATE, Holder, MariadbSession, Phase, error_code, is_drivers
from syncpoint.steps import Call, Script

DUPLICATE_KEY = 1062
DEADLOCK = 1213
LOCK_TIMEOUT = 1205
CHANGED_SINCE_READ = 1020  # innodb_snapshot_isolation
STATEMENT_TIMEOUT = 1969
COLUMN_IS_NULL = 1048
NOT_IN_TRANSACTION = 1242  # the guard of `sql.decide`: "subquery returns more than 1 row"
UNKNOWN_XID = 1397
DUPLICATE_XID = 1440
NOT_OWNER_OF_THREAD = 1095
ROLLED_BACK = frozenset((1402, 1613, 1614))  # XA_RBROLLBACK, XA_RBTIMEOUT, XA_RBDEADLOCK
RETRYABLE = frozenset((DEADLOCK, LOCK_TIMEOUT, CHANGED_SINCE_READ, STATEMENT_TIMEOUT, 1613, 1614))
NO_SUCH_TABLE = frozenset((1049, 1146))


class MariadbResource(Borrowing):
    """A database on a MariaDB server, 10.6 or later. `mariadb://user:password@host:port/database?option=value`."""

    scheme: ClassVar[str] = "mariadb"
    can_decide: ClassVar[bool] = True
    option_names: ClassVar[frozenset[str]] = OPTIONS

    def __init__(
        self, name: str, url: str, options: Mapping[str, str], *, mode: Mode, clock: Clock, random: Random
    ) -> None:
        super().__init__(name, url, options, mode=mode, clock=clock, random=random)
        self.address = read_url(name, url, options)
        self.driver = make_driver(mode, name, self.address)

    @property
    def safe_url(self) -> str:
        return self.address.safe_url

    def _send(self, session: Session, text: str, what: str) -> Call:
        return self.driver.send(_own(session), text, what)

    # --- connections -------------------------------------------------------------------------------

    def open(self) -> Script[Session]:
        session: MariadbSession = yield self.driver.open()
        return session

    def close(self, session: Session) -> Script[None]:
        # A prepared branch is detached by closing and stays (DATABASES MariaDB 6).
        yield self.driver.close(_own(session))

    def abandon(self, session: Session) -> None:
        self.driver.abandon(_own(session))

    def is_usable(self, session: Session) -> bool:
        own = _own(session)
        return super().is_usable(own) and own.phase is Phase.NONE and self.driver.of(own).is_connected(own)

    # --- set-up --------------------------------------------------------------------------------------

    def init_statements(self) -> Sequence[str]:
        return setup.init_statements(self.random, self.address.user)

    def initialise(self, session: Session) -> Script[None]:
        replies: Replies = yield self._send(session, setup.make_schema(self.random), "make the schema")
        setup.check_made(self, replies)

    def inspect(self, session: Session) -> Script[list[Finding]]:
        replies: Replies = yield self._send(session, setup.INSPECT, "inspect the set-up")
        return setup.findings(self, _own(session), replies)

    def contact(self, session: Session, contact: Contact) -> Script[Guid]:
        guid = yield from self._introduce(session, contact)
        if guid is None:
            yield from self.initialise(session)
            guid = yield from self._introduce(session, contact)
        assert guid is not None, "the schema was made just now"
        return guid

    def _introduce(self, session: Session, contact: Contact) -> Script[Guid | None]:
        text = sql.first_contact(contact.coordinator, contact.incarnation)
        replies: Replies = yield self._send(session, text, "first contact")
        return setup.read_contact(self, contact, replies)

    # --- a branch's life -------------------------------------------------------------------------------

    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        own = _own(session)
        own.ends()
        text = sql.begin(start, self.address.database, borrowed=own.driver is not None)
        replies: Replies = yield self._send(own, text, "XA START")
        if replies.code == DUPLICATE_XID:
            # The vote will be no (A4); until then nothing may be done outside a branch.
            own.identifier = start.identifier
            own.phase = Phase.DUPLICATE
            return
        replies.check()
        own.begins(start.identifier, read_only=start.read_only)

    def connection(self, session: Session) -> Any:
        own = _own(session)
        return self.driver.of(own).connection(own)

    def savepoint(self, session: Session, name: str) -> Script[None]:
        replies: Replies = yield self._send(session, f"SAVEPOINT {sql.quoted_name(name)}", "SAVEPOINT")
        replies.check()

    def release_savepoint(self, session: Session, name: str) -> Script[None]:
        replies: Replies = yield self._send(session, f"RELEASE SAVEPOINT {sql.quoted_name(name)}", "RELEASE SAVEPOINT")
        replies.check()

    def rollback_to_savepoint(self, session: Session, name: str) -> Script[None]:
        text = f"ROLLBACK TO SAVEPOINT {sql.quoted_name(name)}"
        replies: Replies = yield self._send(session, text, "ROLLBACK TO SAVEPOINT")
        replies.check()

    def wrote(self, session: Session) -> Script[bool | None]:
        own = _own(session)
        if own.wrote is None and not own.over and own.phase is Phase.WORKING:
            # What a result set hid (a function that writes, FOR UPDATE) comes with the next OK packet.
            replies: Replies = yield self._send(own, sql.REPORT, "ask what was written")
            if replies.code or own.over:
                own.wrote = True  # something is wrong: let the vote find out what
            elif own.wrote is None:
                own.wrote = False
        return own.wrote

    def prepare(self, session: Session) -> Script[Vote]:
        own = _own(session)
        early = yield from self._vote_early(own)
        if early is not None:
            return early
        replies: Replies = yield self._send(own, sql.prepare(_branch(own)), "XA PREPARE")
        if replies.code == 0:
            own.phase = Phase.PREPARED
            return Vote(Choice.YES, state=own.holder.to_bytes())
        return (yield from self._vote_no(own, replies))

    def _vote_early(self, own: MariadbSession) -> Script[Vote | None]:
        """The votes that need no XA PREPARE: no to a duplicate or a lost branch, read-only."""
        if own.phase is Phase.DUPLICATE:
            return self._no_duplicate(own)
        wrote = yield from self.wrote(own)
        if own.over:
            return (yield from self._vote_no(own, Replies(())))
        if wrote:
            return None
        # Not to be prepared: such a branch cannot be found again (DATABASES MariaDB 3).
        code = yield from self._undo(own)
        if code == 0:
            own.ends()
            return Vote(Choice.READ_ONLY)
        return self._no(own, code, Replies(()))

    def _no_duplicate(self, own: MariadbSession) -> Vote:
        own.ends()
        return Vote(Choice.NO, reason=f"a branch with its identifier exists already at {self.name!r}")

    def _vote_no(self, own: MariadbSession, replies: Replies) -> Script[Vote]:
        """Something failed on the way to the vote: leave nothing behind, and say why."""
        if len(replies.results) > 2:
            own.phase = Phase.IDLE  # XA END was answered
        code = yield from self._undo(own)
        if own.phase is Phase.IDLE and not _is_gone(code, replies):
            own.broken = True
            raise ConnectionLost(
                f"The branch {own.identifier} at {self.name!r} ended in an unknown way: {replies.error}.",
                advice="Its outcome is found out.",
            )
        return self._no(own, code, replies)

    def _no(self, own: MariadbSession, code: int, replies: Replies) -> Vote:
        """The vote after `_undo` returned `code`; `replies` hold what was tried before, and its error."""
        cause = own.error if replies.code in (0, WRONG_STATE) else replies.error
        retryable = code in RETRYABLE or (code != UNKNOWN_XID and cause is not None and self.is_retryable(cause))
        vote = Vote(Choice.NO, reason=_why(own, code, replies), retryable=retryable, error=cause)
        own.ends()
        return vote

    def _undo(self, own: MariadbSession) -> Script[int]:
        """Roll the branch back in whatever state; returns XA ROLLBACK's error number. Unless that is 0 the session is
        broken: closing it rolls back a branch that never came to XA PREPARE, and whatever else is open on it."""
        name = sql.xid(_branch(own))
        # A deadlock's victim, or a branch that XA END was said to, takes XA ROLLBACK only (DATABASES MariaDB 4).
        ways = [f"XA END {name}; XA ROLLBACK {name}", f"XA ROLLBACK {name}"]
        if own.over or own.phase is not Phase.WORKING:
            ways.reverse()
        for way in ways:
            replies: Replies = yield self._send(own, way, "XA ROLLBACK")
            if replies.code != WRONG_STATE:
                break
        own.broken = own.broken or replies.code != 0
        return replies.code

    def commit(self, session: Session) -> Script[Answer]:
        own = _own(session)
        assert own.phase is Phase.PREPARED, f"{own!r} has not voted yes"
        replies: Replies = yield self._send(own, f"XA COMMIT {sql.xid(_branch(own))}", "XA COMMIT")
        if replies.code == 0:
            own.ends()
            return Answer.COMMITTED
        own.broken = True
        return Answer.NOT_FOUND if replies.code in (UNKNOWN_XID, *ROLLED_BACK) else Answer.RETRY

    def commit_one_phase(self, session: Session) -> Script[Vote | Answer]:
        own = _own(session)
        early = yield from self._vote_early(own)
        if early is not None:
            return early
        replies: Replies = yield self._send(own, sql.commit_one_phase(_branch(own)), "XA COMMIT ONE PHASE")
        if replies.code == 0:
            own.ends()
            return Answer.COMMITTED
        return (yield from self._vote_no(own, replies))

    def decide(self, session: Session, statement: str) -> Script[Vote | Answer]:
        own = _own(session)
        if own.phase is Phase.DUPLICATE:
            return self._no_duplicate(own)
        if own.over:
            return (yield from self._vote_no(own, Replies(())))
        replies: Replies = yield self._send(own, sql.decide(_branch(own), statement), "decide and XA COMMIT ONE PHASE")
        if replies.code == 0:
            own.ends()
            return Answer.COMMITTED
        if replies.code == NOT_IN_TRANSACTION:
            return (yield from self._vote_no(own, Replies(())))
        own.phase = Phase.IDLE  # how far it came is not told: only XA ROLLBACK's answer proves that nothing is left
        vote = yield from self._vote_no(own, replies)
        refused = _refused.get(replies.code)
        return replace(vote, reason=refused, retryable=True) if refused else vote

    def abort(self, session: Session) -> Script[Answer]:
        own = _own(session)
        if own.phase in (Phase.NONE, Phase.DUPLICATE):
            own.ends()
            return Answer.ABORTED
        prepared = own.phase is Phase.PREPARED
        code = yield from self._undo(own)
        own.ends()
        if not prepared or code in (0, *ROLLED_BACK):
            return Answer.ABORTED
        return Answer.NOT_FOUND if code == UNKNOWN_XID else Answer.RETRY

    # --- finding out and finishing -----------------------------------------------------------------------

    def scan(self, session: Session) -> Script[list[Found]]:
        # Server-wide: a branch is listed by every resource of this server, which all have the same GUID.
        replies: Replies = yield self._send(session, sql.RECOVER, "XA RECOVER")
        return [sql.found(row[3]) for row in replies.check().rows]

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        holder = Holder.from_bytes(state)
        replies: Replies = yield self._send(session, sql.finish(identifier, commit=commit), "finish by identifier")
        answer = _finished(replies, commit=commit)
        if answer is not None:
            return answer
        # Unknown to this connection: is it gone, or does the connection that prepared it still live?
        seen: Replies = yield self._send(session, sql.look(holder.connection_id if holder else 0), "look for it")
        if not any(sql.found(row[3]).identifier == identifier for row in seen.check().results[0].rows):
            return Answer.NOT_FOUND
        if holder is None or seen.rows != ((holder.account, holder.server_started),):
            return Answer.RETRY  # another connection's, or another start of the server: never KILL that one
        text = sql.kill_and_finish(holder.connection_id, identifier, commit=commit)
        replies = yield self._send(session, text, "KILL its connection, finish")
        if replies.code == NOT_OWNER_OF_THREAD:
            raise _may_not_kill(self, holder) from replies.error
        return _finished(replies, commit=commit) or Answer.RETRY

    def evidence(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        replies: Replies = yield self._send(session, sql.read_evidence(identifier), "read the evidence")
        if replies.code in (LOCK_TIMEOUT, DEADLOCK):
            return Evidence.UNDECIDED
        if replies.code in NO_SUCH_TABLE:
            return Evidence.UNKNOWN
        rows = replies.check().rows
        return Evidence.COMMITTED if rows and rows[0][0] else Evidence.ABSENT

    def settle(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        replies: Replies = yield self._send(session, sql.settle(identifier), "settle by the evidence's key")
        if replies.code == 0:
            return Evidence.ABSENT  # the row is ours: a late commit fails on its key
        if replies.code in (LOCK_TIMEOUT, DEADLOCK):
            return Evidence.UNDECIDED
        if replies.code == DUPLICATE_KEY:
            return (yield from self.evidence(session, identifier))
        assert replies.error is not None  # its code is not 0
        raise replies.error

    def evidence_attempts(
        self, session: Session, coordinator: Guid, after: Attempt, limit: int
    ) -> Script[list[Attempt]]:
        text = sql.evidence_attempts(coordinator, after, limit)
        replies: Replies = yield self._send(session, text, "list evidence")
        return [Attempt.from_int(row[0]) for row in replies.check().rows]

    def drop_evidence(self, session: Session, coordinator: Guid, attempts: Sequence[Attempt]) -> Script[int]:
        if not attempts:
            return 0
        replies: Replies = yield self._send(session, sql.evidence_rows(coordinator, attempts), "read evidence to drop")
        rows = [(int(attempt), int(branch)) for attempt, branch in replies.check().rows]
        if not rows:
            return 0
        replies = yield self._send(session, sql.drop_evidence(coordinator, rows), "drop evidence")
        if replies.code != 0:
            _own(session).broken = True  # a transaction is open on it: closing rolls that back
            if replies.code in (LOCK_TIMEOUT, DEADLOCK):
                return 0  # somebody else is dropping them
            replies.check()
        return sum(reply.affected for reply in replies.results)

    # --- what errors mean ------------------------------------------------------------------------------------

    def is_retryable(self, error: BaseException) -> bool:
        return is_drivers(error) and error_code(error) in RETRYABLE

    def blockers(self, session: Session) -> Script[str]:
        own = _own(session)
        if own.broken:
            return ""
        try:
            replies: Replies = yield self._send(own, setup.BLOCKERS, "who holds locks")
        except Exception:
            return ""
        return setup.describe_blockers(replies)


_refused: Mapping[int, str] = {
    DUPLICATE_KEY: "another record of this transaction was there first",
    COLUMN_IS_NULL: "this process was taken for dead, and its decisions are refused",
}
"""Why the journal's table did not take the record that a branch carried: nothing else in that packet can say so."""


def _own(session: Session) -> MariadbSession:
    assert isinstance(session, MariadbSession), f"{session!r} is no session of this resource"
    return session


def _branch(own: MariadbSession) -> Identifier:
    assert own.identifier is not None, f"{own!r} has no branch"
    return own.identifier


def _is_gone(code: int, replies: Replies) -> bool:
    """Whether XA ROLLBACK's answer, after XA PREPARE or COMMIT failed, proves that nothing is left."""
    return code in (0, *ROLLED_BACK) or (code == UNKNOWN_XID and replies.code in ROLLED_BACK)


def _why(own: MariadbSession, code: int, replies: Replies) -> str:
    """For people: why the vote is no."""
    if code == UNKNOWN_XID and replies.code not in ROLLED_BACK:
        return "its branch was ended by SQL text, behind the transaction's back"
    if replies.code == DUPLICATE_KEY and len(replies.results) == 1:
        return "its outcome was settled already: rolled back"
    if replies.code in (0, WRONG_STATE):
        return f"the server is no longer in its branch (its last error: {own.error or 'none'})"
    return f"the server refused: {replies.error}"


def _finished(replies: Replies, *, commit: bool) -> Answer | None:
    """The answer, or None for "unknown XID", which proves nothing (DATABASES MariaDB 1)."""
    if replies.code == UNKNOWN_XID:
        return None
    if replies.code in ROLLED_BACK:
        return Answer.NOT_FOUND if commit else Answer.ABORTED
    if replies.code != 0:
        return Answer.RETRY
    if not commit:
        return Answer.ABORTED
    # OK without evidence: a connection was reset, and the branch comes back with a restart (DATABASES MariaDB 2).
    return Answer.COMMITTED if replies.rows else Answer.RETRY


def _may_not_kill(resource: MariadbResource, holder: Holder) -> ResourceUnavailable:
    return ResourceUnavailable(
        f"A branch at {resource.name!r} is held by the lingering connection {holder.connection_id} "
        f"({holder.account}), and this account may not end it.",
        advice=f"Run: KILL {holder.connection_id}; or GRANT CONNECTION ADMIN ON *.* to this account.",
    )
