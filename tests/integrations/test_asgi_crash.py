"""A server is killed (SIGKILL) in the middle of a request; the client sends it again to the next: one effect.

Over PostgreSQL and SQLite, with a real server on a real socket. Not for: the middleware's answers (test_asgi.py).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncpoint.integrations.asgi import IdempotencyMiddleware
from tests.integrations.asgi_bank import IN_THE_REPLY, Bank, pay
from tests.integrations.asgi_client import Client

KEY = '"8e03978e-40d5-43dd-bc93-6e6c8c3c3f3b"'
BODY = b'{"amount": 10}'


@dataclass(frozen=True)
class Death:
    """Right before, or right after, a step of the request. `survives`: the decision was made before."""

    what: str
    survives: bool
    after: bool = False

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.what}"


DEATHS = (
    Death("journal: claim", survives=False, after=True),
    Death("PREPARE bank, PREPARE audit", survives=False),
    Death("evidence and PREPARE TRANSACTION", survives=False, after=True),
    Death("prepare", survives=False, after=True),
    Death("journal force", survives=False),
    Death("journal force", survives=True, after=True),
    Death("COMMIT PREPARED", survives=True),
    Death("COMMIT PREPARED", survives=True, after=True),
    Death("COMMIT", survives=True, after=True),
    *(Death(what, survives=True) for what in IN_THE_REPLY),
    Death(IN_THE_REPLY[1], survives=True, after=True),
)


@pytest.fixture
def bank(postgres_url: str, tmp_path: Path) -> Bank:
    return Bank.make(postgres_url, tmp_path)


@pytest.mark.parametrize("death", DEATHS, ids=str)
def test_a_killed_servers_request_is_carried_out_once(bank: Bank, death: Death) -> None:
    told = _send_to_a_server_that_dies(bank, death)

    async def send_again() -> None:
        async with bank.manager() as manager:  # the next process on the same journal
            await manager.recover(wait_seconds=30)
            assert await manager.in_doubt() == []
            before = bank.payments()
            assert len(before) == (1 if death.survives else 0)
            client = Client(IdempotencyMiddleware(pay, manager))
            answers = [
                await client.send(KEY, path="/payments", body=BODY, headers=[("content-type", "application/json")])
                for _ in range(3)
            ]
            assert [answer.is_replay for answer in answers] == [death.survives, True, True]
            receipt = json.loads(answers[0].body)["receipt"]
            assert bank.payments() == [(receipt, 10)]
            assert answers[0].header("x-receipt") == receipt
            assert answers[1] == answers[2]
            assert answers[1].header("set-cookie") is None
            assert answers[1].body == answers[0].body == (told or answers[0].body)

    asyncio.run(asyncio.wait_for(send_again(), 60))
    assert bank.in_doubt() == []


def _send_to_a_server_that_dies(bank: Bank, death: Death) -> bytes | None:
    """What the client read before its connection broke: the whole body, or None."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        order = {
            "fd": listening.fileno(),
            "urls": bank.urls,
            "journal": bank.journal,
            "what": death.what,
            "after": death.after,
        }
        command = [sys.executable, "-m", "tests.integrations.asgi_bank", json.dumps(order)]
        with subprocess.Popen(command, pass_fds=[listening.fileno()], stderr=subprocess.PIPE) as server:
            try:
                port = listening.getsockname()[1]
                listening.close()  # only the server holds it now: when it dies, connections break
                told = _request(port)
                _, complaint = server.communicate(timeout=30)
                assert server.returncode == -signal.SIGKILL, f"it was to die {death}:\n{complaint.decode()}"
            finally:
                server.kill()
    return told


def _request(port: int) -> bytes | None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Idempotency-Key": KEY, "Content-Type": "application/json"}
        client.request("POST", "/payments", BODY, headers)
        return client.getresponse().read()
    except (ConnectionError, http.client.HTTPException):
        return None
    finally:
        client.close()
