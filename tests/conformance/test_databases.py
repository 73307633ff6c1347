"""Rows about what real databases do (PostgreSQL, MariaDB, SQLite): O16, O19..O21, O33, O42, O43, O48, O53, O58."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

import syncpoint
from syncpoint.ids import TransactionId
from syncpoint.runners.points import StepPoint
from syncpoint.steps import Call, Step
from syncpoint.testing.proxy import FaultProxy
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import ONE_PLACE, VOTERS, opened, raises
from tests.conformance.places import COMMIT, FOLDER, MARIADB, PREPARE, Course, Place
from tests.crash.harness import Stage
from tests.crash.trap import Trap
from tests.crash.world import ALL, AUDIT, BANK, LEDGER, World, transfer

ONE_PHASE = {BANK: "evidence and COMMIT", LEDGER: "XA COMMIT ONE PHASE"}
OVER_THE_WIRE = pytest.mark.parametrize("resource", [BANK, LEDGER])


@dataclasses.dataclass
class Wired:
    """A manager whose connections to the servers go through proxies."""

    world: World
    manager: syncpoint.TransactionManager
    proxies: dict[str, FaultProxy]
    trap: Trap

    def before(self, what: str, do: Callable[[], Any]) -> None:
        self.trap.before(what, do)

    def settle(self) -> None:
        """Whatever is still under way at the servers ends; then recovery must find nothing left."""
        for proxy in self.proxies.values():
            assert proxy.disarm(), "the fault has not struck"
            proxy.release()
            proxy.settle()
        report = self.manager.recover(wait_seconds=20.0)
        assert not report.left, report
        assert not report.heuristics, report


@pytest.fixture
def wired(world: World) -> Iterator[Wired]:
    with contextlib.ExitStack() as stack:
        proxies = {
            BANK: stack.enter_context(FaultProxy(world.bank_url)),
            LEDGER: stack.enter_context(FaultProxy(world.ledger_url)),
        }
        bank, ledger = proxies[BANK].url(world.bank_url), proxies[LEDGER].url(world.ledger_url)
        resources = world.resources() | {BANK: f"{bank}?sslmode=disable", LEDGER: f"{ledger}?ssl=false"}
        manager = stack.enter_context(syncpoint.TransactionManager(world.journal, resources, background=False))
        trap = Trap()
        trap.watch(manager._runner)
        yield Wired(world, manager, proxies, trap)


# --- lost replies ------------------------------------------------------------------------------------------------


@VOTERS
@pytest.mark.parametrize("fault", ["lose_reply", "lose_request"])
def test_o16_prepare_lost_on_the_wire(wired: Wired, name: str, resource: str, fault: str) -> None:
    wired.before(PREPARE[resource], getattr(wired.proxies[resource], fault))
    with raises(syncpoint.TransactionAborted), wired.manager.transaction() as tx:
        transfer(tx, name)
    wired.settle()
    assert wired.world.audit(name, "aborted") == "aborted"


@VOTERS
@pytest.mark.parametrize("fault", ["lose_reply", "lose_request"])
def test_o19_commit_lost_on_the_wire(wired: Wired, name: str, resource: str, fault: str) -> None:
    """Done or not done, the answer is lost; "no such branch" is then told from the evidence."""
    wired.before(COMMIT[resource], getattr(wired.proxies[resource], fault))
    with wired.manager.transaction() as tx:
        transfer(tx, name)
    wired.settle()
    assert wired.world.audit(name, "committed") == "committed"


@pytest.mark.parametrize("place", [FOLDER, MARIADB], indirect=True)  # where bank's branch is prepared
def test_o19_rolled_back_by_hand_is_told_from_the_evidence(wired: Wired, name: str) -> None:
    def roll_back() -> None:
        with wired.world.bank() as bank:
            (gid,) = wired.world.in_doubt()[:1]
            bank.execute(f"ROLLBACK PREPARED '{gid}'")

    wired.before("COMMIT PREPARED", roll_back)
    with raises(syncpoint.HeuristicMixed) as caught, wired.manager.transaction() as tx:
        transfer(tx, name)
    assert caught.value.branches == {BANK: "HEURISTIC_ROLLBACK", LEDGER: "COMMITTED", AUDIT: "COMMITTED"}
    assert wired.world.rows(name) == {BANK: 0, LEDGER: 1, AUDIT: 1}


@ONE_PLACE
@OVER_THE_WIRE
def test_o20_a_one_phase_commit_whose_reply_is_lost_is_committed(wired: Wired, name: str, resource: str) -> None:
    wired.before(ONE_PHASE[resource], wired.proxies[resource].lose_reply)
    with wired.manager.transaction() as tx:
        transfer(tx, name, (resource,))
    wired.settle()
    assert wired.world.audit(name, "committed", (resource,)) == "committed"


@ONE_PLACE
@OVER_THE_WIRE
def test_o20_a_one_phase_commit_that_never_arrives_is_aborted(wired: Wired, name: str, resource: str) -> None:
    wired.before(ONE_PHASE[resource], wired.proxies[resource].lose_request)
    with raises(syncpoint.TransactionAborted), wired.manager.transaction() as tx:
        transfer(tx, name, (resource,))
    wired.settle()
    assert wired.world.audit(name, "aborted", (resource,)) == "aborted"


@ONE_PLACE
@OVER_THE_WIRE
def test_o20_a_one_phase_commit_that_arrives_late_changes_nothing(wired: Wired, name: str, resource: str) -> None:
    """It is held up on its way; the caller was told aborted, and so it stays."""
    wired.before(ONE_PHASE[resource], wired.proxies[resource].hold_request)
    told = (syncpoint.TransactionAborted, syncpoint.OutcomePending)
    with raises(told) as caught, wired.manager.transaction() as tx:
        transfer(tx, name, (resource,))
    wired.settle()
    assert (
        wired.world.audit(name, "aborted" if caught.type is syncpoint.TransactionAborted else "", (resource,))
        == "aborted"
    )


@VOTERS
def test_o42_a_prepare_that_completes_after_recovery_has_looked(wired: Wired, name: str, resource: str) -> None:
    wired.before(PREPARE[resource], wired.proxies[resource].hold_request)
    with raises(syncpoint.TransactionAborted), wired.manager.transaction() as tx:
        transfer(tx, name)
    assert not wired.manager.recover().left
    assert wired.world.rows(name) == dict.fromkeys(ALL, 0)
    wired.proxies[resource].release()  # now the server gets it
    wait_until(lambda: wired.manager.recover() is not None and wired.world.in_doubt() == [], "the next passes end it")
    wired.settle()
    assert wired.world.audit(name, "aborted") == "aborted"


@VOTERS
def test_o48_a_commit_delivered_twice_has_one_effect(wired: Wired, name: str, resource: str) -> None:
    """The first delivery's reply is lost, so it is delivered again: by the caller, and by a later process."""
    wired.before(COMMIT[resource], wired.proxies[resource].lose_reply)
    with wired.manager.transaction(id=name) as tx:
        transfer(tx, name)
    with opened(wired.world) as later:
        assert not later.recover(wait_seconds=10.0).left
    wired.settle()
    assert wired.world.audit(name, "committed") == "committed"


