"""What a commit costs (DESIGN section 7), counted on the wire, at the memory servers, and on the disk.

Round trips are those after the last statement and before the answer, at the database that makes most: others are
asked side by side. `wait="applied"` adds one. Not for: times (bench/).
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import syncpoint
from syncpoint.testing.servers.base import wait_until
from tests.conformance.conftest import FOLDER_ONLY, ONE_PLACE, Bench
from tests.conformance.places import COMMIT, DATABASES, QUIET, Course
from tests.conformance.wire import CountingDisk, CountingProxy
from tests.crash.trap import Trap
from tests.crash.world import BANK, LEDGER, World

# --- round trips, on memory servers ----------------------------------------------------------------------------


def _costs(bench: Bench, work: Callable[[Any], None], resources: str = "ab", **options: Any) -> dict[str, list[str]]:
    """What reached each server after the last statement."""
    manager = bench.manager(resources)
    with manager.transaction() as tx:  # connections are open, first contact is made
        bench.put(tx, resources, "warm")
    with manager.transaction(**options) as tx:
        work(tx)
        for name in resources:
            bench.servers[name].calls.clear()
    return {name: list(bench.servers[name].calls) for name in resources}


@ONE_PLACE
def test_costs_one_writer_alone_is_one_request(bench: Bench) -> None:
    assert _costs(bench, lambda tx: bench.put(tx, "a"))["a"] == ["commit_one_phase"]


@ONE_PLACE
def test_costs_one_writer_among_several_is_one_request_and_one_release(bench: Bench) -> None:
    def work(tx: Any) -> None:
        bench.put(tx, "a")
        tx.connect("b").get("k")

    assert _costs(bench, work) == {"a": ["commit_one_phase"], "b": ["abort"]}


@ONE_PLACE
def test_costs_two_writers_are_one_request_each_before_the_decision_and_one_after(bench: Bench) -> None:
    assert _costs(bench, bench.put) == {"a": ["prepare", "commit"], "b": ["prepare", "commit"]}


@ONE_PLACE
def test_costs_readers_are_one_request_each(bench: Bench) -> None:
    def work(tx: Any) -> None:
        for name in "ab":
            tx.connect(name).get("k")

    assert _costs(bench, work) == {"a": ["abort"], "b": ["abort"]}


@ONE_PLACE
def test_costs_beginning_a_branch_is_one_request(bench: Bench) -> None:
    manager = bench.manager()
    with manager.transaction() as tx:
        bench.put(tx, "a")
    bench.a.calls.clear()
    with manager.transaction() as tx:
        tx.connect("a")
        tx.connect("a")
        assert bench.a.calls == ["begin"]


# --- round trips, on the wire ------------------------------------------------------------------------------------


@dataclass
class Wire:
    manager: syncpoint.TransactionManager
    proxies: dict[str, CountingProxy]

    def count(self, statements: dict[str, str], *, user_id: bool = False) -> dict[str, int]:
        """Round trips after the last statement until the caller has its answer."""
        for number in range(2):  # the first warms up: connections, first contact, what drivers cache
            with self.manager.transaction(id=f"id {number}" if user_id else None) as tx:
                for name, statement in statements.items():
                    connection = tx.connect(name)
                    connection.cursor().execute(statement)
                before = {name: proxy.round_trips for name, proxy in self.proxies.items()}
            after = {name: proxy.round_trips for name, proxy in self.proxies.items()}
            wait_until(lambda: not self.manager._core.live, "phase two is over")
        return {name: after[name] - before[name] for name in statements}


@pytest.fixture
def wire(world: World) -> Iterator[Wire]:
    with contextlib.ExitStack() as stack:
        proxies = {
            BANK: stack.enter_context(CountingProxy(world.bank_url)),
            LEDGER: stack.enter_context(CountingProxy(world.ledger_url)),
        }
        resources = {BANK: proxies[BANK].url(world.bank_url), LEDGER: proxies[LEDGER].url(world.ledger_url)}
        manager = syncpoint.TransactionManager(world.journal, resources, background=False)
        yield Wire(stack.enter_context(manager), proxies)


UPDATE = "UPDATE account SET balance = balance + 1 WHERE id = 1"
SELECT = "SELECT balance FROM account"


@pytest.mark.parametrize("resource", [BANK, LEDGER])
def test_costs_on_the_wire_one_writer_alone(wire: Wire, resource: str) -> None:
    """Evidence and COMMIT in one packet. MariaDB's XA END rides along too."""
    counted = wire.count({resource: UPDATE})
    assert counted == {resource: 1}


