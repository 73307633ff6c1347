"""One connection to MariaDB and all that is known about it: who it is, which branch is on it, what was seen pass by.

Whether a branch wrote is told by the server itself: with `session_track_transaction_info = STATE` its OK packets
carry a line of eight letters, `T` for "in a transaction", `W` or `w` for "some table was locked for writing":
UPDATE, triggers, procedures, functions inside a SELECT, all of them. That costs nothing, where reading the
session's Handler counters costs as much as a whole commit. What locked rows for writing (FOR UPDATE) counts as
writing. When the server reports nothing (an old proxy in between), every branch counts as one that wrote.
Not for: sending anything (mariadb_driver.py), or refusing calls of the driver (mariadb_sync.py, mariadb_async.py,
mariadb_borrowed.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import msgspec

from syncpoint.errors import FormatTooNew, NotAllowed, TransactionEnded
from syncpoint.ids import Identifier
from syncpoint.resources.base import Session

STATE_FORMAT = 1

COM_PROCESS_KILL = 0x0C
COM_CHANGE_USER = 0x11
COM_RESET_CONNECTION = 0x1F
FORBIDDEN_COMMANDS = {
    COM_PROCESS_KILL: "killing a connection",
    COM_CHANGE_USER: "changing the user",
    COM_RESET_CONNECTION: "resetting the connection",  # DATABASES MariaDB 2: it loses a prepared branch
}

CAPABILITY_MULTI_STATEMENTS = 1 << 16
CAPABILITY_SESSION_TRACK = 1 << 23
STATUS_SESSION_STATE_CHANGED = 0x4000
TRACK_TRANSACTION_STATE = 5

WRONG_STATE = 1399  # XAER_RMFAIL: not in this state of the XA transaction

# Server errors that come with the end of the connection: whether the statement took effect is unknown.
LAST_WORDS = frozenset((1053, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927))


_STATE = re.compile(rb"[TI_][r_][R_][w_][W_][s_][S_][L_]\Z")


class Phase(Enum):
    """Where the session's branch stands."""

    NONE = auto()
    WORKING = auto()
    """XA START was answered; the transaction's code may use the connection."""
    IDLE = auto()
    """XA END was answered, or the server has rolled the branch back and waits for XA ROLLBACK."""
    PREPARED = auto()
    DUPLICATE = auto()
    """XA START was refused: the identifier is in use already (A4)."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Which connection of which server start prepared a branch: what KILL must match (DATABASES MariaDB 1, 10)."""

    server_started: int
    """Seconds since 1970, as the server says it."""
    connection_id: int
    account: str
    """`user@host:port` as the process list shows it."""

    def to_bytes(self) -> bytes:
        """The state information that a yes vote carries (B2)."""
        fields = (self.server_started, self.connection_id, self.account)
        return bytes((STATE_FORMAT,)) + msgspec.msgpack.encode(fields)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Holder | None:
        """Read `to_bytes`; None for no bytes. Raises FormatTooNew."""
        if not raw:
            return None
        if raw[0] > STATE_FORMAT:
            raise FormatTooNew("branch's state information", raw[0], STATE_FORMAT)
        return cls(*msgspec.msgpack.decode(raw[1:], type=tuple[int, int, str]))


