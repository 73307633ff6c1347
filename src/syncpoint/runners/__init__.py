"""What drives scripts (`steps.py`): `threads.ThreadRunner` blocking, `aio.AsyncRunner` on an event loop.

    driving.py    advance a script by one value or exception; observers; the part both runners share
    points.py     where in the source a script stands: names the points of crash tests
    workers.py    threads that are there whenever one is needed
    batching.py   group commit: one thread that handles whatever waits
    background.py what `spawn` returns, in the part both share

The only folder that may import asyncio or threading. Not for: knowing what a step does.
"""

from __future__ import annotations

__all__ = ["Stopped"]


class Stopped(BaseException):
    """Thrown into a background script at a Sleep or Wait after its handle's `stop()`: end now.

    Once for each call of `stop()`, and never in the middle of a Call, Blocking, Gather or Batch. Not an
    Exception, so that a loop which survives any failure of its work (`except Exception`) does end.
    """
