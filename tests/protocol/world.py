"""Two real ends joined in memory: a real Coordinator, real Participants, a journal where the first writer wins.

Every step that can happen in the world is one method: a request arrives, a reply arrives, the coordinator gives up
waiting, a record lands, the coordinator dies, recovery passes. The transcripts call them by name. Requests and records
on their way outlive the coordinator and may still arrive (O42, O54).

Not for: databases, threads, time. What a real adapter does in its place stands in resources/; every order of such
steps is explored by simulation/model/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.protocol.admission import admit
from syncpoint.protocol.coordinator import Coordinator, Decided, Effects, What
from syncpoint.protocol.participant import InDoubtTable, Input, Participant, State
from syncpoint.protocol.recovery import Facts, Fate, Missing, fate_of, judge_missing
from syncpoint.protocol.words import Answer, Choice, Decision, Evidence
from syncpoint.records import Abort, Commit, End, KeyedRecord, Record, Resolved, key_fields

COORDINATOR = Guid(bytes(15) + b"\xc0")
TRANSACTION = TransactionId(bytes(15) + b"\x01")


class Journal:
    """Records under (transaction, attempt); the first writer wins. Fulfils `protocol.admission.Standing`."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, record: Record) -> bool:
        """Whether it was accepted."""
        if not admit(record, self):
            return False
        self.records.append(record)
        return True

    def committed(self, transaction: TransactionId) -> Key | None:
        found = self.commit_of(transaction)
        return found.key if found else None

    def is_aborted(self, key: Key) -> bool:
        return self.has(Abort, key)

    def has(self, kind: type[KeyedRecord], key: Key) -> bool:
        return any(isinstance(record, kind) and record.key == key for record in self.records)

    def commit_of(self, transaction: TransactionId) -> Commit | None:
        found = [r for r in self.records if isinstance(r, Commit) and r.transaction == transaction.raw]
        assert len(found) <= 1, f"two Commit records of one transaction: {found}"
        return found[0] if found else None

    def decisions(self) -> dict[Key, Commit]:
        """Commit records that have not ended."""
        return {r.key: r for r in self.records if isinstance(r, Commit) and not self.has(End, r.key)}

    def forced(self) -> dict[Identifier, bool]:
        return {Identifier.from_bytes(r.identifier): r.commit for r in self.records if isinstance(r, Resolved)}


class ResourceManager:
    """One resource manager: units of work, and evidence of the committed ones."""

    def __init__(self, name: str, guid: Guid, *, has_redo: bool = False) -> None:
        self.name = name
        self.guid = guid
        self.has_redo = has_redo
        self.table = InDoubtTable()
        self.units: dict[Identifier, Participant] = {}
        self.evidence: set[Identifier] = set()
        self.alone: set[Identifier] = set()
        """Units it decided alone: the only ones that may differ from the decision."""

    def begin(self, identifier: Identifier) -> None:
        self.units[identifier] = Participant()

    def prepare(self, identifier: Identifier | None, choice: Choice) -> Choice:
        """Vote. The work is gone after a restart, or refused by the table (A4, A5, O49): no."""
        unit = None if identifier is None else self.units.get(identifier)
        if unit is None:
            return Choice.NO
        if self.table.prepare(identifier, unit) is Choice.NO:
            return Choice.NO
        assert identifier is not None
        unit.take({Choice.YES: Input.YES, Choice.NO: Input.NO, Choice.READ_ONLY: Input.NOTHING_WRITTEN}[choice])
        if choice is not Choice.YES:
            self.table.forget(identifier)
        return choice

    def commit_one_phase(self, identifier: Identifier) -> Answer:
        unit = self.units[identifier]
        if not unit.allows(Input.COMMIT_ONE_PHASE):
            return Answer.ABORTED
        unit.take(Input.COMMIT_ONE_PHASE)
        unit.take(Input.COMMIT_DONE)
        self.evidence.add(identifier)
        return Answer.COMMITTED

    def decide(self, identifier: Identifier, *, commit: bool) -> None:
        """A unit at work ends together with the record that it carries. No evidence: the record is the evidence."""
        unit = self.units[identifier]
        unit.take(Input.COMMIT_ONE_PHASE)
        unit.take(Input.COMMIT_DONE if commit else Input.ABORT_DONE)

    def end(self, identifier: Identifier, *, commit: bool) -> Answer:
        """The outcome arrives, at a unit in whatever state. Twice is harmless (O48)."""
        unit = self.units[identifier]
        if not unit.allows(Input.COMMIT if commit else Input.ABORT):
            return self.missing(identifier, commit=commit)
        was = unit.take(Input.COMMIT if commit else Input.ABORT)
        if was is State.COMMITTING:
            self.evidence.add(identifier)
            unit.take(Input.COMMIT_DONE)
        elif was is State.ABORTING:
            unit.take(Input.ABORT_DONE)
        self.table.forget(identifier)
        return Answer.COMMITTED if commit else Answer.ABORTED

    def missing(self, identifier: Identifier, *, commit: bool) -> Answer:
        """It is not there to be ended: the evidence decides (O19)."""
        there = Evidence.COMMITTED if identifier in self.evidence else Evidence.ABSENT
        judged = judge_missing(commit=commit, evidence=there, has_redo=self.has_redo, confirmed=True)
        if judged is Missing.REDO:
            self.evidence.add(identifier)
            self.units[identifier] = Participant(State.COMMITTED)
            return Answer.COMMITTED
        assert isinstance(judged, Answer)
        return judged

    def decide_alone(self, identifier: Identifier, *, commit: bool) -> None:
        """Somebody ends a unit in doubt without asking the coordinator."""
        assert self.units[identifier].state is State.IN_DOUBT
        self.end(identifier, commit=commit)
        self.alone.add(identifier)

    def hang_up(self) -> None:
        """The connections of units at work are lost, so the database rolls them back."""
        for unit in self.units.values():
            if unit.state is State.WORKING:
                unit.take(Input.ABORT)
                unit.take(Input.ABORT_DONE)

    def restart(self) -> None:
        """What was only in memory is gone; what was in doubt is in doubt (A7)."""
        self.hang_up()
        kept = self.table.in_doubt()
        self.table = InDoubtTable()
        for identifier in kept:
            self.units[identifier] = self.table.restore(identifier)

    def lose(self, identifier: Identifier) -> None:
        """A replica that never had the prepared unit takes over."""
        self.table.forget(identifier)
        del self.units[identifier]


