"""Random runs of the coordinator: votes, losses, answers and verdicts in any order keep the invariants C-I1 to C-I5.

Not for: the table call by call (test_coordinator.py), or two ends joined (simulation/model).
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syncpoint.ids import BranchNumber, Guid
from syncpoint.protocol.coordinator import Decided, Effects, Send, Standing, State, What
from syncpoint.protocol.judgement import Result
from syncpoint.protocol.words import Answer, Choice
from syncpoint.records import Abort, Commit
from tests.protocol.test_coordinator import PLAIN, WITH_ID, active


@settings(max_examples=120, stateful_step_count=40, deadline=None)
class RandomRun(RuleBasedStateMachine):
    """Random votes, losses, answers, verdicts; the invariants after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        self.coordinator = active(0)
        self.told: list[Send] = []
        self.votes: dict[BranchNumber, Choice | None] = {}
        """None: lost."""
        self.records: list[Commit] = []
        self.ends = 0
        self.accepted = False
        self.decider: BranchNumber | None = None
        self.through: list[BranchNumber] = []

    def take(self, effects: Effects) -> None:
        assert not (effects.force and effects.then), "sent before it was forced"
        if effects.through is not None:
            (record,) = effects.force
            assert isinstance(record, Commit)
            self.through.append(effects.through)
        self.told += effects.then
        self.records += [record for record in effects.force if isinstance(record, Commit)]
        assert all(isinstance(record, Commit | Abort) for record in effects.force)
        self.ends += len(effects.lazily)

    def standing(self, *which: Standing) -> list[BranchNumber]:
        return [n for n, branch in self.coordinator.branches.items() if branch.standing in which]

    def at(self, *states: State) -> bool:
        return self.coordinator.state in states

    @precondition(lambda self: self.at(State.COMMITTED, State.ABORTED))
    @rule()
    def again(self) -> None:
        self.begin()

    @precondition(lambda self: self.at(State.ACTIVE) and len(self.coordinator.branches) < 4)
    @rule()
    def enlist(self) -> None:
        self.coordinator.enlist(f"r{len(self.coordinator.branches)}", Guid(bytes(16)))

    @precondition(lambda self: self.at(State.ACTIVE) and len(self.coordinator.branches) > 1)
    @rule(bits=st.integers(0, 31), required=st.booleans(), data=st.data())
    def commit(self, bits: int, required: bool, data: st.DataObject) -> None:
        writers = [n for n in self.coordinator.branches if bits >> n & 1]
        decider = data.draw(st.sampled_from([None, *writers]))
        self.take(self.coordinator.commit(writers, Decided(at_ms=0, required=required), decider=decider))
        self.decider = self.coordinator.decider
        if self.at(State.PREPARING, State.DECIDING):
            assert self.decider == decider

    @precondition(lambda self: self.at(State.ACTIVE) and len(self.coordinator.branches) == 4)
    @rule()
    def abort(self) -> None:
        self.take(self.coordinator.abort("wish"))

    @precondition(lambda self: self.at(State.ACTIVE, State.PREPARING))
    @rule(really=st.sampled_from([False, False, False, True]))
    def withdraw(self, really: bool) -> None:
        if really:
            self.coordinator.withdraw("cancelled")

    @precondition(lambda self: self.standing(Standing.PREPARING))
    @rule(data=st.data(), choice=st.sampled_from([Choice.YES, Choice.YES, Choice.YES, *Choice, None]))
    def vote(self, data: st.DataObject, choice: Choice | None) -> None:
        number = data.draw(st.sampled_from(self.standing(Standing.PREPARING)))
        self.votes[number] = choice
        if choice is None:
            self.take(self.coordinator.vote_lost(number, "lost"))
        else:
            self.take(self.coordinator.voted(number, choice, b"state %d" % number))

    @precondition(lambda self: self.at(State.DECIDING))
    @rule(said=st.sampled_from(["accepted", "accepted", "refused", "lost"]))
    def verdict(self, said: str) -> None:
        if said == "lost":
            self.take(self.coordinator.force_lost())
        elif said == "refused":
            self.take(self.coordinator.refused("other"))
        else:
            self.accepted = True
            self.take(self.coordinator.accepted())

    @precondition(lambda self: self.standing(Standing.TOLD))
    @rule(data=st.data(), answer=st.sampled_from([answer for answer in Answer if answer is not Answer.NOT_FOUND]))
    def answer(self, data: st.DataObject, answer: Answer) -> None:
        number = data.draw(st.sampled_from(self.standing(Standing.TOLD)))
        self.take(self.coordinator.answered(number, answer))

    @precondition(lambda self: self.at(State.UNSETTLED))
    @rule(answer=st.sampled_from([Answer.COMMITTED, Answer.ABORTED, Answer.RETRY, Answer.HEURISTIC_HAZARD]))
    def settle(self, answer: Answer) -> None:
        self.take(self.coordinator.settled(answer))

    @invariant()
    def commit_is_told_only_after_the_record(self) -> None:
        if not self.accepted:
            assert What.COMMIT not in {send.what for send in self.told}  # C-I1

    @invariant()
    def nobody_is_told_two_ends(self) -> None:
        ends = [send.branch for send in self.told if send.what is not What.PREPARE]
        assert len(ends) == len(set(ends))

    @invariant()
    def who_voted_no_or_read_only_is_told_nothing(self) -> None:
        silent = {number for number, vote in self.votes.items() if vote in (Choice.NO, Choice.READ_ONLY)}
        assert not silent & {send.branch for send in self.told if send.what is not What.PREPARE}  # C-I2

    @invariant()
    def the_record_lists_exactly_the_yes_voters(self) -> None:
        assert len(self.records) <= 1
        for record in self.records:
            listed = {entry.read_identifier().branch: entry.state for entry in record.branches}
            assert listed == {n: b"state %d" % n for n, vote in self.votes.items() if vote is Choice.YES}  # C-I4
            assert set(self.votes.values()) <= {Choice.YES, Choice.READ_ONLY}  # A9
            decider = self.coordinator.branches[self.decider].resource if self.decider else ""
            assert record.decided_at == decider

    @invariant()
    def who_may_be_prepared_is_told_once_decided(self) -> None:
        if self.at(State.COMMITTING, State.ABORTING, State.COMMITTED, State.ABORTED) and self.votes:
            prepared = {number for number, vote in self.votes.items() if vote in (Choice.YES, None)}
            what = What.COMMIT if self.accepted else What.ABORT
            working = set() if self.through or self.decider is None else {self.decider}
            assert {send.branch for send in self.told if send.what is what} == prepared | working

    @invariant()
    def the_decider_is_told_once(self) -> None:
        told = {send.branch: send.what for send in self.told}
        if self.decider is not None:
            assert told.get(self.decider) in (None, What.ABORT)  # C-I5: neither a vote nor an outcome
            assert self.through in ([], [self.decider])
            assert not self.through or (self.records and self.decider not in told)
            assert not self.through or not self.standing(Standing.PREPARING)  # O45
            committed = self.coordinator.branches[self.decider].answer is Answer.COMMITTED
            assert committed is (self.accepted and bool(self.through)) or not self.through

    @invariant()
    def it_is_final_when_all_inputs_are_in(self) -> None:
        waiting = self.standing(Standing.PREPARING, Standing.TOLD)
        uncertain = self.at(State.ACTIVE, State.DECIDING, State.UNSETTLED)
        if not waiting and not uncertain:
            assert self.at(State.COMMITTED, State.ABORTED)

    @invariant()
    def what_it_says_agrees_with_itself(self) -> None:
        coordinator = self.coordinator
        final = self.at(State.COMMITTED, State.ABORTED)
        assert (coordinator.result is Result.PENDING) is not final
        held = {coordinator.branches[n].resource for n in self.standing(Standing.PENDING)}
        assert coordinator.pending == held
        assert isinstance(repr(coordinator), str)
        if self.ends:
            assert self.accepted
            assert not held
            assert coordinator.result in (Result.COMMITTED, Result.ABORTED)
        if self.at(State.COMMITTED) and coordinator.result is Result.COMMITTED and self.accepted and not held:
            assert self.ends == 1


