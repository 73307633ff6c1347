"""Adapters that each break one promise about branches: votes, being in doubt, endings. Made of the memory resource.

Not for: what is kept, behaviour, losses, crashes (broken_manners.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from syncpoint.ids import Identifier
from syncpoint.resources.base import Answer, BranchStart, Choice, Evidence, Found, Session, Vote
from syncpoint.resources.memory import MemoryResource
from syncpoint.resources.memory_server import MemorySession, Work
from syncpoint.steps import Script
from tests.testing.conformance.broken import caught_by


def _work(session: Session) -> Work:
    assert isinstance(session, MemorySession)
    assert session.work is not None
    return session.work


# --- votes ----------------------------------------------------------------------------------------------------------


@caught_by("test_a2_a4_an_identifier_in_doubt_here_votes_no_and_harms_nobody", "A4")
class VotesYesTwice(MemoryResource):
    """The same identifier again: yes, in place of the first."""

    def prepare(self, session: Session) -> Script[Vote]:
        identifier = _work(session).identifier
        if identifier in self.server._prepared:
            return Vote(Choice.YES)
        return (yield from super().prepare(session))


@caught_by("test_a2_a4_an_identifier_in_doubt_here_votes_no_and_harms_nobody", "A4")
class DropsTheFirst(MemoryResource):
    """It votes no, and rolls back the branch that was there first (DATABASES PostgreSQL 2)."""

    def prepare(self, session: Session) -> Script[Vote]:
        identifier = _work(session).identifier
        if identifier in self.server._prepared:
            self.server.finish(identifier, commit=False)
            self.server.leave(session, commit=False)  # type: ignore[arg-type]
            return Vote(Choice.NO, reason="duplicate")
        return (yield from super().prepare(session))


@caught_by("test_a5_a_prepare_without_an_identifier_votes_no", "A5")
class VotesYesWithoutIdentifier(MemoryResource):
    def prepare(self, session: Session) -> Script[Vote]:
        if _work(session).identifier is None:
            return Vote(Choice.YES)
        return (yield from super().prepare(session))


@caught_by("test_a3_a_yes_vote_shows_nothing_yet", "A3")
class ShowsRowsAtTheVote(MemoryResource):
    def prepare(self, session: Session) -> Script[Vote]:
        work = _work(session)
        vote = yield from super().prepare(session)
        self.server._apply(work, evidence=False)
        return vote


@caught_by("test_o03_a_branch_that_only_read_votes_read_only_and_is_gone", "O03")
class PreparesReaders(MemoryResource):
    def prepare(self, session: Session) -> Script[Vote]:
        if not _work(session).writes:
            return Vote(Choice.YES)
        return (yield from super().prepare(session))


@caught_by("test_o03_a_branch_that_only_read_votes_read_only_and_is_gone", "O03")
class KeepsReaders(MemoryResource):
    """READ_ONLY, and the branch is still on the session."""

    def prepare(self, session: Session) -> Script[Vote]:
        identifier = session.identifier
        vote = yield from super().prepare(session)
        if vote.choice is Choice.READ_ONLY:
            session.identifier = identifier
        return vote


@caught_by("test_o03_a_branch_begun_read_only_cannot_write", "O03")
class IgnoresReadOnly(MemoryResource):
    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        yield from super().begin(session, dataclasses.replace(start, read_only=False))


@caught_by("test_wrote_never_says_no_to_a_branch_that_wrote", "O03")
class SaysItDidNotWrite(MemoryResource):
    def wrote(self, session: Session) -> Script[bool | None]:
        return False
        yield from ()


@caught_by("test_savepoints_take_back_a_part", "savepoint")
class KeepsWhatWasTakenBack(MemoryResource):
    def rollback_to_savepoint(self, session: Session, name: str) -> Script[None]:
        return
        yield from ()


@caught_by("test_a1_begin_takes_the_identifier_and_the_session_shows_it", "A1")
class HandsOutBusySessions(MemoryResource):
    def is_usable(self, session: Session) -> bool:
        return not session.broken


# --- in doubt -------------------------------------------------------------------------------------------------------


@caught_by("test_a7_the_rows_stay_locked_until_the_outcome", "A7")
class UnlocksAtTheVote(MemoryResource):
    def prepare(self, session: Session) -> Script[Vote]:
        work = _work(session)
        vote = yield from super().prepare(session)
        self.server._unlock_all(work)
        return vote


@caught_by("test_a7_closing_rolls_back_work_and_keeps_a_vote", "A7")
class ForgetsAVoteWhenClosed(MemoryResource):
    def close(self, session: Session) -> Script[None]:
        if session.identifier in self.server._prepared and session.identifier is not None:
            self.server.finish(session.identifier, commit=False)
        yield from super().close(session)


@caught_by("test_a7_closing_rolls_back_work_and_keeps_a_vote", "A7")
class CommitsWorkWhenClosed(MemoryResource):
    def close(self, session: Session) -> Script[None]:
        if session.identifier not in self.server._prepared:
            self.server.leave(session, commit=True)  # type: ignore[arg-type]
        yield from super().close(session)


@caught_by("test_a3_a7_a_vote_survives_a_restart", "A3", commit=True)
class VotesWithoutForcing(MemoryResource):
    """What it has voted on is gone after a restart (DATABASES MariaDB 11)."""

    _epoch = 1

    def open(self) -> Script[Session]:
        if self.server.epoch != self._epoch:
            for identifier in self.server.in_doubt():
                self.server.finish(identifier, commit=False)
            self._epoch = self.server.epoch
        return (yield from super().open())


@caught_by("test_a6_a_scan_lists_every_branch_in_doubt_by_its_identifier", "A6")
class ScansHalf(MemoryResource):
    def scan(self, session: Session) -> Script[list[Found]]:
        found = yield from super().scan(session)
        return found[::2]


@caught_by("test_o32_a_scan_lists_no_working_branch", "O32")
class ScansWorkToo(MemoryResource):
    _at_work: list[Identifier]

    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        yield from super().begin(session, start)
        self._at_work = [start.identifier]

    def scan(self, session: Session) -> Script[list[Found]]:
        found = yield from super().scan(session)
        return [*found, *(Found(one, "at work") for one in self._at_work)]


@caught_by("test_o33_a_foreign_branch_is_listed_without_identifier_and_left_alone", "O33")
class HidesStrangers(MemoryResource):
    def scan(self, session: Session) -> Script[list[Found]]:
        return [one for one in (yield from super().scan(session)) if one.identifier is not None]


@caught_by("test_o33_a_foreign_branch_is_listed_without_identifier_and_left_alone", "O33")
class RollsBackStrangers(MemoryResource):
    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        self.server._foreign.clear()
        return (yield from super().finish(session, identifier, commit=commit, state=state))


@caught_by("test_two_resources_of_one_database_see_the_same", "A6")
class RemembersItsOwnOnly(MemoryResource):
    """A process that asks its own memory instead of the database."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._mine: list[Identifier] = []

    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        yield from super().begin(session, start)
        self._mine.append(start.identifier)

    def scan(self, session: Session) -> Script[list[Found]]:
        return [one for one in (yield from super().scan(session)) if one.identifier in self._mine]


