"""Checks of replies that get lost: the adapter says so and marks the session, and the database can still tell.

Not for: what the manager makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from syncpoint.errors import ConnectionLost
from syncpoint.resources.base import Answer, BranchStart, Choice, Evidence, Session, Vote
from syncpoint.steps import Script
from syncpoint.testing.conformance.bench import PLENTY_MS, Bench, Branch

LOOKING = ("scan", "evidence", "settle", "evidence_attempts", "drop_evidence", "inspect")


class Losses:
    """Rows O16, O18, O20, O35, O46."""

    def _lose(self, bench: Bench, method: str, session: Session, script: Callable[[], Script[Any]]) -> Any:
        """Run the script, its reply lost: ConnectionLost, and the session broken. Returns what else it answered."""
        bench.hook(lambda: bench.subject.lose_reply(method))
        try:
            answer = bench.run(script())
        except ConnectionLost as error:
            bench.expect(session.broken, "O35", f"after a lost reply to `{method}` `session.broken` is set", error)
            usable = bench.resource.is_usable(session)
            bench.expect(not usable, "O35", "a broken session is not handed out again (`is_usable`)", usable)
            bench.lose(session)
            return None
        except Exception as error:
            bench.fail("O35", f"a lost reply to `{method}` is reported as ConnectionLost", error)
        return answer

    def _must_lose(self, bench: Bench, method: str, session: Session, script: Callable[[], Script[Any]]) -> None:
        answer = self._lose(bench, method, session, script)
        bench.expect(answer is None, "O35", f"a lost reply to `{method}` raises ConnectionLost", answer)

    def test_o16_the_reply_to_prepare_is_lost(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.wrote(key)
        vote = self._lose(bench, "prepare", branch.session, lambda: bench.resource.prepare(branch.session))
        is_no = isinstance(vote, Vote) and vote.choice is Choice.NO
        bench.expect(vote is None or is_no, "O16", "a vote whose reply was lost is no yes", vote)
        answer = bench.finish(branch, commit=False)
        bench.expect(answer in (Answer.ABORTED, Answer.NOT_FOUND), "O16", "it can be rolled back by identifier", answer)
        bench.expect_row(key, None, "O16", "nothing stays of it")
        bench.expect_free(key, "O16", "after it was rolled back")

    def test_o18_the_reply_to_commit_is_lost(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.voted(key)
        self._must_lose(bench, "commit", branch.session, lambda: bench.resource.commit(branch.session))
        answer = bench.finish(branch, commit=True)
        seen = bench.evidence(branch)
        is_done = answer is Answer.COMMITTED or seen is Evidence.COMMITTED
        bench.expect(is_done, "O19", "after a lost reply to `commit`: it is finished, or evidence says so", seen)
        bench.expect_row(key, 1, "O18", "it is committed once")

    def test_o20_the_reply_to_a_one_phase_commit_is_lost(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.wrote(key)
        session = branch.session
        self._must_lose(bench, "commit_one_phase", session, lambda: bench.resource.commit_one_phase(session))
        seen = bench.run(bench.resource.settle(bench.open(), branch.identifier))
        bench.expect(seen is not Evidence.UNKNOWN, "O20", "`settle` finds out, or asks to be asked again", seen)
        if seen is not Evidence.UNDECIDED:
            wanted = 1 if seen is Evidence.COMMITTED else None
            bench.expect_row(key, wanted, "O20", f"`settle` said {seen.name}")

    def test_o46_the_reply_to_a_decision_is_lost(self, bench: Bench) -> None:
        if not bench.resource.can_decide:
            pytest.skip("decide: the adapter says can_decide = False")
        work, record = bench.key(), bench.key()
        statement = bench.hook(lambda: bench.subject.statement(record, 3))
        branch = bench.wrote(work)
        session = branch.session
        self._must_lose(bench, "decide", session, lambda: bench.resource.decide(session, statement))
        rows = bench.rows()
        bench.expect((work in rows) == (record in rows), "O46", "the record and the branch are one", rows)

    def test_the_reply_to_finish_is_lost(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.voted(key)
        bench.lose(branch.session)
        session = bench.open()
        script = bench.resource.finish
        self._must_lose(
            bench, "finish", session, lambda: script(session, branch.identifier, commit=True, state=branch.state)
        )
        bench.finish(branch, commit=True)
        bench.expect_row(key, 1, "O18", "a finish whose reply was lost is told again, and done once")

    def test_the_reply_to_begin_is_lost(self, bench: Bench) -> None:
        branch = Branch(bench.open(), bench.identifier())
        start = BranchStart(branch.identifier, PLENTY_MS)
        self._must_lose(bench, "begin", branch.session, lambda: bench.resource.begin(branch.session, start))

    def test_the_reply_to_abort_is_lost(self, bench: Bench) -> None:
        key = bench.key()
        branch = bench.voted(key)
        self._lose(bench, "abort", branch.session, lambda: bench.resource.abort(branch.session))
        bench.finish(branch, commit=False)
        bench.expect_row(key, None, "O25", "an abort whose reply was lost is told again")
        bench.expect_free(key, "O25", "after it")

    @pytest.mark.parametrize("method", LOOKING)
    def test_o35_a_question_without_an_answer_is_no_answer(self, bench: Bench, method: str) -> None:
        session, branch = bench.open(), bench.committed(bench.key())
        attempt = branch.identifier.attempt
        scripts: dict[str, Callable[[], Script[Any]]] = {
            "scan": lambda: bench.resource.scan(session),
            "inspect": lambda: bench.resource.inspect(session),
            "evidence": lambda: bench.resource.evidence(session, branch.identifier),
            "settle": lambda: bench.resource.settle(session, branch.identifier),
            "evidence_attempts": lambda: bench.resource.evidence_attempts(session, bench.coordinator, attempt, 9),
            "drop_evidence": lambda: bench.resource.drop_evidence(session, bench.coordinator, [attempt]),
        }
        self._must_lose(bench, method, session, scripts[method])