# --- every statement -----------------------------------------------------------------------------------------------


class Cutter:
    """Cuts every connection right before the n-th request to a server that a commit makes."""

    def __init__(self, proxies: dict[str, FaultProxy], nth: int) -> None:
        self.proxies = proxies
        self.left = nth
        self.is_armed = False

    def __call__(self, point: StepPoint, step: Step) -> None:
        if self.is_armed and isinstance(step, Call):
            self.left -= 1
            if self.left == 0:
                for proxy in self.proxies.values():
                    proxy.cut()


@pytest.mark.parametrize("where", [(BANK, LEDGER, AUDIT), (BANK,), (LEDGER,)], ids=lambda where: "+".join(where))
def test_o43_the_connection_dies_at_every_single_statement(wired: Wired, name: str, where: tuple[str, ...]) -> None:
    number = 0
    while True:
        number += 1
        transfer_name = f"{name}-{number}"
        cutter = Cutter(wired.proxies, number)
        wired.manager._runner.observer = cutter
        told = ""
        try:
            with wired.manager.transaction() as tx:
                transfer(tx, transfer_name, where)
                cutter.is_armed = True
            told = "committed"
        except syncpoint.TransactionAborted:
            told = "aborted"
        except syncpoint.OutcomePending:
            pass
        cutter.is_armed = False
        report = wired.manager.recover(wait_seconds=20.0)
        assert not report.left, report
        assert not report.heuristics, report
        wired.world.audit(transfer_name, told, where)
        if cutter.left > 0:
            break
    assert number > 1
    assert told == "committed"  # the last one went undisturbed


# --- failed transactions ----------------------------------------------------------------------------------------


