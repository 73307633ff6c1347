"""The sessions that managers have in a resource manager's process: one branch each, its questions counted.

A question is answered once; whoever asks it again gets the first answer, also after the branch has ended (then for as
long as the last `REMEMBERED_MAX` are remembered). Not for: carrying questions out (process_host.py).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, auto

from syncpoint.ids import Identifier
from syncpoint.messages import Message
from syncpoint.ports import Runtime, Signal
from syncpoint.resources.base import Session
from syncpoint.resources.process_messages import Question, Rows, Value
from syncpoint.steps import Script, Wait

__all__ = ["Hosted", "HostedSessions", "Place", "TooManySessions"]

REMEMBERED_MAX = 10_000
LOOK_AGAIN_S = 1.0


class TooManySessions(Exception):
    """There is no room for one more branch."""


class Place(Enum):
    """Where a question stands among those of its session."""

    NEXT = auto()
    """It is to be carried out now, and `done` to be called."""
    REPEATED = auto()
    """It has been answered; the answer stands in `Hosted.answer`."""
    STALE = auto()
    """A later one has been asked since, or an earlier one is missing."""


@dataclass(slots=True)
class Hosted:
    """One branch's session."""

    id: bytes
    process: str
    """The link's name of the manager's process that opened it."""
    idle: Signal
    """Set while none of its questions is being carried out."""
    identifier: Identifier | None = None
    session: Session | None = None
    deadline: float = 0.0
    """When its transaction's time is over, by the monotonic clock."""
    has_turn: bool = False
    voted_at: float | None = None
    """When it voted yes, by the monotonic clock; None: it has not."""
    number: int = 0
    """Of the last question begun."""
    answer: Message | None = field(default=None, repr=False)
    """Of the question with that number; None: it is being carried out."""
    why_ended: str = ""
    """Empty: it is alive."""

    @property
    def has_voted(self) -> bool:
        return self.voted_at is not None


class HostedSessions:
    """All of one process. Safe to call from several threads."""

    def __init__(self, runtime: Runtime, alive_max: int) -> None:
        self._runtime = runtime
        self._mutex = runtime.mutex()
        self._alive_max = alive_max
        self._alive: dict[bytes, Hosted] = {}
        self._ended: OrderedDict[bytes, Hosted] = OrderedDict()

    def __repr__(self) -> str:
        return f"<HostedSessions {len(self._alive)} alive, {len(self.in_doubt())} of them in doubt>"

    def __len__(self) -> int:
        return len(self._alive)

    # --- looking -------------------------------------------------------------------------------------

    def alive(self) -> list[Hosted]:
        with self._mutex:
            return list(self._alive.values())

    def in_doubt(self) -> list[Hosted]:
        """Those that have voted yes and have no outcome."""
        return [one for one in self.alive() if one.has_voted]

    def find(self, session: bytes) -> Hosted | None:
        """The session of that id, alive or remembered."""
        with self._mutex:
            return self._alive.get(session) or self._ended.get(session)

    def holding(self, identifier: Identifier) -> Hosted | None:
        """The living session with that branch."""
        return next((one for one in self.alive() if one.identifier == identifier), None)

    # --- beginning and ending ------------------------------------------------------------------------

    def enter(self, session: bytes, process: str) -> Hosted:
        """The session of that id; made, when it is new. Raises TooManySessions."""
        with self._mutex:
            known = self._alive.get(session) or self._ended.get(session)
            if known is not None:
                return known
            if len(self._alive) >= self._alive_max:
                raise TooManySessions
            made = Hosted(session, process, self._runtime.signal())
            made.idle.set()
            self._alive[session] = made
            return made

    def end(self, hosted: Hosted, why: str) -> None:
        """Its branch is over; its last answer is remembered for a while."""
        with self._mutex:
            hosted.why_ended, hosted.voted_at, hosted.session = why, None, None
            if isinstance(hosted.answer, Rows | Value):
                hosted.answer = None  # they may be large, and nobody needs them any more
            if self._alive.pop(hosted.id, None) is not None:
                self._ended[hosted.id] = hosted
                while len(self._ended) > REMEMBERED_MAX:
                    self._ended.popitem(last=False)

    def bar(self, session: bytes, process: str, why: str) -> None:
        """A session that is not known here has ended before it began: whatever of it still comes is refused."""
        with self._mutex:
            if session not in self._alive and session not in self._ended:
                signal = self._runtime.signal()
                signal.set()
                self._ended[session] = Hosted(session, process, signal, why_ended=why)

    # --- one question at a time ----------------------------------------------------------------------

    def take(self, hosted: Hosted, question: Question) -> Script[Place]:
        """Wait until no other question of the session is being carried out; then say where this one stands."""
        while True:
            with self._mutex:
                if hosted.idle.is_set():
                    if question.number == hosted.number and hosted.answer is not None:
                        return Place.REPEATED
                    # A question may be skipped: its asker gave it up before it was sent.
                    if question.number <= hosted.number or hosted.why_ended:
                        return Place.STALE
                    hosted.idle.clear()
                    hosted.number, hosted.answer = question.number, None
                    return Place.NEXT
            yield Wait(hosted.idle, LOOK_AGAIN_S)

    def seize(self, hosted: Hosted, seconds: float) -> Script[bool]:
        """As `take`, for the process's own purposes. Returns whether it is ours now; then `release` it."""
        waited = False
        while True:
            with self._mutex:
                if hosted.why_ended:
                    return False
                if hosted.idle.is_set():
                    hosted.idle.clear()
                    return True
            if waited:
                return False
            waited = not (yield Wait(hosted.idle, seconds))

    def release(self, hosted: Hosted) -> None:
        """It was seized, and may go on."""
        hosted.idle.set()

    def done(self, hosted: Hosted, answer: Message) -> None:
        """The question that was taken is answered."""
        with self._mutex:
            hosted.answer = answer
            hosted.idle.set()
