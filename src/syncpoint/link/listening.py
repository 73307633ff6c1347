"""Takes the connections that others open, so many at a time, each for so long.

A stranger who opens connections and says nothing cannot keep a good peer out: when too many are being opened, the
oldest of them goes, and a good peer's greeting takes milliseconds. Not for: what is said (connection.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from syncpoint.link.addresses import Address, UnixAddress
from syncpoint.link.sockets import remove_socket

ACCEPTS_A_TURN = 16
OUT_OF_FILES_PAUSE_S = 0.5


class Listener:
    """One listening socket on the loop.

    Parameters: `greet`, which turns an accepted socket (it owns it from then on) into a greeted connection; at most
    `greetings_max` of them run at once; `complain(kind, text)` says what is wrong.
    """

    def __init__(
        self,
        listening: socket.socket,
        address: Address,
        greet: Callable[[socket.socket, Any], Coroutine[Any, Any, None]],
        greetings_max: int,
        complain: Callable[[str, str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = listening
        self.address = address
        self._greet = greet
        self._greetings_max = greetings_max
        self._complain = complain
        self._accepts_a_turn = min(ACCEPTS_A_TURN, max(1, greetings_max // 2))  # each gets its turn before it goes
        self._greetings: dict[asyncio.Task[None], None] = {}  # oldest first
        self._not_begun: set[socket.socket] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._inode = os.stat(address.path).st_ino if isinstance(address, UnixAddress) else 0
        self._loop.add_reader(listening, self._accept)

    def __repr__(self) -> str:
        return f"<Listener {self.address} {len(self._greetings)} of {self._greetings_max} greetings>"

    def _accept(self) -> None:
        for _ in range(self._accepts_a_turn):
            try:
                accepted, where = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of files: the same again at once would only burn time
                self._complain("accept", f"No connection can be accepted at {self.address}: {error.strerror}.")
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(OUT_OF_FILES_PAUSE_S, self._resume)
                return
            accepted.setblocking(False)
            self._make_room()
            self._not_begun.add(accepted)
            task = self._loop.create_task(self._begin(accepted, where), name=f"syncpoint-greet-{where}")
            self._greetings[task] = None
            task.add_done_callback(functools.partial(self._end, accepted))

    async def _begin(self, accepted: socket.socket, where: Any) -> None:
        self._not_begun.discard(accepted)
        await self._greet(accepted, where)

    def _end(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._greetings.pop(task, None)
        if accepted in self._not_begun:  # cancelled before its first step: nobody else knows this socket
            self._not_begun.discard(accepted)
            accepted.close()

    def _make_room(self) -> None:
        if len(self._greetings) >= self._greetings_max:
            oldest = next(iter(self._greetings))
            del self._greetings[oldest]
            oldest.cancel()
            self._complain(
                "greetings",
                f"More than {self._greetings_max} connections are being opened at once at {self.address}; "
                "the oldest is dropped. Who opens so many? greetings_max is the bound.",
            )

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)

    async def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._socket)
        self._socket.close()
        if isinstance(self.address, UnixAddress):
            remove_socket(self.address.path, self._inode)
        greetings = list(self._greetings)
        for task in greetings:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*greetings, return_exceptions=True)
