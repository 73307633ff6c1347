"""The participant: one unit of work at a resource manager, from its first statement to its outcome (A1..A7).

    WORKING --prepare--> PREPARING --yes--> IN_DOUBT --told--> COMMITTING | ABORTING --done--> COMMITTED | ABORTED
       |                     | lost: stays      (locks held; survives restart; only the outcome ends it, A7)
       +--abort--> ABORTING

PREPARING, COMMITTING, ABORTING and ENDING are uncertain: a statement is under way, and if its reply is lost
the state says so. Being told the same outcome twice is harmless (O48); a prepare after an abort is refused (O49).
The manager's branches and the memory resource both use it. Not for: statements, which adapters know.
"""

from __future__ import annotations

from enum import Enum, auto
from itertools import product

from syncpoint.ids import Identifier
from syncpoint.protocol.words import Choice, Illegal


class State(Enum):
    WORKING = auto()
    PREPARING = auto()
    """The vote is being made durable; if the reply is lost, nobody knows whether it is."""
    IN_DOUBT = auto()
    """Voted yes; the outcome is unknown here."""
    COMMITTING = auto()
    ABORTING = auto()
    ENDING = auto()
    """A one-phase commit is under way: only the database knows."""
    COMMITTED = auto()
    ABORTED = auto()
    READ_ONLY = auto()


class Input(Enum):
    PREPARE = auto()
    YES = auto()
    NO = auto()
    NOTHING_WRITTEN = auto()
    COMMIT = auto()
    COMMIT_ONE_PHASE = auto()
    ABORT = auto()
    COMMIT_DONE = auto()
    ABORT_DONE = auto()


S, I = State, Input  # noqa: E741  # the table reads like one

_LEGAL: dict[tuple[State, Input], State] = {
    (S.WORKING, I.PREPARE): S.PREPARING,
    (S.WORKING, I.ABORT): S.ABORTING,
    (S.WORKING, I.COMMIT_ONE_PHASE): S.ENDING,
    (S.PREPARING, I.YES): S.IN_DOUBT,
    (S.PREPARING, I.NO): S.ABORTED,
    (S.PREPARING, I.NOTHING_WRITTEN): S.READ_ONLY,
    (S.PREPARING, I.ABORT): S.ABORTING,
    (S.IN_DOUBT, I.COMMIT): S.COMMITTING,
    (S.IN_DOUBT, I.ABORT): S.ABORTING,
    (S.COMMITTING, I.COMMIT): S.COMMITTING,
    (S.COMMITTING, I.COMMIT_DONE): S.COMMITTED,
    (S.COMMITTING, I.ABORT_DONE): S.ABORTED,  # somebody decided alone: the answer says HEURISTIC_ROLLBACK
    (S.ABORTING, I.ABORT): S.ABORTING,
    (S.ABORTING, I.ABORT_DONE): S.ABORTED,
    (S.ABORTING, I.COMMIT_DONE): S.COMMITTED,  # somebody decided alone: the answer says HEURISTIC_COMMIT
    (S.ENDING, I.COMMIT_DONE): S.COMMITTED,
    (S.ENDING, I.ABORT_DONE): S.ABORTED,
    (S.ENDING, I.NO): S.ABORTED,
    (S.ENDING, I.NOTHING_WRITTEN): S.READ_ONLY,
    (S.COMMITTED, I.COMMIT): S.COMMITTED,  # O48: the same answer, no second effect
    (S.ABORTED, I.ABORT): S.ABORTED,
    (S.READ_ONLY, I.ABORT): S.READ_ONLY,
}

NEXT: dict[tuple[State, Input], State | None] = {pair: _LEGAL.get(pair) for pair in product(State, Input)}
"""Total (R3): every (state, input) is a next state, or None for ILLEGAL."""

UNCERTAIN = frozenset({State.PREPARING, State.COMMITTING, State.ABORTING, State.ENDING})
LOCKED = frozenset({State.IN_DOUBT, State.COMMITTING, State.ABORTING})
ENDED = frozenset({State.COMMITTED, State.ABORTED, State.READ_ONLY})


class Participant:
    """One unit of work. Each method is an input; `state` tells what is known."""

    __slots__ = ("state",)

    def __init__(self, state: State = State.WORKING) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<Participant {self.state.name}>"

    def take(self, what: Input) -> State:
        """Move by the table. Raises Illegal: our own bug, or a peer's that must be refused before."""
        target = NEXT[self.state, what]
        if target is None:
            raise Illegal(f"{what.name} in {self.state.name}")
        self.state = target
        return target

    def allows(self, what: Input) -> bool:
        """Whether the table lets this input in: how a late or repeated message is refused (O49)."""
        return NEXT[self.state, what] is not None


class InDoubtTable:
    """A participant's own units of work by identifier: uniqueness before the vote (A2, A4, A5)."""

    __slots__ = ("_units",)

    def __init__(self) -> None:
        self._units: dict[Identifier, Participant] = {}

    def __len__(self) -> int:
        return len(self._units)

    def prepare(self, identifier: Identifier | None, unit: Participant) -> Choice | None:
        """Ask to prepare. NO without an identifier (A5), with one that is in use here (A4), or after an abort (O49);
        None: go on and make the vote durable (A3)."""
        if identifier is None or identifier in self._units or not unit.allows(Input.PREPARE):
            return Choice.NO
        unit.take(Input.PREPARE)
        self._units[identifier] = unit
        return None

    def find(self, identifier: Identifier) -> Participant | None:
        return self._units.get(identifier)

    def restore(self, identifier: Identifier) -> Participant:
        """After a restart: in doubt, locked, as before (A7)."""
        assert identifier not in self._units  # A2
        unit = self._units[identifier] = Participant(State.IN_DOUBT)
        return unit

    def forget(self, identifier: Identifier) -> None:
        """Its outcome is done: the identifier is free again."""
        self._units.pop(identifier, None)

    def in_doubt(self) -> list[Identifier]:
        """Identifiers whose outcome must be asked for (A6, O29)."""
        return [identifier for identifier, unit in self._units.items() if unit.state is State.IN_DOUBT]
