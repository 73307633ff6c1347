"""The participant's table, and the table of units in doubt (A1 to A7).

Not for: what a database does in each state (resources/), or two ends joined (simulation/model).
"""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.protocol.participant import ENDED, LOCKED, NEXT, UNCERTAIN, InDoubtTable, Input, Participant, State
from syncpoint.protocol.words import Choice, Illegal

# The table again, as a person reads it: written by hand, to be compared with the code's.
EXPECTED = """
WORKING     PREPARE PREPARING, ABORT ABORTING, COMMIT_ONE_PHASE ENDING
PREPARING   YES IN_DOUBT, NO ABORTED, NOTHING_WRITTEN READ_ONLY, ABORT ABORTING
IN_DOUBT    COMMIT COMMITTING, ABORT ABORTING
COMMITTING  COMMIT COMMITTING, COMMIT_DONE COMMITTED, ABORT_DONE ABORTED
ABORTING    ABORT ABORTING, ABORT_DONE ABORTED, COMMIT_DONE COMMITTED
ENDING      COMMIT_DONE COMMITTED, ABORT_DONE ABORTED, NO ABORTED, NOTHING_WRITTEN READ_ONLY
COMMITTED   COMMIT COMMITTED
ABORTED     ABORT ABORTED
READ_ONLY   ABORT READ_ONLY
"""

IDENTIFIER = Identifier(
    Guid(bytes(15) + b"\xc0"), TransactionId(bytes(15) + b"\x01"), Attempt(Incarnation(1), 7), BranchNumber(1)
)
OTHER = Identifier(IDENTIFIER.coordinator, IDENTIFIER.transaction, IDENTIFIER.attempt, BranchNumber(2))


def expected_table() -> dict[tuple[State, Input], State]:
    table = {}
    for line in EXPECTED.strip().splitlines():
        state, rest = line.split(maxsplit=1)
        for pair in rest.split(", "):
            what, target = pair.split()
            table[State[state], Input[what]] = State[target]
    return table


def test_the_table_is_total() -> None:
    assert set(NEXT) == set(product(State, Input))


@pytest.mark.parametrize(("state", "what"), list(product(State, Input)), ids=lambda value: value.name)
def test_an_input_moves_as_written_here_or_changes_nothing(state: State, what: Input) -> None:
    unit = Participant(state)
    target = expected_table().get((state, what))
    assert unit.allows(what) is (target is not None)
    if target is None:
        with pytest.raises(Illegal, match=f"{what.name} in {state.name}"):
            unit.take(what)
        assert unit.state is state
    else:
        assert unit.take(what) is target
        assert unit.state is target


def test_every_state_is_reached_from_the_first() -> None:
    reached, todo = set(), [State.WORKING]
    while todo:
        state = todo.pop()
        reached.add(state)
        todo += [t for (s, _), t in expected_table().items() if s is state and t not in reached]
    assert reached == set(State)


def test_a7_in_doubt_is_left_only_by_the_outcome() -> None:
    ways_out = {what for what in Input if NEXT[State.IN_DOUBT, what] not in (None, State.IN_DOUBT)}
    assert ways_out == {Input.COMMIT, Input.ABORT}


def test_a3_the_vote_is_durable_before_in_doubt() -> None:
    ways_in = {pair for pair, target in NEXT.items() if target is State.IN_DOUBT}
    assert ways_in == {(State.PREPARING, Input.YES)}


def test_the_kinds_of_states_do_not_overlap() -> None:
    assert not ENDED & (UNCERTAIN | LOCKED)
    assert {State.WORKING} | UNCERTAIN | LOCKED | ENDED == set(State)
    assert not [what for what in Input for s in ENDED if NEXT[s, what] not in (None, s)]


@given(st.lists(st.sampled_from(Input)))
def test_an_ended_unit_stays_as_it_ended(inputs: list[Input]) -> None:
    unit, ended = Participant(), None
    for what in inputs:
        if unit.allows(what):
            unit.take(what)
        if ended is None and unit.state in ENDED:
            ended = unit.state
    assert ended is None or unit.state is ended


def test_o48_the_outcome_twice_is_harmless() -> None:
    unit = Participant(State.IN_DOUBT)
    for what in (Input.COMMIT, Input.COMMIT, Input.COMMIT_DONE, Input.COMMIT):
        unit.take(what)
    assert repr(unit) == "<Participant COMMITTED>"


def test_o49_a_prepare_after_its_abort_is_refused() -> None:
    table, unit = InDoubtTable(), Participant()
    unit.take(Input.ABORT)
    unit.take(Input.ABORT_DONE)
    assert table.prepare(IDENTIFIER, unit) is Choice.NO
    assert unit.state is State.ABORTED
    assert table.find(IDENTIFIER) is None


def test_a3_unique_and_working_goes_on() -> None:
    table, unit = InDoubtTable(), Participant()
    assert table.prepare(IDENTIFIER, unit) is None
    assert unit.state is State.PREPARING
    assert table.in_doubt() == []
    unit.take(Input.YES)
    assert table.in_doubt() == [IDENTIFIER]
    assert table.find(IDENTIFIER) is unit


def test_a4_an_identifier_in_use_votes_no() -> None:
    table, first, second = InDoubtTable(), Participant(), Participant()
    table.prepare(IDENTIFIER, first)
    assert table.prepare(IDENTIFIER, second) is Choice.NO
    assert (first.state, second.state) == (State.PREPARING, State.WORKING)
    assert table.find(IDENTIFIER) is first


def test_a2_another_identifier_is_no_obstacle() -> None:
    table = InDoubtTable()
    assert [table.prepare(one, Participant()) for one in (IDENTIFIER, OTHER)] == [None, None]
    assert len(table) == 2


def test_a5_without_an_identifier_votes_no() -> None:
    table, unit = InDoubtTable(), Participant()
    assert table.prepare(None, unit) is Choice.NO
    assert unit.state is State.WORKING
    assert len(table) == 0


def test_a7_after_a_restart_it_is_in_doubt_and_asked_about() -> None:
    table = InDoubtTable()
    unit = table.restore(IDENTIFIER)
    assert unit.state in LOCKED
    assert table.in_doubt() == [IDENTIFIER]
    assert table.prepare(IDENTIFIER, Participant()) is Choice.NO
    with pytest.raises(AssertionError):
        table.restore(IDENTIFIER)


def test_a2_a_forgotten_identifier_is_free_again() -> None:
    table = InDoubtTable()
    table.restore(IDENTIFIER)
    table.forget(IDENTIFIER)
    table.forget(IDENTIFIER)
    assert table.prepare(IDENTIFIER, Participant()) is None
