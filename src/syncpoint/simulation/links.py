"""Links between processes of a world, below the real exchange (`link.exchange.LinkExchange`): they are dialled, carry
messages in order, are cut, break, and are noticed to be gone.

    dial --connected at both ends--> messages, signs of life --closed, broken, or silent for too long--> lost

Each end has its own view: one that stands still, or is cut off, learns of a loss late, with what had come before it
still in hand. Not for: what is said (node/, resources/node_messages.py), or connections to databases (network.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from syncpoint.link.exchange import EXCHANGE_VOCABULARY
from syncpoint.link.settings import LinkSettings
from syncpoint.messages import Message
from syncpoint.ports import Arrived, Connected, Link, LinkEvent, Lost, Peer, Random, Runtime, Sent, Signal
from syncpoint.simulation.network import LATENCY_S, Network
from syncpoint.simulation.process import Process
from syncpoint.simulation.runtime import SimRuntime, SimSignal
from syncpoint.simulation.wires import LATE_S, Mishaps, Trap

DIAL_S = (0.05, 0.3)
SIGNS_OF_LIFE = 3
"""So many are sent before silence counts as death."""


class Line:
    """One connection between two links."""

    def __init__(self, first: SimLink, second: SimLink) -> None:
        self.ends = (first, second)
        self.heard_s = {first.name: first.world.now_s, second.name: second.world.now_s}
        self.free_s = {first.name: 0.0, second.name: 0.0}

    def __repr__(self) -> str:
        return f"<Line {self.ends[0].name} to {self.ends[1].name}>"

    def other(self, link: SimLink) -> SimLink:
        first, second = self.ends
        return second if link is first else first


class Switchboard:
    """All links of one world, by name."""

    def __init__(self, network: Network, dead_after_s: float) -> None:
        self.network = network
        self.world = network.world
        self.dead_after_s = dead_after_s
        self.mishaps = Mishaps()
        self.links: dict[str, SimLink] = {}
        self._traps: list[Trap] = []
        self._chance = self.world.stream("links")

    def __repr__(self) -> str:
        return f"<Switchboard {sorted(self.links)}>"

    def opener(self, process: Process, dials: str = "") -> Callable[[LinkSettings, Runtime, Random], Link]:
        """For `LinkExchange(open_link=…)` of that process, which dials another, or is dialled."""

        def open_link(settings: LinkSettings, runtime: Runtime, random: Random) -> Link:
            assert isinstance(runtime, SimRuntime)
            return SimLink(self, settings, process, runtime, random, dials)

        return open_link

    def mend(self) -> None:
        self.mishaps = Mishaps()
        self._traps.clear()

    def set_trap(self, trap: Trap) -> None:
        self._traps.append(trap)

    def is_cut(self, source: SimLink, target: SimLink) -> bool:
        return self.network.is_cut(source.process.name, target.process.name.partition("/")[0])

    def latency_s(self) -> float:
        if self.mishaps.late and self._chance.random() < self.mishaps.late:
            self.world.count("questions or answers late")
            return self._chance.uniform(*LATE_S)
        return self._chance.uniform(*LATENCY_S)

    def pause_s(self) -> float:
        return self._chance.uniform(*DIAL_S)

    def loses(self) -> bool:
        return bool(self.mishaps.lost) and self._chance.random() < self.mishaps.lost

    def sent(self, process: Process, raw: bytes) -> None:
        """A process has said something: perhaps a trap waits for that."""
        for trap in self._traps:
            if process.name.startswith(trap.who) and trap.word in raw:
                trap.left -= 1
                if trap.left < 0:
                    self._traps.remove(trap)
                    trap.spring(process)
                return


class SimLink(Link):
    """One process's link."""

    def __init__(
        self,
        board: Switchboard,
        settings: LinkSettings,
        process: Process,
        runtime: SimRuntime,
        random: Random,
        dials: str,
    ) -> None:
        self.board = board
        self.world = board.world
        self.name = settings.name
        self.process = process
        self.peer = Peer(name=settings.name, guid=settings.guid, role=settings.role, instance=random.bytes(8))
        self._runtime = runtime
        self._dials = dials
        self._arrived = runtime.signal()
        self._events: list[LinkEvent] = []
        self._lines: dict[str, Line] = {}
        board.links[self.name] = self
        process.on_death.append(self._died)
        if dials:
            self._dial()
        process.after(self._beat_s, self._beat)

    def __repr__(self) -> str:
        return f"<SimLink {self.name} to {sorted(self._lines)}>"

    # --- Link --------------------------------------------------------------------------------------------------------

    @property
    def arrived(self) -> SimSignal:
        return self._arrived

    def take(self) -> Sequence[LinkEvent]:
        events, self._events = self._events, []
        return events

    def send(self, to: str, message: Message) -> Sent:
        line = self._lines.get(to)
        if line is None:
            return Sent.AWAY
        raw = EXCHANGE_VOCABULARY.encode(message)
        other = line.other(self)
        if self.board.is_cut(self, other):
            self.world.count("messages cut off")
            self._break_later(line)
        elif self.board.loses():
            self.world.count("questions or answers lost")
            self.end(line, "it broke")
        else:
            at_s = max(line.free_s[self.name], self.world.now_s + self.board.latency_s())
            line.free_s[self.name] = at_s
            self.world.after(at_s - self.world.now_s, partial(self._reach, line, raw))
        self.board.sent(self.process, raw)
        return Sent.TAKEN

    def room(self, to: str) -> Signal:
        return self._runtime.signal()

    def peers(self) -> Sequence[Peer]:
        return [self._lines[name].other(self).peer for name in sorted(self._lines)]

    # --- connections -------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        target = self.board.links.get(self._dials)
        if self._dials not in self._lines and target is not None and target.process.alive:
            is_cut = self.board.is_cut(self, target) or self.board.is_cut(target, self)
            if not is_cut and not target.process.paused:
                self.world.after(self.board.latency_s(), partial(self._connect, target))
        self.process.after(self.board.pause_s(), self._dial)

    def _connect(self, target: SimLink) -> None:
        if self.process.alive and target.process.alive and self._dials not in self._lines:
            line = Line(self, target)
            for end in line.ends:
                end.process.now(partial(end._accept, line))

    def _accept(self, line: Line) -> None:
        other = line.other(self)
        before = self._lines.get(other.name)
        if before is not None:
            self.end(before, "its peer has connected anew")
        self._lines[other.name] = line
        line.heard_s[self.name] = self.world.now_s
        self._tell(Connected(other.peer))

    def _tell(self, event: LinkEvent) -> None:
        self._events.append(event)
        self._arrived.set()

    def end(self, line: Line, why: str) -> None:
        """This end is closed; the other one hears of it, if it can."""
        other = line.other(self)
        if self._lines.get(other.name) is not line:
            return
        del self._lines[other.name]
        self._tell(Lost(other.peer, why))
        self._hang_up(line)

    def _hang_up(self, line: Line) -> None:
        other = line.other(self)
        if not self.board.is_cut(self, other):
            closed = partial(other.process.now, partial(other.end, line, "it was closed"))
            self.world.after(max(line.free_s[self.name] - self.world.now_s, self.board.latency_s()), closed)

    def _break_later(self, line: Line) -> None:
        """What was sent does not arrive: then both ends lose the connection."""
        for end in line.ends:
            end.process.after(self.board.dead_after_s, partial(end.end, line, "nothing came through"))

    def _died(self) -> None:
        for line in self._lines.values():
            self._hang_up(line)
        self._lines.clear()

    def _reach(self, line: Line, raw: bytes) -> None:
        other = line.other(self)
        other.process.now(partial(other._take_in, line, raw))

    def _take_in(self, line: Line, raw: bytes) -> None:
        sender = line.other(self)
        if self._lines.get(sender.name) is line:
            line.heard_s[self.name] = self.world.now_s
            self._tell(Arrived(sender.peer, EXCHANGE_VOCABULARY.decode(raw)))

    # --- signs of life -----------------------------------------------------------------------------------------------

    @property
    def _beat_s(self) -> float:
        return self.board.dead_after_s / SIGNS_OF_LIFE

    def _beat(self) -> None:
        for line in list(self._lines.values()):
            other = line.other(self)
            if self.world.now_s - line.heard_s[self.name] > self.board.dead_after_s:
                self.end(line, f"nothing was heard for {self.board.dead_after_s:g} s")
            elif not self.board.is_cut(self, other):
                self.world.after(self.board.latency_s(), partial(other.process.now, partial(other._live, line)))
        self.process.after(self._beat_s, self._beat)

    def _live(self, line: Line) -> None:
        line.heard_s[self.name] = self.world.now_s
