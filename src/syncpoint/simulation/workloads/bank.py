"""Transfers between accounts in two databases, or in one; each leaves its mark in every database it touches.

In the end the sum of all accounts is what it was, a transfer has left its mark everywhere or nowhere, those whose
clients were told "done" are there, and those told "not done" are not.
"""

from __future__ import annotations

import contextlib
import random

from syncpoint.errors import SyncpointError
from syncpoint.manager.transaction import Work
from syncpoint.resources.memory import MemoryConnection
from syncpoint.simulation.client import Known, connect
from syncpoint.simulation.host import Application
from syncpoint.simulation.workloads.base import Operation, Workload
from syncpoint.steps import Script, Sleep

ACCOUNTS = 8
START = 1000


class Bank(Workload):
    """Money moves; none is made and none is lost."""

    name = "bank"

    def setup(self) -> None:
        for database in self.names:
            for number in range(ACCOUNTS):
                self.write(database, f"account {number}", START)

    def act(self, application: Application, client: str, chance: random.Random) -> Script[None]:
        kind = chance.random()
        if kind < 0.7:
            source, target = chance.sample(self.names, 2)
        elif kind < 0.9:
            source = target = chance.choice(self.names)  # one writer: one phase
        else:
            yield from self._look(application, client, chance)
            return
        amount = chance.randint(1, 50)
        looks_again = chance.random() < 0.3
        first, second = f"account {chance.randrange(ACCOUNTS)}", f"account {chance.randrange(ACCOUNTS)}"
        name = f"t{len(self.operations)}"

        def body(work: Work) -> Script[None]:
            for database, account, change in ((source, first, -amount), (target, second, amount)):
                connection = yield from connect(work, database)
                balance = yield from connection.get(account, for_update=True)
                yield from connection.put(account, balance + change)
                yield from connection.put(f"mark {name}", database)
            if looks_again:
                yield from self._look_and_ignore(connection, second)

        wait_applied = chance.random() < 0.8
        yield from self.run(application, client, body, sorted({source, target}), wait_applied=wait_applied, name=name)

    def _look(self, application: Application, client: str, chance: random.Random) -> Script[None]:
        """Reads one account in each database, locked, and changes nothing."""
        account = f"account {chance.randrange(ACCOUNTS)}"

        def body(work: Work) -> Script[int]:
            total = 0
            for database in self.names:
                connection = yield from connect(work, database)
                total += yield from connection.get(account, for_update=True)
            return total

        yield from self.run(application, client, body, [])

    @staticmethod
    def _look_and_ignore(connection: MemoryConnection, account: str) -> Script[None]:
        """What many programs do: an error of the database is swallowed, and the transaction goes on."""
        yield Sleep(0.05)
        with contextlib.suppress(SyncpointError):
            yield from connection.get(account)

    def check(self) -> list[str]:
        rows = {database: self.rows(database) for database in self.names}
        total = sum(value for found in rows.values() for key, value in found.items() if key.startswith("account"))
        wrong = []
        if total != START * ACCOUNTS * len(self.names):
            wrong.append(f"the accounts hold {total} together, not {START * ACCOUNTS * len(self.names)}")
        for operation in self.operations:
            wrong += self._check(operation, [name for name in self.names if f"mark {operation.name}" in rows[name]])
        return wrong

    @staticmethod
    def _check(operation: Operation, found: list[str]) -> list[str]:
        if found and found != operation.detail:
            return [f"{operation!r} is committed only in {found}"]
        if operation.known is Known.OK and found != operation.detail:
            return [f"{operation!r}: its client was told that it is committed, and it is lost"]
        if operation.known is Known.FAILED and found:
            return [f"{operation!r}: its client was told that it failed ({operation.why}), and it is committed"]
        return []
