"""What managers, resource-manager processes and operators say to the node of their site about resource managers (B).

    from a manager
      ToResource    -> FromResource | NotServed    carried to the process that serves that resource now
    from a resource-manager process
      Enrol         -> Enrolled | NotEnrolled      B7: the next incarnation under its GUID, forced before this answer
      Reconcile     -> Reconciled                  B8: one snapshot, taken after that force; asked again, the same
      AskOutcome    -> Outcome                     B9: of one branch that was undecided in it
      Opened        -> Noted                       it has finished what was decided, and serves from now on
      Health        -> Noted                       sent often; says when something that it needs is gone (B4)
      Resign        -> Noted                       it stops by itself; not a loss
    from the node to a resource-manager process
      Serve         -> Served                      a manager's question
      Activate      -> Noted                       to a waiting standby: enrol now (B6)
      ManagerGone   -> Noted                       a manager's process is gone: roll back what has not voted
    from the node to a manager
      AskVotes      -> Votes                       what it has accepted from that resource and not decided; from now on
                                                   it takes no vote of a lower incarnation
    from an operator
      ListResources -> Resources                   `syncpoint resource list`
      TakeOver      -> TakeOverPlan                `syncpoint takeover`

Each may be repeated. An incarnation that is not the current one gets `Fenced`, whatever it says, and must stop.
Not for: what managers say to resource managers (process_messages.py).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from syncpoint.messages import GuidBytes, Message, Name, Number
from syncpoint.resources.process_messages import IdentifierBytes, Text

RM_INCARNATION_MIN = 1


class ToResource(Message, frozen=True, array_like=True, kw_only=True, tag="nd-to-resource"):
    resource: Name
    incarnation: Number
    """Which incarnation it is meant for: 0, whichever serves now. A branch begun under one is never continued under
    another."""
    question: bytes
    seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)]
    """For how long an answer is of use."""


class FromResource(Message, frozen=True, array_like=True, kw_only=True, tag="nd-from-resource"):
    incarnation: Number
    """Of the process that answered."""
    answer: bytes


class NotServed(Message, frozen=True, array_like=True, kw_only=True, tag="nd-not-served"):
    """Nobody serves it now, or another incarnation does. With `certain` it was certainly not done; else it is not
    known."""

    why: Text
    certain: bool = True
    incarnation: Number = 0
    """The current one; 0: none yet."""


class Enrol(Message, frozen=True, array_like=True, kw_only=True, tag="nd-enrol"):
    resource: Name
    guid: GuidBytes
    """As it stands in the data."""
    instance: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    """Drawn at each start: the same one enrolling again gets the same incarnation."""
    standby: bool = False
    """It waits, and takes over when it is told to."""
    seen: Number = 0
    """The highest incarnation that the data have seen: a node that knows of less has an older journal."""
    place: Text = ""
    """Where it runs, for people: host and process id."""


class Enrolled(Message, frozen=True, array_like=True, kw_only=True, tag="nd-enrolled"):
    incarnation: Number
    """0: it waits as a standby."""


class NotEnrolled(Message, frozen=True, array_like=True, kw_only=True, tag="nd-not-enrolled"):
    """For example: the name is another GUID's, or a healthy process serves that GUID (claimed twice)."""

    why: Text
    retry: bool = False


class Reconcile(Message, frozen=True, array_like=True, kw_only=True, tag="nd-reconcile"):
    guid: GuidBytes
    incarnation: Number


