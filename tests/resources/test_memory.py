"""The memory resource keeps the promises asked of every adapter; its server restarts, goes down and misbehaves."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from syncpoint.errors import ConfigurationError, ConnectionLost, JournalRefused, NotAllowed, ResourceUnavailable
from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.resources.base import Answer, BranchStart, Choice, Contact, Evidence, Found, Session, Severity, Vote
from syncpoint.resources.memory import LostReply, MemoryResource, MemoryServer, RowLocked
from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script
from syncpoint.system import SystemClock, SystemRandom

BOUND_S = 10.0
COORDINATOR = Guid(b"c" * 16)
_numbers = itertools.count(1)


def identifier(number: int, *, incarnation: int = 1) -> Identifier:
    attempt = Attempt(Incarnation(incarnation), number)
    return Identifier(COORDINATOR, TransactionId(number.to_bytes(16, "big")), attempt, BranchNumber(1))


def resource_at(url: str, **options: str) -> MemoryResource:
    return MemoryResource("bank", url, options, mode="sync", clock=SystemClock(), random=SystemRandom())


class Bank:
    """A server of its own and a resource that speaks to it, on threads."""

    def __init__(self) -> None:
        self.name = f"bank-{next(_numbers)}"
        self.runner = ThreadRunner()
        self.resource = resource_at(f"memory://{self.name}")
        self.resource.runtime = self.runner
        self.server = MemoryServer.named(self.name)

    def run(self, script: Script[Any]) -> Any:
        return self.runner.run(script)

    def session(self) -> Session:
        return cast(Session, self.run(self.resource.open()))

    def begin(self, number: int, *, remaining_ms: int = 10_000, read_only: bool = False) -> tuple[Session, Any]:
        session = self.session()
        self.run(self.resource.begin(session, BranchStart(identifier(number), remaining_ms, read_only)))
        return session, self.resource.connection(session)

    def prepared(self, number: int, key: str, value: Any) -> Session:
        session, connection = self.begin(number)
        connection.put(key, value)
        assert self.run(self.resource.prepare(session)) == Vote(Choice.YES)
        return session

    def values(self) -> dict[str, bytes]:
        """Read from outside, not through a branch."""
        return MemoryServer.named(self.name).rows()


@pytest.fixture
def bank() -> Iterator[Bank]:
    bank = Bank()
    yield bank
    bank.runner.close()
    MemoryServer.remove(bank.name)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


# --- a branch's life ------------------------------------------------------------------------------------------


def test_two_phases_make_rows_visible_with_evidence(bank: Bank) -> None:
    session = bank.prepared(1, "a", {"balance": 10})
    assert bank.values() == {}
    assert bank.run(bank.resource.scan(bank.session())) == [Found(identifier(1), identifier(1).to_gid())]
    assert bank.run(bank.resource.evidence(bank.session(), identifier(1))) is Evidence.UNDECIDED
    assert bank.run(bank.resource.commit(session)) is Answer.COMMITTED
    assert bank.values() == {"a": b'{"balance":10}'}
    assert bank.run(bank.resource.evidence(bank.session(), identifier(1))) is Evidence.COMMITTED
    assert bank.server.locked() == {}
    assert bank.resource.is_usable(session)


def test_abort_in_any_state_leaves_nothing(bank: Bank) -> None:
    working, connection = bank.begin(1)
    connection.put("a", 1)
    assert bank.run(bank.resource.abort(working)) is Answer.ABORTED
    assert bank.run(bank.resource.abort(bank.prepared(2, "b", 2))) is Answer.ABORTED
    assert bank.run(bank.resource.abort(working)) is Answer.ABORTED
    assert (bank.values(), bank.server.locked(), bank.server.in_doubt()) == ({}, {}, [])
    assert bank.run(bank.resource.evidence(working, identifier(2))) is Evidence.ABSENT


def test_a_branch_that_wrote_nothing_votes_read_only_and_is_gone(bank: Bank) -> None:
    session, connection = bank.begin(1)
    assert connection.get("a", for_update=True) is None
    assert bank.server.locked() == {"a": str(identifier(1))}
    assert bank.run(bank.resource.wrote(session)) is False
    assert bank.run(bank.resource.prepare(session)).choice is Choice.READ_ONLY
    assert bank.server.locked() == {}


def test_one_phase_commit(bank: Bank) -> None:
    session, connection = bank.begin(1)
    connection.put("a", 1)
    assert bank.run(bank.resource.wrote(session)) is True
    assert bank.run(bank.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert bank.run(bank.resource.settle(session, identifier(1))) is Evidence.COMMITTED
    session, _ = bank.begin(2)
    assert bank.run(bank.resource.commit_one_phase(session)).choice is Choice.READ_ONLY
    assert bank.values() == {"a": b"1"}


def test_savepoints(bank: Bank) -> None:
    session, connection = bank.begin(1)
    connection.put("a", 1)
    bank.run(bank.resource.savepoint(session, "s1"))
    connection.put("a", 2)
    bank.run(bank.resource.savepoint(session, "s2"))
    connection.delete("a")
    assert connection.get("a") is None
    bank.run(bank.resource.rollback_to_savepoint(session, "s2"))
    assert connection.get("a") == 2
    bank.run(bank.resource.release_savepoint(session, "s2"))
    bank.run(bank.resource.rollback_to_savepoint(session, "s1"))
    bank.run(bank.resource.rollback_to_savepoint(session, "s1"))
    bank.run(bank.resource.prepare(session))
    bank.run(bank.resource.commit(session))
    assert bank.values() == {"a": b"1"}


def test_the_connection_refuses_to_end_the_branch(bank: Bank) -> None:
    session, connection = bank.begin(1)
    for ending in (connection.commit, connection.rollback, connection.close):
        with pytest.raises(NotAllowed, match="behind the manager's back"):
            ending()
    with pytest.raises(TypeError):
        connection.put("a", object())
    bank.run(bank.resource.abort(session))
    with pytest.raises(NotAllowed, match="has ended"):
        connection.get("a")
    _, read_only = bank.begin(2, read_only=True)
    with pytest.raises(NotAllowed, match="read-only"):
        read_only.put("a", 1)


# --- votes (A2..A5) --------------------------------------------------------------------------------------------


def test_a4_an_identifier_in_doubt_here_votes_no_and_harms_nobody(bank: Bank) -> None:
    first = bank.prepared(1, "a", 1)
    second, connection = bank.begin(1)
    connection.put("b", 2)
    vote = bank.run(bank.resource.prepare(second))
    assert vote.choice is Choice.NO
    assert bank.server.locked() == {"a": str(identifier(1))}
    assert bank.run(bank.resource.commit(first)) is Answer.COMMITTED
    assert bank.values() == {"a": b"1"}


def test_a5_a_prepare_without_an_identifier_votes_no(bank: Bank) -> None:
    session = bank.session()
    nobody = cast(Identifier, None)
    bank.run(bank.resource.begin(session, BranchStart(nobody, 1000)))
    bank.resource.connection(session).put("a", 1)
    assert bank.run(bank.resource.prepare(session)).choice is Choice.NO
    assert (bank.values(), bank.server.locked()) == ({}, {})


def test_an_identifier_whose_evidence_is_there_votes_no(bank: Bank) -> None:
    bank.run(bank.resource.commit(bank.prepared(1, "a", 1)))
    session, connection = bank.begin(1)
    connection.put("a", 2)
    assert bank.run(bank.resource.prepare(session)).choice is Choice.NO
    assert (bank.values(), bank.server.locked(), bank.server.in_doubt()) == ({"a": b"1"}, {}, [])


def test_a_branch_ended_by_somebody_else_votes_no(bank: Bank) -> None:
    assert bank.run(bank.resource.prepare(bank.session())).choice is Choice.NO
    assert bank.run(bank.resource.commit_one_phase(bank.session())) is Answer.ABORTED


# --- in doubt (A7), finding out and finishing ---------------------------------------------------------------------


def test_a7_a_restart_keeps_prepared_branches_locked_and_loses_active_ones(bank: Bank) -> None:
    bank.prepared(1, "a", 1)
    active, connection = bank.begin(2)
    connection.put("b", 2)
    bank.server.restart()
    with pytest.raises(ConnectionLost):
        connection.get("b")
    assert active.broken
    assert bank.server.locked() == {"a": str(identifier(1))}
    bank.server.restart()
    _, late = bank.begin(3, remaining_ms=20)
    with pytest.raises(RowLocked, match="'a'") as caught:
        late.put("a", 3)
    assert bank.resource.is_retryable(caught.value)
    assert not bank.resource.is_retryable(ValueError())
    session = bank.session()
    assert bank.run(bank.resource.finish(session, identifier(1), commit=True, state=b"")) is Answer.COMMITTED
    assert bank.run(bank.resource.finish(session, identifier(1), commit=True, state=b"")) is Answer.NOT_FOUND
    assert bank.run(bank.resource.finish(session, identifier(2), commit=True, state=b"")) is Answer.NOT_FOUND
    assert bank.values() == {"a": b"1"}
    assert bank.server.locked() == {}


def test_finish_rolls_back_from_another_session(bank: Bank) -> None:
    own = bank.prepared(1, "a", 1)
    assert bank.run(bank.resource.finish(bank.session(), identifier(1), commit=False, state=b"")) is Answer.ABORTED
    assert bank.run(bank.resource.commit(own)) is Answer.NOT_FOUND
    assert (bank.values(), bank.server.locked()) == ({}, {})


def test_closing_a_session_rolls_back_work_and_keeps_a_vote(bank: Bank) -> None:
    session, connection = bank.begin(1)
    connection.put("a", 1)
    bank.run(bank.resource.close(session))
    bank.run(bank.resource.close(bank.prepared(2, "b", 2)))
    assert bank.server.locked() == {"b": str(identifier(2))}
    assert bank.server.in_doubt() == [identifier(2)]


def test_settle_is_final_a_late_commit_finds_its_key_taken(bank: Bank) -> None:
    session, connection = bank.begin(1)
    connection.put("a", 1)
    assert bank.run(bank.resource.settle(bank.session(), identifier(1))) is Evidence.ABSENT
    assert bank.run(bank.resource.commit_one_phase(session)) is Answer.ABORTED
    assert bank.run(bank.resource.settle(bank.session(), identifier(1))) is Evidence.ABSENT
    assert bank.values() == {}
    bank.prepared(2, "b", 2)
    assert bank.run(bank.resource.settle(bank.session(), identifier(2))) is Evidence.UNDECIDED


def test_a_scan_lists_foreign_branches_too(bank: Bank) -> None:
    bank.server.prepare_foreign("somebody's")
    bank.prepared(1, "a", 1)
    found = bank.run(bank.resource.scan(bank.session()))
    assert [entry.identifier for entry in found] == [identifier(1), None]
    assert [entry.name for entry in found] == [identifier(1).to_gid(), "somebody's"]


def test_evidence_is_listed_oldest_first_and_dropped_in_batches(bank: Bank) -> None:
    for number in (3, 1, 2):
        bank.run(bank.resource.commit(bank.prepared(number, f"k{number}", number)))
    session, resource = bank.session(), bank.resource
    attempts = [Attempt(Incarnation(1), number) for number in (1, 2, 3)]
    assert bank.run(resource.evidence_attempts(session, COORDINATOR, attempts[0], 2)) == attempts[:2]
    assert bank.run(resource.evidence_attempts(session, COORDINATOR, attempts[1], 9)) == attempts[1:]
    assert bank.run(resource.evidence_attempts(session, Guid(b"x" * 16), attempts[0], 9)) == []
    assert bank.run(resource.drop_evidence(session, COORDINATOR, attempts[:2])) == 2
    assert bank.run(resource.evidence(session, identifier(1))) is Evidence.ABSENT
    assert bank.run(resource.evidence(session, identifier(3))) is Evidence.COMMITTED


# --- set-up ----------------------------------------------------------------------------------------------------------


def test_o53_a_journal_older_than_what_the_server_has_seen_is_refused(bank: Bank) -> None:
    session, first = bank.session(), Contact(COORDINATOR, Incarnation(7), Incarnation(7))
    guid = bank.run(bank.resource.contact(session, first))
    assert bank.run(bank.resource.contact(session, dataclasses.replace(first, incarnation=Incarnation(5)))) == guid
    with pytest.raises(JournalRefused, match="seen incarnation 7"):
        bank.run(bank.resource.contact(session, Contact(COORDINATOR, Incarnation(6), Incarnation(6))))
    bank.server.restart()
    bank.run(bank.resource.initialise(bank.session()))
    assert bank.server.guid == guid
    [finding] = bank.run(bank.resource.inspect(bank.session()))
    assert finding.severity is Severity.OK
    assert list(bank.resource.init_statements()) == []


def test_urls() -> None:
    assert resource_at("memory://bank").safe_url == "memory://bank"
    for url in ("memory://", "memory://a/b", "memory://a?x=1", "memory:bank"):
        with pytest.raises(ConfigurationError, match="memory://name"):
            resource_at(url)


# --- locks ---------------------------------------------------------------------------------------------------------


def test_a_locked_row_is_waited_for(bank: Bank) -> None:
    holder, first = bank.begin(1)
    first.put("a", 1)
    session, second = bank.begin(2)
    written = threading.Event()

    def write() -> None:
        second.put("a", second.get("a", for_update=True) + 1)
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    eventually(lambda: bool(bank.server._waiting))
    assert not written.is_set()
    assert bank.run(bank.resource.blockers(session)) == f"'a' is held by {identifier(1)}"
    bank.run(bank.resource.commit_one_phase(holder))
    writer.join(BOUND_S)
    assert bank.run(bank.resource.commit_one_phase(session)) is Answer.COMMITTED
    assert bank.values() == {"a": b"2"}
    assert bank.server._waiting == {}


def test_many_writers_of_one_row_lose_no_update(bank: Bank) -> None:
    def add() -> None:
        for _ in range(5):
            session, connection = bank.begin(next(_numbers) + 1000)
            connection.put("total", (connection.get("total", for_update=True) or 0) + 1)
            bank.run(bank.resource.commit_one_phase(session))

    writers = [threading.Thread(target=add) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(BOUND_S)
    assert bank.values() == {"total": b"40"}


def test_without_a_runtime_a_locked_row_is_refused_at_once(bank: Bank) -> None:
    bank.prepared(1, "a", 1)
    bank.resource.runtime = None
    _, connection = bank.begin(2)
    connection.put("b", 2)
    assert connection.get("b") == 2
    with pytest.raises(RowLocked):
        connection.put("a", 2)


def test_asyncio_callers_wait_without_blocking_the_loop(bank: Bank) -> None:
    async def main() -> None:
        runner = AsyncRunner()
        clock, random = SystemClock(), SystemRandom()
        resource = MemoryResource("bank", f"memory://{bank.name}", {}, mode="async", clock=clock, random=random)
        resource.runtime = runner

        async def begin(number: int) -> tuple[Session, Any]:
            session = await runner.run(resource.open())
            await runner.run(resource.begin(session, BranchStart(identifier(number), 10_000)))
            return session, resource.connection(session)

        holder, first = await begin(1)
        await first.put("a", 1)
        session, second = await begin(2)
        waiting = asyncio.ensure_future(second.put("a", 2))
        _, third = await begin(3)
        cancelled = asyncio.ensure_future(third.put("a", 3))
        while len(bank.server._waiting.get("a", [])) < 2:
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await runner.run(resource.commit_one_phase(holder))
        await waiting
        assert await runner.run(resource.prepare(session)) == Vote(Choice.YES)
        assert await runner.run(resource.commit(session)) is Answer.COMMITTED
        resource.runtime = None
        _, fourth = await begin(4)
        assert await fourth.get("a") == 2
        await runner.close()

    asyncio.run(main())
    assert bank.values() == {"a": b"2"}


# --- misbehaving ---------------------------------------------------------------------------------------------------


def test_a_server_that_is_down(bank: Bank) -> None:
    session = bank.session()
    bank.server.down = True
    with pytest.raises(ResourceUnavailable, match="cannot be reached"):
        bank.session()
    with pytest.raises(ConnectionLost):
        bank.run(bank.resource.scan(session))
    assert session.broken
    bank.run(bank.resource.close(session))
    bank.server.restart()
    bank.session()


def test_a_lost_request_and_a_lost_reply(bank: Bank) -> None:
    session = bank.prepared(1, "a", 1)
    bank.server.answers["commit"].append(ConnectionLost("the request"))
    bank.server.answers["finish"].append(LostReply())
    with pytest.raises(ConnectionLost, match="the request"):
        bank.run(bank.resource.commit(session))
    assert session.broken
    assert bank.values() == {}
    with pytest.raises(ConnectionLost, match="reply"):
        bank.run(bank.resource.finish(bank.session(), identifier(1), commit=True, state=b""))
    assert bank.values() == {"a": b"1"}
    bank.server.answers["open"].append(ResourceUnavailable("too many"))
    with pytest.raises(ResourceUnavailable, match="too many"):
        bank.session()


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        (Answer.HEURISTIC_ROLLBACK, {}),
        (Answer.HEURISTIC_COMMIT, {"a": b"1"}),
        (Answer.HEURISTIC_MIXED, {}),
        (Answer.HEURISTIC_HAZARD, {}),
    ],
)
def test_a_scripted_heuristic_answer_is_true(bank: Bank, answer: Answer, rows: dict[str, bytes]) -> None:
    session = bank.prepared(1, "a", 1)
    bank.server.answers["commit"].append(answer)
    assert bank.run(bank.resource.commit(session)) is answer
    assert (bank.values(), bank.server.in_doubt(), bank.server.locked()) == (rows, [], {})


def test_a_scripted_retry_changes_nothing_and_a_scripted_no_ends_the_branch(bank: Bank) -> None:
    session = bank.prepared(1, "a", 1)
    bank.server.answers["commit"].append(Answer.RETRY)
    assert bank.run(bank.resource.commit(session)) is Answer.RETRY
    assert bank.server.in_doubt() == [identifier(1)]
    refused, connection = bank.begin(2)
    connection.put("b", 2)
    bank.server.answers["prepare"].append(Vote(Choice.NO, reason="full", retryable=True))
    assert bank.run(bank.resource.prepare(refused)).reason == "full"
    assert bank.server.locked() == {"a": str(identifier(1))}


def test_somebody_decides_alone(bank: Bank) -> None:
    for number, commit in ((1, True), (2, False)):
        session = bank.prepared(number, f"k{number}", number)
        bank.server.decide_alone(identifier(number), commit=commit)
        assert bank.run(bank.resource.commit(session)) is Answer.NOT_FOUND
    assert bank.values() == {"k1": b"1"}
    assert bank.run(bank.resource.evidence(bank.session(), identifier(1))) is Evidence.COMMITTED
    assert bank.run(bank.resource.evidence(bank.session(), identifier(2))) is Evidence.ABSENT


def test_an_abandoned_session_is_never_used_again(bank: Bank) -> None:
    session = bank.session()
    bank.resource.abandon(session)
    assert not bank.resource.is_usable(session)


# --- size ----------------------------------------------------------------------------------------------------------


def test_a_thousand_open_branches_cost_little(bank: Bank) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        open_now = []
        for number in range(1000):
            session, connection = bank.begin(number + 1)
            connection.put(f"row {number}", {"balance": number})
            open_now.append((session, connection))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    each_bytes = (after - before) / 1000
    assert each_bytes < 20_000, f"{each_bytes:.0f} bytes each"
    print(f"{each_bytes:.0f} bytes each")
    assert repr(bank.server) == f"<MemoryServer {bank.name} 0 rows, 0 in doubt>"
    assert repr(open_now[0][1]) == f"<MemoryConnection bank <Work {identifier(1)} WORKING 1 rows>>"
