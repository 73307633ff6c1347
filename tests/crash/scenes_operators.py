"""Scenes of operators at work, and of outcomes that somebody decided alone."""

from __future__ import annotations

from syncpoint.errors import HeuristicOutcome
from tests.crash.journals import APART, EVERYWHERE, FOLDER, IN_BANK, IN_LEDGER
from tests.crash.run import Run
from tests.crash.scenes import Left, scene
from tests.crash.scenes_recovery import DECIDED, PHASE_TWO, PREPARED
from tests.crash.trap import Target
from tests.crash.world import AUDIT

BANK_PREPARES = (FOLDER, IN_LEDGER, APART)


@scene(left=(DECIDED,), user_id=True, journals=EVERYWHERE)
def operator_looks(run: Run) -> None:
    """Changes nothing."""
    manager = run.manager()
    for branch in manager.in_doubt():
        manager.show(branch.transaction)
    manager.show(run.name)
    manager.outcome(run.name)
    manager.heuristics()
    manager.recover(wait_seconds=10.0)


@scene(left=(DECIDED,), user_id=True, journals=EVERYWHERE)
def operator_commits(run: Run) -> None:
    """Forced as decided: no heuristic."""
    manager = run.manager()
    manager.resolve(run.name, True, "the scene wants it", "the scene")
    manager.recover(wait_seconds=10.0)
    manager.forget(run.name, "the scene")


@scene(left=(PREPARED,), user_id=True, journals=EVERYWHERE)
def operator_aborts(run: Run) -> None:
    """Before anybody has recovered."""
    manager = run.manager()
    manager.resolve(run.name, False, "the scene wants it", "the scene")
    manager.recover(wait_seconds=10.0)


@scene(left=(PREPARED,), is_heuristic=True, journals=(FOLDER, APART))
def operator_commits_undecided(run: Run) -> None:
    """The file's vote died with its process, and nobody holds what would redo it: listed as rolled back."""
    manager = run.manager()
    resolved = {one.resource: one.answer for one in manager.resolve(run.name, True, "the scene wants it", "the scene")}
    assert resolved["bank"] == resolved["ledger"] == "COMMITTED", resolved
    assert resolved["audit"] == "HEURISTIC_ROLLBACK", resolved
    manager.recover(wait_seconds=10.0)
    run.transfer(manager, (AUDIT,), run.name + "-next")  # the file is not kept closed by it
    assert run.world.audit_rows(run.name + "-next") == 1


@scene(left=(DECIDED,), is_heuristic=True, journals=BANK_PREPARES)
def operator_decides_alone(run: Run) -> None:
    """Against the record, at one resource: mixed, and listed until forgotten."""
    manager = run.manager()
    manager.resolve(run.name, False, "the scene wants it", "the scene", "bank")
    manager.recover(wait_seconds=10.0)


@scene(is_heuristic=True, journals=BANK_PREPARES)
def somebody_rolls_back(run: Run) -> None:
    """Between vote and commit a person ends the branch by hand: HEURISTIC_MIXED (O07)."""
    manager = run.manager()
    run.trap.before(run.phase_two(PHASE_TWO), lambda: _roll_back_by_hand(run))
    try:
        run.transfer(manager)
    except HeuristicOutcome:
        run.say(heuristic=True)


@scene(left=(Left("transfer_with_id", Target(what=PHASE_TWO), "committed"),), is_heuristic=True, journals=BANK_PREPARES)
def recovery_finds_it_rolled_back(run: Run) -> None:
    """The same, found by recovery."""
    _roll_back_by_hand(run)
    run.manager().recover(wait_seconds=10.0)


def _roll_back_by_hand(run: Run) -> None:
    bank = run.bank()
    for (gid,) in bank.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
        bank.execute(f"ROLLBACK PREPARED '{gid}'")


@scene(left=(PREPARED,), user_id=True, journals=(FOLDER, IN_BANK, IN_LEDGER))
def operator_adopts(run: Run) -> None:
    """The journal is lost for good: another answers for its branches."""
    elsewhere = run.world.journal + "-other" if run.world.kind == FOLDER else run.world.apart_url
    other = run.manager(journal=elsewhere, resources={}, names=("bank", "ledger"))
    for guid in {branch.coordinator for branch in other.in_doubt() if branch.coordinator}:
        other.adopt(guid, who="the scene")
    other.recover(wait_seconds=10.0)
