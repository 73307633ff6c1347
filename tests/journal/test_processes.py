"""Real processes on a real disk, killed with SIGKILL while they share a folder (O55).

Each child prints what was acknowledged; after the last kill everything acknowledged and not ended must be there, and
each incarnation must have been drawn once. Bounded: a handful of children, some hundred transactions.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncpoint.journal.folder import FolderJournal
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemDisk, SystemRandom

CHILD = """
import sys
from syncpoint.ids import Key, TransactionId
from syncpoint.journal.folder import FolderJournal
from syncpoint.records import Commit, End, key_fields
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemDisk, SystemRandom

runner, random = ThreadRunner(), SystemRandom()
journal = FolderJournal(
    sys.argv[1], disk=SystemDisk(), clock=SystemClock(), random=random, segment_size_bytes_max=20_000
)
runner.run(journal.open(runner))
print("incarnation", journal.incarnation, flush=True)
number = 0
while True:
    number += 1
    key = Key(TransactionId(random.bytes(16)), journal.next_attempt())
    runner.run(journal.force((Commit(**key_fields(key), branches=(), at_ms=0),)))
    print("committed", key.transaction, flush=True)
    if number % 2:
        print("ending", key.transaction, flush=True)
        journal.note((End(**key_fields(key)),))
    if number % 10 == 0:
        runner.run(journal.look())
"""

CLAIMER = """
import sys
from syncpoint.ids import TransactionId
from syncpoint.journal.folder import FolderJournal
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemDisk, SystemRandom

runner = ThreadRunner()
journal = FolderJournal(sys.argv[1], disk=SystemDisk(), clock=SystemClock(), random=SystemRandom())
runner.run(journal.open(runner))
print(runner.run(journal.claim(TransactionId(b"t" * 16))).mine, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def runner() -> Iterator[ThreadRunner]:
    runner = ThreadRunner()
    yield runner
    runner.close()


class Child:
    """One process; what it prints goes to a file, so that nothing printed before its death is lost."""

    def __init__(self, source: str, folder: Path, output: Path) -> None:
        self._output = output
        with output.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", source, str(folder)], stdin=subprocess.PIPE, stdout=file
            )

    def wait_for_lines(self, count: int) -> list[str]:
        """All whole lines printed so far, once there are so many; fails after a minute."""
        deadline = time.monotonic() + 60
        while len(lines := self._lines()) < count:
            assert self._process.poll() is None, "the child has ended"
            assert time.monotonic() < deadline, f"{len(lines)} of {count} lines after a minute"
            time.sleep(0.005)
        return lines

    def kill(self) -> list[str]:
        """SIGKILL; returns all whole lines it has printed."""
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()
        return self._lines()

    def _lines(self) -> list[str]:
        return self._output.read_text().rpartition("\n")[0].splitlines()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    children: list[Child] = []

    def start_child(source: str) -> Child:
        child = Child(source, tmp_path / "journal", tmp_path / f"output-{len(children)}")
        children.append(child)
        return child

    yield start_child
    for child in children:
        child.kill()


def journal_in(folder: Path) -> FolderJournal:
    return FolderJournal(str(folder), disk=SystemDisk(), clock=SystemClock(), random=SystemRandom())


def test_o55_processes_killed_at_any_moment_lose_nothing(
    runner: ThreadRunner, tmp_path: Path, start: Callable[[str], Child]
) -> None:
    folder = tmp_path / "journal"
    seed = time.time_ns()
    print(f"seed {seed}")
    moments = random.Random(seed)
    printed = []
    for _ in range(3):
        for child in [start(CHILD) for _ in range(2)]:
            child.wait_for_lines(moments.randint(5, 120))
            printed += child.kill()
    words = [line.split() for line in printed]
    told = {what: [value for kind, value in words if kind == what] for what in ("incarnation", "committed", "ending")}
    assert len(told["incarnation"]) == len(set(told["incarnation"])) == 6
    journal = journal_in(folder)
    runner.run(journal.open(runner))
    view = runner.run(journal.look())
    found = {str(key.transaction) for key in view.decisions}
    assert set(told["committed"]) - set(told["ending"]) - found == set()
    assert len(found - set(told["committed"])) <= 6, "at most the one that each was just forcing"
    assert view.live == frozenset()
    assert len(list((folder / "members").iterdir())) == 1
    runner.run(journal.close())


def test_c7_a_claim_is_exclusive_among_processes_and_goes_with_its_process(
    runner: ThreadRunner, tmp_path: Path, start: Callable[[str], Child]
) -> None:
    first, second = start(CLAIMER), start(CLAIMER)
    answers = [child.wait_for_lines(1) for child in (first, second)]
    assert sorted(answers) == [["False"], ["True"]]
    holder, other = (first, second) if answers[0] == ["True"] else (second, first)
    holder.kill()
    third = start(CLAIMER)
    assert third.wait_for_lines(1) == ["True"]
    journal = journal_in(tmp_path / "journal")
    runner.run(journal.open(runner))
    assert len(runner.run(journal.look()).live) == 2
    for child in (other, third):
        child.kill()
    assert runner.run(journal.look()).live == frozenset()
    runner.run(journal.close())
