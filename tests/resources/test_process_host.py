"""A resource manager's process from the inside: questions answered once, sessions that end, incarnations in the data.

Not for: the adapter's promises (test_process_conformance.py), real processes (test_process_processes.py).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

import syncpoint
from syncpoint.errors import ConfigurationError, Fenced, NotAllowed, RemoteError, TransactionEnded
from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.messages import Message
from syncpoint.resources import process_messages as messages
from syncpoint.resources.base import Answer, BranchStart, Choice, Contact, Session
from syncpoint.resources.process_host import OVERDUE_S, ProcessHost
from syncpoint.resources.process_messages import RESOURCE_VOCABULARY
from syncpoint.resources.registry import make_resource
from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing.in_process import Fate
from syncpoint.testing.servers.base import wait_until
from tests.resources.process_world import World

COORDINATOR = Guid(b"C" * 16)


def identifier(number: int = 1) -> Identifier:
    return Identifier(COORDINATOR, TransactionId(os.urandom(16)), Attempt(Incarnation(1), number), BranchNumber(1))


class Bank(World):
    """A table `account` behind a process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(apsw.Connection(str(path))) as made:
            made.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
        super().__init__(self.make)

    def make(self) -> Any:
        spec = f"sqlite:///{self.path}"
        return make_resource("bank", spec, mode="sync", clock=SystemClock(), random=SystemRandom())

    def rows(self) -> list[tuple[int, int]]:
        """Seen from outside."""
        with closing(apsw.Connection(str(self.path))) as other:
            other.set_busy_timeout(5000)
            return [(int(one), int(two)) for one, two in other.execute("SELECT * FROM account ORDER BY id")]

    def incarnation_in_file(self) -> int:
        with closing(apsw.Connection(str(self.path))) as other:
            return int(next(iter(other.execute("SELECT incarnation FROM syncpoint_service")))[0])

    def begin(self, session: bytes, *, process: str = "app-1", ms: int = 20_000) -> Identifier:
        name = identifier()
        said = self.ask(messages.Begin(session=session, number=1, identifier=name.to_bytes(), remaining_ms=ms), process)
        assert said == messages.Done(), said
        return name

    def insert(self, session: bytes, number: int, row: int) -> Message:
        sql = "INSERT INTO account VALUES (?, 5)"
        return self.ask(messages.Execute(session=session, number=number, sql=sql, parameters=[row]))


ONE, TWO = b"1" * 16, b"2" * 16


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with closing(Bank(tmp_path / "bank.db")) as bank:
        host = bank.start()
        contact = messages.Meet(coordinator=COORDINATOR.raw, incarnation=1, highest=1)
        assert isinstance(bank.ask(contact), messages.Met)
        assert host.service.incarnation == 1
        yield bank


# --- a question is answered once ----------------------------------------------------------------------------------


def test_a_repeated_question_gets_the_first_answer_and_is_not_done_again(bank: Bank) -> None:
    bank.begin(ONE)
    first = bank.insert(ONE, 2, 1)
    assert first == messages.Rows(columns=(), rows=(), changed=1)
    assert bank.insert(ONE, 2, 1) == first
    vote = bank.ask(messages.Prepare(session=ONE, number=3))
    assert isinstance(vote, messages.Voted)
    assert (vote.choice, vote.incarnation) == ("YES", 1)
    assert bank.ask(messages.Prepare(session=ONE, number=3)) == vote
    for _ in range(2):
        ended = bank.ask(messages.End(session=ONE, number=4, commit=True))
        assert ended == messages.Ended(answer="COMMITTED")
    assert bank.rows() == [(1, 5)]


def test_an_earlier_question_that_comes_late_changes_nothing(bank: Bank) -> None:
    bank.begin(ONE)
    bank.insert(ONE, 2, 1)
    bank.insert(ONE, 3, 2)
    late = bank.insert(ONE, 2, 3)
    assert isinstance(late, messages.Failure)
    bank.ask(messages.CommitOnePhase(session=ONE, number=4))
    assert bank.rows() == [(1, 5), (2, 5)]


def test_what_is_left_before_it_began_never_begins(bank: Bank) -> None:
    assert bank.ask(messages.Leave(session=ONE, number=2)) == messages.Done()
    name = identifier().to_bytes()
    said = bank.ask(messages.Begin(session=ONE, number=1, identifier=name, remaining_ms=1000))
    assert isinstance(said, messages.Failure)
    bank.begin(TWO, ms=1000)  # nobody has the turn


def test_a_session_is_its_own_process_alone(bank: Bank) -> None:
    bank.begin(ONE)
    said = bank.ask(messages.End(session=ONE, number=2, commit=False), "app-2")
    assert isinstance(said, messages.Failure)
    assert isinstance(bank.insert(ONE, 2, 1), messages.Rows)


