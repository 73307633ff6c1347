"""The coordinator of one transaction: two-phase commit with presumed abort (DESIGN section 3).

    ACTIVE --commit--> PREPARING --last yes--> DECIDING --forced--> COMMITTING --last answer--> COMMITTED
       |                   |                      | refused             (only forward from here)
       |                   +--a no, or lost--+    |                     a decider is committed by now
       +--abort--------------------------> ABORTING --last answer--> ABORTED
       +--commit, one writer, no record needed--> ONE_PHASE ---> COMMITTED | ABORTED | UNSETTLED
       +--commit, no writer, no record needed---> RELEASING ---> COMMITTED

PREPARING, DECIDING, COMMITTING and ONE_PHASE are the uncertain states: a lost reply leaves the state as
it is, named, until something proves the outcome.

The *decider* is a branch at the very database that the journal lives in. It is not asked for a vote: when all others
have voted, the Commit record is written inside it, and its own commit is the decision (What.DECIDE). The record and
the branch are one: accepted, both are committed; refused, neither is. Its reply lost, Abort is written under the same
key, by the journal on its own (O46). Invariants, asserted where they could break:

    C-I1  CommitBranch is sent only after the Commit record was accepted by the journal.
    C-I2  A branch that voted no or read-only is told nothing more (O03, O04, O15).
    C-I3  After the decision to commit there is no way to ABORTING but a journal that refused the record.
    C-I4  The Commit record lists exactly the branches that voted yes; not the decider, which is committed with it.
    C-I5  The decider is told once: DECIDE, after the last vote and only if all were yes (O45), or ABORT instead.

Not for: IO, retries, timeouts (manager/), the table itself (coordinator_table.py), or what recovery does for somebody
else's transaction (recovery.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from syncpoint.ids import BranchNumber, Guid, Identifier, Key
from syncpoint.protocol.coordinator_table import NEXT, Input, State
from syncpoint.protocol.judgement import Result, judge
from syncpoint.protocol.words import Answer, Choice, Illegal
from syncpoint.records import Abort, BranchEntry, Commit, End, Record, key_fields

__all__ = [
    "NEXT",
    "BranchView",
    "Coordinator",
    "Decided",
    "Effects",
    "Input",
    "Result",
    "Send",
    "Standing",
    "State",
    "What",
]


class Standing(Enum):
    """What the coordinator knows of one branch."""

    WORKING = auto()
    PREPARING = auto()
    YES = auto()
    NO = auto()
    READ_ONLY = auto()
    UNKNOWN = auto()
    """Its prepare's reply was lost (O16)."""
    DECIDING = auto()
    """The decision is on its way through it."""
    TOLD = auto()
    """Told the outcome; its answer is awaited."""
    ENDED = auto()
    PENDING = auto()
    """It could not be told, or did not answer: recovery goes on (O18)."""


@dataclass(slots=True)
class BranchView:
    """One branch as the coordinator sees it."""

    number: BranchNumber
    resource: str
    guid: Guid
    standing: Standing = Standing.WORKING
    state: bytes = b""
    told: What | None = None
    """Which end it was told; set once, so it can never be told two."""
    answer: Answer | None = None
    incarnation: int = 0
    """Of the resource-manager process that voted (B7); 0: it is no process."""


class What(Enum):
    """What a branch is told."""

    PREPARE = auto()
    COMMIT = auto()
    ABORT = auto()
    COMMIT_ONE_PHASE = auto()
    RELEASE = auto()
    """It wrote nothing: end it, whichever way."""
    DECIDE = auto()
    """Commit, with the Commit record inside: never in a Send, but as `Effects.through`."""


_ALONE = {
    (What.COMMIT, Answer.ABORTED): Answer.HEURISTIC_ROLLBACK,
    (What.ABORT, Answer.COMMITTED): Answer.HEURISTIC_COMMIT,
}
"""An answer against what the branch was told is a decision made alone, whatever the adapter calls it."""


@dataclass(frozen=True, slots=True)
class Send:
    """Tell one branch. Sent only after everything in the same effects' `force` is durable."""

    what: What
    branch: BranchNumber


@dataclass(frozen=True, slots=True)
class Effects:
    """What to do now, in this order: force, then send; `lazily` goes with any later force."""

    force: tuple[Record, ...] = ()
    through: BranchNumber | None = None
    """Force it by committing this branch with the record inside (DECIDE), instead of by the journal on its own."""
    then: tuple[Send, ...] = ()
    lazily: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Decided:
    """What the Commit record says besides its branches; absent when no record is needed."""

    at_ms: int
    required: bool = False
    """A record is forced even if at most one branch wrote: the transaction has an id."""
    by_vote: bool = False
    """A branch is asked for its vote even if it is the only one: a subordinate never decides for its superior."""
    scope: str = ""
    user_id: str | None = None
    fingerprint: bytes = b""
    result: bytes | None = None


