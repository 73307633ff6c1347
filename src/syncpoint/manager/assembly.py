"""Put a manager together from what the user wrote: journal and resource URLs, options, real ports.

Not for: reading configuration files (config.py), or anything after construction (core.py). Touches nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from syncpoint.errors import ConfigurationError
from syncpoint.journal.base import Journal
from syncpoint.journal.folder import FolderJournal
from syncpoint.journal.node import NodeJournal
from syncpoint.journal.urls import address_of, database_journal, is_database, split_query
from syncpoint.manager.at_node import is_at_node, node_journal
from syncpoint.manager.core import Core
from syncpoint.manager.handle import lagging_journal
from syncpoint.manager.observer import Observer
from syncpoint.manager.tree import Tree
from syncpoint.ports import Clock, Disk, Random, Runtime
from syncpoint.resources.base import Mode
from syncpoint.resources.pool import POOL_SIZE_MAX
from syncpoint.resources.process import ProcessResource
from syncpoint.resources.registry import BACKUPS, make_resource
from syncpoint.system import SystemClock, SystemDisk, SystemRandom

ResourceSpec = str | Mapping[str, Any]
"""A URL, or a table with `url`, `pool_size_max`, `backups` and the adapter's options."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a manager was asked to be; a forked child builds its own from the same plan."""

    journal: str
    resources: Mapping[str, ResourceSpec]
    scope: str
    timeout_s: float
    background: bool
    clock: Clock
    random: Random
    disk: Disk
    observers: list[Observer]
    """May grow; every core made from this plan tells the same."""
    tree: Tree | None = None

    @classmethod
    def of(
        cls,
        journal: str | os.PathLike[str],
        resources: Mapping[str, ResourceSpec],
        *,
        scope: str,
        timeout: float,
        background: bool,
        clock: Clock | None,
        random: Random | None,
        disk: Disk | None,
        observers: Iterable[Observer],
        tree: Tree | None = None,
    ) -> Plan:
        """A plan with the real ports where none is given."""
        return cls(
            journal=os.fspath(journal),
            resources=dict(resources),
            scope=scope,
            timeout_s=timeout,
            background=background,
            clock=clock or SystemClock(),
            random=random or SystemRandom(),
            disk=disk or SystemDisk(),
            observers=list(observers),
            tree=tree,
        )

    def build(self, runtime: Runtime, mode: Mode) -> Core:
        """A core, not started. Raises ConfigurationError, SetupRefused."""
        if not self.timeout_s > 0:
            raise ConfigurationError(f"timeout={self.timeout_s} is no time.", advice="Give seconds, more than 0.")
        resources, pool_sizes, lagging = [], {}, set()
        for name, spec in self.resources.items():
            table = dict(spec) if isinstance(spec, Mapping) else {"url": spec}
            table["url"], in_url = _split_pool_size(str(table.get("url", "")))
            pool_sizes[name] = _pool_size(name, table.pop("pool_size_max", in_url or POOL_SIZE_MAX))
            if table.get(BACKUPS) == "asynchronous":
                lagging.add(name)
            made = make_resource(name, table, mode=mode, clock=self.clock, random=self.random)
            resources.append(made)
        journal = self._journal(mode, lagging)
        if isinstance(journal, NodeJournal):
            for one in resources:
                if isinstance(one, ProcessResource):
                    one.connect_through(journal.link.exchange, journal.link.node)
        core = Core(
            journal=journal,
            resources=resources,
            runtime=runtime,
            clock=self.clock,
            random=self.random,
            scope=self.scope,
            timeout_s=self.timeout_s,
            pool_sizes=pool_sizes,
            lagging=lagging,
            background=self.background,
            address=address_of(self.journal),
            observers=self.observers,
            tree=self.tree,
        )
        if isinstance(journal, NodeJournal):
            journal.link.desks.append(core.votes)
        return core

    def _journal(self, mode: Mode, lagging: Set[str] = frozenset()) -> Journal:
        """A folder, a database's URL, the name of a configured resource, whose database it then is, or a node's URL."""
        if not self.journal:
            raise ConfigurationError(
                "No journal is configured.",
                advice='Give a folder, journal="./syncpoint-journal", or a database: its URL, or a resource\'s name.',
            )
        if is_at_node(self.journal):
            return node_journal(self.journal, clock=self.clock, random=self.random)
        if is_database(self.journal, self.resources):
            name = split_query(self.journal)[0]
            if name in lagging:
                raise lagging_journal(f"resource {name!r}")
            return database_journal(self.journal, self.resources, mode=mode, clock=self.clock, random=self.random)
        path = self.journal.removeprefix("file://")
        return FolderJournal(path, disk=self.disk, clock=self.clock, random=self.random)


def _split_pool_size(url: str) -> tuple[str, str]:
    """The URL without `pool_size_max`, which is the pool's and no driver's, and its value there."""
    if "pool_size_max=" not in url:
        return url, ""
    address, _, query = url.partition("?")
    mine = [option for option in query.split("&") if option.startswith("pool_size_max=")]
    left = "&".join(option for option in query.split("&") if option not in mine)
    return f"{address}?{left}" if left else address, mine[-1].partition("=")[2] if mine else ""


def _pool_size(name: str, value: Any) -> int:
    try:
        size = int(value)
    except (TypeError, ValueError):
        size = 0
    if size < 1:
        raise ConfigurationError(
            f"pool_size_max of resource {name!r} is {value!r}.", advice="Give a whole number, 1 or more."
        )
    return size
