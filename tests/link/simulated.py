"""The port `Link` in virtual time: how little it takes, and what the contract's tests run on beside the real one.

Time is whatever calls back after some seconds (`World.after` of the simulator), chance is given: the same seed gives
the same run. What it can do to messages: delay them, and lose them by cutting a connection, which the two ends notice
at different moments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from syncpoint.messages import Message, Vocabulary
from syncpoint.ports import Arrived, Connected, LinkEvent, Lost, Peer, Sent, Signal
from tests.link.words import guid

LATENCY_S = (0.0005, 0.2)
NOTICE_S = (0.0, 3.0)


class Cable:
    """One connection."""

    def __init__(self) -> None:
        self.is_whole = True
        self.waiting: dict[str, deque[Callable[[], None]]] = {}


class SimulatedLink:
    def __init__(self, network: SimulatedNetwork, name: str, signal: Callable[[], Signal]) -> None:
        self._network = network
        self.me = Peer(name=name, guid=guid(name), role="node", instance=bytes(8))
        self.arrived = signal()
        self._has_room = signal()
        self._has_room.set()
        self._events: list[LinkEvent] = []
        self._cables: dict[str, Cable] = {}

    def take(self) -> Sequence[LinkEvent]:
        events, self._events = self._events, []
        return events

    def send(self, to: str, message: Message) -> Sent:
        if to not in self._cables:
            return Sent.AWAY
        self._network.carry(self, self._cables[to], to, message)
        return Sent.TAKEN

    def room(self, to: str) -> Signal:
        return self._has_room

    def peers(self) -> Sequence[Peer]:
        return [self._network.links[name].me for name in sorted(self._cables)]

    def happen(self, event: LinkEvent, cable: Cable) -> None:
        name = event.peer.name
        if isinstance(event, Connected):
            self._cables[name] = cable
        elif self._cables.get(name) is not cable:
            return  # of a connection that is over here
        elif isinstance(event, Lost):
            del self._cables[name]
        self._events.append(event)
        self.arrived.set()


class SimulatedNetwork:
    def __init__(self, after: Callable[[float, Callable[[], None]], Any], random: Random, words: Vocabulary) -> None:
        self._after = after
        self._random = random
        self._words = words
        self.links: dict[str, SimulatedLink] = {}

    def link(self, name: str, signal: Callable[[], Signal]) -> SimulatedLink:
        return self.links.setdefault(name, SimulatedLink(self, name, signal))

    def connect(self, one: str, other: str) -> Callable[[], None]:
        """Returns what cuts this connection."""
        cable = Cable()
        ends = ((self.links[one], self.links[other]), (self.links[other], self.links[one]))
        for here, there in ends:
            here.happen(Connected(there.me), cable)

        def cut() -> None:
            cable.is_whole = False
            for here, there in ends:
                lost = Lost(there.me, "it was cut")
                self._after(self._random.uniform(*NOTICE_S), lambda here=here, lost=lost: here.happen(lost, cable))

        return cut

    def carry(self, sender: SimulatedLink, cable: Cable, to: str, message: Message) -> None:
        raw = self._words.encode(message)  # as on a wire: nothing is shared

        def arrive() -> None:
            if cable.is_whole:
                self.links[to].happen(Arrived(sender.me, self._words.decode(raw)), cable)

        waiting = cable.waiting.setdefault(to, deque())
        waiting.append(arrive)  # first in, first out, however long each is under way
        self._after(self._random.uniform(*LATENCY_S), lambda: waiting.popleft()())
