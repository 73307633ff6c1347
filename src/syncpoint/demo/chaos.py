"""What goes wrong in the demonstration: workers killed with kill -9 in the middle of a commit, databases restarted.

A kill counts as "in a commit" when *after* it a branch of the dead worker is seen prepared, read from the database
itself; then it is watched until it is gone, and how it ended is read from the rows. Not for: the bank (bank.py).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import apsw

from syncpoint.demo.bank import Bank, Eyes
from syncpoint.demo.client import read_log
from syncpoint.demo.processes import ProcessSlot
from syncpoint.demo.worker import Plan
from syncpoint.ids import Identifier

WATCH_PERIOD_S = 0.01
UNDER_WAY_S = 0.01
WATCH_S_MAX = 60.0


class Server(Protocol):
    """A private database server."""

    def kill(self) -> None: ...

    def start(self) -> None: ...

    def restart(self) -> None: ...


@dataclass
class Tally:
    """What chaos did, and how long locks were held after it."""

    kills: int = 0
    kills_in_commit: int = 0
    restarts: int = 0
    caught: set[Identifier] = field(default_factory=set)
    """Branches seen prepared after their worker was killed."""
    ended_by_commit: int = 0
    ended_by_abort: int = 0
    """Kills in a commit by how it ended, as seen at once; the audit counts again in the end."""
    longest_lock_after_kill_ms: float = 0.0
    longest_lock_after_restart_ms: float = 0.0


class WorkerSlot(ProcessSlot):
    """One place for a worker process."""

    def __init__(self, slot: int, threads: int, journal: str, urls: Mapping[str, str], folder: Path, seed: int) -> None:
        super().__init__(f"worker-{slot}", folder)
        self.slot = slot
        self.log = folder / f"worker-{slot}.log"
        self._threads = threads
        self._journal = journal
        self._urls = urls
        self._seed = seed
        self._incarnation = 0

    def arguments(self) -> list[str]:
        self._incarnation = 0
        plan = Plan(
            slot=self.slot,
            generation=self.generation,
            threads=self._threads,
            journal=self._journal,
            urls=dict(self._urls),
            log=str(self.log),
            seed=self._seed,
        )
        return ["-m", "syncpoint.demo.worker", plan.to_json()]

    @property
    def incarnation(self) -> int:
        """Of the running process; 0 while it is still starting."""
        if not self._incarnation:
            self._incarnation = self._read_incarnation()
        return self._incarnation

    def _read_incarnation(self) -> int:
        for event, what in reversed(read_log(self.log)):
            pid, _, incarnation = what.partition(" ")
            if event == "started":
                return int(incarnation) if int(pid) == self.pid else 0
        return 0


class Chaos:
    """Kills and restarts, until told to stop. Its methods are for one thread."""

    def __init__(self, bank: Bank, workers: list[WorkerSlot], servers: dict[str, Server], seed: int) -> None:
        self.bank = bank
        self.workers = workers
        self.servers = servers
        self.tally = Tally()
        self._eyes = Eyes(bank)
        self._chance = random.Random(seed)
        self._disturbed = threading.Event()
        """A database restarts: locks held meanwhile count as held after a restart."""
        self._watchers: list[threading.Thread] = []

    # --- kills ----------------------------------------------------------------------------------------------

    def kill_one(self, until: float, hunt_s_max: float) -> None:
        """Kill a worker in the middle of a commit, and put a new one in its place; give up at `until` (monotonic).

        To hit that moment, a worker that has something prepared is stopped (SIGSTOP) and looked at again; if it is not
        in the wanted part of a commit it goes on (SIGCONT). Every other kill is wanted after the decision; when that
        moment was not met for `hunt_s_max` seconds, any moment of a commit will do.
        """
        wants_decided = self.tally.kills_in_commit % 2 == 1
        hunt_until = time.monotonic() + hunt_s_max
        while time.monotonic() < until:
            found = self._suspect()
            if found is None:
                continue
            slot, incarnation = found
            slot.freeze()
            time.sleep(UNDER_WAY_S)  # what it had sent before is done now; what is prepared stays so
            caught = _branches_of(self._eyes, incarnation)
            if caught and (time.monotonic() > hunt_until or self._is_decided(self._eyes, caught) is wants_decided):
                self._kill(slot, incarnation)
                return
            slot.thaw()

    def _suspect(self) -> tuple[WorkerSlot, int] | None:
        """A worker that has something prepared."""
        by_incarnation = {slot.incarnation: slot for slot in self.workers if slot.is_running}
        for branch in self._eyes.prepared(self._chance.choice(self._eyes.names)):
            incarnation = branch.attempt.incarnation
            if incarnation in by_incarnation:
                return by_incarnation[incarnation], incarnation
        return None

    def _is_decided(self, eyes: Eyes, caught: set[Identifier]) -> bool:
        """Whether some branch of these transactions is committed somewhere already."""
        try:
            return any(eyes.committed(name, branch) for branch in caught for name in self.bank.urls)
        except apsw.BusyError:
            return False  # the stopped worker holds a lock of the SQLite file; another look will tell

    def _kill(self, slot: WorkerSlot, incarnation: int) -> None:
        slot.kill()
        killed_at = time.monotonic()
        self.tally.kills += 1
        left = _branches_of(self._eyes, incarnation)
        slot.start()
        if left:
            self.tally.kills_in_commit += 1
            self.tally.caught |= left
            watcher = threading.Thread(target=self._watch, args=(incarnation, left, killed_at), daemon=True)
            watcher.start()
            self._watchers.append(watcher)

    def _watch(self, incarnation: int, left: set[Identifier], since: float) -> None:
        """Until nothing of that process is prepared any more. A thread of its own, with eyes of its own."""
        eyes = Eyes(self.bank)
        disturbed = self._disturbed.is_set()
        while time.monotonic() - since < WATCH_S_MAX:
            disturbed = disturbed or self._disturbed.is_set()
            try:
                if not _branches_of(eyes, incarnation):
                    break
            except Exception:
                if not (disturbed or self._disturbed.is_set()):
                    raise
            time.sleep(WATCH_PERIOD_S)
        self._record(time.monotonic() - since, disturbed=disturbed)
        with suppress(Exception):  # a database restarts just now
            if self._is_decided(eyes, left):
                self.tally.ended_by_commit += 1
            else:
                self.tally.ended_by_abort += 1
        eyes.close()

    def _record(self, seconds: float, *, disturbed: bool) -> None:
        milliseconds = seconds * 1000
        if disturbed:
            self.tally.longest_lock_after_restart_ms = max(self.tally.longest_lock_after_restart_ms, milliseconds)
        else:
            self.tally.longest_lock_after_kill_ms = max(self.tally.longest_lock_after_kill_ms, milliseconds)

    # --- restarts -------------------------------------------------------------------------------------------------

    def restart(self, name: str) -> None:
        """Kill a database server and start it again; then watch until what was prepared before is gone."""
        self.settle()
        self._disturbed.set()
        try:
            server = self.servers[name]
            server.kill()
            server.start()
            since = time.monotonic()
            self.tally.restarts += 1
            self._eyes.close()
            before = set(self._eyes.prepared(name))
            while before & set(self._eyes.prepared(name)) and time.monotonic() - since < WATCH_S_MAX:
                time.sleep(WATCH_PERIOD_S)
            self._record(time.monotonic() - since, disturbed=True)
        finally:
            self._disturbed.clear()

    def settle(self) -> None:
        """Wait for the watchers."""
        for watcher in self._watchers:
            watcher.join()

    def close(self) -> None:
        """Give the connections back."""
        self.settle()
        self._eyes.close()


def _branches_of(eyes: Eyes, incarnation: int) -> set[Identifier]:
    return {
        branch for name in eyes.names for branch in eyes.prepared(name) if branch.attempt.incarnation == incarnation
    }
