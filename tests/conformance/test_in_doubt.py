"""A1..A9: prepares carry an identifier, votes check it, and being in doubt survives everything but the outcome."""

from __future__ import annotations

import threading
from contextlib import closing

import psycopg
import pytest

import syncpoint
from syncpoint.ids import BranchNumber, Identifier
from syncpoint.journal.urls import address_of
from syncpoint.protocol.words import Decision
from syncpoint.resources.base import Choice, Vote
from syncpoint.resources.memory import RowLocked
from tests.conformance.conftest import ONE_PLACE, Bench, opened, raises
from tests.conformance.places import FOLDER, MARIADB, Course, Folder
from tests.crash.harness import Stage
from tests.crash.trap import Trap
from tests.crash.world import ALL, AUDIT, BANK, LEDGER, World


def test_a1_every_prepare_carries_the_coordinators_identifier(bench: Bench) -> None:
    manager = bench.manager()
    trap = Trap()
    trap.watch(manager._runner)
    seen: dict[str, list[Identifier]] = {}
    trap.before(bench.place.forcing, lambda: seen.update({name: bench.servers[name].in_doubt() for name in "ab"}))
    with manager.transaction() as tx:
        bench.put(tx)
    ours = [identifier for found in seen.values() for identifier in found]
    assert len(ours) == 2
    assert {identifier.coordinator for identifier in ours} == {manager._core.journal.coordinator}
    assert {str(identifier.transaction) for identifier in ours} == {tx.transaction}
    assert len({identifier.branch for identifier in ours}) == 2


def test_a1_the_databases_hold_the_identifier(stage: Stage, world: World, course: Course, name: str) -> None:
    said = stage.zygote.run(world, "transfer_without_id", name, course.decided)
    assert said.killed, said.last("error")
    with world.bank() as bank:
        query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        found = [Identifier.from_gid(gid) for (gid,) in bank.execute(query)]
    with closing(world.ledger()) as ledger, ledger.cursor() as cursor:
        cursor.execute("XA RECOVER")
        found += [Identifier.from_xid(row[0], row[3][: row[1]], row[3][row[1] :]) for row in cursor.fetchall()]
    assert len(found) == course.in_doubt
    assert len({identifier.key for identifier in found}) == 1
    assert len({identifier.branch for identifier in found}) == course.in_doubt
    with opened(world) as manager:
        assert {identifier.coordinator for identifier in found} == {manager._core.journal.coordinator}
        assert not manager.recover(wait_seconds=10.0).left


def test_a2_a3_a_unique_identifier_gets_a_yes(bench: Bench) -> None:
    with bench.ghost() as ghost:
        identifier = ghost.identifiers(ghost.key(), "a")["a"]
    assert bench.prepare("a", identifier) is Choice.YES
    # Durable: the server forgets what it has not made so.
    bench.a.restart()
    assert bench.a.in_doubt() == [identifier]
    bench.manager().recover()


def test_a3_the_yes_is_durable_before_it_is_given(bench: Bench) -> None:
    """Both servers lose power after their votes and before the decision: what they voted for is there."""
    manager = bench.manager()
    trap = Trap()
    trap.watch(manager._runner)
    cut: list[str] = []

    def cut_power() -> None:
        cut.append(bench.in_doubt())
        bench.a.restart()
        bench.b.restart()

    trap.before(bench.place.forcing, cut_power)
    with manager.transaction() as tx:
        bench.put(tx)
    assert cut == ["ab"]
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_a4_an_identifier_in_doubt_already_gets_a_no(bench: Bench) -> None:
    with bench.ghost() as ghost:
        identifier = ghost.identifiers(ghost.key(), "a")["a"]
    assert bench.prepare("a", identifier, "first") is Choice.YES
    assert bench.prepare("a", identifier, "second") is Choice.NO
    assert list(bench.a.locked()) == ["first"]
    bench.a.restart()  # the check is among what survives, too
    assert bench.prepare("a", identifier, "third") is Choice.NO
    bench.manager().recover()
    assert bench.rows("first") == bench.rows("second") == ""
    bench.assert_quiet()


@ONE_PLACE  # a journal in bank's own database would not ask it to prepare
def test_a4_a_real_database_says_no_and_the_first_is_unharmed(world: World) -> None:
    with opened(world, (BANK,)) as manager:
        with raises(syncpoint.TransactionAborted), manager.transaction(id="a4") as tx, world.bank() as other:
            key = tx.work.key
            identifier = Identifier(manager._core.journal.coordinator, key.transaction, key.attempt, BranchNumber(1))
            tx.connect(BANK).execute("INSERT INTO transfer VALUES ('a4', 1, 1)")
            other.execute("BEGIN")
            other.execute("INSERT INTO transfer VALUES ('a4-first', 1, 1)")
            other.execute(f"PREPARE TRANSACTION '{identifier.to_gid()}'")
        assert len(world.in_doubt()) == 1  # DATABASES PostgreSQL 2: others have rolled it back here
        manager.recover()
    assert world.rows("a4")[BANK] == 0


@ONE_PLACE
def test_a5_without_an_identifier_the_vote_is_no(bench: Bench) -> None:
    assert bench.prepare("a", None) is Choice.NO
    bench.assert_quiet()


