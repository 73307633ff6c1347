"""A branch on a SQLite file: begin, vote, commit, abort; and that nobody else ends it. Real files, both runners."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from syncpoint.errors import ConnectionLost, NotAllowed, SetupRefused
from syncpoint.resources.base import Answer, Choice, Evidence
from tests.resources.sqlite_world import MODES, TABLE, World, change, is_locked, make_identifier, observe


@pytest.fixture(params=MODES)
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with World(tmp_path / "audit.db", request.param) as made:
        made.committed(TABLE)
        yield made


def test_two_phases_commit_the_rows_and_the_evidence(world: World) -> None:
    identifier, vote = world.vote("INSERT INTO t VALUES (1, 'a')")
    assert vote.choice is Choice.YES
    assert vote.state
    assert world.rows() == []
    assert is_locked(world.path)  # A7
    assert world.commit() is Answer.COMMITTED
    assert world.rows() == [(1, "a")]
    assert not is_locked(world.path)
    assert world.run(world.resource.evidence(world.session, identifier)) is Evidence.COMMITTED
    assert world.standing() == []


def test_abort_after_the_vote_leaves_nothing_to_ask_about(world: World) -> None:
    identifier, _ = world.vote("INSERT INTO t VALUES (1, 'a')")
    assert world.abort() is Answer.ABORTED
    assert world.rows() == []
    assert world.standing() == []
    assert world.run(world.resource.settle(world.session, identifier)) is Evidence.ABSENT


def test_abort_before_the_vote(world: World) -> None:
    world.begin()
    world.execute("INSERT INTO t VALUES (1, 'a')")
    assert world.abort() is Answer.ABORTED
    assert world.abort() is Answer.ABORTED  # O48
    assert world.rows() == []


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM t", "UPDATE t SET v = 1 WHERE id = 99", "UPDATE t SET v = v", "CREATE TEMP TABLE x (y)"],
)
def test_a_branch_that_changed_nothing_votes_read_only(world: World, statement: str) -> None:
    world.committed("INSERT INTO t VALUES (1, 'a')")
    _, vote = world.vote(statement)
    assert vote.choice is Choice.READ_ONLY
    assert not is_locked(world.path)


def test_wrote_says_whether_a_prepare_is_needed(world: World) -> None:
    world.begin()
    assert world.run(world.resource.wrote(world.session)) is False
    world.execute("INSERT INTO t VALUES (1, 'a')")
    assert world.run(world.resource.wrote(world.session)) is True
    world.abort()
    world.begin(read_only=True)
    assert world.run(world.resource.wrote(world.session)) is False


def test_one_phase_commits_what_no_changeset_could_carry(world: World) -> None:
    identifier = world.begin()
    world.execute("CREATE TABLE keyless (a)", "INSERT INTO keyless VALUES (1)")
    assert world.run(world.resource.commit_one_phase(world.session)) is Answer.COMMITTED
    assert world.rows("SELECT * FROM keyless") == [(1,)]
    assert world.run(world.resource.settle(world.session, identifier)) is Evidence.COMMITTED


def test_one_phase_of_a_branch_that_wrote_nothing(world: World) -> None:
    world.begin()
    assert world.run(world.resource.commit_one_phase(world.session)).choice is Choice.READ_ONLY


@pytest.mark.parametrize("one_phase", [True, False])
def test_an_unsatisfied_deferred_foreign_key_votes_no_and_does_not_wait_for_commit(
    world: World, one_phase: bool
) -> None:
    world.committed(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE child (id INTEGER PRIMARY KEY, p REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
    )
    world.execute("PRAGMA foreign_keys = on")
    world.begin()
    world.execute("INSERT INTO child VALUES (1, 7)")
    resource = world.resource
    vote = world.run((resource.commit_one_phase if one_phase else resource.prepare)(world.session))
    assert vote.choice is Choice.NO
    assert "foreign key" in vote.reason
    assert isinstance(vote.error, apsw.ConstraintError)
    _, vote = world.vote("INSERT INTO child VALUES (1, 7)", "INSERT INTO parent VALUES (7)")
    assert vote.choice is Choice.YES
    assert world.commit() is Answer.COMMITTED


def test_an_identifier_that_committed_before_is_not_unique(world: World) -> None:
    identifier, _ = world.vote("INSERT INTO t VALUES (1, 'a')")
    world.commit()
    world.begin(identifier=identifier)
    world.execute("INSERT INTO t VALUES (2, 'b')")
    vote = world.run(world.resource.prepare(world.session))
    assert vote.choice is Choice.NO  # A4
    assert "not unique" in vote.reason
    assert world.rows() == [(1, "a")]


# --- ending the branch behind our back ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["COMMIT", "END", "ROLLBACK", "BEGIN", "commit /* now */", "SELECT 1; COMMIT"])
def test_sql_that_would_end_the_branch_is_refused_and_the_branch_goes_on(world: World, text: str) -> None:
    world.begin()
    world.execute("INSERT INTO t VALUES (1, 'a')")
    with pytest.raises(NotAllowed, match="branch"):
        world.execute(text)
    assert world.rows() == []
    world.execute("INSERT INTO t VALUES (2, 'b')")
    assert world.run(world.resource.prepare(world.session)).choice is Choice.YES
    world.commit()
    assert world.rows() == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.close(),
        lambda c: c.close(True),
        lambda c: c.preupdate_hook(None),
        lambda c: c.deserialize("main", b""),
        lambda c: c.execute("PRAGMA synchronous = off"),
        lambda c: c.execute("PRAGMA journal_mode = off"),
        lambda c: c.execute("VACUUM"),
    ],
)
def test_calls_that_would_break_the_branch_are_refused(world: World, call: Any) -> None:
    world.begin()
    world.execute("INSERT INTO t VALUES (1, 'a')")
    try:
        call(world.connection)
    except (NotAllowed, apsw.Error):
        pass
    else:  # SQLite ignores it inside a transaction
        assert world.connection.pragma("journal_mode") == "wal"
    assert world.run(world.resource.prepare(world.session)).choice is Choice.YES
    assert world.commit() is Answer.COMMITTED
    assert world.rows() == [(1, "a")]


@pytest.mark.parametrize("one_phase", [True, False])
def test_a_statement_that_rolls_the_branch_back_makes_it_vote_no(world: World, one_phase: bool) -> None:
    world.committed("INSERT INTO t VALUES (1, 'a')")
    world.begin()
    world.execute("INSERT INTO t VALUES (2, 'b')")
    with pytest.raises(apsw.ConstraintError):
        world.execute("INSERT OR ROLLBACK INTO t VALUES (1, 'c')")
    with pytest.raises(NotAllowed):
        world.execute("INSERT INTO t VALUES (3, 'd')")  # would commit on its own
    resource = world.resource
    vote = world.run((resource.commit_one_phase if one_phase else resource.prepare)(world.session))
    assert vote.choice is Choice.NO
    assert "rolled back" in vote.reason
    assert not world.resource.is_usable(world.session)
    assert world.rows() == [(1, "a")]


def test_a_commit_past_a_replaced_authorizer_is_vetoed(world: World) -> None:
    world.begin()
    world.execute("INSERT INTO t VALUES (1, 'a')")
    world.connection.authorizer = None
    with pytest.raises(NotAllowed):
        world.execute("COMMIT")
    assert world.run(world.resource.prepare(world.session)).choice is Choice.NO
    assert world.rows() == []
    world.fresh()
    world.begin()
    with pytest.raises(NotAllowed):
        world.execute("COMMIT")


def test_a_rollback_past_a_replaced_authorizer_is_noticed(world: World) -> None:
    world.begin()
    world.connection.authorizer = None
    world.execute("ROLLBACK", "BEGIN")
    assert world.run(world.resource.prepare(world.session)).choice is Choice.NO


def test_nothing_can_be_written_after_the_vote_or_after_the_end(world: World) -> None:
    world.vote("INSERT INTO t VALUES (1, 'a')")
    with pytest.raises(apsw.ReadOnlyError):
        world.execute("INSERT INTO t VALUES (2, 'b')")
    world.commit()
    with pytest.raises(NotAllowed):
        world.execute("INSERT INTO t VALUES (3, 'c')")
    assert world.rows() == [(1, "a")]


def test_a_read_only_branch_cannot_write_and_waits_for_no_writer(world: World) -> None:
    world.vote("INSERT INTO t VALUES (1, 'a')")
    reader = world.open()
    world.begin(session=reader, read_only=True)
    connection = world.resource.connection(reader)
    assert connection.execute("SELECT count(*) FROM t").get == 0
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("INSERT INTO t VALUES (2, 'b')")
    world.abort()
    connection.pragma("query_only", False)
    connection.execute("INSERT INTO t VALUES (2, 'b')")
    vote = world.run(world.resource.prepare(reader))
    assert (vote.choice, vote.reason) == (Choice.NO, "it wrote, though it was begun as read-only")
    world.begin(session=reader, read_only=True)
    assert world.run(world.resource.prepare(reader)).choice is Choice.READ_ONLY
    assert world.rows() == []


# --- statements left open ------------------------------------------------------------------------------------------


def test_a_cursor_left_open_does_not_keep_the_branch_from_committing(world: World) -> None:
    world.committed("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    world.begin()
    reading = world.connection.execute("SELECT * FROM t")
    returning = world.connection.execute("INSERT INTO t VALUES (3, 'c'), (4, 'd') RETURNING id")
    assert world.run(world.resource.prepare(world.session)).choice is Choice.YES
    assert world.commit() is Answer.COMMITTED
    assert world.rows("SELECT count(*) FROM t") == [(4,)]
    del reading, returning


@pytest.mark.parametrize("one_phase", [True, False])
def test_a_statement_that_apsw_has_not_run_yet_makes_it_vote_no(world: World, one_phase: bool) -> None:
    world.begin()
    world.execute("INSERT INTO t VALUES (1, 'a')")
    lazy = world.connection.execute("SELECT 1; INSERT INTO t VALUES (2, 'b')")
    resource = world.resource
    vote = world.run((resource.commit_one_phase if one_phase else resource.prepare)(world.session))
    assert vote.choice is Choice.NO
    assert "several statements" in vote.reason
    assert world.rows() == []
    del lazy


def test_what_a_user_sets_on_the_connection_does_not_reach_the_next_branch(world: World) -> None:
    world.begin()
    world.connection.row_trace = lambda cursor, row: {"row": row}
    world.connection.exec_trace = lambda *_: True
    world.execute("INSERT INTO t VALUES (1, 'a')")
    assert world.run(world.resource.prepare(world.session)).choice is Choice.YES
    world.commit()
    world.begin()
    assert world.connection.execute("SELECT * FROM t").fetchall() == [(1, "a")]


# --- savepoints ------------------------------------------------------------------------------------------------------


def test_savepoints_take_back_a_part(world: World) -> None:
    world.begin()
    world.execute("INSERT INTO t VALUES (1, 'a')")
    world.run(world.resource.savepoint(world.session, 'odd "name'))
    world.execute("INSERT INTO t VALUES (2, 'b')", "UPDATE t SET v = 'x'")
    world.run(world.resource.rollback_to_savepoint(world.session, 'odd "name'))
    world.execute("INSERT INTO t VALUES (3, 'c')")
    world.run(world.resource.release_savepoint(world.session, 'odd "name'))
    with world.connection:  # apsw's own savepoint
        world.execute("INSERT INTO t VALUES (4, 'd')")
    identifier = world.session.identifier
    state = world.run(world.resource.prepare(world.session)).state
    world.fresh()
    assert world.finish(identifier, state) is Answer.COMMITTED
    assert world.rows() == [(1, "a"), (3, "c"), (4, "d")]


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_a_writer_waits_only_as_long_as_its_time_and_says_for_whom(world: World) -> None:
    world.begin()
    other = world.open()
    with pytest.raises(apsw.BusyError) as caught:
        world.begin(session=other, remaining_ms=300)
    assert world.resource.is_retryable(caught.value)
    assert "holds the write lock" in caught.value.__notes__[0]
    assert "this process" in world.run(world.resource.blockers(other))
    world.abort()
    assert world.run(world.resource.blockers(other)) == ""
    world.begin(session=other)
    assert not world.resource.is_retryable(ValueError())


def test_readers_in_rollback_journal_mode_hold_up_a_commit_and_it_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncpoint.resources.sqlite_branch.COMMIT_BUSY_MS", 20)
    with World(tmp_path / "old.db", "sync", {"journal_mode": "keep"}) as world:
        world.committed(TABLE)
        identifier, _ = world.vote("INSERT INTO t VALUES (1, 'a')")
        reader = world.open()
        world.begin(session=reader, read_only=True)
        reading = world.resource.connection(reader).execute("SELECT * FROM t")
        assert world.commit() is Answer.RETRY
        assert not world.session.broken
        world.run(world.resource.abort(reader))
        assert world.commit() is Answer.COMMITTED
        assert world.rows() == [(1, "a")]
        del reading, identifier


def test_a_one_phase_commit_held_up_by_a_reader_is_a_retryable_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncpoint.resources.sqlite_branch.COMMIT_BUSY_MS", 20)
    with World(tmp_path / "old.db", "sync", {"journal_mode": "keep"}) as world:
        world.committed(TABLE)
        reader = world.open()
        world.begin(session=reader, read_only=True)
        reading = world.resource.connection(reader).execute("SELECT * FROM sqlite_schema")
        world.begin()
        world.execute("INSERT INTO t VALUES (1, 'a')")
        vote = world.run(world.resource.commit_one_phase(world.session))
        assert (vote.choice, vote.retryable) == (Choice.NO, True)
        world.run(world.resource.abort(reader))
        assert world.rows() == []
        del reading


# --- the file goes away --------------------------------------------------------------------------------------------


def test_a_file_that_was_replaced_is_noticed_before_anything_is_written(world: World) -> None:
    world.close(world.open())
    copy = world.path.with_suffix(".copy")
    change(world.path, f"VACUUM INTO '{copy}'")
    copy.replace(world.path)
    with pytest.raises(ConnectionLost, match="replaced"):
        world.begin()
    assert not world.resource.is_usable(world.session)
    for name in ("-wal", "-shm"):
        world.path.with_name(world.path.name + name).unlink(missing_ok=True)
    session = world.open()
    world.begin(session=session)


def test_without_syncpoints_tables_a_branch_is_refused_in_words(tmp_path: Path) -> None:
    with World(tmp_path / "bare.db", "sync", ready=False) as world:
        world.session = world.open()
        with pytest.raises(SetupRefused, match="syncpoint init"):
            world.begin()
        assert not is_locked(world.path)
        assert world.run(world.resource.evidence(world.session, make_identifier())) is Evidence.ABSENT


def test_evidence_is_listed_from_an_attempt_on_and_dropped_in_batches(world: World) -> None:
    identifiers = []
    for number in range(3):
        identifier, _ = world.vote(f"INSERT INTO t VALUES ({number}, 'x')")
        world.commit()
        identifiers.append(identifier)
    first, second, third = (identifier.attempt for identifier in identifiers)
    coordinator = identifiers[0].coordinator
    listed = world.run(world.resource.evidence_attempts(world.session, coordinator, first, 2))
    assert listed == [first, second]
    assert world.run(world.resource.drop_evidence(world.session, coordinator, [first, third])) == 2
    assert world.run(world.resource.evidence_attempts(world.session, coordinator, first, 9)) == [second]
    assert world.standing() == []  # the note of the third was cleared with its evidence
    assert observe(world.path, "SELECT count(*) FROM t") == [(3,)]


def test_dropping_evidence_while_another_writes_drops_nothing(world: World) -> None:
    identifier, _ = world.vote("INSERT INTO t VALUES (1, 'x')")
    world.commit()
    other = world.open()
    world.begin(session=other)
    assert world.run(world.resource.drop_evidence(world.session, identifier.coordinator, [identifier.attempt])) == 0


def test_what_was_finished_and_cleaned_is_not_redone(world: World) -> None:
    """By a process that was taken for dead, and stopped between finding no evidence and the redo."""
    identifier, vote = world.vote("INSERT INTO t VALUES (1, 'x')")
    world.commit()
    assert world.run(world.resource.drop_evidence(world.session, identifier.coordinator, [identifier.attempt])) == 1
    change(world.path, "DELETE FROM t")  # the application goes on; a redo would bring the row back
    assert world.finish(identifier, vote.state) is Answer.COMMITTED
    assert world.run(world.resource.redo(world.session, identifier, vote.state)) is Answer.COMMITTED
    assert observe(world.path, "SELECT count(*) FROM t") == [(0,)]
