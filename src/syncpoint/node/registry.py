"""The node's desk for resource managers: it drives `protocol.takeover.Registry` with what processes and managers say.

    desk = ResourceDesk(site, policies={"audit": "restart"}, known=site.journal.resource_incarnations())
    site.desks.append(desk)

Enrolment, questions of managers to whoever serves now, what a backup must know, health, the operator's commands. Every
step is a line in the log, and is kept for `events`. Not for: noticing losses and doing something about them
(supervision.py), or the order of the questions behind a snapshot (reconciling.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncpoint.errors import ConnectionLost, ManagerClosed, ResourceUnavailable
from syncpoint.ids import Guid, Identifier, Incarnation
from syncpoint.marks import sometimes
from syncpoint.messages import Message
from syncpoint.node.reconciling import LaterBackup, Site, branch_state, gather
from syncpoint.ports import Connected, LinkEvent, Lost, Peer
from syncpoint.protocol.takeover import (
    Claimant,
    Fence,
    Granted,
    NotGranted,
    Registry,
    Service,
    Snapshot,
    State,
    Unserved,
    Waiting,
    describe,
)
from syncpoint.records import ResourceIncarnation
from syncpoint.resources import node_messages as words
from syncpoint.steps import Script

log = logging.getLogger("syncpoint.node")

EVENTS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a resource manager's life, for people: what happened to which, under which incarnation."""

    at: float
    """Monotonic seconds."""
    resource: str
    what: str
    """lost, enrolled, told, opened, fenced, superseded, standby, resigned, trouble, replacing"""
    incarnation: int = 0
    detail: str = ""


@dataclass(slots=True)
class Figures:
    """What a process says of itself, and when it last did."""

    heard_at: float
    trouble: str = ""
    trouble_since: float | None = None
    in_doubt: int = 0
    oldest_ms: int = 0
    backlog: int = 0


