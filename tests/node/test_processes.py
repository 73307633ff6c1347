"""Real processes: the node killed at each point of a transaction, an application killed after its votes, one that is
stopped, fenced and woken (A7, B7, O34, O46, O55). What holds is read from outside, in the databases.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import syncpoint
from syncpoint.testing.servers.base import wait_until
from tests.node.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.start()
    yield made
    made.close()


@pytest.fixture
def postgres_site(tmp_path: Path, postgres_url: str) -> Iterator[Site]:
    made = Site(tmp_path, postgres_url=postgres_url)
    made.start()
    yield made
    made.close()


def is_settled(site: Site, rows: list[int]) -> None:
    """Everywhere or nowhere; and nothing keeps the next transaction from its work."""
    wait_until(lambda: site.has(rows), f"both have {rows}")
    with syncpoint.TransactionManager(site.journal, site.resources) as manager:
        with manager.transaction() as tx:
            for name in site.resources:
                tx.connect(name).execute("INSERT INTO item VALUES (99)")
        assert site.has([*rows, 99])
        assert not manager.in_doubt()


@pytest.mark.parametrize(
    ("point", "told", "rows"), [("worked", "retryable", []), ("voted", "retryable", []), ("decided", "committed", [1])]
)
def test_the_node_is_killed_and_started_again(site: Site, point: str, told: str, rows: list[int]) -> None:
    child = site.child()
    child.reach(point)
    site.kill()
    site.start()
    said = child.told()
    assert said["told"] == told, said
    is_settled(site, rows)


def test_the_node_is_away_at_the_decision(site: Site) -> None:
    child = site.child()
    child.reach("voted")
    site.kill()
    said = child.told()
    assert said["told"] == "retryable", said
    site.start()
    is_settled(site, [])


def test_the_node_is_killed_while_it_is_asked_to_decide(site: Site) -> None:
    assert site.node is not None
    child = site.child(id="order-1")
    child.reach("voted")
    site.node.send_signal(signal.SIGSTOP)
    child.go_on()
    site.kill()
    site.start()
    said = child.told()
    assert said["told"] in ("OutcomePending", "retryable"), said
    child.go_on()
    assert child.line() == '{"outcome": "aborted-or-unknown"}'
    is_settled(site, [])


@pytest.mark.parametrize(("point", "rows"), [("worked", []), ("voted", []), ("decided", [1])])
def test_an_application_is_killed_and_the_node_finishes_its_work(site: Site, point: str, rows: list[int]) -> None:
    child = site.child()
    child.reach(point)
    child.signal(signal.SIGKILL)
    site.fenced(1)
    is_settled(site, rows)


@pytest.mark.parametrize(("point", "told", "rows"), [("voted", "retryable", []), ("decided", "committed", [1])])
def test_an_application_is_fenced_while_it_stands_still_and_changes_nothing_when_it_wakes(
    postgres_site: Site, point: str, told: str, rows: list[int]
) -> None:
    site = postgres_site
    child = site.child()
    child.reach(point)
    assert site.prepared() == 1
    child.signal(signal.SIGSTOP)
    site.fenced(1)
    wait_until(lambda: site.prepared() == 0 and site.rows("a") == rows, "the node has finished what it can reach")
    child.signal(signal.SIGCONT)
    said = child.told()
    assert said["told"] in (told, "OutcomePending"), said
    is_settled(site, rows)


def test_a_stopped_node_is_no_dead_one(site: Site) -> None:
    assert site.node is not None
    child = site.child()
    child.reach("voted")
    site.node.send_signal(signal.SIGSTOP)
    child.go_on()
    site.node.send_signal(signal.SIGCONT)
    said = child.told()
    assert said["told"] == "committed", said
    is_settled(site, [1])


def test_sigterm_ends_the_node_cleanly_and_keeps_what_was_decided(site: Site) -> None:
    child = site.child(id="order-1")
    child.reach("decided")
    assert child.told()["told"] == "committed"
    assert site.stop() == 0
    assert "has stopped" in site.logged()
    assert "Traceback" not in site.logged()
    site.start()
    site.connected(again=1)
    child.go_on()
    assert child.line() == '{"outcome": "committed"}'
    is_settled(site, [1])
