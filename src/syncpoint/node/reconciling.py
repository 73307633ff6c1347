"""Gather what a backup must know: ask every manager for its votes, fence who is silent, then read the journal (B8, B9).

    snapshot = yield from gather(site, registry.round(guid, incarnation, site.sessions()))

The order is the rule (protocol/reconciling.py); here are the questions. Not for: who may have the answer (registry.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from syncpoint.errors import ConnectionLost, ResourceUnavailable
from syncpoint.ids import Identifier
from syncpoint.journal.base import Journal
from syncpoint.marks import sometimes
from syncpoint.messages import Message
from syncpoint.ports import Clock, Runtime
from syncpoint.protocol.takeover import Round, Snapshot, Undone
from syncpoint.resources.node_messages import AskVotes, BranchState, Fenced, Votes
from syncpoint.steps import Done, Failed, Gather, Script

log = logging.getLogger("syncpoint.node")

VOTES_S_MAX = 1.0
"""How long a manager's answer is waited for, each of the two times that it is asked. Then it is fenced."""


class Site(Protocol):
    """What of the node is needed here and in the registry. Fulfilled by `server.Node`."""

    @property
    def runtime(self) -> Runtime: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def journal(self) -> Journal:
        """The node's own."""
        ...

    def sessions(self) -> Sequence[str]:
        """Names of the applications that can decide something, connected or not."""
        ...

    def fence(self, application: str) -> Script[None]:
        """When this returns, that application decides nothing more that it has begun."""
        ...

    def write_notes(self) -> Script[None]:
        """What applications have noted, and is written with what they decide next, is in the journal when this
        returns. Raises JournalFailed."""
        ...

    def ask(self, peer: str, question: Message, seconds: float) -> Script[Message]:
        """Ask a connected process. Raises ResourceUnavailable (certainly not asked), ConnectionLost."""
        ...

    def recover(self) -> None:
        """Have every resource's branches looked for now."""
        ...


class LaterBackup(Exception):
    """A manager knows of a later incarnation: this round's asker is fenced."""


def gather(site: Site, asked: Round, about: bytes = b"") -> Script[Snapshot]:
    """`about`: the identifier of the one branch whose outcome is wanted. Raises LaterBackup, JournalFailed."""
    scripts = [_ask(site, asked, manager, about) for manager in asked.waiting]
    for outcome in (yield Gather(scripts, "ask every manager for its votes")) if scripts else ():
        if isinstance(outcome, Failed):
            raise outcome.error
        assert isinstance(outcome, Done)
    holding = yield from site.journal.holding(asked.guid)
    if holding.promised:  # the end of an aborted one is written lazily, and perhaps nothing follows that takes it along
        yield from site.write_notes()
        holding = yield from site.journal.holding(asked.guid)
    return asked.snapshot(holding.commits, holding.promised)


def _ask(site: Site, asked: Round, manager: str, about: bytes) -> Script[None]:
    question = AskVotes(guid=asked.guid.raw, incarnation=asked.incarnation, about=about)
    for _ in range(2):
        try:
            answer = yield from site.ask(manager, question, VOTES_S_MAX)
        except ResourceUnavailable:
            break  # it is not connected
        except ConnectionLost:
            continue
        if isinstance(answer, Fenced):
            raise LaterBackup
        if isinstance(answer, Votes):
            asked.answered(manager, [undone(one) for one in answer.undecided])
            return
        log.error("%s answered AskVotes with %s.", manager, type(answer).__name__)
        break
    sometimes("a manager did not tell its votes, and was fenced")
    log.warning("%s does not say what it has not decided: it is fenced, so that a backup can take over.", manager)
    asked.silent(manager)
    yield from site.fence(manager)
    asked.fenced(manager)


def undone(branch: BranchState) -> Undone:
    """Raises NotOurs."""
    return Undone(Identifier.from_bytes(branch.identifier), branch.state)


def branch_state(branch: Undone) -> BranchState:
    return BranchState(identifier=branch.identifier.to_bytes(), state=branch.state)
