"""The first writer wins: the rule of admission on every short history, against a second writing of it in world.py.

Not for: the same rule kept by real journals (journal/).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from syncpoint.ids import Attempt, Incarnation, Key, TransactionId
from syncpoint.protocol.admission import admit
from syncpoint.records import Abort, Commit, End, KeyedRecord, Record, key_fields
from tests.protocol.world import Journal

X, Y = TransactionId(bytes(15) + b"\x01"), TransactionId(bytes(15) + b"\x02")
X1, X2, Y1 = Key(X, Attempt(Incarnation(1), 1)), Key(X, Attempt(Incarnation(1), 2)), Key(Y, Attempt(Incarnation(1), 1))


def commit(key: Key) -> Commit:
    return Commit(**key_fields(key), branches=(), at_ms=0)


def abort(key: Key) -> Abort:
    return Abort(**key_fields(key))


RECORDS: list[KeyedRecord] = [commit(X1), commit(X2), abort(X1), abort(X2), commit(Y1), End(**key_fields(X1))]


class Held:
    """What a journal holds, in the words of the rule."""

    def __init__(self, records: Sequence[KeyedRecord] = ()) -> None:
        self.records = list(records)

    def committed(self, transaction: TransactionId) -> Key | None:
        keys = [r.key for r in self.records if isinstance(r, Commit) and r.key.transaction == transaction]
        return keys[0] if keys else None

    def is_aborted(self, key: Key) -> bool:
        return any(isinstance(r, Abort) and r.key == key for r in self.records)


# What is held, what comes, what is said: written by hand.
CASES = [
    ([], commit(X1), True),
    ([commit(X1)], commit(X1), False),
    ([commit(X1)], commit(X2), False),  # O56
    ([abort(X1)], commit(X1), False),  # O46
    ([abort(X1)], commit(X2), True),  # an Abort speaks for its own attempt
    ([commit(Y1)], commit(X1), True),
    ([], abort(X1), True),
    ([abort(X1)], abort(X1), True),  # two recoverers at once (O38)
    ([commit(X1)], abort(X1), False),  # so the Commit is there (O46)
    ([commit(X1)], abort(X2), True),
    ([commit(X1), abort(X2)], End(**key_fields(X1)), True),
]


@pytest.mark.parametrize(("held", "record", "taken"), CASES)
def test_o47_the_first_writer_wins(held: list[KeyedRecord], record: Record, taken: bool) -> None:
    assert admit(record, Held(held)) is taken


def test_every_short_history() -> None:
    """Every order of up to five records: both writings of the rule agree, and what they let in is never at odds."""
    for length in range(1, 6):
        for history in product(RECORDS, repeat=length):
            held, journal = Held(), Journal()
            for record in history:
                taken = admit(record, held)
                assert journal.append(record) is taken, history
                held.records += [record] if taken else []
            committed = [record.key for record in held.records if isinstance(record, Commit)]
            assert len({key.transaction for key in committed}) == len(committed)
            assert not [key for key in committed if held.is_aborted(key)]
