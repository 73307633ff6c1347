"""Requests and replies between processes and servers: late, lost, or cut off in one direction or both.

A connection is first in, first out, as TCP is. Whoever gets no answer gives up after a while and breaks it off; a
request that was sent may arrive all the same, and be carried out long after that. A server learns that its client
has gone at once when the client's machine can say so, else after its keepalive. Not for: what servers do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from syncpoint.errors import ConnectionLost
from syncpoint.simulation.process import Process
from syncpoint.simulation.runtime import Promise
from syncpoint.simulation.world import World
from syncpoint.steps import Done, Failed

LATENCY_S = (0.0002, 0.002)
SPIKE_S = (0.02, 1.5)
ANSWER_S = (1.0, 4.0)
"""How long a client waits for an answer."""
KEEPALIVE_S = (3.0, 10.0)
"""After how long a server notices that a client is gone that did not say so."""


class Server(Protocol):
    """What stands at the other end."""

    name: str
    is_up: bool
    epoch: int
    """Counts its starts: connections do not outlive one."""

    def gone(self, connection: Connection) -> None:
        """The connection is closed: whatever was under way on it ends."""
        ...


@dataclass(slots=True)
class Weather:
    """How bad the network is at the moment, and what is cut off."""

    spikes: float = 0.0
    """How likely a message is late."""
    losses: float = 0.0
    """How likely a connection breaks with a message on it."""


@dataclass(slots=True)
class Trap:
    """Something that happens to one of the next requests of a process that end a transaction, or a part of one."""

    who: str
    """The beginning of its name."""
    left: int
    """How many such requests pass before."""
    spring: Callable[[Connection], Mishap]
    """Called with the connection of the request."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """What happens to one request."""

    loses_reply: bool = False
    late_s: float = 0.0
    """How much later it arrives."""


NO_MISHAP = Mishap()
ENDING = ("prepare", "commit", "decide", "finish", "settle", "abort", "journal: force")
"""What requests begin with that end a transaction, or a part of one."""


class Connection:
    """One connection of a process to a server."""

    __slots__ = (
        "_free_back_s",
        "_free_s",
        "_waiting",
        "epoch",
        "is_broken",
        "is_gone",
        "network",
        "process",
        "server",
        "session",
    )

    def __init__(self, network: Network, process: Process, server: Server) -> None:
        self.network = network
        self.process = process
        self.server = server
        self.epoch = server.epoch
        self.session: Any = None
        self.is_broken = False
        """The client has given it up."""
        self.is_gone = False
        """The server has noticed that it is over."""
        self._free_s = 0.0
        self._free_back_s = 0.0
        self._waiting: list[Promise] = []

    def __repr__(self) -> str:
        return f"<Connection {self.process.name} to {self.server.name}>"

    def request(self, run: Callable[[], Any], what: str, work_s: float = 0.0) -> Promise:
        """Have the server `run` something, which takes it `work_s` seconds after, and reply."""
        network, promise = self.network, Promise()
        network.world.note(self.process.name, what, self.server.name)
        if self.is_broken:
            promise.keep(Failed(ConnectionLost(f"The connection to {self.server.name} is broken.")))
            return promise
        network.give_up_later(self, promise, what)
        self._waiting = [one for one in self._waiting if not one.is_kept] + [promise]
        mishap = network.spring(self, what)
        if network.is_lost(self.process.name, self.server.name):
            return promise
        at_s = self._free_s = max(network.arrival_s() + mishap.late_s, self._free_s)
        arrive = partial(self._arrive, run, what, work_s, promise, mishap.loses_reply)
        network.world.after(at_s - network.world.now_s, arrive)
        return promise

    def hold_back(self, seconds: float) -> None:
        """What is sent on it from now on arrives so much later at the earliest, in order."""
        self._free_s = max(self._free_s, self.network.world.now_s + seconds)

    def _arrive(self, run: Callable[[], Any], what: str, work_s: float, promise: Promise, loses_reply: bool) -> None:
        server, network = self.server, self.network
        if not server.is_up or server.epoch != self.epoch or self.is_gone:
            if not self.is_broken and not network.is_cut(server.name, self.process.name):
                network.world.after(network.latency_s(), partial(self.break_off, promise, f"{server.name} refused it"))
            return
        if self.is_broken:
            network.world.count("late requests")
        try:
            outcome: Done[Any] | Failed = Done(run())
        except Exception as error:
            outcome = Failed(error)
        if isinstance(outcome, Done) and isinstance(outcome.value, Promise):  # the server takes its time
            outcome.value.then(partial(self._done, what, work_s, promise, loses_reply))
        else:
            self._done(what, work_s, promise, loses_reply, outcome)

    def _done(self, what: str, work_s: float, promise: Promise, loses_reply: bool, outcome: Done[Any] | Failed) -> None:
        server, network = self.server, self.network
        if not server.is_up or server.epoch != self.epoch:
            return
        network.world.note(server.name, f"did {what}: {_short(outcome)}")
        if network.is_lost(server.name, self.process.name) or loses_reply:
            network.world.count("lost replies")
            return
        at_s = self._free_back_s = max(network.arrival_s() + work_s, self._free_back_s)
        network.world.after(at_s - network.world.now_s, partial(self._reply, outcome, promise))

    def _reply(self, outcome: Done[Any] | Failed, promise: Promise) -> None:
        if not self.is_broken:
            promise.keep(outcome)

    def break_off(self, promise: Promise, why: str) -> None:
        """The client gets no answer any more; the server notices later."""
        if promise.is_kept:
            return
        self.close()
        promise.keep(Failed(ConnectionLost(f"The connection to {self.server.name} was lost: {why}.")))

    def lose(self) -> None:
        """Something in between cuts it: whoever waits for an answer on it learns of it at once."""
        waiting, self._waiting = self._waiting, []
        for promise in waiting:
            self.break_off(promise, "it was cut")
        self.close()

    def close(self) -> None:
        """The client is done with it, or dead: the server is told, if it can be."""
        if not self.is_broken:
            self.is_broken = True
            self.network.tell_gone(self)

    def end(self) -> None:
        """The server is done with it."""
        if not self.is_gone:
            self.is_gone = True
            self.server.gone(self)


class Network:
    """Who reaches whom, and how fast."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.weather = Weather()
        self._chance = world.stream("network")
        self._cut: dict[tuple[str, str], int] = {}
        self._connections: dict[Connection, None] = {}
        self._traps: list[Trap] = []

    def connect(self, process: Process, server: Server) -> Promise:
        """A new connection, or None when the server does not take one."""
        connection = Connection(self, process, server)
        self._connections[connection] = None
        process.on_death.append(connection.close)
        return connection.request(lambda: connection, "connect")

    # --- who reaches whom ----------------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """From now on nothing goes from there to there."""
        self._cut[source, target] = self._cut.get((source, target), 0) + 1

    def mend(self, source: str, target: str) -> None:
        """Take one cut back."""
        left = self._cut.get((source, target), 0) - 1
        if left > 0:
            self._cut[source, target] = left
        else:
            self._cut.pop((source, target), None)

    def set_trap(self, trap: Trap) -> None:
        self._traps.append(trap)

    def spring(self, connection: Connection, what: str) -> Mishap:
        """What is to happen to this request."""
        if not self._traps or not what.startswith(ENDING):
            return NO_MISHAP
        for trap in self._traps:
            if connection.process.name.startswith(trap.who):
                trap.left -= 1
                if trap.left < 0:
                    self._traps.remove(trap)
                    return trap.spring(connection)
        return NO_MISHAP

    def mend_all(self) -> None:
        self._traps.clear()
        self._cut.clear()
        self.weather = Weather()

    def is_cut(self, source: str, target: str) -> bool:
        """By name, or by the name of the machine that is before the slash."""
        if not self._cut:
            return False
        return bool({(source, target), (_host(source), target), (source, _host(target))} & self._cut.keys())

    def is_lost(self, source: str, target: str) -> bool:
        if self.is_cut(source, target):
            self.world.count("messages cut off")
            return True
        if self.weather.losses and self._chance.random() < self.weather.losses:
            self.world.count("messages lost")
            return True
        return False

    # --- how fast ------------------------------------------------------------------------------------------------

    def latency_s(self) -> float:
        if self.weather.spikes and self._chance.random() < self.weather.spikes:
            self.world.count("messages late")
            return self._chance.uniform(*SPIKE_S)
        return self._chance.uniform(*LATENCY_S)

    def arrival_s(self) -> float:
        return self.world.now_s + self.latency_s()

    def give_up_later(self, connection: Connection, promise: Promise, what: str) -> None:
        seconds = self._chance.uniform(*ANSWER_S)
        connection.process.after(seconds, partial(connection.break_off, promise, f"no answer to {what} in time"))

    def tell_gone(self, connection: Connection) -> None:
        """The client's end is closed. Requests on their way come before that."""
        self._connections.pop(connection, None)
        if self.is_cut(connection.process.name, connection.server.name):
            seconds = self._chance.uniform(*KEEPALIVE_S)
        else:
            seconds = max(self.arrival_s(), connection._free_s) - self.world.now_s
        self.world.after(seconds, connection.end)

    def stall(self, server: str, connections: Callable[[Connection], bool], seconds: float) -> int:
        """Nothing comes through on these connections to a server for so long. Returns how many."""
        stalled = [one for one in self._connections if one.server.name == server and connections(one)]
        for connection in stalled:
            connection.hold_back(seconds)
        return len(stalled)

    def drop(self, server: str, connections: Callable[[Connection], bool]) -> int:
        """Both ends of these connections to a server are cut: as a firewall or a pooler does. Returns how many."""
        dropped = [one for one in self._connections if one.server.name == server and connections(one)]
        for connection in dropped:
            connection.end()
        return len(dropped)


def _host(name: str) -> str:
    return name.partition("/")[0]


def _short(outcome: Done[Any] | Failed) -> str:
    if isinstance(outcome, Failed):
        return f"{type(outcome.error).__name__}"
    value = outcome.value
    name = getattr(value, "name", None)
    if isinstance(name, str):
        return name
    choice = getattr(value, "choice", None)
    return choice.name if choice is not None else type(value).__name__
