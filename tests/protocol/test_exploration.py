"""Every order of votes, losses, answers, verdicts, crashes and recoveries of two branches, by brute force.

The real Coordinator, the real Participants and the real rules of recovery, joined by world.py. From the commit on,
whatever can happen next is tried, in every state once. In each state: no branch is committed while another is
aborted, unless somebody decided alone; and if everything on its way were lost now and recovery passed, nothing would
stay in doubt and what the caller was told would be true.

Not for: more than two branches, or statements of databases (crash/ kills real ones).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

from syncpoint.ids import BranchNumber, Identifier
from syncpoint.protocol import coordinator as coordinator_module
from syncpoint.protocol.coordinator import Coordinator, Effects, Send, Standing, What
from syncpoint.protocol.coordinator import State as At
from syncpoint.protocol.judgement import Result
from syncpoint.protocol.participant import State
from syncpoint.protocol.recovery import Facts, Fate
from syncpoint.protocol.words import Choice
from syncpoint.records import Abort, Commit, Record
from tests.protocol import world as world_module
from tests.protocol.world import Journal, World

B1, B2 = BranchNumber(1), BranchNumber(2)
FINAL = (At.COMMITTED, At.ABORTED)
COMMITTING = (What.COMMIT, What.COMMIT_ONE_PHASE, What.DECIDE)

Action = Callable[[World], object]


@dataclass(frozen=True)
class Scope:
    """What one exploration contains."""

    name: str
    writers: tuple[BranchNumber, ...] = (B1, B2)
    user_id: str | None = None
    decider: BranchNumber | None = None
    """The branch at the database that the journal lives in."""
    own_disk: bool = True
    alone: bool = True
    """Whether somebody may end a unit in doubt without asking, once."""
    losses_of_verdict_max: int = 2
    recoverers: int = 1
    """Passes of recovery at once; each may stop between any two branches, for ever (O31, O38)."""
    wrong_guess: bool = False
    """Whether a living coordinator may be taken for dead (O34)."""

    def start(self) -> World:
        world = World(guaranteed=self.own_disk)
        world.begin()
        world.enlist("bank")
        world.enlist("ledger")
        world.commit(list(self.writers), user_id=self.user_id, decider=self.decider)
        return world


SCOPES = [
    Scope("own disk", recoverers=2),
    Scope("remote journal", own_disk=False),
    Scope("remote journal, taken for dead", own_disk=False, alone=False, wrong_guess=True),
    Scope("remote journal, two recoverers", own_disk=False, alone=False, losses_of_verdict_max=1, recoverers=2),
    Scope("one phase", writers=(B1,)),
    Scope("an id, one writer", writers=(B2,), user_id="order-4711", own_disk=False),
    Scope("an id, nothing written", writers=(), user_id="order-4711", own_disk=False),
    Scope("decided in a branch", decider=B1, own_disk=False),
    Scope("decided in a branch, taken for dead", decider=B2, own_disk=False, alone=False, wrong_guess=True),
    Scope("decided in a branch, two recoverers", decider=B1, own_disk=False, losses_of_verdict_max=1, recoverers=2),
    Scope("decided in the only branch", writers=(B2,), decider=B2, user_id="order-4711", own_disk=False),
]


def actions(world: World, scope: Scope) -> Iterator[tuple[str, Action]]:
    """Everything that can happen next."""
    for number, what in sorted(world.requests, key=lambda request: (request[0], request[1].value)):
        choices = list(Choice) if what is What.PREPARE else [Choice.YES]
        for choice in choices:
            text = f"{what.name} arrives at {number}" + (f", {choice.name}" if what is What.PREPARE else "")
            yield text, partial(_arrive, number, what, choice)
    for index, record in enumerate(world.appends):
        yield f"{type(record).__name__} lands", partial(_land, index)
    if world.coordinator is not None:
        yield from _at_coordinator(world, scope)
    if (world.coordinator is None or scope.wrong_guess) and len(world.plans) < scope.recoverers:
        yield "recovery looks", _look
    for index, plan in enumerate(world.plans):
        yield f"recovery {index} ends {plan[0].identifier.branch}: {plan[0].fate.name}", partial(_act, index)
        yield f"recovery {index} dies", partial(_stop, index)
    for name, manager in world.managers.items():
        if any(unit.state is State.WORKING for unit in manager.units.values()):
            yield f"{name} restarts", partial(_restart, name)
        if scope.alone and not _alone(world):
            for identifier in manager.table.in_doubt():
                for commit in (True, False):
                    yield f"{name} decides alone: commit={commit}", partial(_decide_alone, name, identifier, commit)


def _at_coordinator(world: World, scope: Scope) -> Iterator[tuple[str, Action]]:
    coordinator = world.alive
    yield "crash", World.crash
    for number in world.replies:
        yield f"reply of {number} arrives", partial(_reply, number)
    for number in world.waiting():
        yield f"connection to {number} lost", partial(_give_up, number)
    if world.verdict is not None:
        yield "verdict arrives", World.judge
    if world.forcing is not None and not scope.own_disk and _aborts(world) < scope.losses_of_verdict_max:
        yield "verdict lost", World.lose_verdict
    if coordinator.state is At.PREPARING and not coordinator.why:
        yield "out of time", _withdraw
    if coordinator.state is At.UNSETTLED:
        yield "evidence settles", World.settle


def _arrive(number: BranchNumber, what: What, choice: Choice, world: World) -> None:
    world.arrive(number, what, choice)


def _land(index: int, world: World) -> None:
    world.land(index)


def _reply(number: BranchNumber, world: World) -> None:
    world.reply(number)


def _give_up(number: BranchNumber, world: World) -> None:
    world.give_up(number)


def _withdraw(world: World) -> None:
    world.alive.withdraw("out of time")


def _look(world: World) -> None:
    plan = world.look(guessed_dead=True)
    if plan:
        world.plans.append(plan)


def _act(index: int, world: World) -> None:
    step = world.plans[index].pop(0)
    world.act(replace(step))
    if not world.plans[index]:
        del world.plans[index]


def _stop(index: int, world: World) -> None:
    del world.plans[index]


def _restart(name: str, world: World) -> None:
    world.managers[name].restart()


def _decide_alone(name: str, identifier: Identifier, commit: bool, world: World) -> None:
    world.managers[name].decide_alone(identifier, commit=commit)


def _aborts(world: World) -> int:
    records: list[Record | None] = [*world.appends, *world.journal.records]
    return sum(isinstance(record, Abort) for record in records)


def _alone(world: World) -> set[Identifier]:
    return set().union(*(manager.alone for manager in world.managers.values()))


# --- what must hold -------------------------------------------------------------------------------------------


def units_in(world: World, state: State, *, alone: bool) -> set[Identifier]:
    """Units in this state; with `alone` also those that decided alone. Released ones wrote nothing."""
    released = set()
    if world.coordinator is not None:
        released = {n for n, b in world.coordinator.branches.items() if b.told is What.RELEASE}
    return {
        identifier
        for manager in world.managers.values()
        for identifier, unit in manager.units.items()
        if unit.state is state and (alone or identifier not in manager.alone) and identifier.branch not in released
    }


def check(world: World, scope: Scope) -> None:
    """What must hold in every state."""
    committed = units_in(world, State.COMMITTED, alone=False)
    if len(scope.writers) > 1:
        assert not (committed and units_in(world, State.ABORTED, alone=False)), "one committed, another aborted"
    if len(scope.writers) > 1 or scope.user_id is not None:
        record = world.journal.commit_of(world_module.TRANSACTION)
        listed = spoken_for(world, record, scope)
        assert committed <= listed, "committed without a record that lists it"
        assert not (record and listed & units_in(world, State.ABORTED, alone=False)), "decided, yet aborted"
    if world.coordinator is not None:
        _check_result(world, world.coordinator)


def spoken_for(world: World, record: Commit | None, scope: Scope) -> set[Identifier]:
    """The branches that are committed by this record: those it lists, and the one that carried it."""
    if record is None:
        return set()
    listed = {entry.read_identifier() for entry in record.branches}
    return listed if scope.decider is None else listed | {world.identifiers[scope.decider]}


def _check_result(world: World, coordinator: Coordinator) -> None:
    """What the caller is told is true, of units that decided alone too."""
    if coordinator.state not in FINAL:
        assert coordinator.result is Result.PENDING
        return
    pending = any(b.standing is Standing.PENDING for b in coordinator.branches.values())
    match coordinator.result:
        case Result.COMMITTED:
            assert not units_in(world, State.IN_DOUBT, alone=True) or pending
            told = {n for n, b in coordinator.branches.items() if b.told in COMMITTING}
            aborted = {i.branch for i in units_in(world, State.ABORTED, alone=True)} & told
            assert not aborted or pending, "told committed, but a branch is aborted"
        case Result.ABORTED:
            assert not units_in(world, State.COMMITTED, alone=True) or pending, "told aborted, but a branch committed"
        case Result.HEURISTIC_MIXED | Result.HEURISTIC_HAZARD:
            assert _alone(world), "a heuristic outcome that nobody caused"
        case Result.PENDING:
            raise AssertionError("a final state has an outcome")


def check_end(world: World, scope: Scope) -> None:
    """If everything on its way were lost now: recovery passes, and nothing is in doubt."""
    world = world.clone()
    told = world.coordinator.result if world.coordinator is not None else Result.PENDING
    world.requests.clear()
    world.appends.clear()
    world.plans.clear()
    world.crash()
    world.recover()
    world.recover()
    assert not units_in(world, State.IN_DOUBT, alone=True), "left in doubt"
    check(world, scope)
    if told is Result.ABORTED:
        assert not units_in(world, State.COMMITTED, alone=False), "told aborted, committed in the end"
    record = world.journal.commit_of(world_module.TRANSACTION)
    if record is not None:
        lost = spoken_for(world, record, scope) - units_in(world, State.COMMITTED, alone=False)
        assert lost <= _alone(world), "decided, and not committed in the end"


def explore(scope: Scope) -> int:
    """Breadth first, every state once. Returns how many; a failure tells the shortest way there."""
    start = scope.start()
    seen = {start.fingerprint()}
    queue: deque[tuple[World, tuple[str, ...]]] = deque([(start, ())])
    while queue:
        world, way = queue.popleft()
        for text, action in actions(world, scope):
            after = world.clone()
            try:
                action(after)
                mark = after.fingerprint()
                if mark in seen:
                    continue
                check(after, scope)
                check_end(after, scope)
            except AssertionError as error:
                error.add_note("\n".join(["the way there:", *way, text]))
                raise
            seen.add(mark)
            queue.append((after, (*way, text)))
    return len(seen)


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.name)
def test_no_order_tears_a_transaction(scope: Scope, capsys: pytest.CaptureFixture[str]) -> None:
    states = explore(scope)
    with capsys.disabled():
        print(f"\n{scope.name}: {states} states explored", end=" ")
    assert states > 10


TORN = "one committed, another aborted|decided, yet aborted|committed without a record|told"

# --- an exploration that stays green without a rule checks too little -------------------------------------------


def _accept_all(self: Journal, record: Record) -> bool:
    """First writer wins, forgotten: an Abort does not keep the Commit out."""
    if isinstance(record, Commit) and any(isinstance(r, Commit) for r in self.records):
        return False
    self.records.append(record)
    return True


def _tell_only_yes(self: Coordinator) -> list[Send]:
    """O16, forgotten: a branch whose vote was lost is not told."""
    return [Send(What.ABORT, b.number) for b in self.branches.values() if b.standing is Standing.YES]


def _assume_lost(self: Coordinator) -> Effects:
    """O46, forgotten: a lost verdict is read as a refusal, so the first one that is lost ends it."""
    return self.refused("lost") if self.state is At.DECIDING else Effects()


def _commit_whatever_the_journal_says(self: World, number: BranchNumber) -> None:
    """The record and the branch are one, forgotten."""
    record, manager, identifier = self.decision, self.at(number), self.identifiers[number]
    assert record is not None
    accepted = self.journal.append(record)
    if manager.units[identifier].state is State.WORKING:
        manager.decide(identifier, commit=True)
    if self.coordinator is not None and record is self.forcing:
        self.verdict = (record, accepted)


def _presume_commit(identifier: Identifier | None, facts: Facts) -> Fate:
    """Presumed abort, forgotten."""
    return Fate.COMMIT


def _no_aborts(self: World, found: list[Identifier], facts: Facts) -> None:
    """Certainty before presumed abort, forgotten: a Commit on its way may still land."""


def test_exploration_fails_without_first_writer_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "append", _accept_all)
    with pytest.raises(AssertionError, match=TORN):
        explore(Scope("mutant", own_disk=False))


def test_exploration_fails_without_the_abort_that_settles_a_lost_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coordinator, "force_lost", _assume_lost)
    with pytest.raises(AssertionError, match=TORN):
        explore(Scope("mutant", own_disk=False))


def test_exploration_fails_when_the_decider_commits_without_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "_decide", _commit_whatever_the_journal_says)
    with pytest.raises(AssertionError, match=TORN):
        explore(Scope("mutant", decider=B1, own_disk=False))


def test_exploration_fails_without_the_abort_that_settles_a_lost_decider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coordinator, "force_lost", _assume_lost)
    with pytest.raises(AssertionError, match=TORN):
        explore(Scope("mutant", decider=B1, own_disk=False))


def test_exploration_fails_without_presumed_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "fate_of", _presume_commit)
    with pytest.raises(AssertionError, match=TORN):
        explore(Scope("mutant"))


def test_exploration_fails_without_the_abort_that_recovery_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "_write_aborts", _no_aborts)
    with pytest.raises(AssertionError, match="decided, yet aborted"):
        explore(Scope("mutant", own_disk=False))


def test_exploration_fails_without_telling_a_lost_voter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coordinator, "_to_abort", _tell_only_yes)
    with pytest.raises(AssertionError, match="told aborted"):
        explore(Scope("mutant"))


def test_exploration_fails_without_the_judgement_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "judge", lambda *_args, **_kwargs: None)
    with pytest.raises(AssertionError, match=TORN):
        explore(Scope("mutant"))
