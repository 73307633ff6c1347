"""A workload: setup, start, check. Its clients run as long as faults come; then everything must settle.

What is checked is what can be seen from outside: the rows in the databases, and what clients were told.
Not for: faults, or running a seed (run.py).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import msgspec

from syncpoint.resources.memory_server import MemoryServer
from syncpoint.simulation.client import Body, Known, Reply, transact
from syncpoint.simulation.host import Application
from syncpoint.simulation.world import World
from syncpoint.steps import Script, Sleep
from syncpoint.testing import checkers

PAUSE_S = (0.05, 1.2)


class Database(Protocol):
    """What holds rows: a server, or a resource manager's data."""

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> MemoryServer: ...


_OUTCOMES = {
    Known.OK: checkers.Outcome.OK,
    Known.FAILED: checkers.Outcome.FAIL,
    Known.UNKNOWN: checkers.Outcome.INDETERMINATE,
}


class Operation:
    """One transaction that a client asked for. Without an end its client has died: nobody knows. `actions`: what it
    did, as far as it came, for the checkers."""

    __slots__ = ("actions", "again", "began_s", "client", "detail", "ended_s", "known", "name", "value", "why")

    def __init__(self, name: str, client: str, began_s: float, detail: Any) -> None:
        self.actions: list[Any] = []
        self.name = name
        self.client = client
        self.began_s = began_s
        self.detail = detail
        self.ended_s: float | None = None
        self.known = Known.UNKNOWN
        self.value: Any = None
        self.why = ""
        self.again = False

    def __repr__(self) -> str:
        return f"<Operation {self.name} of {self.client} {self.known.name} {self.detail!r}>"


class Workload(ABC):
    """`names`: the databases it needs; `is_over`: clients begin nothing any more."""

    name: ClassVar[str]
    names: tuple[str, ...] = ("bank", "ledger")

    def __init__(self, world: World, databases: Mapping[str, Database]) -> None:
        self.world = world
        self.databases = databases
        self.is_over = False
        self.operations: list[Operation] = []
        self.running = 0
        """Transactions under way in processes that live."""

    @abstractmethod
    def setup(self) -> None:
        """Put the first rows into the databases."""

    @abstractmethod
    def act(self, application: Application, client: str, chance: random.Random) -> Script[None]:
        """What a client does once, then again and again."""

    @abstractmethod
    def check(self) -> list[str]:
        """After everything has settled: what is wrong, one sentence each."""

    def history(self, settled: Sequence[Any] = ()) -> checkers.History:
        """What clients saw, and last what was seen from outside when all had settled."""
        operations = [
            checkers.Operation(
                id=one.name,
                process=one.client,
                invoked_at=int(one.began_s * 1e9),
                completed_at=None if one.ended_s is None else int(one.ended_s * 1e9),
                outcome=_OUTCOMES[one.known] if one.ended_s is not None else checkers.Outcome.INDETERMINATE,
                actions=tuple(one.actions),
            )
            for one in self.operations
        ]
        now = int(self.world.now_s * 1e9)
        last = checkers.Operation(
            id="afterwards",
            process="outside",
            invoked_at=now,
            completed_at=now,
            outcome=checkers.Outcome.OK,
            settled=True,
            actions=tuple(settled),
        )
        return checkers.History.of([*operations, last])

    # --- for workloads -------------------------------------------------------------------------------------------

    def client(self, application: Application, number: int) -> Script[None]:
        """A client of one process, as long as that lives and faults come."""
        assert application.process is not None
        name = f"{application.process.name}:{number}"
        chance = self.world.stream(f"client {name}")
        while not self.is_over and application.is_serving:
            yield from self.act(application, name, chance)
            yield Sleep(chance.uniform(*PAUSE_S))

    def run(
        self,
        application: Application,
        client: str,
        body: Body,
        detail: Any,
        *,
        user_id: str | None = None,
        wait_applied: bool = True,
        name: str = "",
        actions: list[Any] | None = None,
    ) -> Script[Operation]:
        """One transaction, written down with what its client knows of it. `body` may add to `actions` on its way."""
        operation = Operation(name or f"t{len(self.operations)}", client, self.world.now_s, detail)
        if actions is not None:
            operation.actions = actions
        self.operations.append(operation)
        self.world.note(client, f"begins {operation.name}")
        reply: Reply = yield from transact(
            application, body, name=operation.name, user_id=user_id, wait_applied=wait_applied
        )
        operation.ended_s = self.world.now_s
        operation.known, operation.value, operation.why = reply.known, reply.value, reply.why
        operation.again = reply.again
        self.world.note(client, f"{operation.name} is {reply.known.name}")
        self.world.count(f"transactions {reply.known.name.lower()}")
        return operation

    def rows(self, database: str) -> dict[str, Any]:
        """What is committed there, seen from outside."""
        return {key: msgspec.json.decode(raw) for key, raw in self.databases[database].engine.rows().items()}

    def write(self, database: str, key: str, value: Any) -> None:
        """For `setup`: a row, before anything has begun."""
        self.databases[database].engine._rows[key] = msgspec.json.encode(value)