def test_bytes_that_are_no_question(bank: Bank) -> None:
    assert bank.host is not None
    for raw in (b"", b"\x01\x90", b"\xff" * 40, RESOURCE_VOCABULARY.encode(messages.Done())):
        said = RESOURCE_VOCABULARY.decode(bank.runner.run(bank.host.answer("app-1", raw)))
        assert isinstance(said, messages.Failure)


# --- who ends a session -------------------------------------------------------------------------------------------


def test_a_managers_end_rolls_back_what_has_not_voted_and_keeps_a_vote(bank: Bank) -> None:
    assert bank.host is not None
    bank.begin(ONE)
    bank.insert(ONE, 2, 1)
    bank.runner.run(bank.host.manager_gone("app-1"))
    late = bank.ask(messages.Prepare(session=ONE, number=3))
    assert isinstance(late, messages.Voted)
    assert late.choice == "NO"
    name = bank.begin(TWO, ms=1000)
    bank.insert(TWO, 2, 2)
    bank.ask(messages.Prepare(session=TWO, number=3))
    bank.runner.run(bank.host.manager_gone("app-1"))
    assert bank.host.in_doubt()[0] == 1
    said = bank.ask(messages.Finish(identifier=name.to_bytes(), commit=True))
    assert said == messages.Ended(answer="COMMITTED")
    assert bank.rows() == [(2, 5)]
    assert bank.host.in_doubt() == (0, 0)


def test_a_branch_that_stands_in_line_when_its_manager_dies_holds_nothing_up(bank: Bank) -> None:
    host = bank.host
    assert host is not None
    bank.begin(ONE)
    name = identifier().to_bytes()
    begin = messages.Begin(session=TWO, number=1, identifier=name, remaining_ms=20_000)
    waiting = threading.Thread(target=bank.ask, args=(begin, "app-2"))
    waiting.start()
    wait_until(lambda: len(host.sessions) == 2, "the second branch to stand in line")
    gone = threading.Thread(target=lambda: bank.runner.run(host.manager_gone("app-2")))
    gone.start()
    bank.ask(messages.End(session=ONE, number=2, commit=False))
    waiting.join(20.0)
    gone.join(20.0)
    bank.runner.run(host.tend())
    assert len(host.sessions) == 0
    bank.begin(b"3" * 16, ms=1000)


def test_a_forgotten_branch_is_rolled_back_when_its_time_is_over(bank: Bank) -> None:
    assert bank.host is not None
    bank.begin(ONE)
    bank.insert(ONE, 2, 1)
    bank.host.sessions.alive()[0].deadline -= 20 + OVERDUE_S
    bank.runner.run(bank.host.tend())
    assert len(bank.host.sessions) == 0
    bank.begin(TWO, ms=1000)


def test_a_manager_that_comes_while_a_branch_is_in_doubt_can_finish_it(bank: Bank) -> None:
    """The node's own manager may meet this process only then: nobody else can give the file's lock back."""
    assert bank.host is not None
    name = bank.begin(ONE)
    bank.insert(ONE, 2, 1)
    bank.ask(messages.Prepare(session=ONE, number=3))
    met = bank.ask(messages.Meet(coordinator=COORDINATOR.raw, incarnation=9, highest=9))
    assert isinstance(met, messages.Met)
    bank.ask(messages.Finish(identifier=name.to_bytes(), commit=False))
    bank.runner.run(bank.host.tend())
    stale = bank.ask(messages.Meet(coordinator=COORDINATOR.raw, incarnation=8, highest=8))
    assert isinstance(stale, messages.Failure)
    assert stale.kind == "JournalRefused"  # incarnation 9 was left, later
    assert bank.rows() == []


def test_there_is_room_for_so_many_branches(bank: Bank) -> None:
    resource = bank.make()
    resource.attach(bank._rule, bank.runner)
    host = ProcessHost(resource, bank.runner, bank.clock, sessions_max=1)
    bank.host = host
    bank.runner.run(host.service.serve_as(1))
    bank.begin(ONE)
    name = identifier().to_bytes()
    said = bank.ask(messages.Begin(session=TWO, number=1, identifier=name, remaining_ms=1000))
    assert isinstance(said, messages.Failure)
    assert said.retryable


def test_what_has_no_redo_is_not_served() -> None:
    resource = make_resource("m", "memory://hosted", mode="sync", clock=SystemClock(), random=SystemRandom())
    with closing(ThreadRunner()) as runner, pytest.raises(ConfigurationError, match="no redo"):
        ProcessHost(resource, runner, SystemClock())


# --- incarnations in the data (B7) ------------------------------------------------------------------------------------


