"""`AsyncTransactionManager`: the asyncio manager. Runs the manager's scripts on the event loop, shielded.

A cancellation (or `asyncio.timeout`) before the decision aborts; later the work is finished, shielded, and then
CancelledError is raised (`manager.outcome(id)` tells). Not for: rules; they stand in core.py, commit.py or below.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Token
from dataclasses import replace
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from syncpoint.errors import AlreadyCommitted, ManagerClosed, TransactionTimeout
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
from syncpoint.runners.aio import AsyncRunner
from syncpoint.steps import Script

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
log = logging.getLogger("syncpoint")
CLOSE_S_MAX = 30.0

_managers: weakref.WeakSet[AsyncTransactionManager] = weakref.WeakSet()


class AsyncTransaction(BaseTransaction):
    """A running transaction over asyncio drivers."""

    manager: AsyncTransactionManager

    async def connect(self, resource: str, *, read_only: bool = False) -> Any:
        """The driver's own connection, inside this transaction's branch at `resource`; begun at the first call.

        As `Transaction.connect`. If the task is cancelled meanwhile, the branch is begun first, then it is aborted
        with the block.
        """
        branch = await self.manager._run(self.work.branch(resource, read_only=read_only))
        assert branch.session is not None
        return branch.handle.resource.connection(branch.session)

    async def sqlalchemy(self, resource: str) -> Any:
        """A SQLAlchemy `AsyncConnection` inside this transaction's branch: a bind for `AsyncSession`. See
        `syncpoint.integrations.sqlalchemy`. Raises ConfigurationError when SQLAlchemy is not installed."""
        from syncpoint.integrations.sqlalchemy import async_connection_of

        return await async_connection_of(self, resource)


class AsyncTransactionBlock:
    """What `manager.transaction()` returns: an async context manager, or a decorator of coroutine functions."""

    def __init__(
        self,
        manager: AsyncTransactionManager,
        user_id: str | None,
        timeout_s: float | None,
        wait: Wait,
        fingerprint: bytes,
    ) -> None:
        self._manager = manager
        self._user_id = user_id
        self._timeout_s = timeout_s
        self._wait: Wait = wait
        self._fingerprint = fingerprint
        self._transaction: AsyncTransaction | None = None
        self._savepoint = ""
        self._callbacks_before = 0
        self._token: Token[context.Stack] | None = None

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        no_decorated_id(self._user_id)

        @functools.wraps(function)
        async def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            async with self._manager.transaction(timeout=self._timeout_s, wait=self._wait):
                return await function(*args, **kwargs)

        return inside

    async def __aenter__(self) -> AsyncTransaction:
        manager = self._manager
        outer = context.innermost(manager)
        if isinstance(outer, AsyncTransaction):
            no_nested_id(self._user_id)
            self._callbacks_before = len(outer.work.callbacks)
            self._transaction = outer
            self._savepoint = await manager._run(outer.work.enter_nested())
        else:
            self._transaction = AsyncTransaction(manager, await manager._begin(self))
            manager._core.watch.entered(self._transaction.work)
        self._token = context.push(self._transaction)
        return self._transaction

    async def __aexit__(
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
            await self._manager._run(transaction.work.leave_nested(self._savepoint, keep=error is None))
        elif error is None:
            await self._manager._commit(transaction)
        else:
            await self._manager._abort(transaction, error)


class AsyncJoinBlock:
    """What `manager.join()` returns: an async context manager. As `syncpoint.manager.sync.JoinBlock`."""

    def __init__(self, manager: AsyncTransactionManager, sent: ContextLike, *, authenticated: bool) -> None:
        self._manager = manager
        self._sent = sent
        self._authenticated = authenticated
        self._part: Part | None = None
        self._transaction: AsyncTransaction | None = None
        self._token: Token[context.Stack] | None = None

    async def __aenter__(self) -> AsyncTransaction:
        manager = self._manager
        await manager._ensure_current_process()
        joined: list[Part] = []

        def join() -> Script[Part]:
            joined.append(
                (yield from joining.join(manager._core, self._sent, authenticated=self._authenticated)),
            )
            return joined[0]

        try:
            part = await manager._run(join())
        except BaseException as error:
            for one in joined:  # cancelled just as it had joined: nobody will leave it
                await manager._run(joining.leave(manager._core, one, error))
            raise
        self._part, self._transaction = part, AsyncTransaction(manager, part.work)
        self._token = context.push(self._transaction)
        part.work.core.watch.entered(part.work)
        return self._transaction

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._part is not None
        assert self._transaction is not None
        assert self._token is not None
        context.pop(self._token, self._transaction)
        block_left(self._part.work, error)
        await self._manager._run(joining.leave(self._manager._core, self._part, error))


class AsyncTransactionManager:
    """Transactions over several databases, for asyncio. One event loop; as many tasks as you like.

    Parameters: as `TransactionManager`. `await open()` or the `async with` block opens it.
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
        self._runner = AsyncRunner()
        self._core = self._plan.build(self._runner, "async")
        self._is_open = False
        self._pid = os.getpid()
        _managers.add(self)

    def __repr__(self) -> str:
        return f"<AsyncTransactionManager {'open' if self._is_open else 'closed'} {self._core!r}>"

    def add_observer(self, observer: Observer) -> None:
        """Have one more object told what happens here: see `syncpoint.manager.observer`."""
        self._plan.observers.append(observer)

    @property
    def incarnation(self) -> int:
        """Which start of a process this is: the number its branches carry. Only after `open`."""
        return self._core.journal.incarnation

    # --- life ------------------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Open the journal, contact the resources, recover what an earlier process left."""
        if not self._is_open:
            self._pid = os.getpid()
            try:
                await self._runner.run_shielded(self._core.start())
            except BaseException:
                # Cancelled, it has started all the same: shielded. Nobody would close what nobody calls open.
                try:
                    await self._runner.run_shielded(self._core.close(CLOSE_S_MAX))
                finally:
                    self._core = self._plan.build(self._runner, "async")
                raise
            self._is_open = True
        return self

    async def close(self, timeout: float = CLOSE_S_MAX) -> None:
        """Wait for running transactions (at most `timeout` seconds), then give everything back."""
        if self._is_open and self._pid == os.getpid() and not self._core.closing:
            try:
                await self._runner.run_shielded(self._core.close(timeout))
            finally:
                self._is_open = False  # not before: running transactions go on until they end
                await self._runner.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, script: Script[T], on_cancel: Callable[[], None] | None = None) -> T:
        if not self._is_open:
            script.close()
            raise ManagerClosed(
                "This manager is not open.", advice="Use it in an `async with` block, or await open() first."
            )
        return await self._runner.run_shielded(script, on_cancel)

    def _forked(self) -> None:
        """In the child, right after fork: never touch the parent's connections or files."""
        if self._is_open:
            self._runner.after_fork()
            self._core.abandon()

    async def _ensure_current_process(self) -> None:
        """A forked child gets a new incarnation and new pools (DESIGN section 3)."""
        if self._pid != os.getpid() and self._is_open:
            self._is_open = False
            self._plan = replace(self._plan, tree=None)  # the parent goes on answering at that address
            self._core = self._plan.build(self._runner, "async")
            await self.open()

    # --- transactions ------------------------------------------------------------------------------------------

    def transaction(
        self,
        *,
        id: str | None = None,
        timeout: float | None = None,
        wait: Wait = "applied",
        fingerprint: bytes | str | None = None,
    ) -> AsyncTransactionBlock:
        """One transaction, as an `async with` block or a decorator. As `TransactionManager.transaction`."""
        check_wait(wait)
        print_ = digest_of(fingerprint) if fingerprint is not None else b""
        return AsyncTransactionBlock(self, id, timeout, wait, print_)

    async def run(
        self,
        function: Callable[..., Awaitable[R]],
        *args: Any,
        id: str | None = None,
        timeout: float | None = None,
        wait: Wait = "applied",
        fingerprint: bytes | str | None = None,
    ) -> R:
        """`await function(tx, *args)` in a transaction, retried and exactly once. As `TransactionManager.run`."""
        await self._ensure_current_process()
        core = self._core
        print_ = request_fingerprint(function, args, id, fingerprint)
        limit_s = core.timeout_s if timeout is None else timeout
        deadline, tries = core.clock.monotonic() + limit_s, 0
        while True:
            left_s = max(0.001, deadline - core.clock.monotonic())
            try:
                async with AsyncTransactionBlock(self, id, left_s, wait, print_) as tx:
                    value = await function(tx, *args)
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
            await self._runner.run(pause(core, tries))
            tries += 1

    def export(self) -> Context:
        """As `TransactionManager.export`; it does not wait."""
        return context.export_current(self)

    def join(self, context: ContextLike, *, authenticated: bool = False) -> AsyncJoinBlock:
        """As `TransactionManager.join`, as an `async with` block."""
        return AsyncJoinBlock(self, context, authenticated=authenticated)

    async def _begin(self, block: AsyncTransactionBlock) -> Any:
        await self._ensure_current_process()
        begun: list[Any] = []

        def begin() -> Script[Any]:
            begun.append(
                (
                    yield from self._core.begin(
                        user_id=block._user_id,
                        timeout_s=block._timeout_s,
                        wait_applied=check_wait(block._wait),
                        fingerprint=block._fingerprint,
                    )
                )
            )
            return begun[0]

        try:
            return await self._run(begin())
        except BaseException:
            for work in begun:  # cancelled just as it had begun: nobody will end it
                await self._run(commit.abort(work, "cancelled while it began"))
            raise

    async def _commit(self, transaction: AsyncTransaction) -> None:
        work = transaction.work
        try:
            await self._run(commit.commit(work), lambda: work.cancel("its task was cancelled"))
        finally:
            if transaction.is_committed:
                await self._after_commit(work.callbacks)

    async def _abort(self, transaction: AsyncTransaction, error: BaseException) -> None:
        work = transaction.work
        if work.ended:
            return
        await self._run(commit.abort(work, f"{type(error).__name__} in the block: {error}", error))

    async def _after_commit(self, callbacks: list[Callable[[], Any]]) -> None:
        for callback in callbacks:
            try:
                called = callback()
                if inspect.isawaitable(called):
                    await called
            except Exception:
                log.exception("after_commit callback failed; the transaction is committed")

    # --- operators -----------------------------------------------------------------------------------------------

    async def outcome(self, id: str) -> Outcome:
        """As `TransactionManager.outcome`."""
        return await self._run(operators.outcome(self._core, id))

    async def in_doubt(self) -> list[InDoubtBranch]:
        """As `TransactionManager.in_doubt`."""
        return await self._run(operators.in_doubt(self._core))

    async def show(self, id: str) -> TransactionReport:
        """As `TransactionManager.show`."""
        return await self._run(operators.show(self._core, id))

    async def heuristics(self) -> list[HeuristicEntry]:
        """As `TransactionManager.heuristics`."""
        return await self._run(operators.heuristics(self._core))

    async def resolve(
        self, id: str, commit: bool, reason: str, who: str = "", resource: str | None = None
    ) -> list[ResolvedBranch]:
        """As `TransactionManager.resolve`."""
        who = who or whoami()
        return await self._run(
            operators.resolve(self._core, id, commit=commit, reason=reason, who=who, resource=resource)
        )

    async def forget(self, id: str, who: str = "") -> int:
        """As `TransactionManager.forget`."""
        return await self._run(operators.forget(self._core, id, who=who or whoami()))

    async def adopt(self, guid: str, address: str = "", who: str = "") -> None:
        """As `TransactionManager.adopt`."""
        await self._run(operators.adopt(self._core, guid, address=address, who=who or whoami()))

    async def recover(self, wait_seconds: float = 0.0) -> RecoveryReport:
        """As `TransactionManager.recover`."""
        return await self._run(operators.recover(self._core, wait_seconds))


def _after_fork_in_child() -> None:
    for manager in list(_managers):
        manager._forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
