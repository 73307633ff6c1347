"""SQLAlchemy's `Connection` over a branch: what a Session is bound to.

Its root transaction is the branch: begun already, and ended only by the transaction's block. So everything that
SQLAlchemy calls a transaction on it is a savepoint: a Session that joins makes one when it begins, releases it in
`commit()` and rolls back to it in `rollback()`. Nothing here ever sends BEGIN, COMMIT or ROLLBACK.
Not for: engines (sqlalchemy.py), or what a dialect sends (sqlalchemy_dialects.py).
"""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass
from typing import Any, NoReturn

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, NestedTransaction, RootTransaction
from sqlalchemy.engine.interfaces import ExecutionContext
from sqlalchemy.orm import Session

from syncpoint.errors import NotAllowed
from syncpoint.manager.transaction import Work
from syncpoint.protocol.coordinator import State

_READS = re.compile(r"\s*(?:select|show|values|explain|describe|pragma|savepoint|release|rollback)\b", re.IGNORECASE)
_HARMLESS_CHARACTERISTICS = frozenset(("logging_token",))


def refusal(what: str, resource: str) -> NotAllowed:
    """What a call gets that would end or change the branch behind the manager's back."""
    return NotAllowed(
        f"{what} would end or change the transaction's branch at {resource!r} behind its back.",
        advice="Leave the transaction's block instead: it commits everywhere, or, on an exception, nowhere. For a part "
        "that may fail use Session.begin_nested() or Connection.begin_nested().",
    )


@dataclass(slots=True)
class Savepoint:
    """A savepoint of SQLAlchemy's that is open."""

    name: str
    depth: int
    """How many nested blocks of the manager were open when it was made."""
    wrote: bool = False


class BranchTransaction(RootTransaction):
    """SQLAlchemy's view of the branch: a transaction that only the transaction's block ends."""

    __slots__ = ()
    connection: BranchConnection

    def commit(self) -> NoReturn:
        raise refusal("Committing SQLAlchemy's transaction", self.connection.resource)

    def rollback(self) -> NoReturn:
        raise refusal("Rolling back SQLAlchemy's transaction", self.connection.resource)

    def close(self) -> NoReturn:
        raise refusal("Closing SQLAlchemy's transaction", self.connection.resource)


