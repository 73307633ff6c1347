"""The cast of a site: a node, resource managers that run as processes, applications whose journal the node keeps (B).

    applications --link--> node <--link-- processes of the resource managers, which serve their data

All of them are the real code on simulated links, disks and data; the node's parts are put together as in
`node.server.Node`, which does it on threads. A process that has ended is started again by whoever watches over it: the
node (policy "restart"), or its machine, and then it waits as a standby. Not for: what goes wrong (faults.py), what
applications do (workloads/takeover.py), or the data (rm_data.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from syncpoint.errors import SyncpointError
from syncpoint.ids import Guid
from syncpoint.journal.folder import FolderJournal
from syncpoint.journal.node import NodeJournal
from syncpoint.journal.node_link import Desk, NodeLink, answer_at
from syncpoint.journal.node_messages import NODE_VOCABULARY
from syncpoint.link.exchange import LinkExchange
from syncpoint.link.settings import LinkSettings
from syncpoint.manager.core import Core
from syncpoint.messages import Message
from syncpoint.node.desks import may_ask
from syncpoint.node.journal_host import JournalHost
from syncpoint.node.registry import LocalPort, ResourceDesk
from syncpoint.node.supervision import Patience, Supervisor
from syncpoint.ports import LinkEvent, Peer
from syncpoint.protocol.takeover import State
from syncpoint.resources.base import Resource
from syncpoint.resources.process import ProcessResource
from syncpoint.resources.process_driver import ProcessDriver
from syncpoint.resources.process_host import ProcessHost
from syncpoint.simulation.host import RESTART_S, Application, Host
from syncpoint.simulation.links import Switchboard
from syncpoint.simulation.process import Process
from syncpoint.simulation.rm_data import RmData, RmResource
from syncpoint.simulation.runtime import Outcome, SimRuntime
from syncpoint.simulation.world import SimRandom, World
from syncpoint.steps import Done, Script, Wait

NODE = "node"
FOLDER = "/journal"


def exchange_of(board: Switchboard, process: Process, role: str, name: str) -> LinkExchange:
    """The real exchange on a simulated link."""
    settings = LinkSettings(cluster="simulation", name=name, role=role, guid=Guid(bytes(16)))
    dials = "" if role == NODE else NODE
    may = may_ask if role == NODE else lambda peer, _: peer.role == NODE
    return LinkExchange(settings, vocabulary=NODE_VOCABULARY, may_ask=may, open_link=board.opener(process, dials))


class SimNode:
    """The node's process, started again when it has ended. Fulfils `node.desks.Site`."""

    def __init__(self, site: SiteCast) -> None:
        self.site = site
        self.world = site.world
        self.host = Host(site.world, NODE)
        self.process: Process | None = None
        self.core: Core | None = None
        self.desk: ResourceDesk | None = None
        self.is_serving = False
        self.starts = 0
        self._chance = self.world.stream("node")

    def __repr__(self) -> str:
        return f"<SimNode {self.process!r}>"

    def start(self) -> None:
        """Unless it runs."""
        if self.world.is_over or (self.process is not None and self.process.alive):
            return
        self.starts += 1
        process = self.process = Process(self.world, f"{NODE}/{NODE}#{self.starts}")
        self.disk = self.host.disk.process()
        process.on_death += [self.disk.kill, self._again]
        self.is_serving, self.desk = False, None
        self.runtime = SimRuntime(process, self.host.disk_s)
        self.clock = process.clock
        self.random = SimRandom(self.world.stream(f"chance of {process.name}"))
        self.world.note(process.name, "starts")
        self.core = Core(
            journal=self._make_journal(None),
            resources=self.site.databases_of(process, self.random),
            runtime=self.runtime,
            clock=self.clock,
            random=self.random,
            scope="simulation",
            address="node://the simulation",
        )
        self.runtime.begin(self._main(process, self.core), "node", partial(self._ended, process))

    def _again(self) -> None:
        self.is_serving = False
        self.world.after(self._chance.uniform(*RESTART_S), self.start)

    def _ended(self, process: Process, outcome: Outcome) -> None:
        error = getattr(outcome, "error", None)
        if error is not None and not isinstance(error, SyncpointError | OSError):
            self.world.violation(f"{process.name} failed: {error!r}")
        process.kill(f"it could not go on: {error}")

    def _make_journal(self, heir: FolderJournal | None) -> FolderJournal:
        bytes_max = self.site.segment_bytes
        return FolderJournal(
            FOLDER, disk=self.disk, clock=self.clock, random=self.random, segment_size_bytes_max=bytes_max, heir=heir
        )

    def _main(self, process: Process, core: Core) -> Script[None]:
        """As `Node.open`, and until its journal fails."""
        yield from core.start()
        self.journal_host = JournalHost(
            heir=self.journal,
            make=lambda: self._make_journal(self.journal),
            runtime=self.runtime,
            clock=self.clock,
            resume_s=self.site.resume_s,
            failed=core.stop,
            inherit=core.look,
        )
        desk = self.desk = ResourceDesk(self, policies=self.site.policies)
        supervisor = Supervisor(desk, Launcher(self.site), self.random, self.site.patience)
        self.exchange = exchange_of(self.site.board, process, NODE, NODE)
        desks: list[Desk] = [self.journal_host, desk]

        def answer(peer: Peer, question: Message) -> Script[Message]:
            core.check_journal()
            said = yield from answer_at(desks, peer, question)
            core.check_journal()
            return said

        def noticed(event: LinkEvent) -> None:
            for one in desks:
                one.noticed(event)

        self.exchange.serve_peers(
            answer, runtime=self.runtime, guid=self.journal.coordinator, random=self.random, noticed=noticed
        )
        self.runtime.spawn(self.journal_host.tend(), "applications that are gone")
        port = LocalPort(desk, NODE)
        for name in self.site.policies:
            core.add_resource(process_resource(name, port, self.clock, self.random), 4)
        self.runtime.spawn(supervisor.tend(), "resource managers that are lost")
        self.is_serving = True
        yield Wait(core.shutdown, None)

    # --- node.desks.Site ---------------------------------------------------------------------------------------------

    @property
    def journal(self) -> FolderJournal:
        assert self.core is not None
        assert isinstance(self.core.journal, FolderJournal)
        return self.core.journal

    def applications(self) -> Sequence[Peer]:
        return self.journal_host.applications()

    def sessions(self) -> Sequence[str]:
        return [session.application for session in self.journal_host.sessions()]

    def fence(self, application: str) -> Script[None]:
        return self.journal_host.fence(application)

    def write_notes(self) -> Script[None]:
        return self.journal_host.write_notes()

    def ask(self, peer: str, question: Message, seconds: float) -> Script[Message]:
        return self.exchange.ask(peer, question, seconds)

    def recover(self) -> None:
        assert self.core is not None
        self.core.wake_all()


