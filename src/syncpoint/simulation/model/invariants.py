"""What must hold in every state. Each rule has a name, by which a report says what refuted a mutant.

    torn                one branch of an attempt is committed, another aborted
    unrecorded          a branch is committed without a Commit record that lists it, or carried it
    undone              a decided branch is aborted
    twice               two attempts at one transaction are committed
    told committed      the caller was told so, and it is not true
    told aborted        the caller was told so, and something is committed
    false alarm         a heuristic outcome that nobody caused is told, or written down
    lost decision       the caller was told of a decision that is nowhere

Units that somebody ended without asking are excused, as nothing can be promised of them; but the caller must hear of
them. Rules that a single step can break stand where the step is: force before send, C-I1, C-I2 (world.py), done twice
(manager.py). What must come about in the end: healing.py.
"""

from __future__ import annotations

from collections.abc import Set

from syncpoint.protocol.judgement import Result
from syncpoint.protocol.participant import State
from syncpoint.simulation.model.names import Try, Unit, Violation, listed_in, try_of
from syncpoint.simulation.model.process import Told
from syncpoint.simulation.model.world import World

HEURISTIC = (Result.HEURISTIC_MIXED, Result.HEURISTIC_HAZARD)


def check(world: World) -> None:
    """Raises Violation."""
    committed, aborted, excused = _ends(world)
    _check_attempts(world, committed, aborted, excused)
    for process in world.processes:
        for told in process.told:
            _check_told(world, told, committed, aborted, excused)
        for unit, answer in process.heuristics:
            if not _is_caused(world, unit):
                raise Violation("false alarm", f"{answer.name} of {unit} is written down, and nobody caused it")


def _ends(world: World) -> tuple[set[Unit], set[Unit], set[Unit]]:
    """Branches that wrote: the committed, the aborted, and those that were ended without asking."""
    committed, aborted = set(), set()
    for number, manager in enumerate(world.managers):
        if number + 1 not in world.scope.writers:
            continue
        for unit, state in manager.units:
            if state is State.COMMITTED:
                committed.add(unit)
            elif state is State.ABORTED:
                aborted.add(unit)
        aborted |= {unit for unit in manager.alone if manager.state(unit) is None}  # lost
    excused = {unit for manager in world.managers for unit in manager.alone}
    return committed, aborted, excused | {unit for unit, _ in world.journal.visible.resolved}


def _check_attempts(world: World, committed: set[Unit], aborted: set[Unit], excused: set[Unit]) -> None:
    done, undone = committed - excused, aborted - excused
    attempts = {unit.attempt for unit in done}
    torn = sorted(unit for unit in undone if unit.attempt in attempts)
    if torn:
        raise Violation("torn", f"{_names(done)} committed, {_names(torn)} aborted")
    if world.scope.has_id and len(attempts) > 1:
        raise Violation("twice", f"{_names(done)} committed")
    ever = world.journal.visible.ever
    if len(ever) > 1:
        raise Violation("twice", f"two Commit records of one transaction: {sorted(map(str, map(try_of, ever)))}")
    if len(world.scope.writers) > 1 or world.scope.has_id:
        decided = {unit for commit in ever for unit in spoken_for(world, try_of(commit), listed_in(commit))}
        if not done <= decided:
            raise Violation("unrecorded", f"{_names(done - decided)} committed, and no record lists it")
        if decided & undone:
            raise Violation("undone", f"{_names(decided & undone)} aborted, though decided")


def spoken_for(world: World, attempt: Try, listed: frozenset[Unit]) -> set[Unit]:
    """The branches that are committed by a record: those it lists, and the one that carried it."""
    return set(listed) if world.scope.decider is None else {*listed, Unit(*attempt, world.scope.decider)}


def _check_told(world: World, told: Told, committed: set[Unit], aborted: set[Unit], excused: Set[Unit]) -> None:
    """What the caller was told is true: of branches that were ended without asking too, if they had answered."""
    still_excused = excused - told.alone
    match told.result:
        case Result.COMMITTED:
            wrong = set(told.branches & (aborted - still_excused))
            if wrong:
                raise Violation("told committed", f"{_names(wrong)} aborted")
            if world.scope.has_id and not any(try_of(one) == told.attempt for one in world.journal.visible.ever):
                raise Violation("lost decision", f"{told.attempt} was told committed, and no journal has it")
        case Result.ABORTED:
            wrong = {unit for unit in committed - still_excused if unit.attempt == told.attempt}
            if wrong:
                raise Violation("told aborted", f"{_names(wrong)} committed")
            if any(try_of(one) == told.attempt for one in world.journal.visible.ever) and world.scope.has_id:
                raise Violation("told aborted", f"the Commit record of {told.attempt} is there")
        case result if result in HEURISTIC:
            if not any(_is_caused(world, unit) for unit in told.branches):
                raise Violation("false alarm", f"the caller was told {result.name} of {told.attempt}")


def _is_caused(world: World, unit: Unit) -> bool:
    """Somebody ended it without asking; or its process was taken for dead, and cannot tell how it ended."""
    is_one_phase = len(world.scope.writers) == 1 and not world.scope.has_id
    return world.is_alone(unit) or (is_one_phase and not world.journal.visible.keeps_itself(unit.incarnation))


def _names(units: object) -> str:
    return ", ".join(map(str, sorted(units)))  # type: ignore[call-overload]
