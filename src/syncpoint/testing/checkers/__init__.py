"""Checkers: was this history right? Pure functions over a frozen `History`; each finding explains itself.

    from syncpoint.testing.checkers import Recorder, check_history
    findings = check_history(recorder.history())      # every checker that finds its actions in the history
    assert findings == [], "\\n".join(map(str, findings))

One file each, with a function `check(history) -> list[Finding]`; none looks at other actions than its own:

    list_append   Append, Read              serializable, and in real time: every list could have come about one by one
    bank          Open, Move, ReadBalance   the total never changes
    sets          Add, ReadSet              what was added is there, and nothing else
    counter       Increment, ReadCounter    every count can be explained
    exactly_once  Request, ReadEffects      one effect and one reply for each id
    atomicity     End, SeeBranch, SeeLock   everywhere or nowhere; afterwards nothing in doubt, nothing locked
    authority     Hold, Act                 one holder at a time, one term each

Not for: running anything, or recording (recorder.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from syncpoint.testing.checkers import atomicity, authority, bank, counter, exactly_once, list_append, sets
from syncpoint.testing.checkers.files import HistoryWriter, read_history, write_history
from syncpoint.testing.checkers.finding import Edge, Finding, Kind
from syncpoint.testing.checkers.history import (
    Act,
    Action,
    Add,
    Append,
    BadHistory,
    BranchState,
    End,
    History,
    Hold,
    Increment,
    Move,
    Open,
    Operation,
    Outcome,
    Read,
    ReadBalance,
    ReadCounter,
    ReadEffects,
    ReadSet,
    Request,
    SeeBranch,
    SeeLock,
)
from syncpoint.testing.checkers.recorder import Recorder

__all__ = [
    "CHECKERS",
    "Act",
    "Add",
    "Append",
    "BadHistory",
    "BranchState",
    "Edge",
    "End",
    "Finding",
    "History",
    "HistoryWriter",
    "Hold",
    "Increment",
    "Kind",
    "Move",
    "Open",
    "Operation",
    "Outcome",
    "Read",
    "ReadBalance",
    "ReadCounter",
    "ReadEffects",
    "ReadSet",
    "Recorder",
    "Request",
    "SeeBranch",
    "SeeLock",
    "check_history",
    "read_history",
    "workloads_of",
    "write_history",
]


@dataclass(frozen=True, slots=True)
class Checker:
    """A checker by name: the actions it reads, and its function, strict or for readers that may be late."""

    actions: tuple[type[Action], ...]
    strict: Callable[[History], list[Finding]]
    lenient: Callable[[History], list[Finding]]


CHECKERS: Mapping[str, Checker] = {
    "list-append": Checker(
        (Append, Read), list_append.check, lambda history: list_append.check(history, real_time=False)
    ),
    "bank": Checker((Open, Move, ReadBalance), bank.check, bank.check),
    "set": Checker((Add, ReadSet), sets.check, lambda history: sets.check(history, stale_reads=True)),
    "counter": Checker(
        (Increment, ReadCounter), counter.check, lambda history: counter.check(history, stale_reads=True)
    ),
    "exactly-once": Checker(
        (Request, ReadEffects), exactly_once.check, lambda history: exactly_once.check(history, stale_reads=True)
    ),
    "atomicity": Checker((End, SeeBranch, SeeLock), atomicity.check, atomicity.check),
    "authority": Checker((Hold, Act), authority.check, authority.check),
}
"""By the name that `syncpoint check --workload` takes."""


def workloads_of(history: History) -> list[str]:
    """The checkers that find actions of theirs in the history."""
    kinds = {type(action) for operation in history for action in operation.actions}
    return [name for name, checker in CHECKERS.items() if not kinds.isdisjoint(checker.actions)]


def check_history(
    history: History, workloads: Collection[str] | None = None, *, stale_reads: bool = False
) -> list[Finding]:
    """Run checkers. Returns what they found, nothing when all is well.

    Parameters: `workloads`, names in `CHECKERS`; None runs all that find actions of theirs. With `stale_reads` a
    reader may see less than was acknowledged before it began, as one that takes no locks may while a branch waits
    for its commit; what was settled must still be there.
    Raises BadHistory when there is nothing to check, or a history cannot be judged.
    """
    found = workloads_of(history)
    chosen = found if workloads is None else list(workloads)
    for name in chosen:
        if name not in CHECKERS:
            raise BadHistory(f"There is no checker {name!r}.", advice=f"There are: {', '.join(CHECKERS)}.")
        if name not in found:
            kinds = ", ".join(kind.__name__ for kind in CHECKERS[name].actions)
            raise BadHistory(f"The history has no action that the checker {name!r} reads ({kinds}).")
    if not chosen:
        raise BadHistory("The history has no action that any checker reads: an empty one proves nothing.")
    checkers = [CHECKERS[name] for name in chosen]
    return [one for checker in checkers for one in (checker.lenient if stale_reads else checker.strict)(history)]
