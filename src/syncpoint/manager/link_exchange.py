"""The managers of a tree over real links (`link/exchange.py`), and who may ask what.

    Tree(exchange=LinkExchange(LinkSettings(cluster="shop", name="orders", …)), keys=[…])

The link proves who is at the other end; here is checked that nobody speaks for another: only a branch's superior asks
for its vote and tells its outcome, and everybody joins and asks under their own GUID. The link's GUID is the manager's
coordinator's, whatever the settings say. Not for: what questions mean (answering.py).
"""

from __future__ import annotations

from collections.abc import Callable

from syncpoint.ids import Identifier
from syncpoint.link import exchange
from syncpoint.link.settings import LinkSettings
from syncpoint.messages import Message
from syncpoint.ports import Link, Peer, Random, Runtime
from syncpoint.resources.subordinate_messages import (
    TREE_VOCABULARY,
    AskInDoubt,
    AskOutcome,
    Greet,
    Join,
    Prepare,
    Tell,
)


def may_ask(peer: Peer, question: Message) -> bool:
    """Whether this peer may put this question: it speaks for itself alone."""
    own = peer.guid.raw
    match question:
        case Greet():
            return True
        case Join() | AskOutcome():
            return question.guid == own and question.address == peer.name
        case Prepare() | Tell():
            return Identifier.from_bytes(question.identifier).coordinator == peer.guid
        case AskInDoubt():
            return question.superior == own
    return False


class LinkExchange(exchange.LinkExchange):
    """One manager's exchange. The link is opened when the manager opens, and closed with it.

    Parameters: `settings` of the link; its `name` is the address under which others reach this manager, and must stay
    the same over restarts. `open_link` makes the link, for tests.
    """

    def __init__(
        self, settings: LinkSettings, *, open_link: Callable[[LinkSettings, Runtime, Random], Link] | None = None
    ) -> None:
        super().__init__(settings, vocabulary=TREE_VOCABULARY, may_ask=may_ask, open_link=open_link)
