"""What happened, as clients saw it: a `History` of `Operation`s, frozen, for the checkers beside this file.

    Operation                      one transaction, or one look at a database
      process                      who did it; one after the other, or several at once
      invoked_at, completed_at     positions on one clock that all share; only their order counts, equal means at once
      outcome                      OK             it happened, between the two
                                   FAIL           it did not happen, and never will
                                   INDETERMINATE  it may have happened, or may yet, at any time after `invoked_at`
      settled                      it looked after everything had settled: whatever had begun before has ended, and been
                                   recovered: it has happened, or never will
      actions                      what it did, in order; each class below says which checker reads it

What is not known stays unknown: no checker takes an INDETERMINATE operation for done or for undone, unless another
operation proves it. Not for: making one (recorder.py), or its bytes in a file (files.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TypeAlias

import msgspec

from syncpoint.errors import SyncpointError

Name: TypeAlias = int | str
"""A name that a history gives: of an operation, a process, a value."""


class BadHistory(SyncpointError):
    """What was given is no history that this checker can judge: neither right nor wrong."""


class Outcome(StrEnum):
    """What the caller knows of an operation's end."""

    OK = "ok"
    FAIL = "fail"
    INDETERMINATE = "indeterminate"


class BranchState(StrEnum):
    """What a resource shows of a branch."""

    ACTIVE = "active"
    IN_DOUBT = "in-doubt"
    COMMITTED = "committed"
    ABORTED = "aborted"


class Action(msgspec.Struct, frozen=True, kw_only=True, tag_field="do"):
    """Base of all actions. In JSON the field `do` names the kind."""


# --- list-append: each value is appended to a key at most once, in the whole history ---------------------------


class Append(Action, frozen=True, kw_only=True, tag="append"):
    """Appended a value to the list at a key."""

    resource: str
    key: str
    value: Name

    @property
    def place(self) -> tuple[str, str]:
        return self.resource, self.key


class Read(Action, frozen=True, kw_only=True, tag="read"):
    """Read the list at a key. `values`: all of it, in order; None when the answer is not known."""

    resource: str
    key: str
    values: tuple[Name, ...] | None = None

    @property
    def place(self) -> tuple[str, str]:
        return self.resource, self.key


# --- bank: the total of all accounts never changes -----------------------------------------------------------


class Open(Action, frozen=True, kw_only=True, tag="open"):
    """Opened an account, before all that moves money."""

    resource: str
    account: str
    balance: int

    @property
    def place(self) -> tuple[str, str]:
        return self.resource, self.account


class Move(Action, frozen=True, kw_only=True, tag="move"):
    """Added an amount to an account, negative to take it away. An operation's amounts add up to nothing."""

    resource: str
    account: str
    amount: int

    @property
    def place(self) -> tuple[str, str]:
        return self.resource, self.account


class ReadBalance(Action, frozen=True, kw_only=True, tag="read-balance"):
    """Read an account. `balance`: None when it was not there."""

    resource: str
    account: str
    balance: int | None

    @property
    def place(self) -> tuple[str, str]:
        return self.resource, self.account


# --- set, counter ------------------------------------------------------------------------------------------------


class Add(Action, frozen=True, kw_only=True, tag="add"):
    """Added an element to a set. Elements are never removed."""

    resource: str
    key: str
    element: Name

    @property
    def place(self) -> tuple[str, str]:
        return self.resource, self.key


class ReadSet(Action, frozen=True, kw_only=True, tag="read-set"):
    """Read a set. `elements`: every row found, in any order."""

    resource: str
    key: str
    elements: tuple[Name, ...]

    @property
    def place(self) -> tuple[str, str]:
        return self.resource, self.key


class Increment(Action, frozen=True, kw_only=True, tag="increment"):
    """Added to a counter that began at 0; negative to subtract."""

    resource: str
    key: str
    by: int = 1

    @property
    def place(self) -> tuple[str, str]:
        return self.resource, self.key


class ReadCounter(Action, frozen=True, kw_only=True, tag="read-counter"):
    """Read a counter; one that is not there reads 0."""

    resource: str
    key: str
    value: int

    @property
    def place(self) -> tuple[str, str]:
        return self.resource, self.key


# --- exactly-once ------------------------------------------------------------------------------------------------


