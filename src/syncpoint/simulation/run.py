"""One seed: safety under faults, then heal, then liveness, then the checks. The same seed gives the same hash, always.

    0 .. FAULTS_S          clients work, faults come
    then                   everything is healed: networks, clocks, disks; all that is down is started
    .. SETTLE_S later      everything has settled: nothing in doubt, no lock held, nothing left to be found out

Not for: many seeds (sweep.py), making a failure smaller (shrink.py), or telling people (cli/).
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from syncpoint import marks
from syncpoint.journal.base import Journal
from syncpoint.journal.folder import FolderJournal
from syncpoint.resources.base import Resource
from syncpoint.simulation import faults
from syncpoint.simulation.database import Habits, SimDatabase, SimResource
from syncpoint.simulation.faults import KINDS
from syncpoint.simulation.host import Application, Host
from syncpoint.simulation.journals import DatabaseJournals
from syncpoint.simulation.links import Switchboard
from syncpoint.simulation.network import Network
from syncpoint.simulation.rm_data import RmData, RmHabits
from syncpoint.simulation.scene import Fault, Scene
from syncpoint.simulation.site import SiteCast
from syncpoint.simulation.trees import TreeCast, database_names
from syncpoint.simulation.workloads import SIDE_BY_SIDE
from syncpoint.simulation.workloads.base import Database, Workload
from syncpoint.simulation.workloads.takeover import TakeoverBank
from syncpoint.simulation.workloads.trees import TreeBank
from syncpoint.simulation.world import Event, World
from syncpoint.steps import Done, Failed

FAULTS_S = 55.0
SETTLE_S = 90.0
AFTER_S = 5.0
"""How long everything is left alone after it has settled: nothing comes back."""
LOOK_S = 0.5
FAULTS = (3, 14)
FAULTS_OF_A_SITE = (6, 20)
JOURNAL = "/journal"
JOURNALS = ("folder", "database", "bank")
TREES, SITES = 0.13, 0.13
"""How many of the seeds that may are trees, and sites with a node."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a seed."""

    workload: str | None = None
    """None: drawn from the seed."""
    journal: str | None = None
    """"folder"; "database": one that takes no part; "bank": in the database of that name; None: drawn."""
    kinds: tuple[str, ...] = tuple(KINDS)
    only: tuple[int, ...] | None = None
    """Of the seed's plan, only the faults of these numbers."""
    keep_events: bool = False


EVERYTHING = Options()
"""Whatever the seed draws."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed."""

    seed: int
    digest: str
    workload: str
    journal: str
    violations: tuple[str, ...]
    plan: tuple[Fault, ...]
    virtual_s: float
    real_s: float
    counts: dict[str, int]
    marks: dict[str, int]
    events: tuple[Event, ...] = field(default=(), repr=False)