@pytest.mark.parametrize(("writer", "reader"), [(BANK, LEDGER), (LEDGER, BANK)])
def test_costs_on_the_wire_one_writer_and_the_writers_are_unknown(wire: Wire, writer: str, reader: str) -> None:
    """Its writer is known from what the driver reports; the reader is asked, then released."""
    counted = wire.count({writer: UPDATE, reader: SELECT})
    assert counted == {writer: 1, reader: 2}


@pytest.mark.parametrize("user_id", [False, True], ids=["without id", "with id"])
def test_costs_on_the_wire_two_writers(wire: Wire, course: Course, user_id: bool) -> None:
    """One each before the decision, for the writers are known, and one for phase two; the journal's own database has it
    all in one packet."""
    counted = wire.count({BANK: UPDATE, LEDGER: UPDATE}, user_id=user_id)
    assert counted == {name: 1 if name == course.decider else 2 for name in counted}


def test_costs_on_the_wire_when_the_answer_comes_with_the_decision(world: World, wire: Wire, course: Course) -> None:
    """Counted where the decision goes out: all that came before it is one round trip to each that votes."""
    trap = Trap()
    trap.watch(wire.manager._runner)
    seen: list[dict[str, int]] = []
    for _ in range(2):
        with wire.manager.transaction(wait="decided") as tx:
            for name in (BANK, LEDGER):
                tx.connect(name).cursor().execute(UPDATE)
            before = {name: proxy.round_trips for name, proxy in wire.proxies.items()}
            trap.before(
                course.decides,
                lambda: seen.append({name: proxy.round_trips for name, proxy in wire.proxies.items()}),
            )
        wait_until(lambda: not wire.manager._core.live, "phase two is over")
    assert {name: seen[-1][name] - before[name] for name in before} == {
        name: 0 if name == course.decider else 1 for name in before
    }
    assert world.in_doubt() == []


@pytest.mark.parametrize("place", DATABASES, indirect=True)
@pytest.mark.parametrize("user_id", [False, True], ids=["without id", "with id"])
def test_costs_on_the_wire_one_prepare_two_commits_and_no_other_force(
    world: World, course: Course, user_id: bool
) -> None:
    """The journal in one of two databases: all that is said to the servers between the last statement and the answer,
    by the journal's own connections too, forces three times: one prepare, and each database's commit."""
    with contextlib.ExitStack() as stack:
        urls = world.resources((BANK, LEDGER))
        proxies = {name: stack.enter_context(CountingProxy(url)) for name, url in urls.items()}
        own = stack.enter_context(CountingProxy(urls[course.decider]))
        journal = f"{own.url(urls[course.decider])}&{QUIET}"
        resources = {name: proxy.url(urls[name]) for name, proxy in proxies.items()}
        manager = stack.enter_context(syncpoint.TransactionManager(journal, resources, background=False))
        trap = Trap()
        trap.watch(manager._runner)
        said: dict[str, list[str]] = {}
        for number in range(2):
            with manager.transaction(id=f"id {number}" if user_id else None) as tx:
                for name in (BANK, LEDGER):
                    tx.connect(name).cursor().execute(UPDATE)
                wait_until(lambda: not manager._core.journal._lazily._releases, "ids are given back")  # type: ignore
                for proxy in (own, *proxies.values()):
                    proxy.asked.clear()

                def listen(outcome: Any) -> None:
                    said.update({name: _forcing(proxy) for name, proxy in proxies.items()}, journal=own.asked[:])

                trap.after(COMMIT[course.voter], listen)  # nothing that follows is waited for
    prepare = {BANK: "PREPARE TRANSACTION", LEDGER: "XA PREPARE"}[course.voter]
    phase_two = {BANK: "COMMIT PREPARED", LEDGER: "XA COMMIT"}[course.voter]
    decision = {BANK: "COMMIT", LEDGER: "XA COMMIT"}[course.decider]
    assert said == {course.decider: [decision], course.voter: [prepare, phase_two], "journal": []}


