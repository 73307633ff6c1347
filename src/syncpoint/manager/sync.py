"""`TransactionManager`: the blocking manager. Runs the manager's scripts on threads.

Not for: rules; every line that decides stands in core.py, commit.py or below.
"""

from __future__ import annotations

import functools
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from dataclasses import replace
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from syncpoint.errors import (
    AlreadyCommitted,
    ConfigurationError,
    ManagerClosed,
    TransactionError,
    TransactionTimeout,
)
from syncpoint.manager import commit, context, joining, operators
from syncpoint.manager.assembly import Plan, ResourceSpec
from syncpoint.manager.base import (
    BaseTransaction,
    Wait,
    block_left,
    check_wait,
    no_decorated_id,
    no_nested_id,
    pause,
    request_fingerprint,
    should_retry,
    whoami,
)
from syncpoint.manager.contexts import Context, ContextLike
from syncpoint.manager.observer import Observer
from syncpoint.manager.reports import (
    HeuristicEntry,
    InDoubtBranch,
    Outcome,
    RecoveryReport,
    ResolvedBranch,
    TransactionReport,
)
from syncpoint.manager.results import digest_of
from syncpoint.manager.tree import Part, Tree
from syncpoint.ports import Clock, Disk, Random
from syncpoint.resources.pool import Sessions
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
log = logging.getLogger("syncpoint")
CLOSE_S_MAX = 30.0

_managers: weakref.WeakSet[TransactionManager] = weakref.WeakSet()


class Transaction(BaseTransaction):
    """A running transaction over blocking drivers."""

    manager: TransactionManager

    def connect(self, resource: str, *, read_only: bool = False) -> Any:
        """The driver's own connection, inside this transaction's branch at `resource`; begun at the first call.

        With `read_only` the branch may not write (a SQLite branch then needs no turn).
        Raises UnknownResource, ResourceUnavailable, SetupRefused, TransactionEnded, TransactionTimeout, or the
        driver's error. Ending the branch on it is refused by name: the block's end commits.
        """
        branch = self.manager._run(self.work.branch(resource, read_only=read_only))
        assert branch.session is not None
        return branch.handle.resource.connection(branch.session)

    def connect_on(self, resource: str, sessions: Sessions) -> Any:
        """As `connect`, but the branch is begun on a session that `sessions` gives instead of the manager's pool: for
        frameworks that keep connections of their own. Raises ConfigurationError when it has begun already."""
        if resource in self.work.branches:
            raise ConfigurationError(
                f"The branch of transaction {self.work.name!r} at {resource!r} has begun already.",
                advice="Lend the connection before anything is done there.",
            )
        branch = self.manager._run(self.work.branch(resource, sessions=sessions))
        assert branch.session is not None
        return branch.handle.resource.connection(branch.session)

    def sqlalchemy(self, resource: str) -> Any:
        """A SQLAlchemy `Connection` inside this transaction's branch: a bind for `Session`. See
        `syncpoint.integrations.sqlalchemy`. Raises ConfigurationError when SQLAlchemy is not installed."""
        from syncpoint.integrations.sqlalchemy import connection_of

        return connection_of(self, resource)


