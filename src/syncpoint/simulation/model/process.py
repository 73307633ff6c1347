"""A process of the application: a real Coordinator, and what its manager remembers beside it.

A process is immutable as all else; its Coordinator, which is not, is copied before every input. The participant's
table is used on this side too, as `manager/branch.py` does: one real Participant a branch.
Not for: what happens between processes (world.py), or recovery (passes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from syncpoint.ids import BranchNumber
from syncpoint.protocol.coordinator import BranchView, Coordinator, Effects, Standing, State, What
from syncpoint.protocol.judgement import Result
from syncpoint.protocol.participant import Input, Participant
from syncpoint.protocol.participant import State as Side
from syncpoint.protocol.words import HEURISTICS, Answer, Choice
from syncpoint.records import Record
from syncpoint.simulation.model.manager import VOTES, NotFound
from syncpoint.simulation.model.names import Try, Unit
from syncpoint.simulation.model.passes import Pass

FINAL = frozenset({State.COMMITTED, State.ABORTED})
ROLLED_BACK = frozenset({Answer.ABORTED, Answer.HEURISTIC_ROLLBACK})


class Told(NamedTuple):
    """What the caller of an attempt was told."""

    attempt: Try
    result: Result
    pending: bool
    """Some branch had not answered."""
    branches: frozenset[Unit]
    """The branches that were told to commit, or to end."""
    alone: frozenset[Unit]
    """Those that somebody had ended by then without asking, and that had voted and answered."""


class Process(NamedTuple):
    """One process. Dead: its incarnation is 0, and what people were told is all that is left of it."""

    incarnation: int = 0
    own: tuple[int, ...] = ()
    """Every incarnation it has drawn since it was started."""
    counter: int = 0
    coordinator: Coordinator | None = None
    sides: tuple[Side, ...] = ()
    """Its view of each branch, in the participant's words."""
    replies: frozenset[tuple[int, Choice | Answer | NotFound]] = frozenset()
    """On their way to it, by branch."""
    unknown: frozenset[int] = frozenset()
    """Branches whose vote was lost: their prepare may still arrive, whatever they answer to an abort (O42)."""
    withdrawn: bool = False
    """Its own vote was no."""
    forcing: Record | None = None
    """The record whose verdict it waits for."""
    verdict: bool | None = None
    """On its way from the journal."""
    acknowledged: frozenset[Unit] = frozenset()
    """Branches that have ended as decided, though not all of their transaction have (`core.acknowledged`)."""
    unsettled: frozenset[Unit] = frozenset()
    """One-phase commits whose reply was lost, left to recovery."""
    deciding: frozenset[Try] = frozenset()
    """Attempts whose decision is not known, left to recovery."""
    passes: tuple[Pass | None, ...] = ()
    """What recovery does at each resource manager."""
    told: tuple[Told, ...] = ()
    heuristics: frozenset[tuple[Unit, Answer]] = frozenset()
    """Heuristic outcomes it has written down."""

    # --- looking ----------------------------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        return self.incarnation != 0

    @property
    def working_on(self) -> Coordinator:
        assert self.coordinator is not None
        return self.coordinator

    @property
    def attempt(self) -> Try:
        """The attempt it works on."""
        attempt = self.working_on.key.attempt
        return Try(attempt.incarnation, attempt.counter)

    def unit(self, branch: int) -> Unit:
        return Unit(*self.attempt, branch)

    def live(self) -> frozenset[Try]:
        """Attempts that are under way here."""
        return self.deciding if self.coordinator is None else self.deciding | {self.attempt}

    def at_work(self) -> frozenset[int]:
        """Incarnations under which something is still under way here."""
        return frozenset(one.incarnation for one in self.live() | {unit.attempt for unit in self.unsettled})

    def standing(self, branch: int) -> Standing:
        return self.working_on.branches[BranchNumber(branch)].standing

    def waits_for(self, branch: int, what: What) -> bool:
        """Whether it waits for a reply of this branch to this message, and none is on its way."""
        if self.coordinator is None or any(number == branch for number, _ in self.replies):
            return False
        view = self.coordinator.branches[BranchNumber(branch)]
        if what is What.PREPARE:
            return view.standing is Standing.PREPARING
        return view.standing is Standing.TOLD and view.told is what

    def waiting(self) -> list[int]:
        """Branches whose reply it waits for."""
        if self.coordinator is None:
            return []
        waited = (Standing.PREPARING, Standing.TOLD)
        return [number for number, view in self.coordinator.branches.items() if view.standing in waited]

    def told_committed(self) -> bool:
        return any(one.result is Result.COMMITTED for one in self.told)

    # --- changing ---------------------------------------------------------------------------------------------

    def step(self, take: Callable[[Coordinator], Effects]) -> tuple[Process, Effects]:
        """One input of a copy of the coordinator."""
        coordinator = clone(self.working_on)
        effects = take(coordinator)
        return self._replace(coordinator=coordinator), effects

    def side(self, branch: int, *inputs: Input) -> Process:
        """Inputs of this process's own Participant of a branch."""
        participant = Participant(self.sides[branch - 1])
        for one in inputs:
            participant.take(one)
        sides = list(self.sides)
        sides[branch - 1] = participant.state
        return self._replace(sides=tuple(sides))

    def answer_side(self, branch: int, answer: Choice | Answer) -> Process:
        """What came back from a branch, as `Branch` takes it."""
        if isinstance(answer, Choice):
            return self.side(branch, VOTES[answer])
        if answer is Answer.RETRY:
            return self
        return self.side(branch, Input.ABORT_DONE if answer in ROLLED_BACK else Input.COMMIT_DONE)

    def without_reply(self, branch: int) -> Process:
        return self._replace(replies=frozenset(one for one in self.replies if one[0] != branch))

    def in_pass(self, manager: int, work: Pass | None) -> Process:
        passes = list(self.passes)
        passes[manager] = work
        return self._replace(passes=tuple(passes))

    def note_heuristic(self, unit: Unit, answer: Answer, *, commit: bool) -> Process:
        """As recovery does: what came out as decided after all is none (O14)."""
        if answer not in HEURISTICS or (commit and answer is Answer.HEURISTIC_COMMIT):
            return self
        return self._replace(heuristics=self.heuristics | {(unit, answer)})

    def conclude(self, alone: frozenset[Unit]) -> Process:
        """The transaction is over here: what the caller is told, and what is left to recovery (`commit.finish`)."""
        coordinator, attempt = self.working_on, self.attempt
        views = coordinator.branches.values()
        told = Told(
            attempt,
            coordinator.result,
            any(view.standing is Standing.PENDING for view in views),
            frozenset(Unit(*attempt, view.number) for view in views if view.told not in (None, What.RELEASE)),
            frozenset(unit for unit in alone if unit.attempt == attempt and self._has_answered(unit.branch)),
        )
        after = self._replace(
            coordinator=None,
            sides=(),
            replies=frozenset(),
            unknown=frozenset(),
            withdrawn=False,
            forcing=None,
            verdict=None,
        )
        after = after._replace(told=(*self.told, told))
        if told.result in (Result.HEURISTIC_MIXED, Result.HEURISTIC_HAZARD):
            for view in views:
                if view.answer is not None:
                    commit = coordinator.state is State.COMMITTED
                    after = after.note_heuristic(Unit(*attempt, view.number), view.answer, commit=commit)
        if coordinator.state is State.UNSETTLED:
            assert coordinator.lone_writer is not None
            after = after._replace(unsettled=self.unsettled | {Unit(*attempt, coordinator.lone_writer)})
        if coordinator.state is State.COMMITTED and coordinator.lone_writer is None and coordinator.pending:
            ended = {
                Unit(*attempt, view.number)
                for view in views
                if view.standing is Standing.ENDED and view.answer is not None
            }
            after = after._replace(acknowledged=self.acknowledged | ended)
        return after

    def _has_answered(self, branch: int) -> bool:
        """Voted, and answered to the outcome."""
        return branch not in self.unknown and self.standing(branch) is Standing.ENDED

    def die(self) -> Process:
        """kill -9."""
        return Process(passes=(None,) * len(self.passes), told=self.told, heuristics=self.heuristics)

    def mark(self) -> tuple[object, ...]:
        """Equal for processes that behave alike, and can be told apart by no invariant."""
        if self.coordinator is None:
            return self
        return (gist(self.coordinator), *self[:3], *self[4:])


def clone(coordinator: Coordinator) -> Coordinator:
    """A copy that can be given inputs of its own."""
    twin = object.__new__(Coordinator)
    for name in Coordinator.__slots__:
        setattr(twin, name, getattr(coordinator, name))
    twin.branches = {
        number: BranchView(v.number, v.resource, v.guid, v.standing, v.state, v.told, v.answer)
        for number, v in coordinator.branches.items()
    }
    return twin


def gist(coordinator: Coordinator) -> tuple[object, ...]:
    """All of a coordinator that its behaviour depends on. Why it aborts is for people."""
    attempt = coordinator.key.attempt
    return (
        attempt.incarnation,
        attempt.counter,
        coordinator.state,
        bool(coordinator.why),
        coordinator.lone_writer,
        coordinator.decider,
        tuple((v.standing, v.told, v.answer) for v in coordinator.branches.values()),
    )
