"""A machine with a disk, the applications on it, and whoever starts them again when they have ended.

Not for: what applications do (workloads/), or when machines fail (faults.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from syncpoint.errors import SyncpointError
from syncpoint.journal.base import Journal
from syncpoint.manager.core import Core
from syncpoint.manager.tree import Tree
from syncpoint.resources.base import Resource
from syncpoint.simulation.process import Process
from syncpoint.simulation.runtime import Outcome, SimRuntime
from syncpoint.simulation.world import SimRandom, World
from syncpoint.steps import Done, Failed, Gather, Script, Wait
from syncpoint.testing.disks import MemoryDisk, MemoryProcess

if TYPE_CHECKING:
    from syncpoint.simulation.journals import DatabaseJournals

DISK_S = (0.0002, 0.002)
SLOW_DISK_S = (0.02, 0.3)
RESTART_S = (0.05, 1.5)
CLOSE_S = 2.0
"""How long one that is to end waits for its transactions."""

MakeJournal = Callable[["Application"], Journal]
MakeResources = Callable[["Application"], Sequence[Resource]]
MakeTree = Callable[["Application"], Tree | None]
Client = Callable[["Application", int], Script[None]]


class Host:
    """One machine. Its name stands before the slash in its processes' names."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.disk = MemoryDisk()
        self.disk.on_operation = self._on_operation
        self.is_slow = False
        self.applications: list[Application] = []
        self._chance = world.stream(f"host {name}")

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.applications}>"

    def disk_s(self) -> float:
        return self._chance.uniform(*(SLOW_DISK_S if self.is_slow else DISK_S))

    def _on_operation(self, operation: str, path: str) -> None:
        """One that is to die in the middle of its disk operations dies when they have been counted."""
        process = self.world.current
        for application in self.applications:
            if application.process is process and application.dies_after is not None:
                application.dies_after -= 1
                if application.dies_after < 0:
                    application.dies_after = None
                    self.world.count("deaths in a disk operation")
                    assert application.disk is not None
                    application.disk.kill()
                return

    def cut_power(self, chance: random.Random) -> None:
        """Everything on it dies, and what was not forced may be lost, in part, or garbled."""
        self.world.note(self.name, "loses its power")
        for application in self.applications:
            application.kill("its machine lost its power")
        self.disk.full_at_bytes = self.disk.fail_force_at = None
        self.disk.crash(partial(_torn, chance), entries_kept=chance.random() < 0.5)
        self.disk.on_operation = self._on_operation


def _torn(chance: random.Random, path: str, unforced: bytes) -> bytes:
    """What is left of unforced bytes: a part of them, zeros, or a part with bits flipped."""
    size = chance.randint(0, len(unforced))
    kind = chance.randrange(4)
    if kind == 0 or not size:
        return b""
    if kind == 1:
        return unforced[:size]
    if kind == 2:
        return bytes(size)
    garbled = bytearray(unforced[:size])
    garbled[chance.randrange(size)] ^= 1 << chance.randrange(8)
    return bytes(garbled)


class Application:
    """One application, which is started again whenever it has ended: each start is a process of its own."""

    def __init__(
        self,
        host: Host,
        name: str,
        *,
        journal: MakeJournal,
        resources: MakeResources,
        client: Client,
        clients: int,
        timeout_s: float,
        tree: MakeTree = lambda _: None,
        made: Callable[[Application], None] = lambda _: None,
    ) -> None:
        """`made` is called when its manager is there, and has not started."""
        self.host = host
        self.world = host.world
        self.name = name
        self.core: Core | None = None
        self.process: Process | None = None
        self.disk: MemoryProcess | None = None
        self.dies_after: int | None = None
        """In how many disk operations it is to die."""
        self.is_serving = False
        self.stays_down = False
        self._closes = False
        self.journals: DatabaseJournals | None = None
        """The journal of all applications, if it is in a database."""
        self._journal = journal
        self._resources = resources
        self._client = client
        self._clients = clients
        self._timeout_s = timeout_s
        self._tree = tree
        self._made = made
        self.starts = 0
        self.restart_s = RESTART_S
        self.chance = self.world.stream(f"application {host.name}/{name}")
        host.applications.append(self)

    def __repr__(self) -> str:
        return f"<Application {self.name} {self.process!r}>"

    @property
    def process_name(self) -> str:
        return "" if self.process is None else self.process.name

    # --- its life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.process is not None and self.process.alive:
            return
        self.starts += 1
        process = self.process = Process(self.world, f"{self.host.name}/{self.name}#{self.starts}")
        disk = self.disk = self.host.disk.process()
        self.dies_after = None
        self.is_serving = self._closes = False
        process.on_death.append(disk.kill)
        process.on_death.append(self._again)
        self.runtime = SimRuntime(process, self.host.disk_s)
        self.random = SimRandom(self.world.stream(f"chance of {process.name}"))
        self.world.note(process.name, "starts")
        self.core = Core(
            journal=self._journal(self),
            resources=self._resources(self),
            runtime=self.runtime,
            clock=process.clock,
            random=self.random,
            scope="simulation",
            timeout_s=self._timeout_s,
            address="the simulation",
            tree=self._tree(self),
        )
        self._made(self)
        self.runtime.begin(self._main(self.core), "main", partial(self._exit, process))

    def close(self) -> None:
        """Have it end in order, as at a deployment: it finishes what it can, and gives the rest back."""
        core, process = self.core, self.process
        if not self.is_serving or self._closes or core is None or process is None or not process.alive:
            return
        self.world.note(process.name, "is asked to end")
        self.is_serving, self._closes = False, True
        self.runtime.begin(core.close(CLOSE_S), "close", partial(self._closed, process))

    def _closed(self, process: Process, outcome: Outcome) -> None:
        if isinstance(outcome, Failed) and not isinstance(outcome.error, SyncpointError | OSError):
            self.world.violation(f"{process.name} could not end in order: {outcome.error!r}")
        process.kill("it has ended in order")

    def kill(self, why: str) -> None:
        if self.process is not None:
            self.process.kill(why)

    def _again(self) -> None:
        """Whoever watches over it starts it again, after a while."""
        self.is_serving = False
        self.world.after(self.chance.uniform(*self.restart_s), self._start_again)

    def _start_again(self) -> None:
        if not self.stays_down and not self.world.is_over:
            self.start()

    def _main(self, core: Core) -> Script[None]:
        yield from core.start()
        self.is_serving = True
        outcomes = yield Gather(
            [*(self._client(self, number) for number in range(self._clients)), self._until_stopped(core)], "serve"
        )
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                raise outcome.error

    def _until_stopped(self, core: Core) -> Script[None]:
        """Its journal has failed: the process ends, and is started again (R5)."""
        yield Wait(core.shutdown, None)
        self.is_serving = False

    def _exit(self, process: Process, outcome: Outcome) -> None:
        if self._closes and process is self.process:
            return  # `_closed` says when
        if isinstance(outcome, Done):
            process.kill("it has stopped, since its journal failed")
        elif isinstance(outcome.error, SyncpointError | OSError):
            process.kill(f"it could not go on: {outcome.error}")
        else:
            self.world.violation(f"{process.name} failed: {outcome.error!r}")
            process.kill("a bug")