def test_b7_a_lower_incarnation_changes_nothing_whatever_it_is_asked(bank: Bank) -> None:
    """The old process sleeps; another is given the next incarnation; it wakes, and is asked everything."""
    old = bank.host
    assert old is not None
    name = bank.begin(ONE)
    bank.insert(ONE, 2, 1)
    bank.ask(messages.Prepare(session=ONE, number=3))
    vote = bank.ask(messages.Prepare(session=ONE, number=3))
    assert isinstance(vote, messages.Voted)
    bank.ask(messages.End(session=ONE, number=4, commit=True))
    bank.start()
    assert bank.incarnation_in_file() == 2
    bank.host, before = old, (bank.rows(), bank.path.with_name("bank.db-syncpoint").read_bytes())
    other = identifier(2).to_bytes()
    for question in (
        messages.Begin(session=TWO, number=1, identifier=other, remaining_ms=1000),
        messages.Meet(coordinator=COORDINATOR.raw, incarnation=7, highest=7),
        messages.Finish(identifier=other, commit=True, state=vote.state),
        messages.Finish(identifier=other, commit=False),
        messages.Redo(identifier=other, state=vote.state),
        messages.DropEvidence(coordinator=COORDINATOR.raw, attempts=(name.attempt.to_int(),)),
        messages.AskEvidence(identifier=name.to_bytes()),
    ):
        old.service.fenced = None
        said = bank.ask(question)
        assert isinstance(said, messages.Failure), question
        assert said.kind == "Fenced", question
        assert "incarnation 2" in said.message
    assert (bank.rows(), bank.path.with_name("bank.db-syncpoint").read_bytes()) == before
    assert isinstance(old.service.fenced, Fenced)
    again = bank.ask(messages.Scan())
    assert isinstance(again, messages.Failure)
    assert again.kind == "Fenced"  # from the first time on it answers nothing else
    bank.runner.run(old.close())


def test_b7_a_lower_incarnation_cannot_come_back(bank: Bank) -> None:
    bank.kill()
    bank.start()
    with pytest.raises(Fenced, match="incarnation 2"):
        bank.new_host(1)
    assert bank.incarnation_in_file() == 2


