"""What a superior and its subordinates say to each other (B10): questions, each with its answer.

    Greet            -> Greeting        who is there
    Join             -> Joined          a subordinate takes part: once for each exported context
                      | NotJoined
    Prepare          -> Voted           A1: carries the identifier
    Tell             -> Told            the outcome; answered when the subordinate will certainly finish it
    AskOutcome       -> Outcome         a subordinate in doubt asks, by identifier (A6, O29)
    AskInDoubt       -> InDoubt         a superior that restarted asks whom it has to tell (A6)

All of them may be repeated: a second one changes nothing. Not for: how they travel (ports.Exchange).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from syncpoint.messages import LINK_VOCABULARY, GuidBytes, Message, Number

IdentifierBytes = Annotated[bytes, msgspec.Meta(min_length=43, max_length=43)]
Ticket = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Text = Annotated[str, msgspec.Meta(max_length=1000)]
Address = Annotated[str, msgspec.Meta(max_length=255)]
AttemptNumber = Annotated[int, msgspec.Meta(ge=0)]


class Greet(Message, frozen=True, array_like=True, kw_only=True, tag="tree-greet"):
    """Who is at this address?"""


class Greeting(Message, frozen=True, array_like=True, kw_only=True, tag="tree-greeting"):
    guid: GuidBytes


class Join(Message, frozen=True, array_like=True, kw_only=True, tag="tree-join"):
    """A subordinate takes part in the transaction of an exported context."""

    ticket: Ticket
    guid: GuidBytes
    """The subordinate's coordinator: the RM's GUID of this branch."""
    address: Address
    attempt: AttemptNumber
    """Which of the subordinate's works this is: only that one may ever vote for this branch."""


class Joined(Message, frozen=True, array_like=True, kw_only=True, tag="tree-joined"):
    identifier: IdentifierBytes
    remaining_ms: Number
    """What is left of the transaction's time."""


class NotJoined(Message, frozen=True, array_like=True, kw_only=True, tag="tree-not-joined"):
    why: Text


class Prepare(Message, frozen=True, array_like=True, kw_only=True, tag="tree-prepare"):
    identifier: IdentifierBytes
    attempt: AttemptNumber
    """The work that joined, as it said: another one under the same identifier has lost what that did, and votes no."""


class Voted(Message, frozen=True, array_like=True, kw_only=True, tag="tree-voted"):
    choice: Annotated[str, msgspec.Meta(pattern="^(YES|NO|READ_ONLY)$")]
    why: Text = ""
    retryable: bool = False


class Tell(Message, frozen=True, array_like=True, kw_only=True, tag="tree-tell"):
    identifier: IdentifierBytes
    commit: bool


class Told(Message, frozen=True, array_like=True, kw_only=True, tag="tree-told"):
    answer: Annotated[str, msgspec.Meta(max_length=32)]
    """An `Answer` name."""


class AskOutcome(Message, frozen=True, array_like=True, kw_only=True, tag="tree-ask-outcome"):
    identifier: IdentifierBytes
    guid: GuidBytes
    address: Address
    """Who asks, and where it is now: the superior's directory follows it (A6)."""


class Outcome(Message, frozen=True, array_like=True, kw_only=True, tag="tree-outcome"):
    decision: Annotated[str, msgspec.Meta(pattern="^(COMMIT|ABORT|UNKNOWN)$")]


class AskInDoubt(Message, frozen=True, array_like=True, kw_only=True, tag="tree-ask-in-doubt"):
    superior: GuidBytes


class InDoubt(Message, frozen=True, array_like=True, kw_only=True, tag="tree-in-doubt"):
    identifiers: tuple[IdentifierBytes, ...]


TREE_VOCABULARY: Final = LINK_VOCABULARY.extended(
    Greet,
    Greeting,
    Join,
    Joined,
    NotJoined,
    Prepare,
    Voted,
    Tell,
    Told,
    AskOutcome,
    Outcome,
    AskInDoubt,
    InDoubt,
)