class MariadbSession(Session):
    """A session of the MariaDB resource. `connection` is PyMySQL's or asyncmy's, in our subclass, or mysqlclient's,
    borrowed, in our wrapper."""

    __slots__ = (
        "connection",
        "driver",
        "error",
        "handed",
        "holder",
        "inside",
        "leaving",
        "over",
        "phase",
        "resource",
        "tracked",
        "version",
        "wrote",
    )

    def __init__(self, resource: str, connection: Any) -> None:
        super().__init__()
        self.resource = resource
        self.connection = connection
        self.driver: Any = None
        """The driver that speaks on it, of a session whose connection is borrowed; None: the resource's own."""
        self.version = ""
        self.holder = Holder(0, 0, "")
        self.handed: Any = None
        """What the branch's code was given, if it is not `connection` itself."""
        self.phase = Phase.NONE
        self.inside = False
        """A statement of the adapter's own is under way; nothing is refused."""
        self.leaving = False
        """The connection is being closed."""
        self.tracked = False
        """The server reports the transaction's state in this branch."""
        self.wrote: bool | None = None
        """Whether the branch wrote. None: nothing was seen yet, but what a result set hid was not reported."""
        self.over = False
        """The server reported that the transaction is no more: a deadlock's victim, or ended by SQL text."""
        self.error: BaseException | None = None
        """The last error that a statement of the transaction's code got, but for those that only follow from it."""

    def __repr__(self) -> str:
        broken = " broken" if self.broken else ""
        return f"<MariadbSession {self.resource} connection={self.holder.connection_id} {self.phase.name}{broken}>"

    # --- the branch ------------------------------------------------------------------------------------

    def begins(self, identifier: Identifier, *, read_only: bool) -> None:
        """XA START was answered."""
        self.identifier = identifier
        self.phase = Phase.WORKING
        self.wrote = False if read_only else None if self.tracked else True
        self.over = False
        self.error = None

    def ends(self) -> None:
        """Nothing of the branch is on this connection any more."""
        self.identifier = None
        self.handed = None
        self.phase = Phase.NONE
        self.tracked = False
        self.wrote = None
        self.over = False
        self.error = None

    # --- what passes by ----------------------------------------------------------------------------------

    def before(self, command: int) -> None:
        """Called before a command is sent. Raises TransactionEnded, NotAllowed."""
        if self.inside:
            return
        if self.phase is Phase.DUPLICATE:
            raise TransactionEnded(
                f"The branch of {self.identifier} could not begin at {self.resource!r}: "
                "a branch with the same identifier exists there.",
                advice="Let the transaction end; it will abort.",
            )
        if self.phase is not Phase.WORKING:
            raise self.ended()
        if command in FORBIDDEN_COMMANDS:
            raise self.refusal(FORBIDDEN_COMMANDS[command])

    def ended(self) -> TransactionEnded:
        """What a call gets on a connection whose branch is over."""
        return TransactionEnded(
            f"The transaction that this connection to {self.resource!r} belonged to has ended.",
            advice="Ask the new transaction for its connection: tx.connect(...).",
        )

    def refusal(self, what: str) -> NotAllowed:
        """What a call gets that would end or change the branch behind the manager's back."""
        return NotAllowed(
            f"{what} is not allowed on the connection to {self.resource!r} of the transaction {self.identifier}.",
            advice="Leave the transaction's block instead: it commits everywhere, or, on an exception, nowhere. "
            "For a part that may fail, use a savepoint.",
        )

    def failed(self, error: BaseException) -> None:
        """Called when sending or reading raised. Anything but an error that the server sent breaks the session."""
        if not is_server_error(error):
            self.broken = True
        elif not self.inside and error_code(error) != WRONG_STATE:
            self.error = error

    def saw(self, packet: bytes) -> None:
        """Called with every packet that may be an OK packet."""
        state = transaction_state(packet)
        if state is None:
            return
        if "T" not in state:
            self.over = True
        else:
            self.tracked = True
            if "W" in state or "w" in state:
                self.wrote = True


def transaction_state(packet: bytes) -> str | None:
    """The eight letters of an OK packet's transaction state, or None. Never raises: a row may look like one."""
    try:
        at = _skip_number(packet, _skip_number(packet, 1))
        status = int.from_bytes(packet[at : at + 2], "little")
        if not status & STATUS_SESSION_STATE_CHANGED:
            return None
        at = _skip_text(packet, at + 4)  # the message for people
        end = _skip_text(packet, at)
        at = _skip_number(packet, at)
        while at < end:
            after = _skip_text(packet, at + 1)
            if packet[at] == TRACK_TRANSACTION_STATE:
                match = _STATE.match(packet[after - 8 : after])
                return match and match[0].decode()
            at = after
    except IndexError:
        pass
    return None


def _number(packet: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends) of a length-encoded integer."""
    first = packet[at]
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first)
    if size is None:
        return first, at + 1
    return int.from_bytes(packet[at + 1 : at + 1 + size], "little"), at + 1 + size


def _skip_number(packet: bytes, at: int) -> int:
    return _number(packet, at)[1]


def _skip_text(packet: bytes, at: int) -> int:
    size, at = _number(packet, at)
    return at + size


def error_code(error: BaseException | None) -> int:
    """The number of a driver's error; 0 when it has none."""
    arguments: Sequence[Any] = error.args if error is not None else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def is_drivers(error: BaseException) -> bool:
    """Whether one of the drivers raised it."""
    return type(error).__module__.partition(".")[0] in ("pymysql", "asyncmy", "MySQLdb")


def is_server_error(error: BaseException) -> bool:
    """Whether the server itself sent this error, in answer to a statement, and stays connected."""
    code = error_code(error)
    return is_drivers(error) and code >= 1000 and not 2000 <= code < 3000 and code not in LAST_WORDS