def test_b7_the_next_incarnation_waits_until_the_last_branch_of_the_old_one_has_ended(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncpoint.resources.sqlite.PATIENCE_S", 0.3)
    bank.begin(ONE)
    bank.insert(ONE, 2, 1)
    old = bank.host
    with pytest.raises(syncpoint.errors.ResourceUnavailable, match="write lock"):
        bank.start()
    bank.host = old
    bank.ask(messages.CommitOnePhase(session=ONE, number=3))
    bank.start()
    assert bank.rows() == [(1, 5)]


def test_b7_a_file_that_a_process_serves_is_not_changed_by_others(bank: Bank, tmp_path: Path) -> None:
    url = f"sqlite:///{bank.path}"
    manager = syncpoint.TransactionManager(str(tmp_path / "journal"), {"bank": url})
    with pytest.raises(Fenced, match="process://NAME"), manager:
        pytest.fail("it opened")
    bank.kill()
    with closing(apsw.Connection(str(bank.path))) as other:  # as the text says
        other.execute("DELETE FROM syncpoint_service")
        other.execute("DELETE FROM syncpoint_coordinator")
    with syncpoint.TransactionManager(str(tmp_path / "journal"), {"bank": url}) as manager, manager.transaction() as tx:
        tx.connect("bank").execute("INSERT INTO account VALUES (1, 1)")
    assert bank.rows() == [(1, 1)]


def test_an_older_file_without_the_table_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(apsw.Connection(str(path))) as made:
        made.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    old = {"old": f"sqlite:///{path}"}
    with syncpoint.TransactionManager(str(tmp_path / "journal"), old) as manager, manager.transaction() as tx:
        tx.connect("old").execute("INSERT INTO t VALUES (1)")
    with closing(apsw.Connection(str(path))) as other:
        names = {name for (name,) in other.execute("SELECT name FROM sqlite_schema")}
    assert "syncpoint_evidence" in names
    assert "syncpoint_service" not in names


# --- the manager's side -------------------------------------------------------------------------------------------


class Client:
    """A branch at the resource as a manager has it."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.resource = bank.resource()
        self.resource.attach(bank._rule, bank.runner)
        self.session: Session = bank.runner.run(self.resource.open())
        contact = Contact(COORDINATOR, Incarnation(1), Incarnation(1))
        bank.runner.run(self.resource.contact(self.session, contact))

    def begin(self) -> Any:
        self.identifier = identifier()
        self.bank.runner.run(self.resource.begin(self.session, BranchStart(self.identifier, 20_000)))
        return self.resource.connection(self.session)

    def run(self, name: str, *args: Any, **named: Any) -> Any:
        return self.bank.runner.run(getattr(self.resource, name)(self.session, *args, **named))


@pytest.fixture
def client(bank: Bank) -> Client:
    return Client(bank)


def test_rows_come_as_a_drivers_cursor_has_them(client: Client) -> None:
    connection = client.begin()
    sets = [(1, 10), (2, 20), (3, 30)]
    assert connection.executemany("INSERT INTO account VALUES (?, ?)", sets).rowcount == 3
    cursor = connection.execute("SELECT id, balance FROM account WHERE id > :least", {"least": 1})
    assert [column[0] for column in cursor.description] == ["id", "balance"]
    assert cursor.fetchone() == (2, 20)
    assert list(cursor) == [(3, 30)]
    assert cursor.fetchone() is None
    empty = connection.execute("SELECT id FROM account WHERE id = 9")
    assert (empty.description[0][0], empty.fetchall()) == ("id", [])
    assert connection.execute("UPDATE account SET balance = 0").rowcount == 3
    assert connection.execute("SELECT * FROM account").fetchmany(2) == [(1, 0), (2, 0)]
    vote = client.run("prepare")
    assert vote.choice is Choice.YES
    assert vote.incarnation == 1
    assert client.run("commit") is Answer.COMMITTED
    assert client.bank.rows() == [(1, 0), (2, 0), (3, 0)]


def test_errors_say_what_the_process_met(client: Client) -> None:
    connection = client.begin()
    with pytest.raises(RemoteError, match="no such table") as caught:
        connection.execute("SELECT * FROM missing_one")
    assert caught.value.kind == "apsw.SQLError"
    assert not caught.value.retryable
    with pytest.raises(NotAllowed, match="COMMIT"):
        connection.execute("COMMIT")
    with pytest.raises(ConfigurationError, match="cannot be sent"):
        connection.execute("SELECT ?", (object(),))
    client.run("abort")
    with pytest.raises(TransactionEnded):
        connection.execute("SELECT 1")


@pytest.mark.parametrize("fate", [Fate.UNANSWERED, Fate.LOST, Fate.TWICE])
def test_a_question_whose_answer_is_lost_is_asked_again(client: Client, fate: Fate) -> None:
    """Each kind of question once: the third question in a row that is the same gets through."""
    seen: list[Message] = []

    def rule(question: Message) -> Fate | None:
        if not isinstance(question, messages.Question) or seen.count(question) >= 2:
            return None
        seen.append(question)
        return fate

    client.bank.rules = [rule]
    connection = client.begin()
    connection.execute("INSERT INTO account VALUES (1, 1)")
    client.run("savepoint", "s")
    connection.execute("INSERT INTO account VALUES (2, 2)")
    client.run("rollback_to_savepoint", "s")
    assert client.run("wrote") is True
    assert client.run("prepare").choice is Choice.YES
    assert client.run("commit") is Answer.COMMITTED
    assert client.bank.rows() == [(1, 1)]


def test_b7_a_branch_is_never_continued_under_another_incarnation(client: Client) -> None:
    bank = client.bank
    connection = client.begin()
    connection.execute("INSERT INTO account VALUES (1, 1)")
    bank.kill()
    bank.start()
    with pytest.raises(syncpoint.errors.ResourceUnavailable) as caught:
        connection.execute("INSERT INTO account VALUES (2, 2)")
    assert client.resource.is_retryable(caught.value)
    assert client.session.broken
    client.run("close")
    client.session = bank.runner.run(client.resource.open())
    client.begin().execute("INSERT INTO account VALUES (3, 3)")
    bank.kill()
    bank.start()
    vote = client.run("prepare")
    assert (vote.choice, vote.retryable) == (Choice.NO, True)
    assert bank.rows() == []


def test_without_a_node_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match='journal="node://'):
        syncpoint.TransactionManager(str(tmp_path / "journal"), {"audit": "process://audit"})


def test_under_asyncio_everything_is_awaited(bank: Bank) -> None:
    async def play() -> list[tuple[Any, ...]]:
        runner = AsyncRunner()
        resource = bank.resource("async")
        resource.attach(bank._rule, runner)
        session = await runner.run(resource.open())
        await runner.run(resource.contact(session, Contact(COORDINATOR, Incarnation(1), Incarnation(1))))
        await runner.run(resource.begin(session, BranchStart(identifier(), 20_000)))
        connection = resource.connection(session)
        await connection.execute("INSERT INTO account VALUES (1, 1)")
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT * FROM account")
            rows = cursor.fetchall()
        assert (await runner.run(resource.prepare(session))).choice is Choice.YES
        assert await runner.run(resource.commit(session)) is Answer.COMMITTED
        await runner.close()
        return rows

    assert asyncio.run(play()) == [(1, 1)]
    assert bank.rows() == [(1, 1)]
