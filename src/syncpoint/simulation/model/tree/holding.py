"""What must hold in every state of a tree, and what must come about from each once faults stop.

    torn, undone        both sides have the same outcome: the superior's
    unrecorded          nothing is committed without the superior's Commit record, nor below without the subordinate's
    told committed      the caller was told so, and something is aborted; told aborted: the reverse

Where the step is: S-I1 (a yes before Prepared is forced), S-I3, C-I1, false alarm. In the end: left in doubt, locks
left, unended, undone, no end. Not for: one manager alone (../invariants.py, ../healing.py).
"""

from __future__ import annotations

from syncpoint.protocol.judgement import Result
from syncpoint.protocol.participant import State
from syncpoint.simulation.model.interning import Interning, Mark
from syncpoint.simulation.model.names import Violation
from syncpoint.simulation.model.tree.actions import actions, branch_passes, is_worth_a_pass
from syncpoint.simulation.model.tree.world import DATABASES, SUBORDINATE, SUPERIOR, UNIT, TreeWorld
from syncpoint.simulation.model.world import KINDS, STEPS, Kind

Action = tuple[str, tuple[object, ...]]
STEPS_MAX = 400
ROUNDS_MAX = 12


def check(world: TreeWorld) -> None:
    """Raises Violation."""
    states = [manager.state(UNIT) for manager in world.managers]
    committed = {DATABASES[place] for place, state in enumerate(states) if state is State.COMMITTED}
    aborted = {DATABASES[place] for place, state in enumerate(states) if state is State.ABORTED}
    if committed and aborted:
        raise Violation("torn", f"{sorted(committed)} committed, {sorted(aborted)} aborted")
    superior, subordinate = world.nodes
    if committed and superior.ever is None:
        raise Violation("unrecorded", f"{sorted(committed)} committed, and the superior has no record of it")
    if committed - {DATABASES[0]} and subordinate.ever is None:
        raise Violation("unrecorded", f"{sorted(committed)} committed, and the subordinate has no record of it")
    if aborted and superior.ever is not None:
        raise Violation("undone", f"{sorted(aborted)} aborted, though the superior has decided to commit")
    if superior.told is Result.COMMITTED and (aborted or superior.ever is None):
        raise Violation("told committed", f"{sorted(aborted)} aborted")
    if superior.told is Result.ABORTED and (committed or superior.ever is not None):
        raise Violation("told aborted", f"{sorted(committed)} committed")
    if superior.told in (Result.HEURISTIC_MIXED, Result.HEURISTIC_HAZARD):
        raise Violation("false alarm", f"the caller was told {superior.told.name}")


class TreeHealing:
    """Plays two futures from each state: in one all go on, in the other all are killed first."""

    def __init__(self, interning: Interning) -> None:
        self._interning = interning
        self._good: set[Mark] = set()
        self.way: list[Action] = []

    def check(self, world: TreeWorld, mark: Mark) -> None:
        """Both futures. Raises Violation."""
        self._play(world, mark)
        self.way = []
        ruin = self._do_all(world, [("tree_kill", (index,)) for index in (0, 1) if world.nodes[index].is_alive])
        self._play(ruin, self._interning.mark(ruin))

    def _do_all(self, world: TreeWorld, steps: list[Action]) -> TreeWorld:
        for name, arguments in steps:
            self.way.append((name, arguments))
            world = STEPS[name](world, *arguments)
            check(world)
        return world

    def _play(self, world: TreeWorld, mark: Mark) -> None:
        passed = {mark}
        if mark in self._good:
            return
        dead = [index for index in (0, 1) if not world.nodes[index].is_alive]
        world = self._do_all(world, [("tree_start", (index,)) for index in dead])
        for _ in range(ROUNDS_MAX):
            before = self._interning.mark(world)
            world = self._recover(self._settle_down(world))
            after = self._interning.mark(world)
            if after in self._good:
                break
            passed.add(after)
            if after == before:
                check_quiet(world)
                break
        else:
            raise Violation("no end", f"after {ROUNDS_MAX} rounds something still changes")
        self._good |= passed

    def _settle_down(self, world: TreeWorld) -> TreeWorld:
        """All that happens of its own accord."""
        for _ in range(STEPS_MAX):
            for name, arguments in _own_accord(world):
                after = STEPS[name](world, *arguments)
                if after != world:
                    self.way.append((name, arguments))
                    world = after
                    check(world)
                    break
            else:
                return world
        raise Violation("no end", f"after {STEPS_MAX} steps something still happens of its own accord")

    def _recover(self, world: TreeWorld) -> TreeWorld:
        for index in (SUPERIOR, SUBORDINATE):
            for branch in range(1, len(branch_passes(world, index)) + 1):
                if is_worth_a_pass(world, index, branch):
                    for name in ("tree_scan", "tree_look", "tree_act"):
                        if name == "tree_scan" or world.nodes[index].passes[branch - 1] is not None:
                            world = self._do_all(world, [(name, (index, branch))])
        return world


def _own_accord(world: TreeWorld) -> list[Action]:
    """Progress; and a part whose time is over, last of all."""
    found = actions(world)
    going = [one for one in found if KINDS[one[0]] is not Kind.FAULT and one[0] != "tree_scan"]
    return [*going, *(one for one in found if one[0] == "tree_expire" and world.nodes[SUPERIOR].coordinator is None)]


def check_quiet(world: TreeWorld) -> None:
    """What must hold when nothing more happens. Raises Violation."""
    for place, manager in enumerate(world.managers):
        if manager.state(UNIT) is State.IN_DOUBT:
            raise Violation("left in doubt", f"the branch at {DATABASES[place]} is still prepared")
        if manager.state(UNIT) is State.WORKING:
            raise Violation("locks left", f"the branch at {DATABASES[place]} is still at work")
        if world.nodes[SUPERIOR].ever is not None and manager.state(UNIT) is not State.COMMITTED:
            raise Violation("undone", f"the branch at {DATABASES[place]} is decided, and not committed")
    for index, node in enumerate(world.nodes):
        if node.coordinator is not None or node.book.commit() is not None or node.book.promise() is not None:
            raise Violation("unended", f"the transaction of node {index} has not ended")
