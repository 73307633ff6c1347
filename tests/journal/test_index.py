"""The index: what stays alive of one writer's records, and that a checkpoint of it says the same again."""

from __future__ import annotations

import itertools

import pytest

from syncpoint.ids import Incarnation
from syncpoint.journal.index import Index
from syncpoint.records import CoordinatorKnown, Record
from tests.journal.support import abort, commit, end, forgotten, heuristic, key, known, prepared, resolved, served

A, B = key(1), key(2)


def index_of(*records: Record) -> Index:
    index = Index()
    for record in records:
        index.apply(record)
    return index


def test_without_an_id_nothing_stays_after_the_end() -> None:
    index = index_of(commit(A), end(A))
    assert (index.alive(), index.commit(A.transaction), index.committed(A.transaction)) == ([], None, None)


def test_c8_with_an_id_the_commit_stays_for_the_retention() -> None:
    index = index_of(commit(A, user_id="order", at_ms=100), end(A))
    assert index.commit(A.transaction) == commit(A, user_id="order", at_ms=100)
    assert list(index.unended) == []
    index.prune(before_ms=100, living=())
    assert index.commit(A.transaction) is not None
    index.prune(before_ms=101, living=())
    assert index.alive() == []
    assert index.commit(A.transaction) is None


def test_an_unended_commit_stays_however_old() -> None:
    index = index_of(commit(A, at_ms=0))
    index.prune(before_ms=1 << 50, living=())
    assert list(index.unended) == [A]


def test_o54_aborts_stay_while_their_incarnation_can_append() -> None:
    index = index_of(prepared(A), abort(A))
    assert index.is_aborted(A)
    assert not index.is_aborted(B)
    assert index.alive() == [abort(A)]
    index.prune(before_ms=0, living={Incarnation(1)})
    assert index.is_aborted(A)
    index.prune(before_ms=0, living={Incarnation(2)})
    assert index.alive() == []


def test_b10_a_prepared_record_stays_until_its_end() -> None:
    index = index_of(prepared(A))
    assert index.alive() == [prepared(A)]
    index.apply(end(A))
    assert index.alive() == []


def test_heuristics_and_resolutions_stay_until_forgotten() -> None:
    index = index_of(commit(A), resolved(A), heuristic(A), heuristic(B), resolved(B), end(A))
    assert set(index.keys()) == {A, B}
    index.apply(forgotten(A))
    assert list(index.heuristics.values()) == [heuristic(B)]
    assert list(index.resolutions.values()) == [resolved(B)]
    index.apply(heuristic(A, at_ms=6))
    assert heuristic(A, at_ms=6) in index_of(*index.alive()).heuristics.values(), "a later one is listed again"
    index.prune(before_ms=5, living=())
    assert A in index.forgotten
    index.prune(before_ms=6, living=())
    assert A not in index.forgotten


def test_a_story_has_all_records_of_one_transaction() -> None:
    index = index_of(commit(A, user_id="x"), end(A), heuristic(A), commit(B))
    assert index.story(A.transaction) == [commit(A, user_id="x"), end(A), heuristic(A)]


def test_a_checkpoint_says_the_same_again_whatever_the_history() -> None:
    node = CoordinatorKnown(guid=b"N" * 16, address="a", adopted=True)
    steps = (
        *(commit(A, user_id="a"), end(A), heuristic(A), forgotten(A), abort(B), resolved(A), known(), node),
        served(2),
    )
    for history in itertools.permutations(steps, 4):
        index = index_of(*history)
        again = index_of(*index.alive())
        assert again.alive() == index.alive(), history
        twice = index_of(*history, *index.alive())
        assert twice.alive() == index.alive(), history


def test_b7_the_highest_incarnation_of_each_resource_manager_stays_for_good() -> None:
    index = index_of(served(1), served(3), served(2), served(1, guid=b"O" * 16))
    assert index.alive() == [served(3), served(1, guid=b"O" * 16)]
    index.prune(before_ms=1 << 50, living=())
    assert index_of(*index.alive()).incarnations == index.incarnations


def test_nothing_else_is_a_record() -> None:
    with pytest.raises(AssertionError, match="no such record"):
        index_of(Record())
