"""Transactions over a resource manager's process, a node and another database: its process dies, and nothing is torn.

Not for: the process by itself (test_process_processes.py), demos and sweeps of takeover.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

import syncpoint
from syncpoint.errors import TransactionAborted
from syncpoint.resources.process import ProcessResource
from syncpoint.testing.servers.base import wait_until
from tests.resources.process_site import Site


class Shop(Site):
    """The site, a file of the application's own, and a directory of files behind a process."""

    def __init__(self, folder: Path, socket: Path) -> None:
        super().__init__(folder, socket)
        self.beside = folder / "beside.db"
        with closing(apsw.Connection(str(self.beside))) as made:
            made.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY)")
        self.docs = folder / "docs"
        self.docs.mkdir()
        with self.config.open("a") as file:
            file.write('[resources.docs]\nclass = "syncpoint.resources.file_directory:FileDirectory"\n')
            file.write(f'path = "{self.docs}"\n')
            file.write("process = true\n")
        self.resources = {
            "audit": "process://audit",
            "docs": "process://docs",
            "beside": f"sqlite:///{self.beside}",
        }

    def beside_rows(self) -> list[int]:
        with closing(apsw.Connection(str(self.beside))) as other:
            return [row for (row,) in other.execute("SELECT id FROM entry ORDER BY id")]

    def files(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.docs.iterdir() if file.is_file()}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with tempfile.TemporaryDirectory(prefix="sp") as short, closing(Shop(tmp_path, Path(short, "s"))) as shop:
        shop.start()
        shop.wait_open(1)
        yield shop


def write(tx: Any, row: int) -> None:
    tx.connect("audit").execute("INSERT INTO entry VALUES (?)", (row,))
    tx.connect("beside").execute("INSERT INTO entry VALUES (?)", (row,))


def test_b1_to_b9_killed_between_its_vote_and_the_commit_it_is_committed_by_its_backup(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with syncpoint.TransactionManager(shop.url, shop.resources) as manager:
        with manager.transaction() as tx:
            write(tx, 1)
        assert (shop.rows(), shop.beside_rows()) == ([1], [1])
        own = ProcessResource.commit

        def commit(self: ProcessResource, session: Any) -> Any:
            shop.processes[0].kill()
            return own(self, session)

        with monkeypatch.context() as patched:
            patched.setattr(ProcessResource, "commit", commit)
            with manager.transaction() as tx:
                write(tx, 2)
        assert tx.pending == {"audit"}
        assert (shop.rows(), shop.beside_rows()) == ([1], [1, 2])  # decided, and one of them does not know yet (B5)
        shop.start()
        shop.wait_open(2)
        assert shop.rows() == [1, 2]
        with manager.transaction() as tx:
            write(tx, 3)
    assert (shop.rows(), shop.beside_rows()) == ([1, 2, 3], [1, 2, 3])


def test_killed_before_its_vote_the_transaction_aborts_and_may_be_run_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with syncpoint.TransactionManager(shop.url, shop.resources) as manager:
        own = ProcessResource.prepare

        def prepare(self: ProcessResource, session: Any) -> Any:
            shop.processes[0].kill()
            return own(self, session)

        with monkeypatch.context() as patched:
            patched.setattr(ProcessResource, "prepare", prepare)
            with pytest.raises(TransactionAborted), manager.transaction() as tx:
                write(tx, 1)
        assert (shop.rows(), shop.beside_rows()) == ([], [])
        shop.start()
        shop.wait_open(2)
        manager.run(write, 1)
    assert (shop.rows(), shop.beside_rows()) == ([1], [1])


def test_a_new_branch_waits_for_a_backup_that_takes_over(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncpoint.resources.process.AWAY_S_MAX", 20.0)  # a loaded machine starts processes slowly
    with syncpoint.TransactionManager(shop.url, shop.resources) as manager:
        with manager.transaction() as tx:
            write(tx, 1)
        shop.processes[0].kill()
        shop.start()
        with manager.transaction() as tx:
            write(tx, 2)
    assert (shop.rows(), shop.beside_rows()) == ([1, 2], [1, 2])


def test_b10_files_behind_a_process_change_with_rows_under_asyncio(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.start(name="docs")
    shop.wait_open(1, "docs")

    async def play() -> None:
        async with syncpoint.AsyncTransactionManager(shop.url, shop.resources) as manager:
            async with manager.transaction() as tx:
                docs = await tx.connect("docs")
                await docs.write("one.txt", b"1")
                assert await docs.names() == ["one.txt"]
                with pytest.raises(FileNotFoundError):
                    await docs.read("two.txt")
                await (await tx.connect("audit")).execute("INSERT INTO entry VALUES (1)")
            own = ProcessResource.commit

            def commit(self: ProcessResource, session: Any) -> Any:
                if self.name == "docs":
                    shop.processes[1].kill()
                return own(self, session)

            with monkeypatch.context() as patched:
                patched.setattr(ProcessResource, "commit", commit)
                async with manager.transaction() as tx:
                    docs = await tx.connect("docs")
                    await docs.write("two.txt", b"2")
                    await docs.delete("one.txt")
                    await (await tx.connect("audit")).execute("INSERT INTO entry VALUES (2)")

    asyncio.run(play())
    assert shop.files() == {"one.txt": b"1"}
    shop.start(name="docs")
    shop.wait_open(2, "docs")
    assert shop.files() == {"two.txt": b"2"}
    wait_until(lambda: shop.rows() == [1, 2], "the rows")
