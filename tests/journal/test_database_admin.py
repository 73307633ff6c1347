"""What commands do with a journal in a database: make it, look at it, adopt a copy. Asked without any process.

The same tests on PostgreSQL and MariaDB. Not for: the commands themselves (tests/cli/test_database_journal.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncpoint.errors import FormatTooNew, JournalRefused, SetupRefused
from syncpoint.ids import Guid
from syncpoint.journal.database_admin import AdoptedDatabase, DatabaseAdmin
from syncpoint.journal.wire import Wire
from syncpoint.resources.base import Finding, Severity
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemRandom
from tests.journal.database_world import World

CHECK = "journal tables"


def ask(world: World, what: Callable[[DatabaseAdmin, Any], Any], *, cluster: str = "shop") -> Any:
    """As a command does: one session, and nobody else's."""
    store = world.store
    admin = DatabaseAdmin(store, SystemRandom(), cluster)

    def script() -> Any:
        session = yield from wire.acquire("look")
        try:
            return (yield from what(admin, session))
        finally:
            yield from wire.release(session)
            yield from wire.close()

    runner = ThreadRunner()
    wire = Wire(store, runner, SystemClock(), 1)
    try:
        return runner.run(script())
    finally:
        runner.close()


def made(world: World) -> None:
    ask(world, lambda admin, session: admin.initialise(session))


def tables(world: World, *, cluster: str = "shop") -> Finding:
    """What `inspect` says of the journal's tables."""
    found = ask(world, lambda admin, session: admin.inspect(session), cluster=cluster)
    assert [one for one in found if one.for_prepare] == [], "a journal prepares nothing in its own database"
    assert len(found) > 1, "the database's own set-up too"
    (one,) = [one for one in found if one.check == CHECK]
    return one  # type: ignore[no-any-return]


def head(world: World) -> tuple[Any, ...]:
    ((guid, *others),) = world.see("SELECT guid, format, cluster, counter, refused FROM syncpoint.journal")
    return (bytes(guid), *others)


def missing(world: World) -> None:
    """No journal, as before the first of all."""
    if world.kind == "mariadb":
        world.see("DROP DATABASE IF EXISTS syncpoint")


@contextlib.contextmanager
def broken(world: World, breaking: str, mending: str) -> Iterator[None]:
    """MariaDB's schema is every test's."""
    world.see(f"ALTER TABLE syncpoint.journal {breaking}")
    try:
        yield
    finally:
        world.see(f"ALTER TABLE syncpoint.journal {mending}")


# --- making ---------------------------------------------------------------------------------------------------------


def test_what_init_prints_makes_a_journal_of_that_cluster(world: World) -> None:
    missing(world)
    admin = DatabaseAdmin(world.store, SystemRandom(), "shop")
    for _ in range(2):  # harmless to repeat
        for statement in admin.init_statements():
            world.see(statement)
    guid, *others = head(world)
    assert (len(guid), others) == (16, [1, "shop", 0, None])
    one = world.process(cluster="shop")
    assert one.journal.coordinator == Guid(guid)
    assert world.keepers() == {1: 1}


def test_initialising_twice_keeps_the_journal(world: World) -> None:
    missing(world)
    made(world)
    first = head(world)
    assert first[1:] == (1, "shop", 0, None)
    made(world)
    assert head(world) == first
    assert world.keepers() == {}, "no incarnation is drawn"


# --- looking --------------------------------------------------------------------------------------------------------


def test_inspect_of_none_and_of_a_good_one(world: World) -> None:
    missing(world)
    not_yet = Finding(Severity.OK, CHECK, "not there yet; made at first use when rights allow")
    assert tables(world) == not_yet
    made(world)
    guid = Guid(head(world)[0])
    assert tables(world) == Finding(Severity.OK, CHECK, f"there: coordinator {guid}, 0 starts of processes")
    world.see("UPDATE syncpoint.journal SET counter = 41")
    assert tables(world).found == f"there: coordinator {guid}, 41 starts of processes"
    world.see("DELETE FROM syncpoint.journal")
    assert tables(world) == not_yet


def test_inspect_of_what_cannot_be_used(world: World) -> None:
    made(world)
    world.see("UPDATE syncpoint.journal SET cluster = 'shop', refused = 'audit has seen more'")
    assert tables(world) == Finding(
        Severity.REFUSED,
        CHECK,
        "an older copy: audit has seen more",
        "Restore the newest copy; if it is lost for good: syncpoint journal adopt-copy",
    )
    assert tables(world, cluster="stock") == Finding(
        Severity.REFUSED,
        CHECK,
        "of the cluster 'shop', not 'stock'",
        "Use another database, or give the right ?cluster=… in the journal's URL.",
    )
    world.see("UPDATE syncpoint.journal SET format = 2")
    assert tables(world) == Finding(
        Severity.REFUSED, CHECK, "format 2; this Syncpoint knows 1", "Run the newer Syncpoint that made them."
    )


def test_inspect_of_tables_that_cannot_be_read(world: World) -> None:
    made(world)
    with broken(world, "RENAME COLUMN refused TO withdrawn", "RENAME COLUMN withdrawn TO refused"):
        found = tables(world)
        assert (found.severity, found.check) == (Severity.REFUSED, CHECK)
        assert found.found.startswith("cannot be read: ")
        assert "refused" in found.found
        assert found.fix == f"Run what `syncpoint init --print-sql` prints; {world.store.grants}"
        world.see("UPDATE syncpoint.journal SET format = 2")
        with pytest.raises(FormatTooNew) as raised:
            tables(world)
        assert "version 2" in str(raised.value)


# --- adopting -------------------------------------------------------------------------------------------------------


def adopt(world: World) -> AdoptedDatabase:
    return ask(world, lambda admin, session: admin.adopt(session))  # type: ignore[no-any-return]


def test_adopting_nothing(world: World) -> None:
    missing(world)
    for _ in range(2):
        with pytest.raises(JournalRefused) as raised:
            adopt(world)
        assert raised.value.message == f"There is no journal in {world.store.resource.safe_url}."
        assert raised.value.advice == "Name the database that the application's journal is in."
        made(world)
        world.see("DELETE FROM syncpoint.journal")


def test_an_adopted_copy_is_used_again_with_higher_numbers(world: World) -> None:
    one = world.process(cluster="shop")
    one.close()
    world.see("UPDATE syncpoint.journal SET refused = 'audit has seen more', counter = 7")
    url = world.store.resource.safe_url
    assert adopt(world) == AdoptedDatabase(url, one.journal.coordinator, 7, 1_000_007)
    assert head(world)[1:] == (1, "shop", 1_000_007, None)
    assert world.process(cluster="shop").incarnation == 1_000_008


def test_a_copy_that_cannot_be_written_to_is_not_adopted(world: World) -> None:
    made(world)
    world.see("UPDATE syncpoint.journal SET refused = 'older', counter = 7")
    with broken(world, "ADD CONSTRAINT few CHECK (counter < 1000)", "DROP CONSTRAINT few"):
        with pytest.raises(SetupRefused, match="few"):
            adopt(world)
        assert head(world)[3:] == (7, "older")


def test_a_copy_that_cannot_be_read_is_not_taken_for_none(world: World) -> None:
    made(world)
    renamed = broken(world, "RENAME COLUMN refused TO withdrawn", "RENAME COLUMN withdrawn TO refused")
    with renamed, pytest.raises(SetupRefused, match=r"no usable journal tables.*refused"):
        adopt(world)
