"""SIGKILL of a real process that works on a SQLite file, at every step and inside steps; another process settles it.

Whatever the point: afterwards the branch is there exactly once if it was decided, and not at all otherwise; nothing
is locked and nothing in doubt (R7).
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from syncpoint.ids import Identifier
from syncpoint.resources import sqlite
from syncpoint.resources.base import Answer, Ask, Decision, Evidence, Mode, Ruling
from syncpoint.resources.sqlite import FileInDoubt
from syncpoint.steps import Script
from tests.resources.sqlite_child import BRANCH, TestJournal
from tests.resources.sqlite_world import (
    MODES,
    TABLE,
    UNKNOWN,
    World,
    answering,
    change,
    is_locked,
    make_identifier,
    observe,
)

IDENTIFIER = make_identifier(number=BRANCH)


def start(role: str, path: Path, mode: Mode = "sync", point: str = "never") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.resources.sqlite_child", role, str(path), mode, point],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )


def run(role: str, path: Path, mode: Mode = "sync", point: str = "never") -> bool:
    """Run a role to its end; returns whether it was killed."""
    child = start(role, path, mode, point)
    child.communicate(timeout=60)
    assert child.returncode in (0, -signal.SIGKILL)
    return child.returncode != 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that has been contacted, with one row."""
    with World(tmp_path / "audit.db", "sync") as world:
        world.committed(TABLE)
        world.committed("INSERT INTO t VALUES (1, 0)")
    return tmp_path / "audit.db"


def assert_settled(path: Path, *, decided: bool) -> None:
    """Another process goes on: the branch is there once, or not at all, and nothing is left of it."""
    journal = TestJournal(path)
    assert (journal.ruling(IDENTIFIER).decision is Decision.COMMIT) == decided
    with World(path, "sync") as world:
        world.resource.ask = journal.ask()
        world.vote("INSERT INTO t VALUES (2, 'next')")
        assert world.commit() is Answer.COMMITTED
        expected = [(1, 1), (2, "next"), (BRANCH, "child")] if decided else [(1, 0), (2, "next")]
        assert observe(path, "SELECT * FROM t ORDER BY id") == expected
        evidence = world.run(world.resource.evidence(world.session, IDENTIFIER))
        assert evidence is (Evidence.COMMITTED if decided else Evidence.ABSENT)
        assert world.standing() == []
        assert not is_locked(path)
        assert observe(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_at_every_step_of_a_branch(tmp_path: Path, mode: Mode, when: str) -> None:
    number, killed = 0, True
    while killed:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / "audit.db"
        with World(path, "sync") as world:
            world.committed(TABLE)
            world.committed("INSERT INTO t VALUES (1, 0)")
        killed = run("branch", path, mode, f"{when}:{number}")
        assert_settled(path, decided=TestJournal(path).path.exists())
    assert number == 7  # open, contact, begin, prepare, commit, close


INSIDE_A_BRANCH = {
    "in:BEGIN IMMEDIATE:after": False,
    "in:changeset:after": False,
    "in:evidence:before": False,
    "in:evidence:after": False,
    "in:note:before": False,
    "in:note:torn": False,
    "in:note:after": False,
}


@pytest.mark.parametrize("point", INSIDE_A_BRANCH)
def test_kill_inside_the_vote(path: Path, point: str) -> None:
    assert run("branch", path, point=point)
    assert_settled(path, decided=False)


@pytest.mark.parametrize("point", ["in:note:after", "in:ROLLBACK:before", "in:ROLLBACK:after"])
def test_kill_inside_an_abort(path: Path, point: str) -> None:
    assert run("aborted", path, point=point)
    assert_settled(path, decided=False)


@pytest.mark.parametrize(
    ("role", "decided", "journal_mode"),
    [
        ("settle", True, "wal"),
        ("settle", False, "wal"),
        ("recover", True, "wal"),
        ("recover", False, "wal"),
        ("recover", True, "delete"),
    ],
)
def test_kill_at_every_step_of_a_settlement(tmp_path: Path, role: str, decided: bool, journal_mode: str) -> None:
    """The settler dies too, at every step and inside them, and the next one settles (O31)."""
    inside = ["evidence:before", "evidence:after", "apply:before", "apply:after", "COMMIT:before", "COMMIT:after"]
    if not decided:
        inside = ["note:before", "note:torn", "note:after"]
    kills = {"before": 0, "in": 0}
    path = tmp_path / "audit.db"
    with World(path, "sync", {"journal_mode": "wal" if journal_mode == "wal" else "keep"}) as world:
        world.committed(TABLE)
        world.committed("INSERT INTO t VALUES (1, 0)")
    assert run("branch", path, point="after:4")
    standing = path.with_name("audit.db-syncpoint").read_bytes()
    if decided:
        with World(path, "sync") as world:  # the decision was made; take its state from the same branch run anew
            pass
        decide_from_a_copy(path, tmp_path / "copy.db")
    snapshot = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path) if name.startswith("audit.")}
    assert standing

    def killed_at(point: str) -> bool:
        for name in os.listdir(tmp_path):
            if name.startswith("audit."):
                (tmp_path / name).unlink()
        for name, raw in snapshot.items():
            (tmp_path / name).write_bytes(raw)
        killed = run(role, path, point=point)
        assert_settled(path, decided=decided)
        return killed

    while killed_at(f"before:{kills['before'] + 1}"):
        kills["before"] += 1
    kills["in"] = sum(killed_at(f"in:{point}") for point in inside)
    steps = {("settle", True): 7, ("settle", False): 6, ("recover", True): 5, ("recover", False): 5}[role, decided]
    assert kills == {"before": steps, "in": len(inside)}