@dataclass
class Step:
    """One line of what recovery did."""

    identifier: Identifier
    manager: str
    fate: Fate
    answer: Answer | None = None
    found: bool = True
    """Whether the scan saw it; else the record lists it and the evidence must tell."""


@dataclass
class World:
    """One transaction's coordinator, the resource managers, the journal, and everything on its way."""

    guaranteed: bool = True
    """Whether the journal is on the coordinator's own disk: what has not landed when it dies never will. Else it may
    land later, and recovery must write Abort first (O46, O54)."""
    incarnation: int = 1
    counter: int = 0
    coordinator: Coordinator | None = None
    managers: dict[str, ResourceManager] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
    requests: set[tuple[BranchNumber, What]] = field(default_factory=set)
    """On their way to a resource manager; they may be overtaken, arrive late, or never."""
    replies: dict[BranchNumber, Choice | Answer] = field(default_factory=dict)
    """On their way to the coordinator."""
    appends: list[Record] = field(default_factory=list)
    """On their way to the journal."""
    verdict: tuple[Record, bool] | None = None
    """On its way back from the journal."""
    forcing: Record | None = None
    """The record whose verdict the coordinator waits for."""
    plans: list[list[Step]] = field(default_factory=list)
    """Passes of recovery that have looked and not yet finished what they saw; each may be overtaken by all else."""
    decision: Commit | None = None
    """The record that a decider carries, if there is one."""
    identifiers: dict[BranchNumber, Identifier] = field(default_factory=dict)
    homes: dict[BranchNumber, str] = field(default_factory=dict)

    # --- the coordinator's side ----------------------------------------------------------------------------

    def begin(self) -> Coordinator:
        self.counter += 1
        self.requests.clear()  # what an old attempt sent is lost by now
        for manager in self.managers.values():
            manager.hang_up()
        self.coordinator = Coordinator(Key(TRANSACTION, self.attempt), COORDINATOR)
        self.identifiers, self.homes, self.decision = {}, {}, None
        return self.coordinator

    @property
    def attempt(self) -> Attempt:
        return Attempt(Incarnation(self.incarnation), self.counter)

    @property
    def alive(self) -> Coordinator:
        assert self.coordinator is not None, "the coordinator is dead"
        return self.coordinator

    def manager(self, name: str) -> ResourceManager:
        if name not in self.managers:
            self.managers[name] = ResourceManager(name, Guid(bytes(15) + bytes((len(self.managers) + 1,))))
        return self.managers[name]

    def at(self, number: BranchNumber) -> ResourceManager:
        return self.managers[self.homes[number]]

    def enlist(self, name: str) -> Identifier:
        manager = self.manager(name)
        identifier = self.alive.enlist(name, manager.guid)
        self.identifiers[identifier.branch] = identifier
        self.homes[identifier.branch] = name
        manager.begin(identifier)
        return identifier

    def do(self, effects: Effects) -> Effects:
        """Put what was forced and sent on its way. Forcing and sending never come together: nothing is sent
        before the verdict."""
        assert not (effects.force and effects.then)
        for record in effects.force:
            self.forcing = record
            if effects.through is None:
                self.appends.append(record)
            else:
                assert isinstance(record, Commit)
                self.decision = record
                self.requests.add((effects.through, What.DECIDE))
        self.requests |= {(send.branch, send.what) for send in effects.then}
        for record in effects.lazily:
            self.journal.append(record)
        return effects

    def commit(
        self, writers: list[BranchNumber], *, user_id: str | None = None, decider: BranchNumber | None = None
    ) -> Effects:
        decided = Decided(at_ms=0, required=user_id is not None, user_id=user_id)
        return self.do(self.alive.commit(writers, decided, decider=decider))

    # --- at a resource manager --------------------------------------------------------------------------------

    def arrive(self, number: BranchNumber, what: What, choice: Choice = Choice.YES) -> None:
        """A request arrives and is done; its reply is on its way if anybody still waits for it."""
        self.requests.remove((number, what))
        if what is What.DECIDE:
            self._decide(number)
            return
        identifier, manager = self.identifiers[number], self.at(number)
        reply: Choice | Answer
        match what:
            case What.PREPARE:
                reply = manager.prepare(identifier, choice)
            case What.COMMIT_ONE_PHASE:
                reply = manager.commit_one_phase(identifier)
            case What.COMMIT:
                reply = manager.end(identifier, commit=True)
            case What.ABORT | What.RELEASE:
                reply = manager.end(identifier, commit=False)
        if self.waits_for(number, what):
            self.replies[number] = reply

    def _decide(self, number: BranchNumber) -> None:
        """The decision arrives at the database that the journal lives in: the record and the unit's commit are one."""
        identifier, manager, record = self.identifiers[number], self.at(number), self.decision
        assert record is not None
        working = manager.units[identifier].state is State.WORKING
        accepted = working and self.journal.append(record)
        if working:
            manager.decide(identifier, commit=accepted)
        if self.coordinator is not None and record is self.forcing:
            self.verdict = (record, accepted)

    def waits_for(self, number: BranchNumber, what: What) -> bool:
        if self.coordinator is None or number in self.replies:
            return False
        branch = self.coordinator.branches[number]
        if what is What.PREPARE:
            return branch.standing.name == "PREPARING"
        return branch.standing.name == "TOLD" and branch.told is what

    def waiting(self) -> Iterator[BranchNumber]:
        """Branches whose reply the coordinator waits for."""
        for number, branch in self.alive.branches.items():
            if branch.standing.name in ("PREPARING", "TOLD"):
                yield number

    # --- back at the coordinator -----------------------------------------------------------------------------

    def reply(self, number: BranchNumber, override: Answer | None = None) -> Effects:
        """The reply arrives. `override`: the adapter reports this instead."""
        said = self.replies.pop(number)
        if override is not None:
            said = override
        if isinstance(said, Choice):
            return self.do(self.alive.voted(number, said))
        return self.do(self.alive.answered(number, said))

    def give_up(self, number: BranchNumber) -> Effects:
        """The connection is lost: the reply is gone; the request may still arrive (O16, O18, O42)."""
        self.replies.pop(number, None)
        if self.alive.branches[number].standing.name == "PREPARING":
            return self.do(self.alive.vote_lost(number, f"connection to {self.homes[number]} lost"))
        return self.do(self.alive.answered(number, Answer.RETRY))

    def settle(self) -> Effects:
        """Write the lone writer's evidence key ourselves: after that the late commit fails on it (O20)."""
        number = self.alive.lone_writer
        assert number is not None
        identifier, manager = self.identifiers[number], self.at(number)
        if identifier in manager.evidence:
            return self.alive.settled(Answer.COMMITTED)
        if manager.units[identifier].allows(Input.ABORT):
            manager.end(identifier, commit=False)
        return self.alive.settled(Answer.ABORTED)

    # --- the journal -------------------------------------------------------------------------------------------

    def land(self, index: int = 0) -> bool:
        """A record reaches the journal; first writer wins."""
        record = self.appends.pop(index)
        accepted = self.journal.append(record)
        if self.coordinator is not None and record is self.forcing:
            self.verdict = (record, accepted)
        return accepted

    def judge(self) -> Effects:
        """The journal's verdict arrives at the coordinator."""
        assert self.verdict is not None
        (record, accepted), self.verdict, self.forcing = self.verdict, None, None
        if isinstance(record, Abort):
            accepted = not accepted  # an Abort refused means that the Commit is there (O46)
        return self.do(self.alive.accepted() if accepted else self.alive.refused("another record was there first"))

    def lose_verdict(self) -> Effects:
        """The verdict is lost; the record may have landed, or land later."""
        self.verdict = None
        return self.do(self.alive.force_lost())

    # --- death and recovery ------------------------------------------------------------------------------------

    def crash(self) -> None:
        """kill -9 of the coordinator."""
        self.coordinator, self.verdict, self.forcing = None, None, None
        self.replies.clear()
        if self.guaranteed:
            self.appends.clear()

    def facts(self, *, guessed_dead: bool = False) -> Facts:
        """What is known, read after the scan."""
        alive = self.coordinator is not None and not guessed_dead
        listed = {
            key: frozenset(entry.read_identifier() for entry in commit.branches)
            for key, commit in self.journal.decisions().items()
        }
        return Facts(
            coordinators=frozenset({COORDINATOR}),
            live_incarnations=frozenset({Incarnation(self.incarnation)}) if alive else frozenset(),
            live_keys=frozenset(),
            elsewhere=frozenset(),
            decisions=listed,
            forced=self.journal.forced(),
        )

    def look(self, *, guessed_dead: bool = False) -> list[Step]:
        """A pass of recovery: scan, then who lives, then the records. `guessed_dead`: a living coordinator is taken
        for dead, which only a remote journal forgives (O34). The plan is carried out by `act`."""
        found = [(manager, identifier) for manager in self.managers.values() for identifier in manager.table.in_doubt()]
        facts = self.facts(guessed_dead=guessed_dead)
        if not self.guaranteed:
            self._write_aborts([identifier for _, identifier in found], facts)
            facts = self.facts(guessed_dead=guessed_dead)
        plan = [Step(identifier, manager.name, fate_of(identifier, facts)) for manager, identifier in found]
        if self.coordinator is None or guessed_dead:
            scanned = {identifier for _, identifier in found}
            for commit in self.journal.decisions().values():
                entries = [(entry.read_identifier(), entry.resource) for entry in commit.branches]
                plan += [Step(one, name, Fate.COMMIT, found=False) for one, name in entries if one not in scanned]
        return plan

    def _write_aborts(self, found: list[Identifier], facts: Facts) -> None:
        """First writer wins: after this no Commit of theirs can appear any more (O46, O54)."""
        for identifier in found:
            if fate_of(identifier, facts) is Fate.ABORT and not self.journal.has(Abort, identifier.key):
                self.journal.append(Abort(**key_fields(identifier.key), why="recovery"))

    def act(self, step: Step) -> None:
        """Carry out one step of a plan, now or much later."""
        manager = self.managers[step.manager]
        if not step.found:
            step.answer = manager.missing(step.identifier, commit=True)
        elif step.fate in (Fate.COMMIT, Fate.ABORT):
            step.answer = manager.end(step.identifier, commit=step.fate is Fate.COMMIT)

    def recover(self) -> list[Step]:
        """One whole pass; then the End of what every branch has acknowledged."""
        plan = self.look()
        for step in plan:
            self.act(step)
        for key, commit in self.journal.decisions().items():
            answers = [step.answer for step in plan if step.identifier.key == key]
            if len(answers) == len(commit.branches) and all(answer is Answer.COMMITTED for answer in answers):
                self.journal.append(End(**key_fields(key)))
        return plan

    def ask(self, identifier: Identifier) -> Decision:
        """A participant in doubt asks (O29)."""
        match fate_of(identifier, self.facts()):
            case Fate.COMMIT:
                return Decision.COMMIT
            case Fate.ABORT:
                return Decision.ABORT
            case _:
                return Decision.UNKNOWN
