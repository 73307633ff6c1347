"""What one exploration contains: who takes part, what may go wrong, and how often. So its bounds.

What may go wrong is bounded by what there is (three processes die at most once each, and again when restarted), not
by counts of faults: within its bounds an exploration is complete.
Not for: the scopes themselves (scopes.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from syncpoint.protocol.words import Choice

VOTES = (Choice.YES, Choice.NO, Choice.READ_ONLY)


@dataclass(frozen=True)
class Scope:
    """One exploration."""

    name: str
    managers: int = 2
    writers: tuple[int, ...] = (1, 2)
    """Branches that wrote; the others are released without a vote."""
    votes: tuple[Choice, ...] = VOTES
    decider: int | None = None
    """The branch at the database that the journal lives in, if it is a resource."""
    has_id: bool = False
    """The transaction has a user's id: claimed, always recorded, and run again by another process."""
    processes: int = 2
    """The first begins the transaction, all of them recover."""
    runners: int = 1
    """How many of the processes may run the transaction (with an id)."""
    recoverers: tuple[int, ...] = ()
    """Which of the processes take over and recover while faults last; empty: all of them."""
    incarnations_max: int = 2
    """Starts of processes, and fresh starts of those that were taken for dead."""
    attempts_max: int = 1
    """Attempts at the transaction in all."""
    passes_max: int = 1
    """Passes of recovery at once, in all processes."""
    own_disk: bool = False
    """The journal is a folder on the processes' machine: death is proven, a record is readable before it is forced,
    what was not written when its process dies never is. Else it is in a database, and may be written late."""
    wrong_guess: bool = False
    """A living process may be taken for dead (O34)."""
    suspects: tuple[int, ...] = ()
    """Which processes that may happen to; empty: to all."""
    remembers: bool = False
    """Resource managers remember what has ended, as processes do, and keep no evidence (O48, O49)."""
    duplicates: bool = False
    """Every message may arrive twice."""
    has_redo: bool = False
    """State information can redo a branch."""
    connections_lost: bool = True
    replies_of_journal_lost: bool = True
    out_of_time: bool = False
    caller_gives_up: bool = False
    """An undecided transaction is left to recovery."""
    alone: bool = False
    """Somebody may end one unit in doubt without asking."""
    replica: bool = False
    """A replica without the prepared units may take over at one resource manager."""
    operator: bool = False
    """An operator may force one branch."""
    restarts: bool = True
    """Resource managers restart, at any time."""
    crashes: bool = True
    """Processes are killed, at any time."""
    journal_crashes: bool = False
    """The journal's database, or the machine of its folder, dies and comes back without what was not forced."""
    cleaning: bool = False
    """Evidence, Aborts and finished incarnations are removed."""
    small: bool = True
    """Explored by the tests too; others by the full command only."""

    def bounds(self) -> str:
        """Its bounds on one line: what differs from the smallest."""
        words = [f"{self.managers} RMs", f"{self.processes} processes", f"{self.incarnations_max} incarnations"]
        words += [f"{self.attempts_max} attempts", f"{self.passes_max} passes at once"]
        words += [f"writers {','.join(map(str, self.writers)) or 'none'}"]
        words += [f"recovered by {','.join(map(str, self.recoverers))}"] if self.recoverers else []
        words += [f"decider {self.decider}"] if self.decider else []
        words += [f"votes {'/'.join(vote.name.lower() for vote in self.votes)}"]
        flags = [field.name for field in fields(self) if field.type == "bool" and field.name != "small"]
        words += [name.replace("_", " ") for name in flags if getattr(self, name)]
        return ", ".join(words)
