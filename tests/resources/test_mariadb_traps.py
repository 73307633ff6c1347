"""One test for each trap of DATABASES MariaDB that concerns branches; numbers are that page's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncpoint.errors import FormatTooNew, ResourceUnavailable
from syncpoint.ids import Identifier
from syncpoint.resources import mariadb_sql as sql
from syncpoint.resources.base import Answer, Choice, Mode
from syncpoint.resources.mariadb_session import Holder, transaction_state
from syncpoint.testing.servers.mariadb import MariadbServer
from tests.resources.mariadb_world import World, make_identifier, wait_until

BOTH: list[Mode] = ["sync", "async"]


@pytest.fixture(params=BOTH)
def world(request: pytest.FixtureRequest, mariadb_server: MariadbServer, mariadb_url: str) -> Iterator[World]:
    with World(mariadb_server, mariadb_url, request.param) as world:
        yield world


# --- 1 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [True, False])
def test_trap_01_a_lingering_connection_is_killed_and_its_branch_finished(world: World, commit: bool) -> None:
    session, identifier, state = world.prepared()
    assert world.finish(identifier, commit=commit) == "RETRY"  # "unknown XID", but listed: no proof of anything
    assert world.is_listed(identifier)
    assert world.finish(identifier, state, commit=commit) == ("COMMITTED" if commit else "ABORTED")
    assert world.rows() == ([1] if commit else [])
    assert world.evidence_rows(identifier) == (((1,),) if commit else ())
    wait_until(lambda: not world.lives(session.holder.connection_id))


@pytest.mark.parametrize("commit", [True, False])
def test_trap_01_a_client_killed_after_its_vote_is_finished_by_another_at_once(world: World, commit: bool) -> None:
    identifier = make_identifier()
    pid, state = vote_in_another_process(world, identifier)
    os.kill(pid, signal.SIGSTOP)  # it lives, holds its connection, and says nothing
    try:
        assert world.finish(identifier, state, commit=commit) == ("COMMITTED" if commit else "ABORTED")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert world.rows() == ([7] if commit else [])


def vote_in_another_process(world: World, identifier: Identifier) -> tuple[int, bytes]:
    program = """
import sys, time
sys.path.insert(0, sys.argv[1])
from syncpoint.ids import Identifier
from syncpoint.testing.servers.mariadb import MariadbServer
from tests.resources.mariadb_world import World
server = object.__new__(MariadbServer); server.port = int(sys.argv[2])
world = World(server, sys.argv[3], sys.argv[4], ready=False)
session = world.begin(identifier=Identifier.from_bytes(bytes.fromhex(sys.argv[5])))
world.insert(session, 7)
print(world.run(world.resource.prepare(session)).state.hex(), flush=True)
time.sleep(600)
"""
    root = str(Path(__file__).resolve().parents[2])
    url = world.server.url(world.database)
    arguments = [root, str(world.server.port), url, world.mode, identifier.to_bytes().hex()]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as pipe:
        state = bytes.fromhex(pipe.readline().decode())
    process.returncode = 0  # the test reaps it by pid
    return process.pid, state


def test_trap_01_the_server_detaches_the_branch_of_a_silent_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "LINGER_S", 0)
    identifier = make_identifier()
    session = world.begin(identifier=identifier, remaining_ms=1000)
    world.insert(session, 1)
    world.run(world.resource.prepare(session))
    helper = world.session()

    def finish() -> bool:
        answer = world.run(world.resource.finish(helper, identifier, commit=True, state=b""))
        return answer is Answer.COMMITTED

    wait_until(finish)
    assert world.rows() == [1]


def test_trap_01_an_account_that_may_not_kill_is_told_what_to_do(world: World) -> None:
    _, identifier, state = world.prepared()
    world.server.execute("CREATE OR REPLACE USER other IDENTIFIED BY 'other'")
    world.server.execute("GRANT SELECT ON syncpoint.* TO other")
    world.server.execute("GRANT PROCESS ON *.* TO other")
    url = f"mariadb://other:other@127.0.0.1:{world.server.port}/"
    with World(world.server, url, world.mode, ready=False) as other:
        with pytest.raises(ResourceUnavailable, match="GRANT CONNECTION ADMIN"):
            other.finish(identifier, state)
        world.server.execute("REVOKE PROCESS ON *.* FROM other")
        assert other.finish(identifier, state) == "RETRY"  # it cannot even see that connection
    assert world.is_listed(identifier)


# --- 2 -----------------------------------------------------------------------------------------------------------


def test_trap_02_an_ok_that_committed_nothing_is_not_believed(world: World) -> None:
    """A reset connection's branch: XA COMMIT answers OK, the row stays locked, a restart brings the branch back."""
    session, identifier, state = world.prepared()
    session.inside = True

    async def reset_async(connection: Any) -> None:
        await connection._execute_command(0x1F, b"")
        await connection._read_ok_packet()

    connection: Any = world.resource.connection(session)
    if world.mode == "sync":
        connection._execute_command(0x1F, b"")
        connection._read_ok_packet()
    else:
        world.do(lambda: reset_async(connection))
    assert world.finish(identifier, state) == "RETRY"
    assert world.rows() == []
    assert world.evidence(identifier) == "UNDECIDED"
    assert world.finish(identifier, state) == "NOT_FOUND"
    assert world.evidence(identifier) == "UNDECIDED"
    world.server.restart()
    assert world.finish(identifier, state) == "COMMITTED"
    assert world.rows() == [1]