def process_resource(name: str, port: Any, clock: Any, random: Any) -> ProcessResource:
    """`process://name`, through that port."""
    made = ProcessResource(name, f"process://{name}", {}, mode="sync", clock=clock, random=random)
    made.connect_through(port, NODE)
    return made


class RmProcess:
    """One start of a resource manager's process: `node.supervision.Child` of who has started it."""

    def __init__(self, site: SiteCast, name: str, *, standby: bool, host: str, ended: Callable[[], None]) -> None:
        site.processes_started += 1
        self.pid = site.processes_started
        self.name = name
        self.site = site
        self.process = process = Process(site.world, f"{host}/{name}#{self.pid}")
        chance = SimRandom(site.world.stream(f"chance of {process.name}"))
        runtime = SimRuntime(process, lambda: site.chance_of_disks.uniform(0.0002, 0.002))
        site.world.note(process.name, "starts" + (" as a standby" if standby else ""))
        self.resource = RmResource(name, site.data[name], process, process.clock, chance)
        link = NodeLink(exchange_of(site.board, process, "resource", f"rm-{chance.bytes(8).hex()}"), node=NODE)
        self.driver = ProcessDriver(
            ProcessHost(self.resource, runtime, process.clock),
            ask=link.ask,
            runtime=runtime,
            clock=process.clock,
            random=chance,
            standby=standby,
            place=f"{host}, process {self.pid}",
            dead_after_s=site.rm_dead_after_s,
            health_s=site.health_s,
        )
        self.resource.attach(self.driver.rule, runtime)
        link.desks.append(self.driver)
        link.open(runtime, chance)
        process.on_death.append(ended)
        runtime.begin(self.driver.run(), "resource manager", self._ended)

    def __repr__(self) -> str:
        return f"<RmProcess {self.process!r} {self.driver!r}>"

    def _ended(self, outcome: Outcome) -> None:
        error = getattr(outcome, "error", None)
        if error is not None and not isinstance(error, SyncpointError | OSError):
            self.site.world.violation(f"{self.process.name} failed: {error!r}")
        self.process.kill("it has ended" if isinstance(outcome, Done) else f"it could not go on: {error}")

    # --- node.supervision.Child --------------------------------------------------------------------------------------

    def poll(self) -> int | None:
        return None if self.process.alive else 1

    def kill(self) -> None:
        self.process.kill("killed by its node")


class Launcher:
    """How the node starts processes: `node.supervision.Launcher`."""

    def __init__(self, site: SiteCast) -> None:
        self._site = site

    def resource(self, name: str) -> RmProcess:
        return self._site.launch(name, standby=False, host=NODE)

    def command(self, command: str, environment: Mapping[str, str]) -> RmProcess:
        return self._site.launch(environment["SYNCPOINT_RESOURCE"], standby=False, host=NODE)


