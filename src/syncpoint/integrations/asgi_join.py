"""`JoinMiddleware`: a request that carries a transaction's context takes part in it. For any ASGI application.

    app = JoinMiddleware(app, manager)                  # manager: an open AsyncTransactionManager with a tree

    async def handler(request):                         # inside the caller's transaction, if it sent its context
        tx = request.scope["syncpoint.transaction"]     # or syncpoint.current()

    the header is signed, or came over an authenticated link .... joined, or refused in plain words: 403, 503
    it is neither ............................................... stripped: the application never sees it

The reply is held back until the part has left the block: whoever gets it may end the transaction at once. A status of
400 or more aborts the part, and so the caller's whole transaction. Not for: what a context is (manager/contexts.py), or
keys of requests (asgi.py); a request has one or the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from syncpoint.errors import ContextRefused, JournalError, ManagerClosed, ResourceUnavailable
from syncpoint.integrations.asgi import (
    BODY_SIZE_BYTES_MAX,
    REPLY_SIZE_BYTES_MAX,
    App,
    Receive,
    Scope,
    Send,
    commits_success,
    read_body,
    send_reply,
)
from syncpoint.integrations.exchange import SCOPE_KEY, Exchange, Held
from syncpoint.integrations.problems import UNAVAILABLE, Problem
from syncpoint.manager.aio import AsyncTransactionManager
from syncpoint.manager.contexts import HEADER, is_signed

log = logging.getLogger("syncpoint")

HEADER_NAME = HEADER.lower().encode()

REFUSED = Problem(
    status=403,
    code="context-refused",
    title="The transaction cannot be joined",
    detail="The context in the request is forged, expired or used, or its transaction has ended. Nothing was done.",
)


def nobody(scope: Scope) -> bool:
    """No request is authenticated by its connection: contexts must be signed."""
    return False


class JoinMiddleware:
    """ASGI middleware: a request with a transaction's context is handled as a part of that transaction.

    Parameters:
        app: the application. Requests without a context, websockets and lifespan pass to it untouched.
        manager: an `AsyncTransactionManager` made with a tree, or a callable that gives it.
        authenticated: says from the scope whether the request came over an authenticated link (mutual TLS that your
            server has checked), so that its context need not be signed. By default none did. A header is no proof.
        commit_when: which status codes let the part go on; any other aborts it.
        body_size_max, reply_size_max: bytes.
    """

    def __init__(
        self,
        app: App,
        manager: AsyncTransactionManager | Callable[[], AsyncTransactionManager],
        *,
        authenticated: Callable[[Scope], bool] = nobody,
        commit_when: Callable[[int], bool] = commits_success,
        body_size_max: int = BODY_SIZE_BYTES_MAX,
        reply_size_max: int = REPLY_SIZE_BYTES_MAX,
    ) -> None:
        self._app = app
        self._manager = manager
        self._authenticated = authenticated
        self._commit_when = commit_when
        self._body_size_max = body_size_max
        self._reply_size_max = reply_size_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = [value for name, value in scope.get("headers", ()) if name.lower() == HEADER_NAME]
        if not sent:
            await self._app(scope, receive, send)
            return
        stripped = {**scope, "headers": [line for line in scope["headers"] if line[0].lower() != HEADER_NAME]}
        if scope["type"] != "http" or len(sent) != 1 or not self._may_join(scope, sent[0]):
            log.warning("A transaction's context came from outside: it was stripped from the request.")
            await self._app(stripped, receive, send)
            return
        await self._join(sent[0].decode("latin-1"), stripped, receive, send)

    def _may_join(self, scope: Scope, token: bytes) -> bool:
        return is_signed(token.decode("latin-1")) or self._authenticated(scope)

    async def _join(self, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, self._body_size_max)
        if body is None:
            return
        if isinstance(body, Problem):
            await send_reply(send, body.to_reply())
            return
        manager = self._manager if isinstance(self._manager, AsyncTransactionManager) else self._manager()
        held = Held(manager.join(token, authenticated=self._authenticated(scope)))
        try:
            await held.enter()
        except ContextRefused as error:
            log.warning("a context was refused: %s", error.message)
            await send_reply(send, REFUSED.to_reply())
            return
        except (ResourceUnavailable, JournalError, ManagerClosed) as error:
            log.warning("a transaction could not be joined: %s", error)
            await send_reply(send, UNAVAILABLE.to_reply())
            return
        await Exchange(
            held,
            body,
            receive,
            lambda reply: send_reply(send, reply),
            commit_when=self._commit_when,
            never_kept=(),
            reply_size_max=self._reply_size_max,
            what=f"{scope['method']} {scope['path']!r}",
            keeps=False,
        ).run(self._app, scope)


__all__ = ["REFUSED", "SCOPE_KEY", "JoinMiddleware"]