def decide_from_a_copy(path: Path, copy: Path) -> None:
    """Write the decision for the lost branch: its state is what the same statements yield on the same rows."""
    change(path, f"VACUUM INTO '{copy}'")
    with World(copy, "sync") as world:
        world.begin(identifier=IDENTIFIER)
        world.execute(f"INSERT INTO t VALUES ({BRANCH}, 'child')", "UPDATE t SET v = v + 1 WHERE id = 1")
        vote = world.run(world.resource.prepare(world.session))
        world.abort()
    TestJournal(path).decide(IDENTIFIER, vote.state)


# --- a living owner ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decided", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_voted_branch_keeps_the_file_until_its_process_dies(path: Path, mode: Mode, decided: bool) -> None:
    child = start("hold", path)
    assert child.stdout is not None
    asked: list[Identifier] = []
    identifier = IDENTIFIER
    try:
        state = bytes.fromhex(child.stdout.readline())
        assert state
        with World(path, mode, ready=False) as world:
            world.session = world.open()
            world.resource.ask = answering(UNKNOWN, asked)
            with pytest.raises(apsw.BusyError) as caught:
                world.begin(remaining_ms=100)
            assert world.resource.is_usable(world.session)
            if Path("/proc/locks").exists():
                assert f"process {child.pid} holds the write lock" in caught.value.__notes__[0]
            assert world.standing() == [identifier]  # A7
            for commit in (True, False):
                assert world.finish(identifier, state, commit=commit) is Answer.RETRY
            assert world.run(world.resource.evidence(world.session, identifier)) is Evidence.UNDECIDED
            assert asked == []
            child.kill()
            child.wait()
            world.resource.ask = answering(Ruling(Decision.COMMIT, state) if decided else Ruling(Decision.ABORT), asked)
            world.begin()
            assert asked == [identifier]
            assert world.connection.execute(f"SELECT v FROM t WHERE id = {BRANCH}").get == ("held" if decided else None)
            world.abort()
    finally:
        child.kill()
        child.communicate()


def test_contact_of_a_second_process_waits_for_a_living_branch_to_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE_S", 30.0)
    child = start("contend", path)
    with World(path, "sync") as world:
        assert world.guid
    assert child.wait(timeout=60) == 0
    child.communicate()


def test_two_processes_contend_and_lose_no_update(path: Path) -> None:
    children = [start("contend", path), start("contend", path)]
    for child in children:
        child.communicate(timeout=120)
    assert [child.returncode for child in children] == [0, 0]
    assert observe(path, "SELECT v FROM t WHERE id = 1") == [(60,)]
    assert observe(path, "SELECT count(*) FROM syncpoint_evidence WHERE attempt >> 32 > 1") == [(60,)]


# --- settling, step by step ------------------------------------------------------------------------------------------


def one_after_the_other(rulings: list[Ruling]) -> Ask:
    return lambda identifier: answering(rulings.pop(0))(identifier)


def lose_a_branch(world: World, *statements: str) -> tuple[Identifier, bytes]:
    """A branch that voted yes and whose connection is gone."""
    identifier, vote = world.vote(*statements)
    world.fresh()
    return identifier, vote.state


