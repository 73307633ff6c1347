"""A process with everything imported that forks one child for each order: dying costs no interpreter start.

    python -m tests.crash.zygote        orders as JSON lines on stdin, answers as JSON lines on stdout

Single-threaded, and opens nothing itself, so that its forks are clean. An order names a scene (scenes_*.py), the world,
the transfer, and where to die. The answer holds how the child ended and everything that it said meanwhile. Sockets that
a child hands over (`Run.leave_open`) are held, so that its server does not see it die, until the next order says
otherwise. Not for: looking at databases (world.py), or judging (harness.py).
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
from typing import Any, NoReturn

from syncpoint.resources import mariadb, memory, postgres, sqlite
from tests.crash.disks import DyingDisk
from tests.crash.run import Run
from tests.crash.scenes import load
from tests.crash.trap import Target, Trap

CHILD_S_MAX = 60.0
HUNG = {"error": f"it hung for more than {CHILD_S_MAX} s"}
IMPORTED = (mariadb, memory, postgres, sqlite)
"""A manager would import each when it needs it: in every child anew."""


def main() -> None:
    """Serve until stdin ends."""
    held: list[int] = []
    print(json.dumps({"ready": sorted(load())}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("let_go"):
            while held:
                os.close(held.pop())
            print(json.dumps({}), flush=True)
        else:
            print(json.dumps(_serve(order, held)), flush=True)


def _serve(order: dict[str, Any], held: list[int]) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            ours.close()
            _be_child(order, theirs, errors.fileno())
        theirs.close()
        said = _listen(ours, child, held)
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        noise = errors.read().decode(errors="replace")
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return {"killed": killed and HUNG not in said, "said": said, "noise": noise}


def _listen(channel: socket.socket, child: int, held: list[int]) -> list[Any]:
    """Everything the child says until it ends. One that hangs is ended, and says so."""
    raw = b""
    deadline = time.monotonic() + CHILD_S_MAX + 5.0
    with channel:
        while True:
            readable, _, _ = select.select([channel], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                os.kill(child, signal.SIGKILL)
                return [HUNG]
            data, sockets, _, _ = socket.recv_fds(channel, 65536, 8)
            held.extend(sockets)
            if not data:
                return [json.loads(line) for line in raw.split(b"\n") if line]
            raw += data


def _be_child(order: dict[str, Any], channel: socket.socket, errors: int) -> NoReturn:
    status = 1
    try:
        os.dup2(errors, 2)
        os.dup2(errors, 1)
        faulthandler.dump_traceback_later(CHILD_S_MAX, exit=True, file=2)
        status = _play(order, channel)
    finally:
        os._exit(status)


def _play(order: dict[str, Any], channel: socket.socket) -> int:
    target = Target.from_json(order["target"]) if order["target"] else None
    disk = DyingDisk(*order["disk"]) if order["disk"] else DyingDisk()
    run = Run(order["world"], order["transfer"], Trap(target), channel, disk)
    status = 0
    try:
        load()[order["scene"]].act(run)
        run.close()
    except BaseException:
        run.say(error=traceback.format_exc())
        status = 1
    run.say(places=list(run.trap.places), steps=run.trap.steps, trace=run.trap.trace, disk=disk.done)
    return status


if __name__ == "__main__":
    main()
