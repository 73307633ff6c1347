"""A process that does ORM work over three databases in one transaction, and kills itself at a step of its end.

    python -m tests.integrations.orm_child '{"urls": …, "journal": …, "mode": "sync", "what": "journal force", …}'

Not for: judging what is left; the test does that.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import syncpoint
from tests.crash.trap import Target, Trap
from tests.integrations.bank import PLACES, RESOURCES


def work(order: dict[str, Any], trap: Trap) -> None:
    manager = syncpoint.TransactionManager(order["journal"], order["urls"], background=False)
    with manager, manager.transaction() as tx:
        binds: dict[Any, Any] = {PLACES[name]: tx.sqlalchemy(name) for name in RESOURCES}
        with Session(binds=binds) as session:
            session.add_all([PLACES[name](owner="Ada") for name in RESOURCES])
            session.commit()
            session.add_all([PLACES[name](owner="undone") for name in RESOURCES])
            session.flush()
            session.rollback()
        trap.watch(manager._runner)


async def work_async(order: dict[str, Any], trap: Trap) -> None:
    manager = syncpoint.AsyncTransactionManager(order["journal"], order["urls"], background=False)
    async with manager, manager.transaction() as tx:
        binds: dict[Any, Any] = {PLACES[name]: await tx.sqlalchemy(name) for name in RESOURCES}
        async with AsyncSession(binds=binds) as session:
            session.add_all([PLACES[name](owner="Ada") for name in RESOURCES])
            await session.commit()
            session.add_all([PLACES[name](owner="undone") for name in RESOURCES])
            await session.flush()
            await session.rollback()
        trap.watch(manager._runner)


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    trap = Trap(Target(what=order["what"], nth=order["nth"], after=order["after"]))
    if order["mode"] == "sync":
        work(order, trap)
    else:
        asyncio.run(work_async(order, trap))
