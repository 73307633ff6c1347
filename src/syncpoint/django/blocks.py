"""`atomic(using=[…])`: the block, and `on_commit`.

    enter    refuse what cannot be; begin the transaction; lend Django's connections to its branches
    inside   Django's code runs unchanged; `transaction.atomic()` and a nested block are savepoints
    leave    the manager commits everywhere or aborts; the connections come back; then the callbacks run

Which block is open is known by thread, as Django's connections are.
Not for: lending (loans.py), or what Django believes meanwhile (state.py).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from django.db import connections, transaction

from syncpoint.django import configuration, state
from syncpoint.django.errors import AsyncNotSupported, RefusedInBlock
from syncpoint.django.loans import Loan
from syncpoint.errors import ConfigurationError
from syncpoint.manager import context
from syncpoint.manager.base import Wait, check_wait, no_decorated_id, no_nested_id, should_retry
from syncpoint.manager.sync import Transaction, TransactionBlock, TransactionManager

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger("syncpoint")


class _Open(threading.local):
    """The outermost open block of this thread."""

    outermost: Outermost | None = None


_open = _Open()


class atomic:  # as Django's own
    """One transaction over several of Django's databases: a context manager, or a decorator.

    Parameters: `using` names the aliases that take part. `id` makes it exactly once: entering the block of a committed
    id raises AlreadyCommitted with the result that was stored by `set_result`, of a running one TransactionRunning, of
    another request (`fingerprint`) DifferentRequest. `timeout` is in seconds, of the settings by default.
    `wait="decided"` leaves the block after the decision; the next use of a connection waits for the rest.

    `with … as tx` gives the `Transaction`. A block inside another one is a savepoint at all of the outer's databases.

    At the end: returns when committed (see `tx.pending`), or raises TransactionAborted, OutcomePending, HeuristicMixed,
    HeuristicHazard. An exception inside the block aborts everywhere and passes through.

    Raises, before anything is touched: UnknownResource, ConfigurationError (SQLite; an alias named twice),
    RefusedInBlock (inside `transaction.atomic()`, ATOMIC_REQUESTS, TestCase), AsyncNotSupported.
    """

    def __init__(
        self,
        using: Sequence[str] | str,
        id: str | None = None,
        timeout: float | None = None,
        wait: Wait = "applied",
        fingerprint: bytes | str | None = None,
    ) -> None:
        if callable(using):
            raise ConfigurationError(
                "atomic was used as a decorator without saying which databases take part.",
                advice='Write @atomic(using=["default", "ledger"]).',
            )
        self.using = (using,) if isinstance(using, str) else tuple(using)
        self.id = id
        self._begin = {"timeout": timeout, "wait": wait, "fingerprint": fingerprint}
        self._block: Outermost | Nested | None = None
        check_wait(wait)
        if not self.using or len(set(self.using)) < len(self.using):
            raise ConfigurationError(
                f"using={list(self.using)!r} names no database, or one twice.",
                advice="Name each alias that takes part once.",
            )

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        no_decorated_id(self.id)
        if inspect.iscoroutinefunction(function):
            raise AsyncNotSupported(
                f"{function.__qualname__} is a coroutine function, and Django's database connections are blocking.",
                advice="Decorate a plain function, and call it with asgiref.sync.sync_to_async.",
            )

        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with atomic(self.using, None, **self._begin):  # type: ignore[arg-type]
                return function(*args, **kwargs)

        return inside

    def __enter__(self) -> Transaction:
        if self._block is not None:
            raise RefusedInBlock("This block is open already.", advice="Call atomic(…) anew for each block.")
        _no_event_loop()
        outer = _open.outermost
        block = Outermost(self.using, self.id, self._begin) if outer is None else Nested(outer, self.using, self.id)
        tx = block.enter()
        self._block = block
        return tx

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        block, self._block = self._block, None
        assert block is not None
        block.leave(kind, error, traceback)


def on_commit(function: Callable[[], Any], robust: bool = False) -> None:
    """Call `function()` when the block's transaction is committed everywhere it had to be decided, after Django has its
    connections back; never when it aborts. Outside any block: Django's `transaction.on_commit` on the default database.

    With `robust` an exception in it is logged; otherwise it reaches the caller of the block, which is committed all the
    same. It is lost when the process dies. A nested block that is rolled back takes its callbacks with it.
    """
    if not callable(function):
        raise TypeError("on_commit()'s callback must be a callable.")
    block = _open.outermost
    if block is None:
        transaction.on_commit(function, robust=robust)
    else:
        block.hooks.append((function, robust))


def current() -> Transaction | None:
    """The transaction of the block that is open in this thread; None outside any."""
    return _open.outermost.tx if _open.outermost is not None else None


def _no_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise AsyncNotSupported(
        "syncpoint.django.atomic cannot be used in a coroutine: Django's database connections are blocking.",
        advice="Move the block into a plain function, and call it with asgiref.sync.sync_to_async.",
    )


class Outermost:
    """A block that is a transaction of its own."""

    def __init__(self, using: Sequence[str], user_id: str | None, begin: dict[str, Any]) -> None:
        self.using = tuple(using)
        self.hooks: list[state.Hook] = []
        """Of `on_commit`."""
        self.tx: Transaction | None = None
        self._id = user_id
        self._begin = begin
        self._block: TransactionBlock | None = None
        self._loans: list[Loan] = []

    def enter(self) -> Transaction:
        manager = self._check()
        block = manager.transaction(id=self._id, **self._begin)
        tx = self.tx = block.__enter__()
        self._block = block
        try:
            for alias in self.using:
                self._lend(tx, alias)
        except BaseException as error:
            try:
                block.__exit__(type(error), error, error.__traceback__)
            finally:
                self._take_back(committed=False)
            raise
        tx.work.checks.append(self._unfinished)
        _open.outermost = self
        return tx

    def _check(self) -> TransactionManager:
        """Refuse what cannot be, before anything is touched."""
        for alias in self.using:
            configuration.check_alias(alias)
            wrapper = connections[alias]
            wrapper.validate_thread_sharing()
            refused = state.why_not(wrapper)
            if refused is not None:
                what, advice = refused
                raise RefusedInBlock(f"The database {alias!r} {what}.", advice=advice)
        manager = configuration.manager()
        configuration.check_configured(self.using, manager.resources)
        if context.innermost(manager) is not None:
            raise RefusedInBlock(
                "A transaction of this manager is open already, begun by manager().transaction().",
                advice="Begin syncpoint.django.atomic() outside it, or work in it with tx.connect(…).",
            )
        return manager

    def _lend(self, tx: Transaction, alias: str) -> None:
        wrapper: Any = connections[alias]
        loan = Loan(wrapper, tx)
        self._loans.append(loan)
        connection = tx.connect_on(alias, loan)
        if wrapper.vendor != "postgresql":
            state.enter(wrapper, connection)
            return
        from syncpoint.django import postgres

        state.enter(wrapper, postgres.as_django_wants_it(connection, loan.original))
        characteristics = postgres.characteristics(loan.original)
        if characteristics:
            connection.execute(characteristics)

    def _unfinished(self) -> str:
        """Asked by the manager before it commits: why it must not be."""
        assert self.tx is not None
        work = self.tx.work
        for loan in self._loans:
            why, cause = state.unfinished(loan.wrapper), loan.wrapper.rollback_exc
            if why and cause is not None and should_retry(work.core, cause):
                work.cancel(why, cause)  # a deadlock, say: running it again may help
            elif why:
                work.error = work.error or cause
                return why
        return ""

    def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._block is not None
        assert self.tx is not None
        _open.outermost = None
        hooks: list[list[state.Hook]] = []
        try:
            self._block.__exit__(kind, error, traceback)
        finally:
            hooks = self._take_back(committed=self.tx.is_committed)
        if self.tx.is_committed:
            _run([*hooks, self.hooks])

    def _take_back(self, *, committed: bool) -> list[list[state.Hook]]:
        loans, self._loans = self._loans, []
        return [state.leave(loan, committed=committed) for loan in loans]


class Nested:
    """A block inside another one: a savepoint at each of the outer block's databases, of Django's making."""

    def __init__(self, outer: Outermost, using: Sequence[str], user_id: str | None) -> None:
        no_nested_id(user_id)
        for alias in using:
            if alias not in outer.using:
                raise RefusedInBlock(
                    f"A nested block names the database {alias!r}, which the outer one does not.",
                    advice=f"Name it in the outer block, which has: {', '.join(outer.using)}.",
                )
        self._outer = outer
        self._savepoints = ExitStack()
        self._hooks_before = 0

    def enter(self) -> Transaction:
        assert self._outer.tx is not None
        with ExitStack() as entering:
            for alias in self._outer.using:
                entering.enter_context(transaction.atomic(using=alias))
            self._savepoints = entering.pop_all()
        self._hooks_before = len(self._outer.hooks)
        return self._outer.tx

    def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            del self._outer.hooks[self._hooks_before :]
        self._savepoints.__exit__(kind, error, traceback)


def _run(groups: Sequence[Sequence[state.Hook]]) -> None:
    """Each group in order; as with Django's own, an error ends its group, and is raised when all groups were run."""
    first: Exception | None = None
    for group in groups:
        try:
            for function, robust in group:
                _call(function, robust)
        except Exception as error:
            first = first or error
    if first is not None:
        raise first


def _call(function: Callable[[], Any], robust: bool) -> None:
    try:
        function()
    except Exception as error:
        if not robust:
            raise
        name = getattr(function, "__qualname__", repr(function))
        log.exception("Error calling %s in on_commit() (%s); the transaction is committed.", name, error)