class TransactionBlock:
    """What `manager.transaction()` returns: a context manager, or a decorator that begins a new one at each call."""

    def __init__(
        self, manager: TransactionManager, user_id: str | None, timeout_s: float | None, wait: Wait, fingerprint: bytes
    ) -> None:
        self._manager = manager
        self._user_id = user_id
        self._timeout_s = timeout_s
        self._wait: Wait = wait
        self._fingerprint = fingerprint
        self._transaction: Transaction | None = None
        self._savepoint = ""
        self._callbacks_before = 0
        self._token: Token[context.Stack] | None = None

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        no_decorated_id(self._user_id)

        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._manager.transaction(timeout=self._timeout_s, wait=self._wait):
                return function(*args, **kwargs)

        return inside

    def __enter__(self) -> Transaction:
        manager = self._manager
        outer = context.innermost(manager)
        if isinstance(outer, Transaction):
            no_nested_id(self._user_id)
            self._savepoint = manager._run(outer.work.enter_nested())
            self._callbacks_before = len(outer.work.callbacks)
            self._transaction = outer
        else:
            work = manager._run(
                manager._core.begin(
                    user_id=self._user_id,
                    timeout_s=self._timeout_s,
                    wait_applied=check_wait(self._wait),
                    fingerprint=self._fingerprint,
                )
            )
            self._transaction = Transaction(manager, work)
            work.core.watch.entered(work)
        self._token = context.push(self._transaction)
        return self._transaction

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        transaction, token = self._transaction, self._token
        assert transaction is not None
        assert token is not None
        context.pop(token, transaction)
        if not self._savepoint:
            block_left(transaction.work, error)
        if self._savepoint:
            if error is not None:
                del transaction.work.callbacks[self._callbacks_before :]
            self._manager._run(transaction.work.leave_nested(self._savepoint, keep=error is None))
        elif error is None:
            self._manager._commit(transaction)
        else:
            self._manager._abort(transaction, error)


class JoinBlock:
    """What `manager.join()` returns: a context manager. The block is this manager's part of its superior's
    transaction."""

    def __init__(self, manager: TransactionManager, sent: ContextLike, *, authenticated: bool) -> None:
        self._manager = manager
        self._sent = sent
        self._authenticated = authenticated
        self._part: Part | None = None
        self._transaction: Transaction | None = None
        self._token: Token[context.Stack] | None = None

    def __enter__(self) -> Transaction:
        manager = self._manager
        part = manager._run(joining.join(manager._core, self._sent, authenticated=self._authenticated))
        self._part, self._transaction = part, Transaction(manager, part.work)
        self._token = context.push(self._transaction)
        part.work.core.watch.entered(part.work)
        return self._transaction

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._part is not None
        assert self._transaction is not None
        assert self._token is not None
        context.pop(self._token, self._transaction)
        block_left(self._part.work, error)
        self._manager._run(joining.leave(self._manager._core, self._part, error))


