"""The node's desk for journals: one session for each connected application, fenced when it is gone.

    host.fence("app-4711")        from then on that application decides nothing more under its incarnation

An application whose connection is lost has `resume_s` to come back: its session goes on as if nothing had been. Then it
is taken for dead and fenced: its folder journal is closed, so that the node's own (`heir`) takes its records over, and
recovery finishes what it left. If it lives, it is told so at its next question, and draws another incarnation.
Not for: what is answered in a session (journal_session.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from syncpoint.errors import (
    FormatTooNew,
    JournalDamaged,
    JournalError,
    JournalFailed,
    JournalRefused,
    ManagerClosed,
    SyncpointError,
)
from syncpoint.journal import node_messages as say
from syncpoint.journal.folder import FolderJournal
from syncpoint.marks import sometimes
from syncpoint.messages import Message
from syncpoint.node.journal_session import HostedSession
from syncpoint.ports import Arrived, Clock, Connected, LinkEvent, Lost, Peer, Runtime
from syncpoint.steps import Script, Wait

log = logging.getLogger("syncpoint.node")

TEND_S = 0.1
REMEMBERED_MAX = 10_000
STUCK_S = 10.0


class JournalHost:
    """Parameters: `heir`, the node's own open journal; `make` makes one more of the same folder, with that heir;
    `resume_s`, seconds for which a lost application is waited for; `failed` is told that the disk has failed (R5);
    `inherit`, the script that has what a fenced one left taken over and recovered."""

    def __init__(
        self,
        *,
        heir: FolderJournal,
        make: Callable[[], FolderJournal],
        runtime: Runtime,
        clock: Clock,
        resume_s: float,
        failed: Callable[[SyncpointError], None],
        inherit: Callable[[], Script[object]],
    ) -> None:
        self._heir = heir
        self._make = make
        self._runtime = runtime
        self._clock = clock
        self._resume_s = resume_s
        self._failed = failed
        self._inherit = inherit
        self._mutex = runtime.mutex()
        self._sessions: dict[str, HostedSession] = {}
        self._connected: dict[str, Peer] = {}
        self._ended: dict[str, tuple[bytes, int]] = {}
        """The last session that is over, of each process: no question in it, or one before, is ever answered."""
        self._stopping = runtime.signal()

    def __repr__(self) -> str:
        return f"<JournalHost {len(self._sessions)} sessions>"

    def applications(self) -> Sequence[Peer]:
        """Connected applications that have a session."""
        with self._mutex:
            have = {name for name, session in self._sessions.items() if not session.over}
            return [peer for name, peer in sorted(self._connected.items()) if name in have]

    def sessions(self) -> Sequence[HostedSession]:
        """Those not over, of applications connected or not."""
        with self._mutex:
            return [session for session in self._sessions.values() if not session.over]

    def write_notes(self) -> Script[None]:
        """What applications have noted is in their files when this returns. Raises JournalFailed."""
        for session in self.sessions():
            if session.is_open:
                with suppress(ManagerClosed):  # it has just ended: what it leaves is the node's
                    yield from session.journal.force(())

    # --- Desk ----------------------------------------------------------------------------------------------------

    def answers(self, peer: Peer, question: Message) -> Script[Message] | None:
        """See `Desk.answers`."""
        if isinstance(question, say.OpenSession):
            return self._open(peer, question)
        if isinstance(question, say.OfSession):
            return self._answer(peer, question)
        return None

    def noticed(self, event: LinkEvent) -> None:
        """See `Desk.noticed`."""
        peer = event.peer
        with self._mutex:
            session = self._sessions.get(peer.name)
            ours = session is not None and session.instance == peer.instance
            match event:
                case Connected():
                    self._connected[peer.name] = peer
                    if session is not None:
                        session.lost_at = None if ours else self._clock.monotonic() - self._resume_s
                case Lost():
                    self._connected.pop(peer.name, None)
                    if session is not None:
                        session.lost_at = self._clock.monotonic()
                case Arrived():
                    pass

    # --- sessions ------------------------------------------------------------------------------------------------

    def _open(self, peer: Peer, question: say.OpenSession) -> Script[Message]:
        with self._mutex:
            if self._is_past(peer, question.session) or self._stopping.is_set():
                return say.SessionOver(why="It was over before it began.")
            held = self._sessions.get(peer.name)
            again = held is not None and held.instance == peer.instance and held.number == question.session
            session = held if held is not None and again else self._new(peer, question)
            if not again:
                self._sessions[peer.name] = session
        if again:
            yield from self._until_begun(session)
        else:
            if held is not None:
                yield from self._end(held, "it opened another one")
            refused = yield from self._begin(session)
            if refused is not None:
                return refused
        if session.over or not session.is_open:
            return say.SessionOver(why=session.over or "It could not be opened.")
        return say.SessionOpened(
            coordinator=session.journal.coordinator.raw, incarnation=session.journal.incarnation, known=session.names()
        )

    def _is_past(self, peer: Peer, number: int) -> bool:
        instance, last = self._ended.get(peer.name, (b"", 0))
        held = self._sessions.get(peer.name)
        if held is not None and held.instance == peer.instance and number < held.number:
            return True
        return instance == peer.instance and number <= last

    def _new(self, peer: Peer, question: say.OpenSession) -> HostedSession:
        session = HostedSession(
            application=peer.name,
            instance=peer.instance,
            number=question.session,
            journal=self._make(),
            heir=self._heir,
            runtime=self._runtime,
            place=question.place,
        )
        connected = self._connected.get(peer.name)
        if connected is None or connected.instance != peer.instance:
            session.lost_at = self._clock.monotonic()  # its question is answered after it was lost
        return session

    def _begin(self, session: HostedSession) -> Script[say.SessionRefused | None]:
        try:
            yield from session.journal.open(self._runtime)
            session.is_open = True
        except (JournalRefused, JournalDamaged, FormatTooNew) as error:
            self._forget(session)
            log.error("No session for %s: %s", session.application, error)
            return say.SessionRefused(why=error.message, advice=error.advice)
        except JournalError as error:
            self._forget(session)
            self._fail(error)
            raise
        finally:
            session.begun.set()
        log.info(
            "Application %s (%s) has incarnation %d.",
            session.application,
            session.place or "it does not say where it runs",
            session.journal.incarnation,
        )
        return None

    def _answer(self, peer: Peer, question: say.OfSession) -> Script[Message]:
        with self._mutex:
            session = self._sessions.get(peer.name)
        if session is None or session.instance != peer.instance or session.number != question.session:
            return say.SessionOver(why="The node knows of no such session: it was taken for dead, or it was restarted.")
        yield from self._until_begun(session)
        if session.over or not session.is_open:
            return say.SessionOver(why=session.over)
        if isinstance(question, say.CloseSession):
            yield from self._end(session, "its application has closed it")
            return say.Kept()
        try:
            return (yield from session.answer(question))
        except ManagerClosed:
            if session.over and session.is_open:  # its journal was closed before this question: nothing was done
                return say.SessionOver(why=session.over)
            raise
        except JournalFailed as error:
            self._fail(error)
            raise

    def fence(self, application: str) -> Script[None]:
        """When this returns, that application decides nothing more under the incarnation that it has now. What it had
        decided is in the journal: look there. Raises JournalFailed."""
        with self._mutex:
            session = self._sessions.get(application)
        if session is not None:
            yield from self._end(session, "the node has taken its application for dead")
            yield from self._inherit()

    def _end(self, session: HostedSession, why: str) -> Script[None]:
        """It stands in the table until it is closed, so that no later one of its application begins before that."""
        with self._mutex:
            is_first = not session.over
            session.over = session.over or why
            self._remember(session)
        if not is_first:
            while not (yield Wait(session.closed, STUCK_S)):
                log.error("The session of %s does not end: is the disk stuck?", session.application)
            return
        yield from self._until_begun(session)
        try:
            if session.is_open:
                log.info("The session of %s is over: %s.", session.application, why)
                yield from session.journal.close()
        finally:
            with self._mutex:
                if self._sessions.get(session.application) is session:
                    del self._sessions[session.application]
            session.closed.set()

    def _until_begun(self, session: HostedSession) -> Script[None]:
        while not (yield Wait(session.begun, STUCK_S)):
            log.error("The session of %s does not begin: is the disk stuck?", session.application)

    def _forget(self, session: HostedSession) -> None:
        with self._mutex:
            session.over = session.over or "it could not be opened"
            if self._sessions.get(session.application) is session:
                del self._sessions[session.application]
            self._remember(session)
        session.closed.set()

    def _remember(self, session: HostedSession) -> None:
        instance, last = self._ended.pop(session.application, (b"", 0))
        highest = max(session.number, last if instance == session.instance else 0)
        self._ended[session.application] = session.instance, highest
        while len(self._ended) > REMEMBERED_MAX:
            del self._ended[next(iter(self._ended))]

    def _fail(self, error: SyncpointError) -> None:
        """The disk has failed: no further answers from this node (R5)."""
        self._failed(error)

    # --- the background ------------------------------------------------------------------------------------------

    def tend(self) -> Script[None]:
        """For ever: fence whoever is gone for good."""
        while not (yield Wait(self._stopping, TEND_S)):
            now = self._clock.monotonic()
            with self._mutex:
                gone = [one for one in self._sessions.values() if one.lost_at is not None and not one.over]
            for session in gone:
                if session.lost_at is not None and now - session.lost_at >= self._resume_s:
                    sometimes("the node fenced an application that was gone")
                    yield from self._fence_one(session)

    def _fence_one(self, session: HostedSession) -> Script[None]:
        try:
            yield from self._end(session, f"it was not connected for {self._resume_s:g} s")
            yield from self._inherit()
        except JournalError as error:
            self._fail(error)

    def close(self) -> Script[None]:
        """End every session. Applications that live draw another incarnation from the node's next start."""
        self._stopping.set()
        for session in self.sessions():
            yield from self._end(session, "the node is being stopped")
