"""Who may ask what of the node, and what a desk of it can reach.

    class Registry:                                        # a desk (journal.node_link.Desk)
        def __init__(self, site: Site) -> None: ...
        def answers(self, peer, question): ...             # a script, or None: another desk's question
        def noticed(self, event): ...

A peer's role is what it says of itself, once its certificate or its user has been checked against the roster: it keeps
honest processes from mistakes. Not for: answering (journal_host.py, registry.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from syncpoint.journal import node_messages as journal
from syncpoint.journal.folder import FolderJournal
from syncpoint.messages import Message
from syncpoint.ports import Clock, Peer, Random, Runtime
from syncpoint.resources import node_messages as resources
from syncpoint.steps import Script

MANAGER, RESOURCE, OPERATOR = "manager", "resource", "operator"
PREFIXES = {MANAGER: "app-", RESOURCE: "rm-", OPERATOR: "op-"}

_MAY_ASK: dict[str, tuple[type[Message], ...]] = {
    MANAGER: (journal.OpenSession, journal.OfSession, resources.ToResource),
    RESOURCE: (
        resources.Enrol,
        resources.Reconcile,
        resources.AskOutcome,
        resources.Opened,
        resources.Health,
        resources.Resign,
    ),
    OPERATOR: (journal.AskStatus, resources.ListResources, resources.TakeOver),
}


def may_ask(peer: Peer, question: Message) -> bool:
    """Whether a peer of this role may put this question."""
    return isinstance(question, _MAY_ASK.get(peer.role, ()))


class Site(Protocol):
    """What the node offers to its desks. Fulfilled by `server.Node`."""

    runtime: Runtime
    clock: Clock
    random: Random

    @property
    def journal(self) -> FolderJournal:
        """The node's own: what the dead left is in it. `look` takes over what is left just now. Names and incarnations
        of resource managers are forced into it."""
        ...

    def applications(self) -> Sequence[Peer]:
        """Connected managers that can decide something."""
        ...

    def sessions(self) -> Sequence[str]:
        """Names of the applications that can decide something, connected or not."""
        ...

    def fence(self, application: str) -> Script[None]:
        """When this returns, that application decides nothing more that it has begun; what it decided is in the
        journal."""
        ...

    def ask(self, peer: str, question: Message, seconds: float) -> Script[Message]:
        """Ask a connected process. Raises ResourceUnavailable (certainly not asked), ConnectionLost."""
        ...

    def recover(self) -> None:
        """Have every resource's branches looked for now."""
        ...
