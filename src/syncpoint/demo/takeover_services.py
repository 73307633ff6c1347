"""The two services of the takeover demonstration, each a process: `python -m syncpoint.demo.takeover_services PLAN`.

"orders" begins every transfer: a row at its bank and in its audit, a file, and, through a call that carries the
transaction's context, a row at the other service. "stock" takes part in what it is called for, in the tree below
orders. Not for: processes and faults (takeover_sites.py, takeover_chaos.py), the bank (bank.py).
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import syncpoint
from syncpoint.demo.bank import ACCOUNTS, Order, enter, entry_name
from syncpoint.demo.client import Log, left_open, send
from syncpoint.errors import SyncpointError
from syncpoint.ids import Guid
from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import LinkSettings
from syncpoint.manager.link_exchange import LinkExchange

ORDERS, STOCK = "orders", "stock"
TIMEOUT_S = 10.0
REOPEN_S = 0.2
LINE_SIZE_BYTES_MAX = 100_000


class Refused(Exception):
    """The called service did not take part."""


@dataclass(frozen=True)
class Plan:
    """What a service is told to be."""

    service: str
    generation: int
    threads: int
    journal: str
    resources: dict[str, str]
    log: str
    seed: int
    listen: str
    """Its link's own address in the tree."""
    peers: dict[str, str]
    """The other's, by name."""
    key: str
    """Signs contexts; hexadecimal."""
    call: str
    """The socket at which stock is called."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Service:
    """A manager in a tree, and what both services do to have one."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.log = Log(plan.log)
        self.stop = threading.Event()

    @contextmanager
    def opened(self) -> Iterator[syncpoint.TransactionManager]:
        """The manager, open. What it needs may be starting just now: then it is opened again."""
        while not self.stop.is_set():
            manager = self._make()
            try:
                manager.open()
            except SyncpointError as error:
                self.log.write("unopened", type(error).__name__)
                print(error, file=sys.stderr, flush=True)
                self.stop.wait(REOPEN_S)
                continue
            with manager:
                self.log.write("started", f"{os.getpid()} {manager.incarnation}")
                yield manager
            return
        raise SystemExit  # told to stop before there was anything to stop

    def _make(self) -> syncpoint.TransactionManager:
        settings = LinkSettings(
            cluster="demo",
            name=self.plan.service,
            role="node",
            guid=Guid(bytes(16)),  # the journal's takes its place
            listen=(self.plan.listen,),
            peers=tuple(KnownPeer(name=name, address=address) for name, address in self.plan.peers.items()),
        )
        tree = syncpoint.Tree(exchange=LinkExchange(settings), keys=[bytes.fromhex(self.plan.key)])
        return syncpoint.TransactionManager(self.plan.journal, self.plan.resources, timeout=TIMEOUT_S, tree=tree)


# --- orders ---------------------------------------------------------------------------------------------------


class Orders(Service):
    """Threads that transfer until told to stop."""

    def run(self) -> None:
        again = left_open(Path(self.plan.log))
        gate = threading.Lock()
        with self.opened() as manager:
            threads = [
                threading.Thread(target=self._work, args=(manager, number, again, gate), daemon=True)
                for number in range(self.plan.threads)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.log.write("ended", str(os.getpid()))

    def _work(self, manager: syncpoint.TransactionManager, number: int, again: list[str], gate: threading.Lock) -> None:
        chance = random.Random(f"{self.plan.seed}-{self.plan.generation}-{number}")
        count = 0
        while not self.stop.is_set():
            with gate:
                begun = again.pop() if again else None
            if begun is not None:
                transfer, _, rest = begun.partition(" ")
                order = Order(**json.loads(rest))
            else:
                count += 1
                transfer = f"{self.plan.generation}-{number}-{count}"
                order = Order(
                    "bank", STOCK, chance.randrange(ACCOUNTS), chance.randrange(ACCOUNTS), chance.randint(1, 9)
                )
                self.log.write("begun", f"{transfer} {json.dumps(asdict(order))}")
            self._transfer(manager, transfer, order)

    def _transfer(self, manager: syncpoint.TransactionManager, transfer: str, order: Order) -> None:
        """The same id whenever it is sent, so it happens at most once."""

        def once() -> None:
            manager.run(carry_out, order, transfer, self.plan.call, id=transfer, fingerprint=transfer)

        send(transfer, once, self.log, self.stop)


def carry_out(tx: Any, order: Order, transfer: str, call: str) -> str:
    """The user's own code. Those with one writer come last, and always in this order."""
    attempt = str(tx.attempt)
    enter(tx.connect("bank"), "%s", transfer, attempt, order.delta("bank"), order.place("bank"))
    ask_stock(call, {"context": tx.export().token, "order": asdict(order), "transfer": transfer, "attempt": attempt})
    enter(tx.connect("audit"), "?", transfer, attempt, 0, order.account)
    tx.connect("files").write(entry_name(transfer, attempt), f"{transfer} {order.amount}\n".encode())
    return transfer


def ask_stock(address: str, question: dict[str, Any]) -> None:
    """One call over a Unix socket, a line each way. Raises Refused, OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(address)
        connection.sendall(json.dumps(question).encode() + b"\n")
        answer = connection.makefile("rb").readline(LINE_SIZE_BYTES_MAX)
    if answer.strip() != b'"done"':
        raise Refused(answer.decode(errors="replace") or "the service closed the connection")


# --- stock ------------------------------------------------------------------------------------------------------


class Stock(Service):
    """Answers calls until told to stop."""

    def run(self) -> None:
        with self.opened() as manager:
            server = StockServer(manager, self.plan.call)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            self.stop.wait()
            server.shutdown()
            server.server_close()
        self.log.write("ended", str(os.getpid()))


class StockServer(socketserver.ThreadingUnixStreamServer):
    """One thread a call."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, manager: syncpoint.TransactionManager, address: str) -> None:
        self.manager = manager
        with suppress(FileNotFoundError):  # of a process that was killed
            os.unlink(address)
        super().__init__(address, StockCall)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that was killed does not read its answer."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class StockCall(socketserver.StreamRequestHandler):
    """One call: takes part under the caller's transaction; nothing is committed before the caller's manager says so."""

    server: StockServer

    def handle(self) -> None:
        line = self.rfile.readline(LINE_SIZE_BYTES_MAX)
        if not line.endswith(b"\n"):
            return
        question = json.loads(line)
        order = Order(**question["order"])
        answer = "done"
        try:
            with self.server.manager.join(question["context"]) as tx:
                stock = tx.connect(STOCK)
                enter(stock, "?", question["transfer"], question["attempt"], order.delta(STOCK), order.place(STOCK))
        except Exception as error:  # whatever it was, the caller must learn that this part was not done
            answer = f"{type(error).__name__}: {error}"
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    service = Orders(plan) if plan.service == ORDERS else Stock(plan)
    signal.signal(signal.SIGTERM, lambda *_: service.stop.set())
    service.run()


if __name__ == "__main__":
    main()
