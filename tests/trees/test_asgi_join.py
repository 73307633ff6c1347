"""The middleware that joins: from a signed header, or over an authenticated link, and strips all others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

import syncpoint
from syncpoint import TransactionAborted
from syncpoint.integrations.asgi_join import JoinMiddleware
from syncpoint.manager.contexts import HEADER
from tests.integrations.asgi_client import Answer, Client
from tests.trees.conftest import Town


class Stock:
    """A service that writes a row if it is in a transaction, and says whether it was."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[Any] = []
        self.runs = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs += 1
        self.headers = [name for name, _ in scope["headers"]]
        tx = scope.get("syncpoint.transaction")
        if tx is not None:
            assert syncpoint.current() is tx
            await (await tx.connect("db")).put("x", 1)
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(tx is not None).encode()})


def play(
    town: Town, send: Callable[[Client, str], Any], *, status: int = 200, keys: Any = None, **options: Any
) -> tuple[Answer, Stock]:
    """Orders begins a transaction, sends a request with its context, and commits."""
    stock = Stock()
    stock.status = status

    async def main() -> Answer:
        more = {} if keys is None else {"keys": keys}
        managers = [
            syncpoint.AsyncTransactionManager(*two, **opt)
            for *two, opt in (town.options("orders", **more), town.options("stock", **more))
        ]
        async with managers[0] as orders, managers[1] as here:
            client = Client(JoinMiddleware(stock, lambda: here, **options))
            async with orders.transaction() as tx:
                await (await tx.connect("db")).put("x", 1)
                return await send(client, tx.export().token)  # type: ignore[no-any-return]
        raise AssertionError

    return asyncio.run(main()), stock


async def with_header(client: Client, token: str) -> Answer:
    return await client.send(headers=[(HEADER, token)])


def test_a_request_with_a_signed_context_takes_part(town: Town) -> None:
    answer, stock = play(town, with_header)
    assert (answer.status, answer.body) == (200, b"true")
    assert town.rows("orders", "stock") == [{"x": b"1"}] * 2
    assert HEADER.lower().encode() not in stock.headers


def test_a_refusal_of_the_service_aborts_the_whole(town: Town) -> None:
    with pytest.raises(TransactionAborted):
        play(town, with_header, status=409)
    assert town.rows("orders", "stock") == [{}, {}]
    assert town.quiet("orders", "stock")


def test_without_a_context_it_passes(town: Town) -> None:
    answer, _ = play(town, lambda client, _: client.send())
    assert answer.body == b"false"
    assert town.rows("orders", "stock") == [{"x": b"1"}, {}]


@pytest.mark.parametrize("spoil", [lambda token: token[:-4] + "AAAA", lambda token: "v1.AAAA.AAAA"])
def test_a_forged_context_is_refused(town: Town, spoil: Callable[[str], str]) -> None:
    answer, stock = play(town, lambda client, token: with_header(client, spoil(token)))
    assert (answer.status, answer.code, stock.runs) == (403, "context-refused", 0)
    assert town.rows("stock") == [{}]


def test_a_context_that_comes_twice_is_refused(town: Town) -> None:
    async def twice(client: Client, token: str) -> Answer:
        assert (await with_header(client, token)).status == 200
        return await with_header(client, token)

    answer, stock = play(town, twice)
    assert (answer.status, stock.runs) == (403, 1)
    assert town.rows("orders", "stock") == [{"x": b"1"}] * 2


def test_an_unsigned_context_from_outside_is_stripped(town: Town) -> None:
    answer, stock = play(town, with_header, keys=[])
    assert (answer.status, answer.body) == (200, b"false")
    assert HEADER.lower().encode() not in stock.headers
    assert town.rows("orders", "stock") == [{"x": b"1"}, {}]


def test_an_unsigned_context_over_an_authenticated_link_takes_part(town: Town) -> None:
    answer, _ = play(town, with_header, keys=[], authenticated=lambda scope: scope["path"] == "/work")
    assert answer.body == b"true"
    assert town.rows("orders", "stock") == [{"x": b"1"}] * 2
