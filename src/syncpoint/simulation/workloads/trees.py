"""Transfers between accounts of several nodes, in one transaction of a tree of managers; any node may be its root.

As in bank.py the sum of all accounts stays what it was, and a transfer has left its marks everywhere or nowhere, over
all nodes' databases. Some transfers have an id, and are sent again until they are answered: a mark counts, so that a
second effect would be seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from syncpoint.manager.transaction import Work
from syncpoint.simulation.client import Known, connect
from syncpoint.simulation.host import Application
from syncpoint.simulation.services import Plan, Services
from syncpoint.simulation.workloads.bank import ACCOUNTS, START
from syncpoint.simulation.workloads.base import Operation, Workload
from syncpoint.steps import Script

OPEN_MAX = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One row that a transfer changes, and the mark that it leaves beside it."""

    database: str
    account: str
    change: int
    mark: str


@dataclass(frozen=True, slots=True)
class Order:
    """One transfer, which may be tried several times. `steps`: by the numbers of the plan's parts."""

    name: str
    plan: Plan
    steps: dict[int, tuple[Step, ...]]
    user_id: str | None = None

    def __repr__(self) -> str:
        return f"{self.name} over {' '.join(self.plan.nodes())}"

    def marks(self) -> Iterator[tuple[str, str]]:
        for steps in self.steps.values():
            for step in steps:
                if step.mark:
                    yield step.database, step.mark


class TreeBank(Workload):
    """Money moves between nodes; none is made and none is lost."""

    name: ClassVar[str] = "tree"
    services: Services

    def setup(self) -> None:
        self.names = tuple(self.databases)
        self.open: dict[str, list[Order]] = {}
        """By node, those with an id that are not answered yet."""
        self.at: dict[str, list[str]] = {}
        self.under_way: dict[str, str] = {}
        """By client; of one that has died, what it did last."""
        for database in self.names:
            self.at.setdefault(database.rpartition("-")[2], []).append(database)
            for number in range(ACCOUNTS):
                self.write(database, f"account {number}", START)

    def act(self, application: Application, client: str, chance: random.Random) -> Script[None]:
        node = self.place_of(application)
        again = self.open.setdefault(node, [])
        idle = [order for order in again if order.name not in self.under_way.values() or chance.random() < 0.1]
        if idle and (len(again) >= OPEN_MAX or chance.random() < 0.4):
            order = chance.choice(idle)
        else:
            order = self._order(chance, node)
            if order.user_id is not None:
                again.append(order)
        wait_applied = chance.random() < 0.8
        self.under_way[client] = order.name
        operation = yield from self.run(
            application,
            client,
            partial(self._body, application, order),
            order,
            user_id=order.user_id,
            wait_applied=wait_applied,
            name=order.name,
        )
        del self.under_way[client]
        if operation.known is Known.OK and order in again:
            again.remove(order)

    def place_of(self, application: Application) -> str:
        """Whose orders it tries again: an id is one journal's."""
        return application.host.name

    def _body(self, application: Application, order: Order, work: Work) -> Script[str]:
        def act(here: Application, plan: Plan, part: Work) -> Script[None]:
            for step in order.steps[plan.number]:
                connection = yield from connect(part, step.database)
                balance = yield from connection.get(step.account, for_update=True)
                if step.mark:
                    yield from connection.put(step.account, balance + step.change)
                    count = (yield from connection.get(step.mark, for_update=True)) or 0
                    yield from connection.put(step.mark, count + 1)

        yield from self.services.visit(application, order.plan, work, act)
        return order.name

    # --- what to do ----------------------------------------------------------------------------------------------

    def _order(self, chance: random.Random, node: str) -> Order:
        name = f"t{len(self.operations)}"
        levels = chance.choice([0, 1, 1, 2, 2])
        is_look = chance.random() < 0.1
        numbers = iter(range(100))
        plan = self._grow(chance, node, levels, {node}, numbers, is_look=is_look)
        parts = plan.parts()
        places = [(part, database) for part in parts for database in self._places(chance, part.node)]
        writers = [one for one in places if one[0].writes]
        changes = [chance.randint(-50, 50) for _ in writers[:-1]]
        changes.append(-sum(changes))
        left = iter(changes)
        steps: dict[int, tuple[Step, ...]] = {part.number: () for part in parts}
        for part, database in places:
            change, mark = (next(left), f"mark {name}.{part.number}") if part.writes else (0, "")
            step = Step(database, f"account {chance.randrange(ACCOUNTS)}", change, mark)
            steps[part.number] = (*steps[part.number], step)
        return Order(name, plan, steps, f"order {name}" if chance.random() < 0.3 else None)

    def _places(self, chance: random.Random, node: str) -> list[str]:
        """The databases of a node that a part uses: now and then none of them, if it only passes the request on."""
        databases = self.at[node]
        return chance.sample(databases, chance.choice([1, 1, 1, len(databases)]))

    def _grow(
        self, chance: random.Random, node: str, levels: int, seen: set[str], numbers: Iterator[int], *, is_look: bool
    ) -> Plan:
        number, under = next(numbers), []
        for _ in range(chance.choice([1, 1, 2]) if levels else 0):
            others = [one for one in self.at if one not in seen]
            if not others or chance.random() < 0.05:
                others = [one for one in self.at if one != node]  # it comes to a node twice, by two ways
            below = chance.choice(others)
            seen.add(below)
            under.append(self._grow(chance, below, levels - 1, seen, numbers, is_look=is_look))
        return Plan(
            node,
            tuple(under),
            writes=not is_look and chance.random() < 0.9,
            number=number,
            acts_last=chance.random() < 0.3,
            at_once=chance.random() < 0.5,
            lingers_s=chance.uniform(0.0, 0.5) if number and chance.random() < 0.02 else 0.0,
        )

    # --- what must be true -----------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        rows = {database: self.rows(database) for database in self.names}
        total = sum(value for found in rows.values() for key, value in found.items() if key.startswith("account"))
        wrong = []
        if total != START * ACCOUNTS * len(self.names):
            wrong.append(f"the accounts hold {total} together, not {START * ACCOUNTS * len(self.names)}")
        tries: dict[str, list[Operation]] = {}
        for operation in self.operations:
            tries.setdefault(operation.name, []).append(operation)
        for operations in tries.values():
            wrong += self._check(operations, rows)
        return wrong

    @staticmethod
    def _check(operations: list[Operation], rows: dict[str, dict[str, Any]]) -> list[str]:
        order: Order = operations[0].detail
        found = {f"{mark} at {database}": rows[database].get(mark, 0) for database, mark in order.marks()}
        counts = set(found.values())
        if counts - {0, 1}:
            return [f"{order!r} had more than one effect: {found}"]
        if len(counts) > 1:
            return [f"{order!r} is committed only in a part of its nodes: {found}"]
        known = {operation.known for operation in operations}
        if Known.OK in known and counts == {0}:
            return [f"{order!r}: its client was told that it is committed, and it is lost"]
        if known == {Known.FAILED} and counts == {1}:
            why = operations[-1].why
            return [f"{order!r}: its client was told that it failed ({why}), and it is committed"]
        if order.user_id is None:
            return []  # its result is nowhere stored: who has to ask what became of it is not told
        replies = [one.value for one in operations if one.known is Known.OK and one.value != order.name]
        return [f"{order!r} was answered {replies[0]!r}"] if replies else []
