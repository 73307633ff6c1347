"""A transaction with a journal at a node, and a fault at each question that it asks there: generated, not listed (R7).

The points are what a run without faults asks: (kind, which of that kind). At each of them the question is lost, or its
answer, or the application is fenced just before or just after. Afterwards: everywhere or nowhere, as its caller was
told; and a resend of its id does it once. Not for: processes that die (test_processes.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from enum import Enum, auto
from pathlib import Path

import apsw
import pytest

import syncpoint
from syncpoint.config import NodeSettings
from syncpoint.errors import (
    AlreadyCommitted,
    JournalUnavailable,
    JournalUncertain,
    OutcomePending,
    TransactionAborted,
    TransactionRunning,
)
from syncpoint.journal import node as journal_node
from syncpoint.journal.node import NodeJournal
from syncpoint.journal.node_link import NodeLink
from syncpoint.journal.node_messages import NODE_VOCABULARY
from syncpoint.manager import assembly, deciding
from syncpoint.messages import Message
from syncpoint.node.server import Node
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing.in_process import Fate, Hall
from syncpoint.testing.servers.base import wait_until

Point = tuple[str, int]
"""The kind of a question, and which of that kind it is, from 1."""
BACKGROUND = frozenset({"Look", "AskSession", "Flush", "ListNotes", "AskEnded"})
"""Asked by recovery too, whenever it comes by: only the first of each is a point."""


class Fault(Enum):
    """What happens at a question."""

    LOST = auto()
    UNANSWERED = auto()
    FENCED_BEFORE = auto()
    FENCED_AFTER = auto()


class Site:
    """A node and its applications in one process; two SQLite files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.resources = {name: f"sqlite:///{folder}/{name}.db" for name in "ab"}
        for name in "ab":
            with closing(apsw.Connection(f"{folder}/{name}.db")) as connection:
                connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        self.hall = Hall(NODE_VOCABULARY)
        self.node = Node(
            NodeSettings(listen=(f"unix://{folder}/unused",), journal=f"{folder}/journal"),
            resources=self.resources,
            exchange=self.hall.exchange("node", role="node"),
        ).open()
        self._names = 0

    def journal(self) -> NodeJournal:
        self._names += 1
        link = NodeLink(self.hall.exchange(f"app-{self._names}"), node="node")
        return NodeJournal(link, clock=SystemClock(), random=SystemRandom())

    def rows(self) -> list[list[int]]:
        found = []
        for name in "ab":
            # By the library that the resources use: another's would drop this process's locks.
            with closing(apsw.Connection(f"{self.folder}/{name}.db")) as connection:
                connection.set_busy_timeout(30_000)
                found.append([row[0] for row in connection.execute("SELECT id FROM item").fetchall()])
        return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path)
    monkeypatch.setattr(assembly, "node_journal", lambda *_, **__: made.journal())
    monkeypatch.setattr(journal_node, "AWAY_S_MAX", 0.0)
    monkeypatch.setattr(journal_node, "OPEN_S_MAX", 0.0)
    monkeypatch.setattr(deciding, "PAUSE_S_MIN", 0.001)
    yield made
    made.hall.rules.clear()
    made.node.close()


def transfer(site: Site) -> str:
    """What its caller was told."""
    try:
        with syncpoint.TransactionManager("node://here", site.resources) as manager:
            with manager.transaction(id="order-1") as tx:
                for name in "ab":
                    tx.connect(name).execute("INSERT INTO item VALUES (1)")
            return "committed"
    except (TransactionAborted, OutcomePending, JournalUnavailable, JournalUncertain) as error:
        return type(error).__name__


def numbered() -> Callable[[Message], Point]:
    seen: Counter[str] = Counter()

    def number(question: Message) -> Point:
        kind = type(question).__name__
        seen[kind] += 1
        return kind, seen[kind]

    return number


def points(site: Site) -> list[Point]:
    """What a run without faults asks."""
    number, found = numbered(), []

    def watch(source: str, target: str, question: Message) -> None:
        if target == "node":
            found.append(number(question))

    site.hall.rules.append(watch)
    assert transfer(site) == "committed"
    site.hall.rules.clear()
    return [point for point in found if point[0] not in BACKGROUND or point[1] == 1]


def play(site: Site, at: Point, fault: Fault) -> bool:
    """Whether the point was reached: recovery, beside it, makes some questions come or not."""
    number, hit = numbered(), []

    def rule(source: str, target: str, question: Message) -> Fate | None:
        if target != "node" or hit:
            if fault is Fault.FENCED_AFTER and hit == [source]:
                hit.append("fenced")
                site.node.runtime.run(site.node.fence(source))
            return None
        if number(question) != at:
            return None
        hit.append(source)
        if fault is Fault.FENCED_BEFORE:
            site.node.runtime.run(site.node.fence(source))
        return {Fault.LOST: Fate.LOST, Fault.UNANSWERED: Fate.UNANSWERED}.get(fault)

    site.hall.rules.append(rule)
    told = transfer(site)
    site.hall.rules.clear()
    if not hit:
        assert told == "committed"
        return False
    rows = site.rows()
    if told == "committed":
        wait_until(lambda: site.rows() == [[1], [1]], f"{at} {fault.name}: told {told}, and there is {rows}")
    elif told == "TransactionAborted":
        assert rows == [[], []], f"{at} {fault.name}: told {told}"
    resend(site, at, fault, told)
    return True


def resend(site: Site, at: Point, fault: Fault, told: str) -> None:
    """The same id again does it once, whatever became of the first."""
    with syncpoint.TransactionManager("node://here", site.resources) as manager:

        def is_over() -> bool:
            try:
                with manager.transaction(id="order-1") as tx:
                    for name in "ab":
                        tx.connect(name).execute("INSERT INTO item VALUES (1)")
            except AlreadyCommitted:
                return True
            except TransactionRunning:
                return False
            assert told != "committed", f"{at} {fault.name}: it was run again"
            return True

        wait_until(is_over, f"{at} {fault.name}: its id is free")
        wait_until(lambda: site.rows() == [[1], [1]], f"{at} {fault.name}: once everywhere; told {told}")
        wait_until(lambda: not manager.in_doubt(), f"{at} {fault.name}: nothing in doubt")
        assert manager.heuristics() == []


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_at_every_question(tmp_path_factory: pytest.TempPathFactory, fault: Fault, site: Site) -> None:
    found = points(site)
    assert {"OpenSession", "TakeClaim", "Force", "Look"} <= {kind for kind, _ in found}
    hit = 0
    for point in found:
        if point[0] in ("CloseSession",) and fault is Fault.FENCED_AFTER:
            continue  # nothing is asked after it
        again = Site(tmp_path_factory.mktemp("play"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assembly, "node_journal", lambda *_, made=again, **__: made.journal())
            try:
                hit += play(again, point, fault)
            finally:
                again.hall.rules.clear()
                again.node.close()
    assert hit >= len(found) * 2 // 3, f"{hit} of {found}"
