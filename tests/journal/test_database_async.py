"""The same journal on an event loop: the same scripts, another runner; what differs is cancellation.

On PostgreSQL and MariaDB; a selection of the other files' tests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from syncpoint.errors import JournalUncertain
from syncpoint.ids import Key, TransactionId
from syncpoint.journal.base import Verdict
from syncpoint.journal.database import DatabaseJournal
from syncpoint.journal.urls import database_journal
from syncpoint.records import End, key_fields
from syncpoint.runners.aio import AsyncRunner
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing.proxy import FaultProxy
from tests.journal.database_world import CALM, FAST, World, abort, commit, transaction


class Task:
    """One process among those that share the journal, on the event loop."""

    def __init__(self, url: str, **options: Any) -> None:
        given = "&".join(f"{name}={value}" for name, value in {**CALM, **options}.items())
        self.runner = AsyncRunner()
        self.journal: DatabaseJournal = database_journal(
            f"{url}?{given}", {}, mode="async", clock=SystemClock(), random=SystemRandom()
        )

    async def __call__(self, script: Any) -> Any:
        return await self.runner.run(script)

    async def __aenter__(self) -> Task:
        await self(self.journal.open(self.runner))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self(self.journal.close())
        await self.runner.close()

    def key(self) -> Key:
        return Key(TransactionId(SystemRandom().bytes(16)), self.journal.next_attempt())

    async def accepts(self, record: Any) -> bool:
        return bool((await self(self.journal.force([record]))) == (Verdict.ACCEPTED,))


def _run(play: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(play())


async def _until(condition: Callable[[], Awaitable[bool]], seconds_max: float = 20.0) -> None:
    deadline = time.monotonic() + seconds_max
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_first_writer_wins_and_ends(world: World) -> None:
    async def play() -> None:
        async with Task(world.url) as one, Task(world.url) as other:
            keys = [one.key() for _ in range(8)]
            outcomes = await asyncio.gather(
                *(task.accepts(record) for key in keys for task, record in ((one, commit(key)), (other, abort(key))))
            )
            assert [sum(pair) for pair in zip(outcomes[::2], outcomes[1::2], strict=True)] == [1] * 8
            committed = [key for key in keys if ("commit", str(key)) in world.records()]
            assert set((await one(one.journal.look())).decisions) == set(committed)
            one.journal.note([End(**key_fields(key)) for key in committed])
            await one(one.journal.force(()))
            assert {kind for kind, _ in world.records()} <= {"abort"}

    _run(play)


def test_claims(world: World) -> None:
    async def play() -> None:
        async with Task(world.url) as one, Task(world.url) as other:
            answers = await asyncio.gather(*(task(task.journal.claim(transaction(5))) for task in [one, other] * 4))
            assert [answer.mine for answer in answers].count(True) == 1
            for task in (one, other):
                task.journal.release(transaction(5))

            async def free() -> bool:
                return bool((await other(other.journal.claim(transaction(5)))).mine)

            await _until(free)

    _run(play)
    assert world.claims() == []


def test_taken_for_dead_and_goes_on(world: World) -> None:
    async def play() -> None:
        async with Task(world.url, **FAST) as paused, Task(world.url, **FAST) as other:
            old, key = paused.journal.incarnation, paused.key()
            paused.journal._tasks[0].stop()
            got: set[int] = set()

            async def taken() -> bool:
                got.update(await other(other.journal.watch()))
                return old in got

            await _until(taken)
            assert not await paused.accepts(commit(key))
            paused.journal._tasks[0] = paused.runner.spawn(paused.journal._living.give_signs(), "signs")

            async def anew() -> bool:
                return bool(paused.journal.incarnation != old)

            await _until(anew)
            assert await paused.accepts(commit(paused.key()))

    _run(play)
    assert [kind for kind, _ in world.records()] == ["commit"]


async def _lose(one: Task, arm: Callable[[], None]) -> Key:
    """The key of a Commit that was lost; the fault may have struck the first sign of life instead."""
    for _ in range(10):
        key = one.key()
        arm()
        try:
            await one.accepts(commit(key))
        except JournalUncertain:
            return key
    raise AssertionError("no Commit was lost")


@pytest.mark.parametrize("fault", ["lose_reply", "lose_request"])
def test_a_lost_reply_is_settled(world: World, fault: str) -> None:
    async def play() -> None:
        with FaultProxy(world.url) as proxy:
            async with Task(proxy.url(world.url), heartbeat_s=30) as one:
                assert await one.accepts(commit(one.key()))
                key = await _lose(one, getattr(proxy, fault))
                proxy.settle()
                assert await one.accepts(abort(key)) is (fault == "lose_request")

    _run(play)


def test_a_cancelled_force_is_settled_and_its_session_not_used_again(world: World) -> None:
    async def play() -> None:
        async with Task(world.url) as one:
            for number in range(20):
                key = one.key()
                forcing = asyncio.create_task(one.accepts(commit(key)))
                for _ in range(number):
                    await asyncio.sleep(0)
                forcing.cancel()
                done = (await asyncio.gather(forcing, return_exceptions=True))[0]
                won = await _settle(one, key)
                assert [kind for kind, found in world.records() if found == str(key)] == ["abort" if won else "commit"]
                assert not (done is True and won)
            assert await one.accepts(commit(one.key()))

    _run(play)


async def _settle(one: Task, key: Key) -> bool:
    while True:
        try:
            return await one.accepts(abort(key))
        except JournalUncertain:  # behind the cancelled one, which is still being written
            continue


def test_closing_while_a_packet_is_under_way(world: World) -> None:
    async def play() -> None:
        holder = world.another()
        async with Task(world.url, heartbeat_s=0.05) as one:
            holder(world.begin)
            holder(f"UPDATE syncpoint.heartbeat SET beat = beat WHERE incarnation = {one.journal.incarnation}")

            async def stuck() -> bool:
                return world.is_waiting()

            await _until(stuck)
            closing = asyncio.create_task(one(one.journal.close()))
            await asyncio.sleep(0)
            holder("COMMIT")
            await closing

    _run(play)
    assert world.keepers() == {}
