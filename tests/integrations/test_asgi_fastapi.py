"""The middleware under FastAPI does what its users expect. Not for: the middleware's rules (test_asgi.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

import syncpoint
from syncpoint.integrations.asgi import IdempotencyMiddleware
from syncpoint.resources.base import Choice, Vote
from tests.integrations.asgi_client import Client
from tests.integrations.asgi_service import play
from tests.manager.conftest import AsyncBench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[AsyncBench]:
    made = AsyncBench(tmp_path)
    yield made
    made.assert_quiet()
    made.close()


async def transaction(request: Request) -> syncpoint.AsyncTransaction:
    tx: syncpoint.AsyncTransaction = request.scope["syncpoint.transaction"]
    return tx


Tx = Annotated[syncpoint.AsyncTransaction, Depends(transaction)]


@asynccontextmanager
async def running(bench: AsyncBench, **options: Any) -> AsyncIterator[tuple[FastAPI, Client]]:
    """An application that opens its manager in its lifespan, as real ones do."""
    held: list[syncpoint.AsyncTransactionManager] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with bench.running() as manager:
            held.append(manager)
            yield

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(IdempotencyMiddleware, manager=lambda: held[0], **options)
    async with app.router.lifespan_context(app):
        yield app, Client(app)


def test_a_handler_its_errors_and_its_background_tasks(bench: AsyncBench) -> None:
    async def main() -> None:
        done: list[str] = []

        async with running(bench) as (app, client):

            @app.post("/items/{key}", status_code=201)
            async def put(key: str, tx: Tx, later: BackgroundTasks, response: Response) -> dict[str, str]:
                assert syncpoint.current() is tx
                await bench.write(tx, key=key)
                if key == "refused":
                    raise HTTPException(402, "no money")
                if key == "broken":
                    raise ZeroDivisionError
                later.add_task(lambda: done.append(f"{key} {bench.rows(key)} {syncpoint.current()}"))
                response.set_cookie("session", "secret")
                return {"key": key}

            first = await client.send("1", path="/items/a")
            assert (first.status, first.body, first.header("content-length")) == (201, b'{"key":"a"}', "11")
            assert first.header("set-cookie") is not None
            assert done == ["a ab None"]  # after the commit, outside of the transaction
            again = await client.send("1", path="/items/a")
            assert (again.is_replay, again.status, again.body) == (True, 201, first.body)
            assert again.header("set-cookie") is None
            assert done == ["a ab None"]

            assert (await client.send("2", path="/items/refused")).status == 402
            with pytest.raises(ZeroDivisionError):  # the server gets it, after the client's 500
                await client.send("3", path="/items/broken")
            assert bench.rows("refused") == bench.rows("broken") == ""

    play(main())


def test_an_abort_stops_what_would_follow_the_reply(bench: AsyncBench) -> None:
    async def main() -> None:
        done: list[str] = []

        async with running(bench) as (app, client):

            @app.post("/work")
            async def work(tx: Tx, later: BackgroundTasks) -> None:
                await bench.write(tx)
                later.add_task(lambda: done.append("mail sent"))

            bench.b.answers["prepare"].append(Vote(Choice.NO, reason="busy", retryable=True))
            assert (await client.send("1")).code == "aborted"
            assert (bench.rows(), done) == ("", [])
            assert (await client.send("1")).status == 200
            assert (bench.rows(), done) == ("ab", ["mail sent"])

    play(main())


def test_streams_middleware_and_clients_that_leave(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (app, client):

            @app.middleware("http")  # runs the rest in a task of its own
            async def around(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
                response = await go_on(request)
                response.headers["x-around"] = "yes"
                return response

            @app.post("/work")
            async def work(tx: Tx) -> StreamingResponse:
                async def parts() -> AsyncIterator[bytes]:
                    for number in range(3):
                        await bench.write(tx, key=f"part-{number}")
                        yield b"part %d;" % number

                return StreamingResponse(parts(), media_type="text/plain")

            with pytest.raises(OSError, match="has gone"):
                await client.send("1", has_gone=True)
            assert bench.rows("part-2") == "ab"
            again = await client.send("1")
            assert (again.is_replay, again.body) == (True, b"part 0;part 1;part 2;")

    play(main())


def test_both_orders_of_middleware(bench: AsyncBench) -> None:
    """Another middleware that runs the rest in a task of its own, inside and outside of ours."""

    async def main() -> None:
        for order in ("inside", "outside"):
            held: list[syncpoint.AsyncTransactionManager] = []
            app = FastAPI()

            async def around(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
                return await go_on(request)

            if order == "inside":
                app.middleware("http")(around)
            app.add_middleware(IdempotencyMiddleware, manager=lambda held=held: held[0])  # the last added is outermost
            if order == "outside":
                app.middleware("http")(around)

            @app.post("/work")
            async def work(request: Request, tx: Tx) -> dict[str, bool]:
                await request.json()
                await bench.write(tx)
                return {"gone": await request.is_disconnected()}

            async with bench.running() as manager:
                held.append(manager)
                client = Client(app)
                first = await client.send(order, chunks=2)
                assert (first.status, first.body) == (200, b'{"gone":false}')
                assert (await client.send(order)).original() == first
                sent = await asyncio.gather(*(client.send(f"{order}-{number}") for number in range(3)))
                assert [answer.status for answer in sent] == [200] * 3

    play(main())
