"""Scenes of a journal in a database: decisions that are lost, late or locked out, processes that are taken for dead.

Not for: what a journal in a folder does differently (scenes_recovery.py), or what is the same with both.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from syncpoint.errors import AlreadyCommitted, ConnectionLost, SyncpointError
from syncpoint.ids import Key
from syncpoint.journal.database import DatabaseJournal
from syncpoint.manager import deciding
from syncpoint.manager.sync import TransactionManager
from syncpoint.records import Abort, key_fields
from syncpoint.steps import Failed
from syncpoint.testing.servers.base import wait_until
from tests.crash.journals import ADDED, APART, IN_LEDGER
from tests.crash.run import Run
from tests.crash.scenes import Left, scene
from tests.crash.scenes_recovery import ALL_DONE, VOTES
from tests.crash.trap import Target
from tests.crash.world import ALL, BANK, LEDGER

DECISIONS = ("decision and COMMIT", "decide and XA COMMIT ONE PHASE", "journal: force a Commit record")
"""Whichever it is with this journal."""
ABORT = "journal: force an Abort record"
ALWAYS = 1000
"""A packet that may be repeated is sent again on every idle connection and on some fresh ones, then it is given up."""


def journal_of(manager: TransactionManager) -> DatabaseJournal:
    journal = manager._core.journal
    assert isinstance(journal, DatabaseJournal)
    return journal


def lose(_: object = None) -> None:
    raise ConnectionLost("The connection was lost, as this scene wants it.")


def lost(outcome: Any) -> Failed:
    return Failed(ConnectionLost(f"The reply was lost, as this scene wants it; it was {outcome!r}."))


def before_the_decision(run: Run, meddler: Callable[[], Any]) -> None:
    """Whatever it is: only one of these comes in a run."""
    for what in DECISIONS:
        run.trap.before(what, meddler)


def being_decided(manager: TransactionManager) -> Key:
    (key,) = manager._core.live
    return key


# --- the decision's reply -----------------------------------------------------------------------------------------


@scene(journals=ADDED, user_id=True)
def decision_reply_lost(run: Run) -> None:
    """It was taken: found out by writing Abort, which is refused (O46)."""
    for what in DECISIONS:
        run.trap.after(what, lost)
    run.transfer(run.manager(), id=run.name)


@scene(journals=ADDED, user_id=True)
def decision_never_arrived(run: Run) -> None:
    """Abort is taken (O46); nobody had taken this process for dead meanwhile, so it is aborted."""
    before_the_decision(run, lose)
    run.transfer(run.manager(), id=run.name)


@scene(journals=ADDED, user_id=True)
def journal_is_silent_for_a_moment(run: Run) -> None:
    """Neither decision nor Abort is answered; then it is."""
    before_the_decision(run, lose)
    run.trap.before(ABORT, *[lose] * 8)
    run.transfer(run.manager(), id=run.name)


@scene(journals=ADDED, user_id=True)
def journal_is_silent(run: Run) -> None:
    """The caller is told that nobody knows; recovery finds out."""
    manager = run.manager()
    for what in DECISIONS:
        run.trap.after(what, lost)
    run.trap.before(ABORT, *[lose] * ALWAYS)
    with mock.patch.object(deciding, "SETTLE_S_MAX", 0.05):
        run.transfer(manager, id=run.name)
    run.trap.no_more_before(ABORT)
    manager.recover(wait_seconds=10.0)


@scene(journals=ADDED, user_id=True)
def decision_comes_too_late(run: Run) -> None:
    """An Abort of the same attempt was first: whoever comes second obeys (O47)."""
    manager = run.manager()
    journal = journal_of(manager)

    def abort_it() -> None:
        manager._runner.run(journal.force((Abort(**key_fields(being_decided(manager))),)))

    before_the_decision(run, abort_it)
    run.transfer(manager, id=run.name)


@scene(journals=ADDED, user_id=True)
def abort_waits_for_an_open_record(run: Run) -> None:
    """Whoever is stuck behind an INSERT that is still open decides nothing, and tries again (O47)."""
    manager = run.manager()
    journal, other = journal_of(manager), run.journal_cursor()

    def hold_and_lose() -> None:
        other.execute("BEGIN")
        other.execute(journal._sql.abort(Abort(**key_fields(being_decided(manager)))))
        lose()

    before_the_decision(run, hold_and_lose)
    run.trap.after(ABORT, lambda _: other.execute("ROLLBACK") and None)
    run.transfer(manager, id=run.name)


@scene(journals=(APART,), user_id=True)
def decision_waits_for_a_lock(run: Run) -> None:
    """Somebody holds its incarnation for longer than a statement waits: tried again."""
    manager = run.manager()
    other = run.journal_cursor()

    def hold() -> None:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM syncpoint.incarnation FOR UPDATE")

    before_the_decision(run, hold)
    run.trap.before("sleep", lambda: other.execute("ROLLBACK"))
    run.transfer(manager, id=run.name)


# --- guessing who is dead -----------------------------------------------------------------------------------------


@scene(journals=ADDED, expects={"": ALL, "-again": ALL})
def taken_for_dead(run: Run) -> None:
    """Another process takes over between vote and decision: refused; it goes on under another incarnation (O34)."""
    first, second = run.manager(), run.manager()
    journal, taken = journal_of(first), threading.Event()
    before = journal.incarnation

    def take_over() -> None:
        forget_signs_of(run, before)
        second._runner.run(journal_of(second).look())
        taken.set()

    def has_begun_anew() -> bool:
        journal._living.wanted.set()
        return journal.incarnation != before

    before_the_decision(run, take_over)
    run.transfer(first)
    if taken.is_set():  # what this scene is for may itself be lost
        wait_until(has_begun_anew, "another incarnation")
    second.recover(wait_seconds=10.0)  # else what is still in doubt keeps its locks
    run.transfer(first, name=run.name + "-again")


@scene(journals=ADDED)
def taken_for_dead_while_settling(run: Run) -> None:
    """An Abort that was taken proves nothing to who was taken over: what became of it is another's to say (O54)."""
    first, second = run.manager(), run.manager()

    def take_over() -> None:
        forget_signs_of(run, journal_of(first).incarnation)
        second._runner.run(journal_of(second).look())

    before_the_decision(run, lose)
    run.trap.before("journal: see who keeps us", take_over)
    run.transfer(first)
    second.recover(wait_seconds=10.0)