TestRandomRun = RandomRun.TestCase


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_run_with_all_inputs_ends(data: st.DataObject) -> None:
    """Whatever the votes and answers, in whatever order, each branch is heard once and the transaction ends."""
    coordinator = active(5)
    numbers = list(coordinator.branches)
    writers = data.draw(st.lists(st.sampled_from(numbers), unique=True))
    decider = data.draw(st.sampled_from([None, *writers]))
    coordinator.commit(writers, data.draw(st.sampled_from([PLAIN, WITH_ID])), decider=decider)
    for _ in range(3 * len(numbers)):
        awaited = [n for n, b in coordinator.branches.items() if b.standing in (Standing.PREPARING, Standing.TOLD)]
        if coordinator.state is State.DECIDING:
            data.draw(st.sampled_from([coordinator.accepted, lambda: coordinator.refused("other")]))()
        elif awaited:
            number = data.draw(st.sampled_from(awaited))
            if coordinator.branches[number].standing is Standing.PREPARING:
                coordinator.voted(number, data.draw(st.sampled_from(Choice)))
            else:
                coordinator.answered(number, data.draw(st.sampled_from([Answer.COMMITTED, Answer.RETRY])))
    if coordinator.state is State.UNSETTLED:
        coordinator.settled(Answer.ABORTED)
    assert coordinator.state in (State.COMMITTED, State.ABORTED)
