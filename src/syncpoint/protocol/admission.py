"""The rule by which a journal takes a record or refuses it: the first writer wins under a key.

    Commit(x, n) .... if and only if there is no Commit of x, whatever its attempt, and no Abort(x, n)
    Abort(x, n) ..... if and only if there is no Commit(x, n)
    anything else ... always

So an append whose reply was lost is settled by writing Abort, never assumed (O46), and of two attempts at one
transaction at most one commits (O56). Not for: where records are kept (journal/).
"""

from __future__ import annotations

from typing import Protocol

from syncpoint.ids import Key, TransactionId
from syncpoint.records import Abort, Commit, Record


class Standing(Protocol):
    """What a journal holds already, as far as the rule asks."""

    def committed(self, transaction: TransactionId) -> Key | None:
        """The key of the Commit record of this transaction, if there is one."""
        ...

    def is_aborted(self, key: Key) -> bool:
        """Whether there is an Abort under this very key."""
        ...


def admit(record: Record, standing: Standing) -> bool:
    """Whether the journal takes `record`, given what it holds. The table above."""
    match record:
        case Commit():
            key = record.key
            return standing.committed(key.transaction) is None and not standing.is_aborted(key)
        case Abort():
            key = record.key
            return standing.committed(key.transaction) != key
        case _:
            return True
