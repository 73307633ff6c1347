"""The file directory: files and rows change together, whoever dies at whatever point; and what it refuses.

Not for: the adapter of resource managers of one's own (tests/resources/test_own.py).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import syncpoint
from syncpoint.testing import SyncpointCrash, every_point
from tests.crash.budget import FULL, some
from tests.resources.directory_world import (
    NEW,
    OLD,
    Died,
    DirectoryWorld,
    give_up,
    publish,
    recover,
    rewrite,
    rewrite_alone,
)

Act = Callable[[syncpoint.TransactionManager], None]


@pytest.fixture
def world(tmp_path: Path) -> DirectoryWorld:
    return DirectoryWorld(tmp_path / "world")


@pytest.fixture
def manager(world: DirectoryWorld) -> Iterator[syncpoint.TransactionManager]:
    with world.manager() as manager:
        yield manager


# --- killed at every point -----------------------------------------------------------------------------------------


class Sweep:
    """One world, put back as it was before each play."""

    def __init__(self, folder: Path) -> None:
        self.world = DirectoryWorld(folder / "world")
        self.is_alone = False
        """The catalogue takes no part."""

    def put_back(self) -> None:
        """The journal of a folder knows its inode, and a copy is refused: so the world begins anew."""
        shutil.rmtree(self.world.folder)
        self.world = DirectoryWorld(self.world.folder)

    def kill_everywhere(self, act: Act, before: Callable[[], None] = lambda: None) -> dict[str, int]:
        """Play, die, recover, judge; at each of the points that one whole play passes."""
        before()
        points = self.world.play(act)
        outcomes = {"committed": 0, "aborted": 0}
        for nth in some(range(1, len(points) + 1)):
            self.put_back()
            before()
            try:
                self.world.play(act, die_at=nth)
            except Died:
                pass
            else:
                continue  # points side by side: one play has a few more than another
            self.world.recover()
            outcomes[self.judge(f"{act.__name__} killed at {nth}, {points[nth - 1]}")] += 1
        return outcomes

    def judge(self, when: str) -> str:
        """All or nothing, seen from outside."""
        files = self.world.files()
        assert files in (OLD, NEW), f"{when}: torn files: {sorted(files)}"
        expected = OLD if self.is_alone else files
        assert self.world.rows() == expected, f"{when}: files and rows disagree"
        return "committed" if files == NEW else "aborted"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_killed_at_every_point_of_a_commit(sweep: Sweep) -> None:
    outcomes = sweep.kill_everywhere(rewrite)
    assert outcomes["committed"] > 5
    assert outcomes["aborted"] > 5


def test_killed_at_every_point_of_a_commit_in_one_phase(sweep: Sweep) -> None:
    sweep.is_alone = True
    outcomes = sweep.kill_everywhere(rewrite_alone)
    assert min(outcomes.values()) > 3, outcomes


def test_killed_at_every_point_of_an_abort(sweep: Sweep) -> None:
    assert sweep.kill_everywhere(give_up)["committed"] == 0


def test_recovery_killed_at_every_point(sweep: Sweep) -> None:
    """O31: the first process dies in the middle of its renames, and so does whoever recovers."""
    points = sweep.world.play(rewrite)
    renames = [number for number, what in enumerate(points, 1) if what == "os.rename"]

    def die_while_renaming() -> None:
        with pytest.raises(Died):
            sweep.world.play(rewrite, die_at=renames[1])

    sweep.put_back()
    outcomes = sweep.kill_everywhere(recover, die_while_renaming)
    assert outcomes == {"committed": sum(outcomes.values()), "aborted": 0}
    assert outcomes["committed"] > 3


def test_killed_and_cancelled_under_asyncio(tmp_path: Path, syncpoint_crash: SyncpointCrash) -> None:
    """As a user would try it: docs/testing.md."""
    sweep = Sweep(tmp_path)

    async def rewrite_async(manager: syncpoint.AsyncTransactionManager) -> None:
        async with manager.transaction() as tx:
            docs, catalogue = await tx.connect("docs"), await tx.connect("catalogue")
            for name, content in NEW.items():
                await docs.write(name, content)
                catalogue.execute("INSERT OR REPLACE INTO article VALUES (?, ?)", (name, content))
            await docs.delete("old/b.txt")
            catalogue.execute("DELETE FROM article WHERE name = 'old/b.txt'")

    def check(committed: bool | None) -> None:
        outcome = sweep.judge("under asyncio")
        assert committed in (None, outcome == "committed")

    def manager() -> syncpoint.AsyncTransactionManager:
        return syncpoint.AsyncTransactionManager(**sweep.world.options)

    points = every_point if FULL else every_point.sample(12)
    modes = ["kill", "kill after", "cancel"]
    report = syncpoint_crash(points, rewrite_async, check, manager=manager, prepare=sweep.put_back, modes=modes)
    assert len(report.hit) > 0


def test_the_next_writer_settles_what_a_dead_one_left(sweep: Sweep) -> None:
    """No recovery: whoever begins next finds all of the work, or nothing (DESIGN section 4, rule 9)."""
    points = sweep.world.play(rewrite)
    votes = points.index("prepare (own)") + 1
    seen = set()
    for nth in range(votes, len(points) + 1, 3):
        sweep.put_back()
        with contextlib.suppress(Died):
            sweep.world.play(rewrite, die_at=nth)
        with sweep.world.manager() as manager, manager.transaction() as tx:
            docs = tx.connect("docs")
            found = {name: docs.read(name) for name in docs.names()}
        assert found in (OLD, NEW), f"killed at {nth}, {points[nth - 1]}: {sorted(found)}"
        seen.add(found == NEW)
        sweep.world.recover()
        sweep.judge(f"killed at {nth}, and settled by the next writer")
    assert seen == {True, False}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the files that are forced cannot be named here")
def test_what_is_forced_and_when(world: DirectoryWorld) -> None:
    """No power goes off here; but contents are on disk before the decision is, and renames before it is forgotten."""
    points = world.play(rewrite)
    vote, commit = points.index("prepare (own)"), points.index("commit (own)", points.index("prepare (own)"))
    decision, end = points.index("journal force", vote), points.index("os.rmdir", commit)
    before = {what.removeprefix("fsync ") for what in points[vote:decision] if what.startswith("fsync ")}
    assert before == {".syncpoint/staged/1", ".syncpoint/staged/2", ".syncpoint/staged", ".syncpoint", "."}
    last_change = max(nth for nth, what in enumerate(points) if what in ("os.rename", "os.remove") and nth < end)
    after = {what.removeprefix("fsync ") for what in points[last_change:end] if what.startswith("fsync ")}
    assert after == {".", "old", "new/deep"}


# --- what is seen, and what is refused -------------------------------------------------------------------------------


def test_a_work_sees_its_own_changes_and_nobody_else_does(
    world: DirectoryWorld, manager: syncpoint.TransactionManager
) -> None:
    with manager.transaction() as tx:
        docs = tx.connect("docs")
        docs.write("new/c.txt", b"one")
        docs.write("new/c.txt", b"two")
        docs.delete("a.txt")
        assert docs.names() == ["new/c.txt", "old/b.txt"]
        assert docs.read("new/c.txt") == b"two"
        assert not docs.exists("a.txt")
        with pytest.raises(FileNotFoundError, match="deleted in this transaction"):
            docs.read("a.txt")
        assert world.files() == OLD
    assert world.files() == {"old/b.txt": b"second", "new/c.txt": b"two"}
    assert world.staged() == []


def test_a_block_inside_is_rolled_back(world: DirectoryWorld, manager: syncpoint.TransactionManager) -> None:
    with manager.transaction() as tx:
        docs = tx.connect("docs")
        docs.write("a.txt", b"outer")
        give_up(manager)
    assert world.files() == {**OLD, "a.txt": b"outer"}
    assert world.rows() == OLD


def read_beside(manager: syncpoint.TransactionManager) -> None:
    with manager.transaction() as tx:
        docs = tx.connect("docs", read_only=True)
        assert docs.read("a.txt") == b"first"
        with pytest.raises(PermissionError, match="read-only"):
            docs.write("a.txt", b"never")


def test_a_reader_goes_on_beside_a_writer(world: DirectoryWorld, manager: syncpoint.TransactionManager) -> None:
    with world.manager() as other, manager.transaction() as tx:
        other.recover()  # its first contact
        tx.connect("docs").write("a.txt", b"soon")
        with ThreadPoolExecutor() as threads:  # in this one its block would be a block inside
            threads.submit(read_beside, other).result()
    assert world.files()["a.txt"] == b"soon"


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b", "a//b", ".syncpoint/syncpoint.db", "link/a"])
def test_names_that_lead_outside_are_refused(
    world: DirectoryWorld, manager: syncpoint.TransactionManager, name: str
) -> None:
    (world.docs / "link").symlink_to(world.folder)
    with pytest.raises(ValueError, match=r"is no name of a file|leads over the symbolic link"):
        publish(manager, {name: b"x"}, ())
    assert world.rows() == OLD


@pytest.mark.parametrize(("name", "why"), [("old", "is a folder"), ("a.txt/x", "is a file, so")])
def test_what_could_not_be_committed_votes_no(
    world: DirectoryWorld, manager: syncpoint.TransactionManager, name: str, why: str
) -> None:
    with pytest.raises(syncpoint.TransactionAborted, match=why):
        publish(manager, {name: b"x"}, ())
    assert world.files() == world.rows() == OLD
    assert world.staged() == []


def test_what_somebody_removed_from_the_hidden_folder_is_told(world: DirectoryWorld) -> None:
    """Decided, but its content is gone: it is kept, loudly, and nothing else begins."""
    points = world.play(rewrite)
    shutil.rmtree(world.folder)
    world = DirectoryWorld(world.folder)
    with pytest.raises(Died):
        world.play(rewrite, die_at=points.index("os.rename") + 1)
    staged = world.docs / ".syncpoint" / "staged"
    kept = staged.rename(world.folder / "kept")
    with world.manager() as manager:
        assert manager.recover().unreachable
        with pytest.raises(syncpoint.SyncpointError, match="somebody removed"):
            publish(manager, {"z.txt": b"z"}, ())
    kept.rename(staged)
    world.recover()
    assert world.files() == world.rows() == NEW


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, "names no folder"),
        ({"url": "files://host/srv"}, "names no folder"),
        ({"url": "files:///srv", "path": "/srv"}, "names no folder"),
        ({"path": "/srv", "pathh": "x"}, "Did you mean 'path'?"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, table: dict[str, str], expected: str) -> None:
    docs = {"class": "syncpoint.resources.file_directory:FileDirectory", **table}
    with pytest.raises(syncpoint.ConfigurationError, match=expected):
        syncpoint.TransactionManager(tmp_path / "journal", {"docs": docs}).open()


def test_a_url_names_it_as_well(world: DirectoryWorld, tmp_path: Path) -> None:
    (tmp_path / "with space").mkdir()
    docs = f"files://{tmp_path}/with%20space"
    with syncpoint.TransactionManager(tmp_path / "journal", {"docs": docs}) as manager, manager.transaction() as tx:
        tx.connect("docs").write("a", b"1")
    assert (tmp_path / "with space" / "a").read_bytes() == b"1"


def test_a_folder_that_is_not_there(world: DirectoryWorld, manager: syncpoint.TransactionManager) -> None:
    world.docs.rename(world.folder / "away")
    with pytest.raises(syncpoint.SyncpointError, match=r"there is no folder|closed for a fork, or removed or replaced"):
        publish(manager, {"a.txt": b"x"}, ())
    assert not world.docs.exists(), "it is not made anew"
