"""An HTTP service over the two databases of transfer.py: one request, one transaction, one Idempotency-Key.

See ../fastapi_transfer for a service that is served; this one is here to be crashed (test_service.py).
"""

from __future__ import annotations

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

import syncpoint
from syncpoint.integrations.asgi import IdempotencyMiddleware


class Order(BaseModel):
    """Move so much from the bank to the ledger."""

    amount: int = Field(gt=0)


def make_app(manager: syncpoint.AsyncTransactionManager) -> FastAPI:
    """The service, over a manager that somebody else opens and closes."""
    app = FastAPI(title="Transfers")
    app.add_middleware(IdempotencyMiddleware, manager=manager, required=True)

    @app.post("/transfers", status_code=201)
    async def transfer(order: Order, request: Request) -> dict[str, int]:
        tx: syncpoint.AsyncTransaction = request.scope["syncpoint.transaction"]
        bank, ledger = await tx.connect("bank"), await tx.connect("ledger")
        ((balance,),) = bank.execute("SELECT balance FROM account WHERE id = 1").fetchall()
        if balance < order.amount:
            raise HTTPException(402, "not enough money in the bank")
        bank.execute("UPDATE account SET balance = balance - ? WHERE id = 1", (order.amount,))
        ledger.execute("UPDATE account SET balance = balance + ? WHERE id = 1", (order.amount,))
        return {"bank": balance - order.amount}

    return app
