"""Resource managers of a user's own, through a manager, beside a SQLite file. Not for: crashes (test_own_crash.py)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import NotAllowed, ResourceManagerError, TransactionEnded
from syncpoint.resources.own_adapter import LEDGER
from tests.resources.own_world import STAGED, NoMarks, Shelf, ShelfBusy, read, tell
from tests.resources.sqlite_world import change, observe

CLASS = "tests.resources.own_world:Shelf"


class World:
    """A shelf and a SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shelf = folder / "shelf"
        self.shelf.mkdir()
        self.database = folder / "bank.db"
        change(self.database, "CREATE TABLE entry (k TEXT NOT NULL PRIMARY KEY, v INTEGER)")

    def resources(self, name: str = CLASS) -> dict[str, Any]:
        return {"shelf": {"class": name, "path": self.shelf}, "bank": f"sqlite:///{self.database}"}

    def manager(self, name: str = CLASS) -> syncpoint.TransactionManager:
        return syncpoint.TransactionManager(self.folder / "journal", self.resources(name), background=False)

    def put(self, tx: syncpoint.Transaction, key: str, value: int) -> None:
        """A number on the shelf, and its row."""
        tx.connect("shelf").put(key, value)
        tx.connect("bank").execute("INSERT INTO entry VALUES (?, ?)", (key, value))

    def both(self, key: str, value: int) -> Callable[[syncpoint.Transaction], None]:
        """`put`, for `work`."""
        return lambda tx: self.put(tx, key, value)

    def rows(self) -> dict[str, int]:
        """From outside; the shelf and the file must agree."""
        found = dict(observe(self.database, "SELECT k, v FROM entry"))
        assert read(self.shelf) == found
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def manager(world: World) -> Iterator[syncpoint.TransactionManager]:
    with world.manager() as manager:
        yield manager


def work(manager: syncpoint.TransactionManager, *puts: Callable[[syncpoint.Transaction], None]) -> None:
    """One transaction that does all of these."""
    with manager.transaction() as tx:
        for put in puts:
            put(tx)


def give_up(tx: syncpoint.Transaction) -> None:
    raise ZeroDivisionError


def shelve(key: str, value: int) -> Callable[[syncpoint.Transaction], None]:
    """Only on the shelf."""
    return lambda tx: tx.connect("shelf").put(key, value)


def author(manager: syncpoint.TransactionManager) -> Shelf:
    resource: Any = manager._core.handles["shelf"].resource
    shelf = resource.author
    assert isinstance(shelf, Shelf)
    return shelf


def test_committed_with_a_database(world: World, manager: syncpoint.TransactionManager) -> None:
    with manager.transaction() as tx:
        world.put(tx, "a", 1)
        assert tx.connect("shelf").get("a") == 1
        assert read(world.shelf) == {}, "nobody sees it before its commit"
    assert world.rows() == {"a": 1}
    assert not (world.shelf / STAGED).exists()
    assert author(manager).calls.count("commit") == 1
    assert "redo" not in author(manager).calls


def test_aborted_with_a_database(world: World, manager: syncpoint.TransactionManager) -> None:
    with pytest.raises(ZeroDivisionError):
        work(manager, world.both("a", 1), give_up)
    assert world.rows() == {}
    assert author(manager).calls[-1] == "abort"


def test_under_asyncio_the_methods_are_awaited(world: World) -> None:
    async def play() -> None:
        journal = world.folder / "journal"
        async with syncpoint.AsyncTransactionManager(journal, world.resources(), background=False) as manager:
            async with manager.transaction() as tx:
                shelf = await tx.connect("shelf")
                await shelf.put("a", 1)
                assert await shelf.get("a") == 1
                (await tx.connect("bank")).execute("INSERT INTO entry VALUES ('a', 1)")
            with pytest.raises(ValueError, match="below 0"):
                async with manager.transaction() as tx:
                    await (await tx.connect("shelf")).put("b", -1)

    asyncio.run(play())
    assert world.rows() == {"a": 1}


