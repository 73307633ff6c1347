"""The life of a resource manager's process against a node that is a few lines of script: what it asks, in which order.

Not for: real processes and a real node (test_process_processes.py), the machine itself (tests/protocol/test_backup.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from syncpoint.errors import ConfigurationError, ConnectionLost, Fenced, ResourceUnavailable
from syncpoint.ids import Guid, Identifier
from syncpoint.messages import Message
from syncpoint.ports import Connected, Lost, Peer
from syncpoint.resources import node_messages as say
from syncpoint.resources import process_messages as messages
from syncpoint.resources.process_driver import NodeLost, ProcessDriver
from syncpoint.resources.process_host import ProcessHost
from syncpoint.resources.process_messages import RESOURCE_VOCABULARY
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script, Sleep
from syncpoint.system import SystemRandom
from syncpoint.testing.servers.base import wait_until
from tests.resources.test_process_host import ONE, TWO, Bank

NODE = Peer(name="node", guid=Guid(b"N" * 16), role="node", instance=b"12345678")
Said = Message | type[Exception] | Exception


class Node:
    """Answers by kind of question: the first of a list, and the last for ever."""

    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.answers: dict[type[Message], list[Said]] = {
            say.Enrol: [say.Enrolled(incarnation=2)],
            say.Reconcile: [say.Reconciled(decided=(), undecided=())],
            say.Opened: [say.Noted()],
            say.Health: [say.Noted()],
            say.Resign: [say.Noted()],
        }

    def ask(self, question: Message, seconds: float) -> Script[Message]:
        self.asked.append(question)
        answers = self.answers[type(question)]
        said = answers.pop(0) if len(answers) > 1 else answers[0]
        yield Sleep(0)
        if isinstance(said, Message):
            return said
        raise said if isinstance(said, Exception) else said("The node is away.")

    def kinds(self) -> list[str]:
        """What was asked, in order; repeated health left out."""
        names = [type(one).__name__ for one in self.asked]
        return [name for name in names if name != "Health"]


class Life:
    """One process: its driver, run in a thread."""

    def __init__(self, bank: Bank, node: Node, *, standby: bool = False, dead_after_s: float = 30.0) -> None:
        self.runner = ThreadRunner()
        resource = bank.make()
        self.host = ProcessHost(resource, self.runner, bank.clock)
        self.driver = ProcessDriver(
            self.host,
            ask=node.ask,
            runtime=self.runner,
            clock=bank.clock,
            random=SystemRandom(),
            standby=standby,
            dead_after_s=dead_after_s,
            health_s=0.02,
        )
        resource.attach(self.driver.rule, self.runner)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.runner.run(self.driver.run())
        except Exception as error:
            self.error = error

    def wait_open(self) -> None:
        wait_until(lambda: self.driver.is_open or self.error is not None, "the process to open")
        assert self.error is None, self.error

    def ended(self) -> BaseException | None:
        self._thread.join(20.0)
        assert not self._thread.is_alive()
        return self.error

    def ask(self, question: Message) -> Any:
        script = self.driver.answers(NODE, question)
        assert script is not None
        return self.runner.run(script)

    def serve(self, question: Message, incarnation: int = 2) -> Message:
        raw = RESOURCE_VOCABULARY.encode(question)
        guid = Guid(b"C" * 16).raw
        said = self.ask(say.Serve(incarnation=incarnation, manager=guid, process="app-1", question=raw))
        return RESOURCE_VOCABULARY.decode(said.answer) if isinstance(said, say.Served) else said

    def close(self) -> None:
        self.driver.stop()
        self.ended()
        self.runner.close()


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with closing(Bank(tmp_path / "bank.db")) as bank:
        yield bank


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def live(bank: Bank, node: Node) -> Iterator[Callable[..., Life]]:
    lives: list[Life] = []

    def start(**options: Any) -> Life:
        lives.append(Life(bank, node, **options))
        return lives[-1]

    yield start
    for one in lives:
        one.close()


def left_by_a_dead_one(bank: Bank, *rows: int) -> list[say.BranchState]:
    """Branches of incarnation 1 that voted: all but the last were committed before its process was killed."""
    states = []
    bank.start()
    bank.ask(messages.Meet(coordinator=b"C" * 16, incarnation=1, highest=1))
    for row in rows:
        session = bytes(15) + bytes((row,))
        name: Identifier = bank.begin(session)
        bank.insert(session, 2, row)
        vote = bank.ask(messages.Prepare(session=session, number=3))
        assert isinstance(vote, messages.Voted)
        states.append(say.BranchState(identifier=name.to_bytes(), state=vote.state))
        if row != rows[-1]:
            bank.ask(messages.End(session=session, number=4, commit=True))
    bank.kill()
    return states


def test_b6_to_b9_it_serves_only_after_it_has_finished_what_was_decided(
    bank: Bank, node: Node, live: Callable[..., Life]
) -> None:
    first, second, undecided = left_by_a_dead_one(bank, 1, 2, 3)
    node.answers[say.Reconcile] = [say.Reconciled(decided=(first, second), undecided=(undecided,))]
    node.answers[say.AskOutcome] = [
        say.Outcome(decision="UNKNOWN"),
        ConnectionLost,
        say.Outcome(decision="COMMIT", state=undecided.state),
    ]
    life = live()
    early = life.serve(messages.Scan())
    assert isinstance(early, say.Fenced | say.NotServed)  # B-I1: not before it is open
    life.wait_open()
    assert bank.rows() == [(1, 5), (2, 5), (3, 5)]
    wait_until(lambda: "Opened" in node.kinds(), "the node to be told")
    assert node.kinds() == ["Enrol", "Reconcile", "AskOutcome", "AskOutcome", "AskOutcome", "Opened"]
    assert [one.redone for one in node.asked if isinstance(one, say.Opened)] == [1]
    assert bank.incarnation_in_file() == 2
    assert life.serve(messages.Scan()) == messages.Scanned(found=())


def test_b9_what_is_aborted_meanwhile_is_dropped(bank: Bank, node: Node, live: Callable[..., Life]) -> None:
    (undecided,) = left_by_a_dead_one(bank, 1)
    node.answers[say.Reconcile] = [say.Reconciled(decided=(), undecided=(undecided,))]
    node.answers[say.AskOutcome] = [say.Outcome(decision="ABORT")]
    live().wait_open()
    assert bank.rows() == []


def test_each_question_is_asked_again_until_it_is_answered(bank: Bank, node: Node, live: Callable[..., Life]) -> None:
    (decided,) = left_by_a_dead_one(bank, 1)
    node.answers[say.Enrol] = [
        ConnectionLost,
        say.NotEnrolled(why="somebody else serves it", retry=True),
        say.Enrolled(incarnation=2),
    ]
    node.answers[say.Reconcile] = [
        ResourceUnavailable,
        ConnectionLost,
        say.Reconciled(decided=(decided,), undecided=()),
    ]
    node.answers[say.Opened] = [ConnectionLost, say.Noted()]
    life = live()
    life.wait_open()
    wait_until(lambda: node.kinds().count("Opened") == 2, "the node to note it")
    assert node.kinds() == ["Enrol"] * 3 + ["Reconcile"] * 3 + ["Opened"] * 2
    assert bank.rows() == [(1, 5)]


def test_b4_it_tells_how_it_is(bank: Bank, node: Node, live: Callable[..., Life]) -> None:
    life = live()
    life.wait_open()
    life.serve(messages.Meet(coordinator=b"C" * 16, incarnation=1, highest=1))
    begin = messages.Begin(session=ONE, number=1, identifier=_name(), remaining_ms=9000)
    assert life.serve(begin) == messages.Done()
    sql = "INSERT INTO account VALUES (1, 1)"
    life.serve(messages.Execute(session=ONE, number=2, sql=sql))
    life.serve(messages.Prepare(session=ONE, number=3))
    wait_until(lambda: any(isinstance(one, say.Health) and one.in_doubt == 1 for one in node.asked), "its health")
    life.serve(messages.End(session=ONE, number=4, commit=True))
    bank.path.rename(bank.path.with_suffix(".gone"))
    wait_until(lambda: any(isinstance(one, say.Health) and one.trouble for one in node.asked), "its trouble")
    bank.path.with_suffix(".gone").rename(bank.path)


def _name() -> bytes:
    from tests.resources.test_process_host import identifier

    return identifier().to_bytes()


def test_a_manager_that_is_gone_and_a_link_that_is_back(bank: Bank, node: Node, live: Callable[..., Life]) -> None:
    life = live()
    life.wait_open()
    begin = messages.Begin(session=TWO, number=1, identifier=_name(), remaining_ms=9000)
    assert life.serve(begin) == messages.Done()
    assert life.ask(say.ManagerGone(process="app-1")) == say.Noted()
    wait_until(lambda: len(life.host.sessions) == 0, "the rollback")
    life.driver.noticed(Lost(NODE, "it was started anew"))
    life.driver.noticed(Connected(NODE))
    wait_until(lambda: node.kinds().count("Opened") == 2, "the node to be told again")
    life.driver.stop()
    assert life.ended() is None
    assert node.kinds()[-1] == "Resign"


def test_b6_a_standby_waits_until_it_is_activated(bank: Bank, node: Node, live: Callable[..., Life]) -> None:
    node.answers[say.Enrol] = [say.Enrolled(incarnation=0), say.Enrolled(incarnation=2)]
    life = live(standby=True)
    wait_until(lambda: node.kinds() == ["Enrol"], "the first question")
    assert life.driver.answers(NODE, say.Activate(resource="another")) is None
    assert life.ask(say.Activate(resource="bank")) == say.Noted()
    life.wait_open()
    asked = [one.standby for one in node.asked if isinstance(one, say.Enrol)]
    assert asked == [True, False]


# --- what ends it -------------------------------------------------------------------------------------------------


def fenced_by_its_health(bank: Bank, node: Node, life: Life) -> None:
    node.answers[say.Health] = [say.Fenced(incarnation=3)]


def fenced_by_a_question(bank: Bank, node: Node, life: Life) -> None:
    said = life.serve(messages.Scan(), incarnation=3)
    assert said == say.Fenced(incarnation=3)


def fenced_by_the_data(bank: Bank, node: Node, life: Life) -> None:
    bank.new_host(7)
    begin = messages.Begin(session=ONE, number=1, identifier=_name(), remaining_ms=1000)
    assert isinstance(life.serve(begin), messages.Failure)


@pytest.mark.parametrize("way", [fenced_by_its_health, fenced_by_a_question, fenced_by_the_data])
def test_b7_fenced_off_it_stops_and_keeps_nothing_open(
    bank: Bank, node: Node, live: Callable[..., Life], way: Callable[[Bank, Node, Life], None]
) -> None:
    life = live()
    life.wait_open()
    way(bank, node, life)
    error = life.ended()
    assert isinstance(error, Fenced)
    assert "incarnation" in error.message
    assert not life.driver.is_open
    assert isinstance(life.serve(messages.Scan()), say.Fenced | say.NotServed)
    assert "Resign" not in node.kinds()


def test_b7_fenced_while_it_takes_over(bank: Bank, node: Node, live: Callable[..., Life]) -> None:
    (decided,) = left_by_a_dead_one(bank, 1)
    node.answers[say.Reconcile] = [say.Fenced(incarnation=3)]
    assert isinstance(live().ended(), Fenced)
    assert bank.rows() == []
    assert "Opened" not in node.kinds()
    assert decided.state


def test_b7_the_data_know_of_a_higher_one(bank: Bank, node: Node, live: Callable[..., Life]) -> None:
    for _ in range(4):
        bank.kill()
        bank.start()
        bank.ask(messages.Meet(coordinator=b"C" * 16, incarnation=1, highest=1))
    bank.kill()
    assert isinstance(live().ended(), Fenced)
    assert [one.seen for one in node.asked if isinstance(one, say.Enrol)] == [4]


def test_it_tells_how_it_is_while_it_waits_for_the_old_ones_lock(
    bank: Bank, node: Node, live: Callable[..., Life]
) -> None:
    """A stopped process holds the file: that may take long, and is no reason to think that the node is lost."""
    bank.start()
    bank.ask(messages.Meet(coordinator=b"C" * 16, incarnation=1, highest=1))
    bank.begin(ONE)
    life = live(dead_after_s=0.3)
    wait_until(lambda: sum(isinstance(one, say.Health) for one in node.asked) > 30, "signs of life")
    assert not life.driver.is_open
    bank.kill()
    life.wait_open()


def test_b4_without_a_node_it_stops(bank: Bank, node: Node, live: Callable[..., Life]) -> None:
    life = live(dead_after_s=0.3)
    life.wait_open()
    node.answers[say.Health] = [ConnectionLost]
    assert isinstance(life.ended(), NodeLost)


def test_a_refused_process_says_why(bank: Bank, node: Node, live: Callable[..., Life]) -> None:
    node.answers[say.Enrol] = [say.NotEnrolled(why="the name is another's")]
    error = live().ended()
    assert isinstance(error, ConfigurationError)
    assert "the name is another's" in error.message
