"""The coordinator of a subordinate's own branches: it votes for them all, and its superior decides (B10, A6..A9).

    ACTIVE --asked--> PREPARING --all yes--> PROMISING --forced--> IN_DOUBT --told--> DECIDING --forced--> COMMITTING
                          |                     | not forced          |  ^ commit        | not certain: in doubt still
                          +--a no--+            |                     |  +---------------+
                          |        +------------+--> ABORTING <-------+ told abort
                          +--nothing written--> RELEASING --> COMMITTED        (votes read-only, and is out)

It is the coordinator (coordinator.py) with one more force between the votes and the decision: `Prepared`, which says
whom to ask and what it holds. Invariants, asserted where they could break:

    S-I1  It votes yes only after its Prepared record was accepted by the journal: before that, and after a no, nothing
          of it is in doubt.
    S-I2  Between its yes and the superior's word it neither commits nor aborts, whatever happens here (A7). Cancelling,
          a deadline and a lost connection have no effect any more.
    S-I3  It commits only when told so after its yes; its own Commit record, which makes its recovery finish it, is
          forced before any branch is told, and before the superior is answered.
    S-I4  No Abort is ever written under a promised key by itself: a Commit whose force is not certain leaves it in
          doubt.
    S-I5  Being told the same twice changes nothing (O48); being told the opposite is the superior's fault, and refused.

Not for: asking the superior, messages, journals (manager/joining.py, manager/promises.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum, auto

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Key, TransactionId
from syncpoint.protocol.coordinator import BranchView, Coordinator, Decided, Effects, Input, Standing, State
from syncpoint.protocol.words import Choice, Decision, Illegal
from syncpoint.records import End, Prepared, key_fields

__all__ = ["AFTER_ABORT", "AFTER_COMMIT", "Heard", "Subordinate", "hear", "judge_unknown"]

AFTER_COMMIT = frozenset({State.DECIDING, State.COMMITTING, State.COMMITTED})
AFTER_ABORT = frozenset({State.ABORTING, State.ABORTED})


class Heard(Enum):
    """What the superior's word means to a subordinate in some state."""

    NOW = auto()
    """Do it."""
    AGAIN = auto()
    """It is done, or being done: the same answer, no second effect (O48)."""
    EARLY = auto()
    """Abort before the vote: nothing was promised, it aborts of its own (O49)."""
    WRONG = auto()
    """The superior contradicts itself, or commits what was never promised: refused, nothing changes (S-I5)."""


def hear(state: State, *, promised: bool, commit: bool) -> Heard:
    """What the superior's word means, in every state. Total."""
    if state is State.IN_DOUBT:
        return Heard.NOW
    if not promised:  # no vote, a no, or read-only
        return Heard.WRONG if commit else Heard.AGAIN if state in AFTER_ABORT else Heard.EARLY
    return Heard.AGAIN if state in (AFTER_COMMIT if commit else AFTER_ABORT) else Heard.WRONG


def judge_unknown(*, committed: bool, held_elsewhere: bool, commit: bool) -> Decision:
    """Told about a branch of which this process knows nothing: whether it can be acknowledged as told.

    Its Prepared record was forced before its yes, and stays until its outcome is done. So where there is none, a branch
    that the superior decided to commit is committed here, and one that it aborted never voted, or is gone. UNKNOWN: do
    not acknowledge. Another living process holds the promise; or it is committed here, and yet told to abort.
    """
    if held_elsewhere or (committed and not commit):
        return Decision.UNKNOWN
    return Decision.COMMIT if commit else Decision.ABORT


class Subordinate(Coordinator):
    """Two-phase commit of a subordinate's part of one transaction. `superior` is what its superior calls this part."""

    __slots__ = ("is_promised", "superior")

    def __init__(self, key: Key, coordinator: Guid, superior: Identifier) -> None:
        assert key.transaction == TransactionId.under(superior), (
            "a subordinate's transaction is named by its superior's"
        )
        super().__init__(key, coordinator)
        self.superior = superior
        self.is_promised = False
        """Its Prepared record is durable. Never false again."""

    def __repr__(self) -> str:
        return f"<Subordinate {self.superior} {self.state.name} as {self.key}>"

    @property
    def attempt(self) -> Attempt:
        return self.key.attempt

    # --- the vote --------------------------------------------------------------------------------------------

    def prepare(self, writers: Iterable[BranchNumber], decided: Decided) -> Effects:
        """The superior asks for its vote. `vote` has it once there are no more effects."""
        if self.why:
            return self.abort(self.why)
        return self.commit(writers, replace(decided, by_vote=True))  # S-I1: a lone writer promises too

    @property
    def vote(self) -> Choice | None:
        """YES only while promised (S-I1). READ_ONLY: nothing was written, it is out. None: not known yet."""
        if self.is_promised:
            return Choice.YES
        if self.state in AFTER_ABORT:
            return Choice.NO
        return Choice.READ_ONLY if self.state is State.COMMITTED else None

    def _all_yes(self, yes: list[BranchView], decided: Decided) -> Effects:
        self._move(Input.LAST_VOTE_PROMISE)
        prepared = Prepared(
            **key_fields(self.key),
            superior=self.superior.coordinator.raw,
            branches=self._entries(yes),
            identifier=self.superior.to_bytes(),
        )
        return Effects(force=(prepared,))

    def accepted(self) -> Effects:
        """The record is durable. Prepared: it may vote yes. Commit: it is finished here, whatever happens."""
        if self.state is State.PROMISING:
            self._move(Input.PROMISED)
            self.is_promised = True
            return Effects()
        assert self.is_promised, f"{self!r} commits without a promise"  # S-I3
        return super().accepted()

    def refused(self, why: str) -> Effects:
        """The record was not written. Without Prepared it votes no; without Commit it is as much in doubt as before."""
        if self.state is State.PROMISING:
            self._move(Input.NOT_PROMISED)
            self.why = self.why or why
            return self._tell(self._to_abort())
        self._move(Input.COMMIT_LOST)  # S-I4
        return Effects()

    def force_lost(self) -> Effects:
        """Whether the record is there is unknown. A Prepared without a yes does no harm: who asks is told abort."""
        return self.refused("the reply to its Prepared record was lost")

    # --- the outcome -----------------------------------------------------------------------------------------

    def hear(self, *, commit: bool) -> Heard:
        """What the superior's word would mean now; NOW is followed by `told`."""
        return hear(self.state, promised=self.is_promised, commit=commit)

    def told(self, *, commit: bool) -> Effects:
        """The superior's word, in doubt. Raises Illegal elsewhere."""
        if self.hear(commit=commit) is not Heard.NOW:
            raise Illegal(f"told commit={commit} in {self.state.name}")  # S-I5
        if not commit:
            self._move(Input.TOLD_ABORT)
            self.why = "its superior aborted"
            return self._tell(self._to_abort())
        assert self._decided is not None
        self._move(Input.TOLD_COMMIT)
        yes = [branch for branch in self.branches.values() if branch.standing is Standing.YES]
        return Effects(force=(self._commit_record(yes, self._decided),))

    def _last_answer(self) -> Effects:
        aborted = self.state is State.ABORTING
        effects = super()._last_answer()
        settled = all(view.standing is not Standing.PENDING for view in self.branches.values())
        if aborted and settled and self.is_promised:  # the promise is kept: recovery need not ask about it
            return Effects(lazily=(End(**key_fields(self.key)),))
        return effects
