"""Scenes for the asyncio manager, and how one is played with something happening at one of its steps.

The scenes of the SIGKILL suite are blocking; these are the same transfers as coroutines. What happens is the
tests' business: they get the running task, and are called before each of its steps and statements. Not for:
judging (faults.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from syncpoint.errors import OutcomePending, SyncpointError
from syncpoint.manager.aio import AsyncTransaction, AsyncTransactionManager
from syncpoint.manager.reports import OutcomeState
from tests.crash.faults import Stop, Striker, Theatre, plain_resources, settle
from tests.crash.run import GaveUp
from tests.crash.world import ALL, AUDIT, BANK, LEDGER, World

Act = Callable[["Stage", AsyncTransaction], Awaitable[None]]


@dataclass(frozen=True)
class AsyncScene:
    """One transaction. `where`: the databases that must all have its row, or none."""

    name: str
    act: Act
    where: tuple[str, ...]
    user_id: bool = False
    wait: Any = "applied"


class Stage:
    """What a scene works with: every statement of the user's is a step too."""

    def __init__(self, name: str, manager: AsyncTransactionManager, striker: Striker) -> None:
        self.name = name
        self.manager = manager
        self._striker = striker
        self._statements = 0

    async def transfer(self, tx: AsyncTransaction, where: tuple[str, ...], name: str = "") -> None:
        for resource in where:
            mark = "?" if resource == AUDIT else "%s"
            await self.execute(tx, resource, f"UPDATE account SET balance = balance - {mark} WHERE id = 1", 1)
            insert = f"INSERT INTO transfer (id, amount, number) VALUES ({mark}, {mark}, 1)"
            await self.execute(tx, resource, insert, name or self.name, 1)

    async def read(self, tx: AsyncTransaction, resource: str) -> None:
        await self.execute(tx, resource, "SELECT balance FROM account")

    async def execute(self, tx: AsyncTransaction, resource: str, sql: str, *parameters: Any) -> None:
        connection = await tx.connect(resource)
        self._statements += 1
        self._striker.visit(Stop(f"user/{resource}", self._statements, 1, "Call", "statement"))
        if resource == AUDIT:
            list(connection.execute(sql, parameters))
        elif resource == BANK:
            await connection.execute(sql, parameters)
        else:
            async with connection.cursor() as cursor:
                await cursor.execute(sql, parameters)


# --- the scenes ------------------------------------------------------------------------------------------------------


async def _all(stage: Stage, tx: AsyncTransaction) -> None:
    await stage.transfer(tx, ALL)


async def _bank(stage: Stage, tx: AsyncTransaction) -> None:
    await stage.transfer(tx, (BANK,))


async def _ledger(stage: Stage, tx: AsyncTransaction) -> None:
    await stage.transfer(tx, (LEDGER,))


async def _audit(stage: Stage, tx: AsyncTransaction) -> None:
    await stage.transfer(tx, (AUDIT,))


async def _one_of_three(stage: Stage, tx: AsyncTransaction) -> None:
    await stage.read(tx, LEDGER)
    await stage.read(tx, AUDIT)
    await stage.transfer(tx, (BANK,))


async def _two_of_three(stage: Stage, tx: AsyncTransaction) -> None:
    await stage.read(tx, BANK)
    await stage.transfer(tx, (LEDGER, AUDIT))


async def _nested(stage: Stage, tx: AsyncTransaction) -> None:
    async with stage.manager.transaction():
        await stage.transfer(tx, ALL)
    with contextlib.suppress(GaveUp):
        async with stage.manager.transaction():
            await stage.transfer(tx, ALL, stage.name + "-inner")
            raise GaveUp


async def _votes_no(stage: Stage, tx: AsyncTransaction) -> None:
    await stage.transfer(tx, ALL)
    (await tx.connect(AUDIT)).execute("CREATE TABLE loose (n); INSERT INTO loose VALUES (1)")


async def _gives_up(stage: Stage, tx: AsyncTransaction) -> None:
    await stage.transfer(tx, ALL)
    raise GaveUp


