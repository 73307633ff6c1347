"""Threads have connections of their own; a forked child touches none of its parent's."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable

import pytest

from tests.django.world import World, session_of

THREADS = 6
ROUNDS = 5


def test_threads_work_side_by_side_each_on_its_own_connections(world: World) -> None:
    from django.db import connections

    from syncpoint.django import atomic

    sessions: list[tuple[int, int]] = []
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for turn in range(ROUNDS):
                with atomic(using=world.using):
                    world.work(f"{thread}-{turn}")
            sessions.append((session_of(world.first), session_of(world.second)))
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len({first for first, _ in sessions}) == len({second for _, second in sessions}) == THREADS
    assert len(world.everywhere()) == THREADS * ROUNDS
    assert world.in_doubt() == []


def _in_child(work: Callable[[], None]) -> int:
    """Fork, run it there, and return the child's exit status: 0 when it returned."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_in_a_block_leaves_its_parents_branches_alone(world: World) -> None:
    from django.db import connections
    from django.db.utils import Error

    from syncpoint.django import atomic
    from syncpoint.errors import TransactionAborted, TransactionEnded

    block = atomic(using=world.using)
    parents = {session_of(alias) for alias in world.using}

    def child() -> None:
        with pytest.raises((TransactionEnded, Error)):
            world.work("child")
        with pytest.raises(TransactionAborted):
            block.__exit__(None, None, None)
        with atomic(using=world.using):  # on connections and with a manager of its own
            assert not {session_of(alias) for alias in world.using} & parents

    with block:
        world.work("Ada")
        assert _in_child(child) == 0
        world.work("Bob")
    assert world.everywhere() == ["Ada", "Bob"]
    assert all(connections[alias].get_autocommit() for alias in world.using)
    with atomic(using=world.using):  # the manager goes on, too
        world.work("Cem")
    assert world.everywhere() == ["Ada", "Bob", "Cem"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_before_any_block_gets_a_manager_of_its_own(postgres: World) -> None:
    from syncpoint.django import atomic, manager

    incarnation = manager().incarnation

    def child() -> None:
        from django.db import connections

        for alias in postgres.using:  # what Django asks of whoever forks
            connections[alias].connection = None
        with atomic(using=postgres.using):
            postgres.work("child")
        assert manager().incarnation != incarnation

    assert _in_child(child) == 0
    with atomic(using=postgres.using):
        postgres.work("parent")
    assert postgres.everywhere() == ["child", "parent"]
    assert postgres.in_doubt() == []
