"""Finding out about MariaDB branches: evidence, settling, and failures that leave something to find out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncpoint.errors import ConnectionLost
from syncpoint.resources import mariadb_sql as sql
from syncpoint.resources.base import Answer, Choice, Evidence, Mode
from syncpoint.testing.servers.mariadb import MariadbServer
from tests.resources.mariadb_world import World, make_identifier

BOTH: list[Mode] = ["sync", "async"]


@pytest.fixture(params=BOTH)
def world(request: pytest.FixtureRequest, mariadb_server: MariadbServer, mariadb_url: str) -> Iterator[World]:
    with World(mariadb_server, mariadb_url, request.param) as world:
        yield world


# --- settling ----------------------------------------------------------------------------------------------------


def test_settle_proves_an_absent_commit_absent_for_ever(world: World) -> None:
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    world.insert(session, 1)
    assert world.run(world.resource.settle(world.session(), identifier)) is Evidence.ABSENT
    assert world.run(world.resource.settle(world.session(), identifier)) is Evidence.ABSENT  # DATABASES MariaDB 9
    vote = world.run(world.resource.commit_one_phase(session))  # the late commit
    assert vote.choice is Choice.NO
    assert "settled" in vote.reason
    assert world.rows() == []
    assert world.evidence(identifier) == "ABSENT"


def test_settle_finds_a_commit_that_happened(world: World) -> None:
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    world.insert(session, 1)
    world.run(world.resource.commit_one_phase(session))
    assert world.run(world.resource.settle(world.session(), identifier)) is Evidence.COMMITTED


def test_settle_and_evidence_are_undecided_while_the_row_is_being_written(world: World) -> None:
    session, identifier, _ = world.prepared()
    assert world.evidence(identifier) == "UNDECIDED"
    assert world.run(world.resource.settle(world.session(), identifier)) is Evidence.UNDECIDED
    assert world.run(world.resource.commit(session)) is Answer.COMMITTED
    assert world.evidence(identifier) == "COMMITTED"


def test_evidence_is_listed_and_dropped_but_never_a_prepared_branchs(world: World) -> None:
    done = [make_identifier(incarnation=7) for _ in range(3)]
    coordinator = done[0].coordinator
    for number, identifier in enumerate(done):
        session = world.begin(identifier=identifier)
        world.insert(session, number)
        world.run(world.resource.commit_one_phase(session))
    in_doubt = make_identifier(incarnation=7)
    session = world.begin(identifier=in_doubt)
    world.insert(session, 9)
    world.run(world.resource.prepare(session))
    helper = world.session()
    listed = world.run(world.resource.evidence_attempts(helper, coordinator, done[0].attempt, 2))
    assert listed == [done[0].attempt, done[1].attempt]
    attempts = [identifier.attempt for identifier in (*done, in_doubt)]
    assert world.run(world.resource.drop_evidence(helper, coordinator, attempts)) == 3
    assert world.run(world.resource.drop_evidence(helper, coordinator, attempts)) == 0
    assert world.run(world.resource.drop_evidence(helper, coordinator, [])) == 0
    world.run(world.resource.commit(session))
    assert world.evidence(in_doubt) == "COMMITTED"


def test_dropping_what_somebody_else_drops_waits_for_nothing(world: World) -> None:
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    world.insert(session, 1)
    world.run(world.resource.commit_one_phase(session))
    root = world.server.connect()
    try:
        root.begin()
        root.cursor().execute(f"DELETE FROM syncpoint.evidence WHERE attempt = {identifier.attempt.to_int()}")
        helper = world.session()
        dropped = world.run(world.resource.drop_evidence(helper, identifier.coordinator, [identifier.attempt]))
        assert dropped == 0
    finally:
        root.rollback()
        root.close()
    assert world.evidence(identifier) == "COMMITTED"


# --- what hardly ever happens ------------------------------------------------------------------------------------


def test_a_prepare_that_fails_after_xa_end_votes_no(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    world.insert(session, 1)
    text = sql.prepare(identifier)
    monkeypatch.setattr(sql, "prepare", lambda _: text.replace("XA PREPARE X'01", "XA PREPARE X'02"))
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.NO
    assert "the server refused" in vote.reason
    assert world.resource.is_usable(session)
    assert world.evidence(identifier) == "ABSENT"
    assert not world.is_listed(identifier)


def test_a_one_phase_commit_that_ended_in_an_unknown_way_is_settled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O20."""
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    world.insert(session, 1)
    text = sql.commit_one_phase(identifier)
    monkeypatch.setattr(sql, "commit_one_phase", lambda _: text + "; SELECT no_such_column")
    with pytest.raises(ConnectionLost, match="unknown way"):
        world.run(world.resource.commit_one_phase(session))
    assert session.broken
    assert world.run(world.resource.settle(world.session(), identifier)) is Evidence.COMMITTED