def _forcing(proxy: CountingProxy) -> list[str]:
    """The statements among all that was asked for at which a server forces its log, in order."""
    words = rb"PREPARE TRANSACTION|XA PREPARE|COMMIT PREPARED|XA COMMIT|(?<![A-Z_] )(?<![A-Za-z_])COMMIT\b"
    return [found.decode() for found in re.findall(words, b"".join(proxy.asked))]


# --- forces ----------------------------------------------------------------------------------------------------------


def _forces(disk: CountingDisk, work: Callable[[], Any]) -> int:
    before = disk.forces
    work()
    return disk.forces - before


@pytest.fixture
def disk() -> CountingDisk:
    return CountingDisk()


def _transact(bench: Bench, manager: syncpoint.TransactionManager, resources: str, **options: Any) -> None:
    with manager.transaction(**options) as tx:
        for name in resources:
            bench.put(tx, name, f"row {threading.get_ident()}")


@FOLDER_ONLY
def test_costs_one_force_for_each_decided_transaction(bench: Bench, disk: CountingDisk) -> None:
    manager = bench.manager("abc", disk=disk)
    for resources in ("ab", "abc", "ab"):
        assert _forces(disk, lambda resources=resources: _transact(bench, manager, resources)) == 1  # type: ignore[misc]


@FOLDER_ONLY
def test_costs_one_force_with_an_id(bench: Bench, disk: CountingDisk) -> None:
    manager = bench.manager(disk=disk)
    assert _forces(disk, lambda: _transact(bench, manager, "a", id="x")) == 1
    assert _forces(disk, lambda: _transact(bench, manager, "", id="y")) == 1
    assert _forces(disk, lambda: manager.run(lambda tx: 1, id="x", fingerprint="")) == 0  # answered from the record


@FOLDER_ONLY
def test_costs_no_force_for_at_most_one_writer(bench: Bench, disk: CountingDisk) -> None:
    manager = bench.manager(disk=disk)

    def read_one_write_one() -> None:
        with manager.transaction() as tx:
            bench.put(tx, "a")
            tx.connect("b").get("k")

    assert _forces(disk, lambda: _transact(bench, manager, "")) == 0
    assert _forces(disk, lambda: _transact(bench, manager, "a")) == 0
    assert _forces(disk, read_one_write_one) == 0


@FOLDER_ONLY
def test_costs_no_force_for_an_abort(bench: Bench, disk: CountingDisk) -> None:
    manager = bench.manager(disk=disk)

    def give_up() -> None:
        with contextlib.suppress(ZeroDivisionError), manager.transaction(id="x") as tx:
            bench.put(tx)
            raise ZeroDivisionError

    assert _forces(disk, give_up) == 0


@FOLDER_ONLY
def test_costs_one_force_is_shared_by_all_that_wait(bench: Bench, disk: CountingDisk) -> None:
    """While the first is being forced, seven more arrive: they go together into the next one."""
    manager = bench.manager(disk=disk)
    trap = Trap()
    trap.watch(manager._runner)
    go, is_forcing = threading.Event(), threading.Event()

    def hold() -> None:
        is_forcing.set()
        assert go.wait(20.0)

    before = disk.forces
    disk.before_force = hold
    threads = [threading.Thread(target=_transact, args=(bench, manager, "ab")) for _ in range(8)]
    threads[0].start()
    assert is_forcing.wait(20.0)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: trap.trace.count("journal force") == 8, "all have voted")
    forces = manager._core.journal._forces  # type: ignore[attr-defined]
    wait_until(lambda: forces._inbox.qsize() == 7, "all have handed in their records")
    go.set()
    for thread in threads:
        thread.join()
    assert disk.forces - before == 2
    bench.assert_quiet()
