"""What the coordinator's record says field by field, what its refusals say, and what it holds before anything happened.

Found missing by mutants. Not for: transitions (test_coordinator.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from syncpoint.ids import Attempt, BranchNumber, Guid, Incarnation, Key, TransactionId
from syncpoint.protocol.coordinator import Coordinator, Decided, State
from syncpoint.protocol.words import Answer, Choice, Illegal
from syncpoint.records import BranchEntry, Commit

KEY = Key(TransactionId(bytes(15) + b"\x01"), Attempt(Incarnation(1), 7))
B1, B2 = BranchNumber(1), BranchNumber(2)
BANK, LEDGER = Guid(b"bank" * 4), Guid(b"ledger" + bytes(10))
DECIDED = Decided(at_ms=5, scope="shop", user_id="order", fingerprint=b"f", result=b"r")


def with_two_branches() -> Coordinator:
    coordinator = Coordinator(KEY, Guid(b"C" * 16))
    coordinator.enlist("bank", BANK)
    coordinator.enlist("ledger", LEDGER)
    return coordinator


def preparing() -> Coordinator:
    coordinator = with_two_branches()
    coordinator.commit([B1, B2], DECIDED)
    return coordinator


def test_before_anything_happened() -> None:
    fresh = Coordinator(KEY, Guid(b"C" * 16))
    assert (fresh.state, fresh.branches, fresh.why, fresh.lone_writer, fresh.decider) == (
        State.ACTIVE,
        {},
        "",
        None,
        None,
    )


def test_the_record_says_of_each_branch_what_its_vote_carried_and_which_database_it_is() -> None:
    coordinator = preparing()
    coordinator.voted(B1, Choice.YES, b"the state information")
    (record,) = coordinator.voted(B2, Choice.YES).force
    assert record == Commit(
        transaction=KEY.transaction.raw,
        attempt=KEY.attempt.to_int(),
        branches=(
            BranchEntry(
                resource="bank",
                guid=BANK.raw,
                identifier=coordinator.identifier(B1).to_bytes(),
                state=b"the state information",
            ),
            BranchEntry(
                resource="ledger", guid=LEDGER.raw, identifier=coordinator.identifier(B2).to_bytes(), state=b""
            ),
        ),
        at_ms=5,
        scope="shop",
        user_id="order",
        fingerprint=b"f",
        result=b"r",
        decided_at="",
    )


def test_a_lost_vote_carries_nothing() -> None:
    coordinator = preparing()
    coordinator.vote_lost(B1, "the connection died")
    assert coordinator.branches[B1].state == b""
    assert coordinator.why == "the connection died"


def _after_a_lost_one_phase_commit() -> Coordinator:
    coordinator = with_two_branches()
    coordinator.commit([B1], DECIDED)
    return coordinator


@pytest.mark.parametrize(
    ("made", "act", "text"),
    [
        (preparing, lambda one: one.enlist("audit", BANK), "enlist in PREPARING"),
        (_after_a_lost_one_phase_commit, lambda one: one.withdraw("late"), "withdraw in ONE_PHASE"),
        (with_two_branches, lambda one: one.voted(B1, Choice.YES), "vote of branch 1 in WORKING"),
        (with_two_branches, lambda one: one.answered(B2, Answer.COMMITTED), "answer of branch 2 in WORKING"),
        (preparing, lambda one: one.settled(Answer.COMMITTED), "settled in PREPARING"),
        (with_two_branches, lambda one: one.accepted(), "ACCEPTED in ACTIVE"),
    ],
)
def test_a_refusal_says_what_and_where(
    made: Callable[[], Coordinator], act: Callable[[Coordinator], object], text: str
) -> None:
    with pytest.raises(Illegal, match=f"^{re.escape(text)}$"):
        act(made())


def test_o19_a_question_is_no_answer() -> None:
    coordinator = _after_a_lost_one_phase_commit()
    with pytest.raises(AssertionError, match=r"^a question, not an answer: ask the evidence first \(O19\)"):
        coordinator.answered(B1, Answer.NOT_FOUND)
