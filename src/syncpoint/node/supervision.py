"""What is done when a resource manager is lost: noticing each way of it (B4), and having a backup take over (B6).

    its process exits ............ a child of this node: seen at once
    its connection breaks ........ the link says so
    it does not answer ........... nothing was heard of it for `silent_s`
    something it needs is gone ... its own health check says so for `trouble_s`: it is fenced, alive as it is
    its node or machine is gone .. its connection breaks, or it does not answer

    backup = ""            nobody but an operator, or whoever starts it again
             "restart"     a child process here: syncpoint resource run NAME
             "standby"     the first of those that wait is activated
             "command: …"  a shell command of the user's, with SYNCPOINT_RESOURCE and SYNCPOINT_INCARNATION set

A loss that was only a broken connection may mend within `grace_s`. Replacing is tried again with growing pauses, and
given up after `tries_max` times in a row: until an operator says `syncpoint takeover`. Safety needs none of this: who
enrols gets a higher incarnation, and everybody else is fenced. Not for: incarnations (registry.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from syncpoint.errors import ConfigurationError, ConnectionLost, JournalError, ResourceUnavailable
from syncpoint.link.backoff import BackOff
from syncpoint.marks import sometimes
from syncpoint.node.registry import ResourceDesk
from syncpoint.ports import Random
from syncpoint.protocol.takeover import Service, State
from syncpoint.resources.node_messages import Activate, ManagerGone, Noted
from syncpoint.steps import Script, Wait

log = logging.getLogger("syncpoint.node")

TEND_S = 0.05
ASK_S_MAX = 1.0
GONE_TRIES_MAX = 5
START_S_MAX = 10.0
"""So long a process that was started may take to enrol."""
ACTIVATE_S_MAX = 2.0
PAUSE_S_MIN = 0.2
PAUSE_S_MAX = 10.0
STEADY_S = 10.0
"""So long open, and the next loss begins with small pauses again."""
RESTART: Final = "restart"
STANDBY: Final = "standby"
COMMAND: Final = "command:"


class Child(Protocol):
    """A process that this node has started."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        ...

    def kill(self) -> None:
        """At once, and for good."""
        ...


class Launcher(Protocol):
    """Starts processes. Neither waits. Both may raise OSError."""

    def resource(self, name: str) -> Child:
        """`syncpoint resource run NAME`."""
        ...

    def command(self, command: str, environment: Mapping[str, str]) -> Child: ...