class ResourceDesk:
    """Parameters: `site`, the node; `policies`, the resource managers of its configuration and what is done when one is
    lost; `known`, the journal's records."""

    def __init__(
        self, site: Site, *, policies: Mapping[str, str], known: Iterable[ResourceIncarnation] | None = None
    ) -> None:
        self.site = site
        self.policies = dict(policies)
        self.registry = Registry(site.journal.resource_incarnations() if known is None else known)
        self.figures: dict[Guid, Figures] = {}
        self.events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self.connected: set[str] = set()
        """Names of all processes that have a link to this node just now."""
        self.mutex = site.runtime.mutex()
        self.noticed_loss: Callable[[Service, str], None] = lambda service, why: None
        """Told of each loss, at once; must not wait. The supervisor's."""
        self.replace: Callable[[Service, str], None] = lambda service, why: None
        """Have somebody take over, on an operator's word; must not wait."""
        self.by_whom: Callable[[Service | None, str], str] = lambda service, name: ""
        """Who would take over: in words, or nothing when there is nobody."""
        self._answers: dict[type[Message], Callable[[Peer, Any], Script[Message]]] = {
            words.ToResource: self._to_resource,
            words.Enrol: self._enrol,
            words.Reconcile: self._reconcile,
            words.AskOutcome: self._ask_outcome,
            words.Opened: self._opened,
            words.Health: self._health,
            words.Resign: self._resign,
            words.ListResources: self._list,
            words.TakeOver: self._take_over,
        }

    def __repr__(self) -> str:
        return f"<ResourceDesk {self.registry!r}>"

    # --- Desk ------------------------------------------------------------------------------------------

    def answers(self, peer: Peer, question: Message) -> Script[Message] | None:
        """See `Desk.answers`."""
        carry_out = self._answers.get(type(question))
        return None if carry_out is None else carry_out(peer, question)

    def noticed(self, event: LinkEvent) -> None:
        """See `Desk.noticed`: a broken link is a loss (B4), until its process comes back."""
        if isinstance(event, Connected):
            self.connected.add(event.peer.name)
        if isinstance(event, Lost):
            self.connected.discard(event.peer.name)
            self.lose(event.peer.name, f"its connection was lost: {event.why}")

    def _require_there(self, peer: Peer) -> None:
        """With the mutex held. Raises ManagerClosed (no answer) when who asked is gone since: it may be dead, and then
        nobody would notice its loss a second time."""
        if peer.name not in self.connected:
            sometimes("a resource manager was gone before its question was looked at")
            raise ManagerClosed(f"{peer} is not connected any more.")

    def lose(self, peer: str, why: str) -> None:
        """This process is gone, or does not answer."""
        with self.mutex:
            lost = self.registry.lost(peer)
        for service in lost:
            self.say(service, "lost", why)
            self.noticed_loss(service, why)

    def say(self, service: Service, what: str, detail: str = "") -> None:
        """Write down one step."""
        event = Event(self.site.clock.monotonic(), service.name, what, service.incarnation, detail)
        self.events.append(event)
        log.log(
            logging.WARNING if what in ("lost", "fenced", "superseded", "trouble") else logging.INFO,
            "Resource manager %s, incarnation %d: %s%s",
            service.name,
            service.incarnation,
            what,
            f" ({detail})" if detail else "",
            extra={"resource": service.name, "incarnation": int(service.incarnation), "event": what},
        )

    # --- enrolling ---------------------------------------------------------------------------

    def _enrol(self, peer: Peer, question: words.Enrol) -> Script[Message]:
        name, guid = question.resource, Guid(question.guid)
        if name not in self.policies:
            return words.NotEnrolled(
                why=f"no resource {name!r} with process = true is in this node's configuration "
                f"(it has {', '.join(sorted(self.policies)) or 'none'})"
            )
        claimant = Claimant(peer.name, question.instance, question.place)
        with self.mutex:
            self._require_there(peer)
            effects = self.registry.enrol(
                name,
                guid,
                claimant,
                standby=question.standby,
                seen=question.seen,
                at_ms=self.site.clock.wall_ms(),
            )
            service = self.registry.service(guid)
        (answer,) = effects.then or (None,)
        for record in effects.force:
            answer = yield from self._force(guid, record)
        if service is not None and effects.force:
            self.figures[guid] = Figures(self.site.clock.monotonic())
            self.say(service, "enrolled", claimant.place)
        elif service is not None and isinstance(answer, Waiting):
            self.say(service, "standby", claimant.place)
        match answer:
            case Granted():
                return words.Enrolled(incarnation=answer.incarnation)
            case Waiting():
                return words.Enrolled(incarnation=0)
            case Fence():
                return words.Fenced(incarnation=answer.incarnation)
            case NotGranted():
                log.warning("%s may not serve %s: %s.", peer, name, answer.why)
                return words.NotEnrolled(why=answer.why, retry=answer.retry)
        raise AssertionError(f"no answer to {question!r}")

    def _force(self, guid: Guid, record: ResourceIncarnation) -> Script[Granted | Fence | Waiting | NotGranted]:
        incarnation = Incarnation(record.incarnation)
        try:
            yield from self.site.journal.force((record,))
        except BaseException:
            with self.mutex:
                self.registry.not_forced(guid, incarnation)
            raise
        with self.mutex:
            return self.registry.forced(guid, incarnation)

    def _heard(self, peer: Peer, guid: Guid, incarnation: int) -> words.Fenced | None:
        """Who speaks: None when it counts. Raises ManagerClosed when it is gone."""
        with self.mutex:
            self._require_there(peer)
            before = self.registry.service(guid)
            was_lost = before is not None and before.state is State.LOST
            fence = self.registry.hear(
                guid, Incarnation(incarnation), Claimant(peer.name, b"", "" if before is None else before.place)
            )
            service = self.registry.service(guid)
        if fence is not None:
            sometimes("a fenced resource manager spoke")
            log.warning("%s speaks as incarnation %d of %s, and is fenced: %r", peer, incarnation, guid, fence)
            return words.Fenced(incarnation=fence.incarnation)
        if was_lost and service is not None:
            self.say(service, "back")
        figures = self.figures.setdefault(guid, Figures(self.site.clock.monotonic()))
        figures.heard_at = self.site.clock.monotonic()
        return None

    def _opened(self, peer: Peer, question: words.Opened) -> Script[Message]:
        guid = Guid(question.guid)
        fenced = self._heard(peer, guid, question.incarnation)
        if fenced is not None:
            return fenced
        with self.mutex:
            service = self.registry.service(guid)
            assert service is not None
            again = service.state is State.OPEN
            allowed = self.registry.opened(guid, Incarnation(question.incarnation))
        if not allowed:
            raise ManagerClosed(f"{peer} wants to serve {service.name!r} before it has asked what became of it.")
        if not again:
            self.say(service, "opened", f"{question.redone} branches redone")
            self.site.recover()
        return words.Noted()
        yield from ()

    def _health(self, peer: Peer, question: words.Health) -> Script[Message]:
        guid = Guid(question.guid)
        fenced = self._heard(peer, guid, question.incarnation)
        if fenced is not None:
            return fenced
        figures = self.figures[guid]
        service = self.registry.service(guid)
        if question.trouble and not figures.trouble and service is not None:
            self.say(service, "trouble", question.trouble)
        if not question.trouble:
            figures.trouble_since = None
        elif figures.trouble_since is None:
            figures.trouble_since = figures.heard_at
        figures.trouble, figures.in_doubt = question.trouble, question.in_doubt
        figures.oldest_ms, figures.backlog = question.oldest_ms, question.backlog
        return words.Noted()
        yield from ()

    def _resign(self, peer: Peer, question: words.Resign) -> Script[Message]:
        """It stops by itself: a standby takes over, nobody restarts it."""
        guid = Guid(question.guid)
        fenced = self._heard(peer, guid, question.incarnation)
        if fenced is not None:
            return fenced
        with self.mutex:
            held = self.registry.lost(peer.name)
        for service in held:
            self.say(service, "resigned")
            if service.standbys:
                self.noticed_loss(service, "it has resigned")
        return words.Noted()
        yield from ()

    # --- what a backup must know ---------------------------------------------------------------------------

    def _reconcile(self, peer: Peer, question: words.Reconcile) -> Script[Message]:
        guid, incarnation = Guid(question.guid), Incarnation(question.incarnation)
        snapshot = yield from self._snapshot(peer, guid, incarnation)
        if isinstance(snapshot, words.Fenced):
            return snapshot
        with self.mutex:
            given = self.registry.snapshot_given(guid, incarnation)
            service = self.registry.service(guid)
        assert service is not None
        if not given:
            return words.Fenced(incarnation=service.incarnation)
        self.say(service, "told", f"{len(snapshot.decided)} decided, {len(snapshot.undecided)} undecided")
        return words.Reconciled(
            decided=tuple(branch_state(one) for one in snapshot.decided),
            undecided=tuple(branch_state(one) for one in snapshot.undecided),
        )

    def _ask_outcome(self, peer: Peer, question: words.AskOutcome) -> Script[Message]:
        guid, incarnation = Guid(question.guid), Incarnation(question.incarnation)
        snapshot = yield from self._snapshot(peer, guid, incarnation, question.identifier)
        if isinstance(snapshot, words.Fenced):
            return snapshot
        decision, state = snapshot.outcome(Identifier.from_bytes(question.identifier))
        return words.Outcome(decision=decision.name, state=state)

    def _snapshot(
        self, peer: Peer, guid: Guid, incarnation: Incarnation, about: bytes = b""
    ) -> Script[Snapshot | words.Fenced]:
        fenced = self._heard(peer, guid, incarnation)
        if fenced is not None:
            return fenced
        try:
            snapshot = yield from gather(self.site, self.registry.round(guid, incarnation, self.site.sessions()), about)
        except LaterBackup:
            return words.Fenced(incarnation=incarnation + 1)
        return self._heard(peer, guid, incarnation) or snapshot  # another may have come meanwhile

    # --- questions of managers ---------------------------------------------------------------------------

    def _to_resource(self, peer: Peer, question: words.ToResource) -> Script[Message]:
        return self.relay(question, manager=peer.guid, process=peer.name)

    def relay(self, question: words.ToResource, *, manager: Guid, process: str) -> Script[Message]:
        """Have it answered by whoever serves that resource now (T-I3). `process` is the asking process's name."""
        with self.mutex:
            to = self.registry.route(question.resource, Incarnation(question.incarnation))
            if not isinstance(to, Unserved):
                service, holder = to
                incarnation = service.incarnation
        if isinstance(to, Unserved):
            return words.NotServed(why=to.why, incarnation=to.incarnation)
        serve = words.Serve(incarnation=incarnation, manager=manager.raw, process=process, question=question.question)
        try:
            answer = yield from self.site.ask(holder.peer, serve, question.seconds)
        except ResourceUnavailable as error:
            return words.NotServed(why=error.message, incarnation=incarnation)
        except ConnectionLost as error:
            return words.NotServed(why=error.message, certain=False, incarnation=incarnation)
        if isinstance(answer, words.Fenced):
            return words.NotServed(why=f"its process is fenced, by incarnation {answer.incarnation}")
        if not isinstance(answer, words.Served):
            return words.NotServed(why=f"its process answered with {type(answer).__name__}", certain=False)
        with self.mutex:
            counts = self.registry.may_pass_on(service.guid, incarnation)
        if not counts:
            sometimes("the answer of a fenced resource manager was not passed on")
            return words.NotServed(why="another incarnation has taken over meanwhile", certain=False)
        return words.FromResource(incarnation=incarnation, answer=answer.answer)

    # --- operators ---------------------------------------------------------------------------

    def _list(self, peer: Peer, question: words.ListResources) -> Script[Message]:
        return words.Resources(lines=tuple(self.lines()))
        yield from ()

    def lines(self) -> Sequence[words.ResourceLine]:
        """One for each resource manager of the configuration, and each that ever enrolled."""
        with self.mutex:
            names = sorted({*self.policies, *(one.name for one in self.registry.services())})
            return [self._line(name, self.registry.named(name)) for name in names]

    def _line(self, name: str, service: Service | None) -> words.ResourceLine:
        if service is None:
            never = describe(State.NEVER_SEEN)
            return words.ResourceLine(
                name=name,
                guid=b"",
                incarnation=0,
                state=never,
                place="",
                standbys=0,
                backlog=0,
                in_doubt=0,
                oldest_ms=0,
            )
        figures = self.figures.get(service.guid) or Figures(0.0)
        return words.ResourceLine(
            name=name,
            guid=service.guid.raw,
            incarnation=service.incarnation,
            state=describe(service.state),
            place=service.place,
            standbys=len(service.standbys),
            backlog=figures.backlog,
            in_doubt=figures.in_doubt,
            oldest_ms=figures.oldest_ms,
            trouble=figures.trouble,
        )

    def _take_over(self, peer: Peer, question: words.TakeOver) -> Script[Message]:
        """Say what a backup will be told; and, unless it is only asked, take the incarnation from who has it."""
        with self.mutex:
            service = self.registry.named(question.resource)
            seen = service is not None and service.state is not State.NEVER_SEEN
        if service is None or not seen:
            return words.TakeOverPlan(
                found=False, why=f"no process has ever served {question.resource!r}: there is nothing to take over"
            )
        by = self.by_whom(service, service.name)
        asked = self.registry.round(service.guid, service.incarnation, self.site.sessions())
        try:
            snapshot = yield from gather(self.site, asked)
        except LaterBackup:
            return words.TakeOverPlan(
                found=True, why="somebody is taking over just now", incarnation=service.incarnation
            )
        begun = bool(by) and not question.dry_run
        if begun:
            yield from self.supersede(service, f"taken over by {question.who or peer.name}")
            self.replace(service, "an operator's word")
        return words.TakeOverPlan(
            found=True,
            why="" if by else "nobody can take over: no standby waits, and its policy starts none",
            incarnation=service.incarnation,
            decided=tuple(one.identifier.to_bytes() for one in snapshot.decided),
            undecided=tuple(one.identifier.to_bytes() for one in snapshot.undecided),
            by=by,
            begun=begun,
        )

    def supersede(self, service: Service, why: str) -> Script[None]:
        """Fence whoever holds it, durably. Raises JournalError."""
        with self.mutex:
            effects = self.registry.supersede(service.guid, at_ms=self.site.clock.wall_ms(), place=why)
        self.say(service, "superseded", why)
        yield from self.site.journal.force(effects.force)


class LocalPort:
    """How the node's own manager reaches resource managers' processes: without a link (`resources.process_port`)."""

    def __init__(self, desk: ResourceDesk, name: str) -> None:
        self.desk = desk
        self.name = name

    def __repr__(self) -> str:
        return f"<LocalPort of {self.name}>"

    def ask(self, address: str, question: Message, seconds: float) -> Script[Message]:
        """An exchange's `ask` for ToResource. Raises ResourceUnavailable for all else."""
        if not isinstance(question, words.ToResource):
            raise ResourceUnavailable(f"{type(question).__name__} is nothing that the node asks itself.")
        coordinator = self.desk.site.journal.coordinator
        answer: Message = yield from self.desk.relay(question, manager=coordinator, process=self.name)
        return answer