def test_a6_the_identifier_alone_says_whom_to_ask_and_about_what(bench: Bench) -> None:
    bench.departed(decided=True, user_id="order-1")
    (identifier,) = bench.a.in_doubt()
    read_again = Identifier.from_bytes(identifier.to_bytes())
    manager = bench.manager()
    known = {known.guid: known.address for known in manager._core.journal.directory()}
    assert known[read_again.coordinator.raw] == address_of(bench.journal)
    # The coordinator knows which participants to tell, and tells them.
    (told,) = [entry for entry in manager.in_doubt() if entry.resource == "a"]
    assert (told.transaction, told.user_id, told.status) == (str(identifier.transaction), "order-1", "decided-commit")
    assert manager.recover().committed == 2
    assert bench.rows() == "ab"
    bench.assert_quiet()


def test_a7_in_doubt_stays_locked_over_a_restart_until_the_outcome(bench: Bench) -> None:
    bench.departed("a", decided=True)
    manager = bench.manager()
    for _ in range(2):
        with raises(RowLocked), manager.transaction(timeout=0.05) as tx:
            bench.put(tx, "a", value=2)
        bench.a.restart()
    assert bench.in_doubt() == "a"
    assert not manager.recover(wait_seconds=5.0).left
    assert bench.a.rows() == {"k": b"1"}
    bench.assert_quiet()
    with manager.transaction() as tx:
        bench.put(tx, "a", value=2)


def test_a7_real_servers_that_lose_power_keep_it_locked(stage: Stage, world: World, course: Course, name: str) -> None:
    said = stage.zygote.run(world, "transfer_without_id", name, course.decided)
    assert said.killed, said.last("error")
    assert world.postgres is not None
    assert world.mariadb is not None
    for server in (world.postgres, world.mariadb):
        server.kill()
        server.start()
    assert len(world.in_doubt()) == course.in_doubt
    assert {*course.voters} - {AUDIT} <= set(world.locks())
    with opened(world) as manager:
        assert not manager.recover(wait_seconds=10.0).left
    assert world.audit(name, "") == "committed"


def test_a8_any_process_can_coordinate_and_the_resources_serve_all(bench: Bench) -> None:
    """Two applications with journals of their own over the same servers, each coordinating at the same time."""
    one, other = bench.manager(), bench.manager(journal="other-journal")
    assert one._core.journal.coordinator != other._core.journal.coordinator
    together = threading.Barrier(2)

    def work(manager: syncpoint.TransactionManager, row: str) -> None:
        trap = Trap()
        trap.watch(manager._runner)
        forcing = bench.place.forcing if manager is one else Folder.forcing
        trap.before(forcing, lambda: (together.wait(10.0), together.wait(10.0)))
        with manager.transaction() as tx:
            bench.put(tx, key=row)

    threads = [threading.Thread(target=work, args=(manager, row)) for manager, row in ((one, "1"), (other, "2"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.rows("1") == bench.rows("2") == "ab"
    bench.assert_quiet()


def test_a8_neither_touches_the_others_work(bench: Bench) -> None:
    bench.manager()
    with bench.ghost("other-journal") as ghost:
        ghost.prepare(ghost.key())
    report = bench.manager().recover()
    assert report.unknown_coordinators == (str(ghost.journal.coordinator),)
    assert bench.in_doubt() == "ab"
    bench.manager(journal="other-journal").recover()
    bench.assert_quiet()


def test_a9_one_that_cannot_prepare_aborts_all(bench: Bench) -> None:
    manager = bench.manager("abc")
    bench.b.answers["prepare"].append(Vote(Choice.NO, reason="no room"))
    with raises(syncpoint.TransactionAborted, match="no room"), manager.transaction() as tx:
        bench.put(tx, "abc")
    assert bench.rows() == ""
    bench.assert_quiet()


@pytest.mark.parametrize("place", [FOLDER, MARIADB], indirect=True)  # where bank is asked to prepare
def test_a9_a_real_database_that_cannot_prepare_aborts_all(world: World, name: str) -> None:
    """DATABASES PostgreSQL 5: temporary tables."""
    with opened(world) as manager:
        with raises(syncpoint.TransactionAborted) as caught, manager.transaction() as tx:
            tx.connect(LEDGER).cursor().execute("INSERT INTO transfer VALUES (%s, 1, 1)", (name,))
            tx.connect(AUDIT).execute("INSERT INTO transfer VALUES (?, 1, 1)", (name,))
            tx.connect(BANK).execute("CREATE TEMP TABLE t (n integer)")
        assert isinstance(caught.value.__cause__, psycopg.Error)
    assert world.audit(name, "aborted") == "aborted"


def test_a6_asked_by_identifier_the_coordinator_answers(bench: Bench) -> None:
    """What a restarted participant in doubt does: `ask` by identifier (also O29)."""
    bench.departed("a", decided=True)
    (identifier,) = bench.a.in_doubt()
    manager = bench.manager()
    ask = manager._core.handles["a"].resource.ask
    assert ask is not None
    ruling = manager._runner.run(ask(identifier))
    assert (ruling.decision, ruling.state) == (Decision.COMMIT, b"state")
    manager.recover()


def test_a7_every_database_is_left_unlocked_at_the_end(world: World) -> None:
    with opened(world) as manager, raises(RuntimeError), manager.transaction() as tx:
        tx.connect(BANK).execute("UPDATE account SET balance = 0")
        raise RuntimeError
    assert world.locks() == []
    assert world.audit("a7-end", "", ALL) == "aborted"
