"""What a link is told at its start: who we are, who the others are, files for TLS, limits.

Everything is checked when it is made; a wrong value raises ConfigurationError that names it. Not for: reading files
(tls.py) or `syncpoint.toml`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, fields

from syncpoint.errors import ConfigurationError
from syncpoint.ids import Guid
from syncpoint.link.addresses import TlsAddress, parse_address
from syncpoint.link.handshake import VERSION
from syncpoint.link.peers import KnownPeer
from syncpoint.messages import NAME_PATTERN, NAME_SIZE_CHARS_MAX

FRAME_BYTES_LEAST = 4096
"""A greeting fits into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds and times; the defaults suit a site. Sizes in bytes, times in seconds.

    - `frame_bytes_max`: of one message. The same at both ends.
    - `queue_bytes_max`: waiting to be sent to one peer; beyond it `send` says FULL.
    - `inbox_bytes_max`: received from one peer and not taken yet; beyond it that peer is held up.
    - `heartbeat_s`: how often a sign of life is sent; `dead_after_s`: after how long without any the peer is lost.
    - `handshake_s`: for everything from the first byte to the last word of the greeting.
    - `dial_s`: for reaching the other end.
    - `retry_base_s`, `retry_max_s`: between two tries to dial, growing.
    - `greetings_max`: connections being opened by others at once; one more, and the oldest of them goes.
    - `links_max`: peers connected at once.
    """

    frame_bytes_max: int = 16 * 1024 * 1024
    queue_bytes_max: int = 32 * 1024 * 1024
    inbox_bytes_max: int = 32 * 1024 * 1024
    heartbeat_s: float = 0.5
    dead_after_s: float = 3.0
    handshake_s: float = 5.0
    dial_s: float = 5.0
    retry_base_s: float = 0.1
    retry_max_s: float = 5.0
    greetings_max: int = 64
    links_max: int = 1000

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 32:
                raise ConfigurationError(f"The link's {one.name} is {value!r}.", advice="Give a number above 0.")
        self._expect(self.frame_bytes_max >= FRAME_BYTES_LEAST, f"frame_bytes_max is below {FRAME_BYTES_LEAST}")
        self._expect(self.queue_bytes_max >= self.frame_bytes_max, "queue_bytes_max is below frame_bytes_max")
        self._expect(self.inbox_bytes_max >= self.frame_bytes_max, "inbox_bytes_max is below frame_bytes_max")
        self._expect(self.dead_after_s >= 3 * self.heartbeat_s, "dead_after_s is below three times heartbeat_s")
        self._expect(self.retry_max_s >= self.retry_base_s, "retry_max_s is below retry_base_s")

    def _expect(self, holds: bool, wrong: str) -> None:
        if not holds:
            raise ConfigurationError(f"The link's {wrong}.", advice="Raise the one or lower the other.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files: our certificate (and any between it and the authority), its key, whom we trust to sign."""

    certificate: str
    key: str
    authorities: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """One process's link.

    - `cluster`, `name`, `role`, `guid`: who we are; the name is ours alone in the cluster.
    - `peers`: who may talk to us; those with an address are dialled.
    - `listen`: where we can be dialled.
    - `tls`: needed for every `tls://`.
    - `version_min`, `version_max`: of the link's rules; for tests and for upgrades in two steps.
    """

    cluster: str
    name: str
    role: str
    guid: Guid
    peers: tuple[KnownPeer, ...] = ()
    listen: tuple[str, ...] = ()
    tls: TlsFiles | None = None
    limits: Limits = field(default_factory=Limits)
    version_min: int = 1
    version_max: int = VERSION

    def __post_init__(self) -> None:
        for what, text in (("cluster", self.cluster), ("name", self.name), ("role", self.role)):
            _check_name(f"link's {what}", text)
        addresses = [parse_address(text, may_be_port_0=True) for text in self.listen]
        for peer in self.peers:
            _check_peer(peer)
            if peer.address is not None:
                addresses.append(parse_address(peer.address))
        [*doubles] = [name for name, number in Counter(peer.name for peer in self.peers).items() if number > 1]
        if doubles:
            raise ConfigurationError(f"The peer {doubles[0]!r} is listed twice.", advice="List each peer once.")
        if self.tls is None and any(isinstance(address, TlsAddress) for address in addresses):
            raise ConfigurationError(
                "An address begins with tls:// and the link has no certificate.",
                advice="Give tls=TlsFiles(certificate=…, key=…, authorities=…).",
            )


def _check_peer(peer: KnownPeer) -> None:
    many = peer.name.endswith("*")
    _check_name("peer's name", peer.name[:-1].rstrip("._-") or "x" if many else peer.name)
    if many and peer.address is not None:
        raise ConfigurationError(
            f"The peers {peer.name!r} have an address.",
            advice="Only a single peer can be dialled: give its whole name.",
        )


def _check_name(what: str, text: str) -> None:
    if len(text) > NAME_SIZE_CHARS_MAX or not re.search(NAME_PATTERN, text):
        raise ConfigurationError(
            f"{text[: NAME_SIZE_CHARS_MAX + 1]!r} cannot be a {what}.",
            advice=f"Use 1 to {NAME_SIZE_CHARS_MAX} letters and digits, with ., _ or - between them.",
        )
