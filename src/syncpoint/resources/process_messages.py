"""What a manager says to a resource manager that runs as a process, and what that answers.

The questions are those of `resources.base.Resource`, one message each; they travel inside `node_messages.ToResource`
through the node, which alone knows where the process is now and which incarnation of it counts (B7, A6).

    Meet        -> Met            first contact of a manager (O53)
    Begin       -> Done           a branch begins, on a session that the manager names
    Execute     -> Rows           SQL, at a database
    Invoke      -> Value          a method of the work's object, at a resource manager of a user's own
    Savepoint   -> Done
    AskWrote    -> Wrote
    Prepare     -> Voted          A1, B1, B2: the vote carries state information, and whose incarnation gave it
    CommitOnePhase -> Voted | Ended
    End         -> Ended          phase two, or an abort, on the branch's own session
    Scan        -> Scanned        the branches that have voted and have no outcome
    Finish      -> Ended          an outcome, by identifier, from whoever has to see it finished
    AskEvidence -> EvidenceSaid
    Redo        -> Ended
    ListEvidence -> Attempts
    DropEvidence -> Dropped
    Leave       -> Done           the session is not used any more; what has not voted on it is rolled back

Instead of any answer: Failure. A question may arrive twice: `number` counts a session's questions, and the second
time the first answer is given again. Not for: who may ask, and taking over (node_messages.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from syncpoint.messages import LINK_VOCABULARY, GuidBytes, Message, Number

IdentifierBytes = Annotated[bytes, msgspec.Meta(min_length=43, max_length=43)]
SessionBytes = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
"""Drawn at random by the manager, for one branch."""
Text = Annotated[str, msgspec.Meta(max_length=10_000)]
AttemptNumber = Annotated[int, msgspec.Meta(ge=0)]
AnswerName = Annotated[str, msgspec.Meta(max_length=32)]
"""The name of an `Answer`, a `Choice` or an `Evidence`."""


class Question(Message, frozen=True, array_like=True, kw_only=True, tag="rm-question"):
    """Base of those that are about one session."""

    session: SessionBytes
    number: Number
    """Counts the session's questions, from 1."""


class Meet(Message, frozen=True, array_like=True, kw_only=True, tag="rm-meet"):
    coordinator: GuidBytes
    incarnation: Number
    highest: Number


class Met(Message, frozen=True, array_like=True, kw_only=True, tag="rm-met"):
    guid: GuidBytes
    scheme: Text
    single_writer: bool
    has_redo: bool
    speaks_sql: bool = True


class Done(Message, frozen=True, array_like=True, kw_only=True, tag="rm-done"):
    """It is done, and there is nothing to say."""


class Begin(Question, frozen=True, array_like=True, kw_only=True, tag="rm-begin"):
    identifier: IdentifierBytes
    remaining_ms: Number
    read_only: bool = False


class Execute(Question, frozen=True, array_like=True, kw_only=True, tag="rm-execute"):
    sql: str
    parameters: Any = None
    """A list, a mapping, or None: of what MessagePack has."""
    many: bool = False
    """`parameters` is a list of such: the statement is run once for each."""


class Rows(Message, frozen=True, array_like=True, kw_only=True, tag="rm-rows"):
    columns: tuple[str, ...]
    rows: tuple[Any, ...]
    changed: int = -1
    """How many rows a statement changed; -1: it is not known."""


class Invoke(Question, frozen=True, array_like=True, kw_only=True, tag="rm-invoke"):
    method: Annotated[str, msgspec.Meta(max_length=200)]
    arguments: tuple[Any, ...] = ()
    named: dict[str, Any] = msgspec.field(default_factory=dict)


class Value(Message, frozen=True, array_like=True, kw_only=True, tag="rm-value"):
    value: Any = None


class Savepoint(Question, frozen=True, array_like=True, kw_only=True, tag="rm-savepoint"):
    name: Annotated[str, msgspec.Meta(max_length=200)]
    what: Annotated[str, msgspec.Meta(pattern="^(set|release|rollback)$")]


