"""A resource manager's way to service: no start serves before it knows what became of all that was prepared (B6..B9).

    STANDBY --activated--> ENROLLING --granted--> FENCING --written--> ASKING --told--> RECONCILING --settled--> OPEN
       ^------it waits---------+                                                          |               ^
                                                                     some are undecided   +--> AWAITING --+
    anywhere: a higher incarnation is seen --> FENCED, and it changes nothing more

The first start of a resource manager goes this way too; it finds nothing to do. Invariants, asserted where they could
break:

    B-I1  Nothing is served, and no vote is given, before OPEN.
    B-I2  The incarnation stands in the data before the question is asked: whoever works under a lower one has ended
          what it changes, or changes nothing (B7). So what is decided then, and nothing else, is missing.
    B-I3  Decided branches are committed one after the other in the order of their records.
    B-I4  What is prepared, and neither decided nor undecided in the snapshot, is aborted before anything is redone: it
          may hold locks.
    B-I5  It opens with no branch undecided.
    B-I6  After FENCED there are no effects.

Each effect is done, and its result is put in, before the next ones are known; what was not done (busy, no answer) is
done again by the driver, for ever. Not for: how a branch is finished or redone (resources/), or messages.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import product

from syncpoint.ids import Guid, Identifier, Incarnation
from syncpoint.protocol.words import Decision, Illegal

__all__ = [
    "NEXT",
    "AbortBranch",
    "AskNode",
    "AskOutcome",
    "Backup",
    "CommitBranch",
    "Effect",
    "Enrol",
    "Input",
    "SayOpened",
    "Scan",
    "State",
    "Stop",
    "Undone",
    "WriteIncarnation",
]


class State(Enum):
    STANDBY = auto()
    """Enrolled, and waiting to be told."""
    ENROLLING = auto()
    FENCING = auto()
    """It has its incarnation, and writes it into the data."""
    ASKING = auto()
    RECONCILING = auto()
    AWAITING = auto()
    """All that was decided is done; managers have still to decide the rest."""
    OPEN = auto()
    FENCED = auto()


class Input(Enum):
    WAIT = auto()
    ACTIVATE = auto()
    GRANTED = auto()
    WRITTEN = auto()
    TOLD = auto()
    STEP = auto()
    """One thing is done, and more are left."""
    UNDECIDED_LEFT = auto()
    SETTLED = auto()
    FENCE = auto()


S, I = State, Input  # noqa: E741  # the table reads like one

_LEGAL: dict[tuple[State, Input], State] = {
    (S.ENROLLING, I.WAIT): S.STANDBY,
    (S.ENROLLING, I.GRANTED): S.FENCING,
    (S.STANDBY, I.WAIT): S.STANDBY,  # enrolled again, after its connection was lost
    (S.STANDBY, I.ACTIVATE): S.ENROLLING,
    (S.FENCING, I.WRITTEN): S.ASKING,
    (S.ASKING, I.TOLD): S.RECONCILING,
    (S.RECONCILING, I.STEP): S.RECONCILING,
    (S.RECONCILING, I.UNDECIDED_LEFT): S.AWAITING,
    (S.RECONCILING, I.SETTLED): S.OPEN,
    (S.AWAITING, I.STEP): S.AWAITING,
    (S.AWAITING, I.SETTLED): S.OPEN,
    **{(state, I.FENCE): S.FENCED for state in State},
}

NEXT: dict[tuple[State, Input], State | None] = {pair: _LEGAL.get(pair) for pair in product(State, Input)}
"""Total (R3): every (state, input) is a next state, or None for ILLEGAL."""


@dataclass(frozen=True, slots=True)
class Undone:
    """A branch whose outcome has to be done, with the state information of its vote."""

    identifier: Identifier
    state: bytes = b""


@dataclass(frozen=True, slots=True)
class Enrol:
    """Ask the node for an incarnation; as a standby, ask to wait."""

    standby: bool = False


@dataclass(frozen=True, slots=True)
class WriteIncarnation:
    """Into the data, durably. Then `written`; or `fenced`, when a higher one stands there."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class AskNode:
    """Reconcile: the one snapshot (B8). Then `told`."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class Scan:
    """Look which branches are prepared in the data. Then `found`."""


@dataclass(frozen=True, slots=True)
class CommitBranch:
    """Finish it; not found: look for its evidence; absent: redo. Then `done`."""

    branch: Undone


@dataclass(frozen=True, slots=True)
class AbortBranch:
    """Roll it back, if it is there. Then `done`."""

    identifier: Identifier


@dataclass(frozen=True, slots=True)
class AskOutcome:
    """Of one undecided branch (B9). Then `outcome`."""

    identifier: Identifier


@dataclass(frozen=True, slots=True)
class SayOpened:
    """Serve from now on, and tell the node, until it has noted it."""

    incarnation: Incarnation
    redone: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Change nothing more; end what is under way, and the process."""

    why: str


Effect = Enrol | WriteIncarnation | AskNode | Scan | CommitBranch | AbortBranch | AskOutcome | SayOpened | Stop


