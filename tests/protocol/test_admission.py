"""The rule of admission: the first writer wins (O46, O47, O56).

All histories of up to four appends over two attempts are tried against the rule in words. Not for: journals.
"""

from __future__ import annotations

from itertools import product

from syncpoint.ids import Attempt, Incarnation, Key, TransactionId
from syncpoint.protocol.admission import admit
from syncpoint.records import Abort, Commit, End, Record, key_fields

X = TransactionId(b"x" * 16)
FIRST, SECOND = (Key(X, Attempt(Incarnation(1), counter)) for counter in (1, 2))


class Held:
    """A journal that holds what was admitted."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def committed(self, transaction: TransactionId) -> Key | None:
        found = [one.key for one in self.records if isinstance(one, Commit) and one.key.transaction == transaction]
        assert len(found) <= 1, "two Commits of one transaction"
        return found[0] if found else None

    def is_aborted(self, key: Key) -> bool:
        return any(isinstance(one, Abort) and one.key == key for one in self.records)

    def append(self, record: Record) -> bool:
        admitted = admit(record, self)
        if admitted:
            self.records.append(record)
        return admitted


def _commit(key: Key) -> Commit:
    return Commit(**key_fields(key), branches=(), at_ms=0)


def _abort(key: Key) -> Abort:
    return Abort(**key_fields(key))


def test_o46_no_history_holds_both_commit_and_abort_of_one_key_nor_two_commits() -> None:
    appends = (_commit(FIRST), _commit(SECOND), _abort(FIRST), _abort(SECOND))
    for history in product(appends, repeat=4):
        held = Held()
        for record in history:
            held.append(record)
        commits = [one.key for one in held.records if isinstance(one, Commit)]
        aborts = {one.key for one in held.records if isinstance(one, Abort)}
        assert len(commits) <= 1, history
        assert not aborts & set(commits), history


def test_o47_the_first_writer_wins() -> None:
    held = Held()
    assert held.append(_abort(FIRST))
    assert not held.append(_commit(FIRST))
    assert held.append(_commit(SECOND))
    assert not held.append(_abort(SECOND))


def test_o56_of_two_attempts_at_most_one_commits() -> None:
    held = Held()
    assert held.append(_commit(SECOND))
    assert not held.append(_commit(FIRST))
    assert held.append(_abort(FIRST)), "an abort of the attempt that lost is true, and harmless"


def test_anything_else_is_taken() -> None:
    assert Held().append(End(**key_fields(FIRST)))
