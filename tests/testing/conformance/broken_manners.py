"""Adapters that each break one promise about what is kept, how they behave, or what is lost and crashes.

Made of the memory resource, and of SQLite. Not for: branches (broken_branches.py).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from syncpoint.errors import ConnectionLost
from syncpoint.ids import Attempt, Guid, Identifier
from syncpoint.resources.base import Answer, BranchStart, Choice, Contact, Evidence, Found, Session, Vote
from syncpoint.resources.memory import MemoryConnection, MemoryResource
from syncpoint.resources.memory_server import MemorySession
from syncpoint.resources.sqlite import SqliteResource
from syncpoint.steps import Local, Script
from tests.testing.conformance.broken import caught_by

# --- what is kept ---------------------------------------------------------------------------------------------------


@caught_by("test_evidence_is_paged_oldest_first_and_only_ones_own", "evidence")
class ListsTheNewestFirst(MemoryResource):
    def evidence_attempts(
        self, session: Session, coordinator: Guid, after: Attempt, limit: int
    ) -> Script[list[Attempt]]:
        attempts = yield from super().evidence_attempts(session, coordinator, after, 99)
        return attempts[::-1][:limit]


@caught_by("test_evidence_is_paged_oldest_first_and_only_ones_own", "evidence")
class SkipsTheFirst(MemoryResource):
    """From `after` on, but without it."""

    def evidence_attempts(
        self, session: Session, coordinator: Guid, after: Attempt, limit: int
    ) -> Script[list[Attempt]]:
        attempts = yield from super().evidence_attempts(session, coordinator, after, limit)
        return [one for one in attempts if one != after]


@caught_by("test_what_settle_wrote_is_neither_listed_nor_dropped", "evidence")
class DropsBarriers(MemoryResource):
    def drop_evidence(self, session: Session, coordinator: Guid, attempts: Sequence[Attempt]) -> Script[int]:
        kept = self.server._evidence
        doomed = [one for one in kept if one.coordinator == coordinator and one.attempt in attempts]
        for one in doomed:
            del kept[one]
        return len(doomed)
        yield from ()


@caught_by("test_evidence_is_dropped_by_attempt", "evidence")
class DropsEverybodys(MemoryResource):
    def drop_evidence(self, session: Session, coordinator: Guid, attempts: Sequence[Attempt]) -> Script[int]:
        count = len(self.server._evidence) if attempts else 0
        if attempts:
            self.server._evidence.clear()
        return count
        yield from ()


@caught_by("test_o19_evidence_is_not_shown_before_the_commit", "O19")
class ShowsEvidenceEarly(MemoryResource):
    def evidence(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        seen = yield from super().evidence(session, identifier)
        return Evidence.COMMITTED if seen is Evidence.UNDECIDED else seen


@caught_by("test_o53_an_older_copy_of_the_journal_is_refused", "O53")
class AcceptsOldJournals(MemoryResource):
    def contact(self, session: Session, contact: Contact) -> Script[Guid]:
        return (yield Local(self._give_guid, "contact"))


@caught_by("test_the_guid_stays_the_same", "A6")
class GivesAnotherGuid(MemoryResource):
    def contact(self, session: Session, contact: Contact) -> Script[Guid]:
        yield from super().contact(session, contact)
        return Guid(os.urandom(16))


# --- manners --------------------------------------------------------------------------------------------------------


class _Permissive(MemoryConnection):
    def commit(self) -> Any:
        self._resource.server.leave(self._session, commit=True)

    def close(self) -> Any:
        raise OSError("what?")


@caught_by("test_the_connection_refuses_to_end_the_branch", "connection", name="commit")
class LetsTheUserCommit(MemoryResource):
    def connection(self, session: Session) -> MemoryConnection:
        assert isinstance(session, MemorySession)
        return _Permissive(self, session)


@caught_by("test_the_connection_refuses_to_end_the_branch", "connection", name="close")
class RefusesInNobodysWords(LetsTheUserCommit):
    pass


@caught_by("test_o43_waiting_for_a_lock_ends_with_the_transactions_time", "retry")
class KnowsNoRetry(MemoryResource):
    def is_retryable(self, error: BaseException) -> bool:
        return False


@caught_by("test_o43_waiting_for_a_lock_ends_with_the_transactions_time", "timeout")
class WaitsTooLong(MemoryResource):
    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        yield from super().begin(session, dataclasses.replace(start, remaining_ms=start.remaining_ms + 1000))


@caught_by("test_what_will_fail_again_is_not_retryable", "retry")
class RetriesEverything(MemoryResource):
    def is_retryable(self, error: BaseException) -> bool:
        return True


@caught_by("test_close_never_raises", "close")
class RaisesWhenClosed(MemoryResource):
    def close(self, session: Session) -> Script[None]:
        if session.broken:
            raise ConnectionLost("it is broken")
        yield from super().close(session)


@caught_by("test_bad_urls_and_options_are_refused_in_words", "url")
class TakesAnyUrl(MemoryResource):
    def __init__(self, name: str, url: str, *arguments: Any, **named: Any) -> None:
        super().__init__(name, url.partition("?")[0], *arguments, **named)


# --- losses ---------------------------------------------------------------------------------------------------------


@caught_by("test_o18_the_reply_to_commit_is_lost", "O35")
class BelievesLostReplies(MemoryResource):
    """A reply that was lost reads as done."""

    def commit(self, session: Session) -> Script[Answer]:
        try:
            return (yield from super().commit(session))
        except ConnectionLost:
            return Answer.COMMITTED


@caught_by("test_o18_the_reply_to_commit_is_lost", "O35")
class GoesOnAfterALoss(MemoryResource):
    """The session is not marked."""

    def commit(self, session: Session) -> Script[Answer]:
        try:
            return (yield from super().commit(session))
        except ConnectionLost:
            session.broken = False
            raise


@caught_by("test_o16_the_reply_to_prepare_is_lost", "O16")
class VotesYesWithoutAReply(MemoryResource):
    def prepare(self, session: Session) -> Script[Vote]:
        try:
            return (yield from super().prepare(session))
        except ConnectionLost:
            return Vote(Choice.YES)


@caught_by("test_o35_a_question_without_an_answer_is_no_answer", "O35", method="scan")
class ReadsNoAnswerAsNothing(MemoryResource):
    """A scan that failed lists nothing: recovery would abort what is prepared."""

    def scan(self, session: Session) -> Script[list[Found]]:
        try:
            return (yield from super().scan(session))
        except ConnectionLost:
            return []


@caught_by("test_o35_a_question_without_an_answer_is_no_answer", "O35", method="evidence")
class RaisesTheDriversError(MemoryResource):
    def evidence(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        try:
            return (yield from super().evidence(session, identifier))
        except ConnectionLost as error:
            raise OSError("connection reset by peer") from error


# --- crashes --------------------------------------------------------------------------------------------------------


@caught_by("test_o31_killed_at_every_step_it_is_whole_after_recovery", "O31", what="two_phases")
class FinishesNothing(SqliteResource):
    """A branch that lost its process is reported as committed, and is not: seen only when something dies."""

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        answer = yield from super().finish(session, identifier, commit=False, state=state)
        return Answer.COMMITTED if commit else answer


@caught_by("test_b8_a_lost_branch_is_redone_from_its_state_once", "B8")
class RedoesTwice(SqliteResource):
    """It forgets that it has done so."""

    def redo(self, session: Session, identifier: Identifier, state: bytes) -> Script[Answer]:
        connection: Any = session.connection  # type: ignore[attr-defined]
        connection.control("DELETE FROM syncpoint_evidence")
        return (yield from super().redo(session, identifier, state))
