"""The model's journal, and the real rule of first writer wins, compared with the rule as a person would say it.

Not for: journals on disk and in databases, which have tests of their own.
"""

from __future__ import annotations

from itertools import product

import pytest

from syncpoint.records import Abort, Commit, KeyedRecord, key_fields
from syncpoint.simulation.model.journal import GONE, Journal, Rows, is_forsaken
from syncpoint.simulation.model.names import Try, Unit, entry_of, key_of

FIRST, SECOND = Try(1, 1), Try(2, 1)
ALIVE = Rows(keepers=(1, 2))


def commit(attempt: Try, user_id: str | None = None) -> Commit:
    return Commit(**key_fields(key_of(attempt)), branches=(entry_of(Unit(*attempt, 1)),), at_ms=0, user_id=user_id)


def abort(attempt: Try) -> Abort:
    return Abort(**key_fields(key_of(attempt)))


RECORDS: list[KeyedRecord] = [commit(FIRST), abort(FIRST), commit(SECOND), abort(SECOND)]


def accepted_by_hand(taken: list[KeyedRecord], record: KeyedRecord) -> bool:
    """Commit(x, n) if and only if there is no Commit of x and no Abort(x, n); Abort(x, n): no Commit(x, n)."""
    commits = [one for one in taken if isinstance(one, Commit)]
    if isinstance(record, Commit):
        return not commits and not any(isinstance(one, Abort) and one.key == record.key for one in taken)
    return all(one.key != record.key for one in commits)


@pytest.mark.parametrize("order", list(product(range(4), repeat=4)), ids=lambda order: "".join(map(str, order)))
def test_every_order_of_records_is_taken_as_a_person_says(order: tuple[int, ...]) -> None:
    rows, taken = ALIVE, list[KeyedRecord]()
    for record in (RECORDS[number] for number in order):
        expected = accepted_by_hand(taken, record)
        rows, accepted = rows.append(record)
        assert accepted == expected
        taken += [record] if accepted else []


def test_who_was_taken_over_decides_nothing_and_ends_nothing() -> None:
    rows, accepted = ALIVE.append(commit(FIRST))
    assert accepted
    rows = rows.keep(1, 2)
    assert rows.append(commit(Try(1, 2))) == (rows, False)
    assert rows.end(FIRST, [1]) == rows
    assert rows.end(FIRST, [2]).commits == frozenset()


def test_a_result_is_kept_after_its_end() -> None:
    rows, _ = ALIVE.append(commit(FIRST, "order-1"))
    ended = rows.end(FIRST, [1])
    assert ended.unended() == []
    assert ended.kept_commit() is not None


def test_what_somebody_alive_keeps_is_not_taken_from_him() -> None:
    rows = Rows(keepers=(2, 2, 3))
    assert not is_forsaken(rows, 3, 1, frozenset({1}))
    assert is_forsaken(rows.keep(2, 3), 3, 1, frozenset())
    assert not is_forsaken(rows, 2, 2, frozenset({2})), "nobody takes himself over"
    assert not is_forsaken(rows.keep(1, GONE), 3, 1, frozenset({1}))


def test_a_crash_takes_back_what_was_not_forced() -> None:
    rows, _ = ALIVE.append(commit(FIRST))
    journal = Journal().force(rows)
    lazily = journal.lazily(rows.end(FIRST, [1]))
    assert lazily.crash() == journal
    assert lazily.force(lazily.visible).crash().visible.commits == frozenset()
