"""What can go wrong, as the caller sees it. Each error says what happened and what to do next.

Three answers tell the caller whether to try again:

    TransactionAborted   nothing happened anywhere; safe to retry
    OutcomePending       the decision is not known yet: do not retry, ask `manager.outcome(id)`
    HeuristicOutcome     somebody decided alone; call a person

Errors of the user's own code and of drivers pass through unwrapped. Not for: expected answers of
resources (those are values: `resources.base.Vote`, `Answer`).
"""

from __future__ import annotations

from typing import Any


class SyncpointError(Exception):
    """Base of all errors of Syncpoint.

    Parameters: `message` says what happened, to which transaction and resource; `advice` says what to do next.
    """

    advice: str

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(f"{message} {advice}".strip())
        self.message = message
        self.advice = advice


class ConfigurationError(SyncpointError):
    """A URL, a configuration key or an argument is wrong; nothing was touched."""


class UnknownResource(ConfigurationError):
    """No resource of that name is configured."""


class IdTooLong(ConfigurationError):
    """The user's id, or its scope, is empty or too long."""


class NotAllowed(SyncpointError):
    """The call would end or change the branch behind the manager's back (commit, rollback, autocommit, close)."""


class ContextRefused(SyncpointError):
    """The context of another manager's transaction cannot be joined: forged, expired, used, or its transaction has
    ended. Nothing was done under it."""


class TransactionEnded(SyncpointError):
    """The transaction has ended; it can do no more work."""


class ResultNotStorable(SyncpointError):
    """The value to be stored with the commit is no JSON or MessagePack value. The transaction is aborted."""


class FormatTooNew(SyncpointError):
    """Bytes were written by a later version of Syncpoint. Nothing was changed."""

    def __init__(self, what: str, found: int, known: int) -> None:
        super().__init__(
            f"This {what} has format version {found}; this Syncpoint reads up to version {known}.",
            advice="Run the newer Syncpoint that wrote it.",
        )
        self.found = found
        self.known = known


class SetupRefused(SyncpointError):
    """A database or folder is set up so that a promise could not be kept (DESIGN section 3, lying set-ups)."""


class WrongResource(SetupRefused):
    """The database at this URL is not the one recorded under this name: its GUID differs."""


class ResourceUnavailable(SyncpointError):
    """A database could not be reached, or refused us, before any work was done there."""


class ResourceManagerError(SyncpointError):
    """A resource manager of the user's own broke its contract, or could not carry out what is decided."""


class Fenced(SyncpointError):
    """Another incarnation of this resource manager serves the data now (B7). Nothing was changed; this process must
    stop."""


class RemoteError(SyncpointError):
    """What a resource manager's process met. `kind` is the error's name there, for example "apsw.ConstraintError";
    `retryable` says whether the same work may succeed when run again. For Python's own errors (`FileNotFoundError`)
    it is an instance of those as well."""

    def __init__(self, message: str, *, kind: str, retryable: bool = False, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.kind = kind
        self.retryable = retryable


class ConnectionLost(SyncpointError):
    """The connection died while a statement was under way: whether it took effect is unknown.

    Internal to the package: manager code turns it into a state and finds out.
    """


class ManagerClosed(SyncpointError):
    """The manager is closed, or has stopped after its journal failed (R5)."""


# --- link ------------------------------------------------------------------------------------------


class MessageTooLarge(SyncpointError):
    """A message is larger than the link's frames may be; it was not sent."""

    def __init__(self, what: str, size_bytes: int, size_bytes_max: int) -> None:
        super().__init__(
            f"The message {what} has {size_bytes} bytes; a link carries at most {size_bytes_max}.",
            advice="Send it in parts, or raise frame_bytes_max at both ends.",
        )


# --- journal ---------------------------------------------------------------------------------------


class JournalError(SyncpointError):
    """Base of the journal's errors."""


class JournalRefused(JournalError):
    """The journal cannot be used as it stands: no rights, a restored copy, another's folder, not a journal."""


class JournalDamaged(JournalError):
    """A record that had been forced cannot be read. Refused to start; nothing was changed (O41)."""

    def __init__(self, path: str, offset: int, why: str) -> None:
        folder = path.rpartition("/")[0].removesuffix("/segments")
        super().__init__(
            f"The journal is damaged: {path}, byte {offset}: {why}.",
            advice="Nothing was changed. List what can be read with "
            f"`syncpoint journal salvage {folder}`, "
            "and restore the disk before starting again.",
        )
        self.path = path
        self.offset = offset


class JournalFailed(JournalError):
    """Forcing to the local disk failed or its outcome is unknown: the manager stops at once (R5)."""


class JournalUncertain(JournalError):
    """A remote journal did not answer: whether the record is there must be settled by proof."""


class JournalUnavailable(JournalError):
    """A remote journal could not be reached, or refused us, before anything was written there."""


# --- transactions ----------------------------------------------------------------------------------


class TransactionError(SyncpointError):
    """Base of what a transaction's end can raise. `transaction` is its id as text."""

    def __init__(self, message: str, *, transaction: str, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.transaction = transaction


class TransactionAborted(TransactionError):
    """Nothing of this transaction happened anywhere. `retryable` says whether the same call may succeed."""

    def __init__(self, message: str, *, transaction: str, retryable: bool, advice: str = "") -> None:
        super().__init__(message, transaction=transaction, advice=advice)
        self.retryable = retryable


class TransactionTimeout(TransactionAborted):
    """The transaction's time was over before its decision; it was aborted."""


class OutcomePending(TransactionError):
    """The decision itself is unknown yet: do not retry; ask `manager.outcome(id)`. Recovery settles it."""


class AlreadyCommitted(TransactionError):
    """A transaction with this id was committed before; `result` is what was stored with it (C7, C8)."""

    def __init__(self, *, transaction: str, result: Any) -> None:
        super().__init__(
            f"The transaction {transaction!r} is committed already; it was not run again.",
            transaction=transaction,
            advice="Its stored result is in `.result`.",
        )
        self.result = result


class ResultUnreadable(TransactionError):
    """The transaction is committed, but the bytes stored as its result are no value. It was not run again."""


class TransactionRunning(TransactionError):
    """A transaction with this id is running now; it was not run a second time (C7)."""


class DifferentRequest(TransactionError):
    """The same id was used before for another request (O51); nothing was run."""


class HeuristicOutcome(TransactionError):
    """Somebody decided a branch alone: a person must look. `branches` maps resource name to its answer."""

    def __init__(self, message: str, *, transaction: str, branches: dict[str, str]) -> None:
        super().__init__(
            message,
            transaction=transaction,
            advice=f"Look at it with `syncpoint show {transaction}`, mend the data, "
            f"then `syncpoint forget {transaction}`.",
        )
        self.branches = branches


class HeuristicMixed(HeuristicOutcome):
    """Some branches are committed and some are not."""


class HeuristicHazard(HeuristicOutcome):
    """It cannot be told whether some branch is committed."""
