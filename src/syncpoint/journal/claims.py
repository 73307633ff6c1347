"""Claims: one locked byte for each transaction id that this process works on (C7).

The byte's lock keeps other processes away, the table other threads of this one. The lock is taken away from the
event loop, so a claim may be given back while it is still being taken. Not for: what is committed (folder.py).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from syncpoint.ids import TransactionId
from syncpoint.journal.head import claim_position
from syncpoint.ports import Disk, FileLock


class TransactionClaim:
    """One transaction's claim, being taken or taken."""

    def __init__(self, claims: Claims, transaction: TransactionId) -> None:
        self.transaction = transaction
        self.lock: FileLock | None = None
        self._claims = claims

    def take(self) -> bool:
        """Lock the byte. False when another process holds it. Raises OSError."""
        return self._claims.take(self)


class Claims:
    """The claims of this process."""

    def __init__(self, disk: Disk, path: str, mutex: AbstractContextManager[Any]) -> None:
        self._disk = disk
        self._path = path
        self._mutex = mutex
        self._held: dict[TransactionId, TransactionClaim] = {}

    def __repr__(self) -> str:
        return f"<Claims {len(self._held)} held>"

    def begin(self, transaction: TransactionId) -> TransactionClaim | None:
        """Put a transaction on the table; None when it is there already."""
        with self._mutex:
            if transaction in self._held:
                return None
            claim = self._held[transaction] = TransactionClaim(self, transaction)
            return claim

    def take(self, claim: TransactionClaim) -> bool:
        lock = self._disk.lock_byte(self._path, claim_position(claim.transaction))
        with self._mutex:
            if self._held.get(claim.transaction) is claim:
                claim.lock = lock
                return lock is not None
        if lock is not None:
            lock.release()  # given back meanwhile
        return False

    def release(self, claim: TransactionClaim) -> None:
        """Give one claim back, unless that has happened."""
        with self._mutex:
            if self._held.get(claim.transaction) is claim:
                self.release_transaction(claim.transaction)

    def release_transaction(self, transaction: TransactionId) -> None:
        """Give the claim of a transaction back, if there is one."""
        with self._mutex:
            claim = self._held.pop(transaction, None)
        if claim is not None and claim.lock is not None:
            claim.lock.release()

    def release_all(self) -> None:
        """Give everything back."""
        for transaction in list(self._held):
            self.release_transaction(transaction)

    def forget(self) -> None:
        """In a forked child: they are the parent's."""
        self._held = {}