SCENES = {
    scene.name: scene
    for scene in (
        AsyncScene("with_id", _all, ALL, user_id=True),
        AsyncScene("without_id", _all, ALL),
        AsyncScene("answered_when_decided", _all, ALL, user_id=True, wait="decided"),
        AsyncScene("one_phase_bank", _bank, (BANK,)),
        AsyncScene("one_phase_ledger", _ledger, (LEDGER,)),
        AsyncScene("one_phase_audit", _audit, (AUDIT,)),
        AsyncScene("one_of_three", _one_of_three, (BANK,)),
        AsyncScene("two_of_three", _two_of_three, (LEDGER, AUDIT), user_id=True),
        AsyncScene("nested", _nested, ALL),
        AsyncScene("votes_no", _votes_no, ALL, user_id=True),
        AsyncScene("gives_up", _gives_up, ALL),
    )
}


# --- playing ---------------------------------------------------------------------------------------------------------


@dataclass
class AsyncPlayed:
    """How one play ended, judged."""

    stops: list[Stop] = field(default_factory=list)
    """Of the transaction only, without opening and closing the manager."""
    struck: bool = False
    error: BaseException | None = None
    outcome: str = ""


class Player:
    """Plays scenes. `task` and `scope` are of the play under way: what cancels it, and its `asyncio.timeout`."""

    def __init__(self, theatre: Theatre) -> None:
        self.theatre = theatre
        self.task: asyncio.Task[Any] | None = None
        self.scope: asyncio.Timeout | None = None

    def play(self, scene: AsyncScene, striker: Striker, *, through_proxies: bool = False) -> AsyncPlayed:
        """Play, settle, judge."""
        world = self.theatre.again()
        name = f"{scene.name}-{self.theatre.plays}"
        seen = self.theatre.behind_proxies(world) if through_proxies else world
        played, told = asyncio.run(self._play(scene, seen, name, striker))
        played.struck = striker.has_struck
        self.theatre.calm_down()
        state = settle(world, name if scene.user_id else "")
        played.outcome = self.theatre.auditor.audit(world, name, told, scene.where)
        if state is not None:
            is_committed = state is OutcomeState.COMMITTED
            assert is_committed == (played.outcome == "committed"), f"{name}: {played.outcome}, but told {state}"
        return played

    async def _play(self, scene: AsyncScene, world: World, name: str, striker: Striker) -> tuple[AsyncPlayed, str]:
        manager = AsyncTransactionManager(world.journal, plain_resources(world), background=False)
        played = AsyncPlayed()
        striker.watch(manager._runner)
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(manager)
            except SyncpointError as error:  # a fault while it opened
                played.error = error
                return played, "aborted"
            striker.stops.clear()
            begun: list[AsyncTransaction] = []
            self.task = asyncio.create_task(self._body(scene, Stage(name, manager, striker), begun))
            await asyncio.wait((self.task,))
            played.stops = list(striker.stops)
            played.error = asyncio.CancelledError() if self.task.cancelled() else self.task.exception()
            told = await self._ask(scene, manager, name, begun, played.error)
            self.theatre.release()
        return played, told

    async def _body(self, scene: AsyncScene, stage: Stage, begun: list[AsyncTransaction]) -> None:
        async with asyncio.timeout(None) as self.scope:
            user_id = stage.name if scene.user_id else None
            async with stage.manager.transaction(id=user_id, wait=scene.wait) as tx:
                begun.append(tx)
                await scene.act(stage, tx)

    async def _ask(
        self,
        scene: AsyncScene,
        manager: AsyncTransactionManager,
        name: str,
        begun: list[AsyncTransaction],
        error: BaseException | None,
    ) -> str:
        """What the caller knows: from the block's end; after a cancellation, from asking."""
        if error is None:
            return "committed"
        if isinstance(error, OutcomePending):
            return ""
        if not isinstance(error, asyncio.CancelledError | TimeoutError):
            return "aborted"
        if not begun:
            return "aborted"
        told = "committed" if begun[0].is_committed else ""
        if scene.user_id:
            state = (await manager.outcome(name)).state
            while scene.wait == "decided" and state is OutcomeState.RUNNING:  # phase two goes on behind the answer
                state = (await manager.outcome(name)).state
            assert state is not OutcomeState.RUNNING, f"{name} is still running after its block has ended"
            if state is not OutcomeState.PENDING:
                asked = "committed" if state is OutcomeState.COMMITTED else "aborted"
                assert told in ("", asked), f"{name}: the block says {told}, outcome says {asked}"
                told = asked
        return told
