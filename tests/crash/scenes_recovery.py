"""Scenes that begin where another process died: recovery, the next writer, and what recovery cleans away."""

from __future__ import annotations

import json
import threading
from typing import Any

from syncpoint.errors import AlreadyCommitted, ConnectionLost
from syncpoint.protocol.words import Answer, Evidence
from syncpoint.steps import Done, Failed
from syncpoint.testing.servers.base import wait_until
from tests.crash.journals import EVERYWHERE
from tests.crash.run import Run
from tests.crash.scenes import Left, scene
from tests.crash.trap import Target
from tests.crash.world import ALL, AUDIT, BANK, LEDGER, transfer

PHASE_TWO = "COMMIT bank, COMMIT ledger, COMMIT audit"

VOTES = "PREPARE bank, PREPARE ledger, PREPARE audit"
PREPARED = Left("transfer_with_id", Target(what=VOTES, after=True), "aborted")
DECIDED = Left("transfer_with_id", Target(what=PHASE_TWO), "committed")
HALF = Left(
    "transfer_with_id",
    Target(what="COMMIT PREPARED", after=True, hold=("XA COMMIT", "COMMIT")),
    "committed",
    otherwise={BANK: Target(what="XA COMMIT", after=True, hold=("COMMIT",))},
)
ALL_DONE = Left("transfer_with_id", Target(what=PHASE_TWO, after=True), "committed")


def recover(run: Run) -> None:
    report = run.manager().recover(wait_seconds=10.0)
    run.say(report=repr(report))
    assert not report.left, report


@scene(left=(PREPARED,), user_id=True, journals=EVERYWHERE)
def recover_undecided(run: Run) -> None:
    """All have voted, there is no record (O26)."""
    recover(run)


@scene(left=(DECIDED,), user_id=True, journals=EVERYWHERE)
def recover_decided(run: Run) -> None:
    """There is a record, nobody was told (O27)."""
    recover(run)


@scene(left=(HALF,), user_id=True, journals=EVERYWHERE)
def recover_half(run: Run) -> None:
    """One was told (O22)."""
    recover(run)


@scene(left=(ALL_DONE,), user_id=True, journals=EVERYWHERE)
def recover_done(run: Run) -> None:
    """All were told, the record was not ended (O28)."""
    recover(run)


@scene(left=(DECIDED,), user_id=True, journals=EVERYWHERE)
def recover_in_background(run: Run) -> None:
    """As applications do: at start."""
    manager = run.manager(background=True)
    assert not manager.in_doubt()


@scene(user_id=True, journals=EVERYWHERE)
def scans_fail(run: Run) -> None:
    """Half-way is not good enough: nothing is decided, the next clean scan decides (O35)."""
    manager = run.manager()
    run.transfer(manager, id=run.name)
    for what in ("list prepared branches", "XA RECOVER", "scan"):
        run.trap.before(what, _lose, _lose)  # on the idle connection, and on the fresh one that is asked then
    report = manager.recover()
    assert len(report.unreachable) == len(ALL), report
    manager.recover(wait_seconds=10.0)


@scene(left=(DECIDED,), user_id=True, journals=EVERYWHERE)
def file_has_lost_it(run: Run) -> None:
    """Neither the branch nor its evidence is there: redone from its state information."""
    run.trap.after("finish", lambda _: Done(Answer.NOT_FOUND))
    run.trap.after("evidence", lambda _: Done(Evidence.ABSENT))
    recover(run)


# --- the next writer of the file ------------------------------------------------------------------------------


@scene(left=(PREPARED,), expects={"": ALL, "-next": (AUDIT,)}, journals=EVERYWHERE)
def next_writer_drops(run: Run) -> None:
    """Whoever next gets the file's write lock settles what stands noted (DESIGN section 4, rule 9)."""
    run.transfer(run.manager(), (AUDIT,), run.name + "-next")


@scene(left=(DECIDED,), expects={"": ALL, "-next": (AUDIT,)}, journals=EVERYWHERE)
def next_writer_redoes(run: Run) -> None:
    run.transfer(run.manager(), (AUDIT,), run.name + "-next")


@scene(expects={"": ALL, "-next": (AUDIT,)})
def next_writer_waits(run: Run) -> None:
    """The branch that stands noted is of a living process: it is asked again until that one has finished it."""
    first = run.manager()
    second = run.manager()
    run.trap.before("COMMIT", _lose)
    run.trap.before("finish", _lose, _lose)  # on the idle connection, and on a fresh one
    run.transfer(first)

    def finish_it() -> None:
        first.recover(wait_seconds=5.0)

    run.trap.before("sleep", finish_it)
    run.transfer(second, (AUDIT,), run.name + "-next")


def _lose() -> None:
    raise ConnectionLost("The connection was lost, as this scene wants it.")


# --- lost replies -----------------------------------------------------------------------------------------------


def _lost(outcome: Any) -> Failed:
    return Failed(ConnectionLost(f"The reply was lost, as this scene wants it; it was {outcome!r}."))


@scene(expects={"-bank": (BANK,), "-ledger": (LEDGER,), "-audit": (AUDIT,)}, journals=EVERYWHERE)
def one_phase_reply_lost(run: Run) -> None:
    """The evidence decides (O20)."""
    manager = run.manager()
    run.trap.after("evidence and COMMIT", _lost, _lost)
    run.trap.after("XA COMMIT ONE PHASE", _lost)
    for name in ALL:
        run.transfer(manager, (name,), f"{run.name}-{name}")


