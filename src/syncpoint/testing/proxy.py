"""A proxy that loses replies: between an application and its database server, to try what a lost reply does.

    with FaultProxy(server_url) as proxy:
        url = proxy.url(server_url)        # for the application
        proxy.lose_reply()                 # the next request: the server executes it, its answer is dropped
        proxy.lose_request()               # the next request never reaches the server
        proxy.hold_request()               # the client sees its connection end at once; the server gets the
        proxy.release()                    #   request only now, and executes it for nobody

Each of them strikes once, at the next bytes that any client sends, and ends that connection at both ends. A reply
counts as lost only after the server has sent all of it: the statement was executed to its end. To know where a
reply ends, the proxy reads PostgreSQL's and MariaDB's protocols as far as that takes; connections must not be
encrypted. Not for: delays, bandwidth, or faults of the network that TCP itself mends.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from enum import Enum, auto
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit, urlunsplit

SETTLE_S_MAX = 20.0
_CHUNK = 65536
_PORTS = {"postgresql": 5432, "mariadb": 3306}


class Fault(Enum):
    """What happens to the next request."""

    LOSE_REPLY = auto()
    LOSE_REQUEST = auto()
    HOLD_REQUEST = auto()


class FaultProxy:
    """One proxy for one server, on a free loopback port. Its threads end with `close`, or with the process.

    Parameter: `url` of the server, `postgresql://…` or `mariadb://…`; only scheme, host and port matter.
    Raises ValueError for another scheme.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS:
            raise ValueError(f"no proxy is known for {parts.scheme}://")
        self._scheme = parts.scheme
        self._server = (parts.hostname or "localhost", parts.port or _PORTS[parts.scheme])
        self._changed = threading.Condition()
        self._armed: Fault | None = None
        self._links: set[_Link] = set()
        self._held: list[_Link] = []
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, name="fault-proxy", daemon=True).start()

    def __repr__(self) -> str:
        armed = self._armed.name if self._armed else "passing"
        return f"<FaultProxy {self._scheme} {armed}, {len(self._links)} connections, {len(self._held)} held>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def url(self, original: str) -> str:
        """The same URL, through this proxy."""
        parts = urlsplit(original)
        account = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        port = self._listener.getsockname()[1]
        return urlunsplit(parts._replace(netloc=f"{account}127.0.0.1:{port}"))

    # --- faults ----------------------------------------------------------------------------------------

    def lose_reply(self) -> None:
        """The next request is executed; its answer is dropped when it is complete, and the connection ended."""
        self._arm(Fault.LOSE_REPLY)

    def lose_request(self) -> None:
        """The next request is dropped, and the connection ended."""
        self._arm(Fault.LOSE_REQUEST)

    def hold_request(self) -> None:
        """The client of the next request sees its connection end; the server gets it at `release`."""
        self._arm(Fault.HOLD_REQUEST)

    def _arm(self, fault: Fault) -> None:
        with self._changed:
            self._armed = fault

    def disarm(self) -> bool:
        """Take back what has not struck yet. Returns whether it had struck."""
        with self._changed:
            armed, self._armed = self._armed, None
            return armed is None

    def release(self) -> int:
        """Send the held requests to the server, in order, and wait until it has answered them. Returns how many."""
        with self._changed:
            held, self._held = self._held, []
        for link in held:
            link.send_held()
        self.settle()
        return len(held)

    def settle(self, seconds_max: float = SETTLE_S_MAX) -> None:
        """Wait until every reply that is being lost was received to its end. Raises TimeoutError."""
        deadline = time.monotonic() + seconds_max
        with self._changed:
            while any(link.losing for link in self._links if link not in self._held):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"The server has not answered within {seconds_max} s: {self!r}")
                self._changed.wait(left)

    def cut(self) -> None:
        """End every connection at both ends, as when the network or the application's machine goes."""
        with self._changed:
            links, self._held = list(self._links), []
        for link in links:
            link.end()

    def close(self) -> None:
        """End everything. A second call does nothing."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    # --- inside ----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:  # the server is down: so is this connection
                client.close()
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(self, client, server, _reader_for(self._scheme))
            with self._changed:
                self._links.add(link)
            link.start()

    def _take(self, link: _Link) -> Fault | None:
        with self._changed:
            fault, self._armed = self._armed, None
            if fault in (Fault.LOSE_REPLY, Fault.HOLD_REQUEST):
                link.losing = True
            if fault is Fault.HOLD_REQUEST:
                self._held.append(link)
            return fault

    def _ended(self, link: _Link) -> None:
        with self._changed:
            self._links.discard(link)
            if link in self._held:
                self._held.remove(link)
            self._changed.notify_all()


class _Link:
    """One client's connection and its connection to the server: a thread for each direction."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket, reader: ReplyReader) -> None:
        self.losing = False
        """The client is not told any more what the server says."""
        self._proxy = proxy
        self._client = client
        self._server = server
        self._reader = reader
        self._held = b""

    def start(self) -> None:
        for pump in (self._upstream, self._downstream):
            threading.Thread(target=pump, name="fault-proxy-link", daemon=True).start()

    def _upstream(self) -> None:
        for request in _received(self._client):
            fault = self._proxy._take(self)
            if fault is Fault.LOSE_REQUEST:
                break
            self._reader.request(request)
            if fault is Fault.HOLD_REQUEST:
                self._held = request
                _shut(self._client)
                return
            if not _sent(self._server, request):
                break
        if self.losing:
            return  # the server must still finish; _downstream ends it
        self.end()

    def _downstream(self) -> None:
        for answer in _received(self._server):
            complete = self._reader.answer(answer)
            if self.losing:
                if complete:
                    break
            elif not _sent(self._client, answer):
                break
        self.end()
        for one in (self._client, self._server):
            one.close()
        self._proxy._ended(self)

    def send_held(self) -> None:
        _sent(self._server, self._held)

    def end(self) -> None:
        """Both ends see the connection go. The threads notice, and clear away."""
        _shut(self._client)
        _shut(self._server)