@scene(journals=(IN_LEDGER,), expects={"": (BANK, LEDGER)})
def rolled_back_by_another(run: Run) -> None:
    """Taken for dead, and its other branch is rolled back already: it must not decide any more (O56)."""
    first, second = run.manager(), run.manager()

    def take_over() -> None:
        forget_signs_of(run, journal_of(first).incarnation)
        second.recover()

    before_the_decision(run, take_over)
    run.transfer(first, (BANK, LEDGER))


@scene(journals=(IN_LEDGER,), expects={"": (BANK, LEDGER)})
def finished_by_another(run: Run) -> None:
    """The reply to its decision was lost, and another has finished it and removed the record: nobody knows here."""
    first, second = run.manager(), run.manager()

    def finish_it(outcome: Any) -> Failed:
        forget_signs_of(run, journal_of(first).incarnation)
        second.recover(wait_seconds=5.0)
        return lost(outcome)

    for what in DECISIONS:
        run.trap.after(what, finish_it)
    run.transfer(first, (BANK, LEDGER))


def forget_signs_of(run: Run, incarnation: int) -> None:
    """As if it had not been heard of for long."""
    with contextlib.closing(run.journal_cursor()) as cursor:
        cursor.execute(f"DELETE FROM syncpoint.heartbeat WHERE incarnation = {incarnation}")


