"""What goes wrong in the demonstration: workers killed with kill -9 in the middle of a commit, databases restarted.

A kill counts as "in a commit" when *after* it a branch of the dead worker is seen prepared, read from the database
itself; then it is watched until it is gone, and how it ended is read from the rows. Not for: the bank (bank.py).
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from syncpoint.demo.bank import Bank
from syncpoint.demo.worker import Plan, read_log
from syncpoint.ids import Identifier

WATCH_PERIOD_S = 0.01
WATCH_S_MAX = 60.0
HUNT_S_MAX = 3.0


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
    longest_lock_after_kill_ms: float = 0.0
    longest_lock_after_restart_ms: float = 0.0


class WorkerSlot:
    """One place for a worker process: started, killed, started again under the next generation."""

    def __init__(self, slot: int, threads: int, journal: str, bank: Bank, folder: Path, seed: int) -> None:
        self.slot = slot
        self.log = folder / f"worker-{slot}.log"
        self._errors = folder / f"worker-{slot}.err"
        self._threads = threads
        self._journal = journal
        self._bank = bank
        self._seed = seed
        self._generation = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._generation += 1
        plan = Plan(
            slot=self.slot,
            generation=self._generation,
            threads=self._threads,
            journal=self._journal,
            urls=dict(self._bank.urls),
            log=str(self.log),
            seed=self._seed,
        )
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "syncpoint.demo.worker", plan.to_json()],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def incarnation(self) -> int:
        """Of the running process; 0 while it is still starting."""
        for event, what in reversed(read_log(self.log)):
            pid, _, incarnation = what.partition(" ")
            if event == "started":
                return int(incarnation) if int(pid) == self.pid else 0
        return 0

    def kill(self) -> None:
        """kill -9, and wait until the process is gone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: it stands still, wherever it is."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self, seconds: float) -> bool:
        """Ask it to finish; whether it did so in order."""
        if self._process is None:
            return True
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            return self._process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            self.kill()
            return False

    def complaints(self) -> str:
        """What it wrote to its standard error."""
        return self._errors.read_text(errors="replace") if self._errors.exists() else ""


class Chaos:
    """Kills and restarts, until told to stop."""

    def __init__(self, bank: Bank, workers: list[WorkerSlot], servers: dict[str, Server], seed: int) -> None:
        self.bank = bank
        self.workers = workers
        self.servers = servers
        self.tally = Tally()
        self._chance = random.Random(seed)
        self._watched = [name for name in bank.urls if bank.kind(name) in ("postgresql", "mariadb")]
        self._disturbed = threading.Event()
        """A database restarts, or has since the watched kill: that lock time counts as after a restart."""
        self._watchers: list[threading.Thread] = []

    # --- kills ----------------------------------------------------------------------------------------------

    def kill_one(self, give_up: Callable[[], bool]) -> None:
        """Kill a worker in the middle of a commit, and put a new one in its place.

        To hit that moment a worker is stopped (SIGSTOP) and its branches are looked for; if it is not in the wanted
        part of a commit it goes on (SIGCONT), and the next is tried. Every other kill is wanted after the decision.
        """
        wants_decided = self.tally.kills_in_commit % 2 == 1
        hunt_until = time.monotonic() + HUNT_S_MAX
        while not give_up():
            slot = self._chance.choice(self.workers)
            incarnation = slot.incarnation
            if not slot.is_running or not incarnation:
                time.sleep(WATCH_PERIOD_S)
                continue
            slot.freeze()
            caught = self._branches_of(incarnation)
            if caught and (not wants_decided or self._is_decided(caught) or time.monotonic() > hunt_until):
                self._kill(slot, incarnation)
                return
            slot.thaw()

    def _is_decided(self, caught: set[Identifier]) -> bool:
        """Whether one of them is still prepared while another branch of its transaction is committed."""
        return any(self.bank.committed(name, branch) for branch in caught for name in self._watched)

    def _kill(self, slot: WorkerSlot, incarnation: int) -> None:
        slot.kill()
        killed_at = time.monotonic()
        self.tally.kills += 1
        left = self._branches_of(incarnation)
        slot.start()
        if left:
            self.tally.kills_in_commit += 1
            self.tally.caught |= left
            watcher = threading.Thread(target=self._watch, args=(incarnation, killed_at, left), daemon=True)
            watcher.start()
            self._watchers.append(watcher)

    def _watch(self, incarnation: int, since: float, left: set[Identifier]) -> None:
        """Until nothing of that process is prepared any more."""
        last_seen = time.monotonic()
        disturbed = self._disturbed.is_set()
        while left and last_seen - since < WATCH_S_MAX:
            last_seen = time.monotonic()
            time.sleep(WATCH_PERIOD_S)
            disturbed = disturbed or self._disturbed.is_set()
            left = self._branches_of(incarnation)
            self.tally.caught |= left
        self._record(time.monotonic() - since, disturbed=disturbed)

    def _record(self, seconds: float, *, disturbed: bool) -> None:
        milliseconds = seconds * 1000
        if disturbed:
            self.tally.longest_lock_after_restart_ms = max(self.tally.longest_lock_after_restart_ms, milliseconds)
        else:
            self.tally.longest_lock_after_kill_ms = max(self.tally.longest_lock_after_kill_ms, milliseconds)

    def _branches_of(self, incarnation: int) -> set[Identifier]:
        return {one for name in self._watched for one in self._prepared(name) if one.attempt.incarnation == incarnation}

    def _prepared(self, name: str) -> list[Identifier]:
        while True:
            try:
                return self.bank.prepared(name)
            except Exception:
                if not self._disturbed.is_set():
                    raise
                time.sleep(WATCH_PERIOD_S)

    # --- restarts -------------------------------------------------------------------------------------------------

    def restart(self, name: str) -> None:
        """Kill a database server and start it again; then watch until what was prepared before is gone."""
        self._disturbed.set()
        try:
            before = set(self._prepared(name))
            server = self.servers[name]
            server.kill()
            server.start()
            self.tally.restarts += 1
            since = time.monotonic()
            while before & set(self._prepared(name)) and time.monotonic() - since < WATCH_S_MAX:
                time.sleep(WATCH_PERIOD_S)
            self._record(time.monotonic() - since, disturbed=True)
            for watcher in self._watchers:  # whoever waited through the restart belongs to it
                watcher.join()
        finally:
            self._disturbed.clear()

    def settle(self) -> None:
        """Wait for the watchers."""
        for watcher in self._watchers:
            watcher.join()
