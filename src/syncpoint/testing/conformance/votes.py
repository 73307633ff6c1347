"""Checks of a branch until its vote: identifiers, yes, no, read-only, savepoints, and what failed before.

Not for: what becomes of a vote (endings.py, doubt.py).
"""

from __future__ import annotations

from typing import Any, cast

import pytest

from syncpoint.ids import Identifier
from syncpoint.resources.base import Answer, BranchStart, Choice, Vote
from syncpoint.testing.conformance.bench import Bench, Branch


class Votes:
    """Rows A1 to A5, O15, O21."""

    def test_a1_begin_takes_the_identifier_and_the_session_shows_it(self, bench: Bench) -> None:
        branch = bench.begin()
        seen = branch.session.identifier
        bench.expect(seen == branch.identifier, "A1", "`session.identifier` names the branch on it", seen)
        usable = bench.resource.is_usable(branch.session)
        bench.expect(not usable, "A1", "a session with a branch is not handed out again (`is_usable`)", usable)
        bench.run(bench.resource.abort(branch.session))
        seen = branch.session.identifier
        bench.expect(seen is None, "A1", "`session.identifier` is None when its branch has ended", seen)

    def test_a2_a4_an_identifier_in_doubt_here_votes_no_and_harms_nobody(self, bench: Bench) -> None:
        mine, other = bench.key(), bench.key()
        first = bench.voted(mine)
        bench.lose(first.session)
        second = Branch(bench.open(), first.identifier)
        vote = self._try(bench, second, other)
        what = "a second branch under the identifier of one that is in doubt votes no"
        bench.expect(vote is None or vote.choice is Choice.NO, "A4", what, vote)
        bench.lose(second.session)
        bench.expect_row(other, None, "A4", "nothing stays of the branch that voted no")
        seen = bench.scan()
        bench.expect(first.identifier in seen, "A4", "the branch in doubt is not harmed by the other's no", seen)
        answer = bench.finish(first, commit=True)
        bench.expect(answer is Answer.COMMITTED, "A4", "the branch in doubt can still be committed", answer)
        bench.expect_row(mine, 1, "A4", "the branch in doubt was committed")

    def test_a4_an_identifier_that_was_committed_votes_no(self, bench: Bench) -> None:
        mine, other = bench.key(), bench.key()
        first = bench.committed(mine)
        vote = self._try(bench, Branch(bench.open(), first.identifier), other)
        what = "a branch under an identifier whose evidence of a commit is there votes no"
        bench.expect(vote is None or vote.choice is Choice.NO, "A4", what, vote)
        bench.expect_row(other, None, "A4", "nothing stays of the branch that voted no")

    def test_a5_a_prepare_without_an_identifier_votes_no(self, bench: Bench) -> None:
        key = bench.key()
        branch = Branch(bench.open(), cast(Identifier, None))
        vote = self._try(bench, branch, key)
        what = "a branch without an identifier is refused, or votes no"
        bench.expect(vote is None or vote.choice is Choice.NO, "A5", what, vote)
        bench.lose(branch.session)
        bench.expect_row(key, None, "A5", "nothing stays of it")

    def _try(self, bench: Bench, branch: Branch, key: str) -> Vote | None:
        """The vote; None when it was refused before that came to it."""
        start = BranchStart(branch.identifier, 1000)
        try:
            bench.run(bench.resource.begin(branch.session, start))
            bench.put(branch, key, 2)
            return bench.prepare(branch)
        except Exception:
            return None

    def test_a3_a_yes_vote_shows_nothing_yet(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.voted(key)
        bench.expect(isinstance(branch.state, bytes), "B2", "the state information of a vote is bytes", branch.state)
        bench.expect_row(key, None, "A3", "a prepared branch is not visible")
        seen = branch.session.identifier
        bench.expect(seen == branch.identifier, "A3", "the branch stays on its session after the vote", seen)

    def test_o03_a_branch_that_only_read_votes_read_only_and_is_gone(self, bench: Bench) -> None:
        key = bench.key()
        bench.committed(key)
        branch = bench.begin()
        bench.do(lambda: bench.subject.get(bench.connection(branch), key))
        vote = bench.prepare(branch)
        bench.expect(vote.choice is Choice.READ_ONLY, "O03", "a branch that only read votes READ_ONLY", vote)
        self._expect_gone(bench, branch, key, "O03", "after READ_ONLY nothing of the branch is left")

    def test_o03_a_branch_begun_read_only_cannot_write(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.begin(read_only=True)
        error = bench.attempt(lambda: bench.subject.put(bench.connection(branch), key, 1))
        vote = bench.prepare(branch)
        refused = error is not None and vote.choice is not Choice.YES
        what = "a branch begun with read_only refuses to write, or votes no"
        bench.expect(refused or vote.choice is Choice.NO, "O03", what, (error, vote))
        bench.expect_row(key, None, "O03", "nothing was written by it")

    def test_wrote_never_says_no_to_a_branch_that_wrote(self, bench: Bench) -> None:
        branch = bench.wrote(bench.key())
        seen = bench.run(bench.resource.wrote(branch.session))
        bench.expect(seen is not False, "O03", "`wrote` is True or None for a branch that wrote", seen)
        vote = bench.prepare(branch)
        bench.expect(vote.choice is Choice.YES, "A3", "asking `wrote` does not change the vote", vote)

    def test_wrote_of_a_branch_that_only_read(self, bench: Bench) -> None:
        branch = bench.begin()
        bench.do(lambda: bench.subject.get(bench.connection(branch), "nothing"))
        seen = bench.run(bench.resource.wrote(branch.session))
        bench.expect(seen is not True, "O03", "`wrote` is False or None for a branch that only read", seen)

    def test_o21_a_branch_with_a_failed_statement_votes_no_or_keeps_its_word(self, bench: Bench) -> None:
        before, after = bench.key(), bench.key()
        branch = bench.wrote(before)
        error = bench.attempt(lambda: bench.hook(lambda: bench.subject.fail(bench.connection(branch))))
        assert error is not None, "Subject.fail must make a statement fail"
        goes_on = bench.attempt(lambda: bench.subject.put(bench.connection(branch), after, 1)) is None
        vote = bench.prepare(branch)
        if vote.choice is not Choice.YES:
            bench.expect(vote.choice is Choice.NO, "O21", "a branch that wrote does not vote READ_ONLY", vote)
            bench.expect(bool(vote.reason), "O21", "a no vote says why, for people", vote)
            self._expect_gone(bench, branch, before, "O21", "after a no vote nothing of the branch is left")
            return
        answer = bench.run(bench.resource.commit(branch.session))
        bench.expect(answer is Answer.COMMITTED, "O21", "what voted yes can be committed", answer)
        bench.expect_row(before, 1, "O21", "a yes vote after a failed statement keeps what was written before it")
        if goes_on:
            bench.expect_row(after, 1, "O21", "a yes vote after a failed statement keeps what was written after it")

    @pytest.mark.parametrize("way", ["prepare", "commit_one_phase"])
    def test_o21_a_branch_ended_behind_the_adapters_back_never_votes_yes(self, bench: Bench, way: str) -> None:
        branch = bench.wrote(bench.key())
        error = bench.attempt(lambda: bench.hook(lambda: bench.subject.end_behind(bench.connection(branch))))
        if error is not None:
            vote = bench.prepare(branch)
            bench.expect(vote.choice is Choice.YES, "O21", "a refused COMMIT leaves the branch as it was", vote)
            return
        result: Any = bench.run(getattr(bench.resource, way)(branch.session))
        is_no = isinstance(result, Vote) and result.choice is Choice.NO
        what = f"`{way}` of a branch that was ended behind the adapter's back answers no"
        bench.expect(is_no or result is Answer.ABORTED, "O21", what, result)

    def test_savepoints_take_back_a_part(self, bench: Bench) -> None:
        first, second, third = bench.key(), bench.key(), bench.key()
        resource, branch = bench.resource, bench.begin()
        bench.put(branch, first, 1)
        bench.run(resource.savepoint(branch.session, "s1"))
        bench.put(branch, first, 2)
        bench.put(branch, second, 1)
        bench.run(resource.savepoint(branch.session, "s2"))
        bench.put(branch, third, 3)
        bench.run(resource.release_savepoint(branch.session, "s2"))
        bench.run(resource.rollback_to_savepoint(branch.session, "s1"))
        bench.run(resource.rollback_to_savepoint(branch.session, "s1"))
        bench.put(branch, third, 4)
        bench.run(resource.release_savepoint(branch.session, "s1"))
        bench.prepare(branch)
        bench.run(resource.commit(branch.session))
        bench.expect_row(first, 1, "savepoint", "what was done after the savepoint is taken back")
        bench.expect_row(second, None, "savepoint", "what was done after the savepoint is taken back")
        bench.expect_row(third, 4, "savepoint", "what was done after going back stays")

    def test_savepoints_taken_back_whole_write_nothing(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.begin()
        bench.run(bench.resource.savepoint(branch.session, "s1"))
        bench.put(branch, key, 1)
        bench.run(bench.resource.rollback_to_savepoint(branch.session, "s1"))
        vote = bench.prepare(branch)
        if vote.choice is Choice.YES:
            bench.run(bench.resource.commit(branch.session))
        bench.expect(vote.choice is not Choice.NO, "savepoint", "taking everything back is no reason for a no", vote)
        bench.expect_row(key, None, "savepoint", "nothing of what was taken back stays")

    def _expect_gone(self, bench: Bench, branch: Branch, key: str, row: str, what: str) -> None:
        seen = branch.session.identifier
        bench.expect(seen is None, row, f"{what}: `session.identifier` is None", seen)
        scanned = bench.scan()
        bench.expect(branch.identifier not in scanned, row, f"{what}: a scan does not list it", scanned)
        bench.expect_free(key, row, what)
