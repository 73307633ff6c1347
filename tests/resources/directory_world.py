"""The file directory as a small world that can be killed anywhere: articles as files, and their rows.

A play runs in a forked process, which kills itself with SIGKILL at its n-th point: before each step of the manager,
and before and after each thing done to files (as Python's audit events tell, and fsync). Another process recovers; then
files and rows are compared from outside. Not for: choosing points (test_file_directory.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

import syncpoint

TOUCHES = frozenset(["open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"])
OLD = {"a.txt": b"first", "old/b.txt": b"second"}
NEW = {"a.txt": b"first, rewritten", "new/deep/c.txt": b"third " * 1000}


class Died(Exception):
    """The play's process was killed, as it was told."""


@dataclass
class Death:
    """Kills at the n-th point; 0: counts them."""

    at: int
    folder: str
    points: list[str] = field(default_factory=list)
    is_armed: bool = False

    def pass_by(self, what: str) -> None:
        if not self.is_armed:
            return
        self.points.append(what)
        if len(self.points) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, manager: syncpoint.TransactionManager) -> None:
        """Steps of the manager, and whatever is done to files below the folder."""
        runner: Any = manager._runner
        runner.observer = lambda point, step: self.pass_by(getattr(step, "what", type(step).__name__))
        sys.addaudithook(self._hook)
        fsync = os.fsync

        def watched(descriptor: int) -> None:
            self.pass_by(f"fsync {os.path.relpath(_path_of(descriptor), self.folder)}")
            fsync(descriptor)

        os.fsync = watched

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event in TOUCHES and str(args[0]).startswith(self.folder):
            self.pass_by(event)


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # not Linux
        return str(descriptor)


class DirectoryWorld:
    """A directory, its catalogue in SQLite, and a journal in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.docs = folder / "docs"
        self.docs.mkdir(parents=True)
        self.catalogue = folder / "catalogue.db"
        with closing(apsw.Connection(str(self.catalogue))) as database:
            database.execute("CREATE TABLE article (name TEXT NOT NULL PRIMARY KEY, content BLOB NOT NULL)")
        with self.manager() as manager:
            publish(manager, OLD, ())

    def manager(self) -> syncpoint.TransactionManager:
        return syncpoint.TransactionManager(**self.options)

    @property
    def options(self) -> dict[str, Any]:
        """What a manager is made with."""
        resources = {
            "docs": f"files://{self.docs}",
            "catalogue": f"sqlite:///{self.catalogue}",
        }
        return {"journal": self.folder / "journal", "resources": resources, "background": False}

    # --- looking from outside ---------------------------------------------------------------------------------

    def files(self) -> dict[str, bytes]:
        found = [file for file in self.docs.rglob("*") if file.is_file()]
        names = {file.relative_to(self.docs).as_posix(): file for file in found}
        return {name: file.read_bytes() for name, file in names.items() if not name.startswith(".syncpoint/")}

    def rows(self) -> dict[str, bytes]:
        with closing(apsw.Connection(str(self.catalogue))) as database:
            return dict(database.execute("SELECT name, content FROM article"))

    def staged(self) -> list[str]:
        """What is left of works."""
        return [str(file) for file in (self.docs / ".syncpoint").glob("staged/*")]

    # --- playing ------------------------------------------------------------------------------------------------

    def play(self, act: Callable[[syncpoint.TransactionManager], None], *, die_at: int = 0) -> list[str]:
        """Run in another process. Returns the points it passed. Raises Died."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _child(self, act, Death(die_at, str(self.docs)), writing)
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            told = pipe.read()
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            raise Died
        assert os.waitstatus_to_exitcode(status) == 0, told
        return told.splitlines()

    def recover(self) -> None:
        """As whoever starts next does; afterwards nothing is in doubt."""
        with self.manager() as manager:
            manager.recover(wait_seconds=20)
            assert manager.in_doubt() == []


def publish(manager: syncpoint.TransactionManager, articles: dict[str, bytes], removed: tuple[str, ...]) -> None:
    """Articles and their rows, in one transaction."""
    with manager.transaction() as tx:
        docs, catalogue = tx.connect("docs"), tx.connect("catalogue")
        for name, content in articles.items():
            docs.write(name, content)
            catalogue.execute("INSERT OR REPLACE INTO article VALUES (?, ?)", (name, content))
        for name in removed:
            docs.delete(name)
            catalogue.execute("DELETE FROM article WHERE name = ?", (name,))


def rewrite(manager: syncpoint.TransactionManager) -> None:
    """One file replaced, one made, one deleted."""
    publish(manager, NEW, ("old/b.txt",))


def rewrite_alone(manager: syncpoint.TransactionManager) -> None:
    """The same without the catalogue: one phase."""
    with manager.transaction() as tx:
        docs = tx.connect("docs")
        for name, content in NEW.items():
            docs.write(name, content)
        docs.delete("old/b.txt")


def give_up(manager: syncpoint.TransactionManager) -> None:
    """Written, and thrown away."""
    with contextlib.suppress(ZeroDivisionError), manager.transaction() as tx:
        tx.connect("docs").write("a.txt", b"never")
        tx.connect("catalogue").execute("DELETE FROM article")
        raise ZeroDivisionError


def recover(manager: syncpoint.TransactionManager) -> None:
    """What another process left."""
    manager.recover(wait_seconds=20)


def _child(world: DirectoryWorld, act: Callable[[syncpoint.TransactionManager], None], death: Death, told: int) -> None:
    """Never returns."""
    code = 1
    with _told(told) as tell:
        try:
            manager = world.manager()
            death.watch(manager)
            death.is_armed = True
            with manager:
                act(manager)
            death.is_armed = False
            tell("\n".join(death.points))
            code = 0
        except BaseException:
            death.is_armed = False
            tell(traceback.format_exc())
    os._exit(code)


@contextlib.contextmanager
def _told(descriptor: int) -> Iterator[Callable[[str], object]]:
    with open(descriptor, "w", encoding="utf-8") as pipe:
        yield pipe.write