# --- 4, 8 --------------------------------------------------------------------------------------------------------


def make_victim(world: World) -> tuple[Any, Identifier, Any]:
    """Two branches in a deadlock; returns the victim, its identifier, and the other."""
    world.sql("INSERT INTO account VALUES (1, 0), (2, 0), (3, 0)")
    identifier = make_identifier()
    victim = world.begin(identifier=identifier)
    world.execute(victim, "UPDATE account SET balance = 1 WHERE id = 1")
    other = world.server.connect(world.database)
    cursor = other.cursor()
    cursor.execute("BEGIN")
    # It has changed more rows, so the server chooses the other one.
    cursor.execute("UPDATE account SET balance = 2 WHERE id IN (2, 3)")
    cursor.execute("INSERT INTO account VALUES (10, 0), (11, 0), (12, 0)")
    waits = threading.Thread(target=cursor.execute, args=("UPDATE account SET balance = 2 WHERE id = 1",))
    waits.start()
    # Not INNODB_LOCK_WAITS: its rows are a copy that is not taken anew while it is read more than ten times a second.
    wait_until(lambda: int(world.sql("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")[0][1]) > 0)
    with pytest.raises(Exception, match="Deadlock"):
        world.execute(victim, "UPDATE account SET balance = 1 WHERE id = 2")
    waits.join()
    other.rollback()
    other.close()
    return victim, identifier, other


@pytest.mark.parametrize("way", ["prepare", "commit_one_phase"])
@pytest.mark.parametrize("goes_on", [True, False])
def test_trap_04_and_08_a_deadlocks_victim_votes_no_and_commits_nothing(world: World, way: str, goes_on: bool) -> None:
    victim, identifier, _ = make_victim(world)
    if goes_on:  # in a plain BEGIN this statement would commit by itself
        with pytest.raises(Exception, match="ROLLBACK ONLY"):
            world.insert(victim, 77)
    vote = world.run(getattr(world.resource, way)(victim))
    assert vote.choice is Choice.NO
    assert vote.retryable
    assert "Deadlock" in vote.reason or goes_on
    assert world.sql("SELECT SUM(balance), COUNT(*) FROM account") == ((0, 3),)
    assert world.evidence_rows(identifier) == ()
    assert world.resource.is_usable(victim)


def test_trap_04_a_victim_can_be_aborted(world: World) -> None:
    victim, identifier, _ = make_victim(world)
    assert world.run(world.resource.abort(victim)) is Answer.ABORTED
    assert world.evidence(identifier) == "ABSENT"
    world.insert(world.begin(victim), 5)


# --- 3 -----------------------------------------------------------------------------------------------------------


