"""The node's side of takeover: which start of each resource manager counts, and what a backup is told (B1..B9).

    NEVER_SEEN --enrol--> ENROLLING --forced--> TAKING_OVER --opened--> OPEN
                            ^   | not forced        ^  |                 |
                          enrol v                   |  | lost            | lost
                            LOST <------------------|--+-----------------+
                              +---it is back--------+   (nobody has enrolled in between; open, if it was)

`Service` is one resource manager, by its GUID; `Registry` has all of them, their names, and who waits as a standby.
`Round` (reconciling.py) is one answer to `Reconcile`. The other two machines are the process's `Backup` (backup.py) and
the manager's `VoteBook` (votebook.py).
Invariants, asserted where they could break:

    T-I1  An incarnation is forced before anybody is told of it, and no number is given twice: one whose force is not
          certain is passed over.
    T-I2  At most one process holds the current incarnation; a healthy holder is not replaced by who merely claims its
          GUID, only by an operator or for its trouble (`supersede`).
    T-I3  A question goes to the holder of the current incarnation once that is open; an answer of another incarnation
          is not passed on.
    T-I4  A new incarnation opens only after it has had its snapshot.

Not for: messages, waiting, when somebody counts as lost and what is done then (node/).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import product

from syncpoint.ids import Guid, Incarnation
from syncpoint.protocol.backup import Backup, Undone
from syncpoint.protocol.reconciling import Round, Snapshot, in_order
from syncpoint.protocol.votebook import Accepted, VoteBook
from syncpoint.protocol.words import Illegal
from syncpoint.records import ResourceIncarnation

__all__ = [
    "NEXT",
    "Accepted",
    "Backup",
    "Claimant",
    "Effects",
    "Fence",
    "Granted",
    "Input",
    "NotGranted",
    "Registry",
    "Round",
    "Service",
    "Snapshot",
    "State",
    "Undone",
    "Unserved",
    "VoteBook",
    "Waiting",
    "in_order",
]


class State(Enum):
    NEVER_SEEN = auto()
    LOST = auto()
    """It had an incarnation, and nobody holds it now."""
    ENROLLING = auto()
    """An incarnation is being forced for somebody."""
    TAKING_OVER = auto()
    """Its holder learns what became of everything, and serves nothing yet."""
    OPEN = auto()


class Input(Enum):
    ENROL = auto()
    FORCED = auto()
    NOT_FORCED = auto()
    OPENED = auto()
    BACK = auto()
    """The holder speaks again, and nobody has been given a higher incarnation."""
    LOSE = auto()


NONE_YET = Incarnation(0)

S, I = State, Input  # noqa: E741  # the table reads like one

_LEGAL: dict[tuple[State, Input], State] = {
    (S.NEVER_SEEN, I.ENROL): S.ENROLLING,
    (S.LOST, I.ENROL): S.ENROLLING,
    (S.LOST, I.BACK): S.TAKING_OVER,
    (S.LOST, I.LOSE): S.LOST,
    (S.ENROLLING, I.FORCED): S.TAKING_OVER,
    (S.ENROLLING, I.NOT_FORCED): S.LOST,
    (S.ENROLLING, I.LOSE): S.LOST,
    (S.TAKING_OVER, I.OPENED): S.OPEN,
    (S.TAKING_OVER, I.LOSE): S.LOST,
    (S.OPEN, I.OPENED): S.OPEN,
    (S.OPEN, I.LOSE): S.LOST,
}

NEXT: dict[tuple[State, Input], State | None] = {pair: _LEGAL.get(pair) for pair in product(State, Input)}
"""Total (R3): every (state, input) is a next state, or None for ILLEGAL."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """A process that wants to serve: the name of its link, and what it drew when it started."""

    peer: str
    instance: bytes
    place: str = ""


@dataclass(frozen=True, slots=True)
class Granted:
    """It serves under this incarnation, once it has reconciled."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class Waiting:
    """It is a standby now."""


