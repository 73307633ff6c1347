"""A service over PostgreSQL and SQLite that books payments, and eyes outside. As a program: a server that kills itself.

    python -m tests.integrations.asgi_bank '{"fd": 3, "urls": …, "journal": …, "what": "journal force", "after": true}'

Not for: asserting anything.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import psycopg

import syncpoint
from syncpoint.integrations.asgi import IdempotencyMiddleware, Reply, send_reply
from tests.crash.trap import Target, Trap, die

IN_THE_REPLY = ("http.response.start", "http.response.body")
"""Points of the reply, beside the steps of the transaction's end."""


@dataclass
class Bank:
    """Two databases, a journal, and what is in them."""

    urls: dict[str, str]
    journal: str

    @classmethod
    def make(cls, postgres_url: str, folder: Path) -> Bank:
        """With empty tables."""
        bank = cls({"bank": postgres_url, "audit": f"sqlite:///{folder / 'audit.db'}"}, str(folder / "journal"))
        for name in bank.urls:
            bank.outside(name, "CREATE TABLE payment (receipt text PRIMARY KEY, amount integer NOT NULL)")
        return bank

    def outside(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement on a connection that Syncpoint knows nothing of, and commit. Its rows."""
        if name == "bank":
            with psycopg.connect(self.urls[name]) as connection:
                cursor = connection.execute(statement.encode())
                return cursor.fetchall() if cursor.description else []
        sqlite = apsw.Connection(self.urls[name].removeprefix("sqlite:///"))
        try:
            return list(sqlite.execute(statement))
        finally:
            sqlite.close()

    def payments(self) -> list[tuple[str, int]]:
        """(receipt, amount) of what was paid, the same in both databases."""
        bank, audit = (
            self.outside(name, "SELECT receipt, amount FROM payment ORDER BY receipt") for name in ("bank", "audit")
        )
        assert bank == audit
        return [(receipt, amount) for receipt, amount in bank]

    def in_doubt(self) -> list[Any]:
        return self.outside("bank", "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")

    def manager(self, **options: Any) -> syncpoint.AsyncTransactionManager:
        return syncpoint.AsyncTransactionManager(self.journal, self.urls, background=False, **options)


async def pay(scope: Any, receive: Any, send: Any) -> None:
    """Book the amount in the body under a new random receipt, and answer with that."""
    tx = scope["syncpoint.transaction"]
    amount = json.loads((await receive())["body"])["amount"]
    receipt = secrets.token_hex(8)
    bank, audit = await tx.connect("bank"), await tx.connect("audit")
    await bank.execute("INSERT INTO payment VALUES (%s, %s)", (receipt, amount))
    audit.execute("INSERT INTO payment VALUES (?, ?)", (receipt, amount))
    body = json.dumps({"receipt": receipt}).encode()
    headers = [(b"content-type", b"application/json"), (b"x-receipt", receipt.encode()), (b"set-cookie", b"s=secret")]
    await send_reply(send, Reply(status=201, headers=headers, body=body))


def serve(order: dict[str, Any]) -> None:
    """Serve on the socket `order["fd"]` until it dies where it is to."""
    import uvicorn

    manager = Bank(order["urls"], order["journal"]).manager()
    trap = Trap(Target(what=order["what"], after=order["after"]))
    keyed = IdempotencyMiddleware(pay, manager)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":

            async def deadly(message: Any) -> None:
                is_here = order["what"] == message["type"]
                if is_here and not order["after"]:
                    die()
                await send(message)
                if is_here:
                    die()

            await keyed(scope, receive, deadly)
            return
        await receive()
        await manager.open()
        trap.watch(manager._runner)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await manager.close()
        await send({"type": "lifespan.shutdown.complete"})

    listening = socket.socket(fileno=order["fd"])
    uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none")).run(sockets=[listening])


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
