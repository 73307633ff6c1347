"""Answers the questions of other managers of a tree: one function for each message.

A question that cannot be answered with certainty gets no answer, and is asked again. Not for: what the answers are
(joining.py, exporting.py, promises.py), or who may ask: the exchange lets in only whom it knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncpoint.errors import ManagerClosed
from syncpoint.ids import Guid, Identifier
from syncpoint.manager import exporting, joining, promises, recovery
from syncpoint.messages import Message
from syncpoint.resources.subordinate_messages import (
    AskInDoubt,
    AskOutcome,
    Greet,
    Greeting,
    Join,
    Outcome,
    Prepare,
    Tell,
)
from syncpoint.steps import Script

if TYPE_CHECKING:
    from syncpoint.manager.core import Core


def answer(core: Core, question: Message) -> Script[Message]:
    """Raises ManagerClosed after the journal has failed (R5), and on what is no question."""
    core.check_journal()
    match question:
        case Greet():
            return Greeting(guid=core.journal.coordinator.raw)
        case Join():
            core.check_open()
            return (yield from exporting.let_join(core, question))
        case Prepare():
            return (yield from joining.prepare(core, question))
        case Tell():
            return (yield from joining.tell(core, question))
        case AskOutcome():
            return (yield from _outcome(core, question))
        case AskInDoubt():
            return (yield from promises.in_doubt_under(core, question))
    raise ManagerClosed(f"{type(question).__name__} is no question of one manager to another.")


def _outcome(core: Core, question: AskOutcome) -> Script[Message]:
    """A subordinate in doubt asks (A6, O29, O30): no record, and certain that none can appear, means abort."""
    yield from exporting.learn_address(core, Guid(question.guid), question.address)
    ruling = yield from recovery.ruling(core, Identifier.from_bytes(question.identifier))
    core.check_journal()
    return Outcome(decision=ruling.decision.name)
