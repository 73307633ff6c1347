"""Keeps one peer connected: dials it, and again when the connection has ended, at growing intervals.

Not for: connections that the peer opens (listening.py); while one of those is open, this one rests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from syncpoint.link.backoff import BackOff
from syncpoint.link.connection import Connection, GreetingFailed
from syncpoint.link.handshake import Reason
from syncpoint.link.settings import Limits
from syncpoint.link.tls import explain
from syncpoint.ports import Random

_log = logging.getLogger("syncpoint.link")


class Dialler:
    """Parameters: `dial` opens a connection and greets, or raises OSError or GreetingFailed; `failed` is told why."""

    def __init__(
        self,
        name: str,
        dial: Callable[[], Coroutine[Any, Any, Connection]],
        limits: Limits,
        random: Random,
        failed: Callable[[str], None],
    ) -> None:
        self.name = name
        self._dial = dial
        self._limits = limits
        self._random = random
        self._failed = failed
        self._back_off = BackOff(limits.retry_base_s, limits.retry_max_s)
        self._away = asyncio.Event()
        self._away.set()
        self._attempt: asyncio.Task[Connection] | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"syncpoint-dial-{name}")
        self.attempts = 0

    def __repr__(self) -> str:
        return f"<Dialler {self.name} {'dialling' if self._away.is_set() else 'resting'} {self._back_off!r}>"

    def peer_is_here(self, connection: Connection) -> None:
        """A connection to this peer is open: rest. An attempt under way that is not this one is given up."""
        self._away.clear()
        if self._attempt is not None and not connection.dialled_by_us:
            self._attempt.cancel()

    def peer_is_away(self) -> None:
        self._away.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._away.wait()
            connection = await self._try()
            if connection is not None:
                opened_at_s = loop.time()
                await connection.gone.wait()
                if loop.time() - opened_at_s >= self._limits.retry_max_s:
                    self._back_off.reset()
            await asyncio.sleep(self._back_off.next_pause_s(self._random.fraction()))

    async def _try(self) -> Connection | None:
        self.attempts += 1
        self._attempt = attempt = asyncio.get_running_loop().create_task(self._dial())
        try:
            await asyncio.wait((attempt,))
        except asyncio.CancelledError:  # we are closed
            attempt.cancel()
            await asyncio.wait((attempt,))
            raise
        finally:
            self._attempt = None
        if attempt.cancelled():  # the peer has reached us meanwhile
            return None
        error = attempt.exception()
        if error is None:
            return attempt.result()
        if isinstance(error, GreetingFailed):
            if error.refusal is None or error.refusal.reason != Reason.DUPLICATE:
                self._failed(_in_words(error))
            return None
        if isinstance(error, OSError):  # a TimeoutError is one
            self._failed(f"it cannot be reached: {explain(error)}")
        else:
            _log.error("Dialling %s failed in a way that was not foreseen.", self.name, exc_info=error)
        return None


def _in_words(error: GreetingFailed) -> str:
    if error.refusal is None:
        return f"the greeting failed: {error}"
    if error.refusal.by_us:
        return f"it was refused: {error}"
    return f"it refused: {error}"
