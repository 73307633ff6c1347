"""`syncpoint.django.atomic`: everywhere or nowhere, on Django's own connections, with Django's own savepoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from syncpoint.errors import AlreadyCommitted, ConfigurationError, DifferentRequest, TransactionAborted
from tests.django.world import World, outside, session_of


def _atomic(*arguments: Any, **named: Any) -> Any:
    from syncpoint.django import atomic

    return atomic(*arguments, **named)


def _connections() -> Any:
    from django.db import connections

    return connections


def _usable(world: World) -> None:
    """Django goes on with its connections: in autocommit mode, in no transaction, able to read and to write."""
    for alias in world.using:
        connection = _connections()[alias]
        assert connection.get_autocommit()
        assert not connection.in_atomic_block
        assert connection.run_on_commit == []
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO account (owner, balance, at) VALUES ('after', 0, now())")
        assert "after" in world.owners(alias)
        outside(world.urls[alias], "DELETE FROM account WHERE owner = 'after'")


def _fail(world: World, owner: str, using: Sequence[str] = ()) -> None:
    """A block whose code fails after it has worked in both databases."""
    with _atomic(using=using or world.using):
        world.work(owner)
        raise ZeroDivisionError


def test_a_block_commits_in_both_databases(world: World) -> None:
    with _atomic(using=world.using) as tx:
        world.work("Ada", "Bob")
        assert world.everywhere() == []
    assert tx.is_committed
    assert tx.pending == frozenset()
    assert world.everywhere() == ["Ada", "Bob"]
    _usable(world)


def test_the_branch_is_on_the_connection_that_django_holds(world: World) -> None:
    before = {alias: session_of(alias) for alias in world.using}
    held = {alias: _connections()[alias].connection for alias in world.using}
    with _atomic(using=world.using):
        assert {alias: session_of(alias) for alias in world.using} == before
        world.work("Ada")
    assert {alias: session_of(alias) for alias in world.using} == before
    assert {alias: _connections()[alias].connection for alias in world.using} == held


def test_an_exception_rolls_both_back(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        _fail(world, "Ada")
    assert world.everywhere() == []
    assert world.in_doubt() == []
    _usable(world)


def test_a_decorated_function_is_a_block(world: World) -> None:
    @_atomic(using=world.using)
    def work(owner: str, *, fail: bool = False) -> str:
        world.work(owner)
        if fail:
            raise ValueError(owner)
        return owner

    assert work("Ada") == "Ada"
    with pytest.raises(ValueError, match="Bob"):
        work("Bob", fail=True)
    assert work("Cem") == "Cem"
    assert world.everywhere() == ["Ada", "Cem"]


def test_an_inner_atomic_is_a_savepoint(world: World) -> None:
    from django.db import IntegrityError, transaction

    with _atomic(using=world.using):
        world.work("Ada")
        for alias in world.using:
            with pytest.raises(IntegrityError), transaction.atomic(using=alias):
                world.work("Bob", "Ada", using=[alias])
            with transaction.atomic(using=alias):
                world.work("Cem", using=[alias])
    assert world.everywhere() == ["Ada", "Cem"]
    _usable(world)


@pytest.mark.parametrize("which", [0, 1])
def test_a_swallowed_integrity_error_aborts_everywhere(world: World, which: int) -> None:
    from django.db import IntegrityError, transaction

    def work() -> None:
        with _atomic(using=world.using):
            world.work("Ada")
            with pytest.raises(IntegrityError):
                world.work("Ada", using=[world.using[which]])
            with pytest.raises(transaction.TransactionManagementError):
                world.work("Bob", using=[world.using[which]])

    with pytest.raises(TransactionAborted, match="marked the database") as caught:
        work()
    assert not caught.value.retryable
    assert world.everywhere() == []
    _usable(world)


def test_a_broken_inner_atomic_without_savepoint_aborts_everywhere(world: World) -> None:
    from django.db import transaction

    def work() -> None:
        with _atomic(using=world.using):
            world.work("Ada")
            with pytest.raises(KeyError), transaction.atomic(using=world.second, savepoint=False):
                raise KeyError

    with pytest.raises(TransactionAborted, match="marked the database"):
        work()
    assert world.everywhere() == []


def test_set_rollback_aborts_and_the_caller_is_told(world: World) -> None:
    from django.db import transaction

    with pytest.raises(TransactionAborted), _atomic(using=world.using):  # noqa: PT012
        world.work("Ada")
        transaction.set_rollback(True, using=world.first)
    assert world.everywhere() == []


def test_a_nested_block_is_a_savepoint_at_all_databases(world: World) -> None:
    with _atomic(using=world.using) as outer:
        world.work("Ada")
        with pytest.raises(ZeroDivisionError):
            _fail(world, "Bob", using=[world.second])
        with _atomic(using=world.using) as inner:
            world.work("Cem")
        assert inner is outer
    assert world.everywhere() == ["Ada", "Cem"]


def test_a_durable_block_inside_is_refused_by_django(world: World) -> None:
    from django.db import transaction

    with _atomic(using=world.using):
        world.work("Ada")
        with pytest.raises(RuntimeError, match="durable"), transaction.atomic(using=world.first, durable=True):
            pass
    assert world.everywhere() == ["Ada"]


def test_an_id_runs_exactly_once(world: World) -> None:
    with _atomic(using=world.using, id="order-1", fingerprint="Ada") as tx:
        world.work("Ada")
        tx.set_result({"balance": 1})
    with pytest.raises(AlreadyCommitted) as caught, _atomic(using=world.using, id="order-1", fingerprint="Ada"):
        world.work("Bob")
    assert caught.value.result == {"balance": 1}
    with pytest.raises(DifferentRequest), _atomic(using=world.using, id="order-1", fingerprint="Bob"):
        world.work("Bob")
    assert world.everywhere() == ["Ada"]
    _usable(world)


def test_an_aborted_id_may_run_again(world: World) -> None:
    with pytest.raises(KeyError), _atomic(using=world.using, id="order-1"):
        raise KeyError
    with _atomic(using=world.using, id="order-1"):
        world.work("Ada")
    assert world.everywhere() == ["Ada"]


def test_after_wait_decided_the_next_use_waits_for_the_rest(world: World, account: Any) -> None:
    held = {alias: session_of(alias) for alias in world.using}
    for number in range(5):
        with _atomic(using=world.using, wait="decided"):
            world.work(f"Owner {number}")
        assert [account.objects.using(alias).count() for alias in world.using] == [number + 1] * 2
    assert {alias: session_of(alias) for alias in world.using} == held
    with _atomic(using=world.using, wait="decided"):
        world.work("Ada")
    for alias in world.using:
        _connections()[alias].close()
    assert "Ada" in world.everywhere()
    _usable(world)


def test_rows_come_one_by_one_without_a_holdable_cursor(world: World, account: Any) -> None:
    """DATABASES PostgreSQL 5: a branch with a WITH HOLD cursor cannot be prepared."""
    with _atomic(using=world.using):
        world.work(*(f"Owner {number}" for number in range(5)))
        for alias in world.using:
            found = [one.owner for one in account.objects.using(alias).order_by("id").iterator(chunk_size=2)]
            assert found == [f"Owner {number}" for number in range(5)]
    assert len(world.everywhere()) == 5


def test_values_are_converted_as_outside(world: World, account: Any) -> None:
    with _atomic(using=world.using):
        world.work("Ada")
        inside = [account.objects.using(alias).get(owner="Ada").at for alias in world.using]
        assert [str(one.tzinfo) for one in inside] == ["UTC", "UTC"]
    assert [account.objects.using(alias).get(owner="Ada").at for alias in world.using] == inside


def test_two_aliases_of_one_database_are_two_branches(postgres: World, account: Any) -> None:
    with _atomic(using=["default", "mirror"]):
        postgres.work("Ada", using=["default"])
        postgres.work("Bob", using=["mirror"])
        assert account.objects.using("default").count() == 1
    assert postgres.owners("default") == ["Ada", "Bob"]


def test_one_alias_alone_is_enough(world: World) -> None:
    with _atomic(using=world.second, id="alone"):
        world.work("Ada", using=[world.second])
    assert world.owners(world.second) == ["Ada"]
    assert world.owners(world.first) == []


def test_the_isolation_level_of_the_settings_holds_inside(postgres: World) -> None:
    def level(alias: str) -> str:
        with _connections()[alias].cursor() as cursor:
            cursor.execute("SHOW transaction_isolation")
            return str(cursor.fetchone()[0])

    with _atomic(using=["default", "serializable"]):
        assert (level("default"), level("serializable")) == ("read committed", "serializable")
    _connections()["serializable"].close()


def test_a_mariadb_connection_gets_its_settings_back(mariadb: World) -> None:
    names = "innodb_lock_wait_timeout, @@lock_wait_timeout, @@max_statement_time, @@wait_timeout, @@tx_isolation"

    def settings() -> tuple[Any, ...]:
        with _connections()["ledger"].cursor() as cursor:
            cursor.execute(f"SELECT @@{names}")
            return tuple(cursor.fetchone())

    with _connections()["ledger"].cursor() as cursor:
        cursor.execute("SET SESSION innodb_lock_wait_timeout = 7, wait_timeout = 1234, max_statement_time = 2.5")
    before = settings()
    assert before[4] == "READ-COMMITTED"  # Django's own choice
    with _atomic(using=mariadb.using, timeout=20):
        mariadb.work("Ada")
        inside = settings()
        assert inside[0] > 7
        assert inside[4] == "READ-COMMITTED"
    assert settings() == before
    with pytest.raises(ZeroDivisionError):
        _fail(mariadb, "Bob")
    assert settings() == before


def test_notices_go_to_djangos_connection(postgres: World) -> None:
    seen: list[str] = []
    connection = _connections()["default"]
    connection.ensure_connection()
    connection.connection.add_notice_handler(lambda notice: seen.append(notice.message_primary))

    def say(text: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"DO $$ BEGIN RAISE NOTICE '{text}'; END $$")

    with _atomic(using=postgres.using):
        say("inside")
    say("after")
    assert seen == ["inside", "after"]


def test_a_connection_object_kept_from_a_block_can_touch_nothing(world: World) -> None:
    from syncpoint.errors import TransactionEnded

    kept = []
    with _atomic(using=world.using):
        kept = [_connections()[alias].connection for alias in world.using]
    for connection in kept:
        with pytest.raises(TransactionEnded):
            connection.cursor().execute("SELECT 1")
    with _atomic(using=world.using):
        for connection in kept:
            with pytest.raises(TransactionEnded):
                connection.cursor().execute("SELECT 1")
    _usable(world)


def test_the_journal_may_be_in_one_of_the_databases(world: World) -> None:
    """Its own branch then carries the decision, on Django's connection."""
    from django.test import override_settings

    for journal in world.using:
        owner, order = f"journal {journal}", f"{world.journal} {journal}"  # a journal in a database outlives this test
        with override_settings(SYNCPOINT={"journal": journal, "databases": world.using}):
            with _atomic(using=world.using, id=order) as tx:
                world.work(owner)
                tx.set_result(owner)
            with pytest.raises(AlreadyCommitted) as caught, _atomic(using=world.using, id=order):
                world.work("never")
            assert caught.value.result == owner
            with pytest.raises(ZeroDivisionError):
                _fail(world, "nobody")
            _usable(world)
    assert world.everywhere() == sorted(f"journal {journal}" for journal in world.using)
    assert world.in_doubt() == []


def test_a_resource_of_the_settings_takes_part_too(postgres: World, tmp_path: Any) -> None:
    import apsw
    from django.test import override_settings

    file = str(tmp_path / "audit.db")
    connection = apsw.Connection(file)
    connection.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
    connection.close()
    table = {"journal": postgres.journal, "databases": postgres.using, "resources": {"audit": f"sqlite:///{file}"}}
    with override_settings(SYNCPOINT=table):
        with _atomic(using=postgres.using) as tx:
            postgres.work("Ada")
            tx.connect("audit").execute("INSERT INTO note (text) VALUES ('Ada')")
        with pytest.raises(ConfigurationError, match="begun already"), _atomic(using=["default"]) as tx:
            tx.connect_on("default", None)  # type: ignore[arg-type]
    connection = apsw.Connection(file)
    assert list(connection.execute("SELECT text FROM note")) == [("Ada",)]
    connection.close()
    assert postgres.everywhere() == ["Ada"]
