"""The database server behind `memory://`: rows, locks, prepared branches and evidence, in this process's memory.

It behaves as a real one does, and can be told to misbehave: it restarts (prepared branches survive in doubt and
locked, A7; active ones are lost), goes down, loses replies, and decides branches alone. One server a name; every
manager in the process that names it shares it. Nothing here waits: who finds a row locked is told by whom, and
its signal is set when the row comes free. Not for: speaking to it (memory.py).

    durable                            lost by `restart`
    rows, evidence, incarnations,      sessions (by their epoch), active work and its locks
    GUID, prepared work with its locks
"""

from __future__ import annotations

import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeVar

from syncpoint.errors import ConnectionLost
from syncpoint.ids import Attempt, Guid, Identifier, Incarnation
from syncpoint.ports import Signal
from syncpoint.protocol.participant import InDoubtTable, Input, Participant, State
from syncpoint.protocol.words import Answer, Evidence
from syncpoint.resources.base import Choice, Session, Vote

T = TypeVar("T")

ENDED_ALONE = {
    Answer.HEURISTIC_COMMIT: True,
    Answer.HEURISTIC_ROLLBACK: False,
    Answer.HEURISTIC_MIXED: False,
    Answer.HEURISTIC_HAZARD: False,
}
"""What becomes of a branch whose scripted answer says that somebody decided it: committed or not."""


class LostReply:
    """For `MemoryServer.answers`: do what is asked, then lose the connection before the reply."""

    def __repr__(self) -> str:
        return "<LostReply>"


class Work:
    """One branch at the server: what it has written, and the locks it holds."""

    __slots__ = ("identifier", "locks", "name", "savepoints", "unit", "writes")

    def __init__(self, identifier: Identifier | None, unit: Participant | None = None) -> None:
        self.identifier = identifier
        self.name = str(identifier)
        self.unit = unit or Participant()
        self.writes: dict[str, bytes | None] = {}
        """Key to JSON; None: deleted."""
        self.locks: set[str] = set()
        self.savepoints: list[tuple[str, dict[str, bytes | None]]] | None = None

    def __repr__(self) -> str:
        return f"<Work {self.name} {self.unit.state.name} {len(self.writes)} rows>"


class MemorySession(Session):
    """A connection to a MemoryServer, as the server and the adapter know it."""

    __slots__ = ("blocker", "deadline", "epoch", "read_only", "work")

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch
        """Which start of the server it belongs to."""
        self.work: Work | None = None
        self.deadline = 0.0
        self.read_only = False
        self.blocker = ""
        """Who held the row that its last statement waited for."""