class Seed:
    """One seed's cast, built from it alone."""

    def __init__(self, number: int, options: Options) -> None:
        self.number = number
        self.options = options
        self.world = World(number, keep_events=options.keep_events)
        self.chance = self.world.stream("cast")
        self.workload_name = options.workload or self.chance.choice(sorted(SIDE_BY_SIDE))
        self.journal_name = options.journal or self.chance.choice(JOURNALS)
        self.network = Network(self.world)
        self.timeout_s = self.chance.choice([2.0, 5.0, 10.0])
        self.segment_bytes = self.chance.choice([4_000, 20_000, 1_000_000])
        self.journals: DatabaseJournals | None = None
        self.databases: Mapping[str, Database] = {}
        """All that transactions write to."""
        self.servers: dict[str, SimDatabase] = {}
        """What is reached over the network for connections, the journal's database too."""
        self.workload: Workload
        self.hosts: list[Host]
        self.trees: TreeCast | None = None
        self.site: SiteCast | None = None
        self._cast()
        wires = None if self.trees is None else self.trees.wires
        self.scene = Scene(self.world, self.network, self.hosts, list(self.servers.values()), wires, self.site)

    def _cast(self) -> None:
        kind, drawn = self.options.workload, self.world.stream("swarm").random()
        if kind is None and self.options.journal in (None, "folder"):
            kind = TreeBank.name if drawn < TREES else TakeoverBank.name if drawn < TREES + SITES else None
        if kind == TreeBank.name:
            self._cast_tree()
        elif kind == TakeoverBank.name:
            self._cast_site()
        else:
            self._cast_side_by_side()

    def _cast_site(self) -> None:
        """A node, resource managers that run as processes, a database beside them, and applications."""
        self.workload_name, self.journal_name = TakeoverBank.name, "node"
        names = ["rm-files", "rm-audit"][: self.chance.choice([1, 2, 2])]
        hosts = self.chance.choice([1, 2, 3])
        data = {name: RmData(self.world, name, self._rm_habits(is_alone=hosts == 1)) for name in names}
        self.servers = {"bank": self._database("bank")}
        self.databases = {**data, **self.servers}
        self.workload = TakeoverBank(self.world, self.databases)
        board = Switchboard(self.network, dead_after_s=self.chance.choice([0.6, 1.0, 2.0]))
        self.site = SiteCast(self.world, board, data, self._servers_of, segment_bytes=self.segment_bytes)
        self.hosts = [Host(self.world, f"host{number}") for number in range(hosts)]
        for host in self.hosts:
            Application(
                host,
                "app0",
                journal=self.site.journal,
                resources=lambda one: self._servers_of(one.process, one.random),
                client=self.workload.client,
                clients=self.chance.randint(2, 4) if hosts == 1 else self.chance.randint(1, 3),
                timeout_s=self.timeout_s,
                made=self.site.made,
            )

    def _rm_habits(self, *, is_alone: bool) -> RmHabits:
        loses = self.chance.random() < 0.7 and is_alone
        forgets, single = self.chance.random() < 0.7, self.chance.random() < 0.5
        return RmHabits(forgets_votes=forgets or loses, single_writer=single and not loses, loses_commits=loses)

    def _servers_of(self, process: Any, random: Any) -> list[Resource]:
        return [
            SimResource(name, database, process, self.network, process.clock, random)
            for name, database in self.servers.items()
        ]

    def _cast_tree(self) -> None:
        """Nodes that reach each other, each with a folder of its own."""
        self.workload_name, self.journal_name = TreeBank.name, "folder"
        nodes = {
            node: {name: self._database(name) for name in names} for node, names in database_names(self.chance).items()
        }
        self.servers = {name: database for found in nodes.values() for name, database in found.items()}
        self.databases = dict(self.servers)
        workload = TreeBank(self.world, self.databases)
        self.workload = workload
        self.trees = TreeCast(
            self.world,
            self.network,
            nodes,
            segment_bytes=self.segment_bytes,
            timeout_s=self.timeout_s,
            client=workload.client,
            clients=lambda: self.chance.randint(1, 3),
        )
        workload.services = self.trees.services
        self.hosts = self.trees.hosts

    def _cast_side_by_side(self) -> None:
        """Applications that share a journal and all databases."""
        kind = SIDE_BY_SIDE[self.workload_name]
        self.servers = {name: self._database(name) for name in kind.names}
        self.databases = dict(self.servers)
        self.workload = kind(self.world, self.databases)
        if self.journal_name != "folder":
            if self.journal_name not in self.servers:
                self.servers[self.journal_name] = self._database(self.journal_name)
            self.journals = DatabaseJournals(self.world, self.network, self.servers[self.journal_name])
        # A folder's processes share a machine.
        hosts = 1 if self.journals is None else self.chance.randint(1, 3)
        self.hosts = [Host(self.world, f"host{number}") for number in range(hosts)]
        for host in self.hosts:
            for index in range(self.chance.randint(2, 3) if hosts == 1 else self.chance.randint(1, 2)):
                self._application(host, f"app{index}")

    def _database(self, name: str) -> SimDatabase:
        habits = Habits(
            holds_prepared=self.chance.random() < 0.3,
            slow_commits=self.chance.random() < 0.15,
            slots=self.chance.choice([2, 1000, 1000, 1000, 1000]),
        )
        return SimDatabase(self.world, self.network, name, habits)

    def _application(self, host: Host, name: str) -> Application:
        application = Application(
            host,
            name,
            journal=self._journal,
            resources=self._resources,
            client=self.workload.client,
            clients=self.chance.randint(1, 3),
            timeout_s=self.timeout_s,
        )
        application.journals = self.journals
        return application

    def _journal(self, application: Application) -> Journal:
        if self.journals is not None:
            return self.journals.journal(application)
        assert application.disk is not None
        assert application.process is not None
        return FolderJournal(
            JOURNAL,
            disk=application.disk,
            clock=application.process.clock,
            random=application.random,
            segment_size_bytes_max=self.segment_bytes,
        )

    def _resources(self, application: Application) -> list[SimResource]:
        assert application.process is not None
        return [
            SimResource(
                name, database, application.process, self.network, application.process.clock, application.random
            )
            for name, database in self.servers.items()
            if name in self.databases
        ]

    # --- the phases ------------------------------------------------------------------------------------------------

    def run(self) -> tuple[Fault, ...]:
        """All phases; violations are in the world. Returns the plan."""
        with contextlib.nullcontext() if self.journals is None else self.journals.hurried():
            return self._run()

    def _run(self) -> tuple[Fault, ...]:
        plan = self._plan()
        self.workload.setup()
        faults.arm(self.scene, plan)
        if self.site is not None:
            self.site.start()
        for application in self.scene.applications:
            self.world.after(self.chance.uniform(0, 0.2), application.start)
        self.world.run(FAULTS_S)
        self._heal()
        if not self._settles():
            self.world.violation(f"after {SETTLE_S:g} s without faults: {'; '.join(self._unsettled())}")
        heuristics = self._heuristics() if self.journals is None else []
        self.world.run(self.world.now_s + AFTER_S)
        if self.journals is not None:
            heuristics = self.journals.check()
        for wrong in (*self._unsettled(), *self.workload.check(), *heuristics):
            self.world.violation(wrong)
        return plan

    def _heuristics(self) -> list[str]:
        """What applications list as decided alone; nobody has done so here. Filled while the world goes on."""
        found: list[str] = []

        def take(outcome: Done[Any] | Failed) -> None:
            if isinstance(outcome, Failed):
                found.append(f"the heuristic outcomes cannot be listed: {outcome.error!r}")
            else:
                found.extend(f"nobody decided alone, and yet {record} is listed" for record in outcome.value)

        for application in self.scene.applications:
            if application.core is not None and application.is_serving:
                application.runtime.begin(application.core.journal.heuristics(), "heuristics", take)
        return found

    def _plan(self) -> tuple[Fault, ...]:
        chance: random.Random = self.world.stream("plan")
        count = FAULTS if self.site is None else FAULTS_OF_A_SITE
        plan = faults.draw(chance, self.scene, kinds=self.options.kinds, faults_s=FAULTS_S - 5.0, count=count)
        if self.options.only is None:
            return tuple(plan)
        return tuple(fault for fault in plan if fault.number in self.options.only)

    def _heal(self) -> None:
        self.world.note("run", "everything is healed")
        self.workload.is_over = True
        self.network.mend_all()
        for database in self.servers.values():
            database.start()
        if self.journals is not None:
            self.journals.heal()
        if self.trees is not None:
            self.trees.heal()
            self._kill_some()
        if self.site is not None:
            self.site.heal()
            self._kill_some()
        for host in self.hosts:
            host.is_slow = False
            host.disk.full_at_bytes = host.disk.fail_force_at = None
            for application in host.applications:
                application.dies_after = None
                if application.process is not None:
                    application.process.dies_at = None
                    application.process.clock.drift(1.0)
                    application.process.wake()

    def _kill_some(self) -> None:
        """In the middle of their last transactions: these have to be settled without new ones that help along."""
        chance = self.world.stream("last deaths")
        if chance.random() < 0.6:
            for application in self.scene.applications:
                if chance.random() < 0.5:
                    self.world.after(chance.uniform(0.0, 0.05), partial(application.kill, "SIGKILL, the last one"))

    def _settles(self) -> bool:
        limit_s = self.world.now_s + SETTLE_S
        while self.world.now_s < limit_s:
            self.world.run(self.world.now_s + LOOK_S)
            if not self._unsettled():
                return True
        return False

    def _unsettled(self) -> list[str]:
        """What has not settled, seen from outside where it can be."""
        left = [] if self.journals is None else self.journals.unsettled()
        left += [] if self.trees is None else self.trees.unsettled()
        left += [] if self.site is None else self.site.unsettled()
        for database in self.databases.values():
            in_doubt, locked = database.engine.in_doubt(), database.engine.locked()
            if in_doubt:
                left.append(f"{len(in_doubt)} branches are in doubt at {database.name}: {in_doubt[0]}")
            if locked:
                row, holder = next(iter(locked.items()))
                left.append(f"{len(locked)} rows are locked at {database.name}: {row} by {holder}")
        for application in self.scene.applications:
            core = application.core
            if not application.is_serving or core is None:
                left.append(f"{application.host.name}/{application.name} is not up")
            elif core.live or core.deciding or core.unsettled:
                left.append(f"{application.host.name}/{application.name} has transactions that have not ended")
            elif count := _unended(core.journal):
                left.append(f"{count} Commit records of {application.host.name}/{application.name} have not ended")
        return left


def _unended(journal: Journal) -> int:
    """Commit records in a folder that this process has to see finished. (Those in a database are counted there.)"""
    return len(journal._index.unended.keys() - journal._noted_ends) if isinstance(journal, FolderJournal) else 0


def run_seed(number: int, options: Options = EVERYTHING) -> Outcome:
    """Run one seed. Violations are in what it returns; a bug of the simulator itself raises."""
    logging.disable(logging.CRITICAL)
    began = time.perf_counter()
    seed = Seed(number, options)
    marks.listen(lambda name: seed.world.marks.update((name,)))
    try:
        plan = seed.run()
        return _outcome(seed, plan, time.perf_counter() - began)
    finally:
        marks.listen(None)
        seed.world.end()
        logging.disable(logging.NOTSET)


def _outcome(seed: Seed, plan: Sequence[Fault], real_s: float) -> Outcome:
    world = seed.world
    return Outcome(
        seed=seed.number,
        digest=world.digest(),
        workload=seed.workload_name,
        journal=seed.journal_name,
        violations=tuple(world.violations),
        plan=tuple(plan),
        virtual_s=world.now_s,
        real_s=real_s,
        counts=dict(world.counts),
        marks=dict(world.marks),
        events=tuple(world.events or ()),
    )
