"""The Idempotency-Key middleware over PostgreSQL and SQLite: rows counted from outside.

Not for: who is answered what (test_asgi.py), lost processes (test_asgi_crash.py).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import psycopg
import pytest

from syncpoint.integrations.asgi import IdempotencyMiddleware, Reply, send_reply
from tests.integrations.asgi_bank import Bank, pay
from tests.integrations.asgi_client import Answer, Client


@pytest.fixture(params=["folder", "bank"])
def bank(request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path) -> Bank:
    """Decisions in a folder, and in the bank's own database."""
    made = Bank.make(postgres_url, tmp_path)
    if request.param == "bank":
        made.journal = "bank"
    return made


def play(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


def test_every_key_once_however_often_and_wherever_it_is_sent(bank: Bank) -> None:
    """Twenty keys, each sent five times at once to two processes' worth of managers."""

    async def main() -> None:
        async with bank.manager() as one, bank.manager() as other:
            clients = [Client(IdempotencyMiddleware(pay, manager, wait_s=30.0)) for manager in (one, other)]
            keys = [f"key-{number}" for number in range(20)] * 5
            random.Random(1).shuffle(keys)

            async def send(number: int, key: str) -> tuple[str, Answer]:
                amount = int(key.removeprefix("key-"))
                body = json.dumps({"amount": amount}).encode()
                return key, await clients[number % 2].send(key, body=body)

            replies: dict[str, list[Answer]] = {}
            for key, answer in await asyncio.gather(*(send(number, key) for number, key in enumerate(keys))):
                replies.setdefault(key, []).append(answer)
            for answers in replies.values():
                [first] = [answer for answer in answers if not answer.is_replay]
                assert first.header("set-cookie") == "s=secret"
                assert {answer.body for answer in answers} == {first.body}
                assert len({answer for answer in answers if answer.is_replay}) == 1
            receipts = {json.loads(answers[0].body)["receipt"]: int(key[4:]) for key, answers in replies.items()}
            assert bank.payments() == sorted(receipts.items())
            assert bank.in_doubt() == []

    play(main())


def test_refusals_leave_nothing(bank: Bank) -> None:
    async def main() -> None:
        async def pay_and_refuse(scope: Any, receive: Any, send: Any) -> None:
            async def refuse(message: Any) -> None:
                await send({**message, **({"status": 402} if "status" in message else {})})

            await pay(scope, receive, refuse)

        async with bank.manager() as manager:
            client = Client(IdempotencyMiddleware(pay_and_refuse, manager))
            assert [(await client.send("k", body=b'{"amount": 1}')).status for _ in range(2)] == [402, 402]
            assert bank.payments() == []
            client.app = IdempotencyMiddleware(pay, manager)
            assert (await client.send("k", body=b'{"amount": 2}')).status == 201  # the key is free: corrected
            assert (await client.send("k", body=b'{"amount": 1}')).code == "key-reused"
            assert [amount for _, amount in bank.payments()] == [2]

    play(main())


def test_a_swallowed_error_is_no_success(bank: Bank) -> None:
    """PostgreSQL rolls a failed transaction back, whatever the handler answers."""

    async def main() -> None:
        async def swallow(scope: Any, receive: Any, send: Any) -> None:
            tx = scope["syncpoint.transaction"]
            (await tx.connect("audit")).execute("INSERT INTO payment VALUES ('r', 1)")
            with pytest.raises(psycopg.errors.UndefinedTable):
                await (await tx.connect("bank")).execute("INSERT INTO nowhere VALUES (1)")
            await send_reply(send, Reply(status=201, headers=[], body=b"all is well"))

        async with bank.manager() as manager:
            client = Client(IdempotencyMiddleware(swallow, manager))
            told = await client.send("k")
            assert told.status in (500, 503)
            assert told.code in ("refused", "aborted")
            assert bank.payments() == []

    play(main())


def test_serialization_failures_ask_for_a_resend(bank: Bank) -> None:
    async def main() -> None:
        bank.outside("bank", "CREATE TABLE counter (id integer PRIMARY KEY, value integer NOT NULL)")
        bank.outside("bank", "INSERT INTO counter VALUES (1, 0)")
        readers = asyncio.Barrier(2)
        waits = [True, True]

        async def count(scope: Any, receive: Any, send: Any) -> None:
            connection = await scope["syncpoint.transaction"].connect("bank")
            await connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            [(value,)] = await (await connection.execute("SELECT value FROM counter")).fetchall()
            if waits:
                waits.pop()
                await readers.wait()
            await connection.execute("UPDATE counter SET value = %s", (value + 1,))
            await send_reply(send, Reply(status=200, headers=[], body=b"%d" % (value + 1)))

        async with bank.manager() as manager:
            client = Client(IdempotencyMiddleware(count, manager))
            answers = dict(
                zip("ab", await asyncio.gather(*(client.send(key, path="/count") for key in "ab")), strict=True)
            )
            assert sorted(answer.status for answer in answers.values()) == [200, 503]
            [loser] = [key for key, answer in answers.items() if answer.status == 503]
            assert (answers[loser].code, answers[loser].header("retry-after")) == ("aborted", "1")
            assert (await client.send(loser, path="/count")).body == b"2"
            assert bank.outside("bank", "SELECT value FROM counter") == [(2,)]

    play(main())
