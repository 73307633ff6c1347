"""What a journal in a database says when something is wrong: whole sentences, with what to do, and no secrets.

The same tests on PostgreSQL and MariaDB. Not for: when it says so (test_database_faults.py, test_database_opening.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from syncpoint.errors import (
    FormatTooNew,
    JournalRefused,
    JournalUnavailable,
    JournalUncertain,
    ManagerClosed,
    ResourceUnavailable,
    SetupRefused,
)
from syncpoint.journal import wire
from syncpoint.journal.store import in_one_line
from syncpoint.testing.proxy import FaultProxy
from tests.journal.database_world import Process, World, commit

QUIET = {"heartbeat_s": 30.0, "dead_after_s": 60.0}
UNCERTAIN = "Whether it was done is found out."
RESTORE = "Nothing more is done with it. Restore its newest copy, then restart this process."


def url_of(world: World) -> str:
    return world.store.resource.safe_url


@contextlib.contextmanager
def renamed(world: World, table: str, column: str) -> Iterator[None]:
    """A column that is called otherwise for a moment. MariaDB's schema is every test's."""
    world.see(f"ALTER TABLE syncpoint.{table} RENAME COLUMN {column} TO other_name")
    try:
        yield
    finally:
        world.see(f"ALTER TABLE syncpoint.{table} RENAME COLUMN other_name TO {column}")


# --- reaching it ----------------------------------------------------------------------------------------------------


def test_one_that_is_away(world: World) -> None:
    with FaultProxy(world.url) as proxy:
        url = proxy.url(world.url)
        one = world.process(url, **QUIET)
        proxy.close()
        with pytest.raises(JournalUnavailable) as raised:
            one(one.journal.highest_incarnation())
        with pytest.raises(JournalUnavailable) as opening:
            world.process(url)
    for error, what in ((raised.value, "read the counter"), (opening.value, "open it")):
        cause = error.__cause__
        assert isinstance(cause, ResourceUnavailable)
        assert error.message == f"The journal cannot be reached to {what}: {cause.message}"
        assert error.advice == cause.advice


def test_too_many_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one = world.process(sessions_max=2, **QUIET)  # one of them is for signs of life
    monkeypatch.setattr(wire, "REACH_S_MAX", 0.2)
    session = one(one.journal._wire.acquire("hold it"))
    with pytest.raises(JournalUnavailable, match=r"^The journal cannot be reached to read the counter: ") as raised:
        one(one.journal.highest_incarnation())
    assert raised.value.advice == "Run fewer transactions at once, or raise sessions_max in the journal's URL."
    one(one.journal._wire.release(session))
    assert one(one.journal.highest_incarnation()) == one.incarnation


def test_a_turn_that_does_not_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one = world.process(**QUIET)
    turn = one.journal._lazily._turn
    one(turn.acquire(one.journal._clock.monotonic() + 10))
    monkeypatch.setattr(wire, "REACH_S_MAX", 0.2)
    with pytest.raises(JournalUnavailable, match="the journal's lazy rows") as raised:
        one.force()
    assert raised.value.advice == "Nothing was written. Try again."
    assert isinstance(raised.value.__cause__, ResourceUnavailable)
    turn.release()
    one.force()


def test_a_reply_that_is_lost(world: World) -> None:
    with FaultProxy(world.url) as proxy:
        one = world.process(proxy.url(world.url), **QUIET)
        key = one.key()
        proxy.lose_reply()
        with pytest.raises(JournalUncertain) as raised:
            one.commits(key)
        assert raised.value.message.startswith("The journal did not answer when asked to force a Commit record: ")
        assert raised.value.advice == UNCERTAIN
        one.close()


# --- what it refuses ------------------------------------------------------------------------------------------------


def test_a_packet_that_it_refuses(world: World) -> None:
    one = world.process(**QUIET)
    key = one.key()
    with renamed(world, "record", "once"), pytest.raises(JournalUnavailable) as raised:
        one(one.journal.find(key.transaction))
    why = in_one_line(raised.value.__cause__)
    assert "once" in why
    assert raised.value.message == f"The journal's database ({url_of(world)}) refused: {why}."
    assert raised.value.advice == "Nothing was written. Try again; if it stays so, see `syncpoint doctor`."


def test_a_decision_that_it_answers_in_a_way_nobody_has_thought_of(world: World) -> None:
    one = world.process(**QUIET)
    key = one.key()
    with renamed(world, "record", "kept"):
        with pytest.raises(JournalUncertain) as committing:
            one.commits(key)
        with pytest.raises(JournalUncertain) as aborting:
            one.aborts(key)
    assert committing.value.message.startswith(f"The journal did not say clearly whether it took {key}: ")
    assert aborting.value.message.startswith(f"The journal could not settle {key}: ")
    for error in (committing.value, aborting.value):
        assert "kept" in error.message
        assert error.message.endswith((".", "'."))
    assert world.records() == []


def test_a_decision_to_be_repeated_that_is_in_somebodys_way(world: World) -> None:
    """Nothing was written: it is told apart from a lost reply."""
    one = world.process(**QUIET)
    holder = world.another()
    holder(world.begin)
    holder(f"UPDATE syncpoint.incarnation SET process = 'x' WHERE incarnation = {one.incarnation}")
    key = one.key()
    with pytest.raises(JournalUnavailable, match=r"refused: "):
        _with_few_tries(one, key)
    holder("ROLLBACK")
    assert world.records() == []
    assert one.commits(key)


def _with_few_tries(one: Process, key: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "BUSY_TRIES", 1)
        one.commits(key)


# --- a journal that is not what it was ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DELETE FROM syncpoint.journal", "is gone."),
        ("DROP TABLE syncpoint.journal", "is gone."),
        ("UPDATE syncpoint.journal SET guid = {guid}", "is not the one any more that this process opened."),
        ("UPDATE syncpoint.journal SET refused = 'audit has seen more'", "is an older copy: audit has seen more"),
        (
            "UPDATE syncpoint.journal SET counter = counter - 1",
            "has gone back in time: its counter names an incarnation a second time.",
        ),
    ],
)
def test_one_that_changed_under_a_running_process(world: World, change: str, told: str) -> None:
    one = world.process(**QUIET)
    world.see(change.format(guid=world.store.raw(b"another".ljust(16, b"."))))
    with pytest.raises(JournalRefused) as raised:
        one(one.journal._living._begin_anew(one.incarnation))
    assert raised.value.message == f"The journal in {url_of(world)} {told}"
    assert raised.value.advice == RESTORE
    with pytest.raises(JournalRefused) as later:
        one.key()
    assert later.value is raised.value


def test_one_that_is_closed(world: World) -> None:
    one = world.process(**QUIET)
    assert repr(one.journal) == (
        f"<DatabaseJournal {url_of(world)} open <Living incarnation={one.incarnation} of [{one.incarnation}]>>"
    )
    one(one.journal.close())
    with pytest.raises(ManagerClosed) as raised:
        one.key()
    assert raised.value.message == f"The journal at {url_of(world)} is closed."
    assert raised.value.advice == "Open a new manager."
    fresh = Process(world.url)
    world.processes.append(fresh)
    assert repr(fresh.journal) == f"<DatabaseJournal {url_of(world)} new None>"
    for _ in range(2):
        fresh.journal.abandon()
        assert repr(fresh.journal) == f"<DatabaseJournal {url_of(world)} abandoned None>"


# --- opening --------------------------------------------------------------------------------------------------------


def test_opening_what_is_somebody_elses_or_older_or_newer(world: World) -> None:
    world.process(cluster="shop").close()
    with pytest.raises(JournalRefused) as raised:
        world.process(cluster="stock")
    assert raised.value.message == (
        f"The schema syncpoint in {url_of(world)} holds the journal of the cluster 'shop', not of 'stock'."
    )
    assert raised.value.advice == (
        "Two clusters never share a journal: use another database, or give the right ?cluster=…."
    )
    world.see("UPDATE syncpoint.journal SET refused = 'audit has seen more'")
    with pytest.raises(JournalRefused) as raised:
        world.process(cluster="shop")
    assert raised.value.message == f"The journal in {url_of(world)} is an older copy: audit has seen more"
    assert raised.value.advice == "Restore the newest one. If that is lost for good: `syncpoint journal adopt-copy`."
    world.see("UPDATE syncpoint.journal SET format = 2")
    with pytest.raises(FormatTooNew) as newer:
        world.process(cluster="shop")
    assert str(newer.value) == str(FormatTooNew("journal's schema", 2, 1))
    with renamed(world, "journal", "refused"), pytest.raises(FormatTooNew) as newer:
        world.process(cluster="shop")
    assert str(newer.value) == str(FormatTooNew("journal's schema", 2, 1))
    assert world.keepers() == {}


def test_opening_tables_that_cannot_be_used(world: World) -> None:
    world.process().close()
    with renamed(world, "journal", "cluster"), pytest.raises(SetupRefused) as raised:
        world.process()
    store = world.store
    begin = f"The journal's database ({url_of(world)}) has no usable journal tables, and this account may not make them"
    assert raised.value.message.startswith(f"{begin}: ")
    assert "cluster" in raised.value.message
    who, _, sql = raised.value.advice.partition("\n")
    assert who == "Let somebody who may run this once (`syncpoint init --print-sql` prints it too):"
    assert sql.endswith(";\n" + ";\n".join((*store.tables, store.grants)))
    (first, *_) = store.resource.init_statements()
    assert sql.startswith(f"{first};\n")


def test_opening_a_database_that_has_lost_its_own_guid(world: World) -> None:
    world.process().close()
    world.see("DELETE FROM syncpoint.resource")
    with pytest.raises(SetupRefused) as raised:
        world.process()
    assert raised.value.message.endswith(
        ": syncpoint.resource does not hold the GUID that it must: a GUID has 32 hexadecimal digits, not 0 characters."
    )
    for statement in world.store.resource.init_statements():  # as the error advises
        world.see(statement)
    assert world.process().incarnation == 2


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("one\ntwo", "one"),
        ("  ends.  ", "ends"),
        ("", ""),
        (None, "None"),
        (ValueError("bad value."), "bad value"),
        (ValueError(1064, "You have an error.\nHERE"), "You have an error"),
        (ValueError(), ""),
    ],
)
def test_what_a_driver_says_fits_in_a_sentence(why: object, said: str) -> None:
    assert in_one_line(why) == said


def test_a_commit_record_decides_for_its_transaction_alone(world: World) -> None:
    """What stands in a record's row, for whoever looks at it with SQL."""
    one = world.process(**QUIET)
    key = one.key()
    record = commit(key, user_id="x")
    assert one.force(record)
    store = world.store
    digits = ", ".join(store.digits(name) for name in ("transaction", "once"))
    ((transaction, once, attempt, incarnation, kept, ended),) = world.see(
        f"SELECT {digits}, attempt, incarnation, kept, ended FROM syncpoint.record"
    )
    assert bytes.fromhex(transaction) == bytes.fromhex(once) == key.transaction.raw
    assert (attempt, incarnation, bool(kept), ended) == (key.attempt.to_int(), one.incarnation, True, None)
