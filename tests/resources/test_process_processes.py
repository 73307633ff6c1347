"""Resource managers as real processes: killed after their vote, stopped and woken as zombies, ended in order (B4..B9).

What became of the data is looked at from outside. Not for: the host by itself (test_process_host.py).
"""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from syncpoint.errors import ConnectionLost, ResourceUnavailable
from syncpoint.protocol.takeover import State
from syncpoint.resources.base import Answer, BranchStart, Choice
from syncpoint.resources.node_messages import Activate, Noted
from syncpoint.testing.servers.base import wait_until
from tests.resources.process_site import Site

MUST_STOP = 3


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="sp") as short, closing(Site(tmp_path, Path(short, "s"))) as site:
        yield site


def test_b5_b8_b9_killed_after_its_vote_the_next_one_finishes_what_is_decided_and_drops_the_rest(site: Site) -> None:
    first = site.start()
    site.wait_open(1)
    guid = site.meet()
    session, decided, vote = site.vote(1)
    assert (vote.choice, vote.incarnation) == (Choice.YES, 1)
    site.decide(guid, (decided, vote))  # decided, though nobody can be told (B5)
    first.kill()
    site.wait_state(State.LOST)
    assert site.rows() == []
    with pytest.raises((ConnectionLost, ResourceUnavailable)):
        site.runner.run(site.resource.commit(session))
    site.start()
    site.wait_open(2)
    assert site.rows() == [1]
    assert site.service is not None
    finish = site.resource.finish(site.open(), decided, commit=True, state=vote.state)
    assert site.runner.run(finish) is Answer.COMMITTED  # the manager tells it again: once is enough
    assert site.rows() == [1]

    _, dropped, _ = site.vote(2)  # nobody decides this one
    site.processes[-1].kill()
    site.wait_state(State.LOST)
    site.start()
    site.wait_open(3)
    assert site.rows() == [1]
    assert site.runner.run(site.resource.scan(site.open())) == []
    assert site.query("SELECT incarnation FROM syncpoint_service") == [(3,)]
    finish = site.resource.finish(site.open(), dropped, commit=False, state=b"")
    assert site.runner.run(finish) in (Answer.NOT_FOUND, Answer.ABORTED)


def test_b7_a_woken_zombie_changes_nothing_whatever_is_in_flight(site: Site) -> None:
    old = site.start()
    site.wait_open(1)
    site.meet()
    session, ended, vote = site.vote(1)
    assert site.runner.run(site.resource.commit(session)) is Answer.COMMITTED
    old.send(signal.SIGSTOP)
    undecided = site.identifier(8)
    asked = [
        threading.Thread(target=_ask_in_vain, args=(site, script))
        for script in (
            site.resource.begin(site.open(), BranchStart(site.identifier(7), 2_000)),
            site.resource.redo(site.open(), undecided, vote.state),
            site.resource.finish(site.open(), undecided, commit=True, state=vote.state),
            site.resource.drop_evidence(site.open(), site.coordinator, [ended.attempt]),
        )
    ]
    for thread in asked:
        thread.start()
    site.start()
    site.wait_open(2)
    for thread in asked:
        thread.join(20.0)
    session, _, _ = site.vote(2)
    assert site.runner.run(site.resource.commit(session)) is Answer.COMMITTED
    before = (site.rows(), site.query("SELECT * FROM syncpoint_evidence ORDER BY attempt"), site.note())
    assert before[0] == [1, 2]
    assert len(before[1]) == 2
    old.send(signal.SIGCONT)
    assert old.ended() == MUST_STOP
    assert "incarnation 2" in old.said()
    after = (site.rows(), site.query("SELECT * FROM syncpoint_evidence ORDER BY attempt"), site.note())
    assert after == before
    assert site.query("SELECT incarnation FROM syncpoint_service") == [(2,)]
    site.work(3)  # and the other one goes on


def _ask_in_vain(site: Site, script: object) -> None:
    with suppress(ConnectionLost, ResourceUnavailable):
        site.runner.run(script)  # type: ignore[arg-type]


def test_b7_a_zombie_that_holds_the_files_lock_gives_it_back_when_it_wakes(site: Site) -> None:
    """It had voted. Its backup has its incarnation, and waits: the other's lock of the file has to go first."""
    old = site.start()
    site.wait_open(1)
    guid = site.meet()
    _, decided, vote = site.vote(1)
    old.send(signal.SIGSTOP)
    site.decide(guid, (decided, vote))
    site.start()
    wait_until(lambda: site.service is not None and site.service.incarnation == 2, "the next incarnation")
    assert site.rows() == []
    old.send(signal.SIGCONT)
    assert old.ended() == MUST_STOP
    site.wait_open(2)
    assert site.rows() == [1]
    assert len(site.query("SELECT * FROM syncpoint_evidence")) == 1


def test_b6_a_standby_takes_over_when_it_is_told_and_an_orderly_end_is_none_of_its_business(site: Site) -> None:
    first = site.start()
    site.wait_open(1)
    site.meet()
    standby = site.start("--standby")
    wait_until(lambda: site.service is not None and bool(site.service.standbys), "the standby")
    first.send(signal.SIGTERM)
    assert first.ended() == 0
    site.wait_state(State.LOST)
    assert site.service is not None
    peer = site.service.standbys[0].peer
    assert site.node.runtime.run(site.node.ask(peer, Activate(resource="audit"), 5.0)) == Noted()
    site.wait_open(2)
    session, _, _ = site.vote(5)
    assert site.runner.run(site.resource.commit(session)) is Answer.COMMITTED
    assert site.rows() == [5]
    assert standby.is_running


def test_b4_a_process_that_has_lost_its_node_stops_by_itself(site: Site) -> None:
    process = site.start("--dead-after", "1")
    site.wait_open(1)
    site.meet()
    site.work(1)
    site.link.close()
    site.node.close()
    assert process.ended() == MUST_STOP
    assert "has not heard its node" in process.said()
    assert site.rows() == []


def test_a_healthy_process_is_not_replaced_by_one_that_claims_its_guid(site: Site) -> None:
    site.start()
    site.wait_open(1)
    second = site.start()
    wait_until(lambda: "is not lost" in second.said(), "the refusal")
    assert second.is_running  # it tries again: the other may go
    second.send(signal.SIGTERM)
    assert second.ended() == 0
    site.meet()
    site.work(1)
