"""One worker process of the transfer demonstration: threads that move money until told to stop, or killed.

Started as `python -m syncpoint.demo.worker PLAN`. Its log is what its clients were told, one line an event, written
with one system call each, so that a kill -9 loses none. A new worker first sends again what the log leaves open:
same id, so nothing happens twice. Not for: judging (bank.py), killing (chaos.py).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import syncpoint
from syncpoint.demo.bank import ACCOUNTS, Order, carry_out
from syncpoint.errors import JournalUnavailable, OutcomePending, TransactionAborted, TransactionRunning

TIMEOUT_S = 5.0
REOPEN_S = 0.1


@dataclass(frozen=True)
class Plan:
    """What a worker is told to do."""

    slot: int
    generation: int
    threads: int
    journal: str
    urls: dict[str, str]
    log: str
    seed: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Log:
    """What the clients were told: lines of `event id`, appended whole."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: str, what: str) -> None:
        os.write(self._file, f"{event} {what}\n".encode())


def read_log(path: Path) -> list[tuple[str, str]]:
    """(event, what) of every whole line."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [(event, what) for event, _, what in (line.partition(" ") for line in lines) if what]


class Worker:
    """Threads that transfer until `stop` is set."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.log = Log(plan.log)
        self.stop = threading.Event()
        self.names = sorted(plan.urls, key=lambda name: plan.urls[name].startswith("sqlite"))
        self._gate = threading.Lock()

    def run(self) -> None:
        open_orders = self._left_open()
        with self._opened() as manager:
            self.log.write("started", f"{os.getpid()} {manager.incarnation}")
            threads = [
                threading.Thread(target=self._work, args=(manager, number, open_orders), daemon=True)
                for number in range(self.plan.threads)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.log.write("ended", str(os.getpid()))

    def _opened(self) -> syncpoint.TransactionManager:
        """The manager. Its journal's database may be restarting just now: then it is opened again."""
        while True:
            manager = syncpoint.TransactionManager(self.plan.journal, self.plan.urls, timeout=TIMEOUT_S)
            try:
                return manager.open()
            except JournalUnavailable:
                self.log.write("unopened", "journal")
                if self.stop.wait(REOPEN_S):
                    raise SystemExit from None  # told to stop before there was anything to stop

    def _left_open(self) -> list[str]:
        """Transfers that an earlier process of this slot began and was not told about."""
        open_: dict[str, None] = {}
        for event, what in read_log(Path(self.plan.log)):
            transfer = what.split(" ", 1)[0]
            if event == "begun":
                open_[what] = None
            elif event in ("committed", "aborted"):
                open_ = {one: None for one in open_ if not one.startswith(f"{transfer} ")}
        return list(open_)

    def _work(self, manager: syncpoint.TransactionManager, number: int, open_orders: list[str]) -> None:
        chance = random.Random(f"{self.plan.seed}-{self.plan.slot}-{self.plan.generation}-{number}")
        count = 0
        while not self.stop.is_set():
            with self._gate:
                again = open_orders.pop() if open_orders else None
            if again is not None:
                transfer, _, rest = again.partition(" ")
                order = Order(**json.loads(rest))
            else:
                count += 1
                transfer = f"{self.plan.slot}-{self.plan.generation}-{number}-{count}"
                order = self._draw(chance)
                self.log.write("begun", f"{transfer} {json.dumps(asdict(order))}")
            self._transfer(manager, transfer, order)

    def _draw(self, chance: random.Random) -> Order:
        source, target = chance.sample(self.names, 2)
        return Order(source, target, chance.randrange(ACCOUNTS), chance.randrange(ACCOUNTS), chance.randint(1, 9))

    def _transfer(self, manager: syncpoint.TransactionManager, transfer: str, order: Order) -> None:
        """Send it until it is known what became of it; the same id, so it happens at most once."""
        while not self.stop.is_set():
            try:
                manager.run(carry_out, order, transfer, self.names, id=transfer, fingerprint=transfer)
            except TransactionAborted as error:
                if not error.retryable:
                    self.log.write("aborted", transfer)
                    return
                self.log.write("retried", transfer)
            except (OutcomePending, TransactionRunning):
                self.stop.wait(0.05)
            except Exception as error:
                # The user's own code or driver failed: the block was aborted. Nothing happened; try again.
                self.log.write("failed", f"{transfer} {type(error).__name__}")
                self.stop.wait(0.05)
            else:
                self.log.write("committed", transfer)
                return


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    worker = Worker(plan)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop.set())
    worker.run()


if __name__ == "__main__":
    main()
