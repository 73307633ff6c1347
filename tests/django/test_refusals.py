"""What is refused, by name, before anything is touched; and what would end a branch from inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from syncpoint.errors import ConfigurationError, NotAllowed, SyncpointError, UnknownResource
from tests.django.world import World


def _refused(using: Any, error: type[SyncpointError], match: str, **named: Any) -> None:
    from syncpoint.django import atomic

    with pytest.raises(error, match=match), atomic(using=using, **named):
        raise AssertionError("nothing of it may run")


def test_an_sqlite_alias_is_refused_by_name(postgres: World) -> None:
    _refused(["default", "files"], ConfigurationError, "'files' is SQLite")


def test_an_unknown_alias_is_refused_and_the_known_are_listed(postgres: World) -> None:
    _refused(["default", "lager"], UnknownResource, r"'lager'.*DATABASES has: default, second")


def test_an_alias_that_the_settings_leave_out_is_refused(postgres: World) -> None:
    _refused(["default", "requests"], UnknownResource, r"'requests'.*Configured are: default, mirror, second")


@pytest.mark.parametrize("using", [[], ["default", "default"]])
def test_using_names_each_alias_once(postgres: World, using: list[str]) -> None:
    _refused(using, ConfigurationError, "names no database, or one twice")


def test_inside_django_s_atomic_it_is_refused(world: World) -> None:
    from django.db import transaction

    from syncpoint.django import RefusedInBlock

    with transaction.atomic(using=world.second):
        _refused(world.using, RefusedInBlock, f"'{world.second}' is inside transaction.atomic")
        world.work("Ada", using=[world.second])
    assert world.owners(world.second) == ["Ada"]


def test_a_view_under_atomic_requests_is_told_what_to_do(postgres: World) -> None:
    from django.core.handlers.base import BaseHandler
    from django.db import transaction

    from syncpoint.django import RefusedInBlock

    seen: list[str] = []

    def view(request: Any) -> None:
        seen.append("ran")
        _refused(["default", "requests"], RefusedInBlock, "non_atomic_requests")

    BaseHandler().make_view_atomic(view)(None)

    @transaction.non_atomic_requests(using="requests")
    def free(request: Any) -> None:
        _refused(["default", "requests"], UnknownResource, "not among")

    BaseHandler().make_view_atomic(free)(None)
    assert seen == ["ran"]


def test_a_connection_that_is_not_in_autocommit_mode_is_refused(world: World) -> None:
    from django.db import transaction

    from syncpoint.django import RefusedInBlock

    transaction.set_autocommit(False, using=world.second)
    _refused(world.using, RefusedInBlock, f"'{world.second}' is not in autocommit mode")
    transaction.rollback(using=world.second)
    transaction.set_autocommit(True, using=world.second)


CALLS: dict[str, Callable[[Any], Any]] = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "set_autocommit": lambda connection: connection.set_autocommit(True),
    "close": lambda connection: connection.close(),
    "driver commit": lambda connection: connection.connection.commit(),
    "driver rollback": lambda connection: connection.connection.rollback(),
    "driver close": lambda connection: connection.connection.close(),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_would_end_the_branch_is_refused_and_the_block_goes_on(world: World, call: str) -> None:
    from django.db import connections, transaction

    from syncpoint.django import atomic

    with atomic(using=world.using):
        world.work("Ada")
        for alias in world.using:
            with pytest.raises(NotAllowed, match=alias) as caught:
                CALLS[call](connections[alias])
            if not call.startswith("driver"):
                assert isinstance(caught.value, transaction.TransactionManagementError)
        world.work("Bob")
    assert world.everywhere() == ["Ada", "Bob"]


def test_coroutines_are_refused(postgres: World) -> None:
    from asgiref.sync import sync_to_async
    from django.core.exceptions import SynchronousOnlyOperation

    from syncpoint.django import AsyncNotSupported, atomic

    async def view() -> None:
        with pytest.raises(AsyncNotSupported, match="sync_to_async"), atomic(using=["default", "second"]):
            raise AssertionError("nothing of it may run")
        await sync_to_async(work)()

    def work() -> None:
        from django.db import connections

        with atomic(using=["default", "second"]):
            postgres.work("Ada")
        connections.close_all()  # this thread's

    asyncio.run(view())
    with pytest.raises(SynchronousOnlyOperation, match="coroutine function"):
        atomic(using=["default"])(view)
    assert postgres.everywhere() == ["Ada"]


def test_wrong_use_is_told_at_once(postgres: World) -> None:
    from syncpoint.django import RefusedInBlock, atomic

    with pytest.raises(ConfigurationError, match="without saying which databases"):
        atomic(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="once for ever"):
        atomic(using=["default"], id="fixed")(lambda: None)
    with pytest.raises(ConfigurationError, match="wait"):
        atomic(using=["default"], wait="later")  # type: ignore[arg-type]
    block = atomic(using=["default"])
    with block, pytest.raises(RefusedInBlock, match="open already"):
        block.__enter__()


def test_nested_blocks_take_neither_an_id_nor_another_database(postgres: World) -> None:
    from syncpoint.django import RefusedInBlock, atomic

    with atomic(using=["default"]):
        postgres.work("Ada", using=["default"])
        _refused(["default"], ConfigurationError, "cannot be nested", id="inner")
        _refused(["default", "second"], RefusedInBlock, "'second', which the outer one does not")
    assert postgres.owners("default") == ["Ada"]


def test_inside_a_transaction_of_the_manager_it_is_refused(postgres: World) -> None:
    from syncpoint.django import RefusedInBlock, manager

    with manager().transaction():
        _refused(["default"], RefusedInBlock, "manager")


def test_in_a_testcase_it_is_refused_with_what_to_use_instead(postgres: World) -> None:
    import unittest

    from django import test
    from syncpoint.django import RefusedInBlock, atomic

    class InTransaction(test.TestCase):
        databases = {"default", "second"}  # noqa: RUF012

        def test_it(self) -> None:
            with pytest.raises(RefusedInBlock, match="TransactionTestCase"), atomic(using=["default", "second"]):
                raise AssertionError("nothing of it may run")

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(InTransaction).run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
