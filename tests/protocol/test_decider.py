"""A branch at the journal's own database carries the decision (DESIGN section 3): what the coordinator does then.

Not for: the table call by call (test_coordinator.py), every order of events (simulation/model).
"""

from __future__ import annotations

import pytest

from syncpoint.ids import BranchNumber
from syncpoint.protocol.coordinator import Effects, Send, Standing, What
from syncpoint.protocol.judgement import Result
from syncpoint.protocol.words import Answer, Choice, Illegal
from syncpoint.records import Abort, Commit
from tests.protocol.test_coordinator import (
    B1,
    B2,
    CALLS,
    PLAIN,
    WITH_ID,
    Recorded,
    active,
    preparing,
    snapshot,
)


def with_decider() -> Recorded:
    """B1 is at the journal's own database; B2 is asked for its vote."""
    coordinator = active()
    coordinator.commit([B1, B2], PLAIN, decider=B1)
    return coordinator


def deciding_in_a_branch() -> Recorded:
    coordinator = with_decider()
    coordinator.voted(B2, Choice.YES, b"redo")
    return coordinator


DECIDER_CALLS = ("accepted", "refused", "force lost")


@pytest.mark.parametrize("call", CALLS)
def test_a_call_with_a_decider_under_way_is_legal_or_changes_nothing(call: str) -> None:
    coordinator = deciding_in_a_branch()
    before = snapshot(coordinator)
    if call in DECIDER_CALLS:
        CALLS[call](coordinator)
    else:
        with pytest.raises(Illegal):
            CALLS[call](coordinator)
        assert snapshot(coordinator) == before


def sends(*pairs: tuple[What, BranchNumber]) -> tuple[Send, ...]:
    return tuple(Send(what, number) for what, number in pairs)


def test_the_decision_goes_through_the_decider_after_the_last_vote() -> None:
    coordinator = active()
    assert coordinator.commit([B1, B2], PLAIN, decider=B1).then == sends((What.PREPARE, B2))
    effects = coordinator.voted(B2, Choice.YES, b"redo")
    (record,) = effects.force
    assert isinstance(record, Commit)
    assert (effects.through, effects.then, record.decided_at) == (B1, (), "bank")
    assert [entry.resource for entry in record.branches] == ["ledger"]  # C-I4
    assert coordinator.result is Result.PENDING
    assert coordinator.accepted().then == sends((What.COMMIT, B2))
    assert coordinator.branches[B1].standing is Standing.ENDED
    assert len(coordinator.answered(B2, Answer.COMMITTED).lazily) == 1
    assert coordinator.result is Result.COMMITTED


def test_a_record_without_a_decider_names_none() -> None:
    coordinator = preparing()
    coordinator.voted(B1, Choice.YES)
    effects = coordinator.voted(B2, Choice.YES)
    assert isinstance(effects.force[0], Commit)
    assert (effects.through, effects.force[0].decided_at) == (None, "")


def test_a_decider_alone_needs_no_vote() -> None:
    coordinator = active(1)
    effects = coordinator.commit([B1], WITH_ID, decider=B1)
    assert (effects.through, effects.then) == (B1, ())
    assert len(coordinator.accepted().lazily) == 1
    assert coordinator.result is Result.COMMITTED


def test_a_decider_alone_waits_for_the_branches_that_are_released() -> None:
    coordinator = active()
    assert coordinator.commit([B1], WITH_ID, decider=B1).then == sends((What.RELEASE, B2))
    assert coordinator.answered(B2, Answer.ABORTED).through == B1


def test_a_lone_writer_without_an_id_needs_no_record_even_at_the_journals_database() -> None:
    coordinator = active(1)
    assert coordinator.commit([B1], PLAIN, decider=B1).then == sends((What.COMMIT_ONE_PHASE, B1))
    assert coordinator.decider is None


def test_beside_readers_only_the_decision_is_the_deciders_commit() -> None:
    coordinator = with_decider()
    effects = coordinator.voted(B2, Choice.READ_ONLY)
    assert effects.through == B1
    assert isinstance(effects.force[0], Commit)
    assert effects.force[0].branches == ()


@pytest.mark.parametrize("vote", [Choice.NO, None], ids=["no", "lost"])
def test_o45_a_decider_never_commits_when_a_prepare_fails(vote: Choice | None) -> None:
    coordinator = with_decider()
    effects = coordinator.voted(B2, vote) if vote else coordinator.vote_lost(B2, "lost")
    told = sends((What.ABORT, B1)) if vote else sends((What.ABORT, B1), (What.ABORT, B2))
    assert effects == Effects(then=told)


def test_a_withdrawal_before_the_last_vote_aborts_the_decider() -> None:
    coordinator = with_decider()
    coordinator.withdraw("cancelled")
    assert coordinator.voted(B2, Choice.YES).then == sends((What.ABORT, B1), (What.ABORT, B2))


def test_a_refused_decider_is_rolled_back_with_its_record() -> None:
    coordinator = deciding_in_a_branch()
    assert coordinator.refused("recovery was first").then == sends((What.ABORT, B2))
    coordinator.answered(B2, Answer.ABORTED)
    assert coordinator.branches[B1].answer is Answer.ABORTED
    assert coordinator.result is Result.ABORTED


def test_o46_a_lost_decider_is_settled_by_the_journal_itself() -> None:
    for _ in range(2):  # and again, if that reply is lost too
        coordinator = deciding_in_a_branch()
        effects = coordinator.force_lost()
        assert isinstance(effects.force[0], Abort)
        assert effects.through is None
    assert coordinator.accepted().then == sends((What.COMMIT, B2))
    lost = deciding_in_a_branch()
    lost.force_lost()
    assert lost.refused("its record was not accepted").then == sends((What.ABORT, B2))


def test_a_decider_is_among_the_judged() -> None:
    """A branch that rolled back alone is not the only one that wrote."""
    coordinator = deciding_in_a_branch()
    coordinator.accepted()
    assert coordinator.answered(B2, Answer.HEURISTIC_ROLLBACK) == Effects()
    assert coordinator.result is Result.HEURISTIC_MIXED


def test_a_decider_must_have_written() -> None:
    with pytest.raises(AssertionError, match="did not write"):
        active().commit([B2], PLAIN, decider=B1)
