"""A child process that may die at any moment, and everything it said before it did.

    ended = in_child(act, seconds_max=60.0)      `act` gets the socket it speaks through: JSON lines, at once

A fork, so that `act` may be any function: it needs no import and no pickling. What the child prints, and its traceback
if it hangs, is kept. Sockets that it hands over (`socket.send_fds`) are held in the caller's list, so that their
servers do not see it die. Not for: what is done there (lives.py).
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

SECONDS_MAX = 60.0
_MORE_S = 5.0
"""What the parent waits beyond the child's own bound, before it ends it from outside."""

Act = Callable[[socket.socket], object]


@dataclass(frozen=True)
class Ended:
    """How a child ended, and what it said."""

    killed: bool
    """By SIGKILL, and not because it hung."""
    said: list[dict[str, Any]]
    noise: str
    """What it wrote to its standard output and error."""

    def last(self, word: str) -> Any:
        """The value that was said last under this word; None if none was."""
        return next((line[word] for line in reversed(self.said) if word in line), None)


def say(channel: socket.socket, **what: Any) -> None:
    """Tell the parent, at once: a kill later takes nothing of it back."""
    channel.sendall(json.dumps(what).encode() + b"\n")


def in_child(act: Act, *, seconds_max: float = SECONDS_MAX, held: list[int] | None = None) -> Ended:
    """Fork, call `act` in the child, and listen until it has ended, at most `seconds_max` seconds.

    What `act` raises is said as "error", with its traceback. Returns how it ended; never raises for what happens there.
    """
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as errors:
        child = _fork()
        if child == 0:
            ours.close()
            _be_child(act, theirs, errors.fileno(), seconds_max)
        theirs.close()
        said, hung = _listen(ours, child, seconds_max, [] if held is None else held)
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        noise = errors.read().decode(errors="replace")
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return Ended(killed and not hung, said, noise)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns when there are other threads. The child uses nothing that one of them may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _listen(channel: socket.socket, child: int, seconds_max: float, held: list[int]) -> tuple[list[Any], bool]:
    """Everything the child says until it ends. One that hangs is ended, and it is said that it hung."""
    raw = b""
    deadline = time.monotonic() + seconds_max + _MORE_S
    with channel:
        while True:
            readable, _, _ = select.select([channel], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                os.kill(child, signal.SIGKILL)
                return [{"error": f"it hung for more than {seconds_max} s"}], True
            data, sockets, _, _ = socket.recv_fds(channel, 65536, 8)
            held.extend(sockets)
            if not data:
                return [json.loads(line) for line in raw.split(b"\n") if line], False
            raw += data


def _be_child(act: Act, channel: socket.socket, errors: int, seconds_max: float) -> NoReturn:
    status = 1
    try:
        os.dup2(errors, 2)
        os.dup2(errors, 1)
        sys.stdout = sys.stderr = os.fdopen(os.dup(errors), "w", buffering=1)
        faulthandler.dump_traceback_later(seconds_max, exit=True, file=2)
        act(channel)
        status = 0
    except BaseException:
        say(channel, error=traceback.format_exc())
    finally:
        os._exit(status)
