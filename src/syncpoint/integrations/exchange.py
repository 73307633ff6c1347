"""One request with a key: run the application inside its transaction, hold its reply back, end the transaction with it.

    application sends its last byte -> the reply is kept with the commit -> committed -> the reply goes out

The transaction ends where the application sends the last byte of its reply, not where it returns: what it does later
(background tasks) it does outside. To the application the client never leaves: a reply is due to the key, not to a
connection. Not for: keys, resends and refusals before it runs (asgi.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from syncpoint.integrations import problems
from syncpoint.integrations.idempotency import Reply, header_size_bytes
from syncpoint.integrations.problems import Problem
from syncpoint.manager.aio import AsyncJoinBlock, AsyncTransaction, AsyncTransactionBlock
from syncpoint.manager.base import should_retry

SCOPE_KEY = "syncpoint.transaction"
"""Where an application finds its transaction in the ASGI scope."""

log = logging.getLogger("syncpoint")


class ReplyTooLarge(Exception):
    """Raised in the application's `send`; the client gets a problem instead."""


class RolledBack(Exception):
    """Why a transaction was aborted that nobody's error aborted: what its handler answered."""


class Held:
    """A transaction block that one place enters and another leaves, once."""

    def __init__(self, block: AsyncTransactionBlock | AsyncJoinBlock) -> None:
        self._block = block
        self._transaction: AsyncTransaction | None = None
        self.has_ended = False

    @property
    def transaction(self) -> AsyncTransaction:
        assert self._transaction is not None
        return self._transaction

    async def enter(self) -> None:
        self._transaction = await self._block.__aenter__()

    async def commit(self) -> None:
        """Raises what the end of a transaction raises. A cancellation before the decision aborts."""
        assert not self.has_ended
        self.has_ended = True
        await self._block.__aexit__(None, None, None)

    async def abort(self, why: BaseException) -> None:
        """Never raises for a database's sake; does nothing when it has ended."""
        if not self.has_ended:
            self.has_ended = True
            await self._block.__aexit__(type(why), why, why.__traceback__)


