"""Transfers between resource managers that run as processes, and a database: everywhere or nowhere, whoever serves.

The checks are those of trees.py: totals, marks, and no second effect of what is sent again. Not for: what is lost, and
when (faults.py).
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

from syncpoint.manager.transaction import Work
from syncpoint.simulation.host import Application
from syncpoint.simulation.services import Plan
from syncpoint.simulation.workloads.bank import ACCOUNTS, START
from syncpoint.simulation.workloads.trees import Order, Step, TreeBank
from syncpoint.steps import Script

SITE = "site"
ACCOUNTS_USED = 3
"""Few, so that what comes after another changes the same rows."""


class TakeoverBank(TreeBank):
    """Money moves between resource managers."""

    name: ClassVar[str] = "takeover"

    def setup(self) -> None:
        self.names = tuple(self.databases)
        self.open = {}
        self.under_way = {}
        self.at = {SITE: list(self.names)}
        for database in self.names:
            for number in range(ACCOUNTS):
                self.write(database, f"account {number}", START)

    def place_of(self, application: Application) -> str:
        return SITE

    def _body(self, application: Application, order: Order, work: Work) -> Script[str]:
        for step in order.steps[0]:
            branch = yield from work.branch(step.database)
            assert branch.session is not None
            rows: Any = branch.handle.resource.connection(branch.session)
            balance = yield from rows.get(step.account, for_update=True)
            if step.mark:
                yield from rows.put(step.account, balance + step.change)
                count = (yield from rows.get(step.mark, for_update=True)) or 0
                yield from rows.put(step.mark, count + 1)
        return order.name

    def _order(self, chance: random.Random, node: str) -> Order:
        name = f"t{len(self.operations)}"
        processes = [one for one in self.names if one.startswith("rm-")]
        first = chance.choice(processes)
        others = [one for one in self.names if one != first]
        databases = [first, *chance.sample(others, chance.choice([0, 1, 1, len(others)]))]
        if chance.random() < 0.1:
            steps = tuple(Step(one, f"account {chance.randrange(ACCOUNTS_USED)}", 0, "") for one in databases)
        else:
            changes = [chance.randint(-50, 50) for _ in databases[:-1]]
            changes.append(-sum(changes))
            steps = tuple(
                Step(one, f"account {chance.randrange(ACCOUNTS_USED)}", change, f"mark {name}.{number}")
                for number, (one, change) in enumerate(zip(databases, changes, strict=True))
            )
        steps = tuple(sorted(steps, key=lambda step: step.database))  # always in one order: no deadlocks of lines
        return Order(name, Plan(SITE), {0: steps}, f"order {name}" if chance.random() < 0.3 else None)
