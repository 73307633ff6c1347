"""What a link costs: `python -m tests.link.measure` prints one JSON object. Not a test.

Two processes on this machine, over a Unix socket and over TLS on loopback, with asyncio and with uvloop:

    messages_s      small messages a second, one way, as fast as they are taken
    round_trip_us   p50 and p99 of a small message and its answer, one at a time
    open_ms         from the start of dialling to both being connected
    messages_a_write
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from syncpoint.link.peers import KnownPeer
from syncpoint.ports import Arrived
from syncpoint.steps import Script, Wait
from tests.link.words import Note
from tests.link.world import LOOPS, World, connected, run, send, world

ROOT = Path(__file__).parents[2]
MESSAGES = 50_000
ROUND_TRIPS = 2_000


async def measure(here: World, kind: str, loop: str) -> dict[str, Any]:
    """One row of figures."""
    tls = here.authority.issue("bert") if kind == "tls" else None
    given = {
        "name": "bert",
        "listen": here.address("bert", kind),
        "limits": {},
        "tls": dataclasses.asdict(tls) if tls else None,
        "loop": loop,
    }
    settings = here.folder / "bert.json"
    settings.write_text(json.dumps(given))
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.link.child", str(settings)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    address = (await asyncio.to_thread(child.stdout.readline)).strip()
    begun_s = time.perf_counter()
    ours = here.authority.issue("anna") if kind == "tls" else None
    anna = await here.link("anna", KnownPeer(name="bert", address=address), tls=ours)
    await connected(anna)
    open_ms = (time.perf_counter() - begun_s) * 1000
    try:

        def answers(number: int) -> Script[None]:
            while number:
                yield Wait(anna.arrived, 20.0)
                anna.arrived.clear()
                number -= sum(1 for event in anna.take() if isinstance(event, Arrived))

        round_trips_s = []
        for number in range(ROUND_TRIPS):
            asked_s = time.perf_counter()
            anna.send("bert", Note(number=number))
            await here.runner.run(answers(1))
            round_trips_s.append(time.perf_counter() - asked_s)
        round_trips_s.sort()
        before = anna.figures()
        begun_s = time.perf_counter()
        receiving = asyncio.ensure_future(here.runner.run(answers(1)))
        for number in range(MESSAGES):
            await send(anna, "bert", Note(number=-1 if number < MESSAGES - 1 else number))
            if number % 100 == 0:
                await asyncio.sleep(0)
        await receiving
        seconds = time.perf_counter() - begun_s
        after = anna.figures()
    finally:
        child.communicate()
    return {
        "messages_s": round(MESSAGES / seconds),
        "round_trip_us": {
            "p50": round(round_trips_s[ROUND_TRIPS // 2] * 1e6),
            "p99": round(round_trips_s[ROUND_TRIPS * 99 // 100] * 1e6),
        },
        "open_ms": round(open_ms, 1),
        "messages_a_write": round(MESSAGES / (after["writes"] - before["writes"]), 1),
    }


def main() -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for kind in ("unix", "tls"):
        for loop in LOOPS:

            async def one(folder: Path, kind: str = kind, loop: str = loop) -> dict[str, Any]:
                async with world(folder) as here:
                    return await measure(here, kind, loop)

            with tempfile.TemporaryDirectory() as folder:
                figures[f"{kind} {loop}"] = run(one(Path(folder)), loop)
    return figures


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
