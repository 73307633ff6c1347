"""How a manager's questions get to a resource manager's process: through the node, which knows where it is.

    port = NodePort(exchange, "site-a")
    incarnation, answer = yield from port.to_resource("audit", 0, question, 5.0)

Not for: what the questions are (process_messages.py).
"""

from __future__ import annotations

from typing import Any, Protocol

from syncpoint.errors import ConnectionLost, ResourceUnavailable
from syncpoint.messages import Message
from syncpoint.resources.node_messages import Fenced, FromResource, NotServed, ToResource
from syncpoint.steps import Script

__all__ = ["Asks", "NodePort", "Port", "ServiceAway"]


class ServiceAway(ResourceUnavailable):
    """No process serves the resource now, or another incarnation does than was meant: certainly nothing was done. A
    backup may be taking over; the same work may succeed in a moment."""


class Port(Protocol):
    """What carries a question to whoever serves a resource now."""

    def to_resource(self, name: str, incarnation: int, question: bytes, seconds: float) -> Script[tuple[int, bytes]]:
        """Ask the process that serves `name`; `incarnation` 0: whichever does. Returns (its incarnation, its answer).

        Raises ResourceUnavailable when it was certainly not done, ConnectionLost when that is unknown.
        """
        ...


class Asks(Protocol):
    """What can put a question to the node: an exchange, or the node itself."""

    def ask(self, address: str, question: Message, seconds: float) -> Any: ...


class NodePort:
    """The port of a manager that has a link to its node: `node` is the node's name on it."""

    def __init__(self, exchange: Asks, node: str) -> None:
        self.exchange = exchange
        self.node = node

    def __repr__(self) -> str:
        return f"<NodePort to {self.node}>"

    def to_resource(self, name: str, incarnation: int, question: bytes, seconds: float) -> Script[tuple[int, bytes]]:
        """See `Port`."""
        message = ToResource(resource=name, incarnation=incarnation, question=question, seconds=seconds)
        said = yield from self.exchange.ask(self.node, message, seconds)
        match said:
            case FromResource():
                return said.incarnation, said.answer
            case NotServed() if said.certain:
                raise ServiceAway(
                    f"The resource {name!r} is not served now: {said.why}.",
                    advice="Nothing was done there. Try again; `syncpoint resource list` tells how it is.",
                )
            case NotServed():
                raise ConnectionLost(f"Whether the process of {name!r} has done it is unknown: {said.why}.")
            case Fenced():
                raise ServiceAway(
                    f"The resource {name!r} is served by incarnation {said.incarnation} now.",
                    advice="Nothing was done there. Run the transaction again.",
                )
        raise ConnectionLost(f"The node {self.node} answered with {type(said).__name__}.")
