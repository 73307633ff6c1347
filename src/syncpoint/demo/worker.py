"""One worker process of the transfer demonstration: threads that move money until told to stop, or killed.

Started as `python -m syncpoint.demo.worker PLAN`. Not for: what clients are told (client.py), judging (bank.py),
killing (chaos.py).
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
from syncpoint.demo.client import Log, left_open, send
from syncpoint.errors import JournalUnavailable

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


class Worker:
    """Threads that transfer until `stop` is set."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.log = Log(plan.log)
        self.stop = threading.Event()
        self.names = sorted(plan.urls, key=lambda name: plan.urls[name].startswith("sqlite"))
        self._gate = threading.Lock()

    def run(self) -> None:
        open_orders = left_open(Path(self.plan.log))
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
        """The same id whenever it is sent, so it happens at most once."""

        def once() -> None:
            manager.run(carry_out, order, transfer, self.names, id=transfer, fingerprint=transfer)

        send(transfer, once, self.log, self.stop)


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    worker = Worker(plan)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop.set())
    worker.run()


if __name__ == "__main__":
    main()