def test_alone_in_one_phase(world: World, manager: syncpoint.TransactionManager) -> None:
    with manager.transaction() as tx:
        tx.connect("shelf").put("a", 1)
    assert read(world.shelf) == {"a": 1}
    with manager.transaction() as tx:
        assert tx.connect("shelf").get("a") == 1
    with manager.transaction() as tx:
        assert tx.connect("shelf", read_only=True).get("a") == 1
    assert author(manager).calls.count("commit") == 1, "what wrote nothing has nothing to commit"


def test_a_user_id_gives_the_result_again(world: World, manager: syncpoint.TransactionManager) -> None:
    def once(tx: syncpoint.Transaction) -> str:
        world.put(tx, "a", 1)
        return "done"

    assert [manager.run(once, id="one") for _ in range(2)] == ["done", "done"]
    assert world.rows() == {"a": 1}


def test_savepoints(world: World, manager: syncpoint.TransactionManager) -> None:
    with manager.transaction() as tx:
        world.put(tx, "a", 1)
        with pytest.raises(ZeroDivisionError):
            work(manager, world.both("b", 2), give_up)
        work(manager, world.both("c", 3))
    assert world.rows() == {"a": 1, "c": 3}


def test_without_savepoints_a_block_inside_is_refused(world: World) -> None:
    with world.manager(f"{NoMarks.__module__}:NoMarks") as manager:
        with pytest.raises(NotAllowed, match="has no savepoints"):
            work(manager, world.both("a", 1), lambda _: work(manager))
        assert world.rows() == {}


# --- what users hold -------------------------------------------------------------------------------------------


def test_work_after_the_vote_is_refused(world: World, manager: syncpoint.TransactionManager) -> None:
    with manager.transaction() as tx:
        world.put(tx, "a", 1)
        shelf = tx.connect("shelf")
        put = shelf.put
        assert shelf.label == "a shelf"
    for call in (lambda: put("b", 2), lambda: shelf.put("b", 2), lambda: shelf.label):
        with pytest.raises(TransactionEnded, match="nothing was done"):
            call()
    assert world.rows() == {"a": 1}
    assert "ended" in repr(shelf)


def test_what_is_private_stays_private(world: World, manager: syncpoint.TransactionManager) -> None:
    with manager.transaction() as tx, pytest.raises(AttributeError, match="not for users"):
        tx.connect("shelf")._private()


# --- contracts that are broken -----------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False])
def test_prepare_that_returns_something_else(world: World, manager: syncpoint.TransactionManager, alone: bool) -> None:
    tell(world.shelf, "prepare", "text")
    with pytest.raises(syncpoint.TransactionAborted) as caught:
        work(manager, shelve("a", 1) if alone else world.both("a", 1))
    assert isinstance(caught.value.__cause__, ResourceManagerError)
    assert "prepare returned str; it must be bytes, or None" in str(caught.value.__cause__)
    assert world.rows() == {}
    tell(world.shelf, "prepare", None)
    with manager.transaction() as tx:
        world.put(tx, "c", 1)
    assert world.rows() == {"c": 1}


@pytest.mark.parametrize(("how", "kind", "retryable"), [("raise", RuntimeError, False), ("busy", ShelfBusy, True)])
def test_prepare_that_raises_votes_no(
    world: World, manager: syncpoint.TransactionManager, how: str, kind: type[Exception], retryable: bool
) -> None:
    tell(world.shelf, "prepare", how)
    with pytest.raises(syncpoint.TransactionAborted) as caught, manager.transaction() as tx:
        world.put(tx, "a", 1)
    assert isinstance(caught.value.__cause__, kind)
    assert caught.value.retryable is retryable
    assert world.rows() == {}
    assert author(manager).calls[-1] == "abort"


def test_begin_that_raises_reaches_the_user(world: World, manager: syncpoint.TransactionManager) -> None:
    tell(world.shelf, "begin", "raise")
    with pytest.raises(RuntimeError, match="begin is out of order"), manager.transaction() as tx:
        tx.connect("shelf")
    tell(world.shelf, "begin", None)
    with manager.transaction() as tx:
        world.put(tx, "a", 1)
    assert world.rows() == {"a": 1}


