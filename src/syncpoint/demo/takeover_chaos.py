"""What goes wrong in the takeover demonstration: resource managers, nodes and services are killed, and one is frozen.

A resource manager is lost *after its vote* when, with its process stopped, the bank shows a transfer that its own data
lack: then it is decided, and its backup has to redo it. That is looked up in the data themselves, and so is whether
the backup did. Not for: the sites (takeover_sites.py), the final count (bank.py).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from syncpoint.demo.bank import Bank
from syncpoint.demo.takeover_sites import SITE_OF, Site
from syncpoint.resources.node_messages import ResourceLine
from syncpoint.testing.servers.base import ServerFailed, wait_until

Lines = Callable[[], dict[str, ResourceLine]]
"""What a node says of its resource managers; empty when it does not answer."""

UNDER_WAY_S = 0.015
WATCH_PERIOD_S = 0.005
OPEN_S_MAX = 60.0
ZOMBIE_S_MAX = 30.0


@dataclass
class Tally:
    """What chaos did, and what was seen of it from outside."""

    takeover_ms: list[float] = field(default_factory=list)
    """From loss to open, of each."""
    redone: int = 0
    """Transfers decided, and missing in the data of a lost resource manager, that were there when its backup opened."""
    not_redone: int = 0
    node_kills: int = 0
    service_kills: int = 0
    zombies: int = 0
    zombies_refused: int = 0


class Chaos:
    """Its methods are for one thread."""

    def __init__(
        self, bank: Bank, sites: tuple[Site, Site], lines: dict[str, Lines], seed: int, tell: Callable[[str], None]
    ) -> None:
        self.bank = bank
        self.sites = {site.name: site for site in sites}
        self.lines = lines
        self.tally = Tally()
        self.tell = tell
        """Told of each event, in words."""
        self._chance = random.Random(seed)

    # --- losses ------------------------------------------------------------------------------------------------

    def kill_resource(self, name: str, hunt_s: float) -> None:
        """kill -9 a resource manager, after its vote if that moment is met within `hunt_s` seconds; wait for its
        backup."""
        pid, incarnation = self._serving(name)
        missing = self._hunt(name, pid, hunt_s)
        os.kill(pid, signal.SIGKILL)
        lost_at = time.monotonic()
        self._await_backup(name, incarnation, lost_at)
        self._count_redone(name, missing, "killed")

    def kill_with_node(self, name: str, hunt_s: float) -> None:
        """The same, and its node at the same time: whoever takes over has to wait for the node, too."""
        pid, incarnation = self._serving(name)
        missing = self._hunt(name, pid, hunt_s)
        node = self.sites[SITE_OF[name]].node
        node.freeze()
        os.kill(pid, signal.SIGKILL)
        lost_at = time.monotonic()
        node.kill()
        self.tally.node_kills += 1
        self._await_backup(name, incarnation, lost_at)
        self._count_redone(name, missing, "killed together with its node")

    def kill_node(self, site: str) -> None:
        self.sites[site].node.kill()
        self.tally.node_kills += 1
        self.tell(f"the node of site {site} killed")

    def kill_service(self, site: str) -> None:
        self.sites[site].service.kill()
        self.tally.service_kills += 1
        self.tell(f"the service {self.sites[site].service.name} killed")

    def freeze_resource(self, name: str) -> None:
        """A zombie: it stands still, with questions on their way to it, until its backup has taken over; then it goes
        on. It must not change anything, and has to stop."""
        pid, incarnation = self._serving(name)
        while not self._freeze_without_lock(name, pid):
            time.sleep(self._chance.uniform(0, UNDER_WAY_S))
        frozen_at = time.monotonic()
        self.tally.zombies += 1
        try:
            self._await_backup(name, incarnation, frozen_at)
        finally:
            os.kill(pid, signal.SIGCONT)
        with suppress(ServerFailed):
            wait_until(lambda: not _runs(pid), "the zombie stops", ZOMBIE_S_MAX)
            self.tally.zombies_refused += self._serving(name)[1] > incarnation
        stopped = "is still there" if _runs(pid) else "had to stop"
        self.tell(f"{name} frozen, its backup open after {self.tally.takeover_ms[-1]:.0f} ms; woken, it {stopped}")

    def _freeze_without_lock(self, name: str, pid: int) -> bool:
        """SIGSTOP, unless it holds its file's lock just then: its backup could not get that before it is killed."""
        os.kill(pid, signal.SIGSTOP)
        time.sleep(UNDER_WAY_S)
        with closing(apsw.Connection(self.bank.urls[name].removeprefix("sqlite:///"))) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                os.kill(pid, signal.SIGCONT)
                return False
            connection.execute("ROLLBACK")
        return True

    # --- looking -------------------------------------------------------------------------------------------------

    def line(self, name: str) -> ResourceLine | None:
        return self.lines[SITE_OF[name]]().get(name)

    def is_open(self, name: str) -> bool:
        line = self.line(name)
        return line is not None and line.state == "open"

    def _serving(self, name: str) -> tuple[int, int]:
        """The process that serves it, and its incarnation."""
        wait_until(lambda: self.is_open(name), f"{name} is open", OPEN_S_MAX)
        line = self.line(name)
        assert line is not None
        return pid_of(line), line.incarnation

    def _hunt(self, name: str, pid: int, seconds: float) -> set[tuple[str, str]]:
        """Stop the process at a moment when something is decided that its data lack. Returns what that is; empty, and
        it runs on, when no such moment was met."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(UNDER_WAY_S)  # the others go on: whoever has all votes decides
            missing = self._decided() - self._there(name)
            if missing:
                return missing
            os.kill(pid, signal.SIGCONT)
            time.sleep(self._chance.uniform(0, 2 * UNDER_WAY_S))
        return set()

    def _decided(self) -> set[tuple[str, str]]:
        """What the bank shows: its branch was prepared, so it shows what is decided."""
        return set(self.bank.entries("bank"))

    def _there(self, name: str) -> set[tuple[str, str]]:
        try:
            return set(self.bank.entries(name))
        except apsw.BusyError:
            return self._decided()  # the stopped process holds a lock that readers need: no moment to look

    def _await_backup(self, name: str, incarnation: int, lost_at: float) -> None:
        until = time.monotonic() + OPEN_S_MAX
        while time.monotonic() < until:
            line = self.line(name)
            if line is not None and line.state == "open" and line.incarnation > incarnation:
                self.tally.takeover_ms.append((time.monotonic() - lost_at) * 1000)
                return
            time.sleep(WATCH_PERIOD_S)
        raise TimeoutError(f"Nobody took over {name} in {OPEN_S_MAX:g} s: {self.line(name)}.")

    def _count_redone(self, name: str, missing: set[tuple[str, str]], how: str) -> None:
        """It has opened: what was decided has to be there now, not some time later."""
        redone = missing & self._there(name)
        self.tally.redone += len(redone)
        self.tally.not_redone += len(missing - redone)
        work = f"{len(redone)} of {len(missing)} decided redone" if missing else "nothing decided was missing"
        self.tell(f"{name} {how}, its backup open after {self.tally.takeover_ms[-1]:.0f} ms; {work}")


def pid_of(line: ResourceLine) -> int:
    """Of "host and process id", the latter."""
    return int(line.place.split()[-1])


def _runs(pid: int) -> bool:
    """Whether there is such a process, and no zombie in the system's sense."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
