"""Which transaction is current: a stack in a context variable, so that threads and tasks each have their own.

A task started inside a block sees its transaction; a new thread does not (pass `tx` to it). Not for: nesting
rules (sync.py, aio.py).
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TypeAlias

from syncpoint.errors import ConfigurationError
from syncpoint.manager.base import BaseTransaction
from syncpoint.manager.contexts import Context

Stack: TypeAlias = tuple[BaseTransaction, ...]

_stack: ContextVar[Stack] = ContextVar("syncpoint_transactions", default=())


def push(transaction: BaseTransaction) -> Token[Stack]:
    return _stack.set((*_stack.get(), transaction))


def pop(token: Token[Stack], transaction: BaseTransaction) -> None:
    """Take it off again, also where the block ends in another context than it began (a generator, a callback)."""
    try:
        _stack.reset(token)
    except ValueError:
        _stack.set(tuple(one for one in _stack.get() if one is not transaction))


def innermost(manager: object) -> BaseTransaction | None:
    """The innermost running transaction of this manager in this context."""
    for transaction in reversed(_stack.get()):
        if transaction.manager is manager and not transaction.work.ended:
            return transaction
    return None


def current() -> BaseTransaction | None:
    """The innermost running transaction of this context, whichever manager's; None outside any block."""
    for transaction in reversed(_stack.get()):
        if not transaction.work.ended:
            return transaction
    return None


def export_current(manager: object) -> Context:
    """See `TransactionManager.export`."""
    transaction = innermost(manager)
    if transaction is None:
        raise ConfigurationError(
            "There is no running transaction of this manager to export.", advice="Call it in a transaction's block."
        )
    return transaction.export()
