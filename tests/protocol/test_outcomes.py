"""The rows O01 to O18 as the coordinator's effects and result: whom it tells what, and what the caller is told.

Each run is a few lines: what happens, then the whole list of what was forced and sent. Not for: the same rows at real
databases (conformance/), or every order of events (simulation/model).
"""

from __future__ import annotations

from syncpoint.ids import Attempt, BranchNumber, Guid, Incarnation, Key, TransactionId
from syncpoint.protocol.coordinator import Coordinator, Decided, Effects
from syncpoint.protocol.judgement import Result
from syncpoint.protocol.words import Answer, Choice

KEY = Key(TransactionId(bytes(15) + b"\x01"), Attempt(Incarnation(1), 7))
YES, NO, READ_ONLY = Choice.YES, Choice.NO, Choice.READ_ONLY
COMMITTED, ABORTED, RETRY = Answer.COMMITTED, Answer.ABORTED, Answer.RETRY
LOST = None


class Run:
    """A coordinator, and everything it asked for, in order, as words: "PREPARE 1", "force Commit 1 2", "End"."""

    def __init__(self, branches: int = 2) -> None:
        self.coordinator = Coordinator(KEY, Guid(bytes(15) + b"\xc0"))
        self.trace: list[str] = []
        for name in ("bank", "ledger", "audit")[:branches]:
            self.coordinator.enlist(name, Guid(bytes(16)))

    def take(self, effects: Effects) -> list[str]:
        new = []
        for record in effects.force:
            listed = [str(entry.read_identifier().branch) for entry in getattr(record, "branches", ())]
            new.append(" ".join(["force", type(record).__name__, *listed]))
        new += [f"{send.what.name} {send.branch}" for send in effects.then]
        new += [type(record).__name__ for record in effects.lazily]
        self.trace += new
        return new

    def commit(self, *writers: int, user_id: str | None = None) -> list[str]:
        decided = Decided(at_ms=0, required=user_id is not None, user_id=user_id)
        return self.take(self.coordinator.commit(map(BranchNumber, writers), decided))

    def vote(self, *choices: Choice | None) -> list[str]:
        """The votes of branches 1, 2, …; what the last one brought about."""
        last: list[str] = []
        for number, choice in enumerate(choices, 1):
            branch = BranchNumber(number)
            vote = self.coordinator.vote_lost(branch, "lost") if choice is None else None
            last = self.take(vote or self.coordinator.voted(branch, choice or NO))
        return last

    def decide(self) -> list[str]:
        return self.take(self.coordinator.accepted())

    def answer(self, **answers: Answer) -> list[str]:
        last: list[str] = []
        for name, answer in answers.items():
            (number,) = (n for n, branch in self.coordinator.branches.items() if branch.resource == name)
            last = self.take(self.coordinator.answered(number, answer))
        return last

    @property
    def result(self) -> Result:
        return self.coordinator.result


def decided(branches: int = 2) -> Run:
    """All have voted yes, and the record is durable."""
    run = Run(branches)
    run.commit(*range(1, branches + 1))
    run.vote(*[YES] * branches)
    run.decide()
    return run


def test_o01_two_vote_yes_and_both_commit() -> None:
    run = Run()
    assert run.commit(1, 2) == ["PREPARE 1", "PREPARE 2"]
    assert run.vote(YES, YES) == ["force Commit 1 2"]
    assert run.decide() == ["COMMIT 1", "COMMIT 2"]
    assert run.result is Result.PENDING
    assert run.answer(bank=COMMITTED, ledger=COMMITTED) == ["End"]
    assert run.result is Result.COMMITTED
    assert run.coordinator.pending == frozenset()


def test_o02_all_read_only_no_phase_two_nothing_written() -> None:
    run = Run()
    run.commit(1, 2)
    assert run.vote(READ_ONLY, READ_ONLY) == []
    assert run.result is Result.COMMITTED


def test_o02_nobody_wrote_no_vote_either() -> None:
    run = Run()
    assert run.commit() == ["RELEASE 1", "RELEASE 2"]
    assert run.answer(bank=ABORTED, ledger=COMMITTED) == []
    assert run.result is Result.COMMITTED


def test_o02_with_an_id_the_record_keeps_the_result_though_nothing_was_written() -> None:
    run = Run()
    run.commit(1, 2, user_id="order-4711")
    assert run.vote(READ_ONLY, READ_ONLY) == ["force Commit"]
    assert run.decide() == ["End"]
    assert run.result is Result.COMMITTED