class Exchange:
    """The application's `receive` and `send` while it is in the transaction.

    Parameters: `held` has been entered; `body` is the request's; `receive` is the server's; `answer` sends a whole
    reply to the client; `what` names the request in the log; without `keeps` the reply is not kept for a resend (a
    part of another manager's transaction); the others are the middleware's.
    """

    def __init__(
        self,
        held: Held,
        body: bytes,
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        answer: Callable[[Reply], Awaitable[None]],
        *,
        commit_when: Callable[[int], bool],
        never_kept: Collection[bytes],
        reply_size_max: int,
        what: str,
        keeps: bool = True,
    ) -> None:
        self._held = held
        self._body: bytes | None = body
        self._receive_from_client = receive
        self._send_to_client = answer
        self._commit_when = commit_when
        self._never_kept = never_kept
        self._reply_size_max = reply_size_max
        self._what = what
        self._keeps = keeps
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._size_bytes = 0
        self._is_too_large = False
        self._is_answered = False
        """The client was sent something, or the attempt was made."""
        self._is_told = False
        """What the application raises is no news: the client was told of it, and the log."""
        self._gone = asyncio.Event()
        """Set when the application may learn that its client has gone."""
        self._limit = asyncio.timeout(held.transaction.work.timeout_s)

    async def run(self, app: Callable[..., Awaitable[None]], scope: MutableMapping[str, Any]) -> None:
        """Run the application to its end. Raises what it raised, unless the client has been told something else."""
        inner = {**scope, SCOPE_KEY: self._held.transaction, "extensions": _extensions(scope)}
        error: BaseException | None = None
        try:
            async with self._limit:  # nothing that it does later could be committed
                await app(inner, self.receive, self.send)
        except BaseException as caught:
            error = caught
        try:
            if not self._is_answered:
                await self._conclude(error)
            if error is not None and not self._is_told:
                raise error
        finally:
            del error  # it refers to this frame: no cycle that keeps connections alive

    async def _conclude(self, error: BaseException | None) -> None:
        """The application has ended and its client waits. Answers nothing when the error is the application's own."""
        tx = self._held.transaction
        await self._held.abort(error or RolledBack("it ended before its reply was complete"))
        if self._limit.expired() and tx.is_committed:  # cancelled while it was being committed
            self._is_told = True
            await self._answer(self._reply())
            return
        problem = self._problem_of(error)
        if problem is not None:
            await self._refuse(problem, error)

    def _problem_of(self, error: BaseException | None) -> Problem | None:
        """Why there is no reply; None for an error that is the application's own, and a cancellation."""
        if self._limit.expired():
            return problems.TIMED_OUT
        if self._is_too_large:
            return problems.REPLY_TOO_LARGE
        if error is None:
            return problems.INCOMPLETE
        if not isinstance(error, Exception):
            return None
        problem = problems.problem_in_the_work(error)
        if problem is None and should_retry(self._held.transaction.work.core, error):
            return problems.ABORTED  # a serialization failure, a deadlock
        return problem

    # --- what the application calls ---------------------------------------------------------------------------

    async def receive(self) -> MutableMapping[str, Any]:
        """The body, once; then nothing until the reply is complete, so that it is completed."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        message: MutableMapping[str, Any] = await self._receive_from_client()
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Hold the reply back; with its last byte, end the transaction and let it go."""
        if self._held.has_ended:
            raise RuntimeError(f"{message['type']} was sent after the reply was complete.")
        match message["type"]:
            case "http.response.start" if not self._status:
                self._status = message["status"]
                self._headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
                self._grow(sum(header_size_bytes(name, value) for name, value in self._headers))
            case "http.response.body" if self._status:
                chunk = bytes(message.get("body", b""))
                self._grow(len(chunk))
                self._chunks.append(chunk)
                if not message.get("more_body", False):
                    await self._end()
            case unexpected:
                raise RuntimeError(f"{unexpected} is not expected here.")

    def _grow(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > self._reply_size_max:
            self._is_too_large = True
            self._chunks.clear()
            raise ReplyTooLarge(
                f"The reply to {self._what} is larger than the {self._reply_size_max} bytes that are kept for a resend."
            )

    def _reply(self) -> Reply:
        return Reply(status=self._status, headers=tuple(self._headers), body=b"".join(self._chunks))

    async def _end(self) -> None:
        """Commit with the reply, or roll back and let it go all the same."""
        reply, tx = self._reply(), self._held.transaction
        if not self._limit.expired():
            self._limit.reschedule(None)  # the transaction's own deadline goes on
        if tx.is_rollback_only or not self._commit_when(reply.status):
            await self._held.abort(RolledBack(f"it was answered {reply.status}"))
            await self._answer(reply)
            return
        try:
            if self._keeps:
                tx.set_result(reply.to_keep(self._never_kept).to_value())
            await self._held.commit()
        except Exception as error:
            await self._held.abort(error)
            problem = problems.problem_at_the_end(error)
            if problem is not None:
                await self._refuse(problem, error)
            raise  # so that the application does not go on as if all was well
        await self._answer(reply)

    # --- what the client gets ------------------------------------------------------------------------------------

    async def _answer(self, reply: Reply) -> None:
        self._is_answered = True
        self._gone.set()
        await self._send_to_client(reply)

    async def _refuse(self, problem: Problem, error: BaseException | None) -> None:
        self._is_told = True
        transaction = self._held.transaction.id
        text = f"{self._what}, transaction {transaction}: {problem.title}: {error or 'no error'}"
        if problem.may_resend:
            log.warning(text)
        else:
            log.error(text, exc_info=error)
        await self._answer(problem.to_reply(transaction))


def _extensions(scope: MutableMapping[str, Any]) -> dict[str, Any]:
    """Without those that let a response bypass `send`: files by path, trailers, pushes."""
    extensions = scope.get("extensions") or {}
    return {name: value for name, value in extensions.items() if not name.startswith("http.response.")}
