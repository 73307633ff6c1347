"""What `spawn` returns: the part of a background script's handle that both runners share.

Not for: waiting; `threads.py` and `aio.py` add how.
"""

from __future__ import annotations

import logging

from syncpoint.errors import ManagerClosed
from syncpoint.ports import Signal
from syncpoint.runners import Stopped

_log = logging.getLogger("syncpoint.runners")


class Background:
    """A script that runs by itself. `ended` is set when it has: scripts can `yield Wait(handle.ended, seconds)`."""

    def __init__(self, what: str, ended: Signal) -> None:
        self.what = what
        self.ended = ended
        self.error: BaseException | None = None
        """What ended the script, unless it returned or was stopped."""
        self._stop_asked = False

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "stopping" if self._stop_asked else "running"
        return f"<Background {self.what} {state}>"

    def stop(self) -> None:
        """Ask the script to end: `Stopped` is thrown into it at its present or next Sleep or Wait. Never waits.

        Callable from any thread; another call asks again.
        """
        self._stop_asked = True
        self._wake()

    def _wake(self) -> None:
        raise NotImplementedError

    def raise_if_stopped(self) -> None:
        """Called by the runner at each Sleep and Wait. Raises Stopped once for each `stop`."""
        if self._stop_asked:
            self._stop_asked = False
            raise Stopped(self.what)

    def record_end(self, error: BaseException | None) -> None:
        """Called by the runner when the script has ended, with what it raised."""
        if error is not None and not isinstance(error, Stopped | ManagerClosed):
            self.error = error
            _log.error("The background work %r ended with an error.", self.what, exc_info=error)
        self.ended.set()
