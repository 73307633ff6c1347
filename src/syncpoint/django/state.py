"""What Django believes of one connection during a block: that an outermost `atomic()` is open on it.

So Django's own code does the rest: a nested `transaction.atomic()` makes a savepoint, `durable=True` is refused,
`transaction.on_commit` collects callbacks, a broken inner block forbids further queries. What would end the
transaction on the connection itself is refused by name. Not for: the branch (loans.py), or its outcome (blocks.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from syncpoint.django.errors import RefusedInBlock
from syncpoint.django.loans import Loan, Standing

Hook = tuple[Callable[[], Any], bool]
"""A callback of on_commit, and whether its errors are only logged."""

LATE_RETURN_S_MAX = 10.0
"""How long the next use of a connection waits for the end of phase two, after a block with wait="decided"."""
_SHADOWS = ("validate_no_atomic_block", "close")


class OutermostBlock:
    """What stands in `connection.atomic_blocks` for our block: Django asks only this of it."""

    _from_testcase = False


def why_not(wrapper: Any) -> tuple[str, str] | None:
    """Why a block cannot begin on this connection, and what to do; None when it can. Touches nothing."""
    if wrapper.in_atomic_block:
        if wrapper.atomic_blocks and getattr(wrapper.atomic_blocks[-1], "_from_testcase", False):
            return (
                "is in the transaction that TestCase wraps around each test",
                "Use TransactionTestCase, which commits, for what is to be tested with it.",
            )
        return (
            "is inside transaction.atomic() already, whose end would be a commit of its own",
            (
                "Begin syncpoint.django.atomic() outside it; inside, transaction.atomic() makes savepoints. A view "
                "under ATOMIC_REQUESTS needs @transaction.non_atomic_requests."
            ),
        )
    if not wrapper.settings_dict["AUTOCOMMIT"] or (wrapper.connection is not None and not wrapper.autocommit):
        return (
            "is not in autocommit mode",
            "Leave AUTOCOMMIT on in DATABASES, and call set_autocommit(True) before the block.",
        )
    return None


def enter(wrapper: Any, connection: Any) -> None:
    """From here on Django works on the branch, through `connection`."""

    def refuse_end() -> NoReturn:
        raise RefusedInBlock(
            f"commit(), rollback() and set_autocommit() on the database {wrapper.alias!r} would end or change the "
            "transaction's branch there behind its back.",
            advice="Leave the block of syncpoint.django.atomic() instead: it commits everywhere, or, on an exception, "
            "nowhere. For a part that may fail use transaction.atomic(), which makes a savepoint.",
        )

    def refuse_close() -> NoReturn:
        raise RefusedInBlock(
            f"close() on the database {wrapper.alias!r} would lose the transaction's branch there.",
            advice="Close it after the block of syncpoint.django.atomic().",
        )

    wrapper.connection = connection
    wrapper.autocommit = False
    wrapper.in_atomic_block = True
    wrapper.commit_on_exit = True
    wrapper.needs_rollback = False
    wrapper.rollback_exc = None
    wrapper.closed_in_transaction = False
    wrapper.savepoint_ids = []
    wrapper.atomic_blocks = [OutermostBlock()]
    wrapper.run_on_commit = []
    wrapper.validate_no_atomic_block = refuse_end
    wrapper.close = refuse_close


def unfinished(wrapper: Any) -> str:
    """Why Django says that this transaction must not commit; empty when it does not."""
    if wrapper.needs_rollback:
        cause = (
            f" (after {type(wrapper.rollback_exc).__name__}: {wrapper.rollback_exc})" if wrapper.rollback_exc else ""
        )
        return (
            f"Django has marked the database {wrapper.alias!r} for rollback{cause}: something failed there and could "
        )
        "not be undone alone, or set_rollback(True) was called"
    if wrapper.savepoint_ids:
        return f"an inner atomic() on the database {wrapper.alias!r} is still open"
    return ""


def leave(loan: Loan, *, committed: bool) -> list[Hook]:
    """The block is over: Django gets its connection back, in autocommit mode, or none, and connects anew at its next
    use. Returns the callbacks that `transaction.on_commit` has collected."""
    wrapper = loan.wrapper
    hooks = [(function, robust) for _, function, robust in wrapper.run_on_commit]
    for name in _SHADOWS:
        wrapper.__dict__.pop(name, None)
    wrapper.in_atomic_block = False
    wrapper.needs_rollback = False
    wrapper.rollback_exc = None
    wrapper.closed_in_transaction = False
    wrapper.savepoint_ids = []
    wrapper.atomic_blocks = []
    wrapper.run_on_commit = []
    wrapper.autocommit = True
    if committed and loan.standing is Standing.OUT:
        wrapper.connection = None
        _come_back_late(loan)
    else:
        _take(loan)
    return hooks


def _take(loan: Loan) -> None:
    """Django's connection again; if it did not come back, none."""
    forfeited = loan.forfeit()
    if forfeited or loan.standing is not Standing.RETURNED:
        loan.wrapper.connection = None
    elif loan.original is not None:
        loan.wrapper.connection = loan.original


def _come_back_late(loan: Loan) -> None:
    """Decided, and phase two is under way on it: whoever uses the connection next waits until it is back."""
    wrapper = loan.wrapper

    def settle() -> None:
        for name in ("ensure_connection", "close"):
            wrapper.__dict__.pop(name, None)
        loan.over.wait(LATE_RETURN_S_MAX)
        _take(loan)

    def ensure_connection() -> None:
        settle()
        wrapper.ensure_connection()

    def close() -> None:
        settle()
        wrapper.close()

    wrapper.ensure_connection = ensure_connection
    wrapper.close = close
