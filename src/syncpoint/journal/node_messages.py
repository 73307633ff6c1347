"""What an application's journal says to the node that keeps it (`journal="node://…"`), and the node's whole vocabulary.

    OpenSession  -> SessionOpened | SessionRefused     an incarnation, forced before this answer
    Force        -> Verdicts         records, durable before the answer
    TakeClaim    -> Claimed          C7
    Look         -> Looked, in pages for recovery
    Find, AskStory, ListNotes, ListKeys, AskKnown -> Records | Keys     what is written about one transaction, or known
    AskCounter, AskEnded -> Incarnations
    AskUnended, AskSession -> Said
    RefuseForGood, Flush, CloseSession -> Kept
    AskStatus    -> Status           from an operator: `syncpoint node --check`

A session is one incarnation: a folder journal of its own that the node holds open for that application. Each question
names its session and its own number in it, and carries what could wait until now: Ends, and claims to be given back.
A question that arrives twice has one effect, and the same answer. Instead of any answer: `SessionOver`, when the
session is over; whatever was asked was then certainly not done by this question.

Not for: resource managers (resources/node_messages.py).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from syncpoint.messages import LINK_VOCABULARY, GuidBytes, Message, Number
from syncpoint.resources.node_messages import NODE_RESOURCE_TYPES
from syncpoint.resources.process_messages import Text

TransactionBytes = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
RecordBytes = bytes
"""As `records.encode_record` has them."""


class OpenSession(Message, frozen=True, array_like=True, kw_only=True, tag="nj-open"):
    session: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    """Counts the sessions of one process from 1: a later one ends the one before, an earlier one is refused."""
    place: Text = ""
    """Where the application runs, for people."""


class SessionOpened(Message, frozen=True, array_like=True, kw_only=True, tag="nj-opened"):
    coordinator: GuidBytes
    incarnation: Number
    known: tuple[RecordBytes, ...]
    """Of resources and coordinators."""


class SessionRefused(Message, frozen=True, array_like=True, kw_only=True, tag="nj-refused"):
    """The journal cannot be used as it stands."""

    why: Text
    advice: Text = ""


class SessionOver(Message, frozen=True, array_like=True, kw_only=True, tag="nj-over"):
    """The application was taken for dead, or the node has been restarted: what it had not decided is aborted. Nothing
    was done of what was asked."""

    why: Text


class OfSession(Message, frozen=True, array_like=True, kw_only=True, tag="nj-of-session"):
    """Base of what is asked in a session."""

    session: Number
    number: Number
    noted: tuple[RecordBytes, ...] = ()
    """To be written with the next force."""
    released: tuple[Number, ...] = ()
    """The numbers of the `TakeClaim` whose claims are given back."""


class Force(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-force"):
    records: tuple[RecordBytes, ...]


class Verdicts(Message, frozen=True, array_like=True, kw_only=True, tag="nj-verdicts"):
    accepted: tuple[bool, ...]


class TakeClaim(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-claim"):
    transaction: TransactionBytes


class Claimed(Message, frozen=True, array_like=True, kw_only=True, tag="nj-claimed"):
    mine: bool = False
    running: bool = False
    committed: RecordBytes = b""


class Look(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-look"):
    page: Number = 0
    """The first one takes the snapshot; the following ones are of that same snapshot, by the number of its question."""
    of: Number = 0


class Looked(Message, frozen=True, array_like=True, kw_only=True, tag="nj-looked"):
    """One page of a snapshot; the small lists are on the first."""

    pages: Number
    decisions: tuple[RecordBytes, ...] = ()
    promised: tuple[RecordBytes, ...] = ()
    promised_elsewhere: tuple[RecordBytes, ...] = ()
    live: tuple[int, ...] = ()
    elsewhere: tuple[tuple[bytes, int], ...] = ()
    ended: tuple[tuple[bytes, int], ...] = ()
    coordinators: tuple[bytes, ...] = ()
    known: tuple[RecordBytes, ...] = ()


class Find(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-find"):
    transaction: TransactionBytes


class AskStory(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-story"):
    transaction: TransactionBytes


class ListNotes(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-notes"):
    """Heuristic outcomes, or with `resolutions` what operators forced."""

    resolutions: bool = False


class AskKnown(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-known"):
    pass


class Records(Message, frozen=True, array_like=True, kw_only=True, tag="nj-records"):
    records: tuple[RecordBytes, ...]
    by: tuple[int, ...] = ()
    """For a story: the incarnation that wrote each."""


class ListKeys(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-list-keys"):
    pass


class Keys(Message, frozen=True, array_like=True, kw_only=True, tag="nj-keys"):
    keys: tuple[tuple[bytes, int], ...]


class AskCounter(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-counter"):
    pass


class AskEnded(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-ended"):
    candidates: tuple[int, ...]


class Incarnations(Message, frozen=True, array_like=True, kw_only=True, tag="nj-incarnations"):
    incarnations: tuple[int, ...]


class AskUnended(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-unended"):
    transaction: TransactionBytes
    attempt: int


class AskSession(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-session"):
    """Whether it is not over yet (`Journal.confirm`)."""


class Said(Message, frozen=True, array_like=True, kw_only=True, tag="nj-said"):
    yes: bool


class RefuseForGood(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-refuse-for-good"):
    why: Text


class Flush(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-flush"):
    """Only what it carries; on disk before the answer if it is to be `durable`."""

    durable: bool = False


class CloseSession(OfSession, frozen=True, array_like=True, kw_only=True, tag="nj-close"):
    pass


class Kept(Message, frozen=True, array_like=True, kw_only=True, tag="nj-kept"):
    pass


class AskStatus(Message, frozen=True, array_like=True, kw_only=True, tag="nj-ask-status"):
    pass


class Status(Message, frozen=True, array_like=True, kw_only=True, tag="nj-status"):
    ready: bool
    failed: bool = False
    """Its disk has failed: it is about to end."""
    why: Text = ""
    incarnation: Number = 0
    coordinator: Annotated[bytes, msgspec.Meta(max_length=16)] = b""
    applications: tuple[str, ...] = ()
    unfinished: dict[str, str] = msgspec.field(default_factory=dict)
    """Resources that recovery has trouble with, and which."""


NODE_JOURNAL_TYPES: Final = (
    OpenSession,
    SessionOpened,
    SessionRefused,
    SessionOver,
    Force,
    Verdicts,
    TakeClaim,
    Claimed,
    Look,
    Looked,
    Find,
    AskStory,
    ListNotes,
    AskKnown,
    Records,
    ListKeys,
    Keys,
    AskCounter,
    AskEnded,
    Incarnations,
    AskUnended,
    AskSession,
    Said,
    RefuseForGood,
    Flush,
    CloseSession,
    Kept,
    AskStatus,
    Status,
)

NODE_VOCABULARY: Final = LINK_VOCABULARY.extended(*NODE_JOURNAL_TYPES, *NODE_RESOURCE_TYPES)
"""All that goes to and from a node."""
