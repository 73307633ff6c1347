"""The reply of every statement is lost; or the statement itself; or it arrives after its client has given up (O43).

Every scene is played once to list its steps, and then once for each of them and each way to lose it. Afterwards one
recovery must leave nothing in doubt, no lock, and every transfer whole, as its caller was told. SQLite has no wire:
there the step is performed, and reported as failed. Not for: cancellation (test_cancel.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from syncpoint.manager.branch import Branch
from syncpoint.protocol.words import Answer
from syncpoint.steps import Done, Failed, Script, Step
from tests.crash import async_plays, journals
from tests.crash.budget import is_one_of_some, some
from tests.crash.faults import Played, Stop, Striker, Tally, Theatre, quiet
from tests.crash.harness import Zygote, _drop_schemas
from tests.crash.scenes import Scene, load
from tests.crash.statements import SCENES, write_found
from tests.crash.world import ALL, AUDIT, BANK, World

ASYNC_WAYS = ("lose_reply", "hold_request")
WAYS = ("lose_reply", "lose_request", "hold_request")

SETUP = frozenset(("open", "close", "inspect", "contact", "_introduce", "evidence_attempts", "drop_evidence"))
"""Statements that are the same in every scene: they are lost in these scenes only."""
SETUP_SCENES = frozenset(("evidence_is_cleaned", "first_contact", "recover_decided"))
SLOW_SCENES = frozenset(("waits_in_vain", "operator_looks", "idle_connections_die"))
"""They wait for seconds: of each statement only the first reply is lost."""
TIMES_MAX = 2
"""A statement that a scene repeats is lost the first and the second time."""


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    with Theatre.opened() as theatre:
        yield theatre


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.mark.usefixtures("compared_with_the_source")
@pytest.mark.parametrize("name", SCENES)
def test_losing_any_reply_tears_nothing(
    name: str,
    theatre: Theatre,
    zygote: Zygote,
    shared_folder: Path,
    record_property: Callable[[str, object], None],
) -> None:
    scene = load()[name]
    tally = Tally("statements lost", theatre, record_property)
    try:
        with quiet():
            recorded = play(theatre, zygote, scene, Striker())
            assert not recorded.error, recorded.error
            for number, stop in enumerate(recorded.stops):
                for way in ways_of(scene, stop):
                    if way == "lose_reply" or is_one_of_some(number):
                        with tally.attempt(f"{way} at {stop}"):
                            if play(theatre, zygote, scene, lossy(theatre, stop, way)).struck:
                                tally.points.add(stop.place)
    finally:
        write_found(shared_folder, name, tally.points)
    tally.finish()


@pytest.mark.parametrize("name", sorted(async_plays.SCENES))
def test_losing_any_reply_tears_nothing_on_the_event_loop(
    name: str, theatre: Theatre, record_property: Callable[[str, object], None]
) -> None:
    scene, player = async_plays.SCENES[name], async_plays.Player(theatre)
    tally = Tally("statements lost", theatre, record_property)
    with quiet():
        for stop in some(player.play(scene, Striker(), through_proxies=True).stops):
            for way in ASYNC_WAYS if stop.kind == "Call" or stop.resource == AUDIT else ():
                with tally.attempt(f"{way} at {stop}"):
                    player.play(scene, lossy(theatre, stop, way), through_proxies=True)
    tally.finish()


def test_a_planted_bug_is_found(theatre: Theatre, zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that takes a lost COMMIT PREPARED for done leaves a transfer torn, and this suite sees it.

    One without an id: the record of one with an id is kept, and recovery would still finish it by that.
    """

    def believe(self: Branch, *, commit: bool) -> Script[Answer]:
        try:
            return (yield from honest(self, commit=commit))
        except Exception:
            return Answer.COMMITTED

    def honest(self: Branch, *, commit: bool) -> Script[Answer]:
        assert self.session is not None
        resource = self.handle.resource
        return (yield from resource.commit(self.session) if commit else resource.abort(self.session))

    scene = load()["transfer_without_id"]
    with quiet():
        stops = play(theatre, zygote, scene, Striker()).stops
        told = next(stop for stop in stops if stop.resource == BANK and stop.function == "finish_by_gid")
        with monkeypatch.context() as planted:
            planted.setattr(Branch, "_on_own_session", believe)
            with pytest.raises(AssertionError, match="torn"):
                play(theatre, zygote, scene, lossy(theatre, told, "lose_request"))
        theatre.mop_up()
        assert play(theatre, zygote, scene, lossy(theatre, told, "lose_request")).struck


def ways_of(scene: Scene, stop: Stop) -> tuple[str, ...]:
    """The ways to lose it there: none for what is no statement."""
    if stop.resource not in ALL or (stop.resource != AUDIT and stop.kind != "Call"):
        return ()
    if (stop.function in SETUP and scene.name not in SETUP_SCENES) or stop.nth > TIMES_MAX:
        return ()
    if scene.name in SLOW_SCENES:
        return WAYS[:1] if stop.nth == 1 else ()
    return WAYS[:1] if stop.resource == AUDIT else WAYS


def lossy(theatre: Theatre, at: Stop, way: str) -> Striker:
    """Strikes by arming the proxy of the server that the step goes to; without a wire, by replacing the outcome."""

    def strike(stop: Stop, step: Step | None) -> None:
        if stop.resource in theatre.proxies:
            getattr(theatre.proxies[stop.resource], way)()

    def lift(stop: Stop, outcome: Done[Any] | Failed) -> Failed | None:
        if stop.resource in theatre.proxies:
            theatre.proxies[stop.resource].disarm()
            return None
        return Failed(apsw.IOError(f"lost, as this test wants it; it was {outcome!r}"))

    return Striker(at, strike, lift)


def play(theatre: Theatre, zygote: Zygote, scene: Scene, striker: Striker) -> Played:
    let_go = zygote.let_go if scene.left else lambda: None
    return theatre.play(scene, striker, partial(leave_behind, zygote, scene), let_go)


def leave_behind(zygote: Zygote, scene: Scene, world: World, name: str) -> Mapping[str, str]:
    told = {}
    for left in scene.left:
        said = zygote.run(world, left.scene, name + left.transfer, left.target_in(world))
        assert said.killed, f"{left.scene} did not die {left.target}"
        journals.let_time_pass(world)
        told[name + left.transfer] = left.outcome
    if scene.fresh:
        _drop_schemas(world)
    return told
