"""`IdempotencyMiddleware`: one HTTP request, one transaction, one reply. For any ASGI application; needs no framework.

    app = IdempotencyMiddleware(app, manager)           # manager: an open AsyncTransactionManager

    async def handler(request):                         # inside the transaction that the Idempotency-Key names
        tx = request.scope["syncpoint.transaction"]     # or syncpoint.current()
        bank = await tx.connect("bank")

The application's reply is held back until its last byte, kept as the transaction's result, committed with it, and only
then sent. A resend of the key gets what is kept. See docs/http.md. Not for: the rules of keys and replies
(idempotency.py), the texts of refusals (problems.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, TypeAlias

from syncpoint.errors import (
    AlreadyCommitted,
    ConfigurationError,
    DifferentRequest,
    FormatTooNew,
    JournalError,
    ManagerClosed,
    ResultUnreadable,
    TransactionRunning,
)
from syncpoint.integrations import problems
from syncpoint.integrations.exchange import SCOPE_KEY, Exchange, Held
from syncpoint.integrations.idempotency import (
    NEVER_KEPT,
    BadReply,
    MalformedKey,
    Reply,
    is_larger,
    read_key,
    request_fingerprint,
    transaction_id,
)
from syncpoint.integrations.problems import Problem
from syncpoint.manager.aio import AsyncTransactionManager
from syncpoint.manager.results import RESULT_SIZE_BYTES_MAX

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

METHODS = ("POST", "PUT", "PATCH", "DELETE")
BODY_SIZE_BYTES_MAX = 1 << 20
REPLY_SIZE_BYTES_MAX = 1 << 19
POLL_S_MIN, POLL_S_MAX = 0.02, 0.25
REPLAYED = (b"idempotency-replayed", b"true")
log = logging.getLogger("syncpoint")


def commits_success(status: int) -> bool:
    """The usual rule: 2xx and 3xx commit and are kept; 4xx and 5xx roll back, and the key may be used again."""
    return status < 400


class IdempotencyMiddleware:
    """ASGI middleware: a request with an `Idempotency-Key` runs once, in a transaction; a resend gets its reply.

    Parameters:
        app: the application. Websockets, lifespan, other methods and requests without a key pass to it untouched.
        manager: an `AsyncTransactionManager`, opened by the application (in its lifespan), or a callable that gives it.
        methods: those whose keys count.
        required: whether a request of these methods must have a key; True, False, or a callable that takes the scope.
        principal: says from the scope who the caller is, by a name that stays the same for the caller (a user's id),
            and only once that has been *proved* (by authentication outside of this middleware: a kept reply is sent
            without asking the application). Keys of different principals have nothing to do with each other. Where it
            returns None, and by default, the credentials that the request carries (Authorization, Cookie, X-API-Key)
            are part of the request instead: the same key with others is refused by 422, never answered, never run.
        wait_s: seconds to wait for a request of the same key that is running; 0 answers 409 at once.
        timeout: seconds for the transaction and its handler; the manager's own by default.
        commit_when: which status codes commit; see `commits_success`. What does not commit is rolled back, sent, and
            not kept. So is what a handler marked with `tx.set_rollback_only()`.
        never_kept: names of further response headers that no replay may carry (Set-Cookie and its like never do).
        body_size_max, reply_size_max: bytes.
    """

    def __init__(
        self,
        app: App,
        manager: AsyncTransactionManager | Callable[[], AsyncTransactionManager],
        *,
        methods: Collection[str] = METHODS,
        required: bool | Callable[[Scope], bool] = False,
        principal: Callable[[Scope], str | None] | None = None,
        wait_s: float = 0.0,
        timeout: float | None = None,
        commit_when: Callable[[int], bool] = commits_success,
        never_kept: Collection[str] = (),
        body_size_max: int = BODY_SIZE_BYTES_MAX,
        reply_size_max: int = REPLY_SIZE_BYTES_MAX,
    ) -> None:
        self._app = app
        self._manager = manager
        self._methods = frozenset(method.upper() for method in methods)
        self._required = required
        self._principal = principal
        self._wait_s = wait_s
        self._timeout_s = timeout
        self._body_size_max = body_size_max
        self._never_kept = NEVER_KEPT | {name.lower().encode("latin-1") for name in never_kept}
        self._commit_when = commit_when
        self._reply_size_max = reply_size_max
        if reply_size_max > RESULT_SIZE_BYTES_MAX - 1024:
            raise ConfigurationError(
                f"reply_size_max={reply_size_max} is more than a transaction's result can hold.",
                advice=f"Give at most {RESULT_SIZE_BYTES_MAX - 1024}.",
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A transaction in the scope: this middleware stands outside already, for this very request.
        if scope["type"] != "http" or scope["method"].upper() not in self._methods or SCOPE_KEY in scope:
            await self._app(scope, receive, send)
            return
        try:
            key = read_key(scope["headers"])
        except MalformedKey as error:
            await send_reply(send, problems.malformed_key(str(error)).to_reply())
            return
        if key is not None:
            await self._keyed(key, scope, receive, send)
        elif self._required(scope) if callable(self._required) else self._required:
            await send_reply(send, problems.KEY_MISSING.to_reply())
        else:
            await self._app(scope, receive, send)

    # --- with a key ---------------------------------------------------------------------------------------------

    async def _keyed(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        # The whole body first: no lock is held while a slow client sends it.
        body = await read_body(scope, receive, self._body_size_max)
        if body is None:
            return
        if isinstance(body, Problem):
            await send_reply(send, body.to_reply())
            return
        # An empty name names nobody: callers without one must not share it.
        principal = (self._principal(scope) if self._principal is not None else None) or None
        method, path = scope["method"], scope["path"]
        id_ = transaction_id(principal=principal, method=method, path=path, key=key)
        fingerprint = request_fingerprint(
            key=key,
            method=method,
            path=path,
            query=scope.get("query_string", b""),
            headers=scope["headers"],
            body=body,
            bind_credentials=principal is None,
        )
        begun = await self._begin(id_, fingerprint)
        if isinstance(begun, Reply):
            await send_reply(send, begun)
            return
        await Exchange(
            begun,
            body,
            receive,
            lambda reply: send_reply(send, reply),
            commit_when=self._commit_when,
            never_kept=self._never_kept,
            reply_size_max=self._reply_size_max,
            what=f"{method} {path!r}",
        ).run(self._app, scope)

    async def _begin(self, id_: str, fingerprint: bytes) -> Held | Reply:
        """The transaction of this key, entered; or the reply that there is instead. Waits for one that is running."""
        manager = self._manager if isinstance(self._manager, AsyncTransactionManager) else self._manager()
        clock = asyncio.get_running_loop().time
        until, pause_s = clock() + self._wait_s, POLL_S_MIN
        while True:
            held = Held(manager.transaction(id=id_, timeout=self._timeout_s, fingerprint=fingerprint))
            try:
                await held.enter()
                return held
            except AlreadyCommitted as error:
                return _kept_reply(id_, error.result)
            except ResultUnreadable as error:
                log.error("%s", error)
                return problems.UNREADABLE.to_reply(id_)
            except DifferentRequest:
                return problems.KEY_REUSED.to_reply(id_)
            except (JournalError, ManagerClosed) as error:
                log.warning("transaction %s could not begin: %s", id_, error)
                return problems.UNAVAILABLE.to_reply(id_)
            except TransactionRunning:
                if clock() >= until:
                    return problems.RUNNING.to_reply(id_)
            await asyncio.sleep(min(pause_s, max(0.0, until - clock())))
            pause_s = min(POLL_S_MAX, pause_s * 2)


def _kept_reply(id_: str, value: Any) -> Reply:
    try:
        kept = Reply.from_value(value)
    except (BadReply, FormatTooNew) as error:
        log.error("transaction %s is committed, but its reply cannot be read: %s", id_, error)
        return problems.UNREADABLE.to_reply(id_)
    return Reply(status=kept.status, headers=(*kept.headers, REPLAYED), body=kept.body)


async def send_reply(send: Send, reply: Reply) -> None:
    """Send a whole response."""
    await send({"type": "http.response.start", "status": reply.status, "headers": list(reply.headers)})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


async def read_body(scope: Scope, receive: Receive, size_max: int) -> bytes | Problem | None:
    """The request's body; a Problem when it is too large, None when the client has gone."""
    announced = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    if announced and is_larger(announced[0], size_max):
        return problems.BODY_TOO_LARGE
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > size_max:
            return problems.BODY_TOO_LARGE
        if not message.get("more_body", False):
            return bytes(body)
