"""A backup that dies at every step of taking over, and the next one finishes; two at once, and one wins (B5 to B9).

A node, a manager at it, and resource managers in threads of this process: a death closes its link and its connections,
as the operating system would. Counted in the file, from outside. Not for: real processes (tests/resources/).
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import apsw
import pytest

from syncpoint import Transaction, TransactionManager, records
from syncpoint.config import NodeSettings
from syncpoint.errors import JournalUnavailable, ManagerClosed, SyncpointError, TransactionAborted
from syncpoint.ids import BranchNumber, Guid, Identifier, Key, TransactionId
from syncpoint.journal.base import Verdict
from syncpoint.manager.at_node import node_link
from syncpoint.messages import Message
from syncpoint.node.server import Node
from syncpoint.node.supervision import Patience
from syncpoint.ports import Peer
from syncpoint.protocol.takeover import Service, State
from syncpoint.records import BranchEntry, Commit, Prepared, Record, key_fields
from syncpoint.resources.node_messages import Health, ListResources, Resources, Serve, TakeOver, TakeOverPlan
from syncpoint.resources.process_driver import ProcessDriver
from syncpoint.resources.process_host import ProcessHost
from syncpoint.resources.process_messages import RESOURCE_VOCABULARY, End
from syncpoint.resources.registry import make_resource
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Blocking, Script
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing.servers.base import wait_until


class Killed(BaseException):
    """This process dies here."""


class ResourceManager:
    """One start of the resource manager "audit", in a thread. `die_at` so many steps after its start; 0: never."""

    def __init__(self, world: World, *, die_at: int = 0, standby: bool = False) -> None:
        self.steps: list[str] = []
        self._thread = threading.Thread(target=self._live, name="a resource manager")
        self._die_at = die_at
        self._runner = ThreadRunner()
        random, clock = SystemRandom(), SystemClock()
        resource = make_resource("audit", f"sqlite:///{world.path}", mode="sync", clock=clock, random=random)
        self._link = node_link(world.url, role="resource", prefix="rm-", random=random)
        self._host = ProcessHost(resource, self._runner, clock)
        self.driver = ProcessDriver(
            self._host,
            ask=self._ask,
            runtime=self._runner,
            clock=clock,
            random=random,
            standby=standby,
            health_s=0.1,
        )
        resource.attach(self.driver.rule, self._runner)
        on_session = self._host.service.on_session

        def stepped(work: Callable[..., Script[object]]) -> Script[object]:
            self._step("data")
            done = yield from on_session(work)
            self._step("data done")
            return done

        self._host.service.on_session = stepped  # type: ignore[method-assign, assignment]
        self.dies_when_told_to_commit = self._is_dying = False
        self._link.desks.append(self)
        self._link.open(self._runner, random)
        self._thread.start()
        world.started.append(self)

    def _step(self, what: str) -> None:
        # Later it takes over nothing any more; and what answers beside that, in other threads, would die alone.
        if "told Opened" not in self.steps and threading.current_thread() is self._thread:
            self.steps.append(what)
            if len(self.steps) == self._die_at:
                raise Killed

    def _ask(self, question: Message, seconds: float) -> Script[Message]:
        self._step(f"ask {type(question).__name__}")
        answer = yield from self._link.ask(question, seconds)
        self._step(f"told {type(question).__name__}")
        return answer

    def answers(self, peer: object, question: Message) -> Script[Message] | None:
        if self.dies_when_told_to_commit and isinstance(question, Serve) and not self._is_dying:
            self._is_dying = isinstance(RESOURCE_VOCABULARY.decode(question.question), End)
            if self._is_dying:
                threading.Thread(target=self.kill).start()
        if self._is_dying:
            return self._nothing()
        return self.driver.answers(peer, question)  # type: ignore[arg-type]

    def _nothing(self) -> Script[Message]:
        raise SyncpointError("It is dead.")
        yield from ()

    def noticed(self, event: object) -> None:
        self.driver.noticed(event)  # type: ignore[arg-type]

    def _live(self) -> None:
        try:
            with suppress(Killed, SyncpointError):
                self._runner.run(self.driver.run())
        finally:
            self._link.close()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def has_died_or_serves(self) -> bool:
        return "told Opened" in self.steps or not self.is_alive

    def kill(self) -> None:
        self._link.close()
        self.driver.stop()

    def close(self) -> None:
        self.kill()
        self._thread.join(20.0)
        self._runner.close()


class World:
    """A site."""

    def __init__(self, folder: Path, socket: str, policy: str = "") -> None:
        self.path = folder / "audit.db"
        with closing(apsw.Connection(str(self.path))) as made:
            made.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY)")
        self.url = f"node://unix://{socket}"
        self._settings = NodeSettings(listen=(f"unix://{socket}",), journal=str(folder / "node-journal"))
        self._policy = policy
        self.started: list[ResourceManager] = []
        self.node = self.start_node()
        self._folder = folder

    def start_node(self) -> Node:
        self.node = Node(
            self._settings,
            resources={},
            processes={"audit": self._policy},
            patience=Patience(grace_s=0.05, silent_s=1.0, trouble_s=0.2),
        ).open()
        return self.node

    def manager(self) -> TransactionManager:
        ledger = f"sqlite:///{self._folder / 'ledger.db'}"
        return TransactionManager(self.url, {"audit": "process://audit", "ledger": ledger})

    @property
    def service(self) -> Service | None:
        assert self.node.registry is not None
        return self.node.registry.registry.named("audit")

    def wait_open(self, above: int = 0) -> int:
        def is_open() -> bool:
            service = self.service
            return service is not None and service.state is State.OPEN and service.incarnation > above

        wait_until(is_open, f"an incarnation above {above} to open")
        assert self.service is not None
        return self.service.incarnation

    def rows(self) -> list[int]:
        with closing(apsw.Connection(str(self.path))) as other:
            other.set_busy_timeout(5000)
            return [row for (row,) in other.execute("SELECT id FROM entry ORDER BY id")]

    def close(self) -> None:
        for one in self.started:
            one.close()
        self.node.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="sp") as short, closing(World(tmp_path, f"{short}/s")) as world:
        yield world


def add(tx: Transaction, row: int) -> None:
    tx.connect("audit").execute("INSERT INTO entry VALUES (?)", (row,))


def insert(manager: TransactionManager, row: int) -> set[str]:
    """Commit one row; returns what is pending."""
    with manager.transaction() as tx:
        add(tx, row)
    return set(tx.pending)


def test_b5_b8_b9_the_backup_dies_at_every_step_and_the_next_one_finishes(world: World) -> None:
    row, die_at, seen = 0, 1, []
    first = ResourceManager(world)
    world.wait_open()
    with world.manager() as manager:
        while True:
            row += 1
            first.dies_when_told_to_commit = True
            assert insert(manager, row) == {"audit"}, "it is decided, and nobody could be told (B5)"
            assert world.rows() == list(range(1, row))
            dying = ResourceManager(world, die_at=die_at)
            wait_until(dying.has_died_or_serves, "the backup to die, or to open")
            survived = die_at > len(dying.steps)
            seen = dying.steps
            first = dying if survived else ResourceManager(world)
            wait_until(first.has_died_or_serves, "the next one to open")
            assert world.rows() == list(range(1, row + 1)), f"after {seen}"
            if survived:
                break
            manager.recover()  # now it is told, and its record ends
            die_at += 1
        assert insert(manager, 1000) == set()
    assert {"ask Enrol", "told Reconcile", "data done", "ask Opened"} <= set(seen)
    assert die_at >= 12
    assert world.rows() == [*range(1, row + 1), 1000]


@pytest.mark.parametrize("commits", [True, False], ids=["decided later", "never decided"])
def test_b9_what_was_voted_and_not_decided_is_waited_for(world: World, commits: bool) -> None:
    first = ResourceManager(world)
    incarnation = world.wait_open()
    with world.manager() as manager:
        journal = manager._core.journal
        force, reached, go_on = journal.force, threading.Event(), threading.Event()

        def held(records: Sequence[Record]) -> Script[tuple[Verdict, ...]]:
            if any(isinstance(record, Commit) for record in records):
                reached.set()
                yield Blocking(lambda: go_on.wait(20.0), "hold the decision")
                if not commits:
                    raise JournalUnavailable("The test says so.")
            return (yield from force(records))

        journal.force = held  # type: ignore[method-assign]
        outcome: list[object] = []

        def work() -> None:
            try:
                outcome.append(insert(manager, 1))
            except TransactionAborted as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert reached.wait(20.0)
        first.kill()
        wait_until(lambda: not first.is_alive, "its death")
        backup = ResourceManager(world)
        wait_until(lambda: backup.steps.count("told AskOutcome") > 1, "the backup to ask again")
        assert not backup.driver.is_open
        assert world.rows() == []
        go_on.set()
        assert world.wait_open(incarnation) == 2
        assert world.rows() == ([1] if commits else [])
        thread.join(20.0)
        assert isinstance(outcome[0], set if commits else TransactionAborted)
        journal.force = force  # type: ignore[method-assign]
        assert insert(manager, 2) == set()
    assert world.rows() == ([1, 2] if commits else [2])


def test_an_application_that_does_not_tell_its_votes_is_fenced(world: World) -> None:
    first = ResourceManager(world)
    incarnation = world.wait_open()
    with world.manager() as manager:
        manager.run(add, 1)
        manager._core.votes.answers = lambda peer, question: None  # type: ignore[method-assign]
        first.kill()
        ResourceManager(world)
        world.wait_open(incarnation)
        manager.run(add, 2)  # under another incarnation
        assert manager._core.journal.incarnation > 2
    assert world.rows() == [1, 2]


def test_b6_b7_of_two_backups_at_once_one_wins_and_the_other_waits(world: World) -> None:
    first = ResourceManager(world)
    lost = world.wait_open()
    with world.manager() as manager:
        first.dies_when_told_to_commit = True
        insert(manager, 1)
        both = [ResourceManager(world), ResourceManager(world)]
        world.wait_open(lost)
        assert world.rows() == [1]
        winner, other = sorted(both, key=lambda one: not one.driver.is_open)
        assert winner.driver.is_open
        assert not other.driver.is_open
        assert insert(manager, 2) == set()
        winner.kill()
        world.wait_open(winner.driver.incarnation)
        wait_until(lambda: other.driver.is_open, "the other one")
        assert insert(manager, 3) == set()
    assert world.rows() == [1, 2, 3]


def test_the_node_dies_while_a_backup_takes_over(world: World) -> None:
    first = ResourceManager(world)
    world.wait_open()
    with world.manager() as manager:
        first.dies_when_told_to_commit = True
        insert(manager, 1)
        world.node.close()
        backup = ResourceManager(world)
        wait_until(lambda: "ask Enrol" in backup.steps, "the backup to ask")
        world.start_node()
        world.wait_open(1)
        assert world.rows() == [1], "what was decided"
        manager.run(add, 2)
        world.node.close()  # and while it serves: it goes on under the same incarnation
        world.start_node()
        assert world.wait_open(1) == 2
        manager.run(add, 3)
    assert world.rows() == [1, 2, 3]


def test_b6_a_standby_is_activated_at_once(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sp") as short, closing(World(tmp_path, f"{short}/s", "standby")) as world:
        first = ResourceManager(world)
        incarnation = world.wait_open()
        ResourceManager(world, standby=True)
        wait_until(lambda: world.service is not None and bool(world.service.standbys), "the standby")
        with world.manager() as manager:
            first.dies_when_told_to_commit = True
            insert(manager, 1)
            world.wait_open(incarnation)
            assert world.rows() == [1]
            assert insert(manager, 2) == set()
        assert world.node.registry is not None
        what = [event.what for event in world.node.registry.events]
        assert what.index("lost") < what.index("replacing") < len(what) - 1 - what[::-1].index("opened")


def test_an_operator_has_it_taken_over_from_a_living_one(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sp") as short, closing(World(tmp_path, f"{short}/s", "standby")) as world:
        first = ResourceManager(world)
        incarnation = world.wait_open()
        runner, random = ThreadRunner(), SystemRandom()
        link = node_link(world.url, role="operator", prefix="op-", random=random)
        link.open(runner, random)
        with closing(link), closing(runner):
            nobody = runner.run(link.ask(TakeOver(resource="ledger"), 5.0))
            assert not nobody.found
            plan = runner.run(link.ask(TakeOver(resource="audit", who="anna"), 5.0))
            assert plan == TakeOverPlan(
                found=True,
                why="nobody can take over: no standby waits, and its policy starts none",
                incarnation=incarnation,
            )
            ResourceManager(world, standby=True)
            wait_until(lambda: world.service is not None and bool(world.service.standbys), "the standby")
            plan = runner.run(link.ask(TakeOver(resource="audit", dry_run=True), 5.0))
            assert not plan.begun
            assert plan.by.startswith("a standby in ")
            plan = runner.run(link.ask(TakeOver(resource="audit", who="anna"), 5.0))
            assert plan.begun
            world.wait_open(incarnation + 1)
            wait_until(lambda: not first.is_alive, "the old one to stop")
            listed = runner.run(link.ask(ListResources(), 5.0))
            assert isinstance(listed, Resources)
            (line,) = listed.lines
            assert (line.name, line.incarnation, line.state) == ("audit", incarnation + 2, "open")
        with world.manager() as manager:
            assert insert(manager, 1) == set()
        assert world.rows() == [1]


def test_what_a_dead_process_has_asked_does_not_bring_it_back(tmp_path: Path) -> None:
    """Its question is looked at when its loss has been noticed already: nobody would notice it again."""
    with tempfile.TemporaryDirectory(prefix="sp") as short, closing(World(tmp_path, f"{short}/s", "standby")) as world:
        first = ResourceManager(world)
        incarnation = world.wait_open()
        desk, service = world.node.registry, world.service
        assert desk is not None
        assert service is not None
        assert service.holder is not None
        late, peer = Health(guid=service.guid.raw, incarnation=incarnation), service.holder.peer
        first.kill()
        wait_until(lambda: service.state is State.LOST, "its loss")
        dead = Peer(name=peer, guid=Guid(bytes(16)), role="resource", instance=b"")
        script = desk.answers(dead, late)
        assert script is not None
        with pytest.raises(ManagerClosed):
            world.node.runtime.run(script)
        assert service.state is State.LOST
        ResourceManager(world, standby=True)
        world.wait_open(incarnation)


def test_a_resource_manager_that_was_lost_together_with_its_node_is_replaced(tmp_path: Path) -> None:
    """The new node has noticed no loss; it has a standby, and nobody who serves."""
    with tempfile.TemporaryDirectory(prefix="sp") as short, closing(World(tmp_path, f"{short}/s", "standby")) as world:
        first = ResourceManager(world)
        incarnation = world.wait_open()
        standby = ResourceManager(world, standby=True)
        wait_until(lambda: world.service is not None and bool(world.service.standbys), "the standby")
        with world.manager() as manager:
            first.dies_when_told_to_commit = True
            insert(manager, 1)
            world.node.close()
            first.kill()
            world.start_node()
            world.wait_open(incarnation)
            assert standby.driver.is_open
            assert world.rows() == [1]


def test_a_promise_whose_end_is_only_noted_holds_up_no_backup(world: World) -> None:
    """The end of an aborted promise is written with the next decision; while nobody serves, there may be none."""
    first = ResourceManager(world)
    incarnation = world.wait_open()
    assert world.service is not None
    with world.manager() as manager:
        journal, run = manager._core.journal, manager._runner.run
        key = Key(TransactionId(bytes(range(16))), journal.next_attempt())
        branch = Identifier(journal.coordinator, key.transaction, key.attempt, BranchNumber(1))
        entry = BranchEntry(resource="audit", guid=world.service.guid.raw, identifier=branch.to_bytes(), state=b"")
        superior = Identifier(Guid(bytes(range(1, 17))), key.transaction, key.attempt, BranchNumber(1))
        promise = Prepared(
            **key_fields(key),
            superior=superior.coordinator.raw,
            branches=(entry,),
            identifier=superior.to_bytes(),
        )
        assert run(journal.force((promise,))) == (Verdict.ACCEPTED,)
        journal.note((records.End(**key_fields(key)),))
        first.kill()
        ResourceManager(world)
        world.wait_open(incarnation)
