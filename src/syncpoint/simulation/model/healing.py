"""What must come about from every state once faults stop.

From each state two futures are played to their end. In one the living go on: everything on its way arrives, and
recovery passes. In the other everybody dies, what was on its way is lost, and a process that starts afresh recovers.
In either nothing may be left in doubt, at work, undecided, or unended in the journal; every caller is told; whatever
was decided has been done.

    left in doubt       a branch is still prepared
    locks left          a branch is still at work
    unended             a Commit record has not ended, or an attempt is still under way
    undone              a decided branch is not committed
    evidence left       evidence is kept for ever
    no end              recovery goes on changing things without end

Futures run together: a state from which all ends well is remembered, so each costs little more than one step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from syncpoint.protocol.participant import State
from syncpoint.simulation.model import actions as possible
from syncpoint.simulation.model.actions import Action, apply
from syncpoint.simulation.model.interning import Interning, Mark
from syncpoint.simulation.model.invariants import check, spoken_for
from syncpoint.simulation.model.journal import is_forsaken
from syncpoint.simulation.model.names import Violation, listed_in, try_of
from syncpoint.simulation.model.steps import crash, lose_all, start
from syncpoint.simulation.model.world import World

STEPS_MAX = 400
ROUNDS_MAX = 12
PASSING = frozenset({"look", "act", "judge_missing_branch", "end", "look_at_evidence", "drop_evidence"})
OWN_ACCORD = ("vote", "arrive", "land", "forced", "reply", "judge", "settle", "hang_up", "decide_left", "settle_left")


class Healing:
    """Plays futures, and remembers from where all ended well."""

    def __init__(self, interning: Interning) -> None:
        self._interning = interning
        self._good: set[Mark] = set()
        self.way: list[Action] = []
        """The steps of the last future, for a counterexample."""

    def check(self, world: World, mark: Mark) -> None:
        """Both futures. Raises Violation."""
        self._play(world, mark)
        self.way = []
        ruin = self._ruin(world)
        self._play(ruin, self._interning.mark(ruin))

    def _ruin(self, world: World) -> World:
        """Everybody is dead, and nothing on its way; a process starts."""
        for index, process in enumerate(world.processes):
            if process.is_alive:
                self.way.append(("crash", (index,)))
                world = crash(world, index)
        self.way += [("lose_all", ()), ("start", (0,))]
        return start(lose_all(world), 0)

    def _play(self, world: World, mark: Mark) -> None:
        """To the end, or to a state from which all ended well before."""
        self._world, self._mark, self._passed = world, mark, {mark}
        with contextlib.suppress(_EndsWell):
            if mark in self._good:
                raise _EndsWell
            for _ in range(ROUNDS_MAX):
                before = self._mark
                self._settle_down()
                self._recover()
                if self._mark == before:
                    check_quiet(self._world)
                    raise _EndsWell
            raise Violation("no end", f"after {ROUNDS_MAX} rounds recovery still changes something")
        self._good |= self._passed

    def _do(self, action: Action) -> None:
        self.way.append(action)
        after = apply(self._world, action)
        self._mark = self._interning.mark(after, self._world, self._mark)
        self._world = after
        if self._mark in self._good:
            raise _EndsWell
        check(after)
        self._passed.add(self._mark)

    def _settle_down(self) -> None:
        """All that happens of its own accord."""
        for _ in range(STEPS_MAX):
            action = _next(self._world)
            if action is None:
                return
            self._do(action)
        raise Violation("no end", f"after {STEPS_MAX} steps something still happens of its own accord")

    def _recover(self) -> None:
        """Every living process takes over, passes over every resource manager, and cleans up. One starts if none is."""
        if not any(process.is_alive for process in self._world.processes):
            self._do(("start", (0,)))
        for index, process in enumerate(self._world.processes):
            if not process.is_alive:
                continue
            for action in _takeovers(self._world, index):
                self._do(action)
            for number in range(len(self._world.managers)):
                if possible.is_worth_a_pass(self._world, index, number):
                    self._do(("scan", (index, number)))
                    self._settle_down()
        for action in [one for one in possible.actions(self._world) if one[0] in ("drop_aborts", "drop_finished")]:
            self._do(action)


class _EndsWell(Exception):
    """This future is known."""


def _next(world: World) -> Action | None:
    """What happens of its own accord, a pass under way included."""
    passing: Action | None = None
    for action in possible.one_by_one(world):
        if action[0] in OWN_ACCORD:
            return action
        if passing is None and action[0] in PASSING:
            passing = action
    return passing


def _takeovers(world: World, index: int) -> Iterator[Action]:
    rows, own = world.journal.visible, world.processes[index].incarnation
    if not rows.keeps_itself(own):
        yield "begin_anew", (index,)
        own = len(rows.keepers) + 1
    dead = frozenset(range(1, len(rows.keepers) + 1)) - {one.incarnation for one in world.processes}
    keepers = list(rows.keepers)
    for one in range(1, len(keepers) + 1):
        if own <= len(keepers) and is_forsaken(rows._replace(keepers=tuple(keepers)), own, one, dead):
            keepers[one - 1] = own
            yield "take_over", (index, one)


def check_quiet(world: World) -> None:
    """What must hold when nothing more happens. Raises Violation."""
    check(world)
    for manager in world.managers:
        for unit, state in manager.units:
            if state is State.IN_DOUBT:
                raise Violation("left in doubt", f"{unit} is still prepared")
            if state is State.WORKING:
                raise Violation("locks left", f"{unit} is still at work")
    rows = world.journal.visible
    for commit in rows.unended():
        raise Violation("unended", f"the Commit record of {try_of(commit)} has not ended")
    for process in world.processes:
        if process.live() or process.unsettled:
            raise Violation("unended", f"an attempt is still under way: {sorted(map(str, process.live()))}")
    for commit in rows.ever:
        for unit in spoken_for(world, try_of(commit), listed_in(commit)):
            state_now = world.managers[unit.branch - 1].state(unit)
            if state_now is not State.COMMITTED and not world.is_alone(unit):
                raise Violation("undone", f"{unit} is decided, and {state_now.name if state_now else 'not there'}")
    if world.scope.cleaning:
        _check_evidence(world)


def _check_evidence(world: World) -> None:
    for manager in world.managers:
        left = [unit for unit in manager.evidence if _can_be_told(world, unit.incarnation)]
        if left:
            raise Violation("evidence left", f"{left[0]}: nobody can ask for it any more")


def _can_be_told(world: World, incarnation: int) -> bool:
    """Evidence of a process that was taken for dead, and lives, is removed only after it has ended."""
    return not any(incarnation in one.own and incarnation != one.incarnation for one in world.processes)
