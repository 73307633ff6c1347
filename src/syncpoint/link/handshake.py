"""The greeting of two ends, as a state machine. Pure.

    dialler                          acceptor
      │                         magic   │  once TLS, or the system, has proved who dials
      │◀────────────────────────────────┤
      │  magic, Hello                   │
      ├────────────────────────────────▶│  may it talk to us? which version?
      │                         Hello   │
      │◀────────────────────────────────┤     CONFIRMING
      │  Ready, and the first messages  │
      ├────────────────────────────────▶│     OPEN
    OPEN

Either end may say Refused instead of its next word; then both know why. The acceptor names itself only after it has
heard a Hello, and counts the connection as open only after Ready, so that neither sees one that the other refuses.

Not for: bytes (framing.py), who is admitted (peers.py), or how long it may take (connection.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from itertools import product
from typing import Final

from syncpoint.messages import Hello, Message, Ready, Refused, refused

VERSION: Final = 1
"""The highest version of the link's rules that this Syncpoint speaks."""


class Reason(StrEnum):
    """Why a connection is refused or ended; what `Refused.reason` holds. An unknown one is as good as any."""

    VERSION = "version"
    CLUSTER = "cluster"
    UNKNOWN = "unknown"
    IDENTITY = "identity"
    UNEXPECTED = "unexpected"
    WRONG_PEER = "wrong-peer"
    DUPLICATE = "duplicate"
    TOO_MANY = "too-many"
    BROKEN = "broken"
    CLOSING = "closing"


class Side(Enum):
    """Who opened the connection."""

    DIALLER = auto()
    ACCEPTOR = auto()


class State(Enum):
    """Where a greeting stands. OPEN, REFUSED and BROKEN are final."""

    DIALLING = auto()
    """Our Hello is sent."""
    ACCEPTING = auto()
    """Nothing is sent yet."""
    CONFIRMING = auto()
    """We said yes; the other end may still say no."""
    OPEN = auto()
    REFUSED = auto()
    """One of the two said no."""
    BROKEN = auto()
    """The other end broke the rules."""


class Input(Enum):
    """What can come in."""

    WELCOME = auto()
    """A Hello of one that we admit."""
    UNWELCOME = auto()
    """A Hello of one that we do not."""
    READY = auto()
    REFUSED = auto()
    OTHER = auto()


GREETING: Final = (State.DIALLING, State.ACCEPTING, State.CONFIRMING)

NEXT: Final[dict[tuple[State, Input], State]] = {
    (State.DIALLING, Input.WELCOME): State.OPEN,
    (State.DIALLING, Input.UNWELCOME): State.REFUSED,
    (State.DIALLING, Input.READY): State.BROKEN,
    (State.DIALLING, Input.REFUSED): State.REFUSED,
    (State.DIALLING, Input.OTHER): State.BROKEN,
    (State.ACCEPTING, Input.WELCOME): State.CONFIRMING,
    (State.ACCEPTING, Input.UNWELCOME): State.REFUSED,
    (State.ACCEPTING, Input.READY): State.BROKEN,
    (State.ACCEPTING, Input.REFUSED): State.REFUSED,
    (State.ACCEPTING, Input.OTHER): State.BROKEN,
    (State.CONFIRMING, Input.WELCOME): State.BROKEN,
    (State.CONFIRMING, Input.UNWELCOME): State.BROKEN,
    (State.CONFIRMING, Input.READY): State.OPEN,
    (State.CONFIRMING, Input.REFUSED): State.REFUSED,
    (State.CONFIRMING, Input.OTHER): State.BROKEN,
}
assert set(NEXT) == set(product(GREETING, Input))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no connection: `by_us`, or by the other end."""

    by_us: bool
    reason: str
    text: str


def common_version(own: Hello, other: Hello) -> int | None:
    """The highest version that both speak, or None."""
    version = min(own.version_max, other.version_max)
    return version if version >= max(own.version_min, other.version_min) else None


class Handshake:
    """One greeting.

    Parameters: `own`, our Hello; `side`; `admit`, which says why the other may not talk to us, or None when it may.
    """

    def __init__(self, *, own: Hello, side: Side, admit: Callable[[Hello], Refused | None]) -> None:
        self._own = own
        self._admit = admit
        self.state = State.DIALLING if side is Side.DIALLER else State.ACCEPTING
        self.peer: Hello | None = None
        """The other end's Hello, once it has come; to be believed only when OPEN."""
        self.version = 0
        """The version agreed on."""
        self.refusal: Refusal | None = None
        """Set when REFUSED or BROKEN."""

    def __repr__(self) -> str:
        return f"<Handshake {self._own.name} {self.state.name} with {self.peer.name if self.peer else 'nobody yet'}>"

    def start(self) -> tuple[Message, ...]:
        """What to send at once."""
        return (self._own,) if self.state is State.DIALLING else ()

    def on_message(self, message: Message) -> tuple[Message, ...]:
        """What to send in answer. Afterwards look at `state`."""
        assert self.state in GREETING, "a greeting that has ended hears nothing more"
        kind, answer = self._classify(message)
        before, self.state = self.state, NEXT[self.state, kind]
        match self.state:
            case State.CONFIRMING:
                return (self._own,)
            case State.OPEN:
                return (Ready(version=self.version),) if before is State.DIALLING else ()
            case State.REFUSED if kind is Input.REFUSED:
                assert isinstance(message, Refused)
                self.refusal = Refusal(by_us=False, reason=message.reason, text=message.text)
                return ()
            case State.BROKEN:
                answer = refused(
                    Reason.BROKEN, f"{type(message).__name__} is out of place while {before.name.lower()}."
                )
        assert answer is not None
        self.refusal = Refusal(by_us=True, reason=answer.reason, text=answer.text)
        return (answer,)

    def _classify(self, message: Message) -> tuple[Input, Refused | None]:
        match message:
            case Hello() if self.peer is None:
                no = self._judge(message)
                return (Input.UNWELCOME, no) if no else (Input.WELCOME, None)
            case Ready() if message.version == self.version:
                return Input.READY, None
            case Refused():
                return Input.REFUSED, None
        return Input.OTHER, None

    def _judge(self, hello: Hello) -> Refused | None:
        self.peer = hello
        version = common_version(self._own, hello)
        if version is None:
            return refused(Reason.VERSION, _no_common_version(self._own, hello))
        self.version = version
        return self._admit(hello)


def _no_common_version(own: Hello, other: Hello) -> str:
    older = own.name if own.version_max < other.version_min else other.name
    return (
        f"{own.name} speaks versions {own.version_min} to {own.version_max} of the link, "
        f"{other.name} {other.version_min} to {other.version_max}. Update Syncpoint where {older} runs."
    )