class Coordinator:
    """Two-phase commit of one transaction. Every method is an input and returns effects."""

    __slots__ = ("_decided", "branches", "coordinator", "decider", "key", "lone_writer", "state", "why")

    def __init__(self, key: Key, coordinator: Guid) -> None:
        self.key = key
        self.coordinator = coordinator
        self.state = State.ACTIVE
        self.branches: dict[BranchNumber, BranchView] = {}
        self.why = ""
        """Why it is to abort; set once."""
        self.lone_writer: BranchNumber | None = None
        self.decider: BranchNumber | None = None
        self._decided: Decided | None = None

    def __repr__(self) -> str:
        voted = sum(branch.standing not in (Standing.WORKING, Standing.PREPARING) for branch in self.branches.values())
        ended = sum(branch.standing is Standing.ENDED for branch in self.branches.values())
        return f"<Coordinator {self.key} {self.state.name} votes={voted}/{len(self.branches)} ended={ended}>"

    # --- work ------------------------------------------------------------------------------------------------

    def enlist(self, resource: str, guid: Guid) -> Identifier:
        """A new branch; returns the identifier that its prepare will carry (A1)."""
        if self.state is not State.ACTIVE:
            raise Illegal(f"enlist in {self.state.name}")
        number = BranchNumber(len(self.branches) + 1)
        self.branches[number] = BranchView(number, resource, guid)
        return self.identifier(number)

    def identifier(self, number: BranchNumber) -> Identifier:
        return Identifier(self.coordinator, self.key.transaction, self.key.attempt, number)

    def withdraw(self, why: str) -> None:
        """The coordinator's own vote is no (cancelled, out of time, rollback-only): the last vote will abort (A9)."""
        if self.state not in (State.ACTIVE, State.PREPARING):
            raise Illegal(f"withdraw in {self.state.name}")  # C-I3
        self.why = self.why or why

    # --- the caller's two wishes -----------------------------------------------------------------------------

    def commit(
        self, writers: Iterable[BranchNumber], decided: Decided, *, decider: BranchNumber | None = None
    ) -> Effects:
        """Commit. `writers` are the branches that wrote or might have; the others are released without a vote.
        `decider`: the one of them at the journal's own database, if there is one; used only if a record is needed."""
        if self.why:
            return self.abort(self.why)  # O06: no prepare at all
        writing = frozenset(writers)
        assert writing <= self.branches.keys(), f"writers that are no branches: {sorted(writing)}"
        assert decider is None or decider in writing, f"a decider that did not write: {decider}"
        idle = [Send(What.RELEASE, number) for number in self.branches if number not in writing]
        if decided.required or len(writing) > 1 or (writing and decided.by_vote):
            self._move(Input.COMMIT)
            self._decided, self.decider = decided, decider
            voters = [number for number in self.branches if number in writing and number != decider]
            return self._ask_votes([Send(What.PREPARE, number) for number in voters], idle)
        if writing:
            self._move(Input.COMMIT_ONE)
            (self.lone_writer,) = writing
            return self._tell([Send(What.COMMIT_ONE_PHASE, self.lone_writer), *idle])
        self._move(Input.COMMIT_NONE)
        return self._tell(idle)

    def abort(self, why: str) -> Effects:
        """Abort before any vote was asked for."""
        self._move(Input.ABORT)
        self.why = self.why or why
        return self._tell([Send(What.ABORT, number) for number in self.branches])

    # --- votes -----------------------------------------------------------------------------------------------

    def _ask_votes(self, prepares: list[Send], idle: list[Send]) -> Effects:
        for send in prepares:
            self.branches[send.branch].standing = Standing.PREPARING
        self._mark(idle)
        if not prepares and not idle:
            return self._last_vote()  # an id with no branch at all, or with the decider alone
        return Effects(then=(*prepares, *idle))

    def voted(
        self, number: BranchNumber, choice: Choice, state: bytes = b"", why: str = "", *, incarnation: int = 0
    ) -> Effects:
        """A vote arrived (A3, A4); `incarnation`, of the resource-manager process that gave it (B7)."""
        self.branches[number].incarnation = incarnation
        standing = {Choice.YES: Standing.YES, Choice.NO: Standing.NO, Choice.READ_ONLY: Standing.READ_ONLY}[choice]
        against = (why or f"{self.branches[number].resource} voted no") if choice is Choice.NO else ""
        return self._take_vote(number, standing, state, against)

    def vote_lost(self, number: BranchNumber, why: str) -> Effects:
        """The reply to a prepare is lost: whether it is prepared is unknown; it counts as a no and is told (O16)."""
        return self._take_vote(number, Standing.UNKNOWN, b"", why)

    def _take_vote(self, number: BranchNumber, standing: Standing, state: bytes, why: str) -> Effects:
        branch = self.branches[number]
        if branch.standing is not Standing.PREPARING:
            raise Illegal(f"vote of branch {number} in {branch.standing.name}")
        branch.standing, branch.state = standing, state
        self.why = self.why or why
        if self._waiting():
            self._move(Input.VOTE)
            return Effects()
        return self._last_vote()

    def _waiting(self) -> bool:
        """A vote, or the answer of a branch released beside the voters, has still to come."""
        return any(branch.standing in (Standing.PREPARING, Standing.TOLD) for branch in self.branches.values())

    def _last_vote(self) -> Effects:
        assert self._decided is not None
        if self.why:
            self._move(Input.LAST_VOTE_ABORT)
            return self._tell(self._to_abort())
        yes = [branch for branch in self.branches.values() if branch.standing is Standing.YES]
        if not yes and not self._decided.required and self.decider is None:
            self._move(Input.LAST_VOTE_NOTHING)  # O02: nothing written
            return self._tell([])
        return self._all_yes(yes, self._decided)

    def _all_yes(self, yes: list[BranchView], decided: Decided) -> Effects:
        """Every branch that wrote has voted yes: the decision is ours. (A subordinate's is its superior's.)"""
        self._move(Input.LAST_VOTE_COMMIT)
        record = self._commit_record(yes, decided)
        if self.decider is not None:
            self._mark([Send(What.DECIDE, self.decider)], Standing.DECIDING)
        return Effects(force=(record,), through=self.decider)

    def _to_abort(self) -> list[Send]:
        told = (Standing.YES, Standing.UNKNOWN)  # C-I2
        return [
            Send(What.ABORT, branch.number)
            for branch in self.branches.values()
            if branch.standing in told or (branch.number == self.decider and branch.standing is Standing.WORKING)
        ]

    def _commit_record(self, yes: list[BranchView], decided: Decided) -> Commit:
        return Commit(
            **key_fields(self.key),
            branches=self._entries(yes),
            at_ms=decided.at_ms,
            scope=decided.scope,
            user_id=decided.user_id,
            fingerprint=decided.fingerprint,
            result=decided.result,
            decided_at="" if self.decider is None else self.branches[self.decider].resource,
        )

    def _entries(self, yes: list[BranchView]) -> tuple[BranchEntry, ...]:
        return tuple(  # C-I4
            BranchEntry(
                resource=branch.resource,
                guid=branch.guid.raw,
                identifier=self.identifier(branch.number).to_bytes(),
                state=branch.state,
                incarnation=branch.incarnation,
            )
            for branch in yes
        )

    # --- the decision ----------------------------------------------------------------------------------------

    def accepted(self) -> Effects:
        """The Commit record is durable: this is the decision. The decider, if there is one, is committed with it."""
        self._move(Input.ACCEPTED)
        self._end_decider(Answer.COMMITTED)
        yes = [branch.number for branch in self.branches.values() if branch.standing is Standing.YES]
        return self._tell([Send(What.COMMIT, number) for number in yes])  # C-I1

    def refused(self, why: str) -> Effects:
        """The record is not there, and cannot appear any more: another one was first, and first writer wins (O47), or
        the branch that carried it was rolled back, or it was never sent."""
        self._move(Input.REFUSED)
        self.why = why
        self._end_decider(Answer.ABORTED)
        return self._tell(self._to_abort())

    def _end_decider(self, answer: Answer) -> None:
        """The record and the branch that carries it are one: it has ended the same way."""
        if self.decider is not None:
            branch = self.branches[self.decider]
            assert branch.standing is Standing.DECIDING, f"the decider is {branch.standing.name}"  # C-I5
            branch.standing, branch.answer = Standing.ENDED, answer

    def force_lost(self) -> Effects:
        """Whether the record is there is unknown: settle it by writing Abort under the same key, never assume (O46).
        A decider's session is to be given up before."""
        self._move(Input.FORCE_LOST)
        return Effects(force=(Abort(**key_fields(self.key), why="the reply to the Commit record was lost"),))

    # --- phase two -------------------------------------------------------------------------------------------

    def answered(self, number: BranchNumber, answer: Answer) -> Effects:
        """A branch's answer to commit, abort or release. RETRY leaves it to recovery (O18)."""
        branch = self.branches[number]
        if branch.standing is not Standing.TOLD:
            raise Illegal(f"answer of branch {number} in {branch.standing.name}")
        self._note(branch, answer)
        if branch.told is What.COMMIT_ONE_PHASE:
            return self._one_answered(answer)
        if self.lone_writer is not None:
            return Effects()  # a released branch beside the lone writer
        if self.state is State.PREPARING:  # a released branch beside the voters
            return Effects() if self._waiting() else self._last_vote()
        if any(view.standing is Standing.TOLD for view in self.branches.values()):
            self._move(Input.ANSWER)
            return Effects()
        return self._last_answer()

    def _note(self, branch: BranchView, answer: Answer) -> None:
        assert answer is not Answer.NOT_FOUND, "a question, not an answer: ask the evidence first (O19)"
        assert branch.told is not None
        branch.answer = _ALONE.get((branch.told, answer), answer)
        # A released branch holds nothing: there is nothing to go on with, whatever it answered.
        unanswered = answer is Answer.RETRY and branch.told is not What.RELEASE
        branch.standing = Standing.PENDING if unanswered else Standing.ENDED

    def _last_answer(self) -> Effects:
        recorded = self.state is State.COMMITTING
        self._move(Input.LAST_ANSWER)
        settled = all(view.standing is not Standing.PENDING for view in self.branches.values())
        if recorded and settled and self.heuristic in (None, Result.ABORTED):  # O12: nothing for a person to do
            return Effects(lazily=(End(**key_fields(self.key)),))
        return Effects()

    def _one_answered(self, answer: Answer) -> Effects:
        if answer is Answer.RETRY:
            self._move(Input.ONE_LOST)
        elif answer in (Answer.ABORTED, Answer.HEURISTIC_ROLLBACK):
            self._move(Input.ONE_ABORTED)  # O13
        else:
            self._move(Input.ONE_COMMITTED)
        return Effects()

    def settled(self, answer: Answer) -> Effects:
        """The evidence has settled an UNSETTLED one-phase commit (O20): COMMITTED, ABORTED, HAZARD, or RETRY."""
        if self.state is not State.UNSETTLED:
            raise Illegal(f"settled in {self.state.name}")
        assert self.lone_writer is not None
        self._note(self.branches[self.lone_writer], answer)
        return self._one_answered(answer)

    # --- the answer to the caller ----------------------------------------------------------------------------

    @property
    def pending(self) -> frozenset[str]:
        """Resources that have not acknowledged yet; recovery goes on with them."""
        return frozenset(view.resource for view in self.branches.values() if view.standing is Standing.PENDING)

    @property
    def heuristic(self) -> Result | None:
        """HEURISTIC_MIXED, HEURISTIC_HAZARD, ABORTED (all rolled back alone, O12), or None."""
        told = [view for view in self.branches.values() if view.told not in (None, What.RELEASE)]
        answers = {view.number: view.answer for view in told if view.answer is not None}
        pending = any(view.standing is not Standing.ENDED for view in told)
        committing = self.state in (State.COMMITTING, State.COMMITTED, State.ONE_PHASE)
        recorded = self._decided is not None and self._decided.required
        return judge(answers, commit=committing, pending=pending, recorded=recorded)

    @property
    def result(self) -> Result:
        """What to tell the caller; only in a final state, or while uncertain (PENDING)."""
        if self.state is State.COMMITTED:
            return self.heuristic or Result.COMMITTED
        if self.state is State.ABORTED:
            return self.heuristic or Result.ABORTED
        return Result.PENDING

    # --- the table -------------------------------------------------------------------------------------------

    def _tell(self, sends: list[Send]) -> Effects:
        """Send to these; if there are none, the last answer is in already."""
        self._mark(sends)
        return Effects(then=tuple(sends)) if sends else self._last_answer()

    def _mark(self, sends: list[Send], standing: Standing = Standing.TOLD) -> None:
        for send in sends:
            branch = self.branches[send.branch]
            assert branch.told is None, f"branch {send.branch} was told {branch.told}"
            branch.standing, branch.told = standing, send.what

    def _move(self, what: Input) -> None:
        target = NEXT[self.state, what]
        if target is None:
            raise Illegal(f"{what.name} in {self.state.name}")
        self.state = target
