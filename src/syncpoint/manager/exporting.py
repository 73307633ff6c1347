"""The superior's side of a tree: exported contexts, who joins with them, and where subordinates are (A6, B10).

    export(work)     -> a context with a fresh ticket; nothing is enlisted yet
    let_join(Join)   -> one more branch, for the first who comes with that ticket while the transaction is being
    worked on

From then on the subordinate is a branch like any other (resources/subordinate.py). Before it is one, its address is
forced into the directory: a restarted superior has to know whom to tell. Not for: taking part (joining.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncpoint.ids import Attempt, Guid
from syncpoint.journal.base import View
from syncpoint.manager import contexts
from syncpoint.manager.branch import Branch
from syncpoint.manager.contexts import TICKET_SIZE_BYTES, Context
from syncpoint.manager.handle import ResourceHandle
from syncpoint.manager.transaction import Used, Work
from syncpoint.manager.tree import tree_of
from syncpoint.marks import sometimes
from syncpoint.messages import Message
from syncpoint.records import CoordinatorKnown
from syncpoint.resources.subordinate import Joining, SubordinateResource, SubordinateSession, node_name
from syncpoint.resources.subordinate_messages import Join, Joined, NotJoined
from syncpoint.steps import Script

if TYPE_CHECKING:
    from syncpoint.manager.core import Core

NODE_POOL_SIZE_MAX = 4


def export(work: Work) -> Context:
    """A context with which one other manager can join. Raises TransactionEnded, ConfigurationError (in no tree)."""
    core = work.core
    tree = tree_of(core)
    work.check_active()
    ticket = core.random.bytes(TICKET_SIZE_BYTES)
    with core.mutex:
        work.tickets[ticket] = None
        core.place.tickets[ticket] = work
    return contexts.write(
        transaction=work.key.transaction,
        superior=core.journal.coordinator,
        address=tree.exchange.address,
        ticket=ticket,
        expires_at_ms=core.clock.wall_ms() + int(tree.context_lifetime_s * 1000),
        keys=tree.keys,
    )


def let_join(core: Core, question: Join) -> Script[Message]:
    """Somebody has come with a context. Raises JournalError."""
    guid, attempt = Guid(question.guid), Attempt.from_int(question.attempt)
    if guid == core.journal.coordinator:
        return NotJoined(why="it was exported by this very manager")
    if question.ticket not in core.place.tickets:
        return NotJoined(why=_ENDED)
    yield from learn_address(core, guid, question.address)
    handle = node_handle(core, guid)
    handle.met(guid)
    with core.mutex:
        work = core.place.tickets.get(question.ticket)
        if work is None or work.ended or work.is_closed or work.cancelled:
            sometimes("a manager came too late to join")
            return NotJoined(why=_ENDED)
        used = work.tickets[question.ticket]
        if used is not None:
            same = (used.guid, used.attempt) == (question.guid, question.attempt)
            return used.answer if same else NotJoined(why="it was used before: a context is good for one join")
        identifier = work.coordinator.enlist(handle.name, guid)
        branch = Branch(handle, identifier, read_only=False, sessions=Joining())
        branch.session = SubordinateSession(question.address, attempt, work.deadline)
        branch.session.identifier = identifier
        name = handle.name if handle.name not in work.branches else f"{handle.name}#{identifier.branch}"
        work.branches[name] = branch
        remaining_ms = max(0, int((work.deadline - core.clock.monotonic()) * 1000))
        answer = Joined(identifier=identifier.to_bytes(), remaining_ms=remaining_ms)
        work.tickets[question.ticket] = Used(question.guid, question.attempt, answer)
    return answer


_ENDED = "its transaction has ended, or is ending, or was never begun here"


def learn_address(core: Core, guid: Guid, address: str) -> Script[None]:
    """Force where a manager is into the directory, unless that is known (A6)."""
    if address and address_of(core, guid) != address:
        entry = CoordinatorKnown(guid=guid.raw, address=address, at_ms=core.clock.wall_ms())
        yield from core.journal.force((entry,))


def address_of(core: Core, guid: Guid) -> str:
    """Where a manager is, by the directory; empty when that is not known."""
    return next((known.address for known in core.journal.directory() if known.guid == guid.raw), "")


def node_handle(core: Core, guid: Guid) -> ResourceHandle:
    """The handle of a subordinate, made when it is asked for first."""
    handle = core.handles.get(node_name(guid))
    if handle is not None:
        return handle
    resource = SubordinateResource(
        guid,
        superior=lambda: core.journal.coordinator,
        exchange=tree_of(core).exchange,
        address=lambda: address_of(core, guid),
        mode="sync",
        clock=core.clock,
        random=core.random,
    )
    return core.add_resource(resource, NODE_POOL_SIZE_MAX)


def find_subordinates(core: Core, view: View) -> None:
    """After a restart: those that take part in decided transactions get their handles, and so are told (A6)."""
    for commit in view.decisions.values():
        for entry in commit.branches:
            if entry.resource == node_name(Guid(entry.guid)):
                node_handle(core, Guid(entry.guid))
