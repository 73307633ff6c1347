"""Checks of branches in doubt: what locks they hold, that they outlive connections and servers, who lists them.

Not for: what ends them (endings.py).
"""

from __future__ import annotations

import time

import pytest

from syncpoint.errors import ConnectionLost
from syncpoint.resources.base import Answer, Evidence, Found
from syncpoint.testing.conformance.bench import Bench


class InDoubt:
    """Rows A3, A6, A7, O32, O33, O35."""

    def test_a7_the_rows_stay_locked_until_the_outcome(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.voted(key)
        bench.expect_locked(key, "A7", "in doubt")
        bench.lose(branch.session)
        bench.expect_locked(key, "A7", "in doubt, its connection gone")
        bench.finish(branch, commit=True)
        bench.expect_free(key, "A7", "after the outcome")

    def test_a7_closing_rolls_back_work_and_keeps_a_vote(self, bench: Bench) -> None:
        worked, prepared = bench.key(), bench.key()
        bench.lose(bench.wrote(worked).session)
        bench.expect_row(worked, None, "A7", "closing a session rolls back its unprepared branch")
        bench.expect_free(worked, "A7", "after closing the session of an unprepared branch")
        branch = bench.voted(prepared)
        bench.lose(branch.session)
        seen = bench.scan()
        bench.expect(branch.identifier in seen, "A7", "closing a session keeps its prepared branch", seen)

    @pytest.mark.parametrize("commit", [True, False], ids=["commit", "abort"])
    def test_a3_a7_a_vote_survives_a_restart(self, bench: Bench, commit: bool) -> None:
        key, lost = bench.key(), bench.key()
        branch = bench.voted(key)
        active = None if bench.resource.single_writer else bench.wrote(lost)
        bench.restart()
        bench.lose_all()
        seen = bench.scan()
        bench.expect(branch.identifier in seen, "A3", "a yes vote is durable: after a restart a scan lists it", seen)
        bench.expect_locked(key, "A7", "in doubt after a restart")
        answer = bench.finish(branch, commit=commit)
        wanted = Answer.COMMITTED if commit else Answer.ABORTED
        bench.expect(answer is wanted, "A7", f"after a restart the outcome can be told: {wanted.name}", answer)
        what = f"{'committed' if commit else 'aborted'} after a restart"
        bench.expect_row(key, 1 if commit else None, "A7", what)
        if active is not None:
            bench.expect_row(lost, None, "A7", "what had not voted is lost by a restart")
            seen = bench.scan()
            bench.expect(active.identifier not in seen, "A7", "what had not voted is not in doubt", seen)

    def test_a3_a_committed_row_survives_a_restart(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.committed(key)
        bench.restart()
        bench.lose_all()
        bench.expect_row(key, 1, "O01", "what was answered COMMITTED survives a restart")
        seen = bench.evidence(branch)
        bench.expect(seen is Evidence.COMMITTED, "O19", "evidence of a commit survives a restart", seen)

    def test_a_restart_is_noticed_as_a_lost_connection(self, bench: Bench) -> None:
        if bench.subject.embedded:
            pytest.skip("restart: an embedded database has no connection that could be lost")
        session = bench.open()
        bench.restart()
        deadline = time.monotonic() + 10.0
        while True:  # the first request may still find the socket as it was
            try:
                bench.run(bench.resource.scan(session))
            except ConnectionLost as error:
                seen: object = error
                break
            except Exception as error:
                bench.fail("O35", "a connection that is gone is reported as ConnectionLost", error)
            bench.expect(time.monotonic() < deadline, "O35", "a scan over a connection that is gone fails", "answers")
        bench.expect(session.broken, "O35", "after ConnectionLost `session.broken` is set", seen)
        usable = bench.resource.is_usable(session)
        bench.expect(not usable, "O35", "a broken session is not handed out again", usable)

    def test_a6_a_scan_lists_every_branch_in_doubt_by_its_identifier(self, bench: Bench) -> None:
        count = 1 if bench.resource.single_writer else 3
        branches = [bench.voted(bench.key()) for _ in range(count)]
        found = bench.run(bench.resource.scan(bench.open()))
        kinds = all(isinstance(one, Found) for one in found)
        bench.expect(kinds, "A6", "a scan returns a list of Found", found)
        seen = [one.identifier for one in found]
        for branch in branches:
            times = seen.count(branch.identifier)
            bench.expect(times == 1, "A6", f"a scan lists {branch.identifier} once", f"{times} times in {seen}")
        named = all(one.name for one in found)
        bench.expect(named, "A6", "everything that a scan finds has a name, for people", found)
        for branch in branches:
            bench.run(bench.resource.abort(branch.session))
        seen = bench.scan()
        left = [branch.identifier for branch in branches if branch.identifier in seen]
        bench.expect(not left, "A6", "a scan lists nothing that has ended", left)

    def test_o32_a_scan_lists_no_working_branch(self, bench: Bench) -> None:
        branch = bench.wrote(bench.key())
        seen = bench.scan()
        bench.expect(branch.identifier not in seen, "O32", "a scan lists only what has voted", seen)

    def test_o33_a_foreign_branch_is_listed_without_identifier_and_left_alone(self, bench: Bench) -> None:
        name = bench.hook(bench.subject.leave_foreign)
        try:
            found = bench.run(bench.resource.scan(bench.open()))
            strangers = [one for one in found if one.identifier is None]
            seen = [one.name for one in strangers]
            what = f"a scan lists the foreign branch {name!r}, its identifier None"
            bench.expect(any(name in one for one in seen), "O33", what, found)
            branch = bench.begin()
            bench.lose(branch.session)
            bench.finish(branch, commit=False)
        finally:
            was_there = bench.subject.drop_foreign(name)
        bench.expect(was_there, "O33", "a foreign branch is left alone", "it is gone")

    def test_two_resources_of_one_database_see_the_same(self, bench: Bench) -> None:
        """A6: whoever comes next, in another process, finds what this one left."""
        branch = bench.voted(bench.key())
        bench.lose(branch.session)
        other = bench.make()
        session = bench.run(other.open())
        try:
            guid = bench.run(other.contact(session, bench.contact(2)))
            bench.expect(guid == bench.guid, "A6", "every resource of one database returns the same GUID", guid)
            seen = [one.identifier for one in bench.run(other.scan(session))]
            bench.expect(branch.identifier in seen, "A6", "another process finds the branch in doubt", seen)
        finally:
            bench.run(other.close(session))