class SiteCast:
    """The site of one seed. `databases_of(process, random)` makes the adapters of databases that are no processes."""

    def __init__(
        self,
        world: World,
        board: Switchboard,
        data: Mapping[str, RmData],
        databases_of: Callable[[Process, Any], list[Resource]],
        *,
        segment_bytes: int,
    ) -> None:
        chance = world.stream("site")
        self.world = world
        self.board = board
        self.data = data
        self.databases_of = databases_of
        self.segment_bytes = segment_bytes
        self.policies = {name: chance.choice(["restart", "standby"]) for name in data}
        self.resume_s = chance.choice([0.3, 1.0, 3.0])
        self.rm_dead_after_s = chance.choice([1.5, 3.0, 5.0])
        self.health_s = chance.choice([0.3, 1.0])
        self.patience = Patience(
            grace_s=chance.choice([0.0, 0.3]),
            silent_s=3.0,
            silent_taking_over_s=10.0,
            tries_max=10_000,  # nobody is there to say `syncpoint takeover`
        )
        self.processes_started = 0
        self.chance_of_disks = world.stream("disks of data")
        self.processes: dict[str, list[RmProcess]] = {name: [] for name in data}
        self.hosts = {name: f"machine-{name}" for name in data}
        self._chance = world.stream("site restarts")
        self.node = SimNode(self)

    def __repr__(self) -> str:
        return f"<SiteCast {self.node!r} {self.policies}>"

    def start(self) -> None:
        self.node.start()
        for name, policy in self.policies.items():
            if policy == "standby":
                self._watched(name, standby=False)
                self._watched(name, standby=True)

    def _watched(self, name: str, *, standby: bool) -> None:
        """One that its machine starts again, to wait as a standby."""

        def again() -> None:
            seconds = self._chance.uniform(*RESTART_S)
            self.world.after(seconds, lambda: None if self.world.is_over else self._watched(name, standby=True))

        self.launch(name, standby=standby, host=self.hosts[name], ended=again)

    def launch(self, name: str, *, standby: bool, host: str, ended: Callable[[], None] = lambda: None) -> RmProcess:
        """Start a process for that resource manager."""
        made = RmProcess(self, name, standby=standby, host=host, ended=ended)
        self.processes[name] = [one for one in self.processes[name] if one.process.alive] + [made]
        return made

    def serving(self, name: str) -> RmProcess | None:
        """Whoever serves it, or was the last to; None when none lives."""
        living = [one for one in self.processes[name] if one.process.alive]
        return max(living, key=lambda one: (one.driver.is_open, one.driver.incarnation), default=None)

    # --- applications ------------------------------------------------------------------------------------------------

    def journal(self, application: Application) -> NodeJournal:
        """For an application's process: it makes the link, too."""
        process = application.process
        assert process is not None
        name = f"app-{application.random.bytes(8).hex()}"
        link = NodeLink(exchange_of(self.board, process, "manager", name), node=NODE)
        return NodeJournal(link, clock=process.clock, random=application.random, place=process.name)

    def made(self, application: Application) -> None:
        """Its manager is there: it answers what backups ask. (manager/assembly.py does the same.)"""
        core, process = application.core, application.process
        assert core is not None
        assert process is not None
        assert isinstance(core.journal, NodeJournal)
        core.journal.link.desks.append(core.votes)
        for name in self.policies:
            core.add_resource(process_resource(name, core.journal.link.exchange, process.clock, application.random), 32)

    # --- the end -----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        self.board.mend()
        self.node.host.is_slow = False
        self.node.host.disk.full_at_bytes = self.node.host.disk.fail_force_at = None
        for process in [self.node.process, *(one.process for all in self.processes.values() for one in all)]:
            if process is not None:
                process.dies_at = None
                process.clock.drift(1.0)
                process.wake()

    def unsettled(self) -> list[str]:
        """What has not come to an end: no service, records that have not ended."""
        node = self.node
        if not node.is_serving or node.core is None or node.desk is None:
            return ["the node is not up"]
        left = []
        for name in self.policies:
            service = node.desk.registry.named(name)
            if service is None or service.state is not State.OPEN:
                left.append(f"nobody serves {name}: {service!r}")
        journals = [node.journal, *(session.journal for session in node.journal_host.sessions())]
        for journal in journals:
            unended = journal._index.unended.keys() - journal._noted_ends
            if unended:
                left.append(f"{len(unended)} Commit records at the node have not ended: {next(iter(unended))}")
        if node.core.live or node.core.deciding or node.core.unsettled:
            left.append("the node has transactions that have not ended")
        return left
