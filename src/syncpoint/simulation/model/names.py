"""Short names of attempts and branches, cheap to compare, and the real identifiers that the protocol sees.

There is one transaction. An attempt at it is (incarnation, counter); a branch of an attempt is (incarnation, counter,
branch number), and works at the resource manager of that number.
Not for: behaviour.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.records import BranchEntry, Commit, KeyedRecord

COORDINATOR = Guid(bytes(15) + b"\xc0")
TRANSACTION = TransactionId(bytes(15) + b"\x01")
MANAGERS = ("bank", "ledger", "audit")


class Violation(AssertionError):
    """Something that must never be: `rule` names the invariant that is broken."""

    def __init__(self, rule: str, found: str) -> None:
        super().__init__(f"{rule}: {found}")
        self.rule = rule
        self.found = found


class Try(NamedTuple):
    """An attempt at the transaction."""

    incarnation: int
    counter: int

    def __str__(self) -> str:
        return f"t1/{self.incarnation}.{self.counter}"


class Unit(NamedTuple):
    """A branch of an attempt: one unit of work at a resource manager."""

    incarnation: int
    counter: int
    branch: int

    @property
    def attempt(self) -> Try:
        return Try(self.incarnation, self.counter)

    def __str__(self) -> str:
        return f"t1/{self.incarnation}.{self.counter}#{self.branch}"


@cache
def key_of(attempt: Try) -> Key:
    return Key(TRANSACTION, Attempt(Incarnation(attempt.incarnation), attempt.counter))


@cache
def identifier_of(unit: Unit) -> Identifier:
    return Identifier(COORDINATOR, TRANSACTION, key_of(unit.attempt).attempt, BranchNumber(unit.branch))


@cache
def unit_of(identifier: Identifier) -> Unit:
    return Unit(identifier.attempt.incarnation, identifier.attempt.counter, identifier.branch)


@cache
def guid_of(manager: int) -> Guid:
    return Guid(bytes(15) + bytes((manager + 1,)))


@cache
def try_of(record: KeyedRecord) -> Try:
    return Try(record.key.attempt.incarnation, record.key.attempt.counter)


@cache
def listed_in(record: Commit) -> frozenset[Unit]:
    """The branches that a Commit record lists."""
    return frozenset(unit_of(entry.read_identifier()) for entry in record.branches)


def entry_of(unit: Unit) -> BranchEntry:
    return BranchEntry(
        resource=MANAGERS[unit.branch - 1],
        guid=guid_of(unit.branch - 1).raw,
        identifier=identifier_of(unit).to_bytes(),
    )