def _received(one: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            data = one.recv(_CHUNK)
        except OSError:
            return
        if not data:
            return
        yield data


def _sent(one: socket.socket, data: bytes) -> bool:
    try:
        one.sendall(data)
    except OSError:
        return False
    return True


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


# --- where a reply ends --------------------------------------------------------------------------------------


class ReplyReader(Protocol):
    """Follows one connection's bytes."""

    def request(self, data: bytes) -> None:
        """The client sent this; whatever follows from the server is its reply."""

    def answer(self, data: bytes) -> bool:
        """The server sent this. Returns whether the reply is complete: the server waits for the client now."""


def _reader_for(scheme: str) -> ReplyReader:
    return _PostgresReader() if scheme == "postgresql" else _MariadbReader()


class _PostgresReader:
    """A reply ends with ReadyForQuery, or with the question for a password or for COPY data."""

    _START = frozenset((80877103, 80877104))  # "SSL?" and "GSS encryption?": answered by one byte

    def __init__(self) -> None:
        self._rest = b""
        self._asked_for_encryption = False

    def request(self, data: bytes) -> None:
        self._asked_for_encryption = len(data) == 8 and int.from_bytes(data[4:], "big") in self._START

    def answer(self, data: bytes) -> bool:
        if self._asked_for_encryption:
            return True
        self._rest += data
        complete = False
        while len(self._rest) >= 5:
            end = 1 + int.from_bytes(self._rest[1:5], "big")
            if len(self._rest) < end:
                break
            kind, body = self._rest[:1], self._rest[5:end]
            self._rest = self._rest[end:]
            asks = kind == b"R" and int.from_bytes(body[:4], "big") not in (0, 12)  # 12: the last word of SCRAM
            complete = kind in b"ZGW" or asks
        return complete


class _MariadbReader:
    """A reply ends with the last OK, error or EOF packet that announces no further result."""

    _MORE_RESULTS = 0x0008
    _DEPRECATE_EOF = 1 << 24

    def __init__(self) -> None:
        self._rest = b""
        self._requests = 0
        self._no_eof = False
        self._start()

    def _start(self) -> None:
        self._in_rows = False
        self._columns_left = 0
        self._rows_begin_with_eof = False

    def request(self, data: bytes) -> None:
        self._requests += 1
        if self._requests == 1:  # the login; what the client is capable of comes first
            self._no_eof = bool(int.from_bytes(data[4:8], "little") & self._DEPRECATE_EOF)
        self._start()

    def answer(self, data: bytes) -> bool:
        self._rest += data
        complete = False
        while len(self._rest) >= 4:
            end = 4 + int.from_bytes(self._rest[:3], "little")
            if len(self._rest) < end:
                break
            packet, self._rest = self._rest[4:end], self._rest[end:]
            complete = self._ends_with(packet)
        return complete

    def _ends_with(self, packet: bytes) -> bool:
        first = packet[0] if packet else 0
        if self._requests <= 1:
            return True  # the greeting, or the answer to the login
        if first == 0xFF:
            return True
        if self._columns_left:
            self._columns_left -= 1
            if not self._columns_left:
                self._in_rows, self._rows_begin_with_eof = True, not self._no_eof
            return False
        if self._in_rows:
            return self._in_rows_ends_with(packet)
        if first in (0x00, 0xFE):  # OK
            return not _status_of_ok(packet) & self._MORE_RESULTS
        if first == 0xFB:  # it wants a file
            return True
        self._columns_left = _number(packet, 0)[0]
        return False

    def _in_rows_ends_with(self, packet: bytes) -> bool:
        is_end = packet[:1] == b"\xfe" and (self._no_eof or len(packet) < 9)
        if not is_end:
            return False
        if self._rows_begin_with_eof:
            self._rows_begin_with_eof = False
            return False
        self._in_rows = False
        status = _status_of_ok(packet) if self._no_eof else int.from_bytes(packet[3:5], "little")
        return not status & self._MORE_RESULTS


def _status_of_ok(packet: bytes) -> int:
    at = _number(packet, _number(packet, 1)[1])[1]
    return int.from_bytes(packet[at : at + 2], "little")


def _number(packet: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends) of a length-encoded integer."""
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(packet[at])
    if size is None:
        return packet[at], at + 1
    return int.from_bytes(packet[at + 1 : at + 1 + size], "little"), at + 1 + size
