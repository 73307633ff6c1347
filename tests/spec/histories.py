"""From what was recorded to traces of the specification: the history of one transaction, an event an action.

A trace tells what happened to one transaction: at its coordinators, at its branches, in the journal, and in every
pass of recovery that saw it. What happened to others is left out, and so is what nobody came to know (an answer that
was lost). Processes are numbered in the order in which they started. Not for: recording (recorder.py), TLA+ (tlc.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from syncpoint.ids import Attempt, Key, TransactionId
from syncpoint.journal.base import Journal
from tests.spec.recorder import Event

PROCESSES_MAX = 6
TRIES_MAX = 3


@dataclass(frozen=True)
class Action:
    """One event of a trace. `p`: a process; `a`: (process, try); `r`: a resource; `s`: a word or sorted names."""

    e: str
    p: int = 0
    a: tuple[int, int] = (0, 0)
    r: str = ""
    s: str = ""
    names: tuple[str, ...] = ()
    attempts: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        shown = [self.e]
        if self.p:
            shown.append(f"p{self.p}")
        if self.a != (0, 0):
            shown.append(f"{self.a[0]}.{self.a[1]}")
        shown += [self.r, self.s, "{" + " ".join(self.names) + "}" if self.names else ""]
        shown += [f"{a[0]}.{a[1]}" for a in self.attempts]
        return " ".join(word for word in shown if word)


@dataclass(frozen=True)
class Trace:
    """The history of one transaction."""

    name: str
    actions: tuple[Action, ...]

    @property
    def processes(self) -> int:
        return max((action.p for action in self.actions if action.e == "start"), default=0)

    @property
    def tries(self) -> int:
        """The most attempts that one process made."""
        return max((action.a[1] for action in self.actions), default=1)

    def __str__(self) -> str:
        return "\n".join([self.name, *(f"  {number}: {action}" for number, action in enumerate(self.actions, 1))])


@dataclass
class _Attempt:
    """What is known of one attempt when all is recorded."""

    asked: set[str] = field(default_factory=set)
    """Resources whose branches were asked to prepare."""
    began: set[str] = field(default_factory=set)
    one_phase: bool = False
    settled: bool = False
    decided: bool = False
    said: str = ""

    @property
    def is_spoken_of(self) -> bool:
        """Whether FolderJournal knows such an attempt: two phases, and something written."""
        nothing = self.said == "committed" and not self.decided
        return not (self.one_phase or self.settled or nothing)

    @property
    def parts(self) -> set[str]:
        return self.asked or self.began


def traces_of(events: Sequence[Event], where: str) -> list[Trace]:
    """The traces of every transaction that was to commit by two phases and within the bounds of the model."""
    attempts: dict[Key, _Attempt] = defaultdict(_Attempt)
    seen: dict[TransactionId, None] = {}
    for event in events:
        if event.key is None:
            continue
        attempt = attempts[event.key]
        if event.what == "ask begin":
            seen[event.key.transaction] = None
            attempt.began.add(event.resource)
        attempt.one_phase |= event.what in ("ask commit_one_phase", "ask decide", "ask settle")
        attempt.settled |= event.what == "settle"
        attempt.decided |= event.what == "decide"
        if event.what == "told":
            attempt.said = event.said
        if event.what == "ask prepare":
            attempt.asked.add(event.resource)
    traces = []
    for number, transaction in enumerate(seen):
        mine = {key: attempt for key, attempt in attempts.items() if key.transaction == transaction}
        if not all(one.is_spoken_of for one in mine.values()):
            continue
        trace = _History(transaction, mine, events).trace(f"{where}, transaction {number}")
        if trace is not None:
            traces.append(trace)
    return traces


class _History:
    """One transaction's part of all that happened."""

    def __init__(self, transaction: TransactionId, attempts: dict[Key, _Attempt], events: Sequence[Event]) -> None:
        self.transaction = transaction
        self.attempts = attempts
        self.events = events
        self.passes = self._passes()
        self.processes = self._processes()
        self.numbers: dict[Attempt, tuple[int, int]] = {}
        self.begun: set[Key] = set()
        self.aborting: set[Key] = set()
        self.ended: set[tuple[int, Key]] = set()

    def _mine(self, keys: Iterable[Key]) -> list[Key]:
        return sorted(key for key in keys if key.transaction == self.transaction)

    def _passes(self) -> set[int]:
        """Passes that learned something of it."""
        return {
            event.in_pass
            for event in self.events
            if event.in_pass
            and (
                (event.key is not None and event.key.transaction == self.transaction)
                or (event.what == "scan" and event.answered and self._mine(event.keys))
                or (event.what == "looked" and self._mine(event.keys))
            )
        }

    def _processes(self) -> dict[Journal, int]:
        """Those that have to do with it, numbered as they started."""
        owners = {key.attempt.incarnation for key in self.attempts}
        found: dict[Journal, int] = {}
        involved = {event.process for event in self.events if event.in_pass in self.passes}
        for event in self.events:
            if event.what == "start":
                assert event.process is not None
                if event.process in involved or event.process.incarnation in owners:
                    found[event.process] = len(found) + 1
        return found

    def trace(self, name: str) -> Trace | None:
        tries: dict[int, int] = defaultdict(int)
        by_incarnation = {process.incarnation: number for process, number in self.processes.items()}
        for key in sorted(self.attempts):
            owner = by_incarnation.get(key.attempt.incarnation)
            if owner is None:
                return None
            tries[owner] += 1
            self.numbers[key.attempt] = (owner, tries[owner])
        if len(self.processes) > PROCESSES_MAX or max(tries.values(), default=0) > TRIES_MAX:
            return None
        return Trace(name, tuple(action for event in self.events for action in self._actions(event)))

    # --- an event -----------------------------------------------------------------------------------------------

    def _actions(self, event: Event) -> Iterator[Action]:
        if event.what == "cut":
            yield Action("cut")
        elif event.what in ("start", "die"):
            number = self.processes.get(event.process) if event.process is not None else None
            if number is not None:
                yield Action(event.what, p=number)
        elif event.in_pass:
            if event.in_pass in self.passes:
                yield from self._of_pass(event)
        elif event.key is not None and event.key.transaction == self.transaction:
            yield from self._of_attempt(event, event.key)

    def _branch(self, event: Event, key: Key) -> dict[str, Any]:
        return {"a": self.numbers[key.attempt], "r": event.resource}

    def _of_attempt(self, event: Event, key: Key) -> Iterator[Action]:
        a = self.numbers[key.attempt]
        takes_part = event.resource in self.attempts[key].parts
        if event.what in ("ask begin", "decide", "told") and key not in self.begun:
            self.begun.add(key)
            yield Action("begin", a=a, names=tuple(sorted(self.attempts[key].parts)))
        if event.what == "decide":
            yield Action("decide", a=a, names=tuple(sorted(event.names)))
        elif event.what in ("accepted", "refused"):
            self.aborting.add(key)
            yield Action(event.what, a=a)
        elif event.what == "told":
            if event.said == "aborted":
                yield from self._aborts(key)
            if event.said != "pending":
                yield Action("told", a=a, s=event.said)
        elif event.what == "end":
            yield from self._ends(event, key)
        elif event.what == "alarm":
            yield Action("alarm", **self._branch(event, key))
        elif takes_part:
            yield from self._of_branch(event, key)

    def _of_branch(self, event: Event, key: Key) -> Iterator[Action]:
        branch = self._branch(event, key)
        if event.what == "voted":
            yield Action("voted", s=event.said, **branch)
        elif event.what == "vote":
            yield Action("vote", s=event.said, **branch)
        elif event.what == "ask abort" or (event.what == "ask finish" and not event.commit):
            yield from self._aborts(key)
        elif event.what == "committed":
            yield Action("phase two" if event.answered else "committed", **branch)
        elif event.what == "not found" and event.commit and event.answered:
            yield Action("not found", **branch)
        elif event.what == "evidence" and event.answered:
            yield Action("evidence", p=self.numbers[key.attempt][0], **branch)
        elif event.what == "aborted":
            yield Action("aborted", **branch)

    def _aborts(self, key: Key) -> Iterator[Action]:
        if key not in self.aborting:
            self.aborting.add(key)
            yield Action("abort", a=self.numbers[key.attempt])

    def _ends(self, event: Event, key: Key) -> Iterator[Action]:
        assert event.process is not None
        p = self.processes[event.process]
        if (p, key) not in self.ended:
            self.ended.add((p, key))
            yield Action("end", p=p, a=self.numbers[key.attempt])

    # --- a pass of recovery ---------------------------------------------------------------------------------------

    def _of_pass(self, event: Event) -> Iterator[Action]:
        assert event.process is not None
        p = self.processes[event.process]
        if event.what == "scan" and event.answered:
            found = tuple(self.numbers[key.attempt] for key in self._mine(event.keys))
            yield Action("scan", p=p, r=event.resource, attempts=found)
        elif event.what in ("looks", "looked"):
            decided = tuple(self.numbers[key.attempt] for key in self._mine(event.keys))
            yield Action(event.what, p=p, r=self._resource_of(event.in_pass), attempts=decided)
        elif event.what == "end pass":
            yield Action("end pass", p=p, r=event.resource)
        elif event.key is not None and event.key.transaction == self.transaction:
            yield from self._finishes(event, event.key, p)

    def _resource_of(self, number: int) -> str:
        return next(event.resource for event in self.events if event.in_pass == number and event.resource)

    def _finishes(self, event: Event, key: Key, p: int) -> Iterator[Action]:
        branch = self._branch(event, key)
        known = event.effect is not None and event.effect.answered and event.effect.what in ("committed", "not found")
        if event.what == "ask finish" and not (event.commit and known):
            yield Action("send commit" if event.commit else "finish abort", p=p, **branch)
        elif event.what == "committed":
            yield Action("finish commit" if event.answered else "committed", p=p, **branch)
        elif event.what == "not found" and event.commit and event.answered:
            yield Action("missing", p=p, **branch)
        elif event.what == "aborted":
            yield Action("aborted", **branch)
        elif event.what == "evidence" and event.answered:
            yield Action("evidence", p=p, **branch)
        elif event.what == "clean":
            yield Action("clean", p=p, **branch)
        elif event.what == "end":
            yield from self._ends(event, key)
        elif event.what == "alarm":
            yield Action("alarm", **branch)
