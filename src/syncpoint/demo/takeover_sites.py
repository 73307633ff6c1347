"""The two sites of the takeover demonstration, with everything that runs there; and who starts again what has died.

    site a   a node; the service "orders" over bank (PostgreSQL), audit (SQLite) and files (a directory)
    site b   a node; the service "stock" over stock (SQLite), in the tree below orders

Resource managers other than PostgreSQL are processes: audit and stock with a standby each, files started again by its
node. What the demonstration starts here, systemd would start on real
machines (deploy/). Not for: what goes wrong (takeover_chaos.py).
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from syncpoint.demo.bank import Bank
from syncpoint.demo.processes import ProcessSlot
from syncpoint.demo.takeover_services import ORDERS, STOCK, Plan

THREADS = 4
COMMAND = ("-c", "from syncpoint.cli import main; main()")
"""`syncpoint`, of this very Python."""
SUPERVISE_PERIOD_S = 0.05
SITE_OF = {"audit": "a", "files": "a", "stock": "b"}
"""Where each resource-manager process runs."""
BACKUP_OF = {"audit": "standby", "files": "restart", "stock": "standby"}


class CommandSlot(ProcessSlot):
    """A place for a `syncpoint` command that runs until it is stopped."""

    def __init__(self, name: str, folder: Path, arguments: Sequence[str]) -> None:
        super().__init__(name, folder)
        self._arguments = list(arguments)

    def arguments(self) -> list[str]:
        return [*COMMAND, *self._arguments]


class StandbySlot(ProcessSlot):
    """A place for a resource manager's process: whoever comes later waits until it is needed."""

    def __init__(self, name: str, folder: Path, resource: str, config: Path, *, is_first: bool) -> None:
        super().__init__(name, folder)
        self._command = ["resource", "run", resource, "--config", str(config)]
        self._is_first = is_first

    def arguments(self) -> list[str]:
        standby = [] if self._is_first and self.generation == 1 else ["--standby"]
        return [*COMMAND, *self._command, *standby]


class ServiceSlot(ProcessSlot):
    """A place for one of the services."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        super().__init__(plan.service, folder)
        self.log = Path(plan.log)
        self._plan = plan

    def arguments(self) -> list[str]:
        plan = {**self._plan.__dict__, "generation": self.generation}
        return ["-m", "syncpoint.demo.takeover_services", Plan(**plan).to_json()]


@dataclass
class Site:
    """One site: its node, its service, and the processes of its resource managers."""

    name: str
    config: Path
    socket: Path
    """The node's."""
    node: ProcessSlot
    service: ServiceSlot
    resources: list[ProcessSlot] = field(default_factory=list)

    @property
    def node_url(self) -> str:
        """As a journal there has it."""
        return _node_url(self.name, self.socket)

    @property
    def all(self) -> list[ProcessSlot]:
        return [self.node, *self.resources, self.service]

    def resource_names(self) -> list[str]:
        return [name for name, site in SITE_OF.items() if site == self.name]


class Supervisor:
    """Starts again whatever has ended, until it is stopped, as systemd would."""

    def __init__(self, slots: Iterable[ProcessSlot]) -> None:
        self._slots = list(slots)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self.restarts = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SUPERVISE_PERIOD_S):
            self.restarts += sum(slot.start_if_ended() for slot in self._slots)


def kill_left(folder: Path) -> None:
    """kill -9 whatever still runs for these sites: children of nodes that were killed."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{folder}/site-".encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def make_sites(folder: Path, bank: Bank, seed: int) -> tuple[Site, Site]:
    """Write the configurations; nothing is started. `folder` has a short path: sockets are in it."""
    key = secrets.token_hex(32)
    made = []
    for name, service, other in (("a", ORDERS, STOCK), ("b", STOCK, ORDERS)):
        config, socket = folder / f"site-{name}.toml", folder / f"{name}.sock"
        config.write_text(_configuration(name, socket, folder, bank))
        plan = Plan(
            service=service,
            generation=0,
            threads=THREADS,
            journal=_node_url(name, socket),
            resources=_resources_of(name, bank),
            log=str(folder / f"{service}.log"),
            seed=seed,
            listen=f"unix://{folder}/{service}.sock",
            peers={other: f"unix://{folder}/{other}.sock"},
            key=key,
            call=f"{folder}/call.sock",
        )
        site = Site(
            name,
            config,
            socket,
            CommandSlot(f"node-{name}", folder, ["node", "--config", str(config)]),
            ServiceSlot(folder, plan),
        )
        site.resources += [slot for one in site.resource_names() for slot in _resource_slots(one, folder, config)]
        made.append(site)
    return made[0], made[1]


def _node_url(site: str, socket: Path) -> str:
    return f"node://unix://{socket}?name=site-{site}"


def _resource_slots(name: str, folder: Path, config: Path) -> list[ProcessSlot]:
    """Two where one waits as a standby; none where the node itself starts it."""
    if BACKUP_OF[name] != "standby":
        return []
    return [StandbySlot(f"{name}-{number}", folder, name, config, is_first=number == 1) for number in (1, 2)]


def _resources_of(site: str, bank: Bank) -> dict[str, str]:
    """What the service's manager is told of its resources."""
    processes = {name: f"process://{name}" for name, where in SITE_OF.items() if where == site}
    return {"bank": bank.urls["bank"], **processes} if site == "a" else processes


def _configuration(site: str, socket: Path, folder: Path, bank: Bank) -> str:
    lines = [
        "[node]",
        f'name = "site-{site}"',
        f'listen = ["unix://{socket}"]',
        f'journal = "{folder}/journal-{site}"',
        "",
    ]
    if site == "a":
        lines += ["[resources]", f'bank = "{bank.urls["bank"]}"', ""]
    for name, where in SITE_OF.items():
        if where == site:
            lines += [f"[resources.{name}]", f'url = "{bank.urls[name]}"', "process = true"]
            lines += [f'backup = "{BACKUP_OF[name]}"', ""]
    return "\n".join(lines)
