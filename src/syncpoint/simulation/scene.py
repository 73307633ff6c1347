"""What can go wrong is done to a scene: one fault, a kind of fault, and everything in a seed that can be hurt.

Not for: the kinds (faults.py, faults_site.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncpoint.simulation.database import SimDatabase
from syncpoint.simulation.host import Application, Host
from syncpoint.simulation.links import Switchboard
from syncpoint.simulation.network import Network
from syncpoint.simulation.site import SiteCast
from syncpoint.simulation.wires import Wires
from syncpoint.simulation.world import World


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `number` is its place in the seed's plan: `--only` names faults by it."""

    number: int
    at_s: float
    kind: str
    target: str
    for_s: float
    amount: float
    """In [0, 1): what it means is the kind's matter."""

    def __str__(self) -> str:
        return f"{self.number}: {self.at_s:6.2f} s {self.kind} {self.target} for {self.for_s:.2f} s"


@dataclass(slots=True)
class Scene:
    """Everything that can be hurt."""

    world: World
    network: Network
    hosts: Sequence[Host]
    databases: Sequence[SimDatabase]
    wires: Wires | None = None
    """Between managers of a tree, if this seed is one."""
    site: SiteCast | None = None

    @property
    def speaking(self) -> Wires | Switchboard:
        """What processes talk over."""
        assert self.wires is not None or self.site is not None
        return self.wires or self.site.board  # type: ignore[union-attr]

    @property
    def applications(self) -> list[Application]:
        return [application for host in self.hosts for application in host.applications]

    def application(self, name: str) -> Application:
        return next(one for one in self.applications if f"{one.host.name}/{one.name}" == name)

    def host(self, name: str) -> Host:
        return next(one for one in self.hosts if one.name == name)

    def database(self, name: str) -> SimDatabase:
        return next(one for one in self.databases if one.name == name)


Do = Callable[[Scene, Fault, random.Random], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what it is done to ("application", "host", "database", "link", "network", "journal"; where
    processes talk to each other, "speaker", "wire", "wires"), and for how long."""

    on: str
    do: Do
    for_s: tuple[float, float] = (0.0, 0.0)
