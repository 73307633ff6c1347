"""The Idempotency-Key middleware on memory resources: who is answered what, and what is left in the databases.

Not for: real databases (test_asgi_databases.py), lost processes (test_asgi_crash.py), parsing (test_asgi_rules.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.integrations.asgi import IdempotencyMiddleware
from syncpoint.integrations.idempotency import transaction_id
from tests.integrations.asgi_client import Answer
from tests.integrations.asgi_service import Request, play, running, write_and_reply
from tests.manager.conftest import AsyncBench

KEY = "8e03978e-40d5-43dd-bc93-6e6c8c3c3f3b"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[AsyncBench]:
    made = AsyncBench(tmp_path)
    yield made
    made.assert_quiet()
    made.close()


# --- once, and the same reply for ever ----------------------------------------------------------------------------


def test_a_resend_gets_the_reply_byte_for_byte(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):
            first = await client.send(KEY)
            assert first == Answer(201, ((b"content-type", b"application/json"), (b"X-Run", b"1")), b'{"run": 1}')
            assert service.values() == [1, 1]
            for key in (KEY, f'"{KEY}"', f' "{KEY}";v=1'):
                assert (await client.send(key)).original() == first
            assert service.values() == [1, 1]
            assert service.runs == 1
        async with running(bench) as (service, client):  # the next process
            assert (await client.send(KEY)).original() == first
            assert service.runs == 0

    play(main())


def test_another_key_is_another_request(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):
            for number, (key, method, path) in enumerate(
                [("a", "POST", "/work"), ("b", "POST", "/work"), ("a", "PUT", "/work"), ("a", "POST", "/")], 1
            ):
                answer = await client.send(key, method=method, path=path)
                assert answer.body == b'{"run": %d}' % number
                assert service.values() == [number, number]

    play(main())


def test_what_is_not_its_business_passes_untouched(bench: AsyncBench) -> None:
    async def main() -> None:
        seen: list[tuple[Any, ...]] = []

        async def app(*args: Any) -> None:
            seen.append(args)

        async with bench.running() as manager:
            middleware = IdempotencyMiddleware(app, manager)
            keyed = [(b"idempotency-key", b"k")]
            for scope in (
                {"type": "lifespan"},
                {"type": "websocket", "headers": keyed},
                {"type": "http", "method": "GET", "headers": keyed},
                {"type": "http", "method": "POST", "headers": []},
            ):
                passed = (scope, object(), object())
                await middleware(*passed)  # type: ignore[arg-type]
                assert all(one is other for one, other in zip(seen.pop(), passed, strict=True))

    play(main())


def test_a_key_may_be_required(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench, required=lambda scope: scope["path"] == "/work") as (service, client):
            refused = await client.send(None)
            assert (refused.status, refused.code) == (400, "key-missing")
            for key in ("", '"open', "a b", "k" * 256, b"\xff"):
                refused = await client.send(key)
                assert (refused.status, refused.code) == (400, "key-malformed")
            assert service.runs == 0
            service.handler = Request.reply
            assert (await client.send(None, path="/other")).status == 201
        async with running(bench, required=True) as (service, client):
            assert (await client.send(None)).code == "key-missing"
            assert service.runs == 0

    play(main())


def test_another_request_under_the_key_is_refused(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):
            first = await client.send(KEY, query=b"a=1", headers=[("content-type", "text/plain")])
            for change in (
                {"body": b"other"},
                {"query": b"a=2"},
                {"headers": [("content-type", "text/html")]},
            ):
                same: dict[str, Any] = {"query": b"a=1", "headers": [("content-type", "text/plain")]}
                refused = await client.send(KEY, **{**same, **change})
                assert (refused.status, refused.code) == (422, "key-reused")
            assert service.values() == [1, 1]
            again = await client.send(KEY, query=b"a=1", headers=[("content-type", "text/plain")], chunks=2)
            assert again.original() == first

    play(main())


# --- whose ------------------------------------------------------------------------------------------------------------


def test_principals_have_nothing_to_do_with_each_other(bench: AsyncBench) -> None:
    async def main() -> None:
        def principal(scope: Any) -> str | None:
            return dict(scope["headers"]).get(b"x-user", b"").decode()

        async with running(bench, principal=principal) as (_, client):
            answers = [await client.send(KEY, headers=[("x-user", user)]) for user in ("ada", "bob")]
            assert [answer.body for answer in answers] == [b'{"run": 1}', b'{"run": 2}']
            for user, answer in zip(("ada", "bob"), answers, strict=True):
                renewed = [("x-user", user), ("authorization", f"Bearer {user} renewed")]
                assert (await client.send(KEY, headers=renewed)).original() == answer
            nobody = await client.send(KEY)  # an empty name names nobody
            assert nobody.body == b'{"run": 3}'
            assert (await client.send(KEY, headers=[("cookie", "session=1")])).code == "key-reused"

    play(main())


def test_without_a_principal_other_credentials_get_nothing(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):
            for name in ("authorization", "cookie", "x-api-key"):
                first = await client.send(name, headers=[(name, "ada")])
                assert first.status == 201
                for headers in ([(name, "bob")], [], [(name, "ada"), ("authorization", "more")]):
                    refused = await client.send(name, headers=headers)
                    assert (refused.status, refused.code) == (422, "key-reused")
                assert (await client.send(name, headers=[(name, "ada")])).original() == first
            assert service.runs == 3

    play(main())


def test_secrets_are_not_kept(bench: AsyncBench) -> None:
    async def main() -> None:
        secrets = [
            (b"Set-Cookie", b"hush-1"),
            (b"Authorization", b"hush-2"),
            (b"Proxy-Authenticate", b"hush-3"),
            (b"X-Token", b"hush-4"),
        ]

        async def handler(request: Request) -> None:
            await request.write()
            await request.reply(headers=[*secrets, (b"X-Kept", b"kept-too")])

        async with running(bench, handler, never_kept=["X-Token"]) as (_, client):
            asked = [("authorization", "Bearer hush-5"), ("cookie", "hush-6")]
            first = await client.send("hush-7", headers=asked)
            assert [one for one in secrets if one in first.headers] == secrets
            again = (await client.send("hush-7", headers=asked)).original()
            assert again == Answer(201, tuple(one for one in first.headers if one not in secrets), first.body)
        written = b"".join(file.read_bytes() for file in Path(bench.journal).rglob("*") if file.is_file())
        assert b"kept-too" in written
        assert b"hush" not in written

    play(main())


# --- what commits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 303, 400, 404, 422, 500, 503])
def test_success_commits_and_is_kept_the_rest_rolls_back(bench: AsyncBench, status: int) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            await request.write()
            await request.reply(status)

        async with running(bench, handler) as (service, client):
            first = await client.send(KEY)
            assert (first.status, first.body) == (status, b'{"run": 1}')
            kept = status < 400
            assert service.values() == ([1, 1] if kept else [])
            again = await client.send(KEY, body=b"{}" if kept else b"corrected")
            assert again.is_replay is kept
            assert service.runs == (1 if kept else 2)

    play(main())


def test_the_rule_can_be_another(bench: AsyncBench) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            await request.write()
            await request.reply(404)

        async with running(bench, handler, commit_when=lambda status: status < 500) as (service, client):
            first = await client.send(KEY)
            assert (await client.send(KEY)).original() == first
            assert service.values() == [1, 1]

    play(main())


def test_a_handler_may_roll_back_and_answer_all_the_same(bench: AsyncBench) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            await request.write()
            request.tx.set_rollback_only("a dry run")
            await request.reply(200)

        async with running(bench, handler) as (service, client):
            assert [(await client.send(KEY)).body for _ in range(2)] == [b'{"run": 1}', b'{"run": 2}']
            assert service.values() == []

    play(main())


def test_an_exception_rolls_back_and_passes_through(bench: AsyncBench) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            await request.write()
            await request.send({"type": "http.response.start", "status": 200, "headers": []})
            raise ZeroDivisionError

        async with running(bench, handler) as (service, client):
            with pytest.raises(ZeroDivisionError):
                await client.send(KEY)
            assert service.values() == []
            service.handler = write_and_reply
            assert (await client.send(KEY)).status == 201
            assert service.values() == [2, 2]

    play(main())


def test_what_comes_after_the_reply_is_outside(bench: AsyncBench) -> None:
    """Background tasks: the reply has gone, the work is committed, no transaction is current."""

    async def main() -> None:
        seen: list[Any] = []

        async def handler(request: Request) -> None:
            tx = request.tx
            await request.receive()
            await write_and_reply(request)
            seen.append((syncpoint.current(), tx.is_committed, await request.receive()))
            with pytest.raises(syncpoint.TransactionEnded):
                await tx.connect("a")
            with pytest.raises(RuntimeError, match="after the reply was complete"):
                await request.reply()
            raise ZeroDivisionError

        async with running(bench, handler) as (service, client):
            with pytest.raises(ZeroDivisionError):
                await client.send(KEY)
            assert seen == [(None, True, {"type": "http.disconnect"})]
            assert (await client.send(KEY)).is_replay
            assert service.values() == [1, 1]

    play(main())


def test_the_application_sees_one_transaction_and_no_shortcuts(bench: AsyncBench) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            assert await request.receive() == {"type": "http.request", "body": b"abcdefg", "more_body": False}
            async with request.tx.manager.transaction() as nested:
                assert nested is request.tx
            assert request.scope["extensions"] == {"tls": {}}
            with pytest.raises(RuntimeError, match="pathsend"):
                await request.send({"type": "http.response.pathsend", "path": "/etc/passwd"})
            with pytest.raises(RuntimeError, match="body is not expected"):
                await request.send({"type": "http.response.body"})
            assert request.tx.id == transaction_id(principal=None, method="POST", path="/work", key=KEY)
            await write_and_reply(request)

        async with running(bench, handler) as (_, client):
            first = await client.send(KEY, body=b"abcdefg", chunks=3)
            assert first.status == 201
            assert "syncpoint.transaction" not in client.scopes[0]

    play(main())


def test_twice_in_one_stack_is_once(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):
            manager = client.app._manager
            client.app = IdempotencyMiddleware(client.app, lambda: manager)
            first = await client.send(KEY)
            assert (await client.send(KEY)).original() == first
            assert service.runs == 1

    play(main())
