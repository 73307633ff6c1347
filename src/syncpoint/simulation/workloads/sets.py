"""Elements are added to a set, one row an element, in both databases at once: what was added is there, all else not."""

from __future__ import annotations

import random
from typing import Any

from syncpoint.manager.transaction import Work
from syncpoint.simulation.client import connect
from syncpoint.simulation.host import Application
from syncpoint.simulation.workloads.base import Workload
from syncpoint.steps import Script
from syncpoint.testing.checkers import Add, ReadSet, sets


class Sets(Workload):
    """Rows of their own: nobody waits for a lock, so many transactions are under way at once."""

    name = "set"
    names = ("bank", "ledger", "audit")

    def setup(self) -> None:
        self.added = 0

    def act(self, application: Application, client: str, chance: random.Random) -> Script[None]:
        names = sorted(chance.sample(self.names, chance.randint(1, len(self.names))))
        self.added += 1
        element = self.added
        actions: list[Any] = [Add(resource=name, key="set", element=element) for name in names]

        def body(work: Work) -> Script[None]:
            for name in names:
                connection = yield from connect(work, name)
                yield from connection.put(f"element {element}", element)

        yield from self.run(application, client, body, names, wait_applied=chance.random() < 0.5, actions=actions)

    def check(self) -> list[str]:
        rows = {name: self.rows(name) for name in self.names}
        last = [
            ReadSet(resource=name, key="set", elements=tuple(sorted(found.values()))) for name, found in rows.items()
        ]
        wrong = [str(finding) for finding in sets.check(self.history(last))]
        for operation in self.operations:
            element = operation.actions[0].element
            there = [name for name in operation.detail if f"element {element}" in rows[name]]
            if there and there != operation.detail:
                wrong.append(f"{operation!r} is committed only in {there}")
        return wrong
