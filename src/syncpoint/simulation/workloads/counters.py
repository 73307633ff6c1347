"""One counter in each database, which everybody wants at once: each acknowledged step counts once, in both."""

from __future__ import annotations

import random
from typing import Any

from syncpoint.manager.transaction import Work
from syncpoint.simulation.client import connect
from syncpoint.simulation.host import Application
from syncpoint.simulation.workloads.base import Workload
from syncpoint.steps import Script
from syncpoint.testing.checkers import Increment, ReadCounter, counter


class Counters(Workload):
    """Everybody waits for the same two rows."""

    name = "counter"

    def setup(self) -> None:
        for database in self.names:
            self.write(database, "count", 0)

    def act(self, application: Application, client: str, chance: random.Random) -> Script[None]:
        by = chance.randint(1, 5)
        reads = chance.random() < 0.2
        actions: list[Any] = []

        def body(work: Work) -> Script[None]:
            for database in self.names:
                connection = yield from connect(work, database)
                count = yield from connection.get("count", for_update=True)
                if reads:
                    actions.append(ReadCounter(resource=database, key="count", value=count))
                else:
                    actions.append(Increment(resource=database, key="count", by=by))
                    yield from connection.put("count", count + by)

        yield from self.run(application, client, body, by, wait_applied=chance.random() < 0.7, actions=actions)

    def check(self) -> list[str]:
        counts = {database: self.rows(database)["count"] for database in self.names}
        last = [ReadCounter(resource=database, key="count", value=count) for database, count in counts.items()]
        wrong = [str(finding) for finding in counter.check(self.history(last))]
        if len(set(counts.values())) > 1:
            wrong.append(f"the counters went their own ways: {counts}")
        return wrong