@scene(expects={"-bank": (BANK,), "-ledger": (LEDGER,), "-audit": (AUDIT,)}, journals=EVERYWHERE)
def one_phase_found_out_later(run: Run) -> None:
    """Asking fails too: recovery finds out."""
    manager = run.manager()
    run.trap.after("evidence and COMMIT", _lost, _lost)
    run.trap.after("XA COMMIT ONE PHASE", _lost)
    run.trap.after("write barring evidence", _lost)
    run.trap.after("settle by the evidence's key", _lost)
    run.trap.after("evidence", _lost)
    for name in ALL:
        run.transfer(manager, (name,), f"{run.name}-{name}")
    manager.recover(wait_seconds=5.0)


@scene(user_id=True, journals=EVERYWHERE)
def replies_lost_in_phase_two(run: Run) -> None:
    """Told, done, and the answer lost: found out at once, on another session (O18, O19)."""
    manager = run.manager()
    for what in ("COMMIT PREPARED", "XA COMMIT", "COMMIT"):
        run.trap.after(what, _lost)
    run.transfer(manager, id=run.name)


@scene(journals=EVERYWHERE)
def replies_lost_in_prepare(run: Run) -> None:
    """Aborted; that branch is rolled back now, or when it reappears (O16)."""
    manager = run.manager()
    for what in ("evidence and PREPARE TRANSACTION", "XA PREPARE", "prepare"):
        run.trap.after(what, _lost)
    run.transfer(manager)
    manager.recover(wait_seconds=5.0)


# --- evidence ---------------------------------------------------------------------------------------------------


@scene(expects={"": ALL, "-two": ALL}, journals=EVERYWHERE)
def evidence_is_cleaned(run: Run) -> None:
    """It goes after its record, in batches."""
    manager = run.manager()
    run.transfer(manager)
    manager.recover()
    run.transfer(manager, name=run.name + "-two")
    manager.recover()


# --- the journal ------------------------------------------------------------------------------------------------


@scene(expects={"": ALL, "-0": (AUDIT,), "-1": (AUDIT,), "-2": (AUDIT,)})
def journal_goes_on_in_a_new_segment(run: Run) -> None:
    """Checkpoints, with undecided and decided work in them."""
    manager = run.manager(open=False)
    manager._core.journal._segment_size_bytes_max = 400  # type: ignore[attr-defined]
    manager.open()
    for number in range(3):
        run.transfer(manager, (AUDIT,), f"{run.name}-{number}", id=f"{run.name}-{number}")
    run.transfer(manager, id=run.name)


@scene(left=(DECIDED,))
def journal_is_busy(run: Run) -> None:
    """Another process is just opening it: it is waited for."""
    manager = run.manager(open=False)
    disk, path = manager._plan.disk, f"{run.world.journal}/lock"
    lock = disk.lock(path)
    assert lock is not None
    run.trap.before("sleep", lock.release)
    manager.open()


# --- connections ------------------------------------------------------------------------------------------------


@scene(expects={"": ALL, "-two": ALL}, journals=EVERYWHERE)
def idle_connections_die(run: Run) -> None:
    """The server has ended them meanwhile: replaced, nothing of ours was on them."""
    manager = run.manager()
    run.transfer(manager)
    run.bank().execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with run.ledger().cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'app' AND db = DATABASE()")
        for (connection,) in cursor.fetchall():
            cursor.execute(f"KILL {connection}")
    run.transfer(manager, name=run.name + "-two")


@scene(expects={"": (BANK,), "-two": (BANK,)})
def waits_for_a_session(run: Run) -> None:
    """All that its resource may have are in use: first come, first served."""
    manager = run.manager(resources={BANK: {"url": run.world.bank_url, "pool_size_max": 1}})
    pool = manager._core.handles[BANK].pool

    def second() -> None:
        run.transfer(manager, (BANK,), run.name + "-two")

    thread = threading.Thread(target=second)
    with run.block(manager) as tx:
        transfer(tx, run.name, (BANK,))
        thread.start()
        wait_until(lambda: bool(pool._line), "another waits")
    thread.join()


@scene(is_tried=False, user_id=True)
def lingering(run: Run) -> None:
    """A transfer whose MariaDB server will not notice that its client has died."""
    manager = run.manager()
    with run.block(manager, id=run.name) as tx:
        transfer(tx, run.name)
        run.leave_open(tx.connect(LEDGER)._sock.fileno())


@scene(left=(Left("lingering", Target(what=PHASE_TWO), "committed"),), user_id=True)
def recover_lingering_decided(run: Run) -> None:
    """Its connection must be ended before anybody else can finish the branch (DATABASES MariaDB 1)."""
    recover(run)


@scene(left=(Left("lingering", Target(what=VOTES, after=True), "aborted"),), user_id=True)
def recover_lingering_undecided(run: Run) -> None:
    """Without a record nobody knows which connection that is: it is left until the server has ended it."""
    report = run.manager().recover()
    run.say(report=repr(report))


# --- what every play ends with ----------------------------------------------------------------------------------


@scene(is_tried=False)
def settle(run: Run) -> None:
    """Recover, and say what is left. `run.name` is JSON: how long to wait for it, in seconds."""
    report = run.manager().recover(wait_seconds=json.loads(run.name))
    run.say(
        left={branch.resource: repr(branch) for branch in report.left} | report.unreachable,
        heuristics=[repr(entry) for entry in report.heuristics],
        report=repr(report),
    )


@scene(is_tried=False)
def send_again(run: Run) -> None:
    """The same id again. `run.name` is JSON: the id, and where it goes."""
    name, where = json.loads(run.name)
    try:
        run.transfer(run.manager(), where, name, id=name)
    except AlreadyCommitted:
        run.say(again=True)
    else:
        run.say(again=False)
