"""`ThreadedLink`: a link with a loop and a thread of its own, for programs that block.

uvloop is used when it is installed (`syncpoint[link]`): a message arrives in fewer microseconds. Not for: programs
that have a loop (stream.py).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from syncpoint.errors import ManagerClosed
from syncpoint.link.settings import LinkSettings
from syncpoint.link.stream import StreamLink
from syncpoint.messages import LINK_VOCABULARY, Message, Vocabulary
from syncpoint.ports import LinkEvent, Peer, Random, Sent, Signal

T = TypeVar("T")


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's when it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class ThreadedLink:
    """As `StreamLink`, and with the same parameters. `signal` must make signals that can be set from any thread, as
    both runners' can. Its thread ends with `close`, or with the process.
    """

    def __init__(
        self,
        settings: LinkSettings,
        *,
        vocabulary: Vocabulary = LINK_VOCABULARY,
        signal: Callable[[], Signal],
        random: Random,
    ) -> None:
        self._link = StreamLink(settings, vocabulary=vocabulary, signal=signal, random=random)
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._run, name=f"syncpoint-link-{settings.name}", daemon=True)

    def __repr__(self) -> str:
        return f"<ThreadedLink {self._link!r} {'running' if self._thread.is_alive() else 'not running'}>"

    def start(self) -> None:
        """Listen, and begin to dial. Raises ConfigurationError; then nothing is left open."""
        self._thread.start()
        try:
            self._call(self._link.start())
        except BaseException:
            self._stop()
            raise

    def close(self) -> None:
        """End every connection and the thread. A second call does nothing."""
        if self._thread.is_alive():
            self._call(self._link.close())
            self._stop()

    def reload_certificates(self) -> None:
        """Read the TLS files again, for connections made from now on. Raises ConfigurationError."""
        self._link.reload_certificates()

    @property
    def listening_at(self) -> tuple[str, ...]:
        return self._link.listening_at

    def figures(self) -> dict[str, Any]:
        return self._link.figures()

    # --- ports.Link ------------------------------------------------------------------------------------

    @property
    def arrived(self) -> Signal:
        return self._link.arrived

    def take(self) -> Sequence[LinkEvent]:
        return self._link.take()

    def send(self, to: str, message: Message) -> Sent:
        return self._link.send(to, message)

    def room(self, to: str) -> Signal:
        return self._link.room(to)

    def peers(self) -> Sequence[Peer]:
        return self._link.peers()

    # --- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            coroutine.close()
            raise ManagerClosed("The link is closed.", advice="Make a new one.")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
