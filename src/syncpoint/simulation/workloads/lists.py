"""Transactions that append to lists and read them, all with locks: every history must be serializable, in real time."""

from __future__ import annotations

import random
from typing import Any

from syncpoint.manager.transaction import Work
from syncpoint.simulation.client import connect
from syncpoint.simulation.host import Application
from syncpoint.simulation.workloads.base import Workload
from syncpoint.steps import Script
from syncpoint.testing.checkers import Append, Read, list_append

KEYS = 4
ACTIONS_MAX = 4


class Lists(Workload):
    """List-append."""

    name = "list-append"

    def setup(self) -> None:
        self.appended = 0

    def act(self, application: Application, client: str, chance: random.Random) -> Script[None]:
        places = [
            (chance.choice(self.names), f"list {chance.randrange(KEYS)}", chance.random() < 0.6)
            for _ in range(chance.randint(1, ACTIONS_MAX))
        ]
        if chance.random() < 0.85:
            places.sort(key=lambda place: place[:2])  # else now and then a deadlock across databases
        actions: list[Any] = []

        def body(work: Work) -> Script[None]:
            for database, key, appends in places:
                connection = yield from connect(work, database)
                found = (yield from connection.get(key, for_update=True)) or []
                if appends:
                    self.appended += 1
                    value = self.appended
                    actions.append(Append(resource=database, key=key, value=value))
                    yield from connection.put(key, [*found, value])
                else:
                    actions.append(Read(resource=database, key=key, values=tuple(found)))

        yield from self.run(application, client, body, places, wait_applied=chance.random() < 0.7, actions=actions)

    def check(self) -> list[str]:
        last = [
            Read(resource=database, key=key, values=tuple(values))
            for database in self.names
            for key, values in self.rows(database).items()
        ]
        return [str(finding) for finding in list_append.check(self.history(last))]
