"""A database server in the simulator, and the adapter that reaches it over the simulated network.

The server is the memory resource's (real two-phase behaviour: locks, prepared branches that survive a restart,
evidence), the adapter is the memory resource's too; here stand the network in between, and habits of real servers:

    holds_prepared   a prepared branch cannot be finished by others while its connection lives (MariaDB)
    slow_commits     COMMIT is done at once, but its reply takes a while (a slow disk)
    slots            so many branches can be prepared at once; one more is rolled back (max_prepared_transactions)

Besides, a server may roll a branch back in the middle of its work: a deadlock's victim, or an idle one.

Not for: SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from syncpoint.errors import ConnectionLost, ResourceUnavailable
from syncpoint.ids import Identifier
from syncpoint.ports import Clock, Random
from syncpoint.protocol.participant import State
from syncpoint.resources.base import Answer, Choice, Resource, Session, Vote
from syncpoint.resources.memory import MemoryResource
from syncpoint.resources.memory_server import MemoryServer, MemorySession
from syncpoint.simulation import journal_rows
from syncpoint.simulation.journal_rows import JournalRows
from syncpoint.simulation.network import Connection, Network
from syncpoint.simulation.process import Process
from syncpoint.simulation.runtime import Outcome, Promise
from syncpoint.simulation.world import World
from syncpoint.steps import Call, Done, Script, Step

FORCES = {"prepare", "commit", "commit_one_phase", "finish", "settle"}
"""What the server answers only after its disk."""
FORCE_S = (0.0005, 0.003)
SLOW_FORCE_S = (0.05, 0.8)


@dataclass(frozen=True, slots=True)
class Habits:
    """How this server behaves where real ones differ."""

    holds_prepared: bool = False
    slow_commits: bool = False
    slots: int = 1000


class SimDatabase:
    """One server: a `network.Server`."""

    def __init__(self, world: World, network: Network, name: str, habits: Habits) -> None:
        self.world = world
        self.network = network
        self.name = name
        self.habits = habits
        self.engine = MemoryServer(name)
        self.rows: JournalRows | None = None
        """The tables of the journal that lives here."""
        self._deciding: dict[MemorySession, None] = {}
        """Sessions whose branch is being committed with a decision inside: that goes on when they have gone."""
        self.is_up = True
        self.epoch = 1
        self._chance = world.stream(f"database {name}")
        self._connections: dict[Connection, None] = {}

    def __repr__(self) -> str:
        return f"<SimDatabase {self.name} {'up' if self.is_up else 'down'} {self.engine!r}>"

    # --- its life ------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """It dies. Every connection is lost, and all active work; prepared work stays, locked."""
        if self.is_up:
            self.world.note(self.name, "crashes")
            self.is_up = False
            if self.rows is not None:
                self.rows.crash()
            self._deciding.clear()
            self.engine.down = True

    def start(self) -> None:
        """It comes back with what is durable."""
        if not self.is_up:
            self.world.note(self.name, "starts")
            self.is_up = True
            self.epoch += 1
            self._connections.clear()
            self.engine.restart()
            if self.rows is not None:
                self.rows.start()

    def gone(self, connection: Connection) -> None:
        """See `network.Server.gone`."""
        self._connections.pop(connection, None)
        if connection.session in self._deciding:
            return
        if connection.session is not None and connection.epoch == self.epoch:
            self.engine.drop_active(connection.session)

    # --- a journal in it ------------------------------------------------------------------------------------------

    def keep_journal(self, habits: journal_rows.Habits) -> JournalRows:
        """A journal lives here from now on."""
        self.rows = JournalRows(self.world, self.name, habits, lambda: self.engine.guid)
        return self.rows

    def forced(self, what: str) -> None:
        """A request was carried out. What it has forced has forced all that the journal wrote before."""
        if self.rows is not None and what in FORCES:
            self.rows.flush()

    def decide(self, session: MemorySession, statement: str) -> Promise:
        """Commit the session's branch with a row of the journal that lives here, or neither."""
        promise = Promise()
        work = session.work
        if work is None or self.rows is None:
            promise.keep(Done(self.engine.decide(session, lambda: False)))
            return promise
        said: list[Vote | Answer] = []
        before = {key: self.engine._rows.get(key) for key in work.writes}

        def commit() -> Callable[[], None]:
            said.append(self.engine.decide(session, lambda: True))
            return partial(self._put_back, before)

        def answer(_: Outcome) -> None:
            self._deciding.pop(session, None)
            promise.keep(Done(said[0] if said else self.engine.decide(session, lambda: False)))

        self._deciding[session] = None
        self.rows.submit((statement,), "decide in a branch", durable=True, branch=commit).then(answer)
        return promise

    def _put_back(self, before: Mapping[str, bytes | None]) -> None:
        """A crash takes a branch's commit back that was seen before it was on disk."""
        for key, raw in before.items():
            if raw is None:
                self.engine._rows.pop(key, None)
            else:
                self.engine._rows[key] = raw

    # --- being asked ---------------------------------------------------------------------------------------------

    def attach(self, connection: Connection) -> None:
        connection.session = MemorySession(self.engine.epoch)
        self._connections[connection] = None

    def is_held(self, identifier: Identifier) -> bool:
        """Whether the connection that prepared a branch still lives, and holds it."""
        return self.habits.holds_prepared and any(
            connection.session.work is not None
            and connection.session.work.unit.state is State.IN_DOUBT
            and connection.session.work.identifier == identifier
            for connection in self._connections
        )

    def roll_back(self, chosen: Callable[[], bool]) -> None:
        """Active branches, each if `chosen` says so, are rolled back, and their clients are not told."""
        for connection in list(self._connections):
            session = connection.session
            is_active = session.work is not None and session.work.unit.state is State.WORKING
            if is_active and session not in self._deciding and chosen():  # a COMMIT under way is none of them
                self.world.count("branches rolled back by the server")
                self.engine.leave(session, commit=False)

    def force_s(self, what: str) -> float:
        """How long its disk takes, if the request needs it."""
        if what not in FORCES:
            return 0.0
        return self._chance.uniform(*(SLOW_FORCE_S if self.habits.slow_commits else FORCE_S))