def test_an_id_without_any_branch_is_recorded_at_once() -> None:
    run = Run(branches=0)
    assert run.commit(user_id="order-4711") == ["force Commit"]
    assert run.decide() == ["End"]
    assert run.result is Result.COMMITTED


def test_no_branch_and_no_id_is_committed_at_once() -> None:
    run = Run(branches=0)
    assert run.commit() == []
    assert run.result is Result.COMMITTED


def test_o03_only_the_yes_voter_gets_phase_two() -> None:
    run = Run()
    run.commit(1, 2)
    assert run.vote(READ_ONLY, YES) == ["force Commit 2"]
    assert run.decide() == ["COMMIT 2"]
    assert run.answer(ledger=COMMITTED) == ["End"]
    assert run.result is Result.COMMITTED


def test_o04_one_votes_no_the_yes_voter_is_told_the_no_voter_is_not() -> None:
    run = Run()
    run.commit(1, 2)
    assert run.vote(NO, YES) == ["ABORT 2"]
    assert run.answer(ledger=ABORTED) == []
    assert run.result is Result.ABORTED


def test_o05_read_only_and_no() -> None:
    run = Run()
    run.commit(1, 2)
    assert run.vote(READ_ONLY, NO) == []
    assert run.result is Result.ABORTED
    assert run.coordinator.why == "ledger voted no"


def test_o06_rollback_only_no_prepare_at_all() -> None:
    run = Run()
    run.coordinator.withdraw("marked rollback-only")
    assert run.commit(1, 2) == ["ABORT 1", "ABORT 2"]
    assert run.answer(bank=ABORTED, ledger=ABORTED) == []
    assert run.result is Result.ABORTED
    assert run.coordinator.why == "marked rollback-only"


def test_o07_one_of_two_had_rolled_back_alone() -> None:
    run = decided()
    assert run.answer(bank=Answer.HEURISTIC_ROLLBACK, ledger=COMMITTED) == []  # no End: kept until forgotten
    assert run.result is Result.HEURISTIC_MIXED


def test_o07_and_the_others_outcome_is_unknown() -> None:
    run = decided()
    assert run.answer(bank=Answer.HEURISTIC_ROLLBACK, ledger=RETRY) == []
    assert run.result is Result.HEURISTIC_HAZARD
    assert run.coordinator.pending == {"ledger"}


def test_o08_a_hazard_and_the_other_still_commits() -> None:
    run = decided()
    assert run.answer(bank=Answer.HEURISTIC_HAZARD) == []
    assert run.trace[-2:] == ["COMMIT 1", "COMMIT 2"]
    assert run.answer(ledger=COMMITTED) == []
    assert run.result is Result.HEURISTIC_HAZARD


def test_o09_mixed() -> None:
    run = decided()
    run.answer(bank=Answer.HEURISTIC_MIXED, ledger=COMMITTED)
    assert run.result is Result.HEURISTIC_MIXED


def test_o11_on_rollback_a_voter_had_committed_alone() -> None:
    run = Run(3)
    run.commit(1, 2, 3)
    assert run.vote(YES, YES, NO) == ["ABORT 1", "ABORT 2"]
    assert run.answer(bank=Answer.HEURISTIC_COMMIT, ledger=ABORTED) == []
    assert run.result is Result.HEURISTIC_MIXED


def test_o11_and_another_is_unreachable() -> None:
    run = Run(3)
    run.commit(1, 2, 3)
    run.vote(YES, YES, NO)
    run.answer(bank=Answer.HEURISTIC_COMMIT, ledger=RETRY)
    assert run.result is Result.HEURISTIC_HAZARD


def test_a_voter_told_to_abort_that_had_rolled_back_alone_did_as_told() -> None:
    run = Run()
    run.commit(1, 2)
    run.vote(YES, NO)
    run.answer(bank=Answer.HEURISTIC_ROLLBACK)
    assert run.result is Result.ABORTED


def test_o12_the_only_writer_rolled_back_alone_is_a_plain_rollback() -> None:
    run = Run()
    run.commit(1, 2)
    assert run.vote(YES, READ_ONLY) == ["force Commit 1"]
    run.decide()
    assert run.answer(bank=Answer.HEURISTIC_ROLLBACK) == ["End"]
    assert run.result is Result.ABORTED


