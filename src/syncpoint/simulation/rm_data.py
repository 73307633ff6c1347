"""Data that a resource manager's process serves, and the adapter that works on them in that process (B).

The server is the memory resource's, as in database.py, but reached without a network; its votes carry state
information: the rows that the branch has changed. Habits of real ones:

    forgets_votes   a branch ends with its process, prepared or not (SQLite); otherwise what is prepared stays in doubt
    single_writer   one branch at a time
    loses_commits   a commit is seen before it is durable, and answered for after: when its process is lost, the last of
                    them may be lost with it, as with a backup whose copy lags. Only for managers of one journal's
                    writer: between several, the wall clock orders what is redone (protocol/reconciling.py)

The data know the highest incarnation that has served them. Whoever works as a lower one changes nothing, and what it
had begun has ended. Not for: taking over (protocol/backup.py), or the process (site.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from syncpoint.errors import Fenced
from syncpoint.ids import Guid, Identifier
from syncpoint.ports import Clock, Random
from syncpoint.protocol.participant import State
from syncpoint.resources.base import Answer, Choice, Resource, Session, Vote
from syncpoint.resources.memory import MemoryResource, RowLocked
from syncpoint.resources.memory_server import MemoryServer, MemorySession, Work
from syncpoint.simulation.process import Process
from syncpoint.simulation.world import World
from syncpoint.steps import Blocking, Script, Sleep, Step

CHANGES = {"begin", "prepare", "commit", "commit_one_phase", "finish", "settle", "redo", "drop_evidence", "contact"}
"""What checks the incarnation first."""


@dataclass(frozen=True, slots=True)
class RmHabits:
    """How these data behave where real ones differ."""

    forgets_votes: bool = True
    single_writer: bool = True
    loses_commits: bool = False


class RmEngine(MemoryServer):
    """Remembers what it has committed and not forced, and how it was before."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.unforced: list[tuple[Work, dict[str, bytes | None]]] = []

    def _apply(self, work: Work, *, evidence: bool) -> None:
        self.unforced.append((work, {key: self._rows.get(key) for key in work.writes}))
        super()._apply(work, evidence=evidence)

    def forced(self, count: int) -> None:
        """So many of them are durable."""
        del self.unforced[:count]

    def lose(self) -> int:
        """Back to what is durable. Returns how many commits are lost."""
        lost, self.unforced = self.unforced, []
        for work, before in reversed(lost):
            for key, raw in before.items():
                if raw is None:
                    self._rows.pop(key, None)
                else:
                    self._rows[key] = raw
            if work.identifier is not None:
                self._evidence.pop(work.identifier, None)
        return len(lost)


class RmData:
    """The data of one resource manager, whoever serves them."""

    def __init__(self, world: World, name: str, habits: RmHabits) -> None:
        self.world = world
        self.name = name
        self.habits = habits
        self.engine = RmEngine(name)
        self.served = 0
        """The highest incarnation that was written here."""
        self._sessions: list[tuple[MemorySession, RmResource]] = []
        self._chance = world.stream(f"data {name}")

    def __repr__(self) -> str:
        return f"<RmData {self.name} served by incarnation {self.served}>"

    def attach(self, session: MemorySession, resource: RmResource) -> None:
        self._sessions.append((session, resource))

    def serve_as(self, incarnation: int) -> None:
        """Raises Fenced. Of lower ones nothing goes on."""
        if incarnation < self.served:
            raise _fenced(self, incarnation)
        self.served = incarnation
        self.engine.unforced.clear()  # it has forced all that it found
        self.end_sessions(lambda resource: resource.incarnation < incarnation)

    def died(self, resource: RmResource) -> None:
        """Its process is gone."""
        self.end_sessions(lambda one: one is resource)
        if resource.incarnation == self.served and self.habits.loses_commits and self._chance.random() < 0.7:
            for _ in range(self.engine.lose()):
                self.world.count("commits lost with their process")

    def force(self) -> Script[None]:
        """What was committed until now becomes durable, after a while."""
        if self.habits.loses_commits:
            last = self.engine.unforced[-1:]
            yield Sleep(self._chance.uniform(0.02, 0.6))
            if last and last[0] in self.engine.unforced:
                self.engine.forced(self.engine.unforced.index(last[0]) + 1)
        else:
            self.engine.unforced.clear()

    def end_sessions(self, chosen: Callable[[RmResource], bool]) -> None:
        """Whose process has died, or is fenced off: what was under way ends."""
        for session, resource in self._sessions:
            if chosen(resource):
                self.end_session(session)
        self._sessions = [one for one in self._sessions if not chosen(one[1])]

    def end_session(self, session: MemorySession) -> None:
        """It is closed: active work is rolled back; prepared work too, where a vote is not kept."""
        work = session.work
        is_prepared = work is not None and work.unit.state is State.IN_DOUBT
        if is_prepared and self.habits.forgets_votes:
            self.engine.finish_own(session, commit=False)
        else:
            self.engine.drop_active(session)

    def close_session(self, session: MemorySession) -> None:
        self._sessions = [one for one in self._sessions if one[0] is not session]
        self.end_session(session)

    def redo(self, identifier: Identifier, state: bytes) -> Answer:
        """The row changes again, as they were voted on, unless they are there."""
        if self.engine._evidence.get(identifier):
            return Answer.COMMITTED
        work = Work(identifier)
        work.writes = {
            key: None if value is None else value.encode()
            for key, value in msgspec.json.decode(state, type=dict[str, str | None]).items()
        }
        if any(self.engine.lock(work, key, None) is not None for key in work.writes):
            self.engine._unlock_all(work)
            return Answer.RETRY
        self.world.count("branches redone")
        self.engine._end(work, commit=True)
        return Answer.COMMITTED


