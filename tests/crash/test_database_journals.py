"""Faults other than SIGKILL with the journal in a database that takes part: its own packets are lost too (O43, O46).

Replies, requests and late requests; both servers killed and started again; the user's task cancelled: at a third of
what there is, at all of it in a full run (budget.py). Not for: SIGKILL (test_kill.py), or journals in a folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncpoint.journal.database import DatabaseJournal
from syncpoint.journal.statements import Statements
from syncpoint.records import Commit
from syncpoint.steps import Script
from tests.crash import async_plays
from tests.crash.async_plays import Player
from tests.crash.budget import some
from tests.crash.faults import NotReached, Stop, Striker, Tally, Theatre, quiet
from tests.crash.harness import Zygote
from tests.crash.journals import DECIDERS, IN_LEDGER
from tests.crash.scenes import Scene, load
from tests.crash.scenes_recovery import DECIDED, HALF, PREPARED
from tests.crash.statements import write_found
from tests.crash.test_cancel import WAYS as CANCELS
from tests.crash.test_cancel import cancel, recover
from tests.crash.test_lost_replies import ASYNC_WAYS, SETUP, WAYS, lossy, play
from tests.crash.test_restart import restart_at
from tests.crash.world import ALL, AUDIT

Record = Callable[[str, object], None]

LOST_IN = (
    "transfer_with_id",
    "transfer_without_id",
    "one_writes_of_three",
    "first_contact",
    "recover_undecided",
    "recover_decided",
    "recover_half",
    "evidence_is_cleaned",
    "decision_reply_lost",
    "decision_never_arrived",
    "decision_comes_too_late",
    "journal_is_silent",
    "taken_for_dead",
    "taken_for_dead_while_settling",
    "id_of_the_dead",
    "journal_is_cleaned",
    "journal_is_administered",
)
RESTARTED_IN = ("transfer_with_id", "recover_decided", "decision_never_arrived")
CANCELLED_IN = ("with_id", "without_id", "answered_when_decided", "one_of_three", "two_of_three", "gives_up")
LEFT = (PREPARED, DECIDED, HALF)

SETUP_SCENES = frozenset(("first_contact", "recover_decided", "evidence_is_cleaned"))
SETUP_OF_JOURNAL = SETUP | {"read_head", "_begin", "_draw", "_learn", "highest_incarnation", "leave", "_refuse_lies"}
SLOW = frozenset((("taken_for_dead", "hold_request"), ("journal_is_cleaned", "hold_request")))
"""What is held back keeps its locks, and the scene goes on with the same rows."""
ONCE = frozenset(("initialise", "make_tables"))
TIMES_MAX = 2


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    with Theatre.opened() as theatre:
        yield theatre


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(params=DECIDERS)
def kind(request: pytest.FixtureRequest, theatre: Theatre) -> str:
    """Where the journal is in this test."""
    theatre.kind = request.param
    return theatre.kind


def of_interest(scene: Scene, stops: list[Stop]) -> list[Stop]:
    """What is the same in every scene is tried in a few; what comes once in a database's life, where it is made to."""
    left_out = (set() if scene.name in SETUP_SCENES else SETUP_OF_JOURNAL) | (set() if scene.fresh else ONCE)
    return [stop for stop in stops if stop.nth <= TIMES_MAX and stop.function not in left_out]


def is_steady(stop: Stop) -> bool:
    """How many connections the journal opens depends on what its background has in use just then; and whether evidence
    goes in this pass or the next, on which of the resources' passes, side by side, was the last to finish."""
    return not stop.in_background and stop.function not in ("open", "drop_evidence")


@pytest.mark.usefixtures("compared_with_the_source")
@pytest.mark.parametrize("name", LOST_IN)
def test_losing_any_reply_with_the_journal_in_a_database_tears_nothing(
    name: str, kind: str, theatre: Theatre, zygote: Zygote, shared_folder: Path, record_property: Record
) -> None:
    """O43 O46: the journal's packets as well as the resources' statements. The decision's reply is always lost."""
    scene = load()[name]
    tally = Tally(f"statements lost, journal in {kind}", theatre, record_property)
    try:
        with quiet():
            recorded = play(theatre, zygote, scene, Striker())
            assert not recorded.error, recorded.error
            stops = [stop for stop in of_interest(scene, recorded.stops) if stop.resource in ALL]
            faults = [(stop, way) for stop in stops for way in ways_of(stop) if (name, way) not in SLOW]
            assert any(stop.server for stop in stops), "no packet of the journal's"
            decisions = [(stop, "lose_reply") for stop in stops if stop.function == "decide"]
            for stop, way in dict.fromkeys((*some(faults), *decisions)):
                with tally.attempt(f"{way} at {stop}"):
                    if play(theatre, zygote, scene, lossy(theatre, stop, way)).struck:
                        tally.points.add(stop.place)
    finally:
        write_found(shared_folder, f"{kind}-{name}", tally.points)
    tally.finish()