class TransactionManager:
    """Transactions over several databases, for blocking code. Safe to use from many threads.

    Parameters: `journal` is where decisions are durable: a folder. `resources` maps names to URLs, or to tables
    with `url` and options. `scope` keeps the ids of different applications apart. `timeout` is in seconds, for one
    transaction. `background=False` starts no recovery (for commands). `observers` are told what happens
    (`syncpoint.manager.observer`). With `tree` it exports and joins transactions (docs/trees.md). Constructing
    touches nothing; `open()` or the `with` block does. Raises ConfigurationError.
    """

    def __init__(
        self,
        journal: str | os.PathLike[str],
        resources: Mapping[str, ResourceSpec],
        *,
        scope: str = "",
        timeout: float = 30.0,
        background: bool = True,
        clock: Clock | None = None,
        random: Random | None = None,
        disk: Disk | None = None,
        observers: Iterable[Observer] = (),
        tree: Tree | None = None,
    ) -> None:
        self._plan = Plan.of(
            journal,
            resources,
            scope=scope,
            timeout=timeout,
            background=background,
            clock=clock,
            random=random,
            disk=disk,
            observers=observers,
            tree=tree,
        )
        self._runner = ThreadRunner()
        self._core = self._plan.build(self._runner, "sync")
        self._is_open = False
        self._pid = os.getpid()
        _managers.add(self)

    def __repr__(self) -> str:
        return f"<TransactionManager {'open' if self._is_open else 'closed'} {self._core!r}>"

    def add_observer(self, observer: Observer) -> None:
        """Have one more object told what happens here: see `syncpoint.manager.observer`."""
        self._plan.observers.append(observer)

    @property
    def incarnation(self) -> int:
        """Which start of a process this is: the number its branches carry. Only after `open`."""
        return self._core.journal.incarnation

    @property
    def resources(self) -> tuple[str, ...]:
        """The names of the configured resources, sorted."""
        return tuple(sorted(self._core.handles))

    # --- life ------------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Open the journal, contact the resources, recover what an earlier process left.

        Raises JournalRefused, JournalDamaged, SetupRefused, WrongResource, FormatTooNew; nothing is changed then.
        """
        if not self._is_open:
            self._pid = os.getpid()
            self._runner.run(self._core.start())
            self._is_open = True
        return self

    def close(self, timeout: float = CLOSE_S_MAX) -> None:
        """Wait for running transactions (at most `timeout` seconds), then give everything back."""
        if self._is_open and self._pid == os.getpid() and not self._core.closing:
            try:
                self._runner.run(self._core.close(timeout))
            finally:
                self._is_open = False  # not before: running transactions go on until they end
                self._runner.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, script: Script[T]) -> T:
        if self._pid != os.getpid() and self._is_open:
            self._reopen_in_child()
        if not self._is_open:
            script.close()
            raise ManagerClosed("This manager is not open.", advice="Use it in a `with` block, or call open() first.")
        return self._runner.run(script)

    def _forked(self) -> None:
        """In the child, right after fork: never touch the parent's connections or files."""
        if self._is_open:
            self._runner.after_fork()
            self._core.abandon()

    def _reopen_in_child(self) -> None:
        """A forked child gets a new incarnation and new pools (DESIGN section 3)."""
        self._is_open = False
        self._plan = replace(self._plan, tree=None)  # the parent goes on answering at that address
        self._core = self._plan.build(self._runner, "sync")
        self.open()

    # --- transactions ------------------------------------------------------------------------------------------

    def transaction(
        self,
        *,
        id: str | None = None,
        timeout: float | None = None,
        wait: Wait = "applied",
        fingerprint: bytes | str | None = None,
    ) -> TransactionBlock:
        """One transaction, as a `with` block or a decorator. A block inside another one is a savepoint.

        Parameters: `id` makes it exactly once: entering the block of a committed id raises AlreadyCommitted with the
        stored result, of a running one TransactionRunning, of another request (`fingerprint`) DifferentRequest.
        `timeout` is in seconds. `wait="decided"` returns after the decision; phase two follows.

        At the block's end: returns when committed (see `tx.pending`), or raises TransactionAborted, OutcomePending,
        HeuristicMixed, HeuristicHazard. An exception inside the block aborts and passes through.
        """
        self._ensure_current_process()
        check_wait(wait)
        return TransactionBlock(self, id, timeout, wait, digest_of(fingerprint) if fingerprint is not None else b"")

    def run(
        self,
        function: Callable[..., R],
        *args: Any,
        id: str | None = None,
        timeout: float | None = None,
        wait: Wait = "applied",
        fingerprint: bytes | str | None = None,
    ) -> R:
        """`function(tx, *args)` in a transaction, retried on serialization failures within `timeout` seconds; its
        return value is stored with the commit under `id`, and returned again, without running it, for the same id.

        Raises what `transaction` raises, ResultNotStorable, and the function's own errors.
        """
        self._ensure_current_process()
        core = self._core
        print_ = request_fingerprint(function, args, id, fingerprint)
        limit_s = core.timeout_s if timeout is None else timeout
        deadline, tries = core.clock.monotonic() + limit_s, 0
        while True:
            left_s = max(0.001, deadline - core.clock.monotonic())
            try:
                with TransactionBlock(self, id, left_s, wait, print_) as tx:
                    value = function(tx, *args)
                    if id is not None:
                        tx.set_result(value)
                return value
            except AlreadyCommitted as error:
                return error.result  # type: ignore[no-any-return]  # what the function returned the first time
            except Exception as error:
                if isinstance(error, TransactionTimeout) or not should_retry(core, error):
                    raise
                if core.clock.monotonic() >= deadline:
                    raise
            self._run(pause(core, tries))
            tries += 1

    def export(self) -> Context:
        """A context of the running transaction (`tx.export()`), to be sent to another service, which joins with it.

        Raises ConfigurationError: outside a transaction of this manager, or in no tree."""
        return context.export_current(self)

    def join(self, context: ContextLike, *, authenticated: bool = False) -> JoinBlock:
        """Take part in another manager's transaction, as a `with` block that gives a transaction like any other. At the
        block's end nothing is committed: the superior asks for the vote, decides, and tells.

        Parameters: `context`, what the superior exported: its text, or the headers or dict that it came in.
        `authenticated`: you vouch for where it came from (mutual TLS); else it must be signed with a key that `tree`
        has.

        Entering raises ContextRefused, ResourceUnavailable (the superior cannot be reached); leaving raises
        TransactionAborted when the part was aborted meanwhile. An exception in the block aborts the part, and so all
        of it.
        """
        self._ensure_current_process()
        return JoinBlock(self, context, authenticated=authenticated)

    def _ensure_current_process(self) -> None:
        if self._pid != os.getpid() and self._is_open:
            self._reopen_in_child()

    def _commit(self, transaction: Transaction) -> None:
        work = transaction.work
        if work.ended and not transaction.is_committed:
            raise commit.aborted_error(work)  # the parent's, seen in a forked child
        try:
            self._run(commit.commit(work))
        except TransactionError:
            raise
        except BaseException:
            self._runner.spawn(commit.interrupted(work), f"settle interrupted {work.name}")
            raise
        finally:
            if transaction.is_committed:
                self._after_commit(work.callbacks)

    def _abort(self, transaction: Transaction, error: BaseException) -> None:
        work = transaction.work
        if work.ended:
            return
        try:
            self._run(commit.abort(work, f"{type(error).__name__} in the block: {error}", error))
        except BaseException:
            self._runner.spawn(commit.interrupted(work), f"settle interrupted {work.name}")
            raise

    def _after_commit(self, callbacks: list[Callable[[], Any]]) -> None:
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("after_commit callback failed; the transaction is committed")

    # --- operators -----------------------------------------------------------------------------------------------

    def outcome(self, id: str) -> Outcome:
        """What became of a transaction: by the user's id, or by the 32 digits of its transaction id (O50)."""
        return self._run(operators.outcome(self._core, id))

    def in_doubt(self) -> list[InDoubtBranch]:
        """Every prepared branch, and every decided one not yet acknowledged. Changes nothing in any database."""
        return self._run(operators.in_doubt(self._core))

    def show(self, id: str) -> TransactionReport:
        """All that is known about one transaction, with the evidence in its databases."""
        return self._run(operators.show(self._core, id))

    def heuristics(self) -> list[HeuristicEntry]:
        """Heuristic outcomes, until forgotten."""
        return self._run(operators.heuristics(self._core))

    def resolve(
        self, id: str, commit: bool, reason: str, who: str = "", resource: str | None = None
    ) -> list[ResolvedBranch]:
        """Force the branches of one transaction (all, or the one at `resource`), with a reason, journalled first.
        Raises TransactionRunning, ConfigurationError."""
        script = operators.resolve(self._core, id, commit=commit, reason=reason, who=who or whoami(), resource=resource)
        return self._run(script)

    def forget(self, id: str, who: str = "") -> int:
        """Acknowledge a transaction's heuristic outcome; returns how many entries went off the list."""
        return self._run(operators.forget(self._core, id, who=who or whoami()))

    def adopt(self, guid: str, address: str = "", who: str = "") -> None:
        """Answer for a coordinator whose journal is lost for good: its branches are aborted by presumption."""
        self._run(operators.adopt(self._core, guid, address=address, who=who or whoami()))

    def recover(self, wait_seconds: float = 0.0) -> RecoveryReport:
        """Recovery passes until nothing of ours is in doubt or `wait_seconds` are over (O44)."""
        return self._run(operators.recover(self._core, wait_seconds))


def _after_fork_in_child() -> None:
    for manager in list(_managers):
        manager._forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
