"""Load for the service: clients that send transfers and send them again, while its workers are killed with kill -9.

A client without an answer, or with 409 or 503, sends the same request with the same key, until it is answered. Not for:
judging what is in the databases (books.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
import uuid
from dataclasses import dataclass, field

from books import ACCOUNTS, Books

from syncpoint.ids import Identifier, NotOurs

REQUEST_S_MAX = 10.0
DRAIN_S_MAX = 30.0
HUNT_S_MAX = 0.5
CHANGING_HEADERS = {"date", "server", "connection", "idempotency-replayed"}
"""Set by the server or the middleware, not part of the reply that is kept."""


@dataclass(frozen=True)
class Reply:
    """One response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def is_replay(self) -> bool:
        return ("idempotency-replayed", "true") in self.headers

    def kept(self) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
        """What must be the same in every reply to one key."""
        return self.status, tuple(one for one in self.headers if one[0] not in CHANGING_HEADERS), self.body


class Connection:
    """A client's connection to the service, made again when it breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Reply | None:
        """The reply; None when it was lost, which says nothing about what was done."""
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                return await self._exchange(*self._streams, method, path, headers, body)
        except (OSError, EOFError, TimeoutError):
            self.close()
            return None

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
    ) -> Reply:
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.partition(": ") for line in head[1:] if line]
        found = tuple((name.lower(), value) for name, _, value in pairs)
        size = int(dict(found).get("content-length", "0"))
        reply = Reply(int(head[0].split()[1]), found, await reader.readexactly(size))
        if dict(found).get("connection") == "close":
            self.close()
        return reply

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Tally:
    """What the clients were told."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    """Reference to receipt."""
    refused: set[str] = field(default_factory=set)
    unanswered: int = 0
    """Transfers whose client gave up: they may be done or not, but not half."""
    sent: int = 0
    resent: int = 0
    replayed: int = 0
    different_replies: int = 0
    """Replies that were not the one that the same key had got before."""
    unexpected: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    kills_in_commit: int = 0
    """Kills of a worker that had prepared branches, which another had to finish."""


class Load:
    """Clients and a killer, for some seconds."""

    def __init__(
        self, port: int, books: Books, *, seconds: float, clients: int, kill_period_s: float, seed: int
    ) -> None:
        self.tally = Tally()
        self._port = port
        self._books = books
        self._until = time.monotonic() + seconds
        self._clients = clients
        self._kill_period_s = kill_period_s
        self._seed = seed

    async def run(self) -> Tally:
        await asyncio.gather(self._kill(), *(self._client(number) for number in range(self._clients)))
        return self.tally

    # --- clients -------------------------------------------------------------------------------------------------

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed}-{number}")
        connection = Connection(self._port)
        count = 0
        while time.monotonic() < self._until:
            count += 1
            await self._transfer(connection, chance, f"{number}-{count}")
        connection.close()

    async def _transfer(self, connection: Connection, chance: random.Random, reference: str) -> None:
        order = {
            "account": chance.randint(1, ACCOUNTS),
            "amount": chance.randint(1, 9) if chance.random() < 0.95 else 1_000_000,  # more than there is
            "to": chance.choice(["bank", "ledger"]),
            "reference": reference,
        }
        headers = {"Idempotency-Key": f'"{uuid.UUID(int=chance.getrandbits(128))}"', "Content-Type": "application/json"}
        body = json.dumps(order).encode()
        reply = await self._until_answered(connection, headers, body)
        if reply is None:
            self.tally.unanswered += 1
        elif reply.status == 201:
            self.tally.acknowledged[reference] = json.loads(reply.body)["receipt"]
            for _ in range(chance.choice([0, 0, 0, 1, 3])):
                again = await self._until_answered(connection, headers, body)
                self.tally.resent += 1
                if again is not None and again.kept() != reply.kept():
                    self.tally.different_replies += 1
        else:
            self.tally.refused.add(reference)

    async def _until_answered(self, connection: Connection, headers: dict[str, str], body: bytes) -> Reply | None:
        """Send it, the same again and again, until the answer is final; None when the time is over."""
        tries = 0
        while time.monotonic() < self._until + DRAIN_S_MAX:
            tries += 1
            self.tally.sent += 1
            self.tally.resent += tries > 1
            reply = await connection.request("POST", "/transfers", headers, body)
            if reply is not None and reply.status in (201, 402):
                self.tally.replayed += reply.is_replay
                return reply
            if reply is not None and reply.status not in (409, 503):
                what = f"{reply.status} {reply.body[:200].decode(errors='replace')}"
                self.tally.unexpected[what] = self.tally.unexpected.get(what, 0) + 1
            await asyncio.sleep(0.05)
        return None

    # --- the killer ----------------------------------------------------------------------------------------------

    async def _kill(self) -> None:
        """Ask who answers, wait until it has something prepared, kill it. uvicorn starts another."""
        while time.monotonic() < self._until:
            connection = Connection(self._port)
            reply = await connection.request("GET", "/worker", {})
            connection.close()
            if reply is not None and reply.status == 200:
                worker = json.loads(reply.body)
                await self._hunt(worker["incarnation"])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker["pid"], signal.SIGKILL)
                    self.tally.kills += 1
                    self.tally.kills_in_commit += await self._has_prepared(worker["incarnation"])
            await asyncio.sleep(min(self._kill_period_s, max(0.0, self._until - time.monotonic())))

    async def _hunt(self, incarnation: int) -> None:
        until = time.monotonic() + HUNT_S_MAX
        while time.monotonic() < until and not await self._has_prepared(incarnation):
            await asyncio.sleep(0.001)

    async def _has_prepared(self, incarnation: int) -> bool:
        return any(_incarnation(gid) == incarnation for gid in await asyncio.to_thread(self._books.prepared))


def _incarnation(gid: str) -> int | None:
    try:
        return Identifier.from_gid(gid).attempt.incarnation
    except NotOurs:
        return None
