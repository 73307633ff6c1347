"""Which packets a journal in a database sends: what each is called in errors, and whether it waits for the disk.

One that is not forced although it must be loses a decision; one that is forced although it need not be costs every
transaction a turn of the disk. Not for: what the packets do (test_database.py and those beside it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from syncpoint.records import CoordinatorKnown, End, Forgotten, ResourceKnown, key_fields
from syncpoint.testing.servers.base import wait_until
from tests.journal.database_world import Process, World

SURE = "make sure that what was read is on disk"
OLD = "look for old rows"


class Tap:
    """Notes each packet of one process on its way by its name, with a `~` before it when it may be lost."""

    def __init__(self, process: Process) -> None:
        self.packets: list[str] = []
        self._store = process.journal._store
        self._run = self._store.run
        self._store.run = self._tapped  # type: ignore[method-assign]

    def _tapped(self, session: Any, statements: Sequence[str], what: str, *, durable: bool = True) -> Any:
        assert isinstance(durable, bool)
        self.packets.append(("" if durable else "~") + what)
        return (yield from self._run(session, statements, what, durable=durable))

    def take(self) -> list[str]:
        taken = [one.replace("journal: ", "", 1) for one in self.packets]
        self.packets.clear()
        return taken


def _quiet(process: Process) -> None:
    """Nothing is sent in the background any more."""
    for task in process.journal._tasks:
        task.stop()
        wait_until(task.ended.is_set, "it has stopped")


def test_opening(world: World) -> None:
    one = Process(world.url, heartbeat_s=30.0)
    world.processes.append(one)
    tap = Tap(one)
    if world.kind == "mariadb":
        world.see("DROP DATABASE IF EXISTS syncpoint")
    one.open()
    wait_until(lambda: "journal: give a sign of life" in str(tap.packets), "the first one")
    drawn = ["draw an incarnation", "read names", "~give a sign of life"]
    assert [name for name in tap.take() if "tables" not in name] == [
        "read its head",
        "begin it",
        "read its head",
        *drawn,
    ]
    other = Process(world.url, heartbeat_s=30.0)
    world.processes.append(other)
    tap = Tap(other)
    other.open()
    wait_until(lambda: "journal: give a sign of life" in str(tap.packets), "the first one")
    assert tap.take() == ["read its head", *drawn]


def test_each_call_sends_these(world: World) -> None:
    one = world.process()
    _quiet(one)
    journal, tap = one.journal, Tap(one)
    plain, kept, aborted = one.key(), one.key(), one.key()
    sure = [] if world.store.visible_is_durable else [SURE]
    note = Forgotten(**key_fields(plain), who="w", at_ms=1)

    def lazily() -> None:
        one(journal._lazily.flush(durable=False))

    def end(key: Any) -> None:
        journal.note([End(**key_fields(key))])

    steps: list[tuple[Callable[[], object], list[str]]] = [
        (lambda: one.commits(plain), ["force a Commit record"]),
        (lambda: one.commits(kept, user_id="x"), ["force a Commit record"]),
        (lambda: one.aborts(aborted), ["force an Abort record"]),
        (lambda: one.aborts(plain), ["force an Abort record", "see who was first", *sure]),
        (lambda: one(journal.claim(aborted.transaction)), ["~claim an id"]),
        (lambda: journal.release(aborted.transaction), []),
        (lambda: one(journal.claim(aborted.transaction)), ["~write what was noted", "~claim an id"]),
        (lambda: journal.release(aborted.transaction), []),
        (lazily, ["~write what was noted"]),
        (lambda: one(journal.claim(kept.transaction)), ["~claim an id", *sure]),
        (lazily, ["~write what was noted"]),
        (lambda: one(journal.find(kept.transaction)), ["look for a Commit record", *sure]),
        (lambda: one(journal.find(aborted.transaction)), ["look for a Commit record"]),
        (one.look, ["look for the dead", "look around", *sure]),
        (lambda: one(journal.look(inherit=False)), ["look around", *sure]),
        (lambda: one(journal.watch()), ["look for the dead"]),
        (lambda: one(journal.confirm(one.incarnation)), ["see who keeps us"]),
        (lambda: one(journal.unended(plain)), ["see whether a record has ended"]),
        (lambda: one(journal.ended_incarnations({99})), ["see who has finished", SURE]),  # type: ignore[arg-type]
        (lambda: one(journal.ended_incarnations({one.incarnation})), []),
        (lambda: one(journal.highest_incarnation()), ["read the counter"]),
        (lambda: one.force(note), ["write a note"]),
        (lambda: one.force(CoordinatorKnown(guid=b"G" * 16, address="a")), ["write down a name", "read names"]),
        (lambda: one.force(ResourceKnown(name="b", guid=b"G" * 16)), ["write down a name", "read names"]),
        (lambda: one(journal.heuristics()), ["read notes"]),
        (lambda: one(journal.resolutions()), ["read notes"]),
        (lambda: one(journal.story(plain.transaction)), ["read a transaction's records"]),
        (lambda: one(journal.transactions()), ["list transactions"]),
        (lambda: one.force(End(**key_fields(plain))), ["write what was noted"]),
        (one.force, []),
        (lambda: end(kept), []),
        (lazily, ["~write what was noted"]),
        # Where something was written lazily, force(()) is a forced write of our own behind it, once.
        (one.force, [SURE] if world.store.can_be_lazy else []),
        (one.force, []),
        (lambda: one(journal._living._beat()), ["~give a sign of life"]),
        (one.clean, ["look at our claims", "see who cleans", OLD, OLD, OLD, "look for who has finished"]),
        (lambda: one(journal.refuse_for_good("why")), ["refuse this journal for good"]),
        (lambda: one(journal.close()), ["see what is ours", "leave"]),
    ]
    for number, (step, expected) in enumerate(steps):
        step()
        assert tap.take() == expected, number


def test_after_a_lazy_end_a_forced_one_makes_both_durable(world: World) -> None:
    one = world.process()
    _quiet(one)
    tap = Tap(one)
    first, second = one.key(), one.key()
    assert one.commits(first)
    assert one.commits(second)
    one.journal.note([End(**key_fields(first))])
    one(one.journal._lazily.flush(durable=False))
    tap.take()
    one.force(End(**key_fields(second)))
    one.force()
    assert tap.take() == ["write what was noted"], "the forced write came after what was in the air"


def test_taking_over_and_cleaning_after_the_dead(world: World) -> None:
    one, gone = world.process(retention_s=0.001), world.process()
    _quiet(one)
    left = gone.key()
    assert gone.commits(left, user_id="x")
    aborted = gone.key()
    assert gone.aborts(aborted)
    gone.close()
    tap = Tap(one)
    one(one.journal.watch())
    assert tap.take() == ["look for the dead", "take over for a dead process"]
    one.force(End(**key_fields(left)))
    claim = f"INSERT INTO syncpoint.claim (transaction, incarnation) VALUES ({world.store.raw(b'c' * 16)}, 999)"
    orphan = claim.replace("999", str(one.incarnation)).replace(b"c".hex() * 16, b"d".hex() * 16)
    wait_until(lambda: world.count("record", f"ended < {world.store.ago(0.002)}") == 1, "its retention is over")
    world.see(claim)
    world.see(orphan)
    tap.take()
    one.clean()
    removed = [OLD, "~remove old rows"]
    mine = ["look at our claims", "~write what was noted", "see who cleans"]
    assert tap.take() == [*mine, *removed * 3, "look for who has finished", "~remove who has finished"]
    assert world.claims() == []
    assert world.records() == []
    assert world.keepers() == {one.incarnation: one.incarnation}


def test_taken_for_dead_it_draws_another(world: World) -> None:
    one = world.process()
    _quiet(one)
    tap = Tap(one)
    world.see(f"UPDATE syncpoint.incarnation SET keeper = 99 WHERE incarnation = {one.incarnation}")
    assert not one.commits(one.key())
    assert tap.take() == ["force a Commit record", "see who keeps us", "draw an incarnation"]


def test_what_runs_in_the_background_has_these_names(world: World) -> None:
    one = world.process()
    runner, names = one.runner, []
    spawn = runner.spawn
    assert [task.what for task in one.journal._tasks] == [
        "signs of life in the journal",
        "what the journal writes later",
        "cleaning of the journal",
    ]

    def noting(script: Any, what: str) -> Any:
        names.append(what)
        return spawn(script, what)

    runner.spawn = noting  # type: ignore[method-assign]
    one(one.journal.close())
    assert names == ["the journal's last rows"]
