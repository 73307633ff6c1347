"""A process with everything imported that forks one child for each order: dying costs no interpreter start.

    python -m tests.crash.zygote        orders as JSON lines on stdin, answers as JSON lines on stdout

Single-threaded, and opens nothing itself, so that its forks are clean. An order names a scene (scenes_*.py), the world,
the transfer, and where to die. The answer holds how the child ended and everything that it said meanwhile. Sockets that
a child hands over (`Run.leave_open`) are held, so that its server does not see it die, until the next order says
otherwise. Not for: looking at databases (world.py), or judging (harness.py).
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from typing import Any

from syncpoint.resources import mariadb, memory, postgres, sqlite
from syncpoint.testing.crash.child import in_child
from tests.crash.disks import DyingDisk
from tests.crash.run import Run
from tests.crash.scenes import load
from tests.crash.trap import Target, Trap

CHILD_S_MAX = 60.0
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
    ended = in_child(lambda channel: _play(order, channel), seconds_max=CHILD_S_MAX, held=held)
    return {"killed": ended.killed, "said": ended.said, "noise": ended.noise}


def _play(order: dict[str, Any], channel: socket.socket) -> None:
    target = Target.from_json(order["target"]) if order["target"] else None
    disk = DyingDisk(*order["disk"]) if order["disk"] else DyingDisk()
    run = Run(order["world"], order["transfer"], Trap(target), channel, disk)
    try:
        load()[order["scene"]].act(run)
        run.close()
    except BaseException:
        run.say(error=traceback.format_exc())
    run.say(places=list(run.trap.places), steps=run.trap.steps, trace=run.trap.trace, disk=disk.done)


if __name__ == "__main__":
    main()
