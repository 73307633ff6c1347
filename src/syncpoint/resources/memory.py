"""The resource `memory://name`: real two-phase behaviour without a database, for tests and for trying things out.

Its server lives in this process's memory (memory_server.py) and its rows are keys with JSON values. It does what
is asked of every adapter: votes only on a unique identifier (A2..A5), keeps evidence, refuses stale journals
(O53), and keeps prepared branches locked over a restart (A7). Not for: keeping data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, cast

import msgspec

from syncpoint.errors import ConfigurationError, JournalRefused, NotAllowed, ResourceUnavailable
from syncpoint.ids import Attempt, Guid, Identifier
from syncpoint.ports import Clock, Random, Runtime, Signal
from syncpoint.resources.base import (
    Answer,
    Ask,
    BranchStart,
    Contact,
    Evidence,
    Finding,
    Found,
    Mode,
    Resource,
    Session,
    Severity,
    Vote,
)
from syncpoint.resources.memory_server import LostReply, MemoryServer, MemorySession, Work
from syncpoint.steps import Local, Script, Step, Wait

__all__ = ["LostReply", "MemoryConnection", "MemoryResource", "MemoryServer", "RowLocked"]

_URL = re.compile(r"memory://([A-Za-z0-9_-]+)/?\Z")


class RowLocked(Exception):
    """Another branch holds the row, and did until the transaction's time was over. The same work may succeed later."""


class Runner(Runtime, Protocol):
    """A runtime that can also be called from outside: both runners can."""

    def run(self, script: Script[Any]) -> Any:
        """Block and return the result, or return an awaitable of it."""
        ...


