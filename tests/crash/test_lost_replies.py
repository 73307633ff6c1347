"""The reply of every statement is lost; or the statement itself; or it arrives after its client has given up (O43).

Every scene is played once to list its steps, and then once for each of them and each way to lose it. Afterwards one
recovery must leave nothing in doubt, no lock, and every transfer whole, as its caller was told. SQLite has no wire:
there the step is performed, and reported as failed. Not for: cancellation (test_cancel.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import apsw
import pytest

from syncpoint.steps import Done, Failed, Step
from tests.crash.faults import Played, Stop, Striker, Tally, Theatre, quiet
from tests.crash.harness import Zygote, _drop_schemas
from tests.crash.scenes import Scene, load
from tests.crash.world import AUDIT, World

WAYS = ("lose_reply", "lose_request", "hold_request")

SETUP = frozenset(("open", "close", "inspect", "contact", "_introduce", "evidence_attempts", "drop_evidence"))
"""Statements that are the same in every scene: they are lost in these scenes only."""
SETUP_SCENES = frozenset(("evidence_is_cleaned", "first_contact", "recover_decided"))
TIMES_MAX = 2
"""A statement that a scene repeats is lost the first and the second time."""

# Without the scenes in which no statement goes to a server.
SCENES = sorted(
    scene.name
    for scene in load().values()
    if scene.is_tried and not scene.name.startswith(("memory_", "journal_", "file_"))
)


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    with Theatre.opened() as theatre:
        yield theatre


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.mark.parametrize("name", SCENES)
def test_losing_any_reply_tears_nothing(
    name: str, theatre: Theatre, zygote: Zygote, record_property: Callable[[str, object], None]
) -> None:
    scene = load()[name]
    tally = Tally("statements lost", theatre, record_property)
    with quiet():
        recorded = play(theatre, zygote, scene, Striker())
        assert not recorded.error, recorded.error
        for stop in recorded.stops:
            for way in ways_of(scene, stop):
                with tally.attempt(f"{way} at {stop}"):
                    struck = lose(theatre, zygote, scene, stop, way)
                    if struck:
                        tally.points.add(stop.place)
    tally.finish()


def ways_of(scene: Scene, stop: Stop) -> tuple[str, ...]:
    if (stop.function in SETUP and scene.name not in SETUP_SCENES) or stop.nth > TIMES_MAX:
        return ()
    if stop.resource == AUDIT:
        return ("lose_reply",)
    if stop.kind != "Call" or not stop.resource:
        return ()
    return WAYS


def lose(theatre: Theatre, zygote: Zygote, scene: Scene, stop: Stop, way: str) -> bool:
    def strike(stop: Stop, step: Step | None) -> None:
        if stop.resource in theatre.proxies:
            getattr(theatre.proxies[stop.resource], way)()

    def lift(stop: Stop, outcome: Done[Any] | Failed) -> Failed | None:
        if stop.resource in theatre.proxies:
            theatre.proxies[stop.resource].disarm()
            return None
        return Failed(apsw.IOError(f"lost, as this test wants it; it was {outcome!r}"))

    return play(theatre, zygote, scene, Striker(stop, strike, lift)).struck


def play(theatre: Theatre, zygote: Zygote, scene: Scene, striker: Striker) -> Played:
    return theatre.play(scene, striker, partial(leave_behind, zygote, scene))


def leave_behind(zygote: Zygote, scene: Scene, world: World, name: str) -> Mapping[str, str]:
    told = {}
    for left in scene.left:
        said = zygote.run(world, left.scene, name + left.transfer, left.target)
        assert said.killed, f"{left.scene} did not die {left.target}"
        told[name + left.transfer] = left.outcome
    if scene.fresh:
        _drop_schemas(world)
    if scene.left:
        zygote.let_go()
    return told