def test_trap_03_a_prepared_branch_of_others_that_changed_nothing_is_not_taken_for_committed(world: World) -> None:
    """Ours always hold their evidence. Should one come without: XA_RBROLLBACK, and the evidence decides."""
    identifier = make_identifier()
    for commit, answer in ((True, "NOT_FOUND"), (False, "ABORTED")):
        maker = world.server.connect(world.database)
        cursor = maker.cursor()
        name = sql.xid(identifier)
        for statement in (
            f"XA START {name}",
            "SELECT * FROM account FOR UPDATE",
            f"XA END {name}",
            f"XA PREPARE {name}",
        ):
            cursor.execute(statement)
        thread = maker.thread_id()
        maker.close()
        wait_until(lambda thread=thread: not world.lives(thread))
        assert world.finish(identifier, commit=commit) == answer


# --- 5 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("X'00ff',X'',7", (7, b"\x00\xff", b"")),
        ("X'00FF',X'61',7", (7, b"\x00\xff", b"a")),
        ("'a','b',7", (7, b"a", b"b")),
        ("'a','b'", (1, b"a", b"b")),
        ("'a'", (1, b"a", b"")),
        ("'a''b',X'',2147483647", (2147483647, b"a'b", b"")),
    ],
)
def test_trap_05_literals_of_xa_recover_are_read(literal: str, expected: tuple[int, bytes, bytes]) -> None:
    assert sql.read_xid(literal) == expected


@pytest.mark.parametrize("literal", ["", "X'0'", "X'zz'", "'a','b','c'", "'a' 'b'", "'a',7", "X'00',X'00',7;"])
def test_trap_05_what_is_no_literal_is_left_alone(literal: str) -> None:
    with pytest.raises(ValueError, match="not an xid"):
        sql.read_xid(literal)
    assert sql.found(literal).identifier is None


def test_trap_05_a_scan_finds_ours_and_leaves_foreign_ones_alone(world: World) -> None:
    """O33. XA RECOVER's own concatenation of the two parts is never relied upon."""
    _, identifier, _ = world.prepared()
    late = bytes((2,)) + identifier.to_bytes()[1:]  # a later format of ours
    foreign = ["'a','b',7", f"X'{late[:33].hex()}',X'{late[33:].hex()}',1397773361", f"X'{'fe' * 64}',X'{'00' * 64}',1"]
    makers = []
    for number, name in enumerate(foreign):
        maker = world.server.connect(world.database)
        makers.append(maker)
        cursor = maker.cursor()
        for statement in (
            f"XA START {name}",
            f"INSERT INTO account (id) VALUES ({100 + number})",
            f"XA END {name}",
            f"XA PREPARE {name}",
        ):
            cursor.execute(statement)
    found = world.run(world.resource.scan(world.session()))
    assert [one.identifier for one in found if one.identifier is not None] == [identifier]
    strangers = [one for one in found if one.identifier is None]
    assert len(strangers) == 3
    assert sum("format version 2" in one.note for one in strangers) == 1
    for maker in makers:
        maker.close()
    wait_until(lambda: all(not world.lives(maker.thread_id()) for maker in makers))
    for one in strangers:  # their literals can be used as they stand
        world.server.execute(f"XA ROLLBACK {one.name}")


# --- 6 -----------------------------------------------------------------------------------------------------------


def test_trap_06_closing_detaches_a_prepared_branch(world: World) -> None:
    session, identifier, _ = world.prepared()
    assert not world.resource.is_usable(session)
    world.run(world.resource.close(session))
    wait_until(lambda: not world.lives(session.holder.connection_id))
    assert world.is_listed(identifier)
    assert world.finish(identifier) == "COMMITTED"
    assert world.finish(identifier) == "NOT_FOUND"  # a second time: the evidence tells (O48)
    assert world.evidence(identifier) == "COMMITTED"
    assert world.rows() == [1]


