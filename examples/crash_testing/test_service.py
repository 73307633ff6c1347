"""The service is crashed in the middle of a request, and after recovery the client's resend moves nothing twice.

pytest test_service.py --syncpoint-points 10
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.testing import SyncpointCrash, every_point

pytest.importorskip("fastapi")

from service import make_app  # isort: skip
from transfer import balances, make_databases  # isort: skip


async def post(app: Any, amount: int, key: str) -> int:
    """One request to the application in this process; returns the status."""
    request = [{"type": "http.request", "body": json.dumps({"amount": amount}).encode(), "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if request:
            return request.pop()
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"idempotency-key", key.encode())]
    scope = {"type": "http", "method": "POST", "path": "/transfers", "raw_path": b"/transfers", "headers": headers}
    await app({**scope, "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}, receive, send)
    return int(sent[0]["status"])


class World:
    """The service's databases, made anew before each run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "world"

    def prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        make_databases(self.folder)

    def manager(self) -> syncpoint.AsyncTransactionManager:
        resources = {name: f"sqlite:///{self.folder}/{name}.db" for name in ("bank", "ledger")}
        return syncpoint.AsyncTransactionManager(self.folder / "journal", resources)

    async def transfer(self, manager: syncpoint.AsyncTransactionManager) -> None:
        assert await post(make_app(manager), 10, "order-4711") == 201

    def check(self, committed: bool | None) -> None:
        """All or nothing; and the same key again makes it once."""
        found = balances(self.folder)
        assert found in ({"bank": 100, "ledger": 100}, {"bank": 90, "ledger": 110}), f"torn: {found}"
        assert committed is None or (found["bank"] == 90) == committed, f"told committed={committed}, but {found}"
        asyncio.run(self.resend())
        assert balances(self.folder) == {"bank": 90, "ledger": 110}, "sent again, and not there once"

    async def resend(self) -> None:
        async with self.manager() as manager:
            await self.transfer(manager)


def test_a_resend_after_a_crash_moves_nothing_twice(tmp_path: Path, syncpoint_crash: SyncpointCrash) -> None:
    world = World(tmp_path)
    syncpoint_crash(every_point, world.transfer, world.check, manager=world.manager, prepare=world.prepare)
