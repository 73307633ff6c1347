"""A process's one connection to the node of its site, shared by its journal and its resources.

    link = NodeLink(LinkExchange(settings, vocabulary=NODE_VOCABULARY, may_ask=…), node="site-a")
    link.desks.append(votes)            # answers what the node asks
    link.open(runtime, random)          # the journal does it, and closes it last
    answer = yield from link.ask(Force(…), 5.0)

Not for: what is asked (node_messages.py), or sockets (link/, which this layer does not know).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from syncpoint.errors import ManagerClosed
from syncpoint.ids import Guid
from syncpoint.messages import Message
from syncpoint.ports import LinkEvent, Peer, Random, Runtime
from syncpoint.steps import Script


class PeerExchange(Protocol):
    """An exchange whose answers may depend on who asks: `link.exchange.LinkExchange`."""

    @property
    def address(self) -> str: ...

    def serve_peers(
        self,
        answer: Callable[[Peer, Message], Script[Message]],
        *,
        runtime: Runtime,
        guid: Guid,
        random: Random,
        noticed: Callable[[LinkEvent], None] = ...,
    ) -> None: ...

    def ask(self, address: str, question: Message, seconds: float) -> Any: ...

    def close(self) -> None: ...


class Desk(Protocol):
    """One subject that is asked about over a link. Called from many threads."""

    def answers(self, peer: Peer, question: Message) -> Script[Message] | None:
        """The script that answers; None: another desk's. One that raises a SyncpointError gives no answer."""
        ...

    def noticed(self, event: LinkEvent) -> None:
        """Somebody was connected, or lost. Called in order; must not wait."""
        ...


class NodeLink:
    """Parameters: `exchange`, not yet serving; `node`, the name of the node there."""

    def __init__(self, exchange: PeerExchange, *, node: str) -> None:
        self.exchange = exchange
        self.node = node
        self.desks: list[Desk] = []

    def __repr__(self) -> str:
        return f"<NodeLink {self.exchange.address} to {self.node}>"

    def open(self, runtime: Runtime, random: Random) -> None:
        """Raises ConfigurationError."""
        guid = Guid(random.bytes(16))  # of this process only: it tells it from others of its name, which there are none
        self.exchange.serve_peers(self._answer, runtime=runtime, guid=guid, random=random, noticed=self._noticed)

    def ask(self, question: Message, seconds: float) -> Script[Message]:
        """Ask the node. Raises ResourceUnavailable (certainly not asked), ConnectionLost (unknown whether it was)."""
        answer: Message = yield from self.exchange.ask(self.node, question, seconds)
        return answer

    def close(self) -> None:
        """Never raises."""
        self.exchange.close()

    def _answer(self, peer: Peer, question: Message) -> Script[Message]:
        return (yield from answer_at(self.desks, peer, question))

    def _noticed(self, event: LinkEvent) -> None:
        for desk in self.desks:
            desk.noticed(event)


def answer_at(desks: list[Desk], peer: Peer, question: Message) -> Script[Message]:
    """The answer of the desk whose question it is. Raises ManagerClosed (no answer) when it is nobody's."""
    for desk in desks:
        script = desk.answers(peer, question)
        if script is not None:
            return (yield from script)
    raise ManagerClosed(f"{type(question).__name__} of {peer} is nobody's question here.")
