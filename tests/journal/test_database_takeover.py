"""Death is guessed, and a wrong guess costs one retry (O34, O38, O55, O56): processes that stop, wake, and take over.

The same tests on PostgreSQL and MariaDB, with real time only where death is guessed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from syncpoint.testing.servers.base import wait_until
from tests.journal.database_world import FAST, Process, World, all_at_once, commit


def test_a_process_that_was_paused_wakes_and_can_decide_nothing_of_before(world: World) -> None:
    paused, other = world.process(**FAST), world.process(**FAST)
    old, key, in_branch, decided = paused.incarnation, paused.key(), paused.key(), paused.key()
    assert paused.commits(decided)
    branch = world.another()
    branch(world.begin)
    branch("SELECT count(*) FROM syncpoint.known")
    paused.fall_silent()
    other.takes_over(old)
    assert not paused(paused.journal.confirm(old))
    assert not paused.commits(key)
    with pytest.raises(Exception, match=r"(?i)incarnation"):
        branch(paused.journal.decision(commit(in_branch)))
    branch.close()
    assert world.records() == [("commit", str(decided))]
    assert list(other.look().decisions) == [decided], "inherited"
    assert paused.look().decisions == {}
    assert paused.look().elsewhere == {decided}
    paused.wake()
    wait_until(lambda: paused.incarnation != old, "it draws another incarnation")
    assert not paused(paused.journal.confirm(old))
    assert paused(paused.journal.confirm(paused.incarnation))
    fresh = paused.key()
    assert fresh.attempt.counter == 1
    assert paused.commits(fresh)
    assert paused.incarnation in other.look().live


def test_who_was_taken_over_ends_nothing(world: World) -> None:
    """He that took over may be about to finish it. Were the record ended under his hands, a third process could remove
    the evidence of its branches, and its absence would be read as a rollback, or its work be done a second time."""
    paused, other, third = world.process(**FAST), world.process(**FAST), world.process(**FAST)
    old, key, kept = paused.incarnation, paused.key(), paused.key(1)
    assert paused.commits(key)
    assert paused.commits(kept, user_id="order-1", result=b"\xc0")
    paused.fall_silent()
    other.takes_over(old)
    assert set(other.look().decisions) == {key, kept}
    paused.ends(key, kept)
    assert set(other.look().decisions) == {key, kept}, "its keeper has still to see it finished"
    assert third(third.journal.ended_incarnations({old})) == set(), "so no evidence of it may go"
    other.ends(key, kept)
    assert other.look().decisions == {}
    assert third(third.journal.ended_incarnations({old})) == {old}


def test_a_refused_decision_is_enough_to_look_who_keeps_us(world: World) -> None:
    paused = world.process(heartbeat_s=30, dead_after_s=60)
    old = paused.incarnation
    wait_until(lambda: world.count("heartbeat") == 1, "it lives")
    world.see(f"UPDATE syncpoint.incarnation SET keeper = 99 WHERE incarnation = {old}")
    assert not paused.commits(paused.key())
    wait_until(lambda: paused.incarnation != old, "it draws another incarnation", 5.0)
    assert paused.commits(paused.key())


def test_nobody_takes_his_own_number_back(world: World) -> None:
    """O54: it would let through what was aborted and cleaned up while somebody else kept it."""
    paused, other = world.process(**FAST), world.process(**FAST)
    old, key = paused.incarnation, paused.key()
    paused.fall_silent()
    other.takes_over(old)
    other.close()
    assert world.keepers().get(old) in (0, None), "nobody keeps it"
    world.age_heartbeat(old, 0)
    paused.look()
    assert world.keepers().get(old) != old
    assert not paused.commits(key)
    paused.wake()
    wait_until(lambda: paused.incarnation != old, "it draws another incarnation")
    wait_until(lambda: world.keepers().get(old) in (paused.incarnation, None) or bool(paused.look()), "taken over", 5.0)
    assert world.records() == []


def test_two_that_take_each_other_for_dead_at_once_both_go_on(world: World) -> None:
    one, other = world.process(**FAST), world.process(**FAST)
    keys = [one.key(), other.key()]
    old = {one.incarnation, other.incarnation}
    for process in (one, other):
        process.fall_silent()
    # Each has judged already; the guess is certain to be wrong, and both say so at the same moment.
    steals = [
        lambda observer=observer, mine=mine, theirs=theirs: observer(
            f"UPDATE syncpoint.incarnation SET keeper = {mine} WHERE incarnation = {theirs} AND keeper = {theirs}"
        )
        for observer, mine, theirs in (
            (world.another(), one.incarnation, other.incarnation),
            (world.another(), other.incarnation, one.incarnation),
        )
    ]
    for thread in all_at_once(steals):
        thread.result()
    assert {who: keeper for who, keeper in world.keepers().items() if who in old} == {
        one.incarnation: other.incarnation,
        other.incarnation: one.incarnation,
    }
    assert not one.commits(keys[0])
    assert not other.commits(keys[1])
    for process in (one, other):
        process.wake()
    wait_until(lambda: not {one.incarnation, other.incarnation} & old, "both go on")
    assert one.commits(one.key())
    assert other.commits(other.key())
    assert len(world.records()) == 2


def test_a_chain_the_keeper_dies_too_and_a_third_has_all(world: World) -> None:
    first, second = world.process(**FAST), world.process(**FAST)
    mine, theirs = first.key(), second.key()
    assert first.commits(mine)
    first.fall_silent()
    second.takes_over(first.incarnation)
    assert second.commits(theirs)
    assert set(second.look().decisions) == {mine, theirs}
    second.fall_silent()
    third = world.process(**FAST)
    third.takes_over(second.incarnation, first.incarnation)
    view = third.look()
    assert set(view.decisions) == {mine, theirs}
    assert not view.elsewhere
    third.ends(mine, theirs)
    third.clean()
    assert world.records() == []
    assert world.keepers() == {third.incarnation: third.incarnation}
    assert world.count("heartbeat") == 1


def test_a_take_over_that_dies_between_its_steps_is_finished_by_another(world: World) -> None:
    first, second = world.process(**FAST), world.process(**FAST)
    key = first.key()
    assert first.commits(key)
    first.fall_silent()
    second.takes_over(first.incarnation)
    second.fall_silent()  # it has the keeper's place, and does nothing with it
    third = world.process(**FAST)
    assert key in third.look().elsewhere or key in third.look().decisions
    third.takes_over(first.incarnation)
    assert list(third.look().decisions) == [key]


def test_o38_o55_ten_at_once_take_over_each_incarnation_once(world: World) -> None:
    dead = [world.process(**FAST) for _ in range(4)]
    keys = [process.key() for process in dead]
    for process, key in zip(dead, keys, strict=True):
        assert process.commits(key)
        process.fall_silent()
    living = [world.process(**FAST) for _ in range(10)]
    for process in dead:
        world.age_heartbeat(process.incarnation, 60)
    views = [thread.result() for thread in all_at_once([process.look for process in living])]
    inherited = [one for view in views for one in view.inherited]
    assert sorted(inherited) == [process.incarnation for process in dead]
    assert sorted(key for view in views for key in view.decisions) == sorted(keys)
    keepers = world.keepers()
    assert all(keepers[process.incarnation] in {one.incarnation for one in living} for process in dead)


def test_who_was_not_heard_of_himself_judges_nobody(world: World) -> None:
    """The database was away for longer than that, or its clock was put forward: nobody was heard of."""
    one, other = world.process(heartbeat_s=0.2, dead_after_s=2), world.process(heartbeat_s=0.2, dead_after_s=2)
    for process in (one, other):
        process.fall_silent()
        world.age_heartbeat(process.incarnation, 3600)
    assert one.look().live == {other.incarnation}
    one.wake()  # heard of again, after a gap
    wait_until(lambda: one.journal._living._heard_since is not None, "it noticed the gap")
    assert not one.look().inherited
    assert world.keepers()[other.incarnation] == other.incarnation
    other.wake()
    one.takes_over()
    assert world.keepers()[other.incarnation] == other.incarnation


def test_a_sign_of_life_from_the_future_says_nothing(world: World) -> None:
    """The database's clock was put back by an hour after a process had died."""
    one, dead = world.process(**FAST), world.process(**FAST)
    dead.fall_silent()
    world.age_heartbeat(dead.incarnation, -3600)
    one.takes_over(dead.incarnation)


