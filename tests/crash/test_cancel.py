"""The user's task is cancelled, once or again and again, or its `asyncio.timeout` expires: at every step.

Also in the middle of each statement of the user's own. The block must end with CancelledError or TimeoutError; the
transaction is then whole everywhere, and `manager.outcome(id)` tells which way. Not for: faults of databases.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Iterator

import pytest

from syncpoint.steps import Step
from tests.crash.async_plays import SCENES, AsyncScene, Player
from tests.crash.budget import some
from tests.crash.faults import Stop, Striker, Tally, Theatre, quiet

WAYS = ("cancel", "cancel again", "timeout")


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    with Theatre.opened() as theatre:
        yield theatre


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
