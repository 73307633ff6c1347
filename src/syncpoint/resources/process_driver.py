"""The life of a resource manager's process: its incarnation, taking over, serving, and stopping in time (B4, B6..B9).

    driver = ProcessDriver(host, name="audit", ask=link.ask, …)
    runner.run(driver.run())            # until it is told to stop; raises what ended it

What comes after what is `protocol.backup.Backup`'s; here each of its effects is done, and done again until it succeeds.
While it serves it tells the node how it is. It stops by itself when it is fenced off, or has not heard the node for
`dead_after_s`: by then somebody else may serve its data. (What keeps them from harm is the incarnation in the data.)

It is a desk of the process's link: the node asks `Serve`, `Activate` and `ManagerGone`. Runs on threads; only `run`
touches the machine. Not for: the branches (process_host.py), sockets and signals (cli/resource.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from syncpoint.errors import ConfigurationError, ConnectionLost, Fenced, ResourceUnavailable, SyncpointError
from syncpoint.ids import Guid, Identifier, Incarnation
from syncpoint.messages import Message
from syncpoint.ports import Clock, Connected, LinkEvent, Lost, Peer, Random, Runtime
from syncpoint.protocol import backup as way
from syncpoint.protocol.words import Decision
from syncpoint.resources import node_messages as say
from syncpoint.resources.base import Answer, Evidence, Ruling, Session
from syncpoint.resources.process_host import ProcessHost
from syncpoint.steps import Script, Sleep, Wait

__all__ = ["NodeLost", "ProcessDriver"]

log = logging.getLogger("syncpoint.resources")

M = TypeVar("M", bound=Message)
Ask = Callable[[Message, float], Script[Message]]

ASK_S: Final = 5.0
RECONCILE_S: Final = 30.0
"""For the node to ask every manager, and to fence those that are silent."""
AGAIN_S: Final = 0.05
AGAIN_S_MAX: Final = 1.0
HEALTH_S: Final = 1.0
DEAD_AFTER_S: Final = 5.0
START_S: Final = 30.0
"""How long the node is tried for before the first answer of it."""


class NodeLost(SyncpointError):
    """The node has not been heard for too long: somebody else may serve the data by now. Nothing was harmed."""


class ProcessDriver:
    """See the file's opening.

    Parameters: `host` of the resource, which `run` attaches to the node; `ask` puts a question to the node (raises
    ResourceUnavailable, ConnectionLost); `standby`: wait until the node says that it is needed; `place` for people;
    `dead_after_s`, for how long the node may be silent; `health_s`, how often it is told.
    """

    def __init__(
        self,
        host: ProcessHost,
        *,
        ask: Ask,
        runtime: Runtime,
        clock: Clock,
        random: Random,
        standby: bool = False,
        place: str = "",
        dead_after_s: float = DEAD_AFTER_S,
        health_s: float = HEALTH_S,
    ) -> None:
        self.host = host
        self.name = host.resource.name
        self.is_open = False
        """It serves."""
        self.backup: way.Backup | None = None
        self._ask_node = ask
        self._runtime = runtime
        self._clock = clock
        self._instance = random.bytes(8)
        self._is_standby = standby
        self._place = place
        self._dead_after_s = dead_after_s
        self._health_s = health_s
        self._effects: deque[way.Effect] = deque()
        self._wake = runtime.signal()
        self._is_activated = False
        self._is_told_to_stop = False
        self._is_back = False
        """The link was lost and is there again: the node may have been started anew."""
        self._higher = 0
        """An incarnation above ours that was heard of."""
        self._heard_at = clock.monotonic()
        self._has_heard = False
        host.service.on_fenced = self._wake.set

    def __repr__(self) -> str:
        return f"<ProcessDriver {self.name} {'open' if self.is_open else 'not open'} {self.backup!r}>"

    @property
    def incarnation(self) -> int:
        return 0 if self.backup is None else self.backup.incarnation

    # --- from outside ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End `run` soon. From any thread, or a signal's handler."""
        self._is_told_to_stop = True
        self._wake.set()

    def answers(self, peer: Peer, question: Message) -> Script[Message] | None:
        """What the node asks."""
        match question:
            case say.Serve():
                return self._serve(question)
            case say.Activate() if question.resource == self.name:
                return self._activate()
            case say.ManagerGone():
                return self._manager_gone(question.process)
        return None

    def noticed(self, event: LinkEvent) -> None:
        """The node was connected, or lost."""
        match event:
            case Connected():
                self._heard()
                self._is_back = self._has_heard
                self._wake.set()
            case Lost():
                log.warning("The resource %r has lost the node: %s.", self.name, event.why)

    def rule(self, identifier: Identifier) -> Script[Ruling]:
        """For the adapter: what became of a branch that stands in its data (A6)."""
        if self.backup is None:
            return Ruling(Decision.UNKNOWN)
        try:
            said = yield from self._put(self._outcome_question(identifier), say.Outcome, ASK_S)
        except (ConnectionLost, ResourceUnavailable):
            return Ruling(Decision.UNKNOWN)
        return Ruling(Decision[said.decision], said.state)

    def _serve(self, question: say.Serve) -> Script[Message]:
        if question.incarnation > self.incarnation > 0:
            self._fenced_by(question.incarnation)
        if question.incarnation != self.incarnation or self.host.service.fenced is not None:
            return say.Fenced(incarnation=max(question.incarnation, self.incarnation, self._higher))
        if not self.is_open:
            return say.NotServed(why="the process does not serve (any more)", incarnation=self.incarnation)
        return say.Served(answer=(yield from self.host.answer(question.process, question.question)))

    def _activate(self) -> Script[Message]:
        self._is_activated = True
        self._wake.set()
        return say.Noted()
        yield from ()

    def _manager_gone(self, process: str) -> Script[Message]:
        self._runtime.spawn(self.host.manager_gone(process), f"what {process} has left")
        return say.Noted()
        yield from ()

    # --- its life ----------------------------------------------------------------------------------------------

    def run(self) -> Script[None]:
        """Live until `stop`. Raises Fenced (another serves now), NodeLost, ConfigurationError (the node refuses it),
        ResourceUnavailable (no node at the start). Before it returns or raises, nothing is left open."""
        try:
            self.backup = backup = way.Backup((yield from self._find_guid_at_last()))
            teller = self._runtime.spawn(self._keep_telling(backup), f"health of {self.name}")
            try:
                yield from self._live(backup)
            finally:
                teller.stop()
        finally:
            was_open, self.is_open = self.is_open, False
            yield from self.host.close()
            if was_open and self._is_told_to_stop and self.backup is not None:
                yield from self._resign(self.backup)

    def _live(self, backup: way.Backup) -> Script[None]:
        self._effects.extend(backup.start(standby=self._is_standby))
        while not self._is_told_to_stop:
            self._look_up(backup)
            if self._effects:
                self._effects.extend((yield from self._do(backup, self._effects.popleft())))
                continue
            if self.is_open:
                yield from self.host.tend()
            yield from self._wait(self._health_s)

    def _wait(self, seconds: float) -> Script[None]:
        yield Wait(self._wake, seconds)
        self._wake.clear()

    def _look_up(self, backup: way.Backup) -> None:
        """What was heard meanwhile. Raises what must end it."""
        if self.host.service.fenced is not None:
            raise self.host.service.fenced
        if self._higher > backup.incarnation and backup.state is not way.State.FENCED:
            self._effects.clear()
            self._effects.extend(backup.fenced(Incarnation(self._higher)))
        if self._is_activated:
            self._is_activated = False
            self._effects.extend(backup.activated())
        if self._is_back:
            self._is_back = False
            if backup.state is way.State.STANDBY:
                self._effects.extend(backup.start(standby=True))
            elif self.is_open:
                self._effects.append(way.SayOpened(backup.incarnation, backup.redone))
        if backup.incarnation and self._clock.monotonic() - self._heard_at > self._dead_after_s:
            raise NodeLost(
                f"The resource {self.name!r} has not heard its node for {self._dead_after_s:g} s, so this process "
                "stops: a backup may serve its data by now.",
                advice="Start it again when the node is back; it takes over from whoever serves then.",
            )

    def _find_guid(self) -> Script[Guid]:
        resource = self.host.resource

        def look(session: Session) -> Script[Guid]:
            guid = yield from resource.data_guid(session)
            if guid is None:
                yield from resource.initialise(session)
                guid = yield from resource.data_guid(session)
            assert guid is not None, "initialise gives the data a GUID"
            return guid

        return (yield from self.host.service.on_session(look))

    def _find_guid_at_last(self) -> Script[Guid]:
        """With patience: at a machine's start the data may come later than this process."""
        until = self._clock.monotonic() + START_S
        while True:
            try:
                return (yield from self._find_guid())
            except ResourceUnavailable as error:
                if self._is_told_to_stop or self._clock.monotonic() > until:
                    raise
                log.warning("The resource %r: its data cannot be used yet: %s", self.name, error)
            yield Sleep(AGAIN_S_MAX)

    # --- one effect after the other --------------------------------------------------------------------------

    def _do(self, backup: way.Backup, effect: way.Effect) -> Script[tuple[way.Effect, ...]]:
        """Do it until it is done; what comes next. Nothing, when something was heard that comes first."""
        if isinstance(effect, way.Stop):
            raise Fenced(
                f"The resource {self.name!r}: {effect.why}.",
                advice="This process has stopped, and changes nothing any more; the other one serves.",
            )
        pause_s = AGAIN_S
        began = self._clock.monotonic()
        while True:
            try:
                return (yield from self._try(backup, effect))
            except (ConnectionLost, ResourceUnavailable) as error:
                self._give_up_start(error, began)
                log.info("The resource %r: %s is tried again: %s", self.name, type(effect).__name__, error)
            except Fenced:
                yield from self._fenced_by_data(backup)
            except SyncpointError as error:
                if isinstance(error, ConfigurationError | NodeLost) or not backup.incarnation:
                    raise
                log.error("The resource %r: %s is tried again: %s", self.name, type(effect).__name__, error)
            yield from self._wait(pause_s)
            pause_s = min(2 * pause_s, AGAIN_S_MAX)
            self._look_up(backup)
            if self._is_told_to_stop or backup.state is way.State.FENCED:
                return ()

    def _give_up_start(self, error: SyncpointError, began: float) -> None:
        if not self._has_heard and self._clock.monotonic() - began > START_S:
            raise ResourceUnavailable(
                f"The resource {self.name!r} cannot reach its node: {error.message}",
                advice="Start `syncpoint node`, or correct the journal's URL.",
            ) from error

    def _try(self, backup: way.Backup, effect: way.Effect) -> Script[tuple[way.Effect, ...]]:
        match effect:
            case way.Enrol():
                if effect.standby and way.Enrol() in self._effects:
                    return ()  # it was told to take over since: waiting once more would come between
                return (yield from self._enrol(backup, standby=effect.standby))
            case way.WriteIncarnation():
                yield from self.host.service.serve_as(effect.incarnation)
                return backup.written()
            case way.AskNode():
                question = say.Reconcile(guid=backup.guid.raw, incarnation=effect.incarnation)
                told = yield from self._put(question, say.Reconciled, RECONCILE_S)
                return backup.told(_branches(told.decided), _branches(told.undecided))
            case way.Scan():
                found = yield from self.host.service.on_session(self.host.resource.scan)
                return backup.found([one.identifier for one in found if one.identifier is not None])
            case way.CommitBranch():
                redone = yield from self._commit(effect.branch)
                return backup.done(effect.branch.identifier, redone=redone)
            case way.AbortBranch():
                yield from self._finish(effect.identifier, commit=False, state=b"")
                return backup.done(effect.identifier)
            case way.AskOutcome():
                said = yield from self._put(self._outcome_question(effect.identifier), say.Outcome, ASK_S)
                if said.decision == Decision.UNKNOWN.name:
                    yield Sleep(AGAIN_S)
                return backup.outcome(effect.identifier, Decision[said.decision], said.state)
            case way.SayOpened():
                return (yield from self._open(backup, effect))
        raise AssertionError(f"no such effect: {effect!r}")

    def _enrol(self, backup: way.Backup, *, standby: bool) -> Script[tuple[way.Effect, ...]]:
        seen = yield from self.host.service.on_session(self.host.resource.served_as)
        question = say.Enrol(
            resource=self.name,
            guid=backup.guid.raw,
            instance=self._instance,
            standby=standby,
            seen=seen,
            place=self._place,
        )
        said: Message = yield from self._put(question, Message, ASK_S)
        if isinstance(said, say.NotEnrolled):
            if said.retry:
                raise ResourceUnavailable(f"The node does not enrol it now: {said.why}.")
            raise ConfigurationError(
                f"The node does not let this process serve the resource {self.name!r}: {said.why}.",
                advice="Serve each resource's data under its own name, at its own node.",
            )
        if isinstance(said, say.Fenced):
            self._fenced_by(said.incarnation)
        if not isinstance(said, say.Enrolled):
            raise ResourceUnavailable(f"The node answered Enrol with {type(said).__name__}.")
        if said.incarnation == 0:
            log.info("The resource %r: this process waits as a standby.", self.name)
            return backup.waits()
        log.info("The resource %r: this process is incarnation %d.", self.name, said.incarnation)
        return backup.granted(Incarnation(said.incarnation))

    def _commit(self, branch: way.Undone) -> Script[bool]:
        """Finish a decided branch; returns whether the data had lost it."""
        service, resource = self.host.service, self.host.resource
        identifier = branch.identifier
        before = yield from service.on_session(lambda session: resource.evidence(session, identifier))
        answer = yield from self._finish(identifier, commit=True, state=branch.state)
        if answer is Answer.NOT_FOUND and before is Evidence.ABSENT and branch.state:
            answer = yield from service.on_session(lambda session: resource.redo(session, identifier, branch.state))
        if answer is Answer.RETRY:
            raise ResourceUnavailable(f"The branch {identifier} could not be finished just now.")
        if answer is not Answer.COMMITTED:
            log.error("The resource %r: the decided branch %s is %s.", self.name, identifier, answer.name)
        return before is not Evidence.COMMITTED and answer is Answer.COMMITTED

    def _finish(self, identifier: Identifier, *, commit: bool, state: bytes) -> Script[Answer]:
        resource = self.host.resource
        answer = yield from self.host.service.on_session(
            lambda session: resource.finish(session, identifier, commit=commit, state=state)
        )
        if answer is Answer.RETRY:
            raise ResourceUnavailable(f"The branch {identifier} could not be finished just now.")
        return answer

    def _open(self, backup: way.Backup, effect: way.SayOpened) -> Script[tuple[way.Effect, ...]]:
        if not self.is_open:
            log.info(
                "The resource %r is open as incarnation %d; %d branches were redone.",
                self.name,
                effect.incarnation,
                effect.redone,
            )
        self.is_open = True
        question = say.Opened(guid=backup.guid.raw, incarnation=effect.incarnation, redone=effect.redone)
        yield from self._put(question, say.Noted, ASK_S)
        return ()

    # --- its health ------------------------------------------------------------------------------------------

    def _keep_telling(self, backup: way.Backup) -> Script[None]:
        """Beside all else: taking over may wait for long, and the node is to know that this process is well."""
        while True:
            if backup.incarnation:
                yield from self._tell_health(backup)
            yield Sleep(self._health_s)

    def _tell_health(self, backup: way.Backup) -> Script[None]:
        # Before it serves, the adapter would act (and be fenced) as an incarnation that is not in the data yet.
        trouble = (yield from self.host.service.check()) if self.is_open else ""
        in_doubt, oldest_ms = self.host.in_doubt()
        health = say.Health(
            guid=backup.guid.raw,
            incarnation=backup.incarnation,
            trouble=trouble[:1000],
            in_doubt=in_doubt,
            oldest_ms=oldest_ms,
            backlog=self.host.backlog,
        )
        try:
            yield from self._put(health, say.Noted, min(ASK_S, self._dead_after_s))
        except (ConnectionLost, ResourceUnavailable) as error:
            log.warning("The resource %r could not tell the node how it is: %s", self.name, error)

    def _resign(self, backup: way.Backup) -> Script[None]:
        question = say.Resign(guid=backup.guid.raw, incarnation=backup.incarnation)
        try:
            yield from self._put(question, say.Noted, 1.0)
        except SyncpointError as error:
            log.warning("The resource %r could not tell the node that it stops: %s", self.name, error)

    # --- asking ----------------------------------------------------------------------------------------------

    def _put(self, question: Message, answer: type[M], seconds: float) -> Script[M]:
        """Ask the node. Being fenced off by it is noted. Raises ResourceUnavailable, ConnectionLost."""
        said = yield from self._ask_node(question, seconds)
        self._heard()
        if isinstance(said, answer):
            return said
        if isinstance(said, say.Fenced):
            self._fenced_by(said.incarnation)
            raise ResourceUnavailable(f"The node counts incarnation {said.incarnation}, not {self.incarnation}.")
        raise ConnectionLost(f"The node answered {type(question).__name__} with {type(said).__name__}.")

    def _heard(self) -> None:
        self._heard_at = self._clock.monotonic()
        self._has_heard = True

    def _fenced_by(self, incarnation: int) -> None:
        """Somebody knows of a higher one."""
        if incarnation > self._higher:
            self._higher = incarnation
            self._wake.set()

    def _fenced_by_data(self, backup: way.Backup) -> Script[None]:
        self.host.service.fenced = None  # told by the machine, with the incarnation that it was
        seen = yield from self.host.service.on_session(self.host.resource.served_as)
        self._fenced_by(max(seen, backup.incarnation + 1))

    def _outcome_question(self, identifier: Identifier) -> say.AskOutcome:
        assert self.backup is not None
        return say.AskOutcome(
            guid=self.backup.guid.raw, incarnation=self.backup.incarnation, identifier=identifier.to_bytes()
        )


def _branches(states: tuple[say.BranchState, ...]) -> list[way.Undone]:
    return [way.Undone(Identifier.from_bytes(one.identifier), one.state) for one in states]