class BranchConnection(Connection):
    """A SQLAlchemy Connection inside a transaction's branch; the bind for a Session."""

    def __init__(self, engine: Engine, work: Work, resource: str) -> None:
        self.work = work
        self.resource = resource
        self.savepoints: list[Savepoint] = []
        """SQLAlchemy's own that are open, outermost first."""
        self.sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        """Every Session that has begun on this connection."""
        super().__init__(engine)
        if engine.dialect.is_async:
            # The pool would warn when it is collected: nobody closes it, because the transaction ends elsewhere.
            super().detach()
        if not self.in_transaction():
            self.begin()

    def __repr__(self) -> str:
        return f"<BranchConnection {self.resource} of {self.work!r}>"

    # --- for the dialects ----------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether the transaction's work is over: nothing may be sent any more."""
        return self.work.ended or self.work.coordinator.state is not State.ACTIVE

    def before_statement(self, statement: str, context: ExecutionContext | None) -> None:
        """Called before anything is sent. Raises TransactionEnded: the session below may be another's by now."""
        self.work.check_active()
        if self.savepoints and not self.savepoints[-1].wrote and not _only_reads(statement, context):
            self.savepoints[-1].wrote = True

    def savepoint_made(self, name: str) -> None:
        """SAVEPOINT was answered."""
        self.savepoints.append(Savepoint(name, len(self.work.savepoints)))

    def check_savepoint(self, name: str) -> None:
        """Raises NotAllowed when a nested block of the manager began or ended since this savepoint was made.

        The database would have no such savepoint any more, or the block would lose its own.
        """
        mine = next((one for one in self.savepoints if one.name == name), None)
        if mine is None or mine.depth == len(self.work.savepoints):
            return
        error = NotAllowed(
            f"A Session's transaction at {self.resource!r} began outside the nested block in which it ends, or the "
            f"other way round; the transaction {self.work.name!r} will be aborted.",
            advice="Begin and end (commit, rollback, close) a Session's transaction in one and the same block, or use "
            "Session.begin_nested() instead of a nested block.",
        )
        self.work.retryable = False
        self.work.cancel("a Session and a nested block were not nested properly", error)
        raise error

    def savepoint_gone(self, name: str, *, kept: bool) -> None:
        """RELEASE, or ROLLBACK TO, was answered. What was kept belongs to the savepoint around it."""
        names = [one.name for one in self.savepoints]
        if name not in names:
            return
        at = names.index(name)
        wrote = kept and any(one.wrote for one in self.savepoints[at:])
        del self.savepoints[at:]
        if wrote and self.savepoints:
            self.savepoints[-1].wrote = True

    def unfinished(self) -> str:
        """What a Session has left undone on it, for people; empty when nothing."""
        if any(session.new or session.dirty or session.deleted for session in self.sessions):
            return "changes that were never flushed"
        if any(one.wrote for one in self.savepoints):
            return "changes that were flushed but not committed"
        return ""

    # --- joining -------------------------------------------------------------------------------------------

    def in_nested_transaction(self) -> bool:
        """True: whatever joins is never outermost, so a Session with the default `join_transaction_mode` makes a
        savepoint of its own."""
        return True

    def _get_required_nested_transaction(self) -> NestedTransaction:
        # Asked by a Session that was told "control_fully" or "rollback_only" when there is no savepoint to join.
        if self._nested_transaction is None:
            raise NotAllowed(
                f"A Session at {self.resource!r} wants to commit or roll back the transaction's branch itself.",
                advice='Leave its join_transaction_mode alone, or make it "create_savepoint".',
            )
        return super()._get_required_nested_transaction()

    def begin(self) -> RootTransaction:
        """Begun already; refused to users."""
        if self._transaction is not None:
            raise refusal("begin()", self.resource)
        return BranchTransaction(self)

    # --- refused -------------------------------------------------------------------------------------------

    def begin_twophase(self, xid: Any | None = None) -> NoReturn:
        raise NotAllowed(
            f"The branch at {self.resource!r} is part of a two-phase commit already: Syncpoint's.",
            advice="Make the Session without twophase=True.",
        )

    def commit(self) -> NoReturn:
        raise refusal("Connection.commit()", self.resource)

    def rollback(self) -> NoReturn:
        raise refusal("Connection.rollback()", self.resource)

    def close(self) -> NoReturn:
        raise refusal("Connection.close()", self.resource)

    def __enter__(self) -> NoReturn:
        # SQLAlchemy's `with connection:` closes it at the end: refuse before any work is done.
        raise refusal("`with connection:`", self.resource)

    def detach(self) -> NoReturn:
        raise refusal("Connection.detach()", self.resource)

    def invalidate(self, exception: BaseException | None = None) -> None:
        """SQLAlchemy calls this when the connection is lost; refused to users."""
        if exception is None:
            raise refusal("Connection.invalidate()", self.resource)
        super().invalidate(exception)

    def execution_options(self, **opt: Any) -> Any:
        """As SQLAlchemy's, but the branch's isolation level and the like stay as the URL says."""
        characteristics = getattr(self.dialect, "connection_characteristics", {})
        for name in opt:
            if name in characteristics and name not in _HARMLESS_CHARACTERISTICS:
                raise refusal(f"The execution option {name!r}", self.resource)
        return super().execution_options(**opt)


def _only_reads(statement: str, context: ExecutionContext | None) -> bool:
    if any(getattr(context, name, False) for name in ("isinsert", "isupdate", "isdelete", "isddl")):
        return False
    return _READS.match(statement) is not None


@event.listens_for(Session, "after_begin")
def _session_begins(session: Session, _: Any, connection: Connection) -> None:
    if isinstance(connection, BranchConnection):
        connection.sessions.add(session)
