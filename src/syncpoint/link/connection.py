"""One connection: greeting, frames in and out, batching, back-pressure, signs of life.

All of it runs on the event loop, except `send` and `room`, which any thread may call. A connection ends once, for one
reason, and tells its owner so; whatever is broken ends it, since nothing can be resent.

Not for: opening connections (dialling.py, listening.py), or who may be at the other end (stream.py).
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from syncpoint.errors import FormatTooNew
from syncpoint.ids import Guid
from syncpoint.link.framing import HEAD_SIZE_BYTES, MAGIC, BadFrame, FrameReader, to_frame
from syncpoint.link.handshake import Handshake, Reason, Refusal, Side, State
from syncpoint.link.inbox import Account
from syncpoint.link.outgoing import Outgoing, Put
from syncpoint.link.peers import Proof
from syncpoint.link.settings import FRAME_BYTES_LEAST, Limits
from syncpoint.link.tls import explain, names_in
from syncpoint.messages import BadMessage, Hello, Message, Ping, Pong, Ready, Refused, Vocabulary, refused
from syncpoint.ports import Peer, Sent, Signal


class GreetingFailed(Exception):
    """The connection did not come about: `refusal` if one of the two said no, else only the text."""

    def __init__(self, text: str, refusal: Refusal | None = None) -> None:
        super().__init__(text)
        self.refusal = refusal


class Owner(Protocol):
    """Who is told what becomes of a connection. Called on the loop."""

    def opened(self, connection: Connection) -> Account | Refused:
        """The greeting is over. Returns the peer's account, or why the connection is not wanted after all."""
        ...

    def received(self, peer: Peer, messages: Sequence[Message], account: Account, size_bytes: int) -> None: ...

    def ended(self, connection: Connection, why: str) -> None:
        """An open connection has ended."""
        ...

    def closed(self, connection: Connection) -> None:
        """Its transport is gone."""
        ...


@dataclass(slots=True)
class Counts:
    """What a link has done, for its figures."""

    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    writes: int = 0
    reads: int = 0
    refused: int = 0
    connected: int = 0
    lost: int = 0


