"""What a backup is told: ask every manager, fence who is silent, then read the journal, in this order (B8, B9).

Invariants, asserted where they could break:

    N-I1  The journal is read after every manager has answered, or is fenced and can decide nothing any more. So a
          branch that is in neither is aborted, or can only be.
    N-I2  What was decided in between is told as decided, and once.

Asked again under the same incarnation, the answer is the same where nothing was decided in between. Not for: asking,
fencing, reading (node/registry.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from syncpoint.ids import Guid, Identifier, Incarnation
from syncpoint.protocol.backup import Undone
from syncpoint.protocol.words import Decision, Illegal
from syncpoint.records import BranchEntry, Commit, Prepared

__all__ = ["Round", "Snapshot", "in_order"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The answer to B8."""

    decided: tuple[Undone, ...]
    undecided: tuple[Undone, ...]

    def outcome(self, identifier: Identifier) -> tuple[Decision, bytes]:
        """Of one branch that an earlier snapshot called undecided, with its state information (B9). No record, and no
        manager that still holds it: it was aborted, or can only be."""
        for decision, branches in ((Decision.COMMIT, self.decided), (Decision.UNKNOWN, self.undecided)):
            for one in branches:
                if one.identifier == identifier:
                    return decision, one.state
        return Decision.ABORT, b""


class Round:
    """One answer to `Reconcile` or `AskOutcome`. `managers`: the names of all that can decide."""

    __slots__ = ("_fencing", "_votes", "_waiting", "guid", "incarnation")

    def __init__(self, guid: Guid, incarnation: Incarnation, managers: Iterable[str]) -> None:
        self.guid = guid
        self.incarnation = incarnation
        self._waiting = set(managers)
        self._fencing: set[str] = set()
        self._votes: dict[Identifier, Undone] = {}

    def __repr__(self) -> str:
        waiting = f"waiting={sorted(self._waiting)} fencing={sorted(self._fencing)}"
        return f"<Round {str(self.guid)[:8]} incarnation={self.incarnation} {waiting} votes={len(self._votes)}>"

    @property
    def waiting(self) -> list[str]:
        """Managers to be asked."""
        return sorted(self._waiting)

    @property
    def is_ready(self) -> bool:
        return not self._waiting and not self._fencing

    def answered(self, manager: str, undecided: Iterable[Undone]) -> None:
        """What it has accepted and not decided; from now on it takes no lower vote."""
        self._waiting.remove(manager)
        self._votes.update((one.identifier, one) for one in undecided)

    def silent(self, manager: str) -> None:
        """It gave no answer: it is to be fenced."""
        self._waiting.remove(manager)
        self._fencing.add(manager)

    def fenced(self, manager: str) -> None:
        """It can force no record any more."""
        self._fencing.remove(manager)

    def snapshot(self, commits: Iterable[Commit], promised: Iterable[Prepared]) -> Snapshot:
        """From the journal as it was read after the last manager had answered: records not known to be ended."""
        if not self.is_ready:
            raise Illegal(f"a snapshot of {self!r}")  # N-I1
        decided = [branch for commit in in_order(commits) for branch in self._mine(commit.branches)]
        certain = {one.identifier for one in decided}
        undecided = dict(self._votes)
        for record in promised:
            undecided.update((one.identifier, one) for one in self._mine(record.branches))
        left = sorted(undecided.values(), key=lambda one: one.identifier)
        return Snapshot(tuple(decided), tuple(one for one in left if one.identifier not in certain))

    def _mine(self, entries: Sequence[BranchEntry]) -> list[Undone]:
        return [Undone(one.read_identifier(), one.state) for one in entries if one.guid == self.guid.raw]


def in_order(commits: Iterable[Commit]) -> list[Commit]:
    """Commit records of several writers in one order: each writer's own is kept, and between them the wall clock
    counts. Branches of different writers that are both unfinished hold their locks both, so they do not conflict."""
    latest_ms: dict[Incarnation, int] = {}
    placed: list[tuple[int, int, Commit]] = []
    for number, commit in enumerate(commits):
        writer = commit.key.attempt.incarnation
        latest_ms[writer] = max(latest_ms.get(writer, 0), commit.at_ms)
        placed.append((latest_ms[writer], number, commit))
    return [commit for _, _, commit in sorted(placed, key=lambda one: one[:2])]