class AskWrote(Question, frozen=True, array_like=True, kw_only=True, tag="rm-ask-wrote"):
    pass


class Wrote(Message, frozen=True, array_like=True, kw_only=True, tag="rm-wrote"):
    wrote: bool | None


class Prepare(Question, frozen=True, array_like=True, kw_only=True, tag="rm-prepare"):
    pass


class Voted(Message, frozen=True, array_like=True, kw_only=True, tag="rm-voted"):
    choice: AnswerName
    state: bytes = b""
    why: Text = ""
    retryable: bool = False
    incarnation: Number = 0
    """Of the process that votes, as its data have it."""


class CommitOnePhase(Question, frozen=True, array_like=True, kw_only=True, tag="rm-commit-one-phase"):
    pass


class End(Question, frozen=True, array_like=True, kw_only=True, tag="rm-end"):
    commit: bool


class Ended(Message, frozen=True, array_like=True, kw_only=True, tag="rm-ended"):
    answer: AnswerName


class Scan(Message, frozen=True, array_like=True, kw_only=True, tag="rm-scan"):
    pass


class Seen(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A branch that a scan saw; `identifier` is None for a foreign one (O33)."""

    identifier: bytes | None
    name: str
    note: str = ""
    prepared_at_ms: int | None = None


class Scanned(Message, frozen=True, array_like=True, kw_only=True, tag="rm-scanned"):
    found: tuple[Seen, ...]


class Finish(Message, frozen=True, array_like=True, kw_only=True, tag="rm-finish"):
    identifier: IdentifierBytes
    commit: bool
    state: bytes = b""


class AskEvidence(Message, frozen=True, array_like=True, kw_only=True, tag="rm-ask-evidence"):
    identifier: IdentifierBytes
    settle: bool = False
    """After a one-phase commit whose reply was lost: `Resource.settle`."""


class EvidenceSaid(Message, frozen=True, array_like=True, kw_only=True, tag="rm-evidence"):
    evidence: AnswerName


class Redo(Message, frozen=True, array_like=True, kw_only=True, tag="rm-redo"):
    identifier: IdentifierBytes
    state: bytes


class ListEvidence(Message, frozen=True, array_like=True, kw_only=True, tag="rm-list-evidence"):
    coordinator: GuidBytes
    after: AttemptNumber
    limit: Number


class Attempts(Message, frozen=True, array_like=True, kw_only=True, tag="rm-attempts"):
    attempts: tuple[AttemptNumber, ...]


class DropEvidence(Message, frozen=True, array_like=True, kw_only=True, tag="rm-drop-evidence"):
    coordinator: GuidBytes
    attempts: tuple[AttemptNumber, ...]


class Dropped(Message, frozen=True, array_like=True, kw_only=True, tag="rm-dropped"):
    rows: Number


class Leave(Question, frozen=True, array_like=True, kw_only=True, tag="rm-leave"):
    pass


class Failure(Message, frozen=True, array_like=True, kw_only=True, tag="rm-failure"):
    """It was not done. `kind` is the name of an exception of syncpoint.errors, or "ConnectionLost" when it is not known
    whether it was done, or the driver's own ("apsw.ConstraintError"), raised again as `RemoteError` of that name."""

    kind: Annotated[str, msgspec.Meta(max_length=200)]
    message: Text
    advice: Text = ""
    retryable: bool = False


RESOURCE_VOCABULARY: Final = LINK_VOCABULARY.extended(
    Meet,
    Met,
    Done,
    Begin,
    Execute,
    Rows,
    Invoke,
    Value,
    Savepoint,
    AskWrote,
    Wrote,
    Prepare,
    Voted,
    CommitOnePhase,
    End,
    Ended,
    Scan,
    Scanned,
    Finish,
    AskEvidence,
    EvidenceSaid,
    Redo,
    ListEvidence,
    Attempts,
    DropEvidence,
    Dropped,
    Leave,
    Failure,
)
