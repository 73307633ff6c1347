"""Requests with ids, sent again until they are answered, also to other applications: each has one effect, one reply.

The effect is a counter that grows; the reply is what the counter then was, so a second run would give another one.
"""

from __future__ import annotations

import random

from syncpoint.manager.transaction import Work
from syncpoint.simulation.client import Known, connect
from syncpoint.simulation.host import Application
from syncpoint.simulation.workloads.base import Operation, Workload
from syncpoint.steps import Script

OPEN_MAX = 12


class Resends(Workload):
    """Exactly once, however often it is sent."""

    name = "resends"

    def setup(self) -> None:
        for database in self.names:
            self.write(database, "count", 0)
        self.requests = 0
        self.open: list[str] = []
        """Requests without an answer: whoever is free sends one of them again."""

    def act(self, application: Application, client: str, chance: random.Random) -> Script[None]:
        if self.open and (chance.random() < 0.6 or len(self.open) >= OPEN_MAX):
            user_id = chance.choice(self.open)
        else:
            self.requests += 1
            user_id = f"request {self.requests}"
            self.open.append(user_id)
        if chance.random() < 0.1 and self.requests > 1:
            user_id = f"request {chance.randint(1, self.requests)}"  # one that was answered, or not, long ago
        number = int(user_id.split()[1])
        names = self.names if number % 3 else self.names[:1]

        def body(work: Work) -> Script[list[int]]:
            counts = []
            for database in names:
                connection = yield from connect(work, database)
                count = (yield from connection.get("count", for_update=True)) + 1
                yield from connection.put("count", count)
                seen = (yield from connection.get(user_id, for_update=True)) or []
                yield from connection.put(user_id, [*seen, count])
                counts.append(count)
            return counts

        operation = yield from self.run(application, client, body, user_id, user_id=user_id)
        if operation.known is Known.OK and user_id in self.open:
            self.open.remove(user_id)

    def check(self) -> list[str]:
        rows = {database: self.rows(database) for database in self.names}
        wrong = []
        by_id: dict[str, list[Operation]] = {}
        for operation in self.operations:
            by_id.setdefault(operation.detail, []).append(operation)
        for database, found in rows.items():
            effects = sum(len(value) for key, value in found.items() if key != "count")
            if effects != found["count"]:
                wrong.append(f"{database} counted to {found['count']}, but has {effects} effects")
        for user_id, operations in by_id.items():
            names = self.names if int(user_id.split()[1]) % 3 else self.names[:1]
            wrong += self._check(user_id, operations, {name: rows[name].get(user_id, []) for name in names})
        return wrong

    @staticmethod
    def _check(user_id: str, operations: list[Operation], effects: dict[str, list[int]]) -> list[str]:
        counts = {len(found) for found in effects.values()}
        if counts - {0, 1}:
            return [f"{user_id!r} had more than one effect: {effects}"]
        if len(counts) > 1:
            return [f"{user_id!r} is committed in only a part of its databases: {effects}"]
        replies = [operation.value for operation in operations if operation.known is Known.OK]
        if replies and counts == {0}:
            return [f"{user_id!r} was answered, and is lost"]
        true = [found[0] for found in effects.values()] if counts == {1} else None
        different = [reply for reply in replies if reply != true]
        if different:
            return [f"{user_id!r} was answered {different[0]!r}, but its effect was {true!r}"]
        return []
