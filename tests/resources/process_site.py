"""A site for tests: a node in this process, resource managers as real processes, and a manager's link to the node.

Not for: hosts without processes (process_world.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from syncpoint.config import NodeSettings
from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.manager.at_node import node_link
from syncpoint.node.registry import ResourceDesk
from syncpoint.node.server import Node
from syncpoint.protocol.takeover import Service, State
from syncpoint.records import BranchEntry, Commit
from syncpoint.resources.base import BranchStart, Contact, Session, Vote
from syncpoint.resources.process import ProcessResource
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing.servers.base import wait_until

ENDS_S = 20.0
MAIN = "from syncpoint.cli import main; main()"


class RunningProcess:
    """One `syncpoint resource run`."""

    def __init__(self, config: Path, *options: str, name: str = "audit") -> None:
        command = [sys.executable, "-c", MAIN, "resource", "run", name, "--config", str(config), *options]
        self.log = config.with_suffix(f".{len(list(config.parent.glob('*.log')))}.log")
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def send(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        if how == signal.SIGSTOP:
            wait_until(self._has_stopped, "the process to stop")

    def _has_stopped(self) -> bool:
        """Every thread of it: a signal takes its time."""
        states = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return all(one.read_text().rpartition(")")[2].split()[0] == "T" for one in states)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self._process.wait(ENDS_S)

    def ended(self) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait(ENDS_S)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        return self.log.read_text()

    def close(self) -> None:
        if self.is_running:
            self.send(signal.SIGCONT)
            self.kill()


class NodeAlone(Node):
    """Its own manager leaves the processes alone: these tests play the manager."""

    def _reach_processes(self, registry: ResourceDesk) -> None:
        pass


class Site:
    """See the file's opening. The data are a SQLite file with a table `entry`."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder = folder
        self.path = folder / "audit.db"
        with closing(apsw.Connection(str(self.path))) as made:
            made.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY)")
        self.url = f"node://unix://{socket}"
        self.config = folder / "syncpoint.toml"
        self.config.write_text(
            f'[syncpoint]\njournal = "{self.url}"\n[resources.audit]\nurl = "sqlite:///{self.path}"\nprocess = true\n'
        )
        settings = NodeSettings(listen=(f"unix://{socket}",), journal=str(folder / "node-journal"))
        self.node = NodeAlone(settings, resources={}, processes={"audit": "", "docs": ""}).open()
        assert self.node.registry is not None
        self.desk = self.node.registry
        self.processes: list[RunningProcess] = []
        self.runner = ThreadRunner()
        random = SystemRandom()
        self.link = node_link(self.url, role="manager", prefix="app-", random=random)
        self.link.open(self.runner, random)
        self.resource = ProcessResource("audit", "process://audit", {}, mode="sync", clock=SystemClock(), random=random)
        self.resource.connect_through(self.link.exchange, self.link.node)
        self.resource.attach(self._ask, self.runner)

    def _ask(self, identifier: Identifier) -> Any:
        raise AssertionError("the process asks the node")

    def close(self) -> None:
        for process in self.processes:
            process.close()
        self.link.close()
        self.runner.close()
        self.node.close()

    # --- processes -------------------------------------------------------------------------------------------

    def start(self, *options: str, name: str = "audit") -> RunningProcess:
        process = RunningProcess(self.config, *options, name=name)
        self.processes.append(process)
        return process

    @property
    def service(self) -> Service | None:
        return self.serving("audit")

    def serving(self, name: str) -> Service | None:
        return self.desk.registry.named(name)

    def wait_open(self, incarnation: int, name: str = "audit") -> None:
        def is_open() -> bool:
            service = self.serving(name)
            return service is not None and service.state is State.OPEN and service.incarnation == incarnation

        wait_until(is_open, f"incarnation {incarnation} to open")

    def wait_state(self, state: State) -> None:
        wait_until(lambda: self.service is not None and self.service.state is state, state.name)

    # --- a manager's work ------------------------------------------------------------------------------------

    @property
    def coordinator(self) -> Guid:
        return self.node.journal.coordinator

    def open(self) -> Session:
        return self.runner.run(self.resource.open())

    def meet(self) -> Guid:
        contact = Contact(self.coordinator, Incarnation(1), Incarnation(self.node.journal.incarnation))
        return self.runner.run(self.resource.contact(self.open(), contact))

    def identifier(self, number: int = 1) -> Identifier:
        attempt = Attempt(Incarnation(1), number)
        return Identifier(self.coordinator, TransactionId(os.urandom(16)), attempt, BranchNumber(1))

    def work(self, row: int) -> tuple[Session, Identifier]:
        """A branch that has inserted a row."""
        session, identifier = self.open(), self.identifier(row)
        self.runner.run(self.resource.begin(session, BranchStart(identifier, 20_000)))
        self.resource.connection(session).execute("INSERT INTO entry VALUES (?)", (row,))
        return session, identifier

    def vote(self, row: int) -> tuple[Session, Identifier, Vote]:
        session, identifier = self.work(row)
        return session, identifier, self.runner.run(self.resource.prepare(session))

    def decide(self, guid: Guid, *branches: tuple[Identifier, Vote]) -> None:
        """Force a Commit record for each, in this order."""
        for identifier, vote in branches:
            entry = BranchEntry(
                resource="audit",
                guid=guid.raw,
                identifier=identifier.to_bytes(),
                state=vote.state,
                incarnation=vote.incarnation,
            )
            record = Commit(
                transaction=identifier.transaction.raw,
                attempt=identifier.attempt.to_int(),
                branches=(entry,),
                at_ms=1,
            )
            self.node.runtime.run(self.node.journal.force((record,)))

    # --- from outside ----------------------------------------------------------------------------------------

    def rows(self) -> list[int]:
        return [row for (row,) in self.query("SELECT id FROM entry ORDER BY id")]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(apsw.Connection(str(self.path))) as other:
            other.set_busy_timeout(5000)
            return list(other.execute(sql))

    def note(self) -> bytes:
        return Path(f"{self.path}-syncpoint").read_bytes()
