"""The cast of a seed of trees: nodes, each a machine with a journal, an application, and a database or two.

Any node is the root of one transaction and takes part in another. Not for: what they do in it (workloads/trees.py,
services.py), how they talk (wires.py), or what goes wrong (faults.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from syncpoint.journal.folder import FolderJournal
from syncpoint.manager.tree import Tree
from syncpoint.resources.subordinate_messages import TREE_VOCABULARY
from syncpoint.simulation.database import SimDatabase, SimResource
from syncpoint.simulation.host import Application, Client, Host
from syncpoint.simulation.network import Network
from syncpoint.simulation.services import Services
from syncpoint.simulation.wires import Wires
from syncpoint.simulation.world import World

JOURNAL = "/journal"
KEY = b"k" * 32
NAMES = ("a", "b", "c", "d")
APPLICATION = "app"


def database_names(chance: random.Random) -> dict[str, tuple[str, ...]]:
    """Each node's databases: a tree of three or four nodes, of which some have two."""
    nodes = NAMES[: chance.choice([3, 3, 4])]
    return {node: (f"bank-{node}", f"ledger-{node}")[: chance.choice([1, 1, 2])] for node in nodes}


class TreeCast:
    """The nodes of one seed."""

    def __init__(
        self,
        world: World,
        network: Network,
        databases: Mapping[str, Mapping[str, SimDatabase]],
        *,
        segment_bytes: int,
        timeout_s: float,
        client: Client,
        clients: Callable[[], int],
    ) -> None:
        """`databases`: by node and by name; `clients`: asked once for each node."""
        self.network = network
        self.wires = Wires(network, TREE_VOCABULARY)
        self.hosts = [Host(world, node) for node in databases]
        self._databases = databases
        self._segment_bytes = segment_bytes
        for host in self.hosts:
            Application(
                host,
                APPLICATION,
                journal=self._journal,
                resources=self._resources,
                client=client,
                clients=clients(),
                timeout_s=timeout_s,
                tree=self.tree,
            )
        self.services = Services(self.wires, {host.name: host.applications[0] for host in self.hosts})

    def __repr__(self) -> str:
        return f"<TreeCast {self.hosts}>"

    def _journal(self, application: Application) -> FolderJournal:
        assert application.disk is not None
        assert application.process is not None
        return FolderJournal(
            JOURNAL,
            disk=application.disk,
            clock=application.process.clock,
            random=application.random,
            segment_size_bytes_max=self._segment_bytes,
        )

    def _resources(self, application: Application) -> list[SimResource]:
        process = application.process
        assert process is not None
        return [
            SimResource(name, database, process, self.network, process.clock, application.random)
            for name, database in self._databases[application.host.name].items()
        ]

    def tree(self, application: Application) -> Tree:
        """The place of a process that starts."""
        assert application.process is not None
        exchange = self.wires.exchange(application.host.name, application.process, application.runtime)
        return Tree(exchange=exchange, keys=[KEY])

    def heal(self) -> None:
        self.wires.mend()

    def unsettled(self) -> list[str]:
        """What has not come to an end in a manager that is up: parts, tickets, promises, records (R7)."""
        return [line for host in self.hosts for line in unsettled_at(host.applications[0])]


def unsettled_at(application: Application) -> list[str]:
    """What is left of trees at a node that is up."""
    core, name = application.core, application.host.name
    if core is None or not application.is_serving:
        return []
    left = []
    if core.place.parts or core.place.tickets:
        left.append(f"{name} has parts that have not ended: {core.place!r}")
    assert isinstance(core.journal, FolderJournal)
    index, ends = core.journal._index, core.journal._noted_ends
    if index.prepared.keys() - ends:
        left.append(f"{name} has promised, and does not know the outcome: {list(index.prepared)}")
    if index.unended.keys() - ends:
        left.append(f"{name} has Commit records that have not ended: {list(index.unended)}")
    return left