# --- 10 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["started", "account", "connection"])
def test_trap_10_another_connection_of_that_number_is_never_killed(world: World, wrong: str) -> None:
    session, identifier, state = world.prepared()
    holder = Holder.from_bytes(state)
    assert holder is not None
    bystander = world.begin()
    lie = {
        "started": Holder(holder.server_started - 1, holder.connection_id, holder.account),
        "account": Holder(holder.server_started, holder.connection_id, holder.account + "9"),
        "connection": Holder(holder.server_started, bystander.holder.connection_id, holder.account),
    }[wrong]
    assert world.finish(identifier, lie.to_bytes()) == "RETRY"
    assert world.lives(holder.connection_id)
    assert world.lives(bystander.holder.connection_id)
    assert world.run(world.resource.commit(session)) is Answer.COMMITTED


def test_trap_10_state_information_of_a_later_format_is_refused(world: World) -> None:
    with pytest.raises(FormatTooNew):
        world.finish(make_identifier(), b"\x09whatever")


# --- a server's death --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [True, False])
def test_a_server_killed_between_vote_and_outcome_finishes_after_its_restart(world: World, commit: bool) -> None:
    """A7, O22: the vote is durable; its locks are held until the outcome."""
    session, identifier, state = world.prepared()
    world.server.kill()
    assert world.run(world.resource.close(session)) is None
    world.server.start()
    assert world.is_listed(identifier)
    assert world.evidence(identifier) == "UNDECIDED"
    assert world.finish(identifier, state, commit=commit) == ("COMMITTED" if commit else "ABORTED")
    assert world.rows() == ([1] if commit else [])
    assert world.evidence(identifier) == ("COMMITTED" if commit else "ABSENT")


def test_a_server_killed_before_the_vote_has_nothing_of_the_branch(world: World) -> None:
    identifier = make_identifier()
    session = world.begin(identifier=identifier)
    world.insert(session, 1)
    world.server.kill()
    world.server.start()
    with pytest.raises(Exception, match="lost"):
        world.run(world.resource.prepare(session))
    assert session.broken
    assert world.finish(identifier) == "NOT_FOUND"
    assert world.evidence(identifier) == "ABSENT"
    assert world.rows() == []


def test_a_server_that_turns_read_only_keeps_the_vote_and_is_asked_again(world: World) -> None:
    session, identifier, state = world.prepared()
    doomed, doomed_identifier, _ = world.prepared(3)
    unvoted = world.begin()
    world.insert(unvoted, 2)
    helper = world.session()
    done = make_identifier()
    world.insert(world.begin(helper, done), 4)
    world.run(world.resource.commit_one_phase(helper))
    world.server.execute("SET GLOBAL read_only = ON")
    try:
        vote = world.run(world.resource.prepare(unvoted))
        assert vote.choice is Choice.NO
        assert "read-only" in vote.reason
        assert world.run(world.resource.commit(session)) is Answer.RETRY
        world.run(world.resource.close(session))
        wait_until(lambda: not world.lives(session.holder.connection_id))
        assert world.finish(identifier, state) == "RETRY"
        assert world.run(world.resource.abort(doomed)) is Answer.RETRY
        with pytest.raises(Exception, match="read-only"):
            world.run(world.resource.drop_evidence(helper, done.coordinator, [done.attempt]))
        assert helper.broken
    finally:
        world.server.execute("SET GLOBAL read_only = OFF")
    assert world.finish(identifier, state) == "COMMITTED"
    world.run(world.resource.close(doomed))
    wait_until(lambda: not world.lives(doomed.holder.connection_id))
    assert world.finish(doomed_identifier, commit=False) == "ABORTED"
    assert world.rows() == [1, 4]


# --- the report in OK packets ------------------------------------------------------------------------------------


def test_the_transaction_state_is_read_and_rows_that_look_like_it_are_harmless() -> None:
    assert transaction_state(b"\0\0\0\x03\x40\0\0\0\x0b\x05\x09\x08T___W___") == "T___W___"
    assert transaction_state(b"\0\xfc\x01\x01\0\x03\x40\0\0\0\x10\0\x03abc\x05\x09\x08T_______") == "T_______"
    assert transaction_state(b"\0\0\0\x03\0\0\0") is None
    for row in (b"\0", b"\0\xff\xff", b"\0\0\0\xff\xff", b"\0\0\0\xff\xff\0\0\0\x0b\x05\x09", b"\0" * 40):
        assert transaction_state(row) is None
