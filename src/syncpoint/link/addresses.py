"""Where a process listens or is dialled: `tls://host:port`, `unix:///run/syncpoint/node.sock`. Pure.

TCP without TLS does not exist here: whoever can reach a port could say any name. Not for: opening anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from syncpoint.errors import ConfigurationError

UNIX_PATH_BYTES_MAX = 107
"""What the operating system can hold (`sun_path`)."""


@dataclass(frozen=True, slots=True)
class TlsAddress:
    """A TCP port with mutual TLS. Port 0, when listening: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tls://[{self.host}]:{self.port}" if ":" in self.host else f"tls://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system, for processes of one machine."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


Address: TypeAlias = TlsAddress | UnixAddress


def parse_address(text: str, *, may_be_port_0: bool = False) -> Address:
    """Read an address. Raises ConfigurationError."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    if parts.scheme == "unix":
        return UnixAddress(_unix_path(text, parts.netloc, unquote(parts.path)))
    if parts.scheme == "tcp":
        raise _wrong(text, "TCP is used with TLS only")
    if parts.scheme != "tls":
        raise _wrong(text, f"the scheme {parts.scheme!r} is not known")
    if not parts.hostname:
        raise _wrong(text, "it names no host")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise _wrong(text, "there is more than a host and a port")
    if port is None or (port == 0 and not may_be_port_0):
        raise _wrong(text, "it names no port")
    return TlsAddress(parts.hostname, port)


def _unix_path(text: str, netloc: str, path: str) -> str:
    if netloc:
        raise _wrong(text, "the path of a Unix socket is absolute: three slashes")
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise _wrong(text, "it names no file")
    if len(path.encode()) > UNIX_PATH_BYTES_MAX:
        raise _wrong(text, f"the path is longer than the {UNIX_PATH_BYTES_MAX} bytes that a socket's may have")
    return path


def _wrong(text: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{text!r} is no address of a link: {why}.",
        advice="Write tls://host:port, or unix:///run/syncpoint/node.sock for processes of one machine.",
    )
