"""A resource manager's way to service: it serves nothing before it knows what became of all (B6 to B9).

Not for: how a branch is finished or redone.
"""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.protocol.backup import (
    NEXT,
    AbortBranch,
    AskNode,
    AskOutcome,
    Backup,
    CommitBranch,
    Effect,
    Enrol,
    Input,
    SayOpened,
    Scan,
    State,
    Stop,
    Undone,
    WriteIncarnation,
)
from syncpoint.protocol.words import Decision, Illegal

# The table again, as a person reads it: written by hand, to be compared with the code's. FENCE leads to FENCED always.
EXPECTED = """
ENROLLING    WAIT STANDBY, GRANTED FENCING
STANDBY      WAIT STANDBY, ACTIVATE ENROLLING
FENCING      WRITTEN ASKING
ASKING       TOLD RECONCILING
RECONCILING  STEP RECONCILING, UNDECIDED_LEFT AWAITING, SETTLED OPEN
AWAITING     STEP AWAITING, SETTLED OPEN
"""
AUDIT = Guid(bytes(15) + b"\xa1")
COORDINATOR = Guid(bytes(15) + b"\xc0")
THREE = Incarnation(3)


def expected_table() -> dict[tuple[State, Input], State]:
    table = {(state, Input.FENCE): State.FENCED for state in State}
    for line in EXPECTED.strip().splitlines():
        state, rest = line.split(maxsplit=1)
        for pair in rest.split(", "):
            what, target = pair.split()
            table[State[state], Input[what]] = State[target]
    return table


def test_the_table_is_total_and_as_written_here() -> None:
    assert set(NEXT) == set(product(State, Input))
    assert {pair: target for pair, target in NEXT.items() if target is not None} == expected_table()


def branch(number: int) -> Identifier:
    transaction = TransactionId(number.to_bytes(16, "big"))
    return Identifier(COORDINATOR, transaction, Attempt(Incarnation(1), number), BranchNumber(1))


def undone(number: int) -> Undone:
    return Undone(branch(number), b"state %d" % number)


def reconciling(decided: list[int], undecided: list[int]) -> Backup:
    backup = Backup(AUDIT)
    assert backup.start() == (Enrol(),)
    assert backup.granted(THREE) == (WriteIncarnation(THREE),)
    assert backup.written() == (AskNode(THREE),)
    assert backup.told([undone(one) for one in decided], [undone(one) for one in undecided]) == (Scan(),)
    assert not backup.serves
    return backup


def test_a_first_start_finds_nothing_to_do() -> None:
    backup = reconciling([], [])
    assert backup.found([]) == (SayOpened(THREE, 0),)
    assert backup.serves


def test_others_are_dropped_then_what_was_decided_is_committed_in_order_then_the_rest_is_asked_for() -> None:
    backup = reconciling(decided=[5, 2], undecided=[4, 7, 2])
    assert backup.found([branch(9), branch(4), branch(5), branch(1)]) == (AbortBranch(branch(1)),)
    assert backup.done(branch(1)) == (AbortBranch(branch(9)),)
    assert backup.done(branch(9)) == (CommitBranch(undone(5)),)
    assert backup.done(branch(5)) == (CommitBranch(undone(2)),)
    assert backup.done(branch(2), redone=True) == (AskOutcome(branch(4)), AskOutcome(branch(7)))
    assert backup.undecided == {branch(4), branch(7)}
    assert not backup.serves
    assert backup.outcome(branch(7), Decision.UNKNOWN) == (AskOutcome(branch(7)),)
    assert backup.outcome(branch(7), Decision.COMMIT) == (CommitBranch(undone(7)),)
    assert backup.done(branch(7), redone=True) == ()
    assert backup.outcome(branch(4), Decision.ABORT) == (AbortBranch(branch(4)),)
    assert backup.done(branch(4)) == (SayOpened(THREE, 2),)
    assert repr(backup) == "<Backup 00000000 OPEN incarnation=3 drop=0 decided=0 undecided=0>"


