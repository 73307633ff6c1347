"""What each database is told around the journal's packets, and the words in which both say the same.

Seen from inside a packet, as the server has it. Not for: the tables (test_database_tables.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from syncpoint.errors import ConnectionLost
from syncpoint.journal.store import Said, Trouble
from syncpoint.steps import Call
from tests.journal.database_world import Process, World

AWKWARD = "b'\\\"`;-- ö€\U0001f600\n\t%s {x}"


@pytest.fixture
def one(world: World) -> Process:
    return world.process(heartbeat_s=30.0, dead_after_s=60.0)


def said(one: Process, *statements: str, durable: bool = True) -> Said:
    """What came back for these as one packet."""
    return one(one.journal._wire.run(statements, "look", repeat=False, durable=durable))  # type: ignore[no-any-return]


def rows(one: Process, *statements: str, durable: bool = True) -> Any:
    found = said(one, *statements, durable=durable)
    assert (found.trouble, found.error) == (Trouble.NONE, None)
    return found.rows


def test_what_is_set_for_a_packet_and_only_for_it(world: World, one: Process) -> None:
    if world.kind == "mariadb":
        names = "@@sql_mode LIKE '%STRICT%', @@autocommit, @@in_transaction"
        (((strict, _, inside),),) = rows(one, f"SELECT {names}")
        assert (strict, inside) == ("1", "0"), "one statement is its own transaction"
        assert rows(one, "SELECT @@in_transaction", "SELECT 1") == ((("1",),), (("1",),))
        return
    names = ("transaction_isolation", "transaction_read_only", "lock_timeout", "statement_timeout")
    shown = [f"SHOW {name}" for name in (*names, "synchronous_commit")]
    expected: Sequence[str] = ("read committed", "off", "1s", "30s")
    for durable in (True, False):
        assert [row for ((row,),) in rows(one, *shown, durable=durable)] == [*expected, "on" if durable else "off"]
    # Behind a pooler the next one is somebody else's.
    session = one(one.journal._wire.acquire("look"))
    try:
        found = session.pgconn.exec_(b"SHOW lock_timeout").get_value(0, 0)
    finally:
        one(one.journal._wire.release(session))
    assert found == b"0"


def test_a_packet_is_one_transaction(world: World, one: Process) -> None:
    claim = "INSERT INTO syncpoint.claim (transaction, incarnation) VALUES ({}, 1)"
    first, second = (claim.format(world.store.raw(letter * 16)) for letter in (b"a", b"b"))
    found = said(one, first, "SELECT 7", first, second)
    assert (found.trouble, found.rows[1]) == (Trouble.DUPLICATE, (("7",),)), "rows up to the error"
    assert world.claims() == []
    assert rows(one, first, "SELECT 8", second)[1] == (("8",),)
    assert world.claims() == [1, 1]


@pytest.mark.parametrize(
    ("statement", "trouble"),
    [
        ("INSERT INTO syncpoint.heartbeat (incarnation, beat) VALUES ({own}, {now})", Trouble.DUPLICATE),
        ("INSERT INTO syncpoint.claim (transaction, incarnation) VALUES ({raw}, NULL)", Trouble.FENCED),
        ("SELECT 1 FROM syncpoint.nothing", Trouble.MISSING),
        ("SELECT nothing FROM syncpoint.journal", Trouble.REFUSED),
        ("SELEKT", Trouble.REFUSED),
    ],
)
def test_what_its_errors_mean(world: World, one: Process, statement: str, trouble: Trouble) -> None:
    text = statement.format(own=one.incarnation, now=world.store.NOW, raw=world.store.raw(b"a" * 16))
    found = said(one, text)
    assert found.trouble is trouble
    assert found.error is not None
    assert rows(one, "SELECT 1") == ((("1",),),), "the session goes on"


def test_waiting_for_a_lock_is_busy(world: World, one: Process) -> None:
    holder = world.another()
    holder(world.begin)
    update = f"UPDATE syncpoint.incarnation SET process = 'x' WHERE incarnation = {one.incarnation}"
    holder(update)
    assert said(one, update).trouble is Trouble.BUSY
    holder("ROLLBACK")
    assert said(one, update).trouble is Trouble.NONE


def test_a_session_that_was_interrupted_is_not_used_again(
    world: World, one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = "SELECT pg_catalog.pg_backend_pid()" if world.kind == "postgresql" else "SELECT CONNECTION_ID()"
    before = rows(one, who)
    assert rows(one, who) == before

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patch:
        patch.setattr(one.journal._store, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            said(one, who)
    assert rows(one, who) != before


def test_words(world: World, one: Process) -> None:
    words = world.store
    data = bytes(range(256))
    selected = (words.raw(data), words.text(AWKWARD), words.text(""), f"{words.ago(90)} < {words.NOW}")
    (((raw, text, empty, is_before),),) = rows(one, f"SELECT {words.digits(selected[0])}, {', '.join(selected[1:])}")
    assert bytes.fromhex(raw) == data
    assert (text, empty) == (AWKWARD, "")
    assert is_before in ("t", "1")


def test_how_long_ago(world: World, one: Process) -> None:
    words = world.store
    seconds = (
        "EXTRACT(EPOCH FROM {now} - ({ago}))"
        if world.kind == "postgresql"
        else "TIMESTAMPDIFF(MICROSECOND, {ago}, {now}) / 1000000"
    )
    for ago_s in (0.25, 90.0, -3.0):
        text = seconds.format(now=words.NOW, ago=words.ago(ago_s))
        (((found,),),) = rows(one, f"SELECT {text}")
        assert ago_s - 0.001 <= float(found) < ago_s + 0.2


def test_an_insert_of_what_is_there(world: World, one: Process) -> None:
    insert = "INSERT INTO syncpoint.known (kind, name, data) VALUES ('{}', 'n', {}) {}"
    words = world.store
    for kind, tail, kept in (
        ("resource", words.unless_there("kind"), b"first"),
        ("coordinator", words.or_update("kind, name", ("data",)), b"second"),
    ):
        for data in (b"first", b"second"):
            rows(one, insert.format(kind, words.raw(data), tail))
        (((found,),),) = rows(one, f"SELECT {words.digits('data')} FROM syncpoint.known WHERE kind = '{kind}'")
        assert bytes.fromhex(found) == kept


def test_conditions_name_these_rows_and_no_other(world: World, one: Process) -> None:
    words = world.store
    for transaction, incarnation in ((b"a", 1), (b"b", 2), (b"c", 3), (b"d", 1)):
        raw = words.raw(transaction * 16)
        world.see(f"INSERT INTO syncpoint.claim (transaction, incarnation) VALUES ({raw}, {incarnation})")
    pairs = [(words.raw(letter * 16), number) for letter, number in ((b"a", "1"), (b"b", "1"), (b"c", "3"))]
    conditions = words.conditions(("transaction", "incarnation"), pairs)
    deletes = [f"DELETE FROM syncpoint.claim WHERE {which}" for which in conditions]
    rows(one, *deletes)
    assert world.claims() == [2, 1]


def test_in_a_branch_the_servers_checks_are_on(world: World, one: Process) -> None:
    """With unique_checks=0 InnoDB may let a second writer win."""
    found = world.store.in_branch("SELECT @@unique_checks, @@foreign_key_checks")
    if world.kind == "postgresql":
        assert found == "SELECT @@unique_checks, @@foreign_key_checks"
        return
    see = world.another()
    see("SET unique_checks=0, foreign_key_checks=0")
    assert see(found) == [(1, 1)]
    assert see("SELECT @@unique_checks") == [(0,)]


def test_mariadb_part_of_an_answer_is_no_answer(world: World, one: Process) -> None:
    if world.kind == "postgresql":
        pytest.skip("PostgreSQL answers a packet as one")
    driver = one.journal._store._mariadb.driver  # type: ignore[attr-defined]
    send = driver.send

    def cut(*given: Any) -> Call:
        """As if the last reply had not come."""
        call = send(*given)

        def run() -> Any:
            replies = call.run()
            return replace(replies, results=replies.results[:-1])

        return Call(run, call.what)

    session = one(one.journal._wire.acquire("look"))
    try:
        driver.send = cut
        with pytest.raises(ConnectionLost, match=r"^The journal's look was answered in part only\.$"):
            one(one.journal._store.run(session, ["SELECT 1"], "look"))
        assert session.broken
    finally:
        driver.send = send
        one(one.journal._wire.release(session))
