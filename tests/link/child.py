"""A process of its own with a link that answers: `python -m tests.link.child SETTINGS.json`. Used by test_processes.py.

It prints where it listens, and answers every Note, unless its number is negative, with a Note of the same number; the
text of the answer says how many connections it has lost. A closed standard input ends it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import Limits, LinkSettings, TlsFiles
from syncpoint.link.stream import StreamLink
from syncpoint.link.threaded import new_loop
from syncpoint.ports import Arrived, Link, Lost
from syncpoint.runners.aio import AsyncRunner
from syncpoint.steps import Script, Wait
from syncpoint.system import SystemRandom
from tests.link.words import WORDS, Note, guid


def answer(link: Link) -> Script[None]:
    lost = 0
    while True:
        yield Wait(link.arrived, None)
        link.arrived.clear()
        for event in link.take():
            lost += isinstance(event, Lost)
            if isinstance(event, Arrived) and isinstance(event.message, Note) and event.message.number >= 0:
                link.send(event.peer.name, Note(number=event.message.number, text=f"{lost} lost"))


async def main(given: dict[str, Any]) -> None:
    runner = AsyncRunner()
    link = StreamLink(
        LinkSettings(
            cluster="test",
            name=given["name"],
            role="node",
            guid=guid(given["name"]),
            peers=(KnownPeer(name="anna"),),
            listen=(given["listen"],),
            tls=TlsFiles(**given["tls"]) if given["tls"] else None,
            limits=Limits(**given["limits"]),
        ),
        vocabulary=WORDS,
        signal=runner.signal,
        random=SystemRandom(),
    )
    await link.start()
    print(link.listening_at[0], flush=True)
    script = asyncio.ensure_future(runner.run(answer(link)))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    script.cancel()
    await link.close()
    await runner.close()


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    with asyncio.Runner(loop_factory=new_loop if given.get("loop") == "uvloop" else None) as loop:
        loop.run(main(given))
