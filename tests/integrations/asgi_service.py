"""A small ASGI application over memory servers whose handler a test replaces, behind the middleware.

Not for: asserting anything.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import syncpoint
from syncpoint.integrations.asgi import IdempotencyMiddleware
from tests.integrations.asgi_client import Client
from tests.manager.conftest import AsyncBench

Handler = Callable[["Request"], Awaitable[Any]]


class Request:
    """What a handler gets, and answers with `reply`."""

    def __init__(self, service: Service, scope: Any, receive: Any, send: Any) -> None:
        self.service = service
        self.scope = scope
        self.receive = receive
        self.send = send

    @property
    def tx(self) -> syncpoint.AsyncTransaction:
        tx = self.scope["syncpoint.transaction"]
        assert syncpoint.current() is tx
        return tx  # type: ignore[no-any-return]

    async def reply(self, status: int = 201, *, body: bytes | None = None, headers: Any = ()) -> None:
        if body is None:
            body = b'{"run": %d}' % self.service.runs
        lines = [(b"content-type", b"application/json"), (b"X-Run", b"%d" % self.service.runs), *headers]
        await self.send({"type": "http.response.start", "status": status, "headers": lines})
        await self.send({"type": "http.response.body", "body": body[:3], "more_body": True})
        await self.send({"type": "http.response.body", "body": body[3:]})

    async def write(self, key: str = "k") -> None:
        await self.service.bench.write(self.tx, key=key, value=self.service.runs)


class Service:
    """An application whose handler can be replaced, and counts its runs."""

    def __init__(self, bench: AsyncBench, handler: Handler) -> None:
        self.bench = bench
        self.handler = handler
        self.runs = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs += 1
        await self.handler(Request(self, scope, receive, send))

    def values(self, key: str = "k") -> list[int]:
        """What the servers hold under a key, seen from outside."""
        rows = [server.rows() for server in (self.bench.a, self.bench.b)]
        return [json.loads(row[key]) for row in rows if key in row]


async def write_and_reply(request: Request) -> None:
    await request.write()
    await request.reply()


@asynccontextmanager
async def running(
    bench: AsyncBench, handler: Handler = write_and_reply, **options: Any
) -> AsyncIterator[tuple[Service, Client]]:
    """A service, and a client of it."""
    service = Service(bench, handler)
    manager_options = options.pop("manager", {})
    async with bench.running(**manager_options) as manager:
        yield service, Client(IdempotencyMiddleware(service, manager, **options))


def play(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 20))
