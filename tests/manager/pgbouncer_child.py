"""A process that moves money between two databases through PgBouncer, and kills itself at a step of the end.

    python -m tests.manager.pgbouncer_child '{"urls": …, "journal": …, "mode": "sync", "account": 1, "what": …}'

Not for: judging what is left; the test does that.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import syncpoint
from tests.crash.trap import Target, Trap

MOVE = "UPDATE account SET balance = balance + %s WHERE id = %s"


def work(order: dict[str, Any], trap: Trap) -> None:
    manager = syncpoint.TransactionManager(order["journal"], order["urls"], background=False)
    with manager, manager.transaction() as tx:
        tx.connect("bank").execute(MOVE, (-10, order["account"]))
        tx.connect("ledger").execute(MOVE, (10, order["account"]))
        trap.watch(manager._runner)


async def work_async(order: dict[str, Any], trap: Trap) -> None:
    manager = syncpoint.AsyncTransactionManager(order["journal"], order["urls"], background=False)
    async with manager, manager.transaction() as tx:
        await (await tx.connect("bank")).execute(MOVE, (-10, order["account"]))
        await (await tx.connect("ledger")).execute(MOVE, (10, order["account"]))
        trap.watch(manager._runner)


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    trap = Trap(Target(what=order["what"], after=order["after"]))
    if order["mode"] == "sync":
        work(order, trap)
    else:
        asyncio.run(work_async(order, trap))