def check_policy(name: str, text: str) -> str:
    """Raises ConfigurationError unless `text` is a policy."""
    if text in ("", RESTART, STANDBY) or (text.startswith(COMMAND) and text.removeprefix(COMMAND).strip()):
        return text
    raise ConfigurationError(
        f"backup of the resource {name!r} is {text!r}.",
        advice='Write "restart", "standby" or "command: …" (docs/takeover.md).',
    )


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds, and how often."""

    grace_s: float = 0.3
    silent_s: float = 3.0
    silent_taking_over_s: float = 60.0
    trouble_s: float = 2.0
    tries_max: int = 20


@dataclass(slots=True)
class _Watched:
    """One resource manager, as its supervisor sees it."""

    name: str
    policy: str
    back_off: BackOff
    child: Child | None = None
    tries: int = 0
    """Since it was last open for a while."""
    due_at: float | None = None
    """When the next try is due; None: none is wanted."""
    why: str = ""
    open_since: float | None = None
    gave_up: bool = False
    activated: set[str] = field(default_factory=set)
    """Standbys that were told, since the loss."""


class Supervisor:
    """Parameters: `desk`; `launcher` of processes, None: there are only standbys; `random` for pauses; `patience`."""

    def __init__(
        self, desk: ResourceDesk, launcher: Launcher | None, random: Random, patience: Patience | None = None
    ) -> None:
        self._desk = desk
        self._site = desk.site
        self._launcher = launcher
        self._random = random
        self.patience = patience or Patience()
        self._stopping = desk.site.runtime.signal()
        self._applications: set[str] = set()
        self.watched = {
            name: _Watched(name, check_policy(name, policy), BackOff(PAUSE_S_MIN, PAUSE_S_MAX))
            for name, policy in desk.policies.items()
        }
        desk.noticed_loss = self._lost
        desk.replace = self._replace
        desk.by_whom = self._by_whom
        now = self._site.clock.monotonic()
        for one in self.watched.values():
            if one.policy == RESTART:  # the first start is its, too; who runs already has time to say so
                one.due_at, one.why = now + self.patience.grace_s, "it has not been started"
            elif one.policy == STANDBY or (one.policy and desk.registry.named(one.name) is not None):
                # It may have been lost together with this node: then nobody has noticed, and nobody will.
                one.due_at, one.why = now + self.patience.silent_s, "it has not come back since this node started"

    def __repr__(self) -> str:
        due = [one.name for one in self.watched.values() if one.due_at is not None]
        return f"<Supervisor of {', '.join(sorted(self.watched))}; to replace: {', '.join(due) or 'none'}>"

    # --- what the desk says --------------------------------------------------------------------------------------

    def _lost(self, service: Service, why: str) -> None:
        one = self.watched.get(service.name)
        if one is not None and one.policy and one.due_at is None:
            self._want(one, why, self._site.clock.monotonic() + self.patience.grace_s)

    def _replace(self, service: Service, why: str) -> None:
        one = self.watched.get(service.name)
        if one is not None:
            one.gave_up, one.tries = False, 0
            one.back_off.reset()
            self._want(one, why, self._site.clock.monotonic())

    def _want(self, one: _Watched, why: str, at: float) -> None:
        one.due_at, one.why, one.open_since = at, why, None
        one.activated.clear()

    def _by_whom(self, service: Service | None, name: str) -> str:
        one = self.watched.get(name)
        if service is not None and service.standbys:
            return f"a standby in {service.standbys[0].place or service.standbys[0].peer}"
        if one is None or one.policy in ("", STANDBY):
            return ""
        return "a new process of this node" if one.policy == RESTART else f"the {one.policy}"

    # --- its life ------------------------------------------------------------------------------------------------

    def tend(self) -> Script[None]:
        """For ever, until `stop`."""
        while not (yield Wait(self._stopping, TEND_S)):
            self._see_who_left()
            for one in self.watched.values():
                yield from self._look_at(one)

    def stop(self) -> None:
        """End `tend`, and the processes that this node has started: they would be nobody's."""
        self._stopping.set()
        for one in self.watched.values():
            if one.child is not None:
                one.child.kill()

    def _look_at(self, one: _Watched) -> Script[None]:
        now = self._site.clock.monotonic()
        service = self._desk.registry.named(one.name)
        self._see_exit(one, service)
        if service is not None:
            self._see_silence(service, now)
            yield from self._see_trouble(one, service)
            self._see_open(one, service, now)
        if one.due_at is not None and now >= one.due_at:
            yield from self._try(one, service, now)

    def _see_exit(self, one: _Watched, service: Service | None) -> None:
        child = one.child
        code = None if child is None else child.poll()
        if child is None or code is None:
            return
        one.child = None
        why = f"its process has ended with {code}"
        log.warning("The process of the resource manager %s has ended with %d.", one.name, code)
        if service is not None and service.holder is not None and _is_at(service.holder.place, child):
            self._desk.lose(service.holder.peer, why)
        if one.policy == RESTART and not one.gave_up and (service is None or service.holder is None):
            pause_s = one.back_off.next_pause_s(self._random.fraction()) if one.tries > 1 else 0.0
            self._want(one, why, self._site.clock.monotonic() + pause_s)

    def _see_silence(self, service: Service, now: float) -> None:
        figures = self._desk.figures.get(service.guid)
        holder = service.holder
        if figures is None or holder is None or service.state not in (State.OPEN, State.TAKING_OVER):
            return
        patience = self.patience
        bound_s = patience.silent_s if service.state is State.OPEN else patience.silent_taking_over_s
        if now - figures.heard_at > bound_s:
            sometimes("a resource manager was lost because it was silent")
            self._desk.lose(holder.peer, f"nothing was heard of it for {bound_s:g} s")

    def _see_trouble(self, one: _Watched, service: Service) -> Script[None]:
        figures = self._desk.figures.get(service.guid)
        if figures is None or figures.trouble_since is None or service.state is not State.OPEN:
            return
        if not one.policy or self._by_whom(service, one.name) == "":
            return  # nobody could do better
        if figures.heard_at - figures.trouble_since >= self.patience.trouble_s:
            sometimes("a resource manager was fenced because of its own trouble")
            trouble, figures.trouble, figures.trouble_since = figures.trouble, "", None
            try:
                yield from self._desk.supersede(service, f"its health check says: {trouble}")
            except JournalError as error:
                log.error("%s could not be superseded: %s", service.name, error)
            self._replace(service, trouble)

    def _see_open(self, one: _Watched, service: Service, now: float) -> None:
        if service.state is not State.OPEN:
            one.open_since = None
            return
        one.due_at = None
        one.gave_up = False
        if one.open_since is None:
            one.open_since = now
        elif now - one.open_since > STEADY_S:
            one.tries = 0
            one.back_off.reset()

    # --- replacing -----------------------------------------------------------------------------------------------

    def _try(self, one: _Watched, service: Service | None, now: float) -> Script[None]:
        one.due_at = now + START_S_MAX
        if service is not None and service.state in (State.ENROLLING, State.TAKING_OVER):
            return  # somebody is at it
        if service is not None and service.standbys:
            one.tries += 1  # it costs nothing to ask them: they are never given up
            one.due_at = now + ACTIVATE_S_MAX
            yield from self._activate(one, service)
        elif one.tries >= self.patience.tries_max:
            one.due_at, one.gave_up = None, True
            log.error(
                "The resource manager %s was lost, and replacing it has failed %d times in a row: it is given up. "
                "Mend the cause, then: syncpoint takeover %s",
                one.name,
                one.tries,
                one.name,
            )
        elif one.policy == RESTART or one.policy.startswith(COMMAND):
            one.tries += 1
            self._launch(one, service)
        else:
            one.due_at = now  # nobody waits: a standby that comes is activated at once

    def _activate(self, one: _Watched, service: Service) -> Script[None]:
        standby = next((each for each in service.standbys if each.peer not in one.activated), service.standbys[0])
        one.activated.add(standby.peer)
        self._desk.say(service, "replacing", f"a standby in {standby.place or standby.peer} is activated: {one.why}")
        try:
            answer = yield from self._site.ask(standby.peer, Activate(resource=one.name), ASK_S_MAX)
            told = isinstance(answer, Noted)
        except (ResourceUnavailable, ConnectionLost):
            told = False
        if not told:
            sometimes("a standby did not answer when it was to take over")
            one.due_at = self._site.clock.monotonic() + PAUSE_S_MIN  # the next one

    def _launch(self, one: _Watched, service: Service | None) -> None:
        """Kill what we have started before, if it is still there, then start anew."""
        if one.child is not None and one.child.poll() is None:
            one.child.kill()
        incarnation = 0 if service is None else service.incarnation
        if service is not None:
            self._desk.say(service, "replacing", f"{self._by_whom(service, one.name)}: {one.why}")
        try:
            if self._launcher is None:
                log.error("The resource manager %s cannot be started here: this node starts no processes.", one.name)
            elif one.policy == RESTART:
                one.child = self._launcher.resource(one.name)
            else:
                environment = {"SYNCPOINT_RESOURCE": one.name, "SYNCPOINT_INCARNATION": str(incarnation)}
                one.child = self._launcher.command(one.policy.removeprefix(COMMAND).strip(), environment)
        except OSError as error:
            log.error("The resource manager %s cannot be started: %s", one.name, error)

    # --- managers that are gone ------------------------------------------------------------------------------------

    def _see_who_left(self) -> None:
        """What an application that is gone had not voted on is rolled back, so that it is in nobody's way."""
        self._applications.update(self._site.sessions())
        # One that was fenced and is connected lives: it goes on under another incarnation.
        gone = self._applications.difference(self._site.sessions(), self._desk.connected.copy())
        self._applications -= gone
        holders = [one.holder for one in self._desk.registry.services() if one.holder is not None]
        for application in gone:
            for holder in holders:
                self._site.runtime.spawn(self._tell_gone(holder.peer, application), f"{application} is gone")

    def _tell_gone(self, peer: str, application: str) -> Script[None]:
        for _ in range(GONE_TRIES_MAX):
            try:
                yield from self._site.ask(peer, ManagerGone(process=application), ASK_S_MAX)
            except ResourceUnavailable:
                return  # lost itself
            except ConnectionLost:
                continue
            return


def _is_at(place: str, child: Child) -> bool:
    """Whether a place, as processes write it ("host, process 4711"), is that of this child."""
    return str(child.pid) in place.replace(",", " ").split()