def test_o12_unless_the_journal_has_promised_its_result() -> None:
    run = Run()
    run.commit(1, 2, user_id="order-4711")
    run.vote(YES, READ_ONLY)
    run.decide()
    assert run.answer(bank=Answer.HEURISTIC_ROLLBACK) == []
    assert run.result is Result.HEURISTIC_MIXED


def test_o13_one_phase_answers_rolled_back_or_hazard() -> None:
    for answer, result in ((ABORTED, Result.ABORTED), (Answer.HEURISTIC_HAZARD, Result.HEURISTIC_HAZARD)):
        run = Run()
        assert run.commit(2) == ["COMMIT_ONE_PHASE 2", "RELEASE 1"]
        assert run.answer(bank=ABORTED, ledger=answer) == []
        assert run.result is result


def test_o13_one_phase_rolled_back_alone_is_a_plain_rollback() -> None:
    run = Run(1)
    run.commit(1)
    run.answer(bank=Answer.HEURISTIC_ROLLBACK)
    assert run.result is Result.ABORTED


def test_o14_a_heuristic_commit_while_committing_is_success() -> None:
    run = decided()
    assert run.answer(bank=Answer.HEURISTIC_COMMIT, ledger=COMMITTED) == ["End"]
    assert run.result is Result.COMMITTED


def test_o15_a_rollback_code_is_a_no_vote_and_that_branch_is_told_nothing() -> None:
    run = Run(3)
    run.commit(1, 2, 3)
    assert run.vote(YES, NO, YES) == ["ABORT 1", "ABORT 3"]
    assert not [line for line in run.trace if line.endswith("2") and line != "PREPARE 2"]


def test_o16_a_lost_vote_is_a_no_and_that_branch_is_told() -> None:
    run = Run()
    run.commit(1, 2)
    assert run.vote(LOST, YES) == ["ABORT 1", "ABORT 2"]
    run.answer(bank=RETRY, ledger=ABORTED)
    assert run.result is Result.ABORTED
    assert run.coordinator.pending == {"bank"}  # rolled back when it reappears


def test_o18_an_unreachable_branch_is_pending_and_the_record_is_kept() -> None:
    run = decided()
    assert run.answer(bank=COMMITTED, ledger=RETRY) == []  # no End
    assert run.result is Result.COMMITTED
    assert run.coordinator.pending == {"ledger"}


def test_o20_a_lost_one_phase_commit_is_settled_by_evidence() -> None:
    for answer, result in (
        (COMMITTED, Result.COMMITTED),
        (ABORTED, Result.ABORTED),
        (Answer.HEURISTIC_HAZARD, Result.HEURISTIC_HAZARD),
    ):
        run = Run()
        run.commit(1)
        run.answer(ledger=ABORTED, bank=RETRY)
        assert (run.result, run.coordinator.pending) == (Result.PENDING, {"bank"})
        run.take(run.coordinator.settled(RETRY))
        assert (run.result, run.coordinator.pending) == (Result.PENDING, {"bank"})
        run.take(run.coordinator.settled(answer))
        assert (run.result, run.coordinator.pending) == (result, frozenset())
        assert run.trace == ["COMMIT_ONE_PHASE 1", "RELEASE 2"]


def test_o46_a_lost_verdict_is_settled_by_an_abort_under_the_same_key() -> None:
    run = Run()
    run.commit(1, 2)
    run.vote(YES, YES)
    assert run.take(run.coordinator.force_lost()) == ["force Abort"]
    assert run.result is Result.PENDING
    assert run.decide() == ["COMMIT 1", "COMMIT 2"]  # the Abort was refused: the Commit is there


def test_o47_the_other_record_was_first() -> None:
    run = Run()
    run.commit(1, 2)
    run.vote(YES, YES)
    assert run.take(run.coordinator.refused("recovery was first")) == ["ABORT 1", "ABORT 2"]
    assert run.answer(bank=ABORTED, ledger=ABORTED) == []
    assert run.result is Result.ABORTED
    assert run.coordinator.why == "recovery was first"


def test_a9_the_coordinators_own_no() -> None:
    run = Run()
    run.commit(1, 2)
    run.coordinator.withdraw("out of time")
    assert run.vote(YES, YES) == ["ABORT 1", "ABORT 2"]