def test_the_state_information_of_the_record_counts_before_the_votes() -> None:
    backup = reconciling([], [1])
    backup.found([])
    assert backup.outcome(branch(1), Decision.COMMIT, b"newer") == (CommitBranch(Undone(branch(1), b"newer")),)


def test_a_standby_waits_until_it_is_told() -> None:
    backup = Backup(AUDIT)
    assert backup.start(standby=True) == (Enrol(standby=True),)
    assert backup.waits() == ()
    assert backup.waits() == (), "after its connection was lost"
    assert backup.activated() == (Enrol(),)
    assert backup.activated() == (), "told twice"
    assert backup.waits() == (), "another was first"
    assert backup.state is State.STANDBY


@pytest.mark.parametrize("decided", [True, False])
def test_fenced_it_does_nothing_more(decided: bool) -> None:
    backup = reconciling([1], [2])
    backup.found([])
    if decided:
        backup.done(branch(1))
    assert backup.fenced(THREE) == (), "its own incarnation is no news"
    assert backup.fenced(Incarnation(4)) == (Stop("incarnation 4 has taken over from incarnation 3"),)
    assert backup.fenced(Incarnation(5)) == ()
    late: list[tuple[Effect, ...]] = [
        backup.done(branch(1)),
        backup.outcome(branch(2), Decision.COMMIT),
        backup.found([branch(1)]),
        backup.told([], []),
        backup.written(),
        backup.granted(Incarnation(6)),
        backup.activated(),
    ]
    assert late == [()] * len(late)
    assert not backup.serves


def test_what_comes_in_the_wrong_order_is_our_own_bug() -> None:
    with pytest.raises(Illegal, match="WRITTEN in ENROLLING"):
        Backup(AUDIT).written()
    with pytest.raises(Illegal, match="found in ENROLLING"):
        Backup(AUDIT).found([])
    with pytest.raises(Illegal, match="done in ENROLLING"):
        Backup(AUDIT).done(branch(1))
    with pytest.raises(Illegal, match="outcome in ENROLLING"):
        Backup(AUDIT).outcome(branch(1), Decision.ABORT)


def test_granted_the_same_again_changes_nothing() -> None:
    backup = reconciling([], [])
    assert backup.granted(THREE) == ()
    with pytest.raises(Illegal, match="GRANTED in RECONCILING"):
        backup.granted(Incarnation(4))


numbers = st.lists(st.integers(1, 12), unique=True, max_size=6)


@given(decided=numbers, undecided=numbers, prepared=numbers, data=st.data())
def test_every_branch_ends_once_as_it_was_decided(
    decided: list[int], undecided: list[int], prepared: list[int], data: st.DataObject
) -> None:
    backup = reconciling(decided, undecided)
    outcomes = {number: data.draw(st.sampled_from([Decision.COMMIT, Decision.ABORT])) for number in undecided}
    committed: list[int] = []
    aborted: list[int] = []
    todo = list(backup.found([branch(number) for number in prepared]))
    while todo:
        effect = todo.pop(data.draw(st.integers(0, len(todo) - 1)))
        number = 0
        match effect:
            case CommitBranch(one):
                number = one.identifier.attempt.counter
                committed.append(number)
                todo += backup.done(one.identifier)
            case AbortBranch(identifier):
                number = identifier.attempt.counter
                aborted.append(number)
                todo += backup.done(identifier)
            case AskOutcome(identifier):
                unknown = data.draw(st.booleans())
                decision = Decision.UNKNOWN if unknown else outcomes[identifier.attempt.counter]
                todo += backup.outcome(identifier, decision)
            case SayOpened():
                break
        assert not backup.serves or isinstance(todo[-1], SayOpened)
    assert backup.serves
    later = {number for number in undecided if number not in decided}
    assert committed[: len(decided)] == decided
    assert set(committed) == {*decided, *(number for number in later if outcomes[number] is Decision.COMMIT)}
    dropped = {number for number in prepared if number not in decided and number not in undecided}
    assert set(aborted) == {*dropped, *(number for number in later if outcomes[number] is Decision.ABORT)}
    assert len(committed) == len(set(committed))
    assert len(aborted) == len(set(aborted))
