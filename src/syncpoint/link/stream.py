"""`StreamLink`: the port `ports.Link` on an event loop, over Unix sockets and mutual TLS.

    link = StreamLink(settings, vocabulary=WORDS, signal=runtime.signal, random=SystemRandom())
    await link.start()                 # raises ConfigurationError; from here on peers come and go
    link.send("farm-2", message)       # Sent.TAKEN, FULL or AWAY; from any thread
    await link.close()

At most one connection to each peer is open. Not for: what messages mean, or programs without a loop (threaded.py).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from syncpoint.errors import MessageTooLarge
from syncpoint.link.addresses import Address, TlsAddress, UnixAddress, parse_address
from syncpoint.link.backoff import Complaints
from syncpoint.link.connection import Connection, Counts, GreetingFailed
from syncpoint.link.dialling import Dialler
from syncpoint.link.framing import to_frame
from syncpoint.link.handshake import Reason, Side
from syncpoint.link.inbox import Account, Inbox
from syncpoint.link.listening import Listener
from syncpoint.link.peers import Keep, KnownPeer, Proof, Roster, choose
from syncpoint.link.settings import LinkSettings
from syncpoint.link.sockets import check_platform, dial_unix, in_words, listen, peer_uid
from syncpoint.link.tls import client_context, explain, server_context
from syncpoint.messages import LINK_VOCABULARY, Hello, Message, Refused, Vocabulary, refused
from syncpoint.ports import Arrived, Connected, LinkEvent, Lost, Peer, Random, Sent, Signal

COMPLAINT_PERIOD_S = 60.0
REFUSALS_SAID = 5
"""How many refusals of one kind are written in a period: enough to see several that are set up wrong."""
CLOSE_S_MAX = 2.0

_log = logging.getLogger("syncpoint.link")


class StreamLink:
    """Parameters: `settings`; `vocabulary`, the messages carried (`LINK_VOCABULARY.extended(…)`); `signal`, which
    makes a Signal (`Runtime.signal`); `random`.

    Belongs to the loop in which `start` is called. In a forked child it is of no use: make a new one there.
    """

    def __init__(
        self,
        settings: LinkSettings,
        *,
        vocabulary: Vocabulary = LINK_VOCABULARY,
        signal: Callable[[], Signal],
        random: Random,
    ) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._vocabulary = vocabulary
        self._signal = signal
        self._random = random
        self._own = Hello(
            version_min=settings.version_min,
            version_max=settings.version_max,
            cluster=settings.cluster,
            guid=settings.guid.raw,
            name=settings.name,
            role=settings.role,
            instance=random.bytes(8),
        )
        self._own_uid = os.geteuid()
        self._roster = Roster(settings.peers, cluster=settings.cluster, own_name=settings.name, own_uid=self._own_uid)
        self._inbox = Inbox(signal())
        # Kept alive by the connection, and by what was not taken.
        self._accounts: weakref.WeakValueDictionary[str, Account] = weakref.WeakValueDictionary()
        self._nothing_full = signal()
        self._nothing_full.set()
        self._open: dict[str, Connection] = {}
        self._connections: set[Connection] = set()
        self._diallers: dict[str, Dialler] = {}
        self._listeners: list[Listener] = []
        self._complaints = Complaints(COMPLAINT_PERIOD_S)
        self._refusals = Complaints(COMPLAINT_PERIOD_S)
        self._dial_failures: dict[str, str] = {}
        self._contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        self._closed = False
        self.counts = Counts()

    def __repr__(self) -> str:
        return f"<StreamLink {self._own.name} connected to {' '.join(sorted(self._open)) or 'nobody'}>"

    # --- ports.Link ------------------------------------------------------------------------------------

    @property
    def arrived(self) -> Signal:
        return self._inbox.arrived

    def take(self) -> Sequence[LinkEvent]:
        return self._inbox.take()

    def send(self, to: str, message: Message) -> Sent:
        connection = self._open.get(to)
        if connection is None:
            return Sent.AWAY
        body = self._vocabulary.encode(message)
        if len(body) > self._limits.frame_bytes_max:
            raise MessageTooLarge(type(message).__name__, len(body), self._limits.frame_bytes_max)
        sent = connection.send(to_frame(body))
        if sent is Sent.TAKEN:
            self.counts.messages_sent += 1
        return sent

    def room(self, to: str) -> Signal:
        connection = self._open.get(to)
        return (connection.room() if connection is not None else None) or self._nothing_full

    def peers(self) -> Sequence[Peer]:
        connections = sorted(dict(self._open).items())
        return [connection.peer for _, connection in connections if connection.peer is not None]

    # --- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, and begin to dial. Raises ConfigurationError; then nothing is left open."""
        self.reload_certificates()
        dialled = [(peer, parse_address(peer.address)) for peer in self._settings.peers if peer.address is not None]
        for _, address in dialled:
            check_platform(address)
        try:
            for text in self._settings.listen:
                await self._listen(parse_address(text, may_be_port_0=True))
        except BaseException:
            await self.close()
            raise
        for peer, address in dialled:
            self._diallers[peer.name] = self._dialler(peer, address)

    def reload_certificates(self) -> None:
        """Read the TLS files again, for connections made from now on.

        Raises ConfigurationError; then nothing changes.
        """
        files = self._settings.tls
        if files is not None:
            self._contexts = (server_context(files), client_context(files))

    @property
    def listening_at(self) -> tuple[str, ...]:
        """Where we can be dialled, with the ports that were chosen."""
        return tuple(str(listener.address) for listener in self._listeners)

    async def close(self) -> None:
        """End every connection; peers are told. What they do not take soon is dropped. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for listener in self._listeners:
            await listener.close()
        for dialler in self._diallers.values():
            await dialler.close()
        for connection in tuple(self._connections):
            connection.refuse(refused(Reason.CLOSING, f"{self._own.name} has closed its link."))
        gone = [asyncio.ensure_future(connection.gone.wait()) for connection in tuple(self._connections)]
        if gone:
            await asyncio.wait(gone, timeout=CLOSE_S_MAX)
        for waiting in gone:
            waiting.cancel()

    def figures(self) -> dict[str, Any]:
        """What this link has done so far, as JSON would have it."""
        return {
            **asdict(self.counts),
            "dial_attempts": {name: dialler.attempts for name, dialler in self._diallers.items()},
            "round_trip_s": {name: connection.round_trip_s for name, connection in sorted(dict(self._open).items())},
        }

    # --- opening ---------------------------------------------------------------------------------------

    async def _listen(self, address: Address) -> None:
        check_platform(address)
        private = all(set(peer.uids) <= {self._own_uid} for peer in self._settings.peers)
        listening, address = await listen(address, private=private)
        self._listeners.append(
            Listener(
                listening,
                address,
                lambda accepted, where: self._greet(accepted, where, address),
                self._limits.greetings_max,
                self._complain,
            )
        )

    async def _greet(self, accepted: socket.socket, where: Any, address: Address) -> None:
        """Somebody has dialled us."""
        try:
            proof = Proof(uid=peer_uid(accepted)) if isinstance(address, UnixAddress) else None
        except OSError:
            accepted.close()
            return
        words = f"user id {proof.uid} over {address}" if proof is not None else in_words(where)
        connection = self._connection(Side.ACCEPTOR, words, proof, None)
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                await self._over(connection, accepted, self._contexts[0] if self._contexts and proof is None else None)
        except asyncio.CancelledError:
            connection.end("it was given up", at_once=True)
            raise
        except (GreetingFailed, OSError) as error:
            connection.end(explain(error), at_once=True)
            self._complain_about(error, words)

    def _dialler(self, peer: KnownPeer, address: Address) -> Dialler:
        return Dialler(
            peer.name,
            lambda: self._dial(peer, address),
            self._limits,
            self._random,
            lambda why: self._dial_failed(peer.name, address, why),
        )

    async def _dial(self, peer: KnownPeer, address: Address) -> Connection:
        """Raises OSError, GreetingFailed."""
        proof: Proof | None = None
        async with asyncio.timeout(self._limits.dial_s):
            if isinstance(address, TlsAddress):
                dialled = await _dial_tcp(address)
            else:
                dialled = await dial_unix(address.path)
        try:
            if isinstance(address, UnixAddress):
                proof = Proof(uid=peer_uid(dialled))
            connection = self._connection(Side.DIALLER, str(address), proof, peer.name)
        except BaseException:
            dialled.close()
            raise
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                await self._over(connection, dialled, self._contexts[1] if self._contexts and proof is None else None)
        except BaseException as error:
            connection.end(explain(error), at_once=True)
            raise
        return connection

    async def _over(self, connection: Connection, connected: socket.socket, context: ssl.SSLContext | None) -> None:
        """Greet over this socket, which belongs to the connection from now on. No `context`: it is a Unix socket."""
        loop = asyncio.get_running_loop()
        self._connections.add(connection)
        seconds = self._limits.handshake_s if context is not None else None

        def protocol() -> Connection:
            return connection

        try:
            if not connection.dialled_by_us:
                await loop.connect_accepted_socket(protocol, connected, ssl=context, ssl_handshake_timeout=seconds)
            elif context is None:
                await loop.create_unix_connection(protocol, sock=connected)
            else:
                await loop.create_connection(
                    protocol, sock=connected, ssl=context, server_hostname="", ssl_handshake_timeout=seconds
                )
        except BaseException as error:
            connection.never_made(explain(error))
            raise
        await connection.greeted

    def _connection(self, side: Side, where: str, proof: Proof | None, dialled: str | None) -> Connection:
        return Connection(
            owner=self,
            own=self._own,
            side=side,
            admit=lambda hello, proved: self._admit(hello, proved, side, dialled),
            limits=self._limits,
            vocabulary=self._vocabulary,
            signal=self._signal,
            counts=self.counts,
            where=where,
            proof=proof,
        )

    # --- who may -----------------------------------------------------------------------------------------

    def _admit(self, hello: Hello, proof: Proof, side: Side, dialled: str | None) -> Refused | None:
        no = self._roster.refusal(hello, proof, dialled)
        return no or self._surplus(hello.name, hello.instance, side is Side.DIALLER)

    def _surplus(self, name: str, instance: bytes, dialled_by_us: bool) -> Refused | None:
        """Why one more connection is not wanted, if so."""
        if self._closed:
            return refused(Reason.CLOSING, f"{self._own.name} has closed its link.")
        old = self._open.get(name)
        if old is None:
            if len(self._open) < self._limits.links_max:
                return None
            return refused(
                Reason.TOO_MANY, f"{self._own.name} has {len(self._open)} links already. Raise links_max there."
            )
        assert old.peer is not None
        keep = choose(
            own_name=self._own.name,
            peer_name=name,
            same_instance=old.peer.instance == instance,
            old_dialled_by_us=old.dialled_by_us,
            new_dialled_by_us=dialled_by_us,
        )
        if keep is Keep.NEW:
            return None
        return refused(Reason.DUPLICATE, f"{self._own.name} and {name} are connected already.")

    # --- connection.Owner --------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> Account | Refused:
        peer = connection.peer
        assert peer is not None
        no = self._surplus(peer.name, peer.instance, connection.dialled_by_us)  # once more: others opened meanwhile
        if no is not None:
            return no
        old = self._open.get(peer.name)
        if old is not None:
            old.end(f"{peer.name} has connected anew", at_once=True)
        self._open[peer.name] = connection
        self.counts.connected += 1
        self._dial_failures.pop(peer.name, None)
        _log.info("The link to %s is open: %s, version %d.", peer.name, connection.where, connection.version)
        self._inbox.put([Connected(peer)])
        dialler = self._diallers.get(peer.name)
        if dialler is not None:
            dialler.peer_is_here(connection)
        return self._accounts.setdefault(peer.name, Account(self._limits.inbox_bytes_max))

    def received(self, peer: Peer, messages: Sequence[Message], account: Account, size_bytes: int) -> None:
        self._inbox.put([Arrived(peer, message) for message in messages], account, size_bytes)

    def ended(self, connection: Connection, why: str) -> None:
        peer = connection.peer
        assert peer is not None
        if self._open.get(peer.name) is not connection:
            return
        del self._open[peer.name]
        self.counts.lost += 1
        self._inbox.put([Lost(peer, why)])
        dialler = self._diallers.get(peer.name)
        if not self._closed:
            follows = "It is dialled again" if dialler is not None else "It has to dial again"
            _log.warning("The link to %s is lost: %s. %s.", peer.name, why.rstrip("."), follows)
        if dialler is not None:
            dialler.peer_is_away()

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    # --- log lines ---------------------------------------------------------------------------------------

    def _dial_failed(self, name: str, address: Address, why: str) -> None:
        """Said once until it is another reason, or was well in between."""
        if self._dial_failures.get(name) != why:
            self._dial_failures[name] = why
            _log.warning(
                "The link to %s at %s does not come about: %s. It is tried again.", name, address, why.rstrip(".")
            )

    def _complain_about(self, error: Exception, where: str) -> None:
        """One that dialled us was refused, or gave up."""
        refusal = error.refusal if isinstance(error, GreetingFailed) else None
        if refusal is not None and refusal.reason == Reason.DUPLICATE:
            return
        self.counts.refused += 1
        why = refusal.text if refusal is not None else explain(error)
        now_s = asyncio.get_running_loop().time()
        if self._refusals.may_say(why, now_s=now_s)[0]:
            kind = refusal.reason if refusal is not None else getattr(error, "reason", "") or type(error).__name__
            if refusal is not None and not refusal.by_us:
                text = f"Who dialled from {where} refused us: {why}"
            else:
                text = f"A connection from {where} was refused: {why}"
            self._complain(f"refused {kind}", text, burst=REFUSALS_SAID)

    def _complain(self, kind: str, text: str, *, burst: int = 1) -> None:
        may_say, left_out = self._complaints.may_say(kind, now_s=asyncio.get_running_loop().time(), burst=burst)
        if may_say:
            _log.warning("%s%s", text, f" ({left_out} more of this kind were left out)" if left_out else "")


async def _dial_tcp(address: TlsAddress) -> socket.socket:
    """A connected socket: the first address of the host that answers. Raises OSError."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, where in await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        dialled = socket.socket(family, kind, protocol)
        try:
            dialled.setblocking(False)
            await loop.sock_connect(dialled, where)
        except OSError as error:
            dialled.close()
            failure = failure or error
            continue
        except BaseException:
            dialled.close()
            raise
        return dialled
    raise failure or OSError(errno.EADDRNOTAVAIL, "the host's name stands for no address")
