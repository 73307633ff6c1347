"""A database is killed and started again right before every step: what it had not forced is gone, its sessions too.

Before a statement it is the server that the statement goes to; before a step of the journal, the manager or SQLite it
is both servers at once. Recovery is restarted under as well. Not for: promoted replicas, power cuts of our own disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from syncpoint.steps import Step
from tests.crash.faults import NotReached, Stop, Striker, Tally, Theatre, quiet
from tests.crash.harness import Zygote
from tests.crash.scenes import Scene, load
from tests.crash.test_lost_replies import SETUP, play
from tests.crash.world import BANK, LEDGER

SCENES = (
    "first_contact",
    "transfer_with_id",
    "one_phase",
    "recover_undecided",
    "recover_decided",
    "recover_half",
    "one_writes_of_three",
    "nested",
    "gives_up",
    "evidence_is_cleaned",
)
WHOLLY = frozenset(("transfer_with_id", "one_phase", "recover_undecided", "recover_decided", "recover_half"))
"""Scenes in which every step is tried, but for what is the same in all; the others only where they are the first."""
TIMES_MAX = 2


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    with Theatre.opened() as theatre:
        yield theatre


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="module")
def plan(theatre: Theatre, zygote: Zygote) -> dict[str, list[Stop]]:
    """Scene -> where a restart is tried in it: every process that runs these tests comes to the same."""
    planned: dict[str, list[Stop]] = {}
    taken: set[tuple[str, int]] = set()
    with quiet():
        for name in SCENES:
            stops = play(theatre, zygote, load()[name], Striker()).stops
            planned[name] = [stop for stop in stops if stop.place not in taken and stop.nth == 1]
            if name in WHOLLY:
                planned[name] = [stop for stop in stops if stop.nth <= TIMES_MAX and stop.function not in SETUP]
            taken.update(stop.place for stop in stops)
    return planned


@pytest.mark.parametrize("name", SCENES)
def test_restarting_a_database_anywhere_tears_nothing(
    name: str,
    theatre: Theatre,
    zygote: Zygote,
    plan: dict[str, list[Stop]],
    record_property: Callable[[str, object], None],
) -> None:
    scene = load()[name]
    tally = Tally("databases restarted", theatre, record_property)
    with quiet():
        for stop in plan[name]:
            with tally.attempt(f"restart at {stop}"):
                restart_at(theatre, zygote, scene, stop)
                tally.points.add(stop.place)
    tally.finish()


def restart_at(theatre: Theatre, zygote: Zygote, scene: Scene, stop: Stop) -> None:
    def strike(stop: Stop, step: Step | None) -> None:
        with ThreadPoolExecutor() as side_by_side:
            list(side_by_side.map(lambda restart: restart(), restarts_for(theatre, stop)))
        theatre.auditor.played()

    played = play(theatre, zygote, scene, Striker(stop, strike))
    if not played.struck:
        raise NotReached(f"it was not reached: {played}")


def restarts_for(theatre: Theatre, stop: Stop) -> list[Callable[[], None]]:
    postgres, mariadb = theatre.world.postgres, theatre.world.mariadb
    assert postgres is not None
    assert mariadb is not None

    def restart_postgres() -> None:
        postgres.kill()
        postgres.start()

    def restart_mariadb() -> None:
        mariadb.kill()
        mariadb.start()

    if stop.resource == BANK:
        return [restart_postgres]
    if stop.resource == LEDGER:
        return [restart_mariadb]
    return [restart_postgres, restart_mariadb]
