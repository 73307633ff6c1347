"""The votes that a manager has accepted from processes with incarnations, and what it tells their backups (B2, B7, B8).

A desk of the link to the node: `AskVotes` is answered here. The rules stand in protocol/votebook.py; here is when a
vote is entered, looked at and forgotten. Not for: the vote itself (commit.py), or asking (node/reconciling.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncpoint.errors import ResourceUnavailable
from syncpoint.ids import Guid, Identifier, Incarnation, Key
from syncpoint.marks import sometimes
from syncpoint.messages import Message
from syncpoint.ports import LinkEvent, Peer
from syncpoint.protocol.votebook import Accepted, VoteBook
from syncpoint.records import Commit, Prepared
from syncpoint.resources.base import Choice, Vote
from syncpoint.resources.node_messages import AskVotes, BranchState, Fenced, Votes
from syncpoint.steps import Script

if TYPE_CHECKING:
    from syncpoint.manager.branch import Branch
    from syncpoint.manager.core import Core
    from syncpoint.manager.transaction import Work
    from syncpoint.protocol.coordinator import Coordinator

__all__ = ["KeptVotes"]


class KeptVotes:
    """Parameters: `core`, the manager's. Safe to call from any thread."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._book = VoteBook()

    def __repr__(self) -> str:
        return f"<KeptVotes {self._book!r}>"

    # --- Desk ------------------------------------------------------------------------------------------------

    def answers(self, peer: Peer, question: Message) -> Script[Message] | None:
        """See `journal.node_link.Desk.answers`."""
        return self._answer(question) if isinstance(question, AskVotes) else None

    def noticed(self, event: LinkEvent) -> None:
        """See `journal.node_link.Desk.noticed`."""

    def _answer(self, question: AskVotes) -> Script[Message]:
        self._core.check_journal()  # after a failure it answers nothing more (R5): it is fenced
        guid, incarnation = Guid(question.guid), Incarnation(question.incarnation)
        about = Identifier.from_bytes(question.about) if question.about else None
        with self._core.mutex:
            held = self._book.asked(guid, incarnation, about)
            floor = self._book.floor(guid)
        if held is None:
            return Fenced(incarnation=floor)
        if held:
            sometimes("a manager told a backup what it had not decided")
        return Votes(
            undecided=tuple(BranchState(identifier=one.identifier.to_bytes(), state=one.state) for one in held)
        )
        yield from ()

    # --- for the end of a transaction --------------------------------------------------------------------------

    def take(self, work: Work, branch: Branch, vote: Vote) -> str:
        """A vote came in. Why it counts as no although it is a yes: its incarnation is fenced. Empty: it counts."""
        if vote.choice is not Choice.YES or not vote.incarnation:
            return ""
        assert branch.handle.guid is not None
        accepted = Accepted(branch.identifier, branch.handle.guid, Incarnation(vote.incarnation), vote.state)
        with self._core.mutex:
            if self._book.accept(accepted):
                return ""
        sometimes("the vote of a fenced resource manager was not taken")
        why = f"{branch.handle.name!r} was taken over after it had voted, and nobody knows of that vote any more"
        work.error = work.error or ResourceUnavailable(f"The resource {why}.", advice="Run the transaction again.")
        return why

    def against(self, record: Commit | Prepared) -> str:
        """Right before it is forced: why it must not be, or nothing."""
        if not self._book:
            return ""
        with self._core.mutex:
            against = self._book.against(entry.read_identifier() for entry in record.branches)
        return f"{len(against)} of its votes are of resource managers that were replaced" if against else ""

    def forget(self, coordinator: Coordinator) -> None:
        """Its Commit record is durable, or it is aborted."""
        with self._core.mutex:
            self._book.forget([coordinator.identifier(number) for number in coordinator.branches])

    def forget_key(self, key: Key) -> None:
        """The same, for a transaction that was handed over to recovery."""
        with self._core.mutex:
            self._book.forget([one.identifier for one in self._book.votes() if one.identifier.key == key])
