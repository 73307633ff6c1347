"""The Resource: a resource manager as the transaction manager sees it. The interface of every adapter.

An adapter is written once, as scripts (R2, `steps.py`), and made with the driver that fits the runner.
It knows its database's statements and traps (each trap cited); it decides nothing about transactions:
what a vote or a missing branch means stands in `protocol/`. Adapters for other databases register
under the entry point group `syncpoint.resources` by URL scheme.

A session is one connection. A branch has one session from begin to its end; another session may finish
it after that one is lost. Not for: pools (resources/pool.py), retries, deciding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, ClassVar, Literal, TypeAlias

from syncpoint.errors import ConfigurationError
from syncpoint.ids import Attempt, Guid, Identifier, Incarnation
from syncpoint.ports import Clock, Random, Runtime
from syncpoint.protocol.words import Answer, Choice, Decision, Evidence
from syncpoint.steps import Script

__all__ = [
    "Answer",
    "Ask",
    "BranchStart",
    "Choice",
    "Contact",
    "Decision",
    "Evidence",
    "Finding",
    "Found",
    "Mode",
    "Resource",
    "Ruling",
    "Session",
    "Severity",
    "Vote",
]

Mode = Literal["sync", "async"]


@dataclass(frozen=True, slots=True)
class Vote:
    """A branch's answer to prepare. After NO or READ_ONLY nothing of the branch is left in the database."""

    choice: Choice
    state: bytes = b""
    """With YES: what a fresh resource manager needs to finish the branch (B2)."""
    reason: str = ""
    """With NO: for people."""
    retryable: bool = False
    """With NO: whether the same work may succeed next time (a serialization failure)."""
    error: BaseException | None = None
    """With NO: the driver's own error, to be the cause of TransactionAborted."""
    incarnation: int = 0
    """Of the resource-manager process that gave it (B7); 0: it is no process."""


class Severity(Enum):
    OK = auto()
    WARNING = auto()
    REFUSED = auto()


NOT_SHOWN: Mapping[str, bool] = {"shown": False}
"""The metadata of a field that is not for people: no JSON document has it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `syncpoint doctor`. `fix` is the one line that mends it."""

    severity: Severity
    check: str
    found: str
    fix: str = ""
    for_prepare: bool = field(default=False, metadata=NOT_SHOWN)
    """It matters only where branches are prepared: a journal's own database can do without."""


@dataclass(frozen=True, slots=True)
class Found:
    """A prepared branch that a scan saw. `identifier` is None for a foreign one (O33)."""

    identifier: Identifier | None
    name: str
    """Its name in the database, for people."""
    note: str = ""
    """Anything the database tells about it: owner, age."""
    prepared_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Contact:
    """Who speaks to the database: left there at first contact, before recovery touches it (O53)."""

    coordinator: Guid
    incarnation: Incarnation
    highest: Incarnation
    """The journal's counter. A database that has seen more refuses: JournalRefused."""


@dataclass(frozen=True, slots=True)
class BranchStart:
    """What begin needs."""

    identifier: Identifier
    remaining_ms: int
    """What is left of the transaction's timeout: becomes lock and statement timeouts."""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Ruling:
    decision: Decision
    state: bytes = b""
    """With COMMIT: the branch's state information, as the Commit record holds it."""


Ask: TypeAlias = Callable[[Identifier], Script[Ruling]]
"""How a resource asks its transaction manager for the outcome of a branch, by identifier (A6)."""


class Session:
    """One connection and what is known about it. Adapters subclass it."""

    __slots__ = ("broken", "identifier", "opened_at")

    def __init__(self) -> None:
        self.identifier: Identifier | None = None
        """The branch on it: a session with one is never handed out again."""
        self.broken = False
        """Its state is unknown (lost reply, cancelled statement): it can only be closed."""
        self.opened_at = 0.0


