"""The coordinator's table, method by method: every legal transition is reached, every other input raises Illegal
and changes nothing.

Not for: random runs (test_coordinator_random.py), what a caller sees of the rows O01 to O18 (test_outcomes.py), or
two ends joined (simulation/model).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from syncpoint.ids import Attempt, BranchNumber, Guid, Incarnation, Key, TransactionId
from syncpoint.protocol.coordinator import (
    NEXT,
    Coordinator,
    Decided,
    Effects,
    Input,
    State,
)
from syncpoint.protocol.judgement import Result
from syncpoint.protocol.words import Answer, Choice, Illegal
from syncpoint.records import Commit, End

KEY = Key(TransactionId(bytes(15) + b"\x01"), Attempt(Incarnation(1), 7))
COORDINATOR = Guid(bytes(15) + b"\xc0")
B1, B2, B3 = (BranchNumber(n) for n in (1, 2, 3))
PLAIN = Decided(at_ms=5)
WITH_ID = Decided(at_ms=5, required=True, scope="shop", user_id="order-4711", fingerprint=b"f", result=b"r")

# The table again, as a person reads it: written by hand, to be compared with the code's.
EXPECTED = """
ACTIVE      COMMIT PREPARING, COMMIT_ONE ONE_PHASE, COMMIT_NONE RELEASING, ABORT ABORTING
PREPARING   VOTE PREPARING, LAST_VOTE_COMMIT DECIDING, LAST_VOTE_NOTHING RELEASING, LAST_VOTE_ABORT ABORTING
PREPARING   LAST_VOTE_PROMISE PROMISING
PROMISING   PROMISED IN_DOUBT, NOT_PROMISED ABORTING
IN_DOUBT    TOLD_COMMIT DECIDING, TOLD_ABORT ABORTING
DECIDING    ACCEPTED COMMITTING, REFUSED ABORTING, FORCE_LOST DECIDING, COMMIT_LOST IN_DOUBT
COMMITTING  ANSWER COMMITTING, LAST_ANSWER COMMITTED
RELEASING   ANSWER RELEASING, LAST_ANSWER COMMITTED
ABORTING    ANSWER ABORTING, LAST_ANSWER ABORTED
ONE_PHASE   ONE_COMMITTED COMMITTED, ONE_ABORTED ABORTED, ONE_LOST UNSETTLED
UNSETTLED   ONE_COMMITTED COMMITTED, ONE_ABORTED ABORTED, ONE_LOST UNSETTLED
COMMITTED
ABORTED
"""
# Only a subordinate's coordinator makes these (test_subordinate.py).
SUBORDINATES = {
    Input.LAST_VOTE_PROMISE,
    Input.PROMISED,
    Input.NOT_PROMISED,
    Input.TOLD_COMMIT,
    Input.TOLD_ABORT,
    Input.COMMIT_LOST,
}


def expected_table() -> dict[tuple[State, Input], State]:
    table = {}
    for line in EXPECTED.strip().splitlines():
        state, *rest = line.split(maxsplit=1)
        for pair in rest[0].split(", ") if rest else ():
            what, target = pair.split()
            table[State[state], Input[what]] = State[target]
    return table


def test_the_table_is_total() -> None:
    assert set(NEXT) == set(product(State, Input))


def test_the_table_is_as_written_here() -> None:
    assert {pair: target for pair, target in NEXT.items() if target is not None} == expected_table()


def test_only_forward_from_the_decision() -> None:
    reached, todo = set(), [State.COMMITTING]
    while todo:
        state = todo.pop()
        reached.add(state)
        todo += [t for (s, _), t in NEXT.items() if s is state and t is not None and t not in reached]
    assert reached == {State.COMMITTING, State.COMMITTED}  # C-I3


def test_final_states_take_nothing() -> None:
    assert all(NEXT[state, what] is None for state in (State.COMMITTED, State.ABORTED) for what in Input)


# --- every transition, by methods -------------------------------------------------------------------------------


class Recorded(Coordinator):
    """Notes the transitions it makes."""

    __slots__ = ("taken",)

    def __init__(self, key: Key, coordinator: Guid) -> None:
        self.taken: list[tuple[State, Input]] = []
        super().__init__(key, coordinator)

    def _move(self, what: Input) -> None:
        was = self.state
        super()._move(what)
        self.taken.append((was, what))


def active(branches: int = 2) -> Recorded:
    coordinator = Recorded(KEY, COORDINATOR)
    for name in ("bank", "ledger", "audit", "stock", "mail")[:branches]:
        coordinator.enlist(name, Guid(name.encode().ljust(16, b".")))
    return coordinator


def preparing(branches: int = 2, decided: Decided = PLAIN) -> Recorded:
    coordinator = active(branches)
    coordinator.commit([B1, B2], decided)
    return coordinator


def deciding() -> Recorded:
    coordinator = preparing()
    coordinator.voted(B1, Choice.YES)
    coordinator.voted(B2, Choice.YES)
    return coordinator


def committing() -> Recorded:
    coordinator = deciding()
    coordinator.accepted()
    return coordinator


def committed() -> Recorded:
    coordinator = committing()
    coordinator.answered(B1, Answer.COMMITTED)
    coordinator.answered(B2, Answer.COMMITTED)
    return coordinator


def releasing() -> Recorded:
    coordinator = active()
    coordinator.commit([], PLAIN)
    return coordinator


def aborting() -> Recorded:
    coordinator = active()
    coordinator.abort("the caller's wish")
    return coordinator


def aborted() -> Recorded:
    coordinator = aborting()
    coordinator.answered(B1, Answer.ABORTED)
    coordinator.answered(B2, Answer.ABORTED)
    return coordinator


def one_phase() -> Recorded:
    coordinator = active()
    coordinator.commit([B1], PLAIN)
    return coordinator


def unsettled() -> Recorded:
    coordinator = one_phase()
    coordinator.answered(B1, Answer.RETRY)
    coordinator.answered(B2, Answer.ABORTED)
    return coordinator


def lost_twice() -> Recorded:
    coordinator = unsettled()
    coordinator.settled(Answer.RETRY)
    return coordinator


AT: dict[State, Callable[[], Recorded]] = {
    State.ACTIVE: active,
    State.PREPARING: preparing,
    State.DECIDING: deciding,
    State.ONE_PHASE: one_phase,
    State.RELEASING: releasing,
    State.COMMITTING: committing,
    State.ABORTING: aborting,
    State.COMMITTED: committed,
    State.ABORTED: aborted,
    State.UNSETTLED: unsettled,
}

CALLS: dict[str, Callable[[Coordinator], object]] = {
    "enlist": lambda c: c.enlist("late", Guid(bytes(16))),
    "commit two": lambda c: c.commit([B1, B2], PLAIN),
    "commit one": lambda c: c.commit([B2], PLAIN),
    "commit none": lambda c: c.commit([], PLAIN),
    "commit none with an id": lambda c: c.commit([], WITH_ID),
    "abort": lambda c: c.abort("late"),
    "withdraw": lambda c: c.withdraw("late"),
    "vote yes": lambda c: c.voted(B1, Choice.YES, b"late"),
    "vote no": lambda c: c.voted(B1, Choice.NO),
    "vote read-only": lambda c: c.voted(B1, Choice.READ_ONLY),
    "vote lost": lambda c: c.vote_lost(B1, "late"),
    "accepted": lambda c: c.accepted(),
    "refused": lambda c: c.refused("late"),
    "force lost": lambda c: c.force_lost(),
    "answer": lambda c: c.answered(B1, Answer.COMMITTED),
    "no answer": lambda c: c.answered(B1, Answer.RETRY),
    "settled": lambda c: c.settled(Answer.COMMITTED),
    "not settled": lambda c: c.settled(Answer.RETRY),
}

WISHES = {call for call in CALLS if call.startswith(("enlist", "commit", "abort"))}
VOTES = {call for call in CALLS if call.startswith("vote")}
ANSWERS = {"answer", "no answer"}
LEGAL_CALLS: dict[State, set[str]] = {
    State.ACTIVE: WISHES | {"withdraw"},
    State.PREPARING: VOTES | {"withdraw"},
    State.DECIDING: {"accepted", "refused", "force lost"},
    State.ONE_PHASE: ANSWERS,
    State.RELEASING: ANSWERS,
    State.COMMITTING: ANSWERS,
    State.ABORTING: ANSWERS,
    State.COMMITTED: set(),
    State.ABORTED: set(),
    State.UNSETTLED: {"settled", "not settled"},
}


def snapshot(coordinator: Coordinator) -> str:
    branches = [repr(branch) for branch in coordinator.branches.values()]
    return f"{coordinator!r} {coordinator.why!r} {coordinator.lone_writer} {coordinator._decided!r} {branches}"


@pytest.mark.parametrize(("state", "call"), list(product(AT, CALLS)), ids=lambda value: getattr(value, "name", value))
def test_a_call_is_legal_or_changes_nothing(state: State, call: str) -> None:
    coordinator = AT[state]()
    assert coordinator.state is state
    before = snapshot(coordinator)
    if call in LEGAL_CALLS[state]:
        CALLS[call](coordinator)
        assert snapshot(coordinator) != before or call in ("not settled", "force lost")
    else:
        with pytest.raises(Illegal):
            CALLS[call](coordinator)
        assert snapshot(coordinator) == before


def refused() -> Recorded:
    coordinator = deciding()
    coordinator.force_lost()
    coordinator.refused("recovery wrote Abort first")
    return coordinator


def last_vote_nothing() -> Recorded:
    coordinator = preparing()
    coordinator.voted(B1, Choice.READ_ONLY)
    coordinator.voted(B2, Choice.READ_ONLY)
    return coordinator


def last_vote_no() -> Recorded:
    coordinator = preparing()
    coordinator.voted(B1, Choice.NO)
    coordinator.voted(B2, Choice.NO)
    return coordinator


def released() -> Recorded:
    coordinator = releasing()
    coordinator.answered(B1, Answer.ABORTED)
    coordinator.answered(B2, Answer.ABORTED)
    return coordinator


def one(answer: Answer) -> Recorded:
    coordinator = one_phase()
    coordinator.answered(B1, answer)
    return coordinator


def settled(answer: Answer) -> Recorded:
    coordinator = lost_twice()
    coordinator.settled(answer)
    return coordinator


def test_every_legal_transition_is_reached_by_some_calls() -> None:
    runs = [committed(), aborted(), refused(), last_vote_nothing(), last_vote_no(), released()]
    runs += [one(Answer.COMMITTED), one(Answer.ABORTED), settled(Answer.COMMITTED), settled(Answer.ABORTED)]
    assert {pair for run in runs for pair in run.taken} == {
        (state, what) for state, what in expected_table() if what not in SUBORDINATES
    }


@pytest.mark.parametrize(("state", "what"), list(product(AT, Input)), ids=lambda value: value.name)
def test_an_input_moves_as_the_table_says_or_raises(state: State, what: Input) -> None:
    coordinator = AT[state]()
    target = expected_table().get((state, what))
    if target is None:
        with pytest.raises(Illegal, match=f"{what.name} in {state.name}"):
            coordinator._move(what)
        assert coordinator.state is state
    else:
        coordinator._move(what)
        assert coordinator.state is target


# --- details --------------------------------------------------------------------------------------------------


def test_the_record_says_all_that_was_decided() -> None:
    coordinator = preparing(decided=WITH_ID)
    coordinator.voted(B2, Choice.YES, b"redo")
    (record,) = coordinator.voted(B1, Choice.READ_ONLY).force
    assert isinstance(record, Commit)
    assert record.key == KEY
    assert [(entry.resource, entry.read_identifier(), entry.state) for entry in record.branches] == [
        ("ledger", coordinator.identifier(B2), b"redo")
    ]
    assert (record.at_ms, record.scope, record.user_id, record.fingerprint, record.result) == (
        5,
        "shop",
        "order-4711",
        b"f",
        b"r",
    )


def test_identifiers_name_coordinator_transaction_attempt_and_branch() -> None:
    coordinator = Coordinator(KEY, COORDINATOR)
    first, second = (coordinator.enlist("bank", Guid(bytes(16))) for _ in range(2))
    assert (first.branch, second.branch) == (1, 2)
    assert {(i.coordinator, i.key) for i in (first, second)} == {(COORDINATOR, KEY)}  # A1


def test_a_released_branch_is_awaited_beside_the_voters() -> None:
    coordinator = preparing(3)
    coordinator.voted(B1, Choice.YES)
    assert coordinator.voted(B2, Choice.YES) == Effects()
    assert isinstance(coordinator.answered(B3, Answer.ABORTED).force[0], Commit)


def test_a_released_branch_answers_before_the_votes() -> None:
    coordinator = preparing(3)
    assert coordinator.answered(B3, Answer.ABORTED) == Effects()
    assert coordinator.state is State.PREPARING


def test_a_released_branch_that_does_not_answer_leaves_nothing_pending() -> None:
    coordinator = releasing()
    coordinator.answered(B1, Answer.RETRY)
    coordinator.answered(B2, Answer.ABORTED)
    assert (coordinator.result, coordinator.pending) == (Result.COMMITTED, frozenset())


def test_a_released_branch_has_no_part_in_the_judgement() -> None:
    coordinator = preparing(3)
    coordinator.answered(B3, Answer.ABORTED)
    coordinator.voted(B1, Choice.YES)
    coordinator.voted(B2, Choice.READ_ONLY)
    coordinator.accepted()
    effects = coordinator.answered(B1, Answer.HEURISTIC_ROLLBACK)
    assert coordinator.result is Result.ABORTED  # O12: the only one that wrote
    assert effects.lazily == (End(transaction=KEY.transaction.raw, attempt=KEY.attempt.to_int()),)


def test_a_lone_writer_may_answer_before_or_after_the_released() -> None:
    for order in ((B1, B2), (B2, B1)):
        coordinator = one_phase()
        for number in order:
            assert coordinator.answered(number, Answer.COMMITTED) == Effects()
        assert coordinator.result is Result.COMMITTED


def test_an_answer_against_the_decision_is_heuristic_whatever_its_name() -> None:
    commit = committing()
    commit.answered(B1, Answer.ABORTED)
    commit.answered(B2, Answer.COMMITTED)
    assert commit.branches[B1].answer is Answer.HEURISTIC_ROLLBACK
    assert commit.result is Result.HEURISTIC_MIXED
    abort = aborting()
    abort.answered(B1, Answer.COMMITTED)
    abort.answered(B2, Answer.ABORTED)
    assert abort.branches[B1].answer is Answer.HEURISTIC_COMMIT
    assert abort.result is Result.HEURISTIC_MIXED


def test_while_a_branch_has_not_answered_a_heuristic_rollback_is_a_hazard() -> None:
    coordinator = committing()
    coordinator.answered(B1, Answer.HEURISTIC_ROLLBACK)
    assert coordinator.heuristic is Result.HEURISTIC_HAZARD
    assert coordinator.result is Result.PENDING


def test_not_found_is_no_answer() -> None:
    with pytest.raises(AssertionError, match="ask the evidence first"):
        one_phase().answered(B1, Answer.NOT_FOUND)


def test_a_writer_must_be_a_branch() -> None:
    with pytest.raises(AssertionError, match="no branches"):
        active().commit([B3], PLAIN)


def test_the_first_reason_is_kept() -> None:
    coordinator = preparing()
    coordinator.withdraw("out of time")
    coordinator.withdraw("cancelled")
    coordinator.voted(B1, Choice.NO, why="deadlock")
    coordinator.vote_lost(B2, "connection lost")
    assert coordinator.why == "out of time"


@pytest.mark.parametrize(("why", "expected"), [("deadlock", "deadlock"), ("", "bank voted no")])
def test_a_no_vote_says_why(why: str, expected: str) -> None:
    coordinator = preparing()
    coordinator.voted(B1, Choice.NO, why=why)
    assert coordinator.why == expected


def test_repr_tells_where_it_stands() -> None:
    assert repr(committing()) == f"<Coordinator {KEY} COMMITTING votes=2/2 ended=0>"
