"""Callbacks: after the global commit, in order, with Django's connections back; never after an abort."""

from __future__ import annotations

from typing import Any

import pytest

from syncpoint.errors import TransactionAborted
from tests.django.world import World


def test_callbacks_run_after_the_commit_everywhere(world: World, account: Any) -> None:
    from django.db import connections, transaction

    from syncpoint.django import atomic, on_commit

    log: list[Any] = []

    def note(name: str) -> None:
        assert not any(connections[alias].in_atomic_block for alias in world.using)
        log.append((name, *(account.objects.using(alias).count() for alias in world.using)))

    with atomic(using=world.using):
        on_commit(lambda: note("global"))
        transaction.on_commit(lambda: note("second"), using=world.second)
        transaction.on_commit(lambda: note("first 1"), using=world.first)
        transaction.on_commit(lambda: note("first 2"), using=world.first)
        world.work("Ada")
        assert log == []
    assert log == [("first 1", 1, 1), ("first 2", 1, 1), ("second", 1, 1), ("global", 1, 1)]


def test_callbacks_are_dropped_with_an_abort(world: World) -> None:
    from django.db import transaction

    from syncpoint.django import atomic, on_commit

    log: list[str] = []

    def work(*, marked: bool) -> None:
        with atomic(using=world.using):
            for alias in world.using:
                transaction.on_commit(lambda: log.append("django"), using=alias)
            on_commit(lambda: log.append("global"))
            world.work("Ada")
            if not marked:
                raise ZeroDivisionError
            transaction.set_rollback(True, using=world.second)

    with pytest.raises(ZeroDivisionError):
        work(marked=False)
    with pytest.raises(TransactionAborted):
        work(marked=True)
    with atomic(using=world.using):
        world.work("Bob")
    assert log == []
    assert world.everywhere() == ["Bob"]


def test_what_is_rolled_back_inside_takes_its_callbacks_with_it(world: World) -> None:
    from django.db import transaction

    from syncpoint.django import atomic, on_commit

    log: list[str] = []

    def inner(name: str, *, fail: bool) -> None:
        with atomic(using=world.using):
            on_commit(lambda: log.append(f"{name} global"))
            transaction.on_commit(lambda: log.append(f"{name} second"), using=world.second)
            if fail:
                raise KeyError(name)

    with atomic(using=world.using):
        with pytest.raises(KeyError):
            inner("lost", fail=True)
        inner("kept", fail=False)
    assert log == ["kept second", "kept global"]


def test_an_error_in_a_callback_reaches_the_caller_of_a_committed_block(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    from django.db import transaction

    from syncpoint.django import atomic, on_commit

    log: list[str] = []

    def fail(name: str) -> None:
        log.append(name)
        raise ValueError(name)

    def work() -> None:
        with atomic(using=world.using):
            world.work("Ada")
            transaction.on_commit(lambda: fail("first"), using=world.first)
            transaction.on_commit(lambda: log.append("never"), using=world.first)
            transaction.on_commit(lambda: log.append("second"), using=world.second)
            on_commit(lambda: fail("robust"), robust=True)
            on_commit(lambda: log.append("global"))

    with pytest.raises(ValueError, match="first"):
        work()
    assert log == ["first", "second", "robust", "global"]
    assert "the transaction is committed" in caplog.text
    assert world.everywhere() == ["Ada"]


def test_outside_any_block_django_decides(postgres: World) -> None:
    from django.db import transaction

    from syncpoint.django import current, on_commit

    log: list[str] = []
    on_commit(lambda: log.append("at once"))
    with transaction.atomic():
        on_commit(lambda: log.append("with Django's"))
        assert log == ["at once"]
    assert log == ["at once", "with Django's"]
    assert current() is None
    with pytest.raises(TypeError):
        on_commit("no callable")  # type: ignore[arg-type]
