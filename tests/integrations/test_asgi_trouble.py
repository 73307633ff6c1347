"""The middleware when something is in the way: one key at the same time twice, aborts, failures, sizes, cancellation.

Not for: the ordinary course (test_asgi.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import ResultUnreadable
from syncpoint.integrations.asgi import IdempotencyMiddleware
from syncpoint.resources.base import Answer as Said
from syncpoint.resources.base import Choice, Vote
from tests.crash.trap import Trap
from tests.integrations.asgi_client import Answer
from tests.integrations.asgi_service import Request, play, running, write_and_reply
from tests.manager.conftest import AsyncBench, FailingDisk
from tests.manager.test_async import is_untraced

KEY = "8e03978e-40d5-43dd-bc93-6e6c8c3c3f3b"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[AsyncBench]:
    made = AsyncBench(tmp_path)
    yield made
    made.assert_quiet()
    made.close()


def assert_may_resend(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.code, answer.header("retry-after")) == (status, code, "1")


# --- twice at the same time ------------------------------------------------------------------------------------------


def test_a_running_key_is_not_run_again(bench: AsyncBench) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def handler(request: Request) -> None:
            await request.write()
            begun.set()
            await go_on.wait()
            await request.reply()

        async with running(bench, handler) as (service, client):
            first = asyncio.ensure_future(client.send(KEY))
            await begun.wait()
            assert_may_resend(await client.send(KEY), 409, "running")
            go_on.set()
            answer = await first
            assert (await client.send(KEY)).original() == answer
            assert service.runs == 1

    play(main())


def test_a_resend_may_wait_for_the_one_that_runs(bench: AsyncBench) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def handler(request: Request) -> None:
            begun.set()
            await go_on.wait()
            await write_and_reply(request)

        async with running(bench, handler, wait_s=15.0) as (service, client):
            sent = [asyncio.ensure_future(client.send(KEY)) for _ in range(5)]
            await begun.wait()
            assert not [one for one in sent if one.done()]
            go_on.set()
            answers = await asyncio.gather(*sent)
            [first] = [answer for answer in answers if not answer.is_replay]
            assert [answer.original() for answer in answers if answer.is_replay] == [first] * 4
            assert service.values() == [1, 1]

    play(main())


def test_who_waited_for_one_that_rolls_back_runs(bench: AsyncBench) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def handler(request: Request) -> None:
            if request.service.runs == 1:
                begun.set()
                await go_on.wait()
                await request.reply(400)
            else:
                await write_and_reply(request)

        async with running(bench, handler, wait_s=15.0) as (service, client):
            first = asyncio.ensure_future(client.send(KEY))
            await begun.wait()
            second = asyncio.ensure_future(client.send(KEY))
            go_on.set()
            assert [(await first).status, (await second).status] == [400, 201]
            assert service.values() == [2, 2]

    play(main())


def test_two_processes_share_the_keys(bench: AsyncBench) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def handler(request: Request) -> None:
            await request.write()
            begun.set()
            await go_on.wait()
            await request.reply()

        async with running(bench, handler) as (_, client), running(bench) as (other, elsewhere):
            first = asyncio.ensure_future(client.send(KEY))
            await begun.wait()
            assert_may_resend(await elsewhere.send(KEY), 409, "running")
            go_on.set()
            answer = await first
            assert (await elsewhere.send(KEY)).original() == answer
            assert other.runs == 0

    play(main())


# --- the end of the transaction --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vote", "status", "code"),
    [
        (Vote(Choice.NO, reason="busy", retryable=True), 503, "aborted"),
        (Vote(Choice.NO, reason="secret: cannot be prepared"), 500, "refused"),
    ],
)
def test_an_abort_says_whether_to_resend(
    bench: AsyncBench, vote: Vote, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        after: list[str] = []

        async def handler(request: Request) -> None:
            await write_and_reply(request)
            after.append("not reached when it was aborted")

        async with running(bench, handler) as (service, client):
            bench.b.answers["prepare"].append(vote)
            refused = await client.send(KEY)
            assert (refused.status, refused.code) == (status, code)
            assert (refused.header("retry-after") is not None) is vote.retryable
            assert b"secret" not in refused.body  # what a database says is for the log
            assert vote.reason in caplog.text
            assert after == []
            assert service.values() == []
            assert (await client.send(KEY)).status == 201
            assert service.values() == [2, 2]

    with caplog.at_level(logging.WARNING):
        play(main())


def test_a_serialization_failure_in_the_handler_may_be_resent(bench: AsyncBench) -> None:
    async def main() -> None:
        class Conflict(Exception):
            """As a driver raises it."""

        async def handler(request: Request) -> None:
            await request.write()
            if request.service.runs == 1:
                raise Conflict
            await request.reply()

        async with running(bench, handler) as (service, client):
            resource = client.app._manager._core.handles["a"].resource
            resource.is_retryable = lambda error: isinstance(error, Conflict)
            assert_may_resend(await client.send(KEY), 503, "aborted")
            assert service.values() == []
            assert (await client.send(KEY)).status == 201

    play(main())


def test_an_unreachable_database(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):
            bench.b.down = True
            assert_may_resend(await client.send(KEY), 503, "unavailable")
            bench.b.down = False
            assert (await client.send(KEY)).status == 201
            assert service.values() == [2, 2]

    play(main())


def test_a_decided_transaction_is_answered_though_a_branch_is_late(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):
            bench.b.answers["commit"].append(Said.RETRY)
            first = await client.send(KEY)
            assert first.status == 201
            assert (await client.send(KEY)).original() == first
            await client.app._manager.recover(wait_seconds=5.0)
            assert service.values() == [1, 1]

    play(main())


def test_a_branch_decided_by_hand_is_told(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):
            bench.b.answers["commit"].append(Said.HEURISTIC_ROLLBACK)
            told = await client.send(KEY)
            assert (told.status, told.code, told.header("retry-after")) == (500, "mixed-outcome", None)
            assert service.values() == [1]
            assert (await client.send(KEY)).is_replay  # the decision was commit: it is not run again
            assert service.runs == 1

    play(main())


def test_an_unknown_decision_is_settled_by_the_same_key(bench: AsyncBench) -> None:
    async def main() -> None:
        disk = FailingDisk()
        async with running(bench, manager={"disk": disk}) as (service, client):
            disk.is_failing = True
            assert_may_resend(await client.send(KEY), 503, "outcome-pending")
            assert_may_resend(await client.send(KEY), 503, "unavailable")
            assert service.runs == 1
            disk.is_failing = False
        async with running(bench) as (service, client):  # restarted
            await client.app._manager.recover(wait_seconds=5.0)
            answer = await client.send(KEY)
            assert answer.is_replay is (service.runs == 0)
            assert service.values() == [1, 1]

    play(main())


def test_a_closed_manager(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (_, client):
            pass
        assert_may_resend(await client.send(KEY), 503, "unavailable")

    play(main())


def test_a_result_that_is_no_reply(bench: AsyncBench, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):
            async with client.app._manager.transaction(id="other") as tx:
                tx.set_result({"not": "a reply"})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("syncpoint.integrations.asgi.transaction_id", lambda **parts: "other")
                patch.setattr("syncpoint.integrations.asgi.request_fingerprint", lambda **parts: b"")
                told = await client.send("another")
            assert (told.status, told.code) == (500, "reply-unreadable")
            assert service.runs == 0

    play(main())
    assert "its reply cannot be read" in caplog.text


def test_a_result_that_cannot_be_read_is_told_as_committed(bench: AsyncBench, caplog: pytest.LogCaptureFixture) -> None:
    def unreadable(raw: bytes | None, *, transaction: str) -> None:
        raise ResultUnreadable(f"{transaction} is committed, but", transaction=transaction)

    async def main() -> None:
        async with running(bench) as (service, client):
            assert (await client.send(KEY)).status == 201
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("syncpoint.manager.core.decode_result", unreadable)
                told = await client.send(KEY)
            assert (told.status, told.code) == (500, "reply-unreadable")
            assert service.runs == 1

    play(main())
    assert "is committed, but" in caplog.text


# --- sizes and time ------------------------------------------------------------------------------------------------


def test_a_large_request_is_refused_before_anything_is_done(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench, body_size_max=10) as (service, client):
            for headers in ([], [("content-length", "11")], [("content-length", "nonsense")]):
                refused = await client.send(KEY, body=b"x" * 11, chunks=3, headers=headers)
                assert (refused.status, refused.code) == (413, "body-too-large")
            assert service.runs == 0
            assert (await client.send(KEY, body=b"x" * 10, chunks=3)).status == 201

    play(main())


@pytest.mark.parametrize("where", ["body", "headers", "swallowed"])
def test_a_large_reply_rolls_back(bench: AsyncBench, where: str) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            await request.write()
            if where == "headers":
                await request.reply(body=b"", headers=[(b"x", b"y" * 1000)])
            elif where == "body":
                await request.reply(body=b"x" * 1000)
            else:
                try:
                    await request.reply(body=b"x" * 1000)
                except Exception:
                    await request.send({"type": "http.response.body", "body": b""})

        async with running(bench, handler, reply_size_max=1000) as (service, client):
            told = await client.send(KEY)
            assert (told.status, told.code, told.header("retry-after")) == (500, "reply-too-large", None)
            assert service.values() == []
            service.handler = write_and_reply
            assert (await client.send(KEY)).status == 201

    play(main())


def test_bounds_that_cannot_be_kept_are_refused(bench: AsyncBench) -> None:
    with pytest.raises(syncpoint.ConfigurationError, match="more than a transaction's result can hold"):
        IdempotencyMiddleware(write_and_reply, None, reply_size_max=1 << 20)  # type: ignore[arg-type]


def test_the_largest_reply_can_be_kept(bench: AsyncBench) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            await request.write()
            await request.reply(body=b"x" * ((1 << 20) - 1024 - 200), headers=[(b"n", b"")] * 5)

        async with running(bench, handler, reply_size_max=(1 << 20) - 1024) as (_, client):
            first = await client.send(KEY)
            assert first.status == 201
            assert (await client.send(KEY)).original() == first

    play(main())


@is_untraced
def test_a_handler_that_takes_too_long_is_ended(bench: AsyncBench) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            await request.write()
            await asyncio.Event().wait()

        async with running(bench, handler, timeout=0.05) as (service, client):
            assert_may_resend(await client.send(KEY), 503, "timed-out")
            assert service.values() == []
        async with running(bench) as (service, client):
            assert (await client.send(KEY)).status == 201

    play(main())


@pytest.mark.parametrize("sent", [0, 1, 2])
def test_an_application_that_does_not_finish_its_reply(bench: AsyncBench, sent: int) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            await request.write()
            start = {"type": "http.response.start", "status": 200, "headers": []}
            for message in [start, {"type": "http.response.body", "body": b"half", "more_body": True}][:sent]:
                await request.send(message)

        async with running(bench, handler) as (service, client):
            told = await client.send(KEY)
            assert (told.status, told.code) == (500, "reply-incomplete")
            assert service.values() == []

    play(main())


# --- the client leaves, the server cancels --------------------------------------------------------------------------


def test_a_client_that_leaves_gets_its_reply_by_a_resend(bench: AsyncBench) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            """As frameworks do it: listening for the client's leaving beside the work, which would end it."""
            await request.receive()
            listening = asyncio.ensure_future(request.receive())
            working = asyncio.ensure_future(write_and_reply(request))
            await asyncio.wait([listening, working], return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            listening.cancel()
            await working

        async with running(bench, handler) as (service, client):
            with pytest.raises(OSError, match="has gone"):
                await client.send(KEY, has_gone=True)
            assert service.values() == [1, 1]
            again = await client.send(KEY)
            assert (again.is_replay, again.body) == (True, b'{"run": 1}')

    play(main())


def test_a_client_that_leaves_before_its_body_is_there(bench: AsyncBench) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):

            async def receive() -> dict[str, Any]:
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                raise AssertionError

            await client.send(KEY)
            await client.app({**client.scopes[0]}, receive, send)
            assert service.runs == 1

    play(main())