def ways_of(stop: Stop) -> tuple[str, ...]:
    if stop.resource == AUDIT:
        return WAYS[:1]
    return WAYS if stop.kind == "Call" else ()


@pytest.mark.parametrize("name", CANCELLED_IN)
def test_losing_any_reply_tears_nothing_on_the_event_loop(
    name: str, kind: str, theatre: Theatre, record_property: Record
) -> None:
    scene, player = async_plays.SCENES[name], Player(theatre)
    tally = Tally(f"statements lost, journal in {kind}", theatre, record_property)
    with quiet():
        stops = [stop for stop in player.play(scene, Striker(), through_proxies=True).stops if ways_of(stop)]
        for stop in some(stops):
            for way in ASYNC_WAYS:
                with tally.attempt(f"{way} at {stop}"):
                    player.play(scene, lossy(theatre, stop, way), through_proxies=True)
    tally.finish()


@pytest.mark.parametrize("name", RESTARTED_IN)
def test_restarting_a_database_anywhere_tears_nothing(
    name: str, kind: str, theatre: Theatre, zygote: Zygote, record_property: Record
) -> None:
    """The one that the journal is in too."""
    scene = load()[name]
    tally = Tally(f"databases restarted, journal in {kind}", theatre, record_property)
    with quiet():
        stops = [stop for stop in of_interest(scene, play(theatre, zygote, scene, Striker()).stops) if stop.nth == 1]
        for stop in some(stops):
            with tally.attempt(f"restart at {stop}"), contextlib.suppress(*() if is_steady(stop) else (NotReached,)):
                restart_at(theatre, zygote, scene, stop)
                tally.points.add(stop.place)
    tally.finish()


@pytest.mark.parametrize("way", CANCELS)
@pytest.mark.parametrize("name", CANCELLED_IN)
def test_cancelling_at_any_step_tears_nothing(
    name: str, way: str, kind: str, theatre: Theatre, record_property: Record
) -> None:
    scene, player = async_plays.SCENES[name], Player(theatre)
    what = "timed out" if way == "timeout" else "cancelled"
    tally = Tally(f"{what}, journal in {kind}", theatre, record_property)
    with quiet():
        stops = [stop for stop in player.play(scene, Striker()).stops if is_steady(stop)]
        for stop in some(stops):
            with tally.attempt(f"{way} at {stop}"):
                cancel(player, scene, stop, way)
    tally.finish()


@pytest.mark.parametrize("left", LEFT, ids=lambda left: f"{left.outcome}-{left.target.what[:16]}")
def test_cancelling_recovery_at_any_step_tears_nothing(
    left: object, kind: str, theatre: Theatre, zygote: Zygote, record_property: Record
) -> None:
    """And taking over."""
    tally = Tally(f"cancelled, journal in {kind}", theatre, record_property)
    with quiet():
        stops = [stop for stop in recover(theatre, zygote, left, None) if is_steady(stop)]
        for stop in some(stops):
            with tally.attempt(f"cancel at {stop}"):
                recover(theatre, zygote, left, stop)
    tally.finish()


# --- this suite sees it -----------------------------------------------------------------------------------------------


def test_a_planted_bug_is_found_who_believes_an_abort_without_asking_who_keeps_him(
    theatre: Theatre, zygote: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper has finished the transaction and removed its record: an Abort is taken then, and proves nothing."""

    def confirm(self: DatabaseJournal, incarnation: int) -> Script[bool]:
        return True
        yield from ()

    with monkeypatch.context() as planted:
        planted.setattr(DatabaseJournal, "confirm", confirm)
        with pytest.raises(AssertionError, match="told aborted, but committed"):
            _play(theatre, zygote, "finished_by_another")
    _play(theatre, zygote, "finished_by_another")


def test_a_planted_bug_is_found_who_was_taken_for_dead_decides(
    theatre: Theatre, zygote: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Commit that is let in without its incarnation's row: the others' branches are rolled back by then (O54)."""

    def let_in(self: Statements, record: Commit) -> str:
        own, once = str(record.key.attempt.incarnation), self._words.raw(record.transaction)
        return self._insert_record(record, own, once, kept=record.user_id is not None)

    with monkeypatch.context() as planted:
        planted.setattr(Statements, "commit", let_in)
        with pytest.raises(AssertionError, match="HEURISTIC_ROLLBACK"):
            _play(theatre, zygote, "rolled_back_by_another")
    theatre.mop_up()
    _play(theatre, zygote, "rolled_back_by_another")


def _play(theatre: Theatre, zygote: Zygote, name: str) -> None:
    theatre.kind = IN_LEDGER
    with quiet():
        assert not play(theatre, zygote, load()[name], Striker()).error