class MemoryResource(Resource):
    """A resource manager in memory. URL: `memory://name`; no options."""

    scheme = "memory"
    speaks_sql = False
    can_decide = True

    def __init__(
        self, name: str, url: str, options: Mapping[str, str], *, mode: Mode, clock: Clock, random: Random
    ) -> None:
        super().__init__(name, url, options, mode=mode, clock=clock, random=random)
        match = _URL.match(url)
        if match is None:
            raise ConfigurationError(f"The URL of the resource {name!r} is wrong.", advice="Write memory://name")
        self.server = MemoryServer.named(match[1])
        self._runtime: Runner | None = None

    def attach(self, ask: Ask, runtime: Runtime) -> None:
        super().attach(ask, runtime)
        self.runtime = cast(Runner, runtime)  # both runners are more than a Runtime

    @property
    def runtime(self) -> Runner | None:
        """Set when attached to a manager. Without it a locked row is refused at once instead of waited for."""
        return self._runtime

    @runtime.setter
    def runtime(self, runtime: Runner | None) -> None:
        self._runtime = runtime
        if runtime is not None and self.server.mutex is None:
            self.server.mutex = runtime.mutex()

    @property
    def safe_url(self) -> str:
        return f"memory://{self.server.name}"

    # --- connections -----------------------------------------------------------------------------------

    def open(self) -> Script[Session]:
        session: Session = yield self._step(self._connect, "connect", None)
        return session

    def _connect(self) -> Session:
        session = self.server.connect()
        if session is None:
            raise ResourceUnavailable(
                f"The resource {self.name!r} ({self.safe_url}) cannot be reached.", advice="Start it, and try again."
            )
        return session

    def close(self, session: Session) -> Script[None]:
        yield self._step(lambda: self.server.drop_active(_own(session)), "disconnect", session)

    def abandon(self, session: Session) -> None:
        session.broken = True

    # --- set-up ------------------------------------------------------------------------------------------

    def init_statements(self) -> Sequence[str]:
        return ()

    def initialise(self, session: Session) -> Script[None]:
        yield self._ask("initialise", session, self._give_guid)

    def inspect(self, session: Session) -> Script[list[Finding]]:
        lasts = Finding(Severity.OK, "durability", "as long as this process")
        findings: list[Finding] = yield self._ask("inspect", session, lambda: [lasts])
        return findings

    def contact(self, session: Session, contact: Contact) -> Script[Guid]:
        guid: Guid = yield self._ask("contact", session, lambda: self._meet(contact))
        return guid

    def _give_guid(self) -> Guid:
        if self.server.guid is None:
            self.server.guid = Guid(self.random.bytes(16))
        return self.server.guid

    def _meet(self, contact: Contact) -> Guid:
        seen = self.server.highest_seen(contact.coordinator)
        if seen > contact.highest:
            raise JournalRefused(
                f"The resource {self.name!r} has seen incarnation {seen} of coordinator {contact.coordinator}, "
                f"but its journal has counted only to {contact.highest}: the journal is an older copy.",
                advice="Nothing was changed. Use the newest copy of the journal.",
            )
        self.server.see(contact.coordinator, contact.incarnation)
        return self._give_guid()

    # --- a branch's life -----------------------------------------------------------------------------------

    def begin(self, session: Session, start: BranchStart) -> Script[None]:
        yield self._ask("begin", session, lambda: self._begin(_own(session), start))

    def _begin(self, session: MemorySession, start: BranchStart) -> None:
        assert session.work is None, f"{session.work!r} is still on the session"
        session.work = Work(start.identifier)
        session.identifier = start.identifier
        session.deadline = self.clock.monotonic() + start.remaining_ms / 1000
        session.read_only = start.read_only
        session.blocker = ""

    def connection(self, session: Session) -> MemoryConnection:
        return MemoryConnection(self, _own(session))

    def savepoint(self, session: Session, name: str) -> Script[None]:
        yield self._ask("savepoint", session, lambda: _save(_work(session), name))

    def release_savepoint(self, session: Session, name: str) -> Script[None]:
        yield self._ask("release_savepoint", session, lambda: _take_savepoint(_work(session), name))

    def rollback_to_savepoint(self, session: Session, name: str) -> Script[None]:
        yield self._ask("rollback_to_savepoint", session, lambda: _roll_back_to(_work(session), name))

    def wrote(self, session: Session) -> Script[bool | None]:
        work = _own(session).work
        return None if work is None else bool(work.writes)  # a branch that is not there any more says nothing
        yield from ()

    def prepare(self, session: Session) -> Script[Vote]:
        vote: Vote = yield self._ask("prepare", session, lambda: self.server.prepare(_own(session)))
        return vote

    def commit(self, session: Session) -> Script[Answer]:
        answer: Answer = yield self._ask("commit", session, lambda: self.server.finish_own(_own(session), commit=True))
        return answer

    def commit_one_phase(self, session: Session) -> Script[Vote | Answer]:
        answer: Vote | Answer = yield self._ask(
            "commit_one_phase", session, lambda: self.server.commit_one_phase(_own(session))
        )
        return answer

    def decide(self, session: Session, statement: Callable[[], bool]) -> Script[Vote | Answer]:
        answer: Vote | Answer = yield self._ask("decide", session, lambda: self.server.decide(_own(session), statement))
        return answer

    def abort(self, session: Session) -> Script[Answer]:
        answer: Answer = yield self._ask("abort", session, lambda: self.server.finish_own(_own(session), commit=False))
        return answer

    # --- finding out and finishing -----------------------------------------------------------------------------

    def scan(self, session: Session) -> Script[list[Found]]:
        found: list[Found] = yield self._ask("scan", session, self._list_prepared)
        return found

    def _list_prepared(self) -> list[Found]:
        ours = [Found(identifier, identifier.to_gid()) for identifier in self.server.in_doubt()]
        return ours + [Found(None, name) for name in self.server.foreign()]

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        answer: Answer = yield self._ask("finish", session, lambda: self.server.finish(identifier, commit=commit))
        return answer

    def evidence(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        evidence: Evidence = yield self._ask("evidence", session, lambda: self.server.evidence(identifier))
        return evidence

    def settle(self, session: Session, identifier: Identifier) -> Script[Evidence]:
        evidence: Evidence = yield self._ask("settle", session, lambda: self.server.settle(identifier))
        return evidence

    def evidence_attempts(
        self, session: Session, coordinator: Guid, after: Attempt, limit: int
    ) -> Script[list[Attempt]]:
        attempts: list[Attempt] = yield self._ask(
            "evidence_attempts", session, lambda: self.server.evidence_attempts(coordinator, after, limit)
        )
        return attempts

    def drop_evidence(self, session: Session, coordinator: Guid, attempts: Sequence[Attempt]) -> Script[int]:
        count: int = yield self._ask("drop_evidence", session, lambda: self.server.drop_evidence(coordinator, attempts))
        return count

    # --- what errors mean ----------------------------------------------------------------------------------------

    def is_retryable(self, error: BaseException) -> bool:
        return isinstance(error, RowLocked)

    def blockers(self, session: Session) -> Script[str]:
        return _own(session).blocker
        yield from ()

    def _ask(self, method: str, session: Session, do: Callable[[], Any]) -> Step:
        """One request to the server as a step: the point at which crashes are tried."""
        return self._step(lambda: self.server.perform(method, _own(session), do), method, session)

    def _step(self, run: Callable[[], Any], what: str, session: Session | None) -> Step:
        """How the server is reached: it lives in this process. The simulator puts a network in between."""
        return Local(run, what)


class MemoryConnection:
    """What `connect()` returns: rows by key. Blocking, or with `await`, as the manager is.

    Values are JSON values. A row that another branch holds is waited for until the transaction's time is over.
    """

    __slots__ = ("_resource", "_session", "_work")

    def __init__(self, resource: MemoryResource, session: MemorySession) -> None:
        self._resource = resource
        self._session = session
        self._work = session.work

    def __repr__(self) -> str:
        return f"<MemoryConnection {self._resource.name} {self._work!r}>"

    def get(self, key: str, *, for_update: bool = False) -> Any:
        """The row's value, None when there is none; with `for_update` the row is locked too. Raises RowLocked."""
        return self._run(lambda signal: self._read(key, signal if for_update else None, lock=for_update), key)

    def put(self, key: str, value: Any) -> Any:
        """Write a row. Raises RowLocked, and TypeError when the value is no JSON value."""
        raw = msgspec.json.encode(value)
        return self._run(lambda signal: self._write(key, raw, signal), key)

    def delete(self, key: str) -> Any:
        """Delete a row; nothing happens when there is none. Raises RowLocked."""
        return self._run(lambda signal: self._write(key, None, signal), key)

    def commit(self) -> NoReturn:
        """Refused: the transaction's end commits."""
        self._refuse("commit")

    def rollback(self) -> NoReturn:
        """Refused: raise an exception in the transaction's block to abort it."""
        self._refuse("rollback")

    def close(self) -> NoReturn:
        """Refused: the connection goes back when the transaction ends."""
        self._refuse("close")

    def _refuse(self, what: str) -> NoReturn:
        raise NotAllowed(
            f"{what}() on the connection to {self._resource.name!r} would end the branch behind the manager's back.",
            advice="Leave the transaction's block instead: normally to commit, with an exception to abort.",
        )

    # --- requests ------------------------------------------------------------------------------------------

    def _run(self, request: Callable[[Signal | None], Work | Any], key: str) -> Any:
        runtime = self._resource.runtime
        if runtime is not None:
            return runtime.run(self._request(request, key, runtime.signal()))
        outcome = self._perform(request, None)
        if isinstance(outcome, Work):
            raise self._locked(key)
        return outcome if self._resource.mode == "sync" else _ready(outcome)

    def _request(self, request: Callable[[Signal | None], Work | Any], key: str, signal: Signal) -> Script[Any]:
        try:
            while True:
                outcome = yield self._resource._step(
                    lambda: self._perform(request, signal), f"row {key}", self._session
                )
                if not isinstance(outcome, Work):
                    return outcome
                left_s = self._session.deadline - self._resource.clock.monotonic()
                if left_s <= 0 or not (yield Wait(signal, left_s)):
                    raise self._locked(key)
                signal.clear()
        finally:
            self._resource.server.stop_waiting(key, signal)

    def _perform(self, request: Callable[[Signal | None], Any], signal: Signal | None) -> Any:
        return self._resource.server.perform("row", self._session, lambda: request(signal))

    def _read(self, key: str, signal: Signal | None, *, lock: bool) -> Any:
        work = self._active()
        if lock and (holder := self._lock(work, key, signal)) is not None:
            return holder
        raw = self._resource.server.read(work, key)
        return None if raw is None else msgspec.json.decode(raw)

    def _write(self, key: str, raw: bytes | None, signal: Signal | None) -> Work | None:
        work = self._active()
        if self._session.read_only:
            raise NotAllowed(
                f"The branch at {self._resource.name!r} is read-only; {key!r} was not written.",
                advice="Connect without read_only.",
            )
        holder = self._lock(work, key, signal)
        if holder is None:
            work.writes[key] = raw
        return holder

    def _lock(self, work: Work, key: str, signal: Signal | None) -> Work | None:
        holder = self._resource.server.lock(work, key, signal)
        if holder is not None:
            self._session.blocker = f"{key!r} is held by {holder.name}"
        return holder

    def _active(self) -> Work:
        work = self._work
        if work is None or self._session.work is not work:
            raise NotAllowed(
                f"This connection to {self._resource.name!r} belongs to a transaction that has ended.",
                advice="Call tx.connect() in the new transaction.",
            )
        return work

    def _locked(self, key: str) -> RowLocked:
        return RowLocked(f"The row {key!r} of {self._resource.name!r} is locked: {self._session.blocker}.")


async def _ready(value: Any) -> Any:
    return value


def _own(session: Session) -> MemorySession:
    assert isinstance(session, MemorySession)
    return session


def _work(session: Session) -> Work:
    work = _own(session).work
    assert work is not None, "no branch is on the session"
    return work


def _save(work: Work, name: str) -> None:
    work.savepoints = [*(work.savepoints or ()), (name, dict(work.writes))]


def _take_savepoint(work: Work, name: str) -> dict[str, bytes | None]:
    """Forget the savepoint and those after it; returns the writes it stands for. Locks stay, as elsewhere."""
    saved = work.savepoints or []
    positions = [position for position, (known, _) in enumerate(saved) if known == name]
    assert positions, f"no savepoint {name!r}"
    work.savepoints = saved[: positions[-1]]
    return saved[positions[-1]][1]


def _roll_back_to(work: Work, name: str) -> None:
    work.writes = _take_savepoint(work, name)
    _save(work, name)  # it stays, as SQL says
