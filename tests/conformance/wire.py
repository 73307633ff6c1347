"""Counts round trips on the wire, and forces on the disk: what a commit costs (DESIGN section 7).

Not for: faults (syncpoint.testing.proxy), or times.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from syncpoint.ports import OpenFile
from syncpoint.system import SystemDisk


class CountingProxy:
    """One proxy for one server. `round_trips` counts how often a client spoke after its server had, or first; `asked`
    is all that clients have said, in pieces as it came."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._server = (parts.hostname or "localhost", parts.port)
        self.round_trips = 0
        self.asked: list[bytes] = []
        self._mutex = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, name="counting-proxy", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def url(self, original: str) -> str:
        """The same URL, through this proxy, without TLS."""
        parts = urlsplit(original)
        account = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        query = "sslmode=disable" if parts.scheme == "postgresql" else "ssl=false"
        netloc = f"{account}127.0.0.1:{self._listener.getsockname()[1]}"
        return urlunsplit(parts._replace(netloc=netloc, query=query))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                link = _Link(self._count, self.asked.append)
                for source, target, speaks in ((client, server, link.client_speaks), (server, client, link.answers)):
                    threading.Thread(target=_pump, args=(source, target, speaks), daemon=True).start()

    def _count(self) -> None:
        with self._mutex:
            self.round_trips += 1


class _Link:
    """Who spoke last on one connection."""

    def __init__(self, count: Callable[[], None], note: Callable[[bytes], None]) -> None:
        self._count = count
        self._note = note
        self._is_client_speaking = False

    def client_speaks(self, data: bytes) -> None:
        self._note(data)
        if not self._is_client_speaking:
            self._is_client_speaking = True
            self._count()

    def answers(self, data: bytes) -> None:
        self._is_client_speaking = False


def _pump(source: socket.socket, target: socket.socket, speaks: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            speaks(data)  # before it is sent on, so that its answer cannot come first
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


class CountingDisk(SystemDisk):
    """The local disk. `forces` counts what was forced; `before_force` is called first and may wait."""

    def __init__(self) -> None:
        self.forces = 0
        self.before_force: Callable[[], None] = lambda: None

    def create(self, path: str) -> OpenFile:
        return _CountedFile(super().create(path), self)

    def force_folder(self, folder: str) -> None:
        self.forces += 1
        super().force_folder(folder)


class _CountedFile(OpenFile):
    def __init__(self, file: OpenFile, disk: CountingDisk) -> None:
        self._file = file
        self._disk = disk

    def append(self, data: bytes) -> None:
        self._file.append(data)

    def force(self) -> None:
        self._disk.forces += 1
        self._disk.before_force()
        self._file.force()

    def close(self) -> None:
        self._file.close()
