"""A node's journal and its applications in one process, without sockets: questions and answers can be lost.

Not for: real processes (test_processes.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from syncpoint.errors import SyncpointError
from syncpoint.ids import Incarnation
from syncpoint.journal.folder import FolderJournal
from syncpoint.journal.node import NodeJournal
from syncpoint.journal.node_link import NodeLink, answer_at
from syncpoint.journal.node_messages import NODE_VOCABULARY
from syncpoint.messages import Message
from syncpoint.node.journal_host import JournalHost
from syncpoint.ports import Clock
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script
from syncpoint.system import SystemClock, SystemDisk, SystemRandom
from syncpoint.testing.in_process import Fate, Hall

T = TypeVar("T")
RESUME_S = 0.2


class Application:
    """One process with a journal at the node."""

    def __init__(self, hall: Hall, name: str) -> None:
        self.name = name
        self.runner = ThreadRunner()
        link = NodeLink(hall.exchange(name), node="node")
        self.journal = NodeJournal(link, clock=SystemClock(), random=SystemRandom(), place="a test")

    def open(self) -> Application:
        self(self.journal.open(self.runner))
        return self

    def __call__(self, script: Script[T]) -> T:
        return self.runner.run(script)

    @property
    def incarnation(self) -> Incarnation:
        return self.journal.incarnation

    def close(self) -> None:
        self(self.journal.close())
        self.runner.close()


class NodeWorld:
    """A node without resources. `start` makes a new one over the same folder, as after a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hall = Hall(NODE_VOCABULARY)
        self.failures: list[SyncpointError] = []
        self.applications: list[Application] = []
        self.disk = SystemDisk()
        self.clock: Clock = SystemClock()
        self.start()

    def start(self) -> None:
        self.runner = ThreadRunner()
        self.heir = self.make()
        self.run(self.heir.open(self.runner))
        self.host = JournalHost(
            heir=self.heir,
            make=lambda: self.make(self.heir),
            runtime=self.runner,
            clock=self.clock,
            resume_s=RESUME_S,
            failed=self.failures.append,
            inherit=self.heir.look,
        )
        self.exchange = self.hall.exchange("node", role="node")
        self.exchange.serve_peers(
            lambda peer, question: answer_at([self.host], peer, question),
            runtime=self.runner,
            guid=self.heir.coordinator,
            random=SystemRandom(),
            noticed=self.host.noticed,
        )
        self.runner.spawn(self.host.tend(), "tend")

    def make(self, heir: FolderJournal | None = None) -> FolderJournal:
        return FolderJournal(str(self.folder), disk=self.disk, clock=self.clock, random=SystemRandom(), heir=heir)

    def run(self, script: Script[T]) -> T:
        return self.runner.run(script)

    def application(self, name: str = "app-1") -> Application:
        made = Application(self.hall, name).open()
        self.applications.append(made)
        return made

    def die(self) -> None:
        """As when the node is killed: its locks go, and nothing more is written."""
        self.exchange.close()
        for session in self.host.sessions():
            session.journal._let_go()
        self.heir._let_go()
        self.runner.close()

    def restart(self) -> None:
        self.die()
        self.start()

    def close(self) -> None:
        self.hall.rules.clear()
        for application in self.applications:
            self.hall.reconnect(application.name)
            application.close()
        self.run(self.host.close())
        self.exchange.close()
        self.run(self.heir.close())
        self.runner.close()

    def once(self, kind: type[Message], fate: Fate) -> None:
        """What becomes of the next question of this kind."""
        left = [fate]

        def rule(source: str, target: str, question: Message) -> Fate | None:
            return left.pop() if left and isinstance(question, kind) else None

        self.hall.rules.insert(0, rule)

    def always(self, kind: type[Message], fate: Fate) -> None:
        self.hall.rules.insert(0, lambda source, target, question: fate if isinstance(question, kind) else None)