def test_o21_commit_of_a_failed_transaction_is_an_abort(world: World, name: str) -> None:
    """DATABASES PostgreSQL 1, 9: both return normally after rolling back."""
    with opened(world) as manager:
        for where in (ALL, (BANK,)):
            with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
                transfer(tx, name, where)
                with contextlib.suppress(psycopg.Error):
                    tx.connect(BANK).execute("SELECT 1 / 0")
    assert world.audit(name, "aborted") == "aborted"


# --- foreign branches -------------------------------------------------------------------------------------------


@ONE_PLACE
def test_o33_foreign_branches_are_left_alone(world: World) -> None:
    assert world.mariadb is not None
    with world.bank() as bank:
        bank.execute("BEGIN")
        bank.execute("INSERT INTO transfer VALUES ('foreign', 1, 1)")
        bank.execute("PREPARE TRANSACTION 'somebody-else'")
    with closing(world.mariadb.connect(world.ledger_url.rsplit("/", 1)[1])) as ledger, ledger.cursor() as cursor:
        cursor.execute("XA START 'somebody','else'")
        cursor.execute("INSERT INTO transfer VALUES ('foreign', 1, 1)")
        cursor.execute("XA END 'somebody','else'")
        cursor.execute("XA PREPARE 'somebody','else'")
    try:
        with opened(world) as manager:
            report = manager.recover()
            assert report.foreign == 2
            assert {branch.status for branch in manager.in_doubt()} == {"foreign"}
        with world.bank() as bank:
            (count,) = bank.execute("SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'somebody%'").fetchall()
            assert count == (1,)
        assert len(world.mariadb.prepared()) == 1
    finally:
        world.sweep()


# --- older copies of the journal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", ALL)
def test_o53_a_journal_restored_from_an_older_copy_is_refused(world: World, place: Place, resource: str) -> None:
    def start() -> None:
        opened(world, (resource,)).close()

    start()
    restore = place.at(world).back_up(world.journal)
    start()
    start()
    restore()
    if resource == place.home:
        start()  # the only witness was restored with it: nobody can tell
        return
    with raises(syncpoint.JournalRefused, match="older copy"):
        start()


def test_o53_a_refused_copy_stays_refused_however_often_it_is_started(world: World, place: Place) -> None:
    witness = LEDGER if place.home == BANK else BANK
    opened(world, (witness,)).close()
    restore = place.at(world).back_up(world.journal)
    for _ in range(2):
        opened(world, (witness,)).close()
    restore()
    for _ in range(5):  # a supervisor that restarts what has failed
        with raises(syncpoint.JournalRefused, match="older copy"):
            opened(world, (witness,)).close()


@contextlib.contextmanager
def _entered(manager: syncpoint.TransactionManager, user_id: str) -> Iterator[Any]:
    """A transaction's block, as soon as its id is free: a dead process's claim is, once it is known to be dead."""

    def is_free() -> bool:
        manager._runner.run(manager._core.journal.watch())
        return not manager._runner.run(manager._core.journal.claim(transaction)).running

    transaction = TransactionId.from_user_id("", user_id)
    wait_until(is_free, "the dead process's claim is free", 10.0)
    manager._core.journal.release(transaction)
    with manager.transaction(id=user_id) as tx:
        yield tx


# --- orphans of earlier attempts ------------------------------------------------------------------------------------


def test_o58_an_orphan_of_an_earlier_attempt_is_rolled_back(
    stage: Stage, world: World, course: Course, name: str
) -> None:
    """Attempt 1 died after its votes; attempt 2 commits before anybody has recovered."""
    said = stage.zygote.run(world, "transfer_with_id", name, course.undecided)
    assert said.killed
    assert len(world.in_doubt()) == course.in_doubt
    with opened(world) as manager:
        with _entered(manager, name) as tx:
            tx.connect(BANK).execute("INSERT INTO transfer VALUES (%s, 2, 2)", (name,))
            tx.connect(LEDGER).cursor().execute("INSERT INTO transfer VALUES (%s, 2, 2)", (name,))
        assert not manager.recover(wait_seconds=10.0).left
        assert manager.outcome(name).state == "committed"
        assert manager.heuristics() == []
    with world.bank() as bank:
        assert bank.execute("SELECT number FROM transfer WHERE id = %s", (name,)).fetchall() == [(2,)]
    with closing(world.ledger()) as ledger, ledger.cursor() as cursor:
        cursor.execute("SELECT number FROM transfer WHERE id = %s", (name,))
        assert list(cursor.fetchall()) == [(2,)]
    assert world.locks() == []
