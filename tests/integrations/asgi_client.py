"""An HTTP client that calls an ASGI application in this process: what it was sent, byte for byte.

Not for: servers and sockets (test_asgi_crash.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

REPLAYED = (b"idempotency-replayed", b"true")


@dataclass(frozen=True)
class Answer:
    """One response, as it went to the client."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def is_replay(self) -> bool:
        return REPLAYED in self.headers

    @property
    def code(self) -> str:
        """What kind of problem it is."""
        assert self.header("content-type") == "application/problem+json", self
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        return str(problem["type"].removeprefix("urn:syncpoint:problem:"))

    def header(self, name: str) -> str | None:
        found = [value.decode() for one, value in self.headers if one == name.encode()]
        assert len(found) < 2
        return found[0] if found else None

    def original(self) -> Answer:
        """A replay without the header that says so: byte for byte the first answer."""
        assert self.is_replay, self
        return Answer(self.status, tuple(one for one in self.headers if one != REPLAYED), self.body)


class Client:
    """Sends requests to `app`. `Client.gone` counts the messages that a client no longer there would not have got."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.scopes: list[dict[str, Any]] = []

    async def send(
        self,
        key: str | bytes | None = None,
        *,
        method: str = "POST",
        path: str = "/work",
        query: bytes = b"",
        body: bytes = b"{}",
        headers: Iterable[tuple[str, str]] = (),
        chunks: int = 1,
        has_gone: bool = False,
        on_message: Callable[[dict[str, Any]], None] = lambda message: None,
    ) -> Answer:
        """One request and its whole response. `has_gone`: the client leaves once its body is sent."""
        lines = [(name.lower().encode(), value.encode()) for name, value in headers]
        if key is not None:
            lines.append((b"idempotency-key", key if isinstance(key, bytes) else key.encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "root_path": "",
            "headers": lines,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "extensions": {"http.response.pathsend": {}, "tls": {}},
        }
        self.scopes.append(scope)
        size = -(-len(body) // chunks) or 1
        parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
        waiting = [
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, 1)
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            on_message(message)
            sent.append(message)
            if has_gone:
                raise OSError("the client has gone")

        await self.app(scope, receive, send)
        return _answer_of(sent)


def _answer_of(sent: list[dict[str, Any]]) -> Answer:
    start, *rest = sent
    assert start["type"] == "http.response.start"
    assert all(message["type"] == "http.response.body" for message in rest)
    assert [message.get("more_body", False) for message in rest] == [*[True] * (len(rest) - 1), False]
    body = b"".join(message.get("body", b"") for message in rest)
    return Answer(start["status"], tuple(start["headers"]), body)