@dataclass(frozen=True, slots=True)
class NotGranted:
    """It is refused. With `retry` it may be different later."""

    why: str
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Fence:
    """Another incarnation counts: who gets this stops."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class Unserved:
    """Nobody serves it now, or not under the incarnation that was meant: the question has certainly gone nowhere."""

    why: str
    incarnation: Incarnation


Reply = Granted | Waiting | NotGranted | Fence


@dataclass(frozen=True, slots=True)
class Effects:
    """`force` must be durable before anything else is said; then `forced` or `not_forced` is called."""

    force: tuple[ResourceIncarnation, ...] = ()
    then: tuple[Reply, ...] = ()


@dataclass(slots=True)
class Service:
    """One resource manager, as the node knows it."""

    guid: Guid
    name: str
    state: State = State.NEVER_SEEN
    incarnation: Incarnation = NONE_YET
    """The highest that was given out, or may have been."""
    holder: Claimant | None = None
    """Who has it, or is to get it; None: lost, or the node was started after it."""
    place: str = ""
    standbys: list[Claimant] = field(default_factory=list)
    """In the order in which they came."""
    is_resumable: bool = False
    """The current incarnation was given to somebody who may still be there, and was not told to stop."""
    has_snapshot: bool = False
    was_open: bool = False
    """The current incarnation has opened: should it be lost and come back, it is open."""

    def __repr__(self) -> str:
        holder = self.holder.peer if self.holder else "nobody"
        standbys = f" standbys={len(self.standbys)}" if self.standbys else ""
        return f"<Service {self.name} {self.state.name} incarnation={self.incarnation} by {holder}{standbys}>"

    def move(self, what: Input) -> None:
        target = NEXT[self.state, what]
        if target is None:
            raise Illegal(f"{what.name} of {self.name} in {self.state.name}")
        self.state = target

    def lose(self) -> None:
        self.move(Input.LOSE)
        self.holder = None

    def draw(self) -> None:
        """The next incarnation. (T-I1)"""
        self.incarnation = Incarnation(self.incarnation + 1)
        self.has_snapshot = self.is_resumable = self.was_open = False


class Registry:
    """All resource managers of one node.

    Parameters: `known` are the journal's records; `names` the GUIDs that the journal has under resources' names.
    """

    __slots__ = ("_names", "_services")

    def __init__(self, known: Iterable[ResourceIncarnation] = (), names: Mapping[str, Guid] | None = None) -> None:
        self._services: dict[Guid, Service] = {}
        self._names: dict[str, Guid] = dict(names or {})
        for record in known:
            service = self._service(Guid(record.guid), record.name)
            if record.incarnation > service.incarnation:
                service.state, service.is_resumable = State.LOST, True
                service.incarnation, service.place = Incarnation(record.incarnation), record.place
                service.has_snapshot = True  # perhaps: if its holder is still there it knows, and says so

    def __repr__(self) -> str:
        return f"<Registry {' '.join(repr(one) for one in self.services())}>".replace(" >", ">")

    def services(self) -> list[Service]:
        return sorted(self._services.values(), key=lambda one: one.name)

    def service(self, guid: Guid) -> Service | None:
        return self._services.get(guid)

    def named(self, name: str) -> Service | None:
        guid = self._names.get(name)
        return None if guid is None else self._services.get(guid)

    def _service(self, guid: Guid, name: str) -> Service:
        self._names[name] = guid
        return self._services.setdefault(guid, Service(guid, name))

    # --- who serves ----------------------------------------------------------------------------------------

    def enrol(
        self, name: str, guid: Guid, claimant: Claimant, *, standby: bool = False, seen: int = 0, at_ms: int = 0
    ) -> Effects:
        """A process wants to serve `guid` under `name`, or to wait for that. `seen` is the highest incarnation that
        stands in its data."""
        refused = self._refuse(name, guid, seen)
        if refused is not None:
            return Effects(then=(refused,))
        service = self._service(guid, name)
        holder = service.holder
        if holder is not None and holder.instance == claimant.instance:
            service.holder = claimant  # it has connected anew
            if service.state is State.ENROLLING:
                return Effects(then=(NotGranted("its incarnation is just being made durable", retry=True),))
            return Effects(then=(Granted(service.incarnation),))
        if standby:
            _leave(service, claimant)
            service.standbys.append(claimant)
            return Effects(then=(Waiting(),))
        if holder is not None:  # T-I2
            where = f" in {holder.place}" if holder.place else ""
            why = f"incarnation {service.incarnation}{where} serves {name!r} ({guid}), and is not lost"
            return Effects(then=(NotGranted(why, retry=True),))
        _leave(service, claimant)
        service.move(Input.ENROL)
        service.holder, service.place = claimant, claimant.place
        service.draw()
        return Effects(force=(_record(service, at_ms),))

    def _refuse(self, name: str, guid: Guid, seen: int) -> NotGranted | None:
        held = self._names.get(name, guid)
        if held != guid:
            return NotGranted(f"{name!r} is the name of {held}, and these data are {guid}'s")
        service = self._services.get(guid)
        if service is not None and service.name != name:
            return NotGranted(f"{guid} is served under the name of {service.name!r}, not of {name!r}")
        given = service.incarnation if service is not None else 0
        if seen > given:
            return NotGranted(
                f"the data of {name!r} have seen incarnation {seen}, and this node has given none above {given}: "
                "its journal is an older copy, or another node's"
            )
        return None

    def forced(self, guid: Guid, incarnation: Incarnation) -> Reply:
        """The record is durable. What to tell who has asked."""
        service = self._services[guid]
        if service.state is not State.ENROLLING or service.incarnation != incarnation:
            return Fence(service.incarnation)  # lost, or superseded, while it was being forced
        service.move(Input.FORCED)
        service.is_resumable = True
        return Granted(incarnation)

    def not_forced(self, guid: Guid, incarnation: Incarnation) -> None:
        """It is not durable, or not certainly: nobody is told of it, and it is never used (T-I1)."""
        service = self._services[guid]
        if service.state is State.ENROLLING and service.incarnation == incarnation:
            service.move(Input.NOT_FORCED)
            service.holder = None

    def supersede(self, guid: Guid, at_ms: int = 0, place: str = "") -> Effects:
        """Take its incarnation from whoever holds it, dead or alive: an operator's word, or its own trouble (T-I2). The
        record needs no answer; until it is durable the old one is told to stop all the same. `place`: who did it."""
        service = self._services[guid]
        if service.state is State.NEVER_SEEN:
            return Effects()
        service.lose()
        service.draw()
        service.place = place
        return Effects(force=(_record(service, at_ms),))

    # --- who is there ----------------------------------------------------------------------------------------

    def hear(self, guid: Guid, incarnation: Incarnation, claimant: Claimant) -> Fence | None:
        """Somebody speaks under an incarnation. None: it counts, and he holds it (again)."""
        service = self._services.get(guid)
        if service is None:
            return Fence(Incarnation(0))
        if incarnation != service.incarnation or service.state is State.ENROLLING:
            return Fence(service.incarnation)
        if service.holder is None:
            if not service.is_resumable:
                return Fence(service.incarnation)
            service.move(Input.BACK)
            service.holder = claimant
            if service.was_open:  # it serves, and does not know that it was given up: it was only not heard
                service.move(Input.OPENED)
        return None if service.holder.peer == claimant.peer else Fence(service.incarnation)

    def lost(self, peer: str) -> list[Service]:
        """This process is gone. Returns what it served, which is lost now."""
        for service in self._services.values():
            service.standbys = [one for one in service.standbys if one.peer != peer]
        held = [one for one in self._services.values() if one.holder is not None and one.holder.peer == peer]
        for service in held:
            service.lose()
        return held

    def opened(self, guid: Guid, incarnation: Incarnation) -> bool:
        """Its holder has finished what was decided. False: it has not even asked (T-I4)."""
        service = self._services[guid]
        assert service.incarnation == incarnation
        assert service.holder is not None  # it was heard before
        if not service.has_snapshot:
            return False
        service.move(Input.OPENED)
        service.was_open = True
        return True

    # --- questions to it ---------------------------------------------------------------------------------------

    def route(self, name: str, incarnation: Incarnation) -> tuple[Service, Claimant] | Unserved:
        """Whom to give a manager's question, meant for `incarnation` (0: for whichever serves)."""
        service = self.named(name)
        if service is None:
            return Unserved(f"no process has ever served {name!r}", Incarnation(0))
        if service.state is not State.OPEN or service.holder is None:
            why = f"{name!r} is not served just now: {describe(service.state)}"
            return Unserved(why, service.incarnation)
        if incarnation not in (0, service.incarnation):
            why = f"incarnation {incarnation} of {name!r} is gone: incarnation {service.incarnation} serves now"
            return Unserved(why, service.incarnation)
        return service, service.holder

    def may_pass_on(self, guid: Guid, incarnation: Incarnation) -> bool:
        """Whether an answer that was given under this incarnation may still be passed on (T-I3)."""
        service = self._services.get(guid)
        return service is not None and service.incarnation == incarnation and service.state is not State.ENROLLING

    # --- what a backup is told -----------------------------------------------------------------------------------

    def round(self, guid: Guid, incarnation: Incarnation, managers: Iterable[str]) -> Round:
        """Begin to answer `Reconcile`, or `AskOutcome`: every one of `managers`, all that can decide, is asked."""
        return Round(guid, incarnation, managers)

    def snapshot_given(self, guid: Guid, incarnation: Incarnation) -> bool:
        """The snapshot is complete. False: the incarnation has changed meanwhile, and it is not to be given."""
        service = self._services[guid]
        if service.incarnation != incarnation:
            return False
        service.has_snapshot = True
        return True


def describe(state: State) -> str:
    """A state in the words of `syncpoint resource list`."""
    words = {State.NEVER_SEEN: "never seen", State.LOST: "lost", State.OPEN: "open"}
    return words.get(state, "taking over")


def _leave(service: Service, claimant: Claimant) -> None:
    """A standby that enrols is none any more; nor is the same process twice one."""
    service.standbys = [one for one in service.standbys if one.instance != claimant.instance]


def _record(service: Service, at_ms: int) -> ResourceIncarnation:
    return ResourceIncarnation(
        name=service.name,
        guid=service.guid.raw,
        incarnation=service.incarnation,
        place=service.place,
        at_ms=at_ms,
    )