def test_whoever_keeps_one_number_may_be_at_work_on_what_it_kept(world: World) -> None:
    first, second, third = (world.process(**FAST) for _ in range(3))
    key = first.key()
    assert first.commits(key)
    first.fall_silent()
    world.age_heartbeat(first.incarnation, 60)
    second.takes_over(first.incarnation)
    view = third.look()
    assert view.elsewhere == {key}
    assert not view.inherited
    assert not view.decisions


CHILD = """
import sys
from tests.journal.database_world import FAST, Process, commit
process = Process(sys.argv[1], **FAST).open()
key = process.key()
print(process.incarnation, flush=True)
sys.stdin.readline()
print("old", process.commits(key), flush=True)
for line in sys.stdin:
    print("new", process.incarnation, process.commits(process.key()), flush=True)
process.close()
"""


class Child:
    """A real process with a journal."""

    def __init__(self, world: World) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, world.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.incarnation = int(self._line()[0])

    def _line(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def ask(self) -> list[str]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child(world: World) -> Iterator[Child]:
    world.process().close()  # the tables are made
    child = Child(world)
    yield child
    child.end()


def test_a_real_process_stopped_by_a_signal_is_taken_over_and_wakes(world: World, child: Child) -> None:
    other = world.process(**FAST)
    child.process.send_signal(signal.SIGSTOP)
    other.takes_over(child.incarnation)  # type: ignore[arg-type]
    child.process.send_signal(signal.SIGCONT)
    assert child.ask() == ["old", "False"]
    assert world.records() == []
    fresh: list[str] = []

    def goes_on() -> bool:
        fresh[:] = child.ask()
        return fresh[2] == "True"

    wait_until(goes_on, "it goes on under another incarnation")
    assert int(fresh[1]) > child.incarnation
    assert [kind for kind, _ in world.records()] == ["commit"]


def test_a_killed_process_is_taken_over_and_what_it_had_not_flushed_is_no_loss(world: World, child: Child) -> None:
    other = world.process(**FAST)
    child.process.kill()
    child.process.wait()
    other.takes_over(child.incarnation)  # type: ignore[arg-type]
    other.clean()
    assert world.keepers() == {other.incarnation: other.incarnation}


def test_what_was_noted_and_not_written_when_a_process_dies_is_seen_again(world: World) -> None:
    dies, other = world.process(heartbeat_s=30, dead_after_s=60), world.process(**FAST)
    key = dies.key()
    assert dies.commits(key)
    dies.journal.note([_end(key)])
    view = dies.look()
    assert view.ended == {key}
    assert not view.decisions
    world.age_heartbeat(dies.incarnation, 60)
    other.takes_over(dies.incarnation)
    assert list(other.look().decisions) == [key]
    other.ends(key)
    dies.force()
    assert world.records() == []


def _end(key: object) -> object:
    from syncpoint.records import End, key_fields

    return End(**key_fields(key))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_abandons_the_journal_and_the_parent_goes_on(world: World) -> None:
    parent = world.process()
    before, after = parent.key(), parent.key()
    assert parent.commits(before)
    pid = os.fork()
    if pid == 0:
        try:
            parent.runner.after_fork()
            parent.journal.abandon()
            own = Process(world.url).open()
            os._exit(0 if own.commits(own.key()) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert parent.commits(after)
    assert not parent.aborts(before)
    assert len(world.records()) == 3
    assert set(world.keepers()) == {parent.incarnation, parent.incarnation + 1}
