"""Checks of a branch's end: commit, abort, finish, one phase, the decision; each told twice, and in every order.

Not for: being in doubt over a restart (doubt.py), or replies that get lost (losses.py).
"""

from __future__ import annotations

import pytest

from syncpoint.errors import ConnectionLost
from syncpoint.resources.base import Answer, Choice, Evidence, Vote
from syncpoint.testing.conformance.bench import Bench

GONE = (Answer.NOT_FOUND, Answer.COMMITTED)
NOT_THERE = (Answer.NOT_FOUND, Answer.ABORTED)


class Endings:
    """Rows O01, O04, O13, O19, O20, O48, O57; DESIGN section 7 for the decision."""

    def test_o01_commit_makes_the_rows_visible_and_frees_them(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.committed(key, 7)
        bench.expect_row(key, 7, "O01", "a committed branch is visible")
        bench.expect_free(key, "O01", "after the commit")
        seen = bench.scan()
        bench.expect(branch.identifier not in seen, "O01", "a committed branch is no longer prepared", seen)
        usable = bench.resource.is_usable(branch.session)
        bench.expect(usable, "O01", "the session of a committed branch can be used again (`is_usable`)", usable)
        again = bench.begin(session=branch.session)
        bench.put(again, bench.key(), 1)
        vote = bench.prepare(again)
        bench.expect(vote.choice is Choice.YES, "O01", "the next branch on the same session votes yes", vote)

    def test_o04_abort_leaves_nothing_whatever_the_branchs_state(self, bench: Bench) -> None:
        for state in ("working", "voted"):
            key = bench.key()
            branch = bench.wrote(key) if state == "working" else bench.voted(key)
            answer = bench.run(bench.resource.abort(branch.session))
            bench.expect(answer is Answer.ABORTED, "O04", f"the abort of a branch that has {state} is ABORTED", answer)
            bench.expect_row(key, None, "O04", f"nothing stays of an aborted branch that had {state}")
            bench.expect_free(key, "O04", f"after the abort of a branch that had {state}")
            seen = bench.scan()
            bench.expect(branch.identifier not in seen, "O04", "an aborted branch is not listed by a scan", seen)

    def test_o04_abort_of_a_failed_branch(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.wrote(key)
        bench.attempt(lambda: bench.hook(lambda: bench.subject.fail(bench.connection(branch))))
        answer = bench.run(bench.resource.abort(branch.session))
        bench.expect(answer is Answer.ABORTED, "O04", "a branch with a failed statement is aborted", answer)
        bench.expect_row(key, None, "O04", "nothing stays of it")
        bench.expect_free(key, "O04", "after the abort")

    def test_o48_abort_told_twice(self, bench: Bench) -> None:
        branch = bench.wrote(bench.key())
        bench.run(bench.resource.abort(branch.session))
        answer = bench.run(bench.resource.abort(branch.session))
        bench.expect(answer in NOT_THERE, "O48", "a second abort is ABORTED or NOT_FOUND", answer)

    def test_o48_finish_told_twice_commits_once(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.voted(key)
        bench.lose(branch.session)
        answer = bench.finish(branch, commit=True)
        bench.expect(answer is Answer.COMMITTED, "O48", "the commit by identifier is COMMITTED", answer)
        bench.expect_row(key, 1, "O48", "the branch was committed by identifier")
        bench.committed(key, 5)
        answer = bench.finish(branch, commit=True)
        bench.expect(answer in GONE, "O48", "a second commit by identifier is COMMITTED or NOT_FOUND", answer)
        bench.expect_row(key, 5, "O48", "a second commit by identifier writes nothing")

    def test_o48_finish_told_twice_aborts_once(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.voted(key)
        bench.lose(branch.session)
        answer = bench.finish(branch, commit=False)
        bench.expect(answer is Answer.ABORTED, "O48", "the abort by identifier is ABORTED", answer)
        bench.expect_row(key, None, "O48", "nothing stays of a branch aborted by identifier")
        bench.expect_free(key, "O48", "after the abort by identifier")
        answer = bench.finish(branch, commit=False)
        bench.expect(answer in NOT_THERE, "O48", "a second abort by identifier is ABORTED or NOT_FOUND", answer)

    def test_o19_no_such_branch_is_not_found(self, bench: Bench) -> None:
        for commit in (True, False):
            branch = bench.begin()
            bench.lose(branch.session)
            answer = bench.finish(branch, commit=commit)
            what = f"`finish(commit={commit})` of a branch that never voted is NOT_FOUND, and no guess"
            bench.expect(answer is Answer.NOT_FOUND, "O19", what, answer)

    def test_o19_an_abort_never_undoes_a_commit(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.committed(key)
        answer = bench.finish(branch, commit=False)
        bench.expect(answer in GONE, "O19", "the abort of a committed branch is NOT_FOUND or COMMITTED", answer)
        bench.expect_row(key, 1, "O19", "a committed row survives an abort that comes late")

    def test_o19_what_somebody_else_aborted_is_not_reported_committed(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.voted(key)
        session = bench.open()
        answer = bench.run(bench.resource.finish(session, branch.identifier, commit=False, state=branch.state))
        try:
            own = bench.run(bench.resource.commit(branch.session))
        except ConnectionLost:
            own = Answer.NOT_FOUND
        if answer is Answer.RETRY:  # its own connection holds it, and nobody else can end it
            bench.expect(own is Answer.COMMITTED, "O18", "RETRY means that nothing was done", own)
            return
        what = "a commit of a branch that somebody else has aborted by identifier is not COMMITTED"
        bench.expect(own is not Answer.COMMITTED, "O19", what, own)
        bench.expect_row(key, None, "O19", "it was aborted")

    # --- one phase -----------------------------------------------------------------------------------------

    def test_o13_one_phase_commits_with_evidence(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.wrote(key)
        answer = bench.run(bench.resource.commit_one_phase(branch.session))
        bench.expect(answer is Answer.COMMITTED, "O13", "`commit_one_phase` of what wrote is COMMITTED", answer)
        bench.expect_row(key, 1, "O13", "the branch was committed in one phase")
        bench.expect_free(key, "O13", "after a one-phase commit")
        seen = bench.evidence(branch)
        bench.expect(seen is Evidence.COMMITTED, "O20", "a one-phase commit leaves its evidence", seen)

    def test_o13_one_phase_of_a_branch_that_only_read(self, bench: Bench) -> None:
        branch = bench.begin()
        bench.do(lambda: bench.subject.get(bench.connection(branch), "nothing"))
        vote = bench.run(bench.resource.commit_one_phase(branch.session))
        is_read_only = isinstance(vote, Vote) and vote.choice is Choice.READ_ONLY
        what = "`commit_one_phase` of a branch that only read is the vote READ_ONLY"
        bench.expect(is_read_only, "O13", what, vote)

    def test_o20_settling_after_the_commit_says_committed(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.wrote(key)
        bench.run(bench.resource.commit_one_phase(branch.session))
        for _ in range(2):
            seen = bench.run(bench.resource.settle(bench.open(), branch.identifier))
            bench.expect(seen is Evidence.COMMITTED, "O20", "`settle` after a one-phase commit is COMMITTED", seen)
        bench.expect_row(key, 1, "O20", "settling changes nothing")

    def test_o20_settling_before_the_commit_bars_it_for_ever(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.wrote(key)
        seen = bench.run(bench.resource.settle(bench.open(), branch.identifier))
        bench.expect(seen is not Evidence.COMMITTED, "O20", "`settle` of a branch at work is not COMMITTED", seen)
        late = bench.run(bench.resource.commit_one_phase(branch.session))
        if seen is Evidence.ABSENT:
            is_refused = late is Answer.ABORTED or (isinstance(late, Vote) and late.choice is Choice.NO)
            what = "a one-phase commit that comes after `settle` said ABSENT is refused"
            bench.expect(is_refused, "O20", what, late)
            bench.expect_row(key, None, "O20", "nothing stays of a commit that came after `settle` said ABSENT")
        else:
            bench.expect(late is Answer.COMMITTED, "O20", f"after `settle` said {seen.name} it can commit", late)
            bench.expect_row(key, 1, "O20", f"it committed after `settle` said {seen.name}")
        wanted = Evidence.ABSENT if seen is Evidence.ABSENT else Evidence.COMMITTED
        again = bench.run(bench.resource.settle(bench.open(), branch.identifier))
        bench.expect(again is wanted, "O20", f"what `settle` says afterwards stays: {wanted.name}", again)

    def test_o20_settling_a_branch_in_doubt_does_not_judge_it(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.voted(key)
        seen = bench.run(bench.resource.settle(bench.open(), branch.identifier))
        judged = seen in (Evidence.COMMITTED, Evidence.ABSENT)
        bench.expect(not judged, "O20", "`settle` of a prepared branch is UNDECIDED (or UNKNOWN)", seen)
        answer = bench.run(bench.resource.commit(branch.session))
        bench.expect(answer is Answer.COMMITTED, "O20", "the prepared branch can still be committed", answer)
        bench.expect_row(key, 1, "O20", "it was committed")

    # --- the decision ----------------------------------------------------------------------------------------

    def test_decide_commits_the_record_with_the_branch(self, bench: Bench) -> None:
        work, record = bench.key(), bench.key()
        self._needs_decide(bench)
        statement = bench.hook(lambda: bench.subject.statement(record, 8))
        branch = bench.wrote(work)
        answer = bench.run(bench.resource.decide(branch.session, statement))
        bench.expect(answer is Answer.COMMITTED, "O46", "`decide` is COMMITTED", answer)
        bench.expect_row(work, 1, "O46", "the branch was committed by its decision")
        bench.expect_row(record, 8, "O46", "the record was committed with the branch")
        seen = bench.evidence(branch)
        bench.expect(seen is Evidence.ABSENT, "O46", "a decision leaves no evidence: the record is the evidence", seen)

    def test_decide_with_a_refused_record_leaves_nothing(self, bench: Bench) -> None:
        work, record = bench.key(), bench.key()
        self._needs_decide(bench)
        bench.committed(record, 8)
        statement = bench.hook(lambda: bench.subject.statement(record, 9))
        branch = bench.wrote(work)
        vote = bench.run(bench.resource.decide(branch.session, statement))
        is_no = isinstance(vote, Vote) and vote.choice is Choice.NO
        bench.expect(is_no, "O47", "`decide` with a record that is refused is the vote NO", vote)
        bench.expect_row(work, None, "O47", "nothing stays of the branch whose record was refused")
        bench.expect_row(record, 8, "O47", "the first record stays")
        bench.expect_free(work, "O47", "after a refused decision")

    def test_decide_of_a_branch_that_was_ended_leaves_no_record(self, bench: Bench) -> None:
        record = bench.key()
        self._needs_decide(bench)
        statement = bench.hook(lambda: bench.subject.statement(record, 9))
        branch = bench.wrote(bench.key())
        if bench.attempt(lambda: bench.hook(lambda: bench.subject.end_behind(bench.connection(branch)))) is not None:
            return  # refused: nothing has ended it
        vote = bench.run(bench.resource.decide(branch.session, statement))
        is_no = isinstance(vote, Vote) and vote.choice is Choice.NO
        bench.expect(is_no, "O46", "`decide` on a branch that was ended behind our back is the vote NO", vote)
        bench.expect_row(record, None, "O46", "the record of a branch that was ended is not committed by itself")

    def _needs_decide(self, bench: Bench) -> None:
        if not bench.resource.can_decide:
            pytest.skip("decide: the adapter says can_decide = False")