@is_untraced
@pytest.mark.parametrize(
    ("what", "committed"),
    [
        ("journal: claim", False),
        ("begin", False),
        ("row k", False),
        ("prepare", False),
        ("journal force", True),
        ("COMMIT a, COMMIT b", True),
        ("commit", True),
    ],
)
def test_a_cancelled_request_ends_properly(bench: AsyncBench, what: str, committed: bool) -> None:
    async def main() -> None:
        async with running(bench) as (service, client):
            trap = Trap()
            trap.watch(client.app._manager._runner)
            task = asyncio.ensure_future(client.send(KEY))
            loop = asyncio.get_running_loop()
            trap.before(what, lambda: loop.call_soon_threadsafe(task.cancel))
            with pytest.raises(asyncio.CancelledError):
                await task
            assert service.values() == ([1, 1] if committed else [])
            bench.assert_quiet()
            answer = await client.send(KEY)
            assert (answer.status, answer.is_replay) == (201, committed)
            assert len(service.values()) == 2

    play(main())


@is_untraced
@pytest.mark.parametrize(("what", "status"), [("prepare", 503), ("COMMIT a, COMMIT b", 201)])
def test_time_that_ends_in_the_middle_of_the_commit(bench: AsyncBench, what: str, status: int) -> None:
    """The handler's last byte and the end of its time cross: the client is answered, and truly."""

    async def main() -> None:
        async with running(bench) as (service, client):
            trap = Trap()
            trap.watch(client.app._manager._runner)

            async def handler(request: Request) -> None:
                limit = request.send.__self__._limit
                trap.before(what, lambda: asyncio.get_running_loop().call_soon_threadsafe(limit._on_timeout))
                await write_and_reply(request)

            service.handler = handler
            answer = await client.send(KEY)
            assert answer.status == status
            assert service.values() == ([1, 1] if status == 201 else [])
            if status == 201:
                assert (await client.send(KEY)).original() == answer

    play(main())
