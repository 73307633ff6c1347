"""A manager's book of the votes it has accepted: what it tells a backup, and whose votes it takes no more (B2, B7, B8).

    vote arrives -> accept -> (asked: it is told, and stays) -> against -> forget

While it is asked about a resource manager, two things are done as one: the floor is raised, and what stands in the book
is the answer. So every vote that is decided upon was either given by an incarnation that counts, or was told to the
backup that replaced it. Invariants, asserted where they could break:

    V-I1  A vote of an incarnation below the floor is never entered.
    V-I2  A vote that stands below the floor has been told to who raised it: it may be decided, and the backup asks.
    V-I3  A floor never falls.
    V-I4  Of a branch that was asked about by name, and whose vote was not there, none is taken later: who asked was
          told that it is aborted.

Not for: what else is in a vote, deciding, or asking (manager/votes.py, node/registry.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from syncpoint.ids import Guid, Identifier, Incarnation

__all__ = ["Accepted", "VoteBook"]


REFUSED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Accepted:
    """A yes vote of a resource manager that has incarnations, with the state information that it carried (B3)."""

    identifier: Identifier
    guid: Guid
    incarnation: Incarnation
    state: bytes


class VoteBook:
    """One manager's book. Every method is one step: nothing may come between what it looks at and what it writes."""

    __slots__ = ("_floors", "_refused", "_told", "_votes")

    def __init__(self) -> None:
        self._votes: dict[Identifier, Accepted] = {}
        self._floors: dict[Guid, Incarnation] = {}
        self._refused: dict[Identifier, None] = {}
        """In the order in which they were asked about; the last REFUSED_MAX."""
        self._told: dict[Identifier, Incarnation] = {}
        """Under which incarnation a vote was told to a backup."""

    def __repr__(self) -> str:
        floors = " ".join(f"{str(guid)[:8]}>={floor}" for guid, floor in sorted(self._floors.items()))
        return f"<VoteBook {len(self._votes)} votes {floors}>".replace(" >", ">")

    def __len__(self) -> int:
        return len(self._votes)

    def votes(self) -> list[Accepted]:
        """All that stand in it, in the order in which they came."""
        return list(self._votes.values())

    def floor(self, guid: Guid) -> Incarnation:
        """The lowest incarnation whose votes are taken. 0: every one's."""
        return self._floors.get(guid, Incarnation(0))

    def accept(self, vote: Accepted) -> bool:
        """A yes vote arrived. False: its incarnation is fenced, it counts as a no (retryable). Twice is once."""
        if vote.incarnation < self.floor(vote.guid) or vote.identifier in self._refused:
            return False  # V-I1
        held = self._votes.setdefault(vote.identifier, vote)
        return held == vote

    def asked(
        self, guid: Guid, incarnation: Incarnation, about: Identifier | None = None
    ) -> tuple[Accepted, ...] | None:
        """A backup's question, through the node. From now on no vote of a lower incarnation is taken; the answer is
        what has been accepted and is not decided, in the order of its arrival. None: a later backup has asked.

        `about` one branch: if its vote has not come yet, it is not taken any more (V-I4)."""
        if incarnation < self.floor(guid):
            return None
        self._floors[guid] = incarnation  # V-I3
        if about is not None and about not in self._votes:
            self._refused[about] = None
            while len(self._refused) > REFUSED_MAX:
                del self._refused[next(iter(self._refused))]
        held = tuple(vote for vote in self._votes.values() if vote.guid == guid)
        self._told.update((vote.identifier, incarnation) for vote in held)
        return held

    def against(self, identifiers: Iterable[Identifier]) -> frozenset[Identifier]:
        """Asked right before the Commit record is forced: those of these votes that speak against it, because they are
        of a fenced incarnation and no backup knows of them. Of what is not in the book nothing is said."""
        return frozenset(one for one in identifiers if one in self._votes and not self._stands(self._votes[one]))

    def _stands(self, vote: Accepted) -> bool:
        floor = self.floor(vote.guid)
        return vote.incarnation >= floor or self._told.get(vote.identifier, Incarnation(0)) >= floor  # V-I2

    def forget(self, identifiers: Iterable[Identifier]) -> None:
        """Decided, and a Commit record is durable; or aborted. Not while it is uncertain which."""
        for identifier in identifiers:
            self._votes.pop(identifier, None)
            self._told.pop(identifier, None)
            self._refused.pop(identifier, None)