class Resource(ABC):
    """One resource manager, by name and URL.

    Errors: a script that raises `errors.ConnectionLost` leaves the outcome of that statement unknown;
    `errors.ResourceUnavailable` means nothing was done. Anything else is a database error and was not done.
    After ConnectionLost the adapter has set `session.broken`.
    """

    scheme: ClassVar[str]
    supports_prepare: ClassVar[bool] = True
    single_writer: bool = False
    """Only one branch at a time can write (SQLite): the manager queues first come, first served."""
    has_redo: bool = False
    """The vote's state information can redo the branch (SQLite)."""
    speaks_sql: bool = True
    """What `connection` gives runs SQL. Otherwise it has methods of its own."""
    can_decide: ClassVar[bool] = False
    """A branch can carry the decision when the journal lives in its own database (`decide`)."""
    needs_vote: ClassVar[bool] = False
    """It never commits in one phase: the only branch is asked for its vote too (a subordinate manager)."""
    option_names: ClassVar[frozenset[str]] = frozenset()
    """Options of the URL (or configuration table) it understands, besides `pool_size_max`."""

    def __init__(
        self, name: str, url: str, options: Mapping[str, str], *, mode: Mode, clock: Clock, random: Random
    ) -> None:
        """Parse; touch nothing. Raises ConfigurationError on a bad URL or option, and on a missing driver."""
        self.name = name
        self.mode = mode
        self.clock = clock
        self.random = random
        self.ask: Ask | None = None

    def attach(self, ask: Ask, runtime: Runtime) -> None:
        """Called by the manager before the first session is opened."""
        self.ask = ask

    @property
    @abstractmethod
    def safe_url(self) -> str:
        """The URL without secrets, for messages."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.safe_url}>"

    # --- connections -------------------------------------------------------------------------------

    @abstractmethod
    def open(self) -> Script[Session]:
        """Connect. Raises ResourceUnavailable (with what to do) when it cannot."""

    @abstractmethod
    def close(self, session: Session) -> Script[None]:
        """Close; never raises. An unprepared branch on it is rolled back by the database, a prepared one stays."""

    @abstractmethod
    def abandon(self, session: Session) -> None:
        """In a forked child: make sure the parent's connection is never written to by this process. Never raises."""

    def is_usable(self, session: Session) -> bool:
        """Whether an idle session may be handed out again, as far as can be told without asking the server."""
        return not session.broken and session.identifier is None

    # --- connections that somebody else opened and keeps (a framework's) ----------------------------------

    def borrow(self, connection: Any, runtime: Runtime) -> Script[tuple[Session, Guid | None]]:
        """A session over a connection of the driver's that is in no transaction, and the database's GUID as seen on
        it (None: it has none). Raises ConfigurationError (this adapter cannot borrow), ConnectionLost, SetupRefused."""
        raise ConfigurationError(
            f"A connection to a {self.scheme} database cannot be lent to a transaction.",
            advice=f"Use tx.connect({self.name!r}), which opens one of Syncpoint's own.",
        )
        yield from ()

    def give_back(self, session: Session) -> Script[None]:
        """After a branch on a borrowed session: leave the connection's settings as they were found. What cannot be
        restored is marked `broken`. Never raises."""
        return
        yield from ()

    # --- set-up --------------------------------------------------------------------------------------

    @abstractmethod
    def init_statements(self) -> Sequence[str]:
        """What `syncpoint init` runs, in order, as a person could type it (own schema, least rights)."""

    @abstractmethod
    def initialise(self, session: Session) -> Script[None]:
        """Run them, idempotently, and give the database its GUID if it has none."""

    @abstractmethod
    def inspect(self, session: Session) -> Script[list[Finding]]:
        """Look for lying set-ups (DESIGN section 3) and missing rights. Changes nothing."""

    def look_only(self) -> Sequence[Finding]:
        """Called before `open` by whoever must change nothing: opening makes nothing from here on. Findings, where
        there is nothing to open yet and the first use would make it."""
        return ()

    @abstractmethod
    def contact(self, session: Session, contact: Contact) -> Script[Guid]:
        """First contact of a process: make the schema if rights allow (else raise SetupRefused with the SQL),
        leave the incarnation, return the database's GUID. Raises JournalRefused when the database has seen a
        later incarnation of this coordinator than the journal's counter (O53)."""

    def recognise(self, session: Session, contact: Contact) -> Script[Guid]:
        """As `contact`, but it changes nothing and waits for no writer: the incarnation is left later."""
        return (yield from self.contact(session, contact))

    def serve_as(self, session: Session, incarnation: int) -> Script[None]:
        """From now on this object changes the data as this incarnation of a resource-manager process (B7): write it
        into the data, durably, and let every later change check it first. Told again, it changes nothing.

        Raises Fenced when the data have seen a higher one, and then so does every change from there on;
        ResourceUnavailable when it could not be written now. ConfigurationError: this adapter knows no incarnations.
        """
        raise ConfigurationError(
            f"The resource {self.name!r} ({self.scheme}) cannot be served by a process of its own.",
            advice="Processes serve SQLite files and classes of your own (docs/resource-managers.md).",
        )
        yield from ()

    def data_guid(self, session: Session) -> Script[Guid | None]:
        """The data's GUID, read without a change and without waiting for a writer; None: they have none yet."""
        return None
        yield from ()

    def served_as(self, session: Session) -> Script[int]:
        """The highest incarnation that the data have seen; 0: none."""
        return 0
        yield from ()

    # --- a branch's life, on its own session ------------------------------------------------------------

    @abstractmethod
    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        """Begin the branch: marker, lock and statement timeouts. A stale idle connection raises ConnectionLost."""

    @abstractmethod
    def connection(self, session: Session) -> Any:
        """The driver's own connection, as `connect()` returns it: commit, rollback, autocommit and close refused."""

    @abstractmethod
    def savepoint(self, session: Session, name: str) -> Script[None]: ...

    @abstractmethod
    def release_savepoint(self, session: Session, name: str) -> Script[None]: ...

    @abstractmethod
    def rollback_to_savepoint(self, session: Session, name: str) -> Script[None]: ...

    def wrote(self, session: Session) -> Script[bool | None]:
        """Whether the branch wrote anything; None when only `prepare` can tell. At most one round trip, none when
        it is known already. Asked only when it can save a prepare (DESIGN section 7, n = 1)."""
        return None
        yield from ()

    @abstractmethod
    def prepare(self, session: Session) -> Script[Vote]:
        """Vote; yes only when the vote is durable (A3) and the command tag says so (O21).

        A branch that the user ended behind our back votes no. A branch that wrote nothing ends here: READ_ONLY.
        """

    @abstractmethod
    def commit(self, session: Session) -> Script[Answer]:
        """Phase two of a branch that voted yes on this session."""

    @abstractmethod
    def commit_one_phase(self, session: Session) -> Script[Vote | Answer]:
        """Commit the only branch that wrote, with its evidence in the same packet. Vote READ_ONLY or NO, or
        COMMITTED or ABORTED. A lost reply raises ConnectionLost; `settle` finds out (O20)."""

    def decide(self, session: Session, statement: Any) -> Script[Vote | Answer]:
        """Run `statement` (what `Journal.decision` returned: SQL text, of one statement or several joined by "; ")
        inside the working branch, and commit it, all in one packet: that commit is the decision.

        COMMITTED; or Vote NO, and nothing stays of the branch, nor of the statement: the branch had failed, was ended
        behind our back, or the record was refused, which is retryable. A lost reply raises ConnectionLost: the
        journal settles it by writing Abort (O46). No evidence is left: the record is the evidence.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot carry a decision")
        yield from ()

    @abstractmethod
    def abort(self, session: Session) -> Script[Answer]:
        """Roll back the branch on its own session, whatever its state: working, failed, or voted."""

    # --- finding out and finishing, on any session ---------------------------------------------------------

    @abstractmethod
    def scan(self, session: Session) -> Script[list[Found]]:
        """Every prepared branch of this database, foreign ones included. Raises if it cannot be complete (O35)."""

    @abstractmethod
    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        """Commit or roll back a prepared branch by identifier. NOT_FOUND says only that."""

    @abstractmethod
    def evidence(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        """What the database proves about a branch that is not found prepared."""

    @abstractmethod
    def settle(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        """After a one-phase commit whose reply was lost: find out by writing the same evidence key ourselves.
        COMMITTED, or ABSENT and then for ever so (the late commit fails on the key), or UNDECIDED: ask again."""

    def redo(self, session: Session, identifier: Identifier, state: bytes) -> Script[Answer]:
        """Redo a decided branch that was lost, from its state information, evidence included (B8). Idempotent."""
        raise NotImplementedError(f"{type(self).__name__} has no redo")

    @abstractmethod
    def evidence_attempts(
        self, session: Session, coordinator: Guid, after: Attempt, limit: int
    ) -> Script[list[Attempt]]:
        """The oldest attempts, from `after` on, of which evidence of a commit is kept; at most `limit`. Not the keys
        that `settle` wrote: they stay for ever, or a very late commit would find its key free."""

    @abstractmethod
    def drop_evidence(self, session: Session, coordinator: Guid, attempts: Sequence[Attempt]) -> Script[int]:
        """Delete evidence of commits in one small batch; returns how many rows. Never those of a prepared branch, nor
        what `settle` wrote."""

    # --- what errors mean ------------------------------------------------------------------------------------

    @abstractmethod
    def is_retryable(self, error: BaseException) -> bool:
        """Whether the same work may succeed when run again: serialization failure, deadlock, lock timeout."""

    @abstractmethod
    def blockers(self, session: Session) -> Script[str]:
        """Who holds what this session's last statement waited for; empty when it cannot be told. Never raises."""