def test_abort_that_raises_commits_nothing(world: World, manager: syncpoint.TransactionManager) -> None:
    tell(world.shelf, "abort", "raise")
    with pytest.raises(ZeroDivisionError):
        work(manager, world.both("a", 1), give_up)
    assert world.rows() == {}
    with manager.transaction() as tx:
        world.put(tx, "b", 1)
    assert world.rows() == {"b": 1}


@pytest.mark.parametrize("alone", [True, False])
def test_commit_that_raises_is_kept_and_tried_again(
    world: World, manager: syncpoint.TransactionManager, alone: bool
) -> None:
    tell(world.shelf, "commit", "raise")
    tell(world.shelf, "redo", "raise")
    with manager.transaction() as tx:
        tx.connect("shelf").put("a", 1)
        if not alone:
            tx.connect("bank").execute("INSERT INTO entry VALUES ('a', 1)")
    assert tx.pending == (set() if alone else {"shelf"})
    assert read(world.shelf) == {}
    with pytest.raises(ResourceManagerError, match="redo raised RuntimeError: redo is out of order"):
        work(manager, shelve("b", 2))
    manager.recover()
    tell(world.shelf, "redo", None)
    with manager.transaction() as other:
        assert other.connect("shelf").get("a") == 1, "the next work finds it done"
        other.connect("shelf").put("b", 2)
    manager.recover()
    assert read(world.shelf) == {"a": 1, "b": 2}
    assert manager.in_doubt() == []


def test_a_new_manager_finishes_what_is_decided(world: World) -> None:
    """What it finds is forced before it is acted on (as O59): seen by the change whose COMMIT does so."""
    tell(world.shelf, "commit", "raise")
    tell(world.shelf, "redo", "raise")
    with world.manager() as manager, manager.transaction() as tx:
        world.put(tx, "a", 1)
    ledger = world.shelf / LEDGER
    [before] = observe(ledger, "SELECT redos FROM decided_work")
    with world.manager() as manager:
        manager.recover()
    [after] = observe(ledger, "SELECT redos FROM decided_work")
    assert after > before
    tell(world.shelf, "redo", None)
    with world.manager() as manager:
        manager.recover()
    assert world.rows() == {"a": 1}


# --- configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"class": "nonsense"}, "'nonsense'. Write \"package.module:Class\""),
        ({"class": "no_such_module_at_all:Class"}, "there is no module no_such_module_at_all. Set PYTHONPATH"),
        ({"class": "tests.resources.own_world:Shelv"}, "Did you mean 'Shelf'?"),
        ({"class": "tests.resources.own_world:read"}, "is a subclass of neither syncpoint.Resource nor"),
        ({"class": CLASS}, "has no path"),
        ({"class": CLASS, "path": ""}, "Shelf raised ValueError: the path is empty"),
        ({"class": CLASS, "path": "x", "pth": "x"}, "unknown option 'pth'. Did you mean 'path'?"),
        ({"class": "tests.resources.own_world:Nowhere", "path": "x"}, "place() returned '', which names no folder"),
        ({"class": "tests.resources.own_world:Half"}, "Half raised TypeError: Can't instantiate abstract class"),
        ({"path": "x"}, "has no url"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, table: dict[str, str], expected: str) -> None:
    with pytest.raises(syncpoint.ConfigurationError) as caught:
        syncpoint.TransactionManager(tmp_path / "journal", {"shelf": table}).open()
    assert expected in str(caught.value)
    assert not (tmp_path / "journal").exists()


def test_a_journal_cannot_live_there(world: World) -> None:
    with pytest.raises(syncpoint.ConfigurationError, match="cannot live in the resource 'shelf'"):
        syncpoint.TransactionManager("shelf", world.resources()).open()


def test_a_check_that_raises_is_told(world: World, manager: syncpoint.TransactionManager) -> None:
    tell(world.shelf, "check", "raise")
    with pytest.raises(syncpoint.ResourceUnavailable, match=r"Shelf\.check raised RuntimeError"):
        work(manager, shelve("a", 1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_made(world: World) -> None:
    world.shelf.rmdir()
    world.folder.chmod(0o500)
    with pytest.raises(syncpoint.ResourceUnavailable, match="cannot be made"):
        world.manager().open()
