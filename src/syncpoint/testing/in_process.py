"""Managers of one process in a tree: `Hall` joins their exchanges without a network. For tests of services that take
part.

    hall = Hall()
    orders = TransactionManager("./orders-journal", {…}, tree=Tree(exchange=hall.exchange("orders"), keys=[key]))
    stock = TransactionManager("./stock-journal", {…}, tree=Tree(exchange=hall.exchange("stock"), keys=[key]))

All of them blocking, or all of them of one event loop. Messages are encoded and decoded as on a link. `hall.rules`
may lose questions or answers, `hall.disconnect` loses a connection. Exchanges of a node and its peers take
`Hall(NODE_VOCABULARY)` and `hall.exchange(name, role=…)`. Not for: production, where managers are in different
processes (docs/trees.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol, cast

from syncpoint.errors import ConnectionLost, ResourceUnavailable, SyncpointError
from syncpoint.ids import Guid
from syncpoint.messages import Message, Vocabulary
from syncpoint.ports import Connected, Exchange, LinkEvent, Lost, Peer, Random, Runtime
from syncpoint.resources.subordinate_messages import TREE_VOCABULARY
from syncpoint.steps import Call, Script

Answer = Callable[[Peer, Message], Script[Message]]


class _Runner(Runtime, Protocol):
    def run(self, script: Script[Any]) -> Any: ...


class Fate(Enum):
    """What becomes of a question."""

    ANSWERED = auto()
    LOST = auto()
    """It does not arrive."""
    UNANSWERED = auto()
    """It is carried out, and its answer is lost."""
    TWICE = auto()
    """It arrives twice; the second answer counts."""


Rule = Callable[[str, str, Message], Fate | None]
"""(from, to, question) -> what becomes of it; None: no opinion."""


@dataclass(slots=True)
class _Place:
    """One exchange that serves."""

    peer: Peer
    answer: Answer
    runner: _Runner
    noticed: Callable[[LinkEvent], None]


class Hall:
    """Where the exchanges of one process meet. Parameters: the `vocabulary` of questions and answers."""

    def __init__(self, vocabulary: Vocabulary = TREE_VOCABULARY) -> None:
        self.vocabulary = vocabulary
        self.rules: list[Rule] = []
        """The first that has an opinion counts."""
        self.asked: list[tuple[str, str, str]] = []
        """Every question: from, to, its kind."""
        self._places: dict[str, _Place] = {}
        self._away: set[str] = set()

    def __repr__(self) -> str:
        return f"<Hall {', '.join(sorted(self._places))}>"

    def exchange(self, address: str, *, role: str = "manager") -> InProcessExchange:
        """The exchange for one process, which the others reach at `address`."""
        return InProcessExchange(self, address, role)

    def fate(self, source: str, target: str, question: Message) -> Fate:
        said = (rule(source, target, question) for rule in self.rules)
        return next((fate for fate in said if fate is not None), Fate.ANSWERED)

    def find(self, source: str, target: str) -> _Place | None:
        """Who answers there, if they are connected."""
        return None if {source, target} & self._away else self._places.get(target)

    def enter(self, place: _Place) -> None:
        others = [one for one in self._places.values() if one.peer.name not in self._away]
        self._places[place.peer.name] = place
        if place.peer.name not in self._away:
            _tell(place, others, lambda peer: Connected(peer))

    def leave(self, name: str) -> None:
        place = self._places.pop(name, None)
        if place is not None and name not in self._away:
            _tell(place, list(self._places.values()), lambda peer: Lost(peer, "it was closed"), both=False)

    def disconnect(self, name: str) -> None:
        """It loses its connections, and they it; questions between them are certainly not asked."""
        if name not in self._away:
            self._away.add(name)
            self._tell_others(name, lambda peer: Lost(peer, "the test cut it"))

    def reconnect(self, name: str) -> None:
        """The other way round."""
        if name in self._away:
            self._away.discard(name)
            self._tell_others(name, lambda peer: Connected(peer))

    def _tell_others(self, name: str, event: Callable[[Peer], LinkEvent]) -> None:
        place = self._places.get(name)
        if place is not None:
            others = [one for other, one in self._places.items() if other != name and other not in self._away]
            _tell(place, others, event)


def _tell(place: _Place, others: list[_Place], event: Callable[[Peer], LinkEvent], *, both: bool = True) -> None:
    for other in others:
        other.noticed(event(place.peer))
        if both:
            place.noticed(event(other.peer))


class InProcessExchange(Exchange):
    """One process's exchange. Made by `Hall.exchange`."""

    def __init__(self, hall: Hall, address: str, role: str) -> None:
        self._hall = hall
        self._address = address
        self._role = role

    def __repr__(self) -> str:
        return f"<InProcessExchange {self._address} in {self._hall!r}>"

    @property
    def address(self) -> str:
        return self._address

    def serve(
        self, answer: Callable[[Message], Script[Message]], *, runtime: Runtime, guid: Guid, random: Random
    ) -> None:
        """See `Exchange.serve`."""
        self.serve_peers(lambda _, question: answer(question), runtime=runtime, guid=guid, random=random)

    def serve_peers(
        self,
        answer: Answer,
        *,
        runtime: Runtime,
        guid: Guid,
        random: Random,
        noticed: Callable[[LinkEvent], None] = lambda _: None,
    ) -> None:
        """See `LinkExchange.serve_peers`."""
        peer = Peer(name=self._address, guid=guid, role=self._role, instance=random.bytes(8))
        self._peer = peer
        runner = cast(_Runner, runtime)  # both runners are more than a Runtime
        self._hall.enter(_Place(peer, answer, runner, noticed))

    def close(self) -> None:
        """See `Exchange.close`."""
        self._hall.leave(self._address)

    def ask(self, address: str, question: Message, seconds: float) -> Script[Message]:
        """See `Exchange.ask`. It waits as long as the other takes."""
        hall, what = self._hall, type(question).__name__
        hall.asked.append((self._address, address, what))
        fate = hall.fate(self._address, address, question)
        if fate is Fate.LOST:
            raise ConnectionLost(f"{what} to {address} was lost.")
        raw = hall.vocabulary.encode(question)
        answer = yield self._step(address, raw, what)
        if fate is Fate.TWICE:
            answer = yield self._step(address, raw, what)
        if fate is Fate.UNANSWERED:
            raise ConnectionLost(f"The answer of {address} to {what} was lost.")
        if isinstance(answer, SyncpointError):
            raise ConnectionLost(f"{address} gave no answer to {what}.") from answer
        return hall.vocabulary.decode(hall.vocabulary.encode(answer))

    def _step(self, address: str, raw: bytes, what: str) -> Call:
        there = self._hall.find(self._address, address)
        if there is None:
            raise ResourceUnavailable(f"Nobody answers at {address}.", advice="Start the manager there.")
        place, vocabulary, peer = there, self._hall.vocabulary, self._peer
        return Call(lambda: place.runner.run(_answered(place.answer, peer, vocabulary, raw)), f"ask {what}")


def _answered(answer: Answer, peer: Peer, vocabulary: Vocabulary, raw: bytes) -> Script[Message | SyncpointError]:
    try:
        return (yield from answer(peer, vocabulary.decode(raw)))
    except SyncpointError as error:
        return error