def state_of(work: Work) -> bytes:
    """What a yes vote carries: the rows that the branch has changed."""
    return msgspec.json.encode({key: None if raw is None else raw.decode() for key, raw in work.writes.items()})


def _fenced(data: RmData, incarnation: int) -> Fenced:
    return Fenced(
        f"Incarnation {data.served} serves {data.name}; incarnation {incarnation} changes nothing any more.",
        advice="The other one serves.",
    )


class RmResource(MemoryResource):
    """The adapter of one process."""

    has_redo = True
    can_decide = False

    def __init__(self, name: str, data: RmData, process: Process, clock: Clock, random: Random) -> None:
        Resource.__init__(self, name, f"sim://{data.name}", {}, mode="sync", clock=clock, random=random)
        self.server = data.engine
        self.data = data
        self.process = process
        self.incarnation = 0
        self.single_writer = data.habits.single_writer
        self._runtime = None
        process.on_death.append(lambda: data.died(self))

    def check(self) -> None:
        """Raises Fenced."""
        if self.incarnation < self.data.served:
            raise _fenced(self.data, self.incarnation)

    def _ask(self, method: str, session: Session, do: Callable[[], Any]) -> Step:
        def checked() -> Any:
            if method in CHANGES:
                self.check()
                if self.incarnation < self.data.served:
                    what = f"{self.process.name} did {method} as incarnation {self.incarnation}"
                    self.data.world.violation(f"{what}, and {self.data.served} serves {self.name}")
            return do()

        return super()._ask(method, session, checked)

    def _step(self, run: Callable[[], Any], what: str, session: Session | None) -> Step:
        return Blocking(run, what)

    # --- connections -------------------------------------------------------------------------------------------------

    def open(self) -> Script[Session]:
        session = MemorySession(self.server.epoch)
        self.data.attach(session, self)
        return session
        yield from ()

    def close(self, session: Session) -> Script[None]:
        assert isinstance(session, MemorySession)
        self.data.close_session(session)
        return
        yield from ()

    def connection(self, session: Session) -> Any:
        assert isinstance(session, MemorySession)
        return RmRows(self, session)

    # --- being a process's -------------------------------------------------------------------------------------------

    def serve_as(self, session: Session, incarnation: int) -> Script[None]:
        yield self._ask("serve_as", session, lambda: self.data.serve_as(incarnation))
        self.incarnation = incarnation

    def served_as(self, session: Session) -> Script[int]:
        served: int = yield self._ask("served_as", session, lambda: self.data.served)
        return served

    def data_guid(self, session: Session) -> Script[Guid | None]:
        guid: Guid | None = yield self._ask("data_guid", session, lambda: self.server.guid)
        return guid

    def prepare(self, session: Session) -> Script[Vote]:
        vote: Vote = yield self._ask("prepare", session, lambda: self._prepare(session))
        return vote

    def _prepare(self, session: Session) -> Vote:
        assert isinstance(session, MemorySession)
        work = session.work
        vote = self.server.prepare(session)
        if vote.choice is Choice.YES:
            assert work is not None
            return Vote(Choice.YES, state_of(work))
        return vote

    def redo(self, session: Session, identifier: Identifier, state: bytes) -> Script[Answer]:
        answer: Answer = yield self._ask("redo", session, lambda: self.data.redo(identifier, state))
        yield from self.data.force()
        return answer

    def commit(self, session: Session) -> Script[Answer]:
        answer = yield from super().commit(session)
        yield from self.data.force()
        return answer

    def commit_one_phase(self, session: Session) -> Script[Vote | Answer]:
        answer = yield from super().commit_one_phase(session)
        yield from self.data.force()
        return answer

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        answer = yield from super().finish(session, identifier, commit=commit, state=state)
        yield from self.data.force()
        return answer

    def init_statements(self) -> Sequence[str]:
        return ()


class RmRows:
    """What users work with, through the process: rows by key, each call whole or not at all."""

    def __init__(self, resource: RmResource, session: MemorySession) -> None:
        self._resource = resource
        self._session = session

    def get(self, key: str, *, for_update: bool = False) -> Any:
        work = self._work(key if for_update else None)
        raw = self._resource.server.read(work, key)
        return None if raw is None else msgspec.json.decode(raw)

    def put(self, key: str, value: Any) -> None:
        self._work(key).writes[key] = msgspec.json.encode(value)

    def _work(self, locks: str | None) -> Work:
        resource, work = self._resource, self._session.work
        resource.check()
        if work is None:
            raise RowLocked("the branch is not there any more")
        assert work.unit.state is State.WORKING, f"{work!r} has voted"
        if locks is not None:
            holder = resource.server.lock(work, locks, None)
            if holder is not None:
                raise RowLocked(f"The row {locks!r} is held by {holder.name}.")
        return work