class BranchState(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One branch, with the state information of its vote (B2, B3)."""

    identifier: IdentifierBytes
    state: bytes = b""


class Reconciled(Message, frozen=True, array_like=True, kw_only=True, tag="nd-reconciled"):
    decided: tuple[BranchState, ...]
    """To be committed, in the order of their Commit records; not yet known to be finished."""
    undecided: tuple[BranchState, ...]
    """Voted yes, accepted, and not decided yet. Whatever else it finds prepared is aborted."""


class AskOutcome(Message, frozen=True, array_like=True, kw_only=True, tag="nd-ask-outcome"):
    guid: GuidBytes
    incarnation: Number
    identifier: IdentifierBytes


class Outcome(Message, frozen=True, array_like=True, kw_only=True, tag="nd-outcome"):
    decision: Annotated[str, msgspec.Meta(pattern="^(COMMIT|ABORT|UNKNOWN)$")]
    state: bytes = b""


class Opened(Message, frozen=True, array_like=True, kw_only=True, tag="nd-opened"):
    guid: GuidBytes
    incarnation: Number
    redone: Number = 0
    """How many decided branches it had to redo."""


class Health(Message, frozen=True, array_like=True, kw_only=True, tag="nd-health"):
    guid: GuidBytes
    incarnation: Number
    trouble: Text = ""
    """Empty: it is well."""
    in_doubt: Number = 0
    oldest_ms: Number = 0
    """The age of the oldest branch that has voted and has no outcome."""
    backlog: Number = 0
    """Questions that wait."""


class Resign(Message, frozen=True, array_like=True, kw_only=True, tag="nd-resign"):
    guid: GuidBytes
    incarnation: Number


class Noted(Message, frozen=True, array_like=True, kw_only=True, tag="nd-noted"):
    pass


class Fenced(Message, frozen=True, array_like=True, kw_only=True, tag="nd-fenced"):
    """Another incarnation counts now (B7): whoever gets this stops, and changes nothing more."""

    incarnation: Number


class Serve(Message, frozen=True, array_like=True, kw_only=True, tag="nd-serve"):
    incarnation: Number
    manager: GuidBytes
    """The coordinator that asks."""
    process: Text
    """Which process of it: the link's name."""
    question: bytes


class Served(Message, frozen=True, array_like=True, kw_only=True, tag="nd-served"):
    answer: bytes


class Activate(Message, frozen=True, array_like=True, kw_only=True, tag="nd-activate"):
    resource: Name


class ManagerGone(Message, frozen=True, array_like=True, kw_only=True, tag="nd-manager-gone"):
    process: Text


class AskVotes(Message, frozen=True, array_like=True, kw_only=True, tag="nd-ask-votes"):
    guid: GuidBytes
    incarnation: Number
    about: Annotated[bytes, msgspec.Meta(max_length=43)] = b""
    """One branch that is asked about by its identifier: if its vote has not come yet, it is not taken any more."""


class Votes(Message, frozen=True, array_like=True, kw_only=True, tag="nd-votes"):
    undecided: tuple[BranchState, ...]


class ListResources(Message, frozen=True, array_like=True, kw_only=True, tag="nd-list-resources"):
    pass


class ResourceLine(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One line of `syncpoint resource list`."""

    name: str
    guid: bytes
    incarnation: int
    state: str
    """open, taking over, lost, or never seen"""
    place: str
    standbys: int
    backlog: int
    in_doubt: int
    oldest_ms: int
    trouble: str = ""


class Resources(Message, frozen=True, array_like=True, kw_only=True, tag="nd-resources"):
    lines: tuple[ResourceLine, ...]


class TakeOver(Message, frozen=True, array_like=True, kw_only=True, tag="nd-take-over"):
    resource: Name
    dry_run: bool = False
    who: Text = ""


class TakeOverPlan(Message, frozen=True, array_like=True, kw_only=True, tag="nd-take-over-plan"):
    """What a backup will be told, beforehand; and whether it was begun."""

    found: bool
    why: Text = ""
    """With `found` False, or when nobody can take over."""
    incarnation: Number = 0
    decided: tuple[IdentifierBytes, ...] = ()
    undecided: tuple[IdentifierBytes, ...] = ()
    by: Text = ""
    """Who is to take over: a standby, a restart, a command."""
    begun: bool = False


NODE_RESOURCE_TYPES: Final = (
    ToResource,
    FromResource,
    NotServed,
    Enrol,
    Enrolled,
    NotEnrolled,
    Reconcile,
    Reconciled,
    AskOutcome,
    Outcome,
    Opened,
    Health,
    Resign,
    Noted,
    Fenced,
    Serve,
    Served,
    Activate,
    ManagerGone,
    AskVotes,
    Votes,
    ListResources,
    Resources,
    TakeOver,
    TakeOverPlan,
)
"""Beside them the node's vocabulary has those of its journal (journal/node_messages.py)."""
