"""`Node`: the process of a site. It listens, keeps the applications' journal, and recovers what the dead left.

    with Node(settings, resources={"bank": "postgresql://…"}) as node:
        node.desks.append(Registry(node))
        …

Its own manager works over the same folder as the sessions of its applications, and with the resources of its
configuration; it begins no transactions. A failed disk stops it at once (R5): whoever supervises it starts it anew.
Not for: what is asked (desks.py, journal_host.py), files and signals (cli/node.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from syncpoint.config import NodeSettings
from syncpoint.errors import JournalFailed, JournalRefused, SyncpointError
from syncpoint.ids import Guid
from syncpoint.journal import node_messages as say
from syncpoint.journal.folder import FolderJournal
from syncpoint.journal.node_link import Desk, PeerExchange, answer_at
from syncpoint.journal.node_messages import NODE_VOCABULARY
from syncpoint.link.exchange import LinkExchange
from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import Limits, LinkSettings
from syncpoint.manager.assembly import Plan, ResourceSpec
from syncpoint.messages import Message
from syncpoint.node.desks import PREFIXES, may_ask
from syncpoint.node.journal_host import JournalHost
from syncpoint.node.registry import LocalPort, ResourceDesk
from syncpoint.node.supervision import Launcher, Patience, Supervisor, check_policy
from syncpoint.ports import Clock, Disk, FileLock, LinkEvent, Peer, Random
from syncpoint.resources.process import ProcessResource
from syncpoint.resources.registry import make_resource
from syncpoint.runners.threads import ThreadBackground, ThreadRunner
from syncpoint.steps import Script
from syncpoint.system import SystemClock, SystemDisk, SystemRandom

log = logging.getLogger("syncpoint.node")

CLOSE_S_MAX = 10.0
PROCESS_SESSIONS_MAX = 4
SIGNS_OF_LIFE = 6
"""So many are sent before silence counts as death."""


class Node:
    """A site's node. Parameters: `settings`; `resources` as a manager takes them, for recovery; `scope` of users' ids;
    `processes`, resource managers that run as processes, and what is done when one is lost; `launcher`, what starts
    them, None: nobody does; `patience` with the lost. `exchange`, for tests, instead of a link.

        `desks` may be added to before `open`. `failure` is why it answers no more, if its disk has failed.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        resources: Mapping[str, ResourceSpec],
        scope: str = "",
        processes: Mapping[str, str] | None = None,
        launcher: Launcher | None = None,
        patience: Patience | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        disk: Disk | None = None,
        exchange: PeerExchange | None = None,
    ) -> None:
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.random: Random = random or SystemRandom()
        self.disk: Disk = disk or SystemDisk()
        self.runtime = ThreadRunner()
        self.desks: list[Desk] = [self]
        self._failure: SyncpointError | None = None
        self._folder = settings.journal.removeprefix("file://")
        plan = Plan.of(
            self._folder,
            resources,
            scope=scope,
            timeout=30.0,
            background=True,
            clock=self.clock,
            random=self.random,
            disk=self.disk,
            observers=(),
        )
        self.core = plan.build(self.runtime, "sync")
        self.core.address = f"node://{settings.listen[0]}"  # where others reach this journal (A6)
        self.exchange: PeerExchange = exchange or LinkExchange(
            self._link_settings(), vocabulary=NODE_VOCABULARY, may_ask=may_ask
        )
        self.host: JournalHost | None = None
        self.registry: ResourceDesk | None = None
        self.supervisor: Supervisor | None = None
        self._processes = {name: check_policy(name, policy) for name, policy in (processes or {}).items()}
        self._launcher, self._patience = launcher, patience
        self._lock: FileLock | None = None
        self._begun = threading.Event()
        """It listens, or never will."""
        self._starting: ThreadBackground | None = None
        self._state = "new"

    def __repr__(self) -> str:
        return f"<Node {self.settings.name} {self._state} {self.host!r}>"

    def _link_settings(self) -> LinkSettings:
        settings = self.settings
        peers = tuple(
            KnownPeer(name=f"{prefix}*", role=role, certificates=settings.tls_peers, uids=settings.users)
            for role, prefix in PREFIXES.items()
        )
        return LinkSettings(
            cluster=settings.cluster,
            name=settings.name,
            role="node",
            guid=Guid(bytes(16)),  # the journal's, once it is open
            peers=peers,
            listen=settings.listen,
            tls=settings.tls,
            limits=Limits(heartbeat_s=settings.dead_after_s / SIGNS_OF_LIFE, dead_after_s=settings.dead_after_s),
        )

    # --- open and close ------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Open the journal and listen; recovery of what the dead left goes on behind it. A resource that is set up
        wrongly is found later: then the node fails. Raises ConfigurationError, JournalError; then nothing is left open.
        """
        try:
            self._take_folder()
            self._starting = self.runtime.spawn(self._start(), "the node's own manager")
            self._begun.wait()
            if self.failure is not None:
                raise self.failure
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> Script[None]:
        try:
            yield from self.core.start(self._listen)
        except SyncpointError as error:
            self._failed(error)
        finally:
            self._begun.set()

    def _listen(self) -> None:
        """The journal is open."""
        self.host = JournalHost(
            heir=self.journal,
            make=self._make_journal,
            runtime=self.runtime,
            clock=self.clock,
            resume_s=self.settings.resume_s,
            failed=self._failed,
            inherit=self.core.look,
        )
        self.registry = ResourceDesk(self, policies=self._processes)
        self.supervisor = Supervisor(self.registry, self._launcher, self.random, self._patience)
        self.desks[:0] = [self.host, self.registry]
        self.exchange.serve_peers(
            self._answer,
            runtime=self.runtime,
            guid=self.journal.coordinator,
            random=self.random,
            noticed=self._noticed,
        )
        self.runtime.spawn(self.host.tend(), "applications that are gone")
        self._reach_processes(self.registry)
        self.runtime.spawn(self.supervisor.tend(), "resource managers that are lost")
        self._state = "open"
        log.info(
            "Node %s listens at %s; its journal %s has incarnation %d.",
            self.settings.name,
            ", ".join(self.listening_at),
            self._folder,
            self.journal.incarnation,
        )
        self._begun.set()

    def _reach_processes(self, registry: ResourceDesk) -> None:
        """They are resources of its own manager, too, which finishes what dead applications left at them."""
        port = LocalPort(registry, self.settings.name)
        for name in self._processes:
            made = make_resource(name, f"process://{name}", mode="sync", clock=self.clock, random=self.random)
            assert isinstance(made, ProcessResource)
            made.connect_through(port, self.settings.name)
            self.core.add_resource(made, PROCESS_SESSIONS_MAX)

    def _take_folder(self) -> None:
        """One node for one folder: it alone takes over what the dead left there."""
        path = f"{self._folder}.node"
        try:
            self._lock = self.disk.lock(path)
        except OSError as error:
            raise JournalRefused(
                f"The lock of the node's journal, {path}, cannot be taken: {error.strerror or error}.",
                advice="Make the folder above it, and give this user the right to write there.",
            ) from error
        if self._lock is None:
            raise JournalRefused(
                f"Another node is working with the journal at {self._folder}.",
                advice="One node is enough for a site: stop one of them, or give this one a journal of its own.",
            )

    def _make_journal(self) -> FolderJournal:
        return FolderJournal(self._folder, disk=self.disk, clock=self.clock, random=self.random, heir=self.journal)

    def close(self) -> None:
        """Take no more questions, end every session, give everything back. A second call does nothing."""
        if self._state == "closed":
            return
        was_open, self._state = self._state == "open", "closed"
        if self.supervisor is not None:
            self.supervisor.stop()
        self.exchange.close()
        if self.host is not None and not isinstance(self.failure, JournalFailed):
            self.runtime.run(self.host.close())
        if self._starting is not None:
            self._starting.stop()
            self._starting.join(CLOSE_S_MAX)
            self.runtime.run(self.core.close(CLOSE_S_MAX))
        self.runtime.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
        if was_open:
            log.info("Node %s has stopped.", self.settings.name)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _failed(self, error: SyncpointError) -> None:
        """The disk has failed (R5): no further answers."""
        if self._failure is None:
            self._failure = error
            log.critical("Node %s stops: %s", self.settings.name, error)
            self.core.stop(error)

    @property
    def failure(self) -> SyncpointError | None:
        """Why it answers no more (R5); None while it does."""
        return self._failure or self.core.failure

    # --- what desks can reach ------------------------------------------------------------------------------------

    @property
    def journal(self) -> FolderJournal:
        """See `Site.journal`."""
        journal = self.core.journal
        assert isinstance(journal, FolderJournal)
        return journal

    @property
    def listening_at(self) -> tuple[str, ...]:
        """The link's addresses, with the ports that were found."""
        return self.exchange.listening_at if isinstance(self.exchange, LinkExchange) else ()

    def applications(self) -> Sequence[Peer]:
        """See `Site.applications`."""
        return () if self.host is None else self.host.applications()

    def sessions(self) -> Sequence[str]:
        """See `Site.sessions`."""
        return () if self.host is None else [session.application for session in self.host.sessions()]

    def fence(self, application: str) -> Script[None]:
        """See `Site.fence`."""
        assert self.host is not None
        return self.host.fence(application)

    def write_notes(self) -> Script[None]:
        """See `reconciling.Site.write_notes`."""
        assert self.host is not None
        return self.host.write_notes()

    def ask(self, peer: str, question: Message, seconds: float) -> Script[Message]:
        """See `Site.ask`."""
        answer: Message = yield from self.exchange.ask(peer, question, seconds)
        return answer

    def recover(self) -> None:
        """See `Site.recover`."""
        self.core.wake_all()

    # --- answering -----------------------------------------------------------------------------------------------

    def _answer(self, peer: Peer, question: Message) -> Script[Message]:
        self.core.check_journal()
        answer = yield from answer_at(self.desks, peer, question)
        self.core.check_journal()  # it may have failed meanwhile: no further answers (R5)
        return answer

    def _noticed(self, event: LinkEvent) -> None:
        for desk in self.desks:
            desk.noticed(event)

    def answers(self, peer: Peer, question: Message) -> Script[Message] | None:
        """The node's own desk: how it is."""
        return self._status() if isinstance(question, say.AskStatus) else None

    def noticed(self, event: LinkEvent) -> None:
        """See `Desk.noticed`."""

    def _status(self) -> Script[Message]:
        return self.status()
        yield from ()

    def status(self) -> say.Status:
        """How it is: whether it can be worked with, who is connected, what recovery has trouble with."""
        failure = self.failure
        is_open = self._state == "open"
        return say.Status(
            ready=is_open and failure is None,
            failed=failure is not None,
            why=failure.message if failure else "" if is_open else f"The node is {self._state}.",
            incarnation=self.journal.incarnation if is_open else 0,
            coordinator=self.journal.coordinator.raw if is_open else b"",
            applications=tuple(peer.name for peer in self.applications()),
            unfinished={name: handle.trouble for name, handle in self.core.handles.items() if handle.trouble},
        )


def as_document(status: say.Status) -> dict[str, Any]:
    """A status as JSON has it."""
    return {
        "ready": status.ready,
        "failed": status.failed,
        "why": status.why,
        "incarnation": status.incarnation,
        "coordinator": str(Guid(status.coordinator)) if status.coordinator else None,
        "applications": list(status.applications),
        "unfinished": dict(status.unfinished),
    }