# --- endings --------------------------------------------------------------------------------------------------------


@caught_by("test_o19_no_such_branch_is_not_found", "O19")
class ReadsNotFoundAsDone(MemoryResource):
    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        answer = yield from super().finish(session, identifier, commit=commit, state=state)
        done = Answer.COMMITTED if commit else Answer.ABORTED
        return done if answer is Answer.NOT_FOUND else answer


@caught_by("test_o19_what_somebody_else_aborted_is_not_reported_committed", "O19")
class ReadsItsOwnNotFoundAsDone(MemoryResource):
    def commit(self, session: Session) -> Script[Answer]:
        answer = yield from super().commit(session)
        return Answer.COMMITTED if answer is Answer.NOT_FOUND else answer


@caught_by("test_o48_finish_told_twice_commits_once", "O48")
class WritesTwice(MemoryResource):
    """Told again, it writes again."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._written: dict[Identifier, Work] = {}

    def prepare(self, session: Session) -> Script[Vote]:
        work = _work(session)
        assert work.identifier is not None
        self._written[work.identifier] = work
        return (yield from super().prepare(session))

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        answer = yield from super().finish(session, identifier, commit=commit, state=state)
        if commit and answer is Answer.NOT_FOUND and identifier in self._written:
            self.server._apply(self._written[identifier], evidence=True)
        return answer


@caught_by("test_o19_an_abort_never_undoes_a_commit", "O19")
class UndoesCommits(MemoryResource):
    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        if not commit and self.server._evidence.get(identifier):
            self.server._rows.clear()
        return (yield from super().finish(session, identifier, commit=commit, state=state))


@caught_by("test_o04_abort_leaves_nothing_whatever_the_branchs_state", "O04")
class AbortsNothingThatHasVoted(MemoryResource):
    def abort(self, session: Session) -> Script[Answer]:
        if session.identifier in self.server._prepared:
            return Answer.ABORTED
        return (yield from super().abort(session))


@caught_by("test_o13_one_phase_commits_with_evidence", "O20")
class LeavesNoEvidence(MemoryResource):
    def commit_one_phase(self, session: Session) -> Script[Vote | Answer]:
        identifier = session.identifier
        answer = yield from super().commit_one_phase(session)
        self.server._evidence.pop(identifier, None)  # type: ignore[arg-type]
        return answer


@caught_by("test_o20_settling_before_the_commit_bars_it_for_ever", "O20")
class OnlyLooksWhenSettling(MemoryResource):
    """A late commit finds nothing in its way."""

    def settle(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        return (yield from self.evidence(session, identifier))


@caught_by("test_o20_settling_a_branch_in_doubt_does_not_judge_it", "O20")
class JudgesWhatIsInDoubt(MemoryResource):
    def settle(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        seen = yield from super().settle(session, identifier)
        return Evidence.ABSENT if seen is Evidence.UNDECIDED else seen


@caught_by("test_decide_with_a_refused_record_leaves_nothing", "O47")
class CommitsWithoutItsRecord(MemoryResource):
    def decide(self, session: Session, statement: Any) -> Script[Vote | Answer]:
        statement()
        return (yield from super().decide(session, lambda: True))


@caught_by("test_decide_commits_the_record_with_the_branch", "O46")
class LeavesEvidenceOfADecision(MemoryResource):
    def decide(self, session: Session, statement: Any) -> Script[Vote | Answer]:
        identifier = session.identifier
        answer = yield from super().decide(session, statement)
        self.server._evidence[identifier] = True  # type: ignore[index]
        return answer
