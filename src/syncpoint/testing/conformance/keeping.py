"""Checks of what is kept in the database: evidence, incarnations, the GUID; and of redo from state information.

Not for: branches themselves.
"""

from __future__ import annotations

import pytest

from syncpoint.errors import JournalRefused
from syncpoint.ids import Attempt, Guid, Incarnation
from syncpoint.resources.base import Answer, Evidence
from syncpoint.testing.conformance.bench import Bench, Branch

START = Attempt(Incarnation(0), 0)


class Keeping:
    """Rows A6, B2, B8, O19, O53."""

    # --- evidence ----------------------------------------------------------------------------------------

    def test_o19_evidence_of_a_commit_by_either_way(self, bench: Bench) -> None:
        own = bench.committed(bench.key())
        seen = bench.evidence(own)
        bench.expect(seen is Evidence.COMMITTED, "O19", "evidence after a commit on the branch's own session", seen)
        found = bench.voted(bench.key())
        bench.lose(found.session)
        bench.finish(found, commit=True)
        seen = bench.evidence(found)
        bench.expect(seen is Evidence.COMMITTED, "O19", "evidence after a commit by identifier", seen)

    def test_o19_no_evidence_of_what_was_not_committed(self, bench: Bench) -> None:
        never = Branch(bench.open(), bench.identifier())
        aborted = bench.voted(bench.key())
        bench.run(bench.resource.abort(aborted.session))
        for branch, what in ((never, "never begun"), (aborted, "aborted")):
            seen = bench.evidence(branch)
            bench.expect(seen is Evidence.ABSENT, "O19", f"evidence of a branch that was {what} is ABSENT", seen)

    def test_o19_evidence_is_not_shown_before_the_commit(self, bench: Bench) -> None:
        for begin, what in ((bench.wrote, "working"), (bench.voted, "prepared")):
            branch = begin(bench.key())
            seen = bench.evidence(branch)
            bench.expect(seen is not Evidence.COMMITTED, "O19", f"a {what} branch has no evidence of a commit", seen)
            bench.run(bench.resource.abort(branch.session))

    def test_evidence_is_paged_oldest_first_and_only_ones_own(self, bench: Bench) -> None:
        attempts = [bench.committed(bench.key()).identifier.attempt for _ in range(3)]
        two = bench.committed(bench.key(), identifier=bench.identifier(attempt=attempts[2], branch=2))
        later = bench.committed(bench.key(), identifier=bench.identifier(incarnation=2))
        attempts.append(later.identifier.attempt)
        seen = self._attempts(bench, START, 2)
        bench.expect(seen == attempts[:2], "evidence", f"the oldest two attempts: {attempts[:2]}", seen)
        seen = self._attempts(bench, attempts[1], 9)
        what = f"from {attempts[1]} on, itself included, each attempt once: {attempts[1:]}"
        bench.expect(seen == attempts[1:], "evidence", what, seen)
        stranger = Guid(bytes(16))
        script = bench.resource.evidence_attempts(bench.open(), stranger, START, 9)
        strange = bench.run(script)
        bench.expect(strange == [], "evidence", "another coordinator's evidence is its own", strange)
        assert two.identifier.attempt == attempts[2]

    def test_evidence_is_dropped_by_attempt(self, bench: Bench) -> None:
        branches = [bench.committed(bench.key()) for _ in range(3)]
        doomed = [branch.identifier.attempt for branch in branches[:2]]
        count = self._drop(bench, bench.coordinator, doomed)
        bench.expect(count == 2, "evidence", "`drop_evidence` returns how many rows went: 2", count)
        seen = [bench.evidence(branch) for branch in branches]
        wanted = [Evidence.ABSENT, Evidence.ABSENT, Evidence.COMMITTED]
        bench.expect(seen == wanted, "evidence", "of three, the two that were named are gone", seen)
        left = self._attempts(bench, START, 9)
        bench.expect(left == [branches[2].identifier.attempt], "evidence", "one attempt is left in the list", left)
        for attempts in (doomed, []):
            count = self._drop(bench, bench.coordinator, attempts)
            bench.expect(count == 0, "evidence", "dropping what is gone, or nothing, drops nothing", count)
        kept = [branches[2].identifier.attempt]
        count = self._drop(bench, Guid(bytes(16)), kept)
        bench.expect(count == 0, "evidence", "another coordinator's evidence is not dropped", count)

    def test_evidence_of_a_prepared_branch_is_not_dropped(self, bench: Bench) -> None:
        branch = bench.voted(bench.key())
        count = self._drop(bench, bench.coordinator, [branch.identifier.attempt])
        bench.expect(count == 0, "evidence", "`drop_evidence` never takes that of a prepared branch", count)
        answer = bench.run(bench.resource.commit(branch.session))
        bench.expect(answer is Answer.COMMITTED, "evidence", "the prepared branch commits", answer)
        seen = bench.evidence(branch)
        bench.expect(seen is Evidence.COMMITTED, "evidence", "and leaves its evidence", seen)

    def test_what_settle_wrote_is_neither_listed_nor_dropped(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.wrote(key)
        if bench.run(bench.resource.settle(bench.open(), branch.identifier)) is not Evidence.ABSENT:
            pytest.skip("settle: the adapter never bars a branch that is at work; it says UNDECIDED and asks again")
        seen = self._attempts(bench, START, 9)
        bench.expect(seen == [], "evidence", "a key that `settle` wrote is no evidence of a commit", seen)
        count = self._drop(bench, bench.coordinator, [branch.identifier.attempt])
        bench.expect(count == 0, "evidence", "`drop_evidence` never takes a key that `settle` wrote", count)
        bench.run(bench.resource.commit_one_phase(branch.session))
        bench.expect_row(key, None, "evidence", "the key is still in the way of a very late one-phase commit")

    def _attempts(self, bench: Bench, after: Attempt, limit: int) -> list[Attempt]:
        return bench.run(bench.resource.evidence_attempts(bench.open(), bench.coordinator, after, limit))

    def _drop(self, bench: Bench, coordinator: Guid, attempts: list[Attempt]) -> int:
        return bench.run(bench.resource.drop_evidence(bench.open(), coordinator, attempts))

    # --- first contact --------------------------------------------------------------------------------------

    def test_the_guid_stays_the_same(self, bench: Bench) -> None:
        bench.expect(isinstance(bench.guid, Guid), "A6", "`contact` returns the database's Guid", bench.guid)
        bench.run(bench.resource.initialise(bench.open()))
        again = bench.run(bench.resource.contact(bench.open(), bench.contact(2)))
        bench.expect(again == bench.guid, "A6", "`initialise` and another `contact` keep the GUID", again)

    def test_o53_an_older_copy_of_the_journal_is_refused(self, bench: Bench) -> None:
        bench.run(bench.resource.contact(bench.open(), bench.contact(7)))
        guid = bench.run(bench.resource.contact(bench.open(), bench.contact(5, highest=7)))
        bench.expect(guid == bench.guid, "O53", "an earlier start under a journal that counts to 7 is fine", guid)
        session = bench.open()
        error = bench.attempt(lambda: bench.runner.run(bench.resource.contact(session, bench.contact(6))))
        what = "a journal that has counted to 6 is refused where incarnation 7 was seen (JournalRefused)"
        bench.expect(isinstance(error, JournalRefused), "O53", what, error)
        other = bench.run(bench.resource.contact(bench.open(), bench.contact(8)))
        bench.expect(other == bench.guid, "O53", "the journal's own later start goes on", other)

    def test_o53_what_was_seen_survives_a_restart(self, bench: Bench) -> None:
        bench.run(bench.resource.contact(bench.open(), bench.contact(7)))
        bench.restart()
        bench.lose_all()
        session = bench.open()
        error = bench.attempt(lambda: bench.runner.run(bench.resource.contact(session, bench.contact(6))))
        what = "after a restart an older copy of the journal is still refused (JournalRefused)"
        bench.expect(isinstance(error, JournalRefused), "O53", what, error)

    # --- redo -------------------------------------------------------------------------------------------------

    def test_b8_a_lost_branch_is_redone_from_its_state_once(self, bench: Bench) -> None:
        if not bench.resource.has_redo:
            pytest.skip("redo: the adapter says has_redo = False")
        key = bench.key()
        branch = bench.voted(key)
        bench.expect(bool(branch.state), "B2", "an adapter that can redo carries state information", branch.state)
        bench.lose(branch.session)
        answer = bench.run(bench.resource.redo(bench.open(), branch.identifier, branch.state))
        bench.expect(answer is Answer.COMMITTED, "B8", "`redo` of a lost branch is COMMITTED", answer)
        bench.expect_row(key, 1, "B8", "the branch was redone")
        seen = bench.evidence(branch)
        bench.expect(seen is Evidence.COMMITTED, "B8", "a redo leaves the branch's evidence", seen)
        bench.lose_all()
        bench.committed(key, 5)
        bench.lose_all()
        answer = bench.run(bench.resource.redo(bench.open(), branch.identifier, branch.state))
        bench.expect(answer is Answer.COMMITTED, "B8", "a second `redo` is COMMITTED too", answer)
        bench.expect_row(key, 5, "B8", "a second redo writes nothing")