class Backup:
    """One start of a resource manager. Each method is an input and returns what to do next."""

    __slots__ = ("_decided", "_drop", "_undecided", "guid", "incarnation", "redone", "state")

    def __init__(self, guid: Guid) -> None:
        self.guid = guid
        self.state = State.ENROLLING
        self.incarnation = Incarnation(0)
        self.redone = 0
        self._drop: list[Identifier] = []
        self._decided: list[Undone] = []
        self._undecided: dict[Identifier, Undone] = {}

    def __repr__(self) -> str:
        left = f"drop={len(self._drop)} decided={len(self._decided)} undecided={len(self._undecided)}"
        return f"<Backup {str(self.guid)[:8]} {self.state.name} incarnation={self.incarnation} {left}>"

    @property
    def serves(self) -> bool:
        return self.state is State.OPEN  # B-I1

    @property
    def undecided(self) -> frozenset[Identifier]:
        """What must keep its locks, or would have them, until a manager has decided."""
        return frozenset(self._undecided)

    # --- its name ------------------------------------------------------------------------------------------

    def start(self, *, standby: bool = False) -> tuple[Effect, ...]:
        """The process has started. Also after the node has forgotten who waits."""
        return (Enrol(standby=standby),)

    def waits(self) -> tuple[Effect, ...]:
        """The node has taken it as a standby."""
        self._move(Input.WAIT)
        return ()

    def activated(self) -> tuple[Effect, ...]:
        """The node tells a standby to take over. Told twice, or once more later: it is doing so."""
        if self.state is not State.STANDBY:
            return ()
        self._move(Input.ACTIVATE)
        return (Enrol(),)

    def granted(self, incarnation: Incarnation) -> tuple[Effect, ...]:
        """The node has forced this incarnation. The same again, later, changes nothing."""
        assert incarnation > 0, "an incarnation is never 0"
        if self.state is State.FENCED or (incarnation == self.incarnation and self.state is not State.ENROLLING):
            return ()
        self._move(Input.GRANTED)
        self.incarnation = incarnation
        return (WriteIncarnation(incarnation),)

    def written(self) -> tuple[Effect, ...]:
        """It stands in the data, and what others had begun there under a lower one has ended."""
        if self.state is State.FENCED:
            return ()
        self._move(Input.WRITTEN)  # B-I2
        return (AskNode(self.incarnation),)

    def fenced(self, incarnation: Incarnation) -> tuple[Effect, ...]:
        """The node, or the data, know of a higher incarnation. What is not higher is old news."""
        if self.state is State.FENCED or incarnation <= self.incarnation:
            return ()
        self._move(Input.FENCE)
        return (Stop(f"incarnation {incarnation} has taken over from incarnation {self.incarnation}"),)

    # --- what became of everything ---------------------------------------------------------------------------

    def told(self, decided: Sequence[Undone], undecided: Sequence[Undone]) -> tuple[Effect, ...]:
        """The snapshot: `decided` in the order of their records."""
        if self.state is State.FENCED:
            return ()
        self._move(Input.TOLD)
        self._decided = list(decided)
        certain = {one.identifier for one in decided}
        self._undecided = {one.identifier: one for one in undecided if one.identifier not in certain}
        return (Scan(),)

    def found(self, prepared: Collection[Identifier]) -> tuple[Effect, ...]:
        """What is prepared in the data, of whatever coordinator that this node answers for."""
        if self.state is not State.RECONCILING:
            return self._late("found", State.FENCED)
        known = self._undecided.keys() | {one.identifier for one in self._decided}
        self._drop = sorted(set(prepared) - known)
        return self._go_on()

    def done(self, identifier: Identifier, *, redone: bool = False) -> tuple[Effect, ...]:
        """This branch has ended as it was to. `redone`: the data had lost it."""
        if self.state not in (State.RECONCILING, State.AWAITING):
            return self._late("done", State.FENCED)
        self.redone += redone
        if self.state is State.AWAITING:
            del self._undecided[identifier]
            return self._settled() if not self._undecided else self._step()
        if self._drop:
            assert self._drop.pop(0) == identifier  # B-I4
        else:
            assert self._decided.pop(0).identifier == identifier  # B-I3
        return self._go_on()

    def outcome(self, identifier: Identifier, decision: Decision, state: bytes = b"") -> tuple[Effect, ...]:
        """What became of an undecided branch. UNKNOWN: it is asked again, after a while."""
        if self.state is not State.AWAITING:
            return self._late("outcome", State.FENCED)
        branch = self._undecided[identifier]
        if decision is Decision.UNKNOWN:
            return (AskOutcome(identifier),)
        if decision is Decision.ABORT:
            return (AbortBranch(identifier),)
        return (CommitBranch(Undone(identifier, state or branch.state)),)

    def _go_on(self) -> tuple[Effect, ...]:
        if self._drop:
            return (*self._step(), AbortBranch(self._drop[0]))
        if self._decided:
            return (*self._step(), CommitBranch(self._decided[0]))
        if self._undecided:
            self._move(Input.UNDECIDED_LEFT)
            return tuple(AskOutcome(identifier) for identifier in self._undecided)
        return self._settled()

    def _step(self) -> tuple[Effect, ...]:
        self._move(Input.STEP)
        return ()

    def _settled(self) -> tuple[Effect, ...]:
        assert not self._drop
        assert not self._decided
        assert not self._undecided  # B-I5
        self._move(Input.SETTLED)
        return (SayOpened(self.incarnation, self.redone),)

    def _late(self, what: str, allowed: State) -> tuple[Effect, ...]:
        """The result of something that was under way when it was fenced. (B-I6)"""
        if self.state is not allowed:
            raise Illegal(f"{what} in {self.state.name}")
        return ()

    def _move(self, what: Input) -> None:
        target = NEXT[self.state, what]
        if target is None:
            raise Illegal(f"{what.name} in {self.state.name}")
        self.state = target
