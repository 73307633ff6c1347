"""The user's task is cancelled, once or again and again, or its `asyncio.timeout` expires: at every step.

Also in the middle of each statement of the user's own. The block must end with CancelledError or TimeoutError; the
transaction is then whole everywhere, and `manager.outcome(id)` tells which way. Not for: faults of databases.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Callable, Iterator

import pytest

from syncpoint.manager.aio import AsyncTransactionManager
from syncpoint.steps import Step
from tests.crash import journals
from tests.crash.async_plays import SCENES, AsyncScene, Player
from tests.crash.budget import some
from tests.crash.faults import Stop, Striker, Tally, Theatre, plain_resources, quiet, settle
from tests.crash.harness import Zygote
from tests.crash.scenes import Left
from tests.crash.scenes_recovery import DECIDED, HALF, PREPARED

LEFT = (PREPARED, DECIDED, HALF)
WAYS = ("cancel", "cancel again", "timeout")


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    with Theatre.opened() as theatre:
        yield theatre


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", sorted(SCENES))
def test_cancelling_at_any_step_tears_nothing(
    name: str, way: str, theatre: Theatre, record_property: Callable[[str, object], None]
) -> None:
    scene, player = SCENES[name], Player(theatre)
    tally = Tally("timed out" if way == "timeout" else "cancelled", theatre, record_property)
    with quiet():
        stops = player.play(scene, Striker()).stops
        for stop in some(stops) if way == "cancel again" else stops:
            with tally.attempt(f"{way} at {stop}"):
                cancel(player, scene, stop, way)
                tally.points.add(stop.place)
    tally.finish()


@pytest.mark.parametrize("left", LEFT, ids=lambda left: f"{left.outcome}-{left.target.what[:16]}")
def test_cancelling_recovery_at_any_step_tears_nothing(
    left: Left, theatre: Theatre, zygote: Zygote, record_property: Callable[[str, object], None]
) -> None:
    tally = Tally("cancelled", theatre, record_property)
    with quiet():
        stops = recover(theatre, zygote, left, None)
        for stop in stops:
            with tally.attempt(f"cancel at {stop}"):
                recover(theatre, zygote, left, stop)
    tally.finish()


def recover(theatre: Theatre, zygote: Zygote, left: Left, stop: Stop | None) -> list[Stop]:
    """Open and recover what another process left, cancelled at a step; then settle and judge."""
    world = theatre.again()
    name = f"{left.scene}-{theatre.plays}"
    assert zygote.run(world, left.scene, name, left.target_in(world)).killed
    journals.let_time_pass(world)
    tasks: list[asyncio.Task[None]] = []
    striker = Striker(stop, lambda stop, step: [task.cancel() for task in tasks] and None)

    async def open_and_recover() -> None:
        manager = AsyncTransactionManager(world.journal, plain_resources(world), background=False)
        striker.watch(manager._runner)
        try:
            await manager.open()
            await manager.recover(wait_seconds=5.0)
        finally:
            striker.over = True
            await manager.close()

    async def run() -> None:
        tasks.append(asyncio.create_task(open_and_recover()))
        await asyncio.wait(tasks)
        # Which passes a recovery makes depends on what is in the way: a step may not come again.
        assert tasks[0].cancelled() == striker.has_struck, tasks[0]

    asyncio.run(run())
    settle(world, name)
    theatre.auditor.played()
    theatre.auditor.audit(world, name, left.outcome)
    return list(striker.stops)


def cancel(player: Player, scene: AsyncScene, stop: Stop, way: str) -> None:
    """Play the scene, cancelled right at that step; the step itself is already under way when it notices."""

    def strike(stop: Stop, step: Step | None) -> None:
        assert player.task is not None
        assert player.scope is not None
        if way == "timeout":
            player.scope.reschedule(player.task.get_loop().time())
        else:
            player.task.cancel()

    striker = Striker(stop, strike, again=way == "cancel again")
    played = player.play(scene, striker)
    assert played.struck, "it was not reached"
    if scene.wait == "decided" and played.error is None:
        return  # it came in phase two, when the block had ended
    expected = TimeoutError if way == "timeout" else CancelledError
    assert isinstance(played.error, expected), f"the block ended with {played.error!r}"
