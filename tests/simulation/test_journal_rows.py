"""The tables of a journal in a simulated server: locks, what is seen when, and what a crash leaves.

Not for: whole seeds (test_database_journal.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from syncpoint.ids import Guid
from syncpoint.journal.store import Said, Trouble
from syncpoint.simulation.journal_rows import Habits, JournalRows
from syncpoint.simulation.runtime import Promise
from syncpoint.simulation.world import World
from syncpoint.steps import Done

DRAW = "INSERT INTO syncpoint.incarnation (incarnation, keeper, process) VALUES ({0}, {0}, 'p')"
TAKE = "UPDATE syncpoint.incarnation SET keeper = 9 WHERE incarnation = 1 AND keeper = 1"
ALIVE = "(SELECT i.incarnation FROM syncpoint.incarnation i WHERE i.incarnation = 1 AND i.keeper = 1 AND share(1))"
COMMIT = (
    "INSERT INTO syncpoint.record (transaction, attempt, incarnation, once, kept, data) "
    f"VALUES (x'aa', 5, {ALIVE}, x'aa', false, x'01')"
)
ABORT = (
    "INSERT INTO syncpoint.record (transaction, attempt, incarnation, once, kept, data) "
    "VALUES (x'aa', 5, 1, NULL, false, x'02')"
)
SLOWLY = 1.0
"""Every commit stalls."""


class Server:
    """One server, and one packet after the other."""

    def __init__(self, **habits: object) -> None:
        self.world = World(1)
        self.rows = JournalRows(self.world, "server", replace(Habits(), **habits), lambda: Guid(bytes(16)))
        self.rows.make_tables()
        stalls = self.rows.habits
        self.rows.habits = Habits(early=stalls.early)
        self(DRAW.format(1))
        self.rows.habits = stalls

    def __call__(self, *statements: str, durable: bool = True) -> Said:
        promise = self.begin(*statements, durable=durable)
        if not promise.is_kept:
            self.world.run(self.world.now_s + 10, lambda: promise.is_kept)
        return said(promise)

    def begin(self, *statements: str, durable: bool = True) -> Promise:
        return self.rows.submit(statements, "a packet", durable=durable)

    def records(self) -> Sequence[object]:
        return [data for (data,) in self.rows.select("SELECT data FROM syncpoint.record")]

    def keeper(self) -> object:
        return self.rows.select("SELECT keeper FROM syncpoint.incarnation WHERE incarnation = 1")[0][0]


def said(promise: Promise) -> Said:
    found: list[Said] = []
    promise.then(lambda outcome: found.append(outcome.value) if isinstance(outcome, Done) else None)
    return found[0]


def test_first_writer_wins_and_the_taken_over_decide_nothing() -> None:
    server = Server()
    assert server(COMMIT).trouble is Trouble.NONE
    assert server(ABORT).trouble is Trouble.DUPLICATE
    assert server(TAKE, "SELECT keeper FROM syncpoint.incarnation WHERE incarnation = 1").rows[1] == (("9",),)
    assert server(COMMIT.replace("x'aa'", "x'bb'")).trouble is Trouble.FENCED
    assert server("SELECT 1 FROM syncpoint.nowhere").trouble is Trouble.MISSING
    assert server.records() == [b"\x01"]


def test_a_take_over_waits_for_a_decision_that_is_being_written() -> None:
    server = Server(stalls=SLOWLY)
    commit = server.begin(COMMIT)
    assert server.records() == [], "others do not see it yet"
    take = server.begin(TAKE)
    server.world.run(server.world.now_s + 10, lambda: take.is_kept)
    assert commit.is_kept or said(take).trouble is Trouble.BUSY
    assert (server.keeper() == 9) == (said(take).trouble is Trouble.NONE)


def test_a_decision_waits_for_a_take_over_and_is_refused_then() -> None:
    server = Server(stalls=SLOWLY)
    take, commit = server.begin(TAKE), server.begin(COMMIT)
    server.world.run(server.world.now_s + 20, lambda: take.is_kept and commit.is_kept)
    assert said(take).trouble is Trouble.NONE
    assert said(commit).trouble in (Trouble.FENCED, Trouble.BUSY)
    assert server.records() == []


def test_a_writer_of_the_same_key_waits_and_finds_it_there() -> None:
    server = Server(stalls=SLOWLY)
    commit, abort = server.begin(COMMIT), server.begin(ABORT)
    server.world.run(server.world.now_s + 20, lambda: commit.is_kept and abort.is_kept)
    assert said(commit).trouble is Trouble.NONE
    assert said(abort).trouble in (Trouble.DUPLICATE, Trouble.BUSY)
    assert server.records() == [b"\x01"]


@pytest.mark.parametrize("early", [False, True])
def test_what_is_not_on_disk_may_be_lost_and_what_was_said_to_be_never_is(early: bool) -> None:
    kept = set()
    for number in range(40):
        server = Server(early=early, stalls=SLOWLY)
        server.rows._chance.seed(number)
        pending = server.begin(COMMIT)
        assert (server.records() == [b"\x01"]) == early, "seen before it is on disk, or not"
        server.rows.crash()
        assert not pending.is_kept
        kept.add(len(server.records()))
    assert kept == {0, 1}, "nobody knows"
    server = Server(early=early)
    assert server(COMMIT).trouble is Trouble.NONE
    server.rows.crash()
    assert server.records() == [b"\x01"]


def test_a_lazy_commit_is_seen_at_once_and_a_forced_one_takes_it_along() -> None:
    lost = set()
    for number in range(40):
        server = Server()
        server.rows._chance.seed(number)
        assert server(COMMIT, durable=False).trouble is Trouble.NONE
        assert server.records() == [b"\x01"]
        server.rows.crash()
        lost.add(not server.records())
    assert lost == {False, True}
    server = Server()
    server(COMMIT, durable=False)
    server(DRAW.format(2))
    server.rows.crash()
    assert server.records() == [b"\x01"]


def test_statements_of_a_packet_see_its_own_writes_or_nothing_of_it_stays() -> None:
    server = Server(pauses=1.0)
    found = server(DRAW.format(2), "SELECT MAX(incarnation) FROM syncpoint.incarnation")
    assert found.rows == ((), (("2",),))
    assert server(DRAW.format(3), DRAW.format(2)).trouble is Trouble.DUPLICATE
    assert server.rows.select("SELECT MAX(incarnation) FROM syncpoint.incarnation") == [(2,)]