class SimResource(MemoryResource):
    """The memory adapter, with a network between it and its server."""

    def __init__(
        self, name: str, database: SimDatabase, process: Process, network: Network, clock: Clock, random: Random
    ) -> None:
        Resource.__init__(self, name, f"sim://{database.name}", {}, mode="sync", clock=clock, random=random)
        self.server = database.engine
        self.database = database
        self.process = process
        self.network = network
        self._runtime = None
        self._connections: dict[int, Connection] = {}

    def open(self) -> Script[Session]:
        try:
            connection = yield Call(lambda: self.network.connect(self.process, self.database), "connect")
        except ConnectionLost as error:
            raise ResourceUnavailable(
                f"The resource {self.name!r} ({self.safe_url}) cannot be reached.", advice="Start it, and try again."
            ) from error
        self.database.attach(connection)
        session: Session = connection.session
        self._connections[id(session)] = connection
        return session

    def close(self, session: Session) -> Script[None]:
        connection = self._connections.pop(id(session), None)
        if connection is not None:
            connection.close()
        return
        yield

    def prepare(self, session: Session) -> Script[Vote]:
        vote: Vote = yield self._ask("prepare", session, lambda: self._prepare(session))
        return vote

    def _prepare(self, session: Session) -> Vote:
        assert isinstance(session, MemorySession)
        if len(self.server.in_doubt()) >= self.database.habits.slots:
            self.database.world.count("votes refused for want of a slot")
            self.server.leave(session, commit=False)
            return Vote(Choice.NO, reason="too many branches are prepared here", retryable=True)
        return self.server.prepare(session)

    def finish(self, session: Session, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        answer: Answer = yield self._ask("finish", session, lambda: self._finish(identifier, commit=commit))
        return answer

    def decide(self, session: Session, statement: Any) -> Script[Vote | Answer]:
        own = self._own(session)
        said: Vote | Answer = yield self._ask("decide", session, lambda: self.database.decide(own, statement))
        return said

    @staticmethod
    def _own(session: Session) -> MemorySession:
        assert isinstance(session, MemorySession)
        return session

    def _finish(self, identifier: Identifier, *, commit: bool) -> Answer:
        if self.database.is_held(identifier):
            return Answer.RETRY
        return self.server.finish(identifier, commit=commit)

    def _step(self, run: Callable[[], Any], what: str, session: Session | None) -> Step:
        assert session is not None, "opening is done here"
        connection = self._connections[id(session)]
        return Call(lambda: self._request(connection, run, what, session), what)

    def _request(self, connection: Connection, run: Callable[[], Any], what: str, session: Session) -> Any:
        about = session.identifier
        label = what if about is None else f"{what} of {str(about.transaction)[:8]}"
        promise = connection.request(lambda: self._carry_out(run, what), label, self.database.force_s(what))

        def mark(outcome: Any) -> None:
            if isinstance(getattr(outcome, "error", None), ConnectionLost):
                session.broken = True

        promise.listen(mark)
        return promise

    def _carry_out(self, run: Callable[[], Any], what: str) -> Any:
        done = run()
        self.database.forced(what)
        return done
