"""A resource manager: its units of work are real Participants in a real InDoubtTable; and its evidence.

Its state is immutable. Each step builds the real objects from it, gives them their inputs, and reads the states back;
so whatever is forbidden by the participant's table, or by the table of what is in doubt, comes out here.
In the manner of a database it knows only what is in doubt: a unit that has ended is not found, and the evidence must
tell. In the manner of a process (`remembers`) a late or repeated message finds the unit that has ended (O48, O49), and
there is no evidence.
Not for: statements of databases.
"""

from __future__ import annotations

from typing import NamedTuple

from syncpoint.protocol.participant import ENDED, InDoubtTable, Input, Participant, State
from syncpoint.protocol.words import Answer, Choice, Evidence
from syncpoint.simulation.model.names import Try, Unit, Violation, identifier_of, unit_of

VOTES = {Choice.YES: Input.YES, Choice.NO: Input.NO, Choice.READ_ONLY: Input.NOTHING_WRITTEN}

WORKING, IN_DOUBT, COMMITTED, ABORTED = State.WORKING, State.IN_DOUBT, State.COMMITTED, State.ABORTED


class NotFound(NamedTuple):
    """The unit is not there to be ended: a question. What the evidence says to it."""

    evidence: Evidence


class Manager(NamedTuple):
    """One resource manager."""

    units: tuple[tuple[Unit, State], ...] = ()
    evidence: frozenset[Unit] = frozenset()
    settled: frozenset[Unit] = frozenset()
    """Evidence keys written to settle a one-phase commit: a late commit fails on them (O20)."""
    alone: frozenset[Unit] = frozenset()
    """Units that somebody ended without asking, or that were lost: the only ones that may differ."""
    lost: bool = False
    """A replica took over, once."""

    # --- looking ----------------------------------------------------------------------------------------------

    def state(self, unit: Unit) -> State | None:
        return next((state for one, state in self.units if one == unit), None)

    def all_in(self, state: State) -> list[Unit]:
        return [unit for unit, at in self.units if at is state]

    def _table(self) -> InDoubtTable:
        table = InDoubtTable()
        for unit, state in self.units:
            if state is IN_DOUBT:
                table.restore(identifier_of(unit))
        return table

    def scan(self) -> list[Unit]:
        """What is in doubt here, by the real table."""
        return [unit_of(identifier) for identifier in self._table().in_doubt()]

    def evidence_of(self, unit: Unit) -> Evidence:
        if self.state(unit) is IN_DOUBT:
            return Evidence.UNDECIDED
        return Evidence.COMMITTED if unit in self.evidence else Evidence.ABSENT

    def attempts(self) -> frozenset[Try]:
        """Attempts of which there is evidence."""
        return frozenset(unit.attempt for unit in self.evidence)

    # --- changing ---------------------------------------------------------------------------------------------

    def _put(self, unit: Unit, state: State) -> Manager:
        units = dict(self.units)
        is_new = unit not in units
        if units.get(unit) in ENDED and units[unit] is not state:
            raise Violation("ended is ended", f"{unit} was {units[unit].name}, and is {state.name}")
        units[unit] = state
        pairs = sorted(units.items(), key=_by_unit) if is_new else units.items()
        return self._replace(units=tuple(pairs))

    def begin(self, unit: Unit) -> Manager:
        return self._put(unit, Participant().state)

    def prepare(self, unit: Unit, choice: Choice) -> tuple[Manager, Choice]:
        """Vote. The work is gone after a restart, or refused by the table (A4, O49): no."""
        state = self.state(unit)
        if state is None:
            return self, Choice.NO
        table, participant = self._table(), Participant(state)
        if table.prepare(identifier_of(unit), participant) is Choice.NO:
            return self, Choice.NO
        if choice is Choice.YES and (unit in self.settled or unit in self.evidence):
            choice = Choice.NO  # its evidence is there already
        participant.take(VOTES[choice])
        if choice is not Choice.YES:
            table.forget(identifier_of(unit))
        after = self._put(unit, participant.state)
        if (identifier_of(unit) in table.in_doubt()) is not (after.state(unit) is IN_DOUBT):
            raise Violation("A7", f"{unit} voted {choice.name}, is {participant.state.name}, and the table differs")
        return after, choice

    def commit_one_phase(self, unit: Unit) -> tuple[Manager, Answer]:
        state = self.state(unit)
        if state is not WORKING:
            return self, Answer.COMMITTED if unit in self.evidence else Answer.ABORTED
        participant = Participant(state)
        participant.take(Input.COMMIT_ONE_PHASE)
        if unit in self.settled:  # somebody has settled it: that key is in the way
            participant.take(Input.ABORT_DONE)
            return self._put(unit, participant.state), Answer.ABORTED
        participant.take(Input.COMMIT_DONE)
        after = self._put(unit, participant.state)
        return after._replace(evidence=self.evidence | {unit}), Answer.COMMITTED

    def decide(self, unit: Unit, *, commit: bool) -> Manager:
        """A unit at work ends together with the record that it carries. No evidence: the record is the evidence."""
        participant = Participant(WORKING)
        participant.take(Input.COMMIT_ONE_PHASE)
        participant.take(Input.COMMIT_DONE if commit else Input.ABORT_DONE)
        return self._put(unit, participant.state)

    def finish(
        self, unit: Unit, *, commit: bool, remembers: bool = False, asked_by_recovery: bool = False
    ) -> tuple[Manager, Answer | NotFound]:
        """The outcome arrives by identifier, from whoever knows it. Recovery may have seen the unit before it ended, so
        to it a unit that has ended otherwise is merely not there."""
        state = self.state(unit)
        told = Input.COMMIT if commit else Input.ABORT
        if (
            remembers
            and not asked_by_recovery
            and state is (ABORTED if commit else COMMITTED)
            and not Participant(state).allows(told)
        ):
            return self, Answer.HEURISTIC_ROLLBACK if commit else Answer.HEURISTIC_COMMIT
        if state is None or not (state is IN_DOUBT or remembers) or not Participant(state).allows(told):
            return self, NotFound(Evidence.UNKNOWN if remembers else self.evidence_of(unit))
        return self._end(unit, state, commit=commit), Answer.COMMITTED if commit else Answer.ABORTED

    def _end(self, unit: Unit, state: State, *, commit: bool) -> Manager:
        participant = Participant(state)
        if participant.take(Input.COMMIT if commit else Input.ABORT) not in ENDED:
            participant.take(Input.COMMIT_DONE if commit else Input.ABORT_DONE)
        after = self._put(unit, participant.state)
        return after._replace(evidence=self.evidence | {unit}) if commit else after

    def roll_back(self, unit: Unit) -> Manager:
        """A unit at work ends with its session."""
        return self._end(unit, WORKING, commit=False)

    def redo(self, unit: Unit) -> tuple[Manager, Answer]:
        """From its state information, together with its evidence; which it looks for first."""
        if unit in self.evidence:
            return self, Answer.COMMITTED
        if self.state(unit) is COMMITTED:
            raise Violation("done twice", f"the work of {unit} is done a second time")
        units = {one: state for one, state in self.units if one != unit}  # rolled back, or never here: it is mended
        return self._replace(units=tuple(units.items()))._put(unit, COMMITTED)._replace(
            evidence=self.evidence | {unit}
        ), Answer.COMMITTED

    def settle(self, unit: Unit) -> tuple[Manager, Evidence]:
        """Write the evidence's key ourselves: after that a late commit fails on it (O20)."""
        found = self.evidence_of(unit)
        if found is not Evidence.ABSENT:
            return self, found
        return self._replace(settled=self.settled | {unit}), found

    def drop_evidence(self, attempts: frozenset[Try]) -> Manager:
        return self._replace(evidence=frozenset(unit for unit in self.evidence if unit.attempt not in attempts))

    # --- faults -----------------------------------------------------------------------------------------------

    def decide_alone(self, unit: Unit, *, commit: bool) -> Manager:
        """Somebody ends a unit in doubt without asking the coordinator."""
        after = self._end(unit, IN_DOUBT, commit=commit)
        return after._replace(alone=self.alone | {unit})

    def restart(self) -> Manager:
        """What was only in memory is gone; what was in doubt is in doubt (A7)."""
        after = self
        for unit in self.all_in(WORKING):
            after = after.roll_back(unit)
        table = after._table()
        for unit in after.all_in(IN_DOUBT):
            participant = table.find(identifier_of(unit))
            assert participant is not None
            after = after._put(unit, participant.state)
        return after

    def replace_by_replica(self) -> Manager:
        """A replica that never had the prepared units takes over (section 4)."""
        doubtful = self.all_in(IN_DOUBT)
        after = self.restart()
        units = tuple((unit, state) for unit, state in after.units if unit not in doubtful)
        return after._replace(units=units, alone=self.alone | frozenset(doubtful), lost=True)


def _by_unit(pair: tuple[Unit, State]) -> Unit:
    return pair[0]
