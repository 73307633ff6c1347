"""What the blocking and the asyncio transaction have in common: everything that does not wait.

Not for: waiting (sync.py, aio.py), or the manager's insides (core.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

from syncpoint.errors import ConfigurationError, NotAllowed, SyncpointError, TransactionAborted
from syncpoint.manager import exporting
from syncpoint.manager.branch import driver_errors
from syncpoint.manager.contexts import Context
from syncpoint.manager.core import Core
from syncpoint.manager.results import digest_of, encode_result, fingerprint_of
from syncpoint.manager.transaction import Work
from syncpoint.protocol.coordinator import State
from syncpoint.protocol.judgement import Result
from syncpoint.protocol.subordinate import Subordinate
from syncpoint.steps import Script, Sleep

Wait = Literal["applied", "decided"]
RETRY_PAUSE_S_MIN = 0.01
RETRY_PAUSE_S_MAX = 1.0


class BaseTransaction:
    """A running transaction, as the user's code holds it."""

    def __init__(self, manager: object, work: Work) -> None:
        self.manager = manager
        self.work = work
        self.is_rollback_only = False
        """Whether `set_rollback_only` was called. A failure that dooms the transaction does not set it."""

    def __repr__(self) -> str:
        return repr(self.work)

    @property
    def id(self) -> str | None:
        """The user's id, or None."""
        return self.work.user_id

    @property
    def transaction(self) -> str:
        """The transaction id, 32 hexadecimal digits: what the commands and the journal call it."""
        return str(self.work.key.transaction)

    @property
    def attempt(self) -> str:
        """Which try at this transaction this is, "incarnation.counter": unique among all tries of all processes."""
        return str(self.work.key.attempt)

    @property
    def pending(self) -> frozenset[str]:
        """After the block: resources whose branch is decided but has not acknowledged yet; recovery goes on with
        them (O18). Empty when it is committed everywhere."""
        return self.work.coordinator.pending if self.work.coordinator.state is not State.ABORTED else frozenset()

    def set_rollback_only(self, why: str = "the application asked for it") -> None:
        """Whatever happens in the rest of the block, abort at its end (O06)."""
        self.work.check_active()
        self.is_rollback_only = True
        self.work.retryable = False
        self.work.cancel(f"marked rollback-only: {why}")

    def set_result(self, value: Any) -> None:
        """Store a value with the commit (C8); `AlreadyCommitted.result` gives it to a resend.

        Raises ResultNotStorable, and the transaction is aborted at the block's end.
        """
        self.work.check_active()
        try:
            self.work.result = encode_result(value, transaction=self.work.name)
        except SyncpointError as error:
            self.work.retryable = False
            self.work.cancel("its result cannot be stored", error)
            raise

    def export(self) -> Context:
        """A context with which one other manager can take part: send its `headers` or `as_dict()` along. For each
        call to another service a new one. Raises TransactionEnded, ConfigurationError (this manager is in no tree)."""
        return exporting.export(self.work)

    def after_commit(self, callback: Callable[[], Any]) -> None:
        """Call `callback()` once the transaction is decided commit. Not called when it aborts; lost in a crash.
        An exception in it is logged, never raised: the transaction is committed.

        Raises NotAllowed in a joined transaction: its outcome comes when the block is long over, or after a restart."""
        self.work.check_active()
        if isinstance(self.work.coordinator, Subordinate):
            raise NotAllowed(
                "after_commit() has no meaning where a transaction is only taken part in.",
                advice="Do it where the transaction was begun.",
            )
        self.work.callbacks.append(callback)

    @property
    def is_committed(self) -> bool:
        """Whether it is decided commit, and not known to have come out otherwise."""
        coordinator = self.work.coordinator
        if coordinator.state is State.COMMITTING:
            return True
        return coordinator.state is State.COMMITTED and coordinator.result is Result.COMMITTED


def block_left(work: Work, error: BaseException | None) -> None:
    """Tell the observers that the user's block is over, and whether `run` would try again what it raised."""
    watch = work.core.watch
    if watch.observers:
        watch.left(work, retryable=None if error is None else should_retry(work.core, error))


def no_decorated_id(user_id: str | None) -> None:
    """Raises ConfigurationError: a decorator begins a new transaction at each call."""
    if user_id is not None:
        raise ConfigurationError(
            "A decorator with a fixed id would run its function once for ever.",
            advice="Use manager.run(function, …, id=…).",
        )


def no_nested_id(user_id: str | None) -> None:
    """Raises ConfigurationError: an inner block is a savepoint of the outer one."""
    if user_id is not None:
        raise ConfigurationError(
            f"A block with id={user_id!r} cannot be nested in another transaction.",
            advice="Give the id to the outermost block.",
        )


def whoami() -> str:
    """Who acts, for the journal."""
    user = os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.getuid()}"
    return f"{user}@{os.uname().nodename}"


def check_wait(wait: str) -> bool:
    """Whether to wait until the decision is applied. Raises ConfigurationError."""
    if wait not in ("applied", "decided"):
        raise ConfigurationError(f"wait={wait!r} is not known.", advice='Use wait="applied" or wait="decided".')
    return wait == "applied"


def request_fingerprint(
    function: Callable[..., Any], args: Sequence[Any], user_id: str | None, given: bytes | str | None
) -> bytes:
    """What tells this request from another one under the same id (O51)."""
    if given is not None:
        return digest_of(given)
    return fingerprint_of(function, args, {}) if user_id is not None else b""


def should_retry(core: Core, error: BaseException) -> bool:
    """Whether `run` may try again: only when it is certain that nothing happened, and it may go better."""
    if isinstance(error, TransactionAborted):
        return error.retryable
    resources = [handle.resource for handle in core.handles.values()]
    return any(resource.is_retryable(one) for one in driver_errors(error) for resource in resources)


def pause(core: Core, tries: int) -> Script[None]:
    """Before the next try: doubling, jittered."""
    longest = min(RETRY_PAUSE_S_MAX, RETRY_PAUSE_S_MIN * 2.0**tries)
    yield Sleep(longest * (0.5 + core.random.fraction() / 2))