class Request(Action, frozen=True, kw_only=True, tag="request"):
    """Sent a request under a user's id, for the first time or again; each sending is an operation.

    `content`: what was asked, or its fingerprint. `reply`: what came back, or its digest; read only when OK.
    `resources`: where it leaves its effect; empty when that is not known.
    """

    id: str
    content: str = ""
    reply: str = ""
    resources: tuple[str, ...] = ()


class ReadEffects(Action, frozen=True, kw_only=True, tag="read-effects"):
    """Counted the effects that a request's id has left in a resource."""

    id: str
    resource: str
    count: int


# --- atomicity ---------------------------------------------------------------------------------------------------


class End(Action, frozen=True, kw_only=True, tag="end"):
    """Asked for a transaction to be committed. OK: it was, everywhere. FAIL: it was not, anywhere.

    `resources`: where it has a branch that wrote; empty when that is not known.
    """

    transaction: str
    resources: tuple[str, ...] = ()


class SeeBranch(Action, frozen=True, kw_only=True, tag="see-branch"):
    """Looked at a branch from outside. COMMITTED and ABORTED are final; say ABORTED only of what can commit no more.
    A journal can be one of the resources: its Commit or Abort record is one more branch."""

    transaction: str
    resource: str
    state: BranchState


class SeeLock(Action, frozen=True, kw_only=True, tag="see-lock"):
    """Found something locked. `holder`: the transaction or session, as far as it is known."""

    resource: str
    locked: str
    holder: str = ""


# --- authority ---------------------------------------------------------------------------------------------------


class Hold(Action, frozen=True, kw_only=True, tag="hold"):
    """Held a domain's token, from the operation's beginning to its end, by the clock that all share. FAIL: was
    refused it. INDETERMINATE: perhaps held it; proves nothing."""

    domain: str
    holder: str
    term: int


class Act(Action, frozen=True, kw_only=True, tag="act"):
    """Had something accepted by virtue of a term. OK: it was accepted. FAIL: it was refused, as stale work must be."""

    domain: str
    holder: str
    term: int


AnyAction: TypeAlias = (
    Append
    | Read
    | Open
    | Move
    | ReadBalance
    | Add
    | ReadSet
    | Increment
    | ReadCounter
    | Request
    | ReadEffects
    | End
    | SeeBranch
    | SeeLock
    | Hold
    | Act
)


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One operation; see the top of this file. Raises ValueError when its times and its outcome do not fit."""

    id: Name
    process: Name = 0
    invoked_at: int
    completed_at: int | None = None
    outcome: Outcome = Outcome.INDETERMINATE
    settled: bool = False
    actions: tuple[AnyAction, ...] = ()

    def __post_init__(self) -> None:
        if self.completed_at is None:
            if self.outcome is not Outcome.INDETERMINATE:
                raise ValueError(f"operation {self.id} is {self.outcome.value} but has no completed_at")
        elif self.completed_at < self.invoked_at:
            raise ValueError(f"operation {self.id} completed at {self.completed_at}, before {self.invoked_at}")

    def __str__(self) -> str:
        return f"T{self.id}" if isinstance(self.id, int) else self.id

    def precedes(self, other: Operation) -> bool:
        """It had certainly ended when the other began. Never so of what is INDETERMINATE: it may happen later."""
        return (
            self.outcome is not Outcome.INDETERMINATE
            and self.completed_at is not None
            and self.completed_at < other.invoked_at
        )

    def cannot_have_seen(self, other: Operation) -> bool:
        """It had ended when the other began: whatever came of either."""
        return self.completed_at is not None and self.completed_at < other.invoked_at


class History(msgspec.Struct, frozen=True):
    """Operations in any order, each with an id of its own. Raises ValueError when two share one."""

    operations: tuple[Operation, ...] = ()

    def __post_init__(self) -> None:
        if len({operation.id for operation in self.operations}) < len(self.operations):
            seen: set[Name] = set()
            twice = next(one.id for one in self.operations if one.id in seen or seen.add(one.id))  # type: ignore[func-returns-value]
            raise ValueError(f"two operations have the id {twice!r}")

    @classmethod
    def of(cls, operations: Iterable[Operation]) -> History:
        """A history of these operations."""
        return cls(tuple(operations))

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    def ended(self, outcome: Outcome) -> Iterator[Operation]:
        """The operations of that outcome."""
        return (operation for operation in self.operations if operation.outcome is outcome)
