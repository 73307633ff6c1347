"""What this integration refuses, as errors that both Syncpoint's and Django's `except` clauses catch."""

from __future__ import annotations

from django.core.exceptions import SynchronousOnlyOperation
from django.db.transaction import TransactionManagementError

from syncpoint.errors import NotAllowed


class RefusedInBlock(NotAllowed, TransactionManagementError):  # type: ignore[misc]  # Django has no types
    """The call would begin, end or change a branch behind the transaction's back, or be nested where it cannot be."""


class AsyncNotSupported(NotAllowed, SynchronousOnlyOperation):  # type: ignore[misc]
    """Django's database connections are blocking: no block in a coroutine."""