class MemoryServer:
    """One server. Tests read `rows()` from outside, and use `restart`, `down`, `answers` and `decide_alone`."""

    _servers: ClassVar[dict[str, MemoryServer]] = {}

    @classmethod
    def named(cls, name: str) -> MemoryServer:
        """The server of this name, made when there is none."""
        return cls._servers.setdefault(name, cls(name))

    @classmethod
    def remove(cls, name: str) -> None:
        """Forget the server and all it holds; the next of that name is empty and has another GUID."""
        cls._servers.pop(name, None)

    def __init__(self, name: str) -> None:
        self.name = name
        self.down = False
        """While True it cannot be reached; nothing it holds is lost."""
        self.answers: defaultdict[str, deque[Any]] = defaultdict(deque)
        """What the next calls of a method ("prepare", "commit", …) do instead: an exception is raised, a LostReply
        does the work and loses the connection, any other value is the answer. First in, first used."""
        self.calls: list[str] = []
        """Every method that reached it, for tests that count round trips."""
        self.guid: Guid | None = None
        self.epoch = 1
        self.mutex: AbstractContextManager[Any] | None = None
        """Made by the first runtime that uses it."""
        self._rows: dict[str, bytes] = {}
        self._evidence: dict[Identifier, bool] = {}
        """True: committed. False: written by `settle`, so that a late commit fails on the key."""
        self._incarnations: dict[Guid, Incarnation] = {}
        self._prepared: dict[Identifier, Work] = {}
        self._foreign: list[str] = []
        self._forget_active()

    def __repr__(self) -> str:
        state = ", down" if self.down else ""
        return f"<MemoryServer {self.name} {len(self._rows)} rows, {len(self._prepared)} in doubt{state}>"

    # --- from outside, for tests and people --------------------------------------------------------------

    def rows(self) -> dict[str, bytes]:
        """What is committed: key to JSON."""
        return dict(self._rows)

    def in_doubt(self) -> list[Identifier]:
        """Prepared branches whose outcome it does not know."""
        return list(self._prepared)

    def locked(self) -> dict[str, str]:
        """Locked keys, and the name of the branch that holds each."""
        return {key: work.name for key, work in self._locks.items()}

    def foreign(self) -> list[str]:
        """Names of prepared branches that are not Syncpoint's."""
        return list(self._foreign)

    def prepare_foreign(self, name: str) -> None:
        """Leave a prepared branch of somebody else here (O33)."""
        self._foreign.append(name)

    def decide_alone(self, identifier: Identifier, *, commit: bool) -> None:
        """Somebody decides a prepared branch by hand. Raises KeyError when there is none."""
        with self.guard():
            self._end(self._prepared[identifier], commit=commit)

    def restart(self) -> None:
        """Lose every connection and all active work; come back with what is durable (A7). Ends `down`."""
        with self.guard():
            self.down = False
            self.epoch += 1
            waiting = [signal for signals in self._waiting.values() for signal in signals]
            self._forget_active()
            for identifier, before in self._prepared.items():
                work = Work(identifier, self._table.restore(identifier))
                work.writes = before.writes
                self._prepared[identifier] = work
                for key in before.locks:
                    self._lock(work, key)
        for signal in waiting:
            signal.set()

    def _forget_active(self) -> None:
        self._table = InDoubtTable()
        self._locks: dict[str, Work] = {}
        self._waiting: dict[str, list[Signal]] = {}

    # --- being spoken to -----------------------------------------------------------------------------------

    def guard(self) -> AbstractContextManager[Any]:
        return self.mutex or contextlib.nullcontext()

    def connect(self) -> MemorySession | None:
        """A new connection; None when it cannot be reached. `answers["open"]` may hold exceptions to raise."""
        with self.guard():
            if self.down:
                return None
            self.calls.append("open")
            planned = self._take_planned("open")
            if planned is not None:
                raise planned
            return MemorySession(self.epoch)

    def perform(self, method: str, session: MemorySession, do: Callable[[], T]) -> T:
        """One request and its reply, whole or not at all. Raises ConnectionLost as the knobs say."""
        with self.guard():
            if self.down or session.epoch != self.epoch:
                raise self._lose(session, f"The memory server {self.name!r} does not answer.")
            self.calls.append(method)
            planned = self._take_planned(method)
            if planned is None:
                return do()
            if isinstance(planned, LostReply):
                do()
                raise self._lose(session, f"The reply of {self.name!r} to {method} was lost.")
            if isinstance(planned, BaseException):
                session.broken = session.broken or isinstance(planned, ConnectionLost)
                raise planned
            self._make_true(session, planned)
            answer: T = planned
            return answer

    def _take_planned(self, method: str) -> Any:
        return self.answers[method].popleft() if self.answers.get(method) else None

    def _lose(self, session: MemorySession, why: str) -> ConnectionLost:
        session.broken = True
        return ConnectionLost(why)

    def _make_true(self, session: MemorySession, planned: Any) -> None:
        """A scripted NO or heuristic answer has ended the branch, as a real one would have."""
        work = session.work
        if work is None:
            return
        if isinstance(planned, Vote) and planned.choice is not Choice.YES:
            self.leave(session, commit=False)
        elif isinstance(planned, Answer) and planned in ENDED_ALONE:
            self.leave(session, commit=ENDED_ALONE[planned])

    # --- rows and locks (called inside `perform`) ------------------------------------------------------------

    def read(self, work: Work, key: str) -> bytes | None:
        """A row as the branch sees it: its own writes, else what is committed."""
        return work.writes[key] if key in work.writes else self._rows.get(key)

    def lock(self, work: Work, key: str, signal: Signal | None) -> Work | None:
        """Lock a row; returns None, or the work that holds it, and then sets `signal` when it comes free."""
        holder = self._locks.get(key, work)
        if holder is work:
            self._lock(work, key)
            return None
        if signal is not None:
            self._waiting.setdefault(key, []).append(signal)
        return holder

    def stop_waiting(self, key: str, signal: Signal) -> None:
        with self.guard():
            signals = self._waiting.get(key, [])
            if signal in signals:
                signals.remove(signal)
            if not signals:
                self._waiting.pop(key, None)

    def _lock(self, work: Work, key: str) -> None:
        work.locks.add(key)
        self._locks[key] = work

    def _unlock_all(self, work: Work) -> None:
        for key in work.locks:
            if self._locks.get(key) is work:
                del self._locks[key]
                for signal in self._waiting.pop(key, ()):
                    signal.set()
        work.locks.clear()

    # --- branches (called inside `perform`) --------------------------------------------------------------------

    def prepare(self, session: MemorySession) -> Vote:
        """Vote. After NO or READ_ONLY nothing of the branch is left."""
        work = session.work
        if work is None:
            return Vote(Choice.NO, reason="the branch is not there: it was ended by somebody else")
        assert work.unit.state is State.WORKING, f"{work!r} is prepared already"
        if not work.writes:
            self.leave(session, commit=False)
            return Vote(Choice.READ_ONLY)
        identifier = work.identifier
        if self._table.prepare(identifier, work.unit) is Choice.NO:
            self.leave(session, commit=False)
            return Vote(Choice.NO, reason="its identifier is missing or already in use here (A4, A5)")
        assert identifier is not None  # A5
        if identifier in self._evidence:
            self._table.forget(identifier)
            self.leave(session, commit=False)
            return Vote(Choice.NO, reason="its evidence is there already: the branch was settled or committed")
        self._prepared[identifier] = work
        work.unit.take(Input.YES)
        work.savepoints = None
        return Vote(Choice.YES)

    def commit_one_phase(self, session: MemorySession) -> Vote | Answer:
        work = session.work
        if work is None or not work.writes:
            self.leave(session, commit=False)
            return Vote(Choice.READ_ONLY) if work is not None else Answer.ABORTED
        if work.identifier in self._evidence:  # `settle` was first: its key is in the way
            self.leave(session, commit=False)
            return Answer.ABORTED
        self.leave(session, commit=True)
        return Answer.COMMITTED

    def decide(self, session: MemorySession, statement: Callable[[], bool]) -> Vote | Answer:
        """`statement` writes the record and returns True, or finds another one there; the branch goes with it."""
        work = session.work
        if work is None:
            return Vote(Choice.NO, reason="the branch is not there: it was ended by somebody else")
        assert work.unit.state is State.WORKING, f"{work!r} has voted"
        if not statement():
            self.leave(session, commit=False)
            return Vote(Choice.NO, reason="another record of this transaction was there first", retryable=True)
        self._end(work, commit=True, evidence=False)
        self._let_go(session)
        return Answer.COMMITTED

    def finish(self, identifier: Identifier, *, commit: bool) -> Answer:
        work = self._prepared.get(identifier)
        if work is None:
            return Answer.NOT_FOUND
        self._end(work, commit=commit)
        return Answer.COMMITTED if commit else Answer.ABORTED

    def finish_own(self, session: MemorySession, *, commit: bool) -> Answer:
        """Phase two on the session that prepared, or the abort of active work."""
        work = session.work
        if work is None:
            return Answer.NOT_FOUND if commit else Answer.ABORTED
        is_gone = work.unit.state is not State.WORKING and self._prepared.get(self._key(work)) is not work
        if is_gone:
            self._let_go(session)
            return Answer.NOT_FOUND
        assert not commit or work.unit.state is State.IN_DOUBT  # only what voted yes is told to commit
        self.leave(session, commit=commit)
        return Answer.COMMITTED if commit else Answer.ABORTED

    def leave(self, session: MemorySession, *, commit: bool) -> None:
        """End the session's branch, if there is one."""
        work = session.work
        if work is not None:
            self._end(work, commit=commit)
        self._let_go(session)

    def drop_active(self, session: MemorySession) -> None:
        """The connection has closed: active work is rolled back, prepared work stays."""
        with self.guard():
            work = session.work
            if work is not None and session.epoch == self.epoch and work.unit.state is State.WORKING:
                self._end(work, commit=False)
            self._let_go(session)

    def _let_go(self, session: MemorySession) -> None:
        session.work = None
        session.identifier = None

    def _end(self, work: Work, *, commit: bool, evidence: bool = True) -> None:
        if commit:
            self._apply(work, evidence=evidence)
        identifier = work.identifier
        if identifier is not None and self._prepared.get(identifier) is work:
            del self._prepared[identifier]
            self._table.forget(identifier)
        _move(work.unit, commit=commit)
        self._unlock_all(work)

    def _apply(self, work: Work, *, evidence: bool) -> None:
        for key, raw in work.writes.items():
            if raw is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = raw
        if work.identifier is not None and evidence:
            self._evidence[work.identifier] = True

    def _key(self, work: Work) -> Identifier:
        assert work.identifier is not None  # A5: without one it did not prepare
        return work.identifier

    # --- evidence and incarnations (called inside `perform`) -----------------------------------------------------

    def evidence(self, identifier: Identifier) -> Evidence:
        if identifier in self._prepared:
            return Evidence.UNDECIDED
        return Evidence.COMMITTED if self._evidence.get(identifier) else Evidence.ABSENT

    def settle(self, identifier: Identifier) -> Evidence:
        """Write the same key: whoever is first wins."""
        if identifier not in self._prepared:
            self._evidence.setdefault(identifier, False)
        return self.evidence(identifier)

    def evidence_attempts(self, coordinator: Guid, after: Attempt, limit: int) -> list[Attempt]:
        ours = self._committed(coordinator)
        return sorted({row.attempt for row in ours if row.attempt >= after})[:limit]

    def drop_evidence(self, coordinator: Guid, attempts: Iterable[Attempt]) -> int:
        wanted = set(attempts)
        doomed = [row for row in self._committed(coordinator) if row.attempt in wanted]
        for row in doomed:
            del self._evidence[row]
        return len(doomed)

    def _committed(self, coordinator: Guid) -> list[Identifier]:
        return [row for row, done in self._evidence.items() if done and row.coordinator == coordinator]

    def see(self, coordinator: Guid, incarnation: Incarnation) -> Incarnation:
        """Leave an incarnation here; returns the highest seen before, 0 if none."""
        seen = self._incarnations.get(coordinator, Incarnation(0))
        self._incarnations[coordinator] = max(seen, incarnation)
        return seen

    def highest_seen(self, coordinator: Guid) -> Incarnation:
        return self._incarnations.get(coordinator, Incarnation(0))


def _move(unit: Participant, *, commit: bool) -> None:
    """Through the table to the end: a branch that was prepared, or one that was not (one-phase)."""
    if unit.state in (State.READ_ONLY, State.ABORTED, State.COMMITTED):
        return
    if commit:
        unit.take(Input.COMMIT if unit.state is State.IN_DOUBT else Input.COMMIT_ONE_PHASE)
        unit.take(Input.COMMIT_DONE)
    else:
        unit.take(Input.ABORT)
        unit.take(Input.ABORT_DONE)