@pytest.mark.parametrize("mode", MODES)
def test_an_unknown_outcome_is_asked_for_again_with_the_lock_given_back(path: Path, mode: Mode) -> None:
    with World(path, mode) as world:
        identifier, state = lose_a_branch(world, "INSERT INTO t VALUES (5, 'lost')")
        answers = [UNKNOWN, UNKNOWN, Ruling(Decision.COMMIT, state)]
        finished: list[Answer] = []
        other = world.open()

        def ask(asked: Identifier) -> Script[Ruling]:
            assert asked == identifier
            finished.append((yield from world.resource.finish(other, asked, commit=True, state=b"")))
            return answers.pop(0)

        world.resource.ask = ask
        world.begin()
        assert finished == [Answer.RETRY] * 3  # the lock is held while asking: the answer cannot be overtaken
        assert world.connection.execute("SELECT v FROM t WHERE id = 5").get == "lost"
        world.abort()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asks", [True, False])
def test_an_outcome_that_stays_unknown_is_a_retryable_error_and_locks_nothing(
    path: Path, mode: Mode, asks: bool
) -> None:
    with World(path, mode) as world:
        identifier, state = lose_a_branch(world, "INSERT INTO t VALUES (5, 'lost')")
        world.resource.ask = answering(UNKNOWN) if asks else None
        with pytest.raises(FileInDoubt, match=str(identifier)) as caught:
            world.begin(remaining_ms=50)
        assert world.resource.is_retryable(caught.value)
        assert not is_locked(path)
        assert world.standing() == [identifier]
        world.session = world.open()
        assert world.finish(identifier, state) is Answer.COMMITTED
        world.begin()


def test_a_manager_that_fails_to_answer_leaves_the_session_to_be_closed(path: Path) -> None:
    def ask(identifier: Identifier) -> Script[Ruling]:
        raise OSError("the journal is gone")
        yield from ()

    with World(path, "sync") as world:
        identifier, _ = lose_a_branch(world, "INSERT INTO t VALUES (5, 'lost')")
        world.resource.ask = ask
        with pytest.raises(OSError, match="the journal is gone"):
            world.begin()
        assert not world.resource.is_usable(world.session)
        world.fresh()
        assert not is_locked(path)
        assert world.standing() == [identifier]


