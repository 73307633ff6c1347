"""Sockets that listen and sockets that dial, and who the operating system says is at the other end.

Not for: TLS (tls.py) or what is said (connection.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import struct
from typing import Any

from syncpoint.errors import ConfigurationError
from syncpoint.link.addresses import Address, TlsAddress, UnixAddress

BACKLOG = 128
_UCRED = struct.Struct("iII")  # pid, uid, gid


def peer_uid(connected: socket.socket) -> int:
    """The user that the other end of a Unix socket ran as when it connected or listened. Linux only.

    Raises OSError.
    """
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[1])


def check_platform(address: Address) -> None:
    """Raises ConfigurationError where Unix sockets do not tell who is at the other end."""
    if isinstance(address, UnixAddress) and not hasattr(socket, "SO_PEERCRED"):
        raise ConfigurationError(
            f"A link cannot use {address}: this operating system does not tell whose process is at the other end.",
            advice="Use tls:// between these processes.",
        )


async def listen(address: Address, *, private: bool) -> tuple[socket.socket, Address]:
    """A listening socket, and its address with the port chosen. `private`: only our own user may connect (Unix).

    Raises ConfigurationError.
    """
    try:
        if isinstance(address, UnixAddress):
            return _listen_unix(address.path, private), address
        return await _listen_tcp(address)
    except OSError as error:
        raise ConfigurationError(
            f"The link cannot listen at {address}: {error.strerror or error}.",
            advice="Is another process listening there? Correct the address, or stop the other."
            if error.errno == errno.EADDRINUSE
            else "Correct the address.",
        ) from None


async def _listen_tcp(address: TlsAddress) -> tuple[socket.socket, TlsAddress]:
    """The first address that the host's name stands for here."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    failure: OSError | None = None
    for family, kind, protocol, _, where in infos:
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            failure = failure or error
            continue
        return listener, TlsAddress(address.host, listener.getsockname()[1])
    raise failure or OSError(errno.EADDRNOTAVAIL, "the host's name stands for no address")


def _listen_unix(path: str, private: bool) -> socket.socket:
    _remove_dead_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600 if private else 0o666)  # before it listens: nobody can have connected yet
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_dead_socket(path: str) -> None:
    """Remove what a process that died has left. A live one is left alone: binding then fails."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog says EAGAIN: alive
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return


def remove_socket(path: str, inode: int) -> None:
    """Remove our own socket file, unless another process has put its own there meanwhile."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


async def dial_unix(path: str) -> socket.socket:
    """A connected Unix socket. Raises OSError."""
    dialling = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        dialling.setblocking(False)
        await asyncio.get_running_loop().sock_connect(dialling, path)
    except BaseException:
        dialling.close()
        raise
    return dialling


def in_words(where: Any) -> str:
    """The address of who has dialled us, for log lines."""
    if isinstance(where, tuple):
        return f"{where[0]}:{where[1]}"
    return "a Unix socket"
