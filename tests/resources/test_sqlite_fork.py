"""A process that forks while it has a SQLite file open: nothing committed is lost, whichever of the two committed it.

Each case runs in a process of its own, so that the test runner never forks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.resources.sqlite_world import MODES, observe

PROLOGUE = """
import gc, os, sys, warnings
from pathlib import Path
import apsw
from syncpoint.errors import ConnectionLost, ResourceUnavailable
from tests.resources.sqlite_world import TABLE, World, make_identifier
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads
path, mode = Path(sys.argv[1]), sys.argv[2]
world = World(path, mode)
world.committed(TABLE)

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            world.resource.abandon(world.session)
            world._loop = __import__("asyncio").Runner()
            if mode == "async":
                world.runner.after_fork()
            work()
        except BaseException:
            __import__("traceback").print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def insert(number):
    world.begin(identifier=make_identifier(number=number + 1000))
    world.execute(f"INSERT INTO t VALUES ({number}, {os.getpid()})")
    world.run(world.resource.prepare(world.session))
    world.commit()
"""


def run(path: Path, mode: str, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + program, str(path), mode],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", MODES)
def test_a_child_keeps_what_it_commits_after_its_parent_let_the_file_go(tmp_path: Path, mode: str) -> None:
    """With connections inherited, the parent's last close removed the WAL under the child, and its rows were gone."""
    run(
        tmp_path / "a.db",
        mode,
        """
insert(1)
told, tell = os.pipe()
wait, go = os.pipe()

def work():
    world.session = world.open()
    insert(2)
    os.write(tell, b"x")
    os.read(wait, 1)
    insert(3)

pid = os.fork()
if pid == 0:
    world.resource.abandon(world.session)
    world._loop = __import__("asyncio").Runner()
    if mode == "async":
        world.runner.after_fork()
    work()
    os._exit(0)
os.read(told, 1)
try:
    world.begin()
    raise SystemExit("the idle connection was not closed before the fork")
except ConnectionLost:
    pass
world.fresh()
insert(4)
world.close(world.session)
os.write(go, b"x")
assert os.waitpid(pid, 0)[1] == 0
""",
    )
    assert observe(tmp_path / "a.db", "SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("mode", MODES)
def test_a_fork_in_the_middle_of_a_branch_refuses_the_file_in_the_child_and_spares_the_parent(
    tmp_path: Path, mode: str
) -> None:
    run(
        tmp_path / "a.db",
        mode,
        """
def work():
    try:
        world.open()
        raise SystemExit("the child could open the file")
    except ResourceUnavailable as error:
        assert "forked" in str(error), error
    world.session = None
    world._sessions.clear()
    gc.collect()

_, vote = world.vote("INSERT INTO t VALUES (1, 1)")
in_child(work)
world.commit()
insert(2)
""",
    )
    assert observe(tmp_path / "a.db", "SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def test_another_file_can_be_used_in_the_child_of_a_busy_parent(tmp_path: Path) -> None:
    run(
        tmp_path / "a.db",
        "sync",
        """
def work():
    with World(path.with_name("b.db"), mode) as other:
        other.committed(TABLE)
        other.committed("INSERT INTO t VALUES (7, 7)")

world.begin()
in_child(work)
""",
    )
    assert observe(tmp_path / "b.db", "SELECT id FROM t") == [(7,)]
