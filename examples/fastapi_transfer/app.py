"""A service that moves money between two databases: all of a transfer or nothing, and once for each Idempotency-Key.

This file is all that a service of your own needs. `run.py` starts it with databases of its own; by hand:

    BANK_URL=postgresql://… LEDGER_URL=postgresql://… JOURNAL=bank uvicorn app:app --workers 4
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field

import syncpoint
from syncpoint.integrations.asgi import IdempotencyMiddleware

manager = syncpoint.AsyncTransactionManager(
    journal=os.environ["JOURNAL"],  # "bank": decisions are rows in that database, shared by all workers
    resources={
        "bank": {"url": os.environ["BANK_URL"], "pool_size_max": 10},
        "ledger": {"url": os.environ["LEDGER_URL"], "pool_size_max": 10},
    },
    timeout=5.0,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with manager:  # each worker opens it, and finishes what a killed one has left
        yield


app = FastAPI(title="Transfers", lifespan=lifespan)
app.add_middleware(
    IdempotencyMiddleware,
    manager=manager,
    required=True,
    wait_s=2.0,  # a resend that comes while the first is still running waits for its reply
    # A service with users says here who they are: principal=lambda scope: scope["user"].id (see docs/http.md).
)


async def request_transaction(request: Request) -> syncpoint.AsyncTransaction:
    """The transaction that this request's Idempotency-Key names."""
    tx: syncpoint.AsyncTransaction = request.scope["syncpoint.transaction"]
    return tx


Tx = Annotated[syncpoint.AsyncTransaction, Depends(request_transaction)]


class Transfer(BaseModel):
    """Move `amount` between the two balances of one account, in the direction of `to`."""

    account: int
    amount: int = Field(gt=0)
    to: Literal["bank", "ledger"] = "ledger"
    reference: str = Field(default="", max_length=100)


class Receipt(BaseModel):
    receipt: str
    bank: int
    ledger: int


@app.post("/transfers", status_code=201)
async def transfer(order: Transfer, tx: Tx, response: Response) -> Receipt:
    """No commit, no rollback, no look at the key: that is the middleware's."""
    receipt = secrets.token_hex(8)  # drawn at each run: a resend that shows the same one was not run again
    balances = {}
    for name in ("bank", "ledger"):  # always in this order, so that no two transfers wait for each other
        delta = order.amount if order.to == name else -order.amount
        connection = await tx.connect(name)  # psycopg's own AsyncConnection
        updated = await connection.execute(
            "UPDATE account SET balance = balance + %s WHERE id = %s RETURNING balance", (delta, order.account)
        )
        row = await updated.fetchone()
        if row is None:
            raise HTTPException(404, f"there is no account {order.account}")
        if row[0] < 0:
            raise HTTPException(402, f"not enough money in the {name}")  # rolls back what was done before, too
        balances[name] = row[0]
        await connection.execute(
            "INSERT INTO transfer (receipt, reference, account, delta) VALUES (%s, %s, %s, %s)",
            (receipt, order.reference, order.account, delta),
        )
    response.headers["Location"] = f"/transfers/{receipt}"
    return Receipt(receipt=receipt, **balances)


@app.get("/accounts/{account}")
async def balances(account: int) -> dict[str, int]:
    """What an account holds in each database."""
    found = {}
    async with manager.transaction() as tx:  # no key: a transaction of its own
        for name in ("bank", "ledger"):
            connection = await tx.connect(name, read_only=True)
            row = await (await connection.execute("SELECT balance FROM account WHERE id = %s", (account,))).fetchone()
            if row is None:
                raise HTTPException(404, f"there is no account {account}")
            found[name] = row[0]
    return found


@app.get("/worker")
async def worker() -> dict[str, int]:
    """Which process answers: for the load generator, which kills it."""
    return {"pid": os.getpid(), "incarnation": manager.incarnation}