@scene(
    left=(Left("transfer_with_id", Target(what=VOTES, after=True)),),
    journals=ADDED,
    user_id=True,
)
def id_of_the_dead(run: Run) -> None:
    """Its claim goes over to who sends it again (C7)."""
    manager = run.manager()
    manager.recover(wait_seconds=10.0)
    with contextlib.suppress(AlreadyCommitted):
        run.transfer(manager, id=run.name)


# --- what is written later, and removed ---------------------------------------------------------------------------


@scene(journals=ADDED, user_id=True)
def late_rows_are_lost(run: Run) -> None:
    """What could not be written stays noted."""
    manager = run.manager()
    what, lazily, tries = "journal: write what was noted", journal_of(manager)._lazily, []
    run.trap.before(what, *[lambda: lose(tries.append(what))] * ALWAYS)
    run.transfer(manager, id=run.name)
    wait_until(lambda: bool(tries) and lazily._turn.holder is None, "it was given up")
    run.trap.no_more_before(what)


ABORTED_THERE = Left("decision_never_arrived", Target(what="journal: see who keeps us", after=True), transfer="-left")
"""It has died behind its Abort: that, and its claim, is still there."""


@scene(left=(ALL_DONE, ABORTED_THERE), expects={"": ALL, "-left": ALL, "-id": ALL}, journals=ADDED)
def journal_is_cleaned(run: Run) -> None:
    """Results that were kept long enough, Aborts and claims of the dead, the dead themselves."""
    manager = run.manager(journal=f"{run.world.journal}&retention_s=0.000001")
    manager.recover(wait_seconds=10.0)
    run.transfer(manager, name=run.name + "-id", id=run.name + "-id")
    manager.recover(wait_seconds=10.0)
    manager._runner.run(journal_of(manager)._lazily.clean())


# --- set-up ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _administration(run: Run) -> Iterator[tuple[Any, Any, Any]]:
    """A journal's administration, as commands use it: what runs its scripts, it, and a session."""
    from syncpoint.journal.database_admin import DatabaseAdmin
    from syncpoint.journal.urls import database_place

    manager = run.manager(open=False)
    plan = manager._plan
    place = database_place(plan.journal, plan.resources, mode="sync", clock=plan.clock, random=plan.random)
    resource = place.store.resource
    session = manager._runner.run(resource.open())
    yield manager._runner.run, DatabaseAdmin(place.store, plan.random, ""), session
    manager._runner.run(resource.close(session))


@scene(journals=ADDED)
def journal_is_administered(run: Run) -> None:
    """As `init`, `doctor` and `adopt-copy` do it."""
    with _administration(run) as (do, admin, session):
        do(admin.initialise(session))
        do(admin.inspect(session))
        do(admin.adopt(session))
    manager = run.manager()
    run.transfer(manager)
    manager._runner.run(journal_of(manager).transactions())


@scene(journals=(APART,))
def journal_is_locked_while_it_is_opened(run: Run) -> None:
    """Somebody changes its table for longer than a statement waits: tried again."""
    run.manager().close()
    other = run.journal_cursor()
    other.execute("BEGIN")
    other.execute("LOCK TABLE syncpoint.journal")
    run.trap.before("sleep", lambda: other.execute("ROLLBACK"))
    run.transfer(run.manager())


def _back_to_this_format(world: Any) -> None:
    from tests.crash import journals

    with contextlib.suppress(Exception), journals.cursor(world) as cursor:
        cursor.execute("ALTER TABLE syncpoint.journal RENAME COLUMN later TO cluster")


@scene(journals=ADDED, mend=_back_to_this_format)
def journal_is_of_a_later_format(run: Run) -> None:
    """Refused, naming its format, though its columns cannot be read."""
    run.transfer(run.manager())
    run.journal_cursor().execute("ALTER TABLE syncpoint.journal RENAME COLUMN cluster TO later")
    with contextlib.suppress(SyncpointError):
        run.manager()
