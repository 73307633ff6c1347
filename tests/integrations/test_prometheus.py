"""Metrics as a scraper sees them: the exposition text, read with Prometheus' own parser.

The alert rules of docs/operating.md are checked in test_alert_rules.py.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

import syncpoint
from syncpoint.integrations import prometheus
from syncpoint.manager.observer import Phase
from syncpoint.resources.base import Answer
from syncpoint.testing.servers.base import wait_until
from syncpoint.testing.servers.postgres import PostgresServer
from tests.conformance.conftest import raises
from tests.manager.conftest import AsyncBench, FailingDisk, JumpingClock

CHILD = Path(__file__).with_name("watched_child.py")


class Scraper:
    """Reads a registry as Prometheus would, through its text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def values(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """Samples of this name whose labels agree: the values of the other labels, in order, to the value."""
        known = {"manager", *labels}
        return {
            tuple(text for label, text in sorted(sample.labels.items()) if label not in known): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def one(self, name: str, **labels: str) -> float:
        """The sum of all such samples; there must be one."""
        values = self.values(name, **labels)
        assert values, f"no sample {name} {labels}"
        return sum(values.values())


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def scraper(registry: CollectorRegistry) -> Scraper:
    return Scraper(registry)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[AsyncBench]:
    made = AsyncBench(tmp_path)
    yield made
    made.close()


def watched(bench: AsyncBench, registry: CollectorRegistry, **options: object) -> syncpoint.TransactionManager:
    return bench.manager(observers=[prometheus.PrometheusObserver(registry)], **options)


PREPARED_HERE = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"

# --- transactions -----------------------------------------------------------------------------------------------


def test_outcomes_are_counted(bench: AsyncBench, registry: CollectorRegistry, scraper: Scraper) -> None:
    manager = watched(bench, registry)
    assert scraper.values("syncpoint_transactions_total") == {(outcome,): 0 for outcome in prometheus.OUTCOMES}
    with manager.transaction(id="one") as tx:
        assert scraper.one("syncpoint_transactions_running") == 1
        bench.put(tx)
    with raises(syncpoint.AlreadyCommitted), manager.transaction(id="one"):
        pass
    with raises(KeyError), manager.transaction() as tx:
        raise KeyError
    bench.b.answers["commit"].append(Answer.HEURISTIC_ROLLBACK)
    with raises(syncpoint.HeuristicMixed), manager.transaction() as tx:
        bench.put(tx)
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    with manager.transaction() as tx:
        bench.put(tx)
    bench.b.down = True
    with raises(syncpoint.ResourceUnavailable), manager.transaction() as tx:
        bench.put(tx)
    assert scraper.values("syncpoint_transactions_total") == {
        ("committed",): 2,
        ("aborted",): 2,
        ("aborted_retryable",): 0,
        ("outcome_pending",): 0,
        ("heuristic_mixed",): 1,
        ("heuristic_hazard",): 0,
    }
    assert scraper.one("syncpoint_transactions_running") == 0
    assert scraper.one("syncpoint_resends_total", answer="committed") == 1
    assert scraper.values("syncpoint_branches_left_pending_total") == {("a",): 0, ("b",): 1}


def test_a_no_vote_may_be_retried(bench: AsyncBench, registry: CollectorRegistry, scraper: Scraper) -> None:
    manager = watched(bench, registry)
    bench.b.answers["prepare"].append(syncpoint.errors.ConnectionLost("gone"))
    with raises(syncpoint.TransactionAborted), manager.transaction() as tx:
        bench.put(tx)
    assert scraper.one("syncpoint_transactions_total", outcome="aborted_retryable") == 1


def test_phases_are_measured(bench: AsyncBench, registry: CollectorRegistry, scraper: Scraper) -> None:
    clock = JumpingClock()
    with watched(bench, registry, clock=clock).transaction() as tx:
        bench.put(tx)
        clock.jump_s += 20
    for phase in (Phase.WORK, Phase.PREPARE, Phase.DECIDE, Phase.COMMIT):
        assert scraper.one("syncpoint_phase_seconds_count", phase=phase.value) == 1
    assert scraper.one("syncpoint_phase_seconds_sum", phase="work") == pytest.approx(20, abs=2)
    assert scraper.one("syncpoint_phase_seconds_bucket", phase="work", le="10.0") == 0
    assert scraper.one("syncpoint_phase_seconds_bucket", phase="work", le="30.0") == 1
    assert scraper.values("syncpoint_branch_seconds_count") == {
        (resource, step): 1 for resource in "ab" for step in ("prepare", "commit")
    }


async def counted_in_asyncio(bench: AsyncBench, registry: CollectorRegistry) -> None:
    async with bench.running() as manager:
        prometheus.enable(manager, registry)
        async with manager.transaction() as tx:
            await bench.write(tx)
        await manager.recover()


def test_asyncio_is_counted_too(bench: AsyncBench, registry: CollectorRegistry, scraper: Scraper) -> None:
    asyncio.run(counted_in_asyncio(bench, registry))
    assert scraper.one("syncpoint_transactions_total", outcome="committed") == 1
    assert scraper.values("syncpoint_resource_up") == {("a",): 1, ("b",): 1}


def test_several_managers_share_the_metrics(bench: AsyncBench, registry: CollectorRegistry, scraper: Scraper) -> None:
    first, second, third = bench.manager(), bench.manager(), bench.manager()
    prometheus.enable(first, registry, name="shop")
    prometheus.enable(second, registry, name="shop")
    prometheus.enable(third, registry, name="back office")
    with first.transaction(), second.transaction(), third.transaction():
        assert scraper.one("syncpoint_transactions_running", manager="shop") == 2
    assert scraper.one("syncpoint_transactions_total", manager="shop", outcome="committed") == 2
    assert scraper.one("syncpoint_transactions_total", manager="back office", outcome="committed") == 1


def test_a_failed_journal_takes_the_manager_down(
    bench: AsyncBench, registry: CollectorRegistry, scraper: Scraper
) -> None:
    disk = FailingDisk()
    manager = watched(bench, registry, disk=disk)
    assert scraper.one("syncpoint_manager_up") == 1
    with raises(syncpoint.OutcomePending), manager.transaction() as tx:
        bench.put(tx)
        disk.is_failing = True
    assert scraper.one("syncpoint_manager_up") == 0
    assert scraper.one("syncpoint_transactions_total", outcome="outcome_pending") == 1
    assert scraper.one("syncpoint_transactions_running") == 0


# --- recovery ------------------------------------------------------------------------------------------------------


def test_heuristics_stay_until_forgotten(bench: AsyncBench, registry: CollectorRegistry, scraper: Scraper) -> None:
    clock = JumpingClock()
    manager = watched(bench, registry, clock=clock)
    bench.b.answers["commit"].append(Answer.HEURISTIC_ROLLBACK)
    with raises(syncpoint.HeuristicMixed), manager.transaction() as tx:
        bench.put(tx)
    manager.recover()
    assert scraper.values("syncpoint_heuristics") == {("HEURISTIC_ROLLBACK", "b"): 1}
    manager.forget(tx.transaction)
    clock.jump_s += 5
    manager.recover()
    assert scraper.values("syncpoint_heuristics") == {("HEURISTIC_ROLLBACK", "b"): 0}


def test_a_database_that_is_down_shows(bench: AsyncBench, registry: CollectorRegistry, scraper: Scraper) -> None:
    manager = watched(bench, registry)
    assert scraper.one("syncpoint_recovery_passes_total") == 0, "there from the start, for increase() to work"
    bench.a.down = True
    manager.recover()
    assert scraper.values("syncpoint_resource_up") == {("a",): 0, ("b",): 1}
    assert scraper.one("syncpoint_recovery_passes_total", resource="a", result="failed") == 1
    bench.a.down = False
    manager.recover()
    assert scraper.values("syncpoint_resource_up") == {("a",): 1, ("b",): 1}


def test_a_killed_process_on_postgresql(
    postgres_server: PostgresServer, tmp_path: Path, registry: CollectorRegistry, scraper: Scraper
) -> None:
    """The gauge rises while a process stands between its votes and its decision, and falls when it has been killed."""
    urls = {name: postgres_server.create_database(f"metrics_{name}_{os.getpid()}") for name in ("bank", "ledger")}
    for url in urls.values():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE note (text text)")
    journal = str(tmp_path / "journal")
    manager = syncpoint.TransactionManager(journal, urls)
    prometheus.enable(manager, registry)
    with manager:
        child = subprocess.Popen(
            [sys.executable, str(CHILD), journal, *(f"{name}={url}" for name, url in urls.items())],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "prepared\n"
            manager.recover()
            for name in urls:
                assert scraper.one("syncpoint_branches_in_doubt", resource=name, status="live") == 1
            first = scraper.one("syncpoint_oldest_in_doubt_seconds", resource="bank")

            def older() -> bool:
                manager.recover()
                return scraper.one("syncpoint_oldest_in_doubt_seconds", resource="bank") > first

            wait_until(older, "the oldest branch to grow older")
        finally:
            child.kill()
            child.communicate()

        def over() -> bool:
            return all(
                scraper.one("syncpoint_branches_in_doubt", resource=name) == 0
                and scraper.one("syncpoint_oldest_in_doubt_seconds", resource=name) == 0
                for name in urls
            )

        wait_until(over, "the gauges to fall after the process was killed", 10.0)
    assert scraper.values("syncpoint_recovered_branches_total", answer="aborted") == {("bank",): 1, ("ledger",): 1}
    assert scraper.one("syncpoint_takeovers_total") == 1
    for url in urls.values():
        with psycopg.connect(url, autocommit=True) as connection:
            assert connection.execute(PREPARED_HERE).fetchone() == (0,)
            assert connection.execute("SELECT count(*) FROM note").fetchone() == (0,)


# --- many processes behind one scrape ---------------------------------------------------------------------------


MEMBER = """
import sys, syncpoint
from syncpoint.integrations import prometheus
manager = syncpoint.TransactionManager(sys.argv[1], {"m": "memory://m"})
prometheus.enable(manager)
with manager:
    with manager.transaction() as tx:
        tx.connect("m").put("k", 1)
    print("done", flush=True)
    sys.stdin.readline()
"""


def test_multiprocess_mode(tmp_path: Path, registry: CollectorRegistry, scraper: Scraper) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(tmp_path / f"journal{number}")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for member in members:
            assert member.stdout is not None
            assert member.stdout.readline() == "done\n"
        MultiProcessCollector(registry, path=str(folder))
        assert scraper.one("syncpoint_transactions_total", outcome="committed") == 2
        assert scraper.one("syncpoint_transactions_running") == 0
        assert scraper.one("syncpoint_resource_up", resource="m") == 1
        assert scraper.one("syncpoint_manager_up") == 1
    finally:
        for member in members:
            member.communicate("\n")


FORKER = """
import os, sys, syncpoint
from prometheus_client import REGISTRY
from syncpoint.integrations import prometheus
running = lambda: REGISTRY.get_sample_value("syncpoint_transactions_running", {"manager": ""})
manager = syncpoint.TransactionManager(sys.argv[1], {"m": "memory://m"})
prometheus.enable(manager)
with manager, manager.transaction():
    before = running()
    child = os.fork()
    if not child:
        with manager.transaction():
            pass
        print("child", before, running(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("parent", running(), flush=True)
"""


def test_a_forked_child_counts_what_it_runs_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKER, str(tmp_path / "journal")], capture_output=True, text=True
    )
    assert (done.stdout.splitlines(), done.stderr) == (["child 1.0 0.0", "parent 1.0"], "")