def test_a_decided_branch_that_conflicts_is_reported_by_recovery_and_then_blocks_nobody(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with World(path, "sync") as world:
        identifier, state = lose_a_branch(world, "UPDATE t SET v = 100 WHERE id = 1")
        change(path, "UPDATE t SET v = 55 WHERE id = 1")
        world.resource.ask = answering(Ruling(Decision.COMMIT, state))
        with pytest.raises(FileInDoubt, match=r"cannot be redone.*'t' with key"):
            world.begin()
        world.fresh()
        assert not is_locked(path)
        assert world.standing() == [identifier]  # so that recovery learns of it
        assert world.finish(identifier, state) is Answer.HEURISTIC_HAZARD
        assert "cannot be redone" in caplog.text
        assert "55" not in caplog.text  # DESIGN section 8: no row data
        world.vote("UPDATE t SET v = v + 1 WHERE id = 1")
        assert world.commit() is Answer.COMMITTED
        assert world.rows() == [(1, 56)]


def test_recovery_drops_an_undecided_branch_once(path: Path) -> None:
    with World(path, "sync") as world:
        identifier, state = lose_a_branch(world, "INSERT INTO t VALUES (5, 'lost')")
        assert world.finish(make_identifier(), b"", commit=False) is Answer.NOT_FOUND
        assert world.standing() == [identifier]
        assert world.finish(identifier, state, commit=False) is Answer.ABORTED
        assert world.finish(identifier, state, commit=False) is Answer.NOT_FOUND
        assert world.standing() == []
        assert world.rows() == [(1, 0)]


def test_a_commit_forced_without_state_information_does_not_keep_the_file_closed(path: Path) -> None:
    with World(path, "sync") as world:
        identifier, _ = lose_a_branch(world, "INSERT INTO t VALUES (5, 'lost')")
        assert world.finish(identifier, b"", commit=True) is Answer.NOT_FOUND
        assert world.standing() == []
        world.begin()


def test_aborting_what_is_committed_says_so(path: Path) -> None:
    with World(path, "sync") as world:
        identifier, _ = world.vote("INSERT INTO t VALUES (5, 'there')")
        world.commit()
        assert world.finish(identifier, b"", commit=False) is Answer.COMMITTED  # O11
        assert world.run(world.resource.redo(world.session, identifier, b"")) is Answer.COMMITTED


def test_a_redo_in_rollback_journal_mode_waits_for_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncpoint.resources.sqlite_settlement.COMMIT_BUSY_MS", 20)
    with World(tmp_path / "old.db", "sync", {"journal_mode": "keep"}) as world:
        world.committed(TABLE)
        identifier, state = lose_a_branch(world, "INSERT INTO t VALUES (5, 'lost')")
        reader = world.open()
        world.begin(session=reader, read_only=True)
        reading = world.resource.connection(reader).execute("SELECT count(*) FROM sqlite_schema")
        assert world.finish(identifier, state) is Answer.RETRY
        assert world.rows() == []
        world.run(world.resource.abort(reader))
        assert world.finish(identifier, state) is Answer.COMMITTED
        assert world.rows() == [(5, "lost")]
        del reading


def test_a_commit_whose_connection_lost_its_transaction_is_left_to_redo(path: Path) -> None:
    with World(path, "sync") as world:
        identifier, vote = world.vote("INSERT INTO t VALUES (5, 'x')")
        world.connection.control("ROLLBACK")  # as SQLite does after an I/O error
        assert world.commit() is Answer.RETRY
        assert world.abort() is Answer.ABORTED
        assert world.standing() == [identifier]  # without the lock the note is not ours to touch
        world.fresh()
        assert world.finish(identifier, vote.state) is Answer.COMMITTED


# --- every yield ------------------------------------------------------------------------------------------------------


def yields() -> set[int]:
    """Where the adapter yields a step: the line of the statement."""
    tree = ast.parse(Path(sqlite.__file__).read_text())
    return {node.lineno for node in ast.walk(tree) if isinstance(node, ast.Yield)}


@pytest.mark.parametrize("mode", MODES)
def test_every_yield_of_the_adapter_is_reached(tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncpoint.resources.sqlite_connection.OPEN_BUSY_MS", 0)
    seen: set[int] = set()
    holders = [apsw.Connection(str(tmp_path / "audit.db"))]
    holder = holders[0]
    holder.execute("CREATE TABLE x (y)")
    with World(tmp_path / "audit.db", mode, {"journal_mode": "wal"}, ready=False) as world:

        def look(point: object, step: object) -> None:
            file, _, line = str(point).split()[0].rpartition(":")
            if file == sqlite.__file__:
                seen.add(int(line))
            if type(step).__name__ == "Sleep" and holders:
                holders.pop().close()

        world.runner.observer = look
        holder.execute("BEGIN EXCLUSIVE")
        world.session = world.open()
        resource = world.resource
        world.run(resource.initialise(world.session))
        world.run(resource.inspect(world.session))
        guid = world.run(resource.contact(world.session, world.contact()))
        assert world.run(resource.recognise(world.session, world.contact())) == guid
        assert world.run(resource.data_guid(world.session)) == guid
        world.run(resource.serve_as(world.session, 1))
        assert world.run(resource.served_as(world.session)) == 1
        world.committed(TABLE)
        world.begin(read_only=True)
        world.abort()
        world.begin()
        world.run(resource.savepoint(world.session, "s"))
        world.run(resource.rollback_to_savepoint(world.session, "s"))
        world.run(resource.release_savepoint(world.session, "s"))
        world.run(resource.wrote(world.session))
        world.abort()
        for ruling in (Decision.COMMIT, Decision.ABORT):
            identifier, state = lose_a_branch(world, f"INSERT INTO t VALUES ({ruling.value}, 1)")
            answers = [UNKNOWN, Ruling(ruling, state)]
            resource.ask = one_after_the_other(answers)
            world.begin()
            world.abort()
        world.run(resource.scan(world.session))
        world.finish(identifier, state)
        world.run(resource.evidence(world.session, identifier))
        world.run(resource.blockers(world.session))
        attempts = world.run(resource.evidence_attempts(world.session, identifier.coordinator, identifier.attempt, 9))
        world.run(resource.drop_evidence(world.session, identifier.coordinator, attempts))
        world.vote("INSERT INTO t VALUES (9, 9)")
        world.commit()
        world.close(world.session)
        assert seen == yields()
