"""Links for tests: an authority and its certificates, links on one loop, and waiting for conditions.

Not for: tests without sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import trustme
import uvloop

from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import Limits, LinkSettings, TlsFiles
from syncpoint.link.stream import StreamLink
from syncpoint.messages import Message
from syncpoint.ports import Arrived, LinkEvent, Sent
from syncpoint.runners.aio import AsyncRunner
from syncpoint.system import SystemRandom
from tests.link.words import WORDS, Note, guid

T = TypeVar("T")
WAIT_S_MAX = 15.0
LOOPS = ("asyncio", "uvloop")
QUICK = {"heartbeat_s": 0.05, "dead_after_s": 0.5, "retry_base_s": 0.01, "retry_max_s": 0.1}
"""Times for tests in which something must be noticed."""


class Authority:
    """A certificate authority with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.file = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(
        self, *names: str, common_name: str | None = None, days: int = 30, trusting: Authority | None = None
    ) -> TlsFiles:
        """A certificate for these names, valid for so many days from yesterday on; `trusting` another authority."""
        now = datetime.datetime.now(tz=datetime.UTC)
        leaf = self._ca.issue_cert(
            *names,
            common_name=common_name,
            not_before=now - datetime.timedelta(days=60),
            not_after=now + datetime.timedelta(days=days),
            key_type=trustme.KeyType.ECDSA,
        )
        stem = self._folder / f"{'-'.join(names)}-{len(list(self._folder.iterdir()))}"
        certificate, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.touch(0o600)
        key.write_bytes(leaf.private_key_pem.bytes())
        return TlsFiles(certificate=str(certificate), key=str(key), authorities=str((trusting or self).file))


class World:
    """Links on the running loop; all are closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = AsyncRunner()
        self._links: list[StreamLink] = []
        self._authority: Authority | None = None

    @property
    def authority(self) -> Authority:
        if self._authority is None:
            self._authority = Authority(self.folder / "tls")
        return self._authority

    def address(self, name: str, kind: str) -> str:
        return f"unix://{self.folder}/{name}.sock" if kind == "unix" else "tls://127.0.0.1:0"

    def settings(self, name: str, *peers: KnownPeer, **fields: Any) -> LinkSettings:
        limits = {one: fields.pop(one) for one in Limits.__dataclass_fields__ if one in fields}
        return LinkSettings(
            **{
                "cluster": "test",
                "name": name,
                "role": "node",
                "guid": guid(name),
                "peers": peers,
                "limits": Limits(**limits),
                **fields,
            }
        )

    async def link(self, name: str, *peers: KnownPeer, **fields: Any) -> StreamLink:
        """A started link."""
        link = StreamLink(
            self.settings(name, *peers, **fields), vocabulary=WORDS, signal=self.runner.signal, random=SystemRandom()
        )
        self._links.append(link)
        await link.start()
        return link

    async def pair(self, kind: str, **fields: Any) -> tuple[StreamLink, StreamLink]:
        """anna has dialled bert; both know that they are connected, and their events are taken."""
        tls = kind == "tls"
        bert = await self.link(
            "bert",
            KnownPeer(name="anna"),
            listen=(self.address("bert", kind),),
            tls=self.authority.issue("bert") if tls else None,
            **fields,
        )
        anna = await self.link(
            "anna",
            KnownPeer(name="bert", address=bert.listening_at[0]),
            tls=self.authority.issue("anna") if tls else None,
            **fields,
        )
        await connected(anna, bert)
        anna.take(), bert.take()
        return anna, bert

    async def close(self) -> None:
        for link in self._links:
            await link.close()


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    made = World(folder)
    try:
        yield made
    finally:
        await made.close()


def run(coroutine: Coroutine[Any, Any, T], loop: str = "asyncio") -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        return runner.run(coroutine)


async def until(condition: Callable[[], Any], what: str, seconds_max: float = WAIT_S_MAX) -> None:
    """Poll on the loop until the condition holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds_max
    while not condition():
        assert loop.time() < deadline, f"waited {seconds_max} s in vain: {what}"
        await asyncio.sleep(0.002)


async def connected(*links: StreamLink) -> None:
    for link in links:
        await until(link.peers, f"{link} is connected")


class Ear:
    """Takes what arrives, and keeps it."""

    def __init__(self, link: StreamLink) -> None:
        self._link = link
        self.events: list[LinkEvent] = []

    def listen(self) -> list[LinkEvent]:
        self.events += self._link.take()
        return self.events

    def notes(self) -> list[int]:
        return [
            event.message.number
            for event in self.listen()
            if isinstance(event, Arrived) and isinstance(event.message, Note)
        ]

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.listen()]


async def send(link: StreamLink, to: str, message: Message) -> None:
    """Send, waiting for room as a script would."""
    while (sent := link.send(to, message)) is Sent.FULL:
        room = link.room(to)
        await until(room.is_set, "there is room")
    assert sent is Sent.TAKEN


def break_connection(link: StreamLink) -> None:
    """End one of its connections as a network would: nobody is told, what is under way is lost."""
    for connection in tuple(link._connections):
        connection._transport.abort()
        return


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