class Connection(asyncio.Protocol):
    """Parameters: `admit` is asked about the other end's Hello and what proves it; `proof` is what is known already
    (over a Unix socket), else the certificate is read; `where` is the other end's address, for people.
    """

    def __init__(
        self,
        *,
        owner: Owner,
        own: Hello,
        side: Side,
        admit: Callable[[Hello, Proof], Refused | None],
        limits: Limits,
        vocabulary: Vocabulary,
        signal: Callable[[], Signal],
        counts: Counts,
        where: str,
        proof: Proof | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._owner = owner
        self._limits = limits
        self._vocabulary = vocabulary
        self._counts = counts
        self._proof = proof
        self._handshake = Handshake(own=own, side=side, admit=lambda hello: admit(hello, self.proof))
        self._reader = FrameReader(FRAME_BYTES_LEAST)
        self._outgoing = Outgoing(limits.queue_bytes_max, signal)
        self._transport: Any = None  # asyncio.Transport, or uvloop's
        self._timer: asyncio.TimerHandle | None = None
        self._beat_due_s = 0.0
        self._heard_at_s = 0.0
        self._ping = (0, 0.0)
        self._account: Account | None = None
        self._reading_paused = False
        self._ended_why: str | None = None
        self.side = side
        self.where = where
        self.peer: Peer | None = None
        """Set once the connection is open."""
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        """Done when open; raises GreetingFailed."""
        self.gone = asyncio.Event()
        """Set when the transport is gone."""
        self.round_trip_s: float | None = None

    def __repr__(self) -> str:
        state = self._ended_why or self._handshake.state.name
        return f"<Connection {self.peer or 'nobody yet'} at {self.where} {state} {self._outgoing!r}>"

    @property
    def proof(self) -> Proof:
        assert self._proof is not None
        return self._proof

    @property
    def dialled_by_us(self) -> bool:
        return self.side is Side.DIALLER

    @property
    def version(self) -> int:
        return self._handshake.version

    # --- sending, from any thread ----------------------------------------------------------------------

    def send(self, frame: bytes) -> Sent:
        """Queue a frame. What is sent within one turn of the loop is written at once."""
        match self._outgoing.put(frame):
            case Put.FULL:
                return Sent.FULL
            case Put.CLOSED:
                return Sent.AWAY
            case Put.WAKE:
                self._call_soon(self._flush)
        return Sent.TAKEN

    def room(self) -> Signal | None:
        return self._outgoing.room()

    def _call_soon(self, callback: Callable[[], None]) -> None:
        if threading.get_ident() == self._thread:
            self._loop.call_soon(callback)
            return
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed, and the connection with it
            self._outgoing.close()

    # --- ending ----------------------------------------------------------------------------------------

    def refuse(self, no: Refused) -> None:
        """Say why, after what was sent before, and end."""
        if self._ended_why is None:
            self._flush()
            self._write(to_frame(self._vocabulary.encode(no)))
            self.end(no.text, Refusal(by_us=True, reason=no.reason, text=no.text))

    def end(self, why: str, refusal: Refusal | None = None, *, at_once: bool = False) -> None:
        """End for this reason, unless it has ended. `at_once`: drop what was not sent; the peer does not take it."""
        if self._ended_why is not None:
            return
        self._ended_why = why
        was_open = self.peer is not None
        if self._timer is not None:
            self._timer.cancel()
        self._outgoing.close()
        if self._transport is not None:
            if at_once:
                self._transport.abort()
            else:
                self._transport.close()
                self._timer = self._loop.call_later(self._limits.heartbeat_s, self._transport.abort)
        if not self.greeted.done():
            self.greeted.set_exception(GreetingFailed(why, refusal))
            self.greeted.exception()  # looked at: whoever waits for it may be gone
        if was_open:
            self._owner.ended(self, why)

    def never_made(self, why: str) -> None:
        """The loop could not make it, and has closed what there was: uvloop does so without `connection_lost`."""
        self.end(why, at_once=True)
        self.gone.set()
        self._owner.closed(self)

    # --- asyncio.Protocol ------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        if self._ended_why is not None:  # given up while it was being made
            transport.abort()
            return
        self._transport = transport
        if self._proof is None:
            self._proof = Proof(certificate=names_in(transport.get_extra_info("peercert")))
        self._heard_at_s = self._loop.time()
        if self.side is Side.ACCEPTOR:
            # First, so that a dialler whom TLS refuses is told so before it has written anything.
            self._write(MAGIC)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._ended_why is None:
            self._timer = None
            self.end(self._lost_how(error), at_once=True)
        self.gone.set()
        self._owner.closed(self)

    def _lost_how(self, error: Exception | None) -> str:
        if self.dialled_by_us and not self._reader.magic_seen and not isinstance(error, ssl.SSLError):
            # With TLS 1.3 the other end judges our certificate last, and asyncio sends no alert when it refuses.
            return "the other end ended it before it said a word: it does not accept who we are. Its log says why"
        return explain(error) if error is not None else "the other end closed the connection"

    def pause_writing(self) -> None:
        self._outgoing.hold_up(True)

    def resume_writing(self) -> None:
        self._outgoing.hold_up(False)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._heard_at_s = self._loop.time()
        self._counts.reads += 1
        self._counts.bytes_received += len(data)
        if self._ended_why is not None:
            return
        self._reader.feed(data)
        try:
            self._read_all()
        except (BadFrame, BadMessage, FormatTooNew) as error:
            self._broken(str(error))

    def _broken(self, how: str) -> None:
        if self._reader.magic_seen:
            self.refuse(refused(Reason.BROKEN, how))
        else:  # it does not speak our language
            self.end(how, Refusal(by_us=True, reason=Reason.BROKEN, text=how), at_once=True)

    # --- reading ---------------------------------------------------------------------------------------

    def _read_all(self) -> None:
        messages: list[Message] = []
        size_bytes = 0
        no: Refused | None = None
        try:
            while self._ended_why is None and no is None:
                was_silent = not self._reader.magic_seen
                body = self._reader.next_body()
                if was_silent and self._reader.magic_seen:
                    self._begin()
                if body is None:
                    break
                message = self._vocabulary.decode(body)
                if self.peer is None:
                    self._greet(message)
                elif isinstance(message, Ping | Pong):
                    self._on_sign_of_life(message)
                elif isinstance(message, Refused):
                    no = message
                elif isinstance(message, Hello | Ready):
                    raise BadMessage(f"{type(message).__name__} is out of place on an open connection")
                else:
                    messages.append(message)
                    size_bytes += HEAD_SIZE_BYTES + len(body)
        finally:
            if messages:  # those before a bad one, or before the end, are good
                self._deliver(messages, size_bytes)
        if no is not None:
            self.end(no.text, Refusal(by_us=False, reason=no.reason, text=no.text))

    def _begin(self) -> None:
        """The other end speaks our language."""
        if self.side is Side.DIALLER:
            self._write(MAGIC + self._frames(self._handshake.start()))

    def _greet(self, message: Message) -> None:
        answer = self._frames(self._handshake.on_message(message))
        if answer:
            self._write(answer)
        if self._handshake.state is State.OPEN:
            self._open()
        elif self._handshake.refusal is not None:
            self.end(self._handshake.refusal.text, self._handshake.refusal)

    def _open(self) -> None:
        hello = self._handshake.peer
        assert hello is not None
        self._reader.size_bytes_max = self._limits.frame_bytes_max
        self.peer = Peer(name=hello.name, guid=Guid(hello.guid), role=hello.role, instance=hello.instance)
        account = self._owner.opened(self)
        if isinstance(account, Refused):
            self.peer = None  # it never was
            self.refuse(account)
            return
        self._account = account
        self._hold_up(0)  # what came over an earlier connection counts
        self._beat_due_s = self._loop.time() + self._limits.heartbeat_s
        self._timer = self._loop.call_at(self._beat_due_s, self._beat)
        if not self.greeted.done():
            self.greeted.set_result(None)

    def _deliver(self, messages: Sequence[Message], size_bytes: int) -> None:
        assert self.peer is not None
        assert self._account is not None
        self._counts.messages_received += len(messages)
        self._hold_up(size_bytes)
        self._owner.received(self.peer, messages, self._account, size_bytes)

    def _hold_up(self, size_bytes: int) -> None:
        """Stop reading if so much more is too much."""
        assert self._account is not None
        is_over = self._account.add(size_bytes, lambda: self._call_soon(self._resume_reading))
        if is_over and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and self._ended_why is None:
            self._reading_paused = False
            self._heard_at_s = self._loop.time()  # we did not listen
            self._transport.resume_reading()

    # --- writing ---------------------------------------------------------------------------------------

    def _frames(self, messages: Sequence[Message]) -> bytes:
        return b"".join(to_frame(self._vocabulary.encode(message)) for message in messages)

    def _write(self, data: bytes) -> None:
        self._counts.writes += 1
        self._counts.bytes_sent += len(data)
        self._transport.write(data)

    def _flush(self) -> None:
        while self._ended_why is None:
            piece = self._outgoing.next_piece()
            if not piece:
                return
            self._write(piece)

    # --- signs of life ---------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Once a heartbeat: say that we live, and judge whether the peer does."""
        now_s = self._loop.time()
        if now_s - self._beat_due_s > self._limits.heartbeat_s:
            self._heard_at_s = now_s  # it was us who stood still: what the peer sent meanwhile is not read yet
        silent_s = now_s - self._heard_at_s
        if silent_s > self._limits.dead_after_s and not self._reading_paused:
            self.end(f"nothing was heard for {silent_s:.1f} s", at_once=True)
            return
        self._ping = (self._ping[0] + 1, now_s)
        self._say(Ping(number=self._ping[0]))
        self._beat_due_s = now_s + self._limits.heartbeat_s
        self._timer = self._loop.call_at(self._beat_due_s, self._beat)

    def _on_sign_of_life(self, message: Ping | Pong) -> None:
        if isinstance(message, Ping):
            self._say(Pong(number=message.number))
        elif message.number == self._ping[0]:
            self.round_trip_s = self._loop.time() - self._ping[1]

    def _say(self, message: Message) -> None:
        """Bytes on their way are a sign of life too: while the peer takes none, add nothing."""
        if not self._outgoing.is_held_up:
            put = self._outgoing.put(to_frame(self._vocabulary.encode(message)), bounded=False)
            if put is Put.WAKE:
                self._loop.call_soon(self._flush)
