"""Who may talk to us, and which of two connections to the same peer is kept. Pure.

A name is believed only with proof: a certificate that carries it, or the user id that the operating system vouches
for. Not for: obtaining the proof (tls.py, sockets.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from syncpoint.ids import Guid
from syncpoint.link.handshake import Reason
from syncpoint.messages import Hello, Refused, refused


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPeer:
    """A process that may be at the other end.

    - `name`: as it calls itself. A name that ends in `*` stands for all that begin so (`app-*`); such are not dialled.
    - `address`: where to dial it, `tls://host:port` or `unix:///path`; None: it dials us.
    - `role`, `guid`: what it must say of itself; None: anything.
    - `certificates`: names of which its certificate must carry one; empty: its own name.
    - `uids`: users that it may run as, over a Unix socket; empty: the user we run as.
    """

    name: str
    address: str | None = None
    role: str | None = None
    guid: Guid | None = None
    certificates: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()

    def matches(self, name: str) -> bool:
        if self.name.endswith("*"):
            return name.startswith(self.name[:-1])
        return name == self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What is certain about the other end: the names in its certificate, or the user it runs as."""

    certificate: frozenset[str] | None = None
    uid: int | None = None

    def __str__(self) -> str:
        if self.certificate is not None:
            names = sorted(self.certificate)[:5]  # a refusal must fit into its message
            return f"a certificate for {', '.join(ascii(name)[1:-1] for name in names) or 'nobody'}"
        return f"user id {self.uid}"


class Roster:
    """The known peers. Parameters: `peers`; `own_uid`, the user we run as; `cluster`, `own_name`, ours."""

    def __init__(self, peers: Iterable[KnownPeer], *, cluster: str, own_name: str, own_uid: int) -> None:
        self._peers = tuple(sorted(peers, key=lambda peer: peer.name.endswith("*")))  # whole names first
        self._cluster = cluster
        self._own_name = own_name
        self._own_uid = own_uid

    def __repr__(self) -> str:
        return f"<Roster {' '.join(peer.name for peer in self._peers)}>"

    def find(self, name: str) -> KnownPeer | None:
        return next((peer for peer in self._peers if peer.matches(name)), None)

    def refusal(self, hello: Hello, proof: Proof, dialled: str | None) -> Refused | None:
        """Why this one may not talk to us; None when it may. `dialled`: whom we meant to reach, if we dialled.

        The text goes to the other end, so it names what that end said, and nothing that it did not know.
        """
        if hello.cluster != self._cluster:
            return refused(
                Reason.CLUSTER,
                f"{hello.name} belongs to the cluster {hello.cluster!r}, {self._own_name} to another. "
                "Correct the address, or the cluster's name.",
            )
        if dialled is not None and hello.name != dialled:
            return refused(
                Reason.WRONG_PEER,
                f"{self._own_name} dialled {dialled} and reached {hello.name}. Correct the address of {dialled}.",
            )
        if hello.name == self._own_name:
            return refused(
                Reason.UNKNOWN,
                f"Both ends are named {hello.name}. Give each process of a cluster a name of its own.",
            )
        known = self.find(hello.name)
        if known is None:
            return refused(
                Reason.UNKNOWN,
                f"{self._own_name} knows no {hello.name!r}. Add it to the peers of {self._own_name}.",
            )
        return self._disproved(known, hello, proof) or self._unexpected(known, hello)

    def _disproved(self, known: KnownPeer, hello: Hello, proof: Proof) -> Refused | None:
        if proof.certificate is not None:
            accepted = known.certificates or (hello.name,)
            if proof.certificate.isdisjoint(accepted):
                return refused(
                    Reason.IDENTITY,
                    f"{hello.name} came with {proof}, and not for {' or '.join(accepted)}. "
                    f"Give {hello.name} a certificate that carries this name.",
                )
        elif proof.uid not in (known.uids or (self._own_uid,)):
            return refused(
                Reason.IDENTITY,
                f"{hello.name} runs as {proof}, which may not use this name. "
                f"Run it as the right user, or add the user id to the uids of {known.name}.",
            )
        return None

    def _unexpected(self, known: KnownPeer, hello: Hello) -> Refused | None:
        for what, expected, found in (
            ("role", known.role, hello.role),
            ("GUID", known.guid, Guid(hello.guid)),
        ):
            if expected is not None and expected != found:
                return refused(
                    Reason.UNEXPECTED,
                    f"{hello.name} says that its {what} is {found}, and {self._own_name} was told another. "
                    f"Correct it in the configuration of one of the two.",
                )
        return None


class Keep(Enum):
    """Which of two connections to one peer stays."""

    OLD = auto()
    NEW = auto()


def choose(
    *, own_name: str, peer_name: str, same_instance: bool, old_dialled_by_us: bool, new_dialled_by_us: bool
) -> Keep:
    """Which connection to keep when a second one opens. Both ends come to the same answer.

    A peer that has been started anew, or that dials again, knows the old one to be dead: the new one stays. If each end
    has dialled the other at the same time, the one stays that the lesser name dialled.
    """
    if not same_instance or old_dialled_by_us == new_dialled_by_us:
        return Keep.NEW
    lesser_is_ours = own_name < peer_name
    return Keep.NEW if new_dialled_by_us == lesser_is_ours else Keep.OLD
