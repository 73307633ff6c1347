"""Two processes: one is killed, stopped, woken; the other notices, and they find each other again.

Not for: connections that are closed (test_stream.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import TlsFiles
from syncpoint.link.stream import StreamLink
from syncpoint.ports import Arrived, Lost, Sent
from tests.link.words import Note
from tests.link.world import QUICK, Ear, World, run, until, world

ROOT = Path(__file__).parents[2]


class Child:
    """bert, as a process of its own."""

    def __init__(self, here: World, listen: str, tls: TlsFiles | None, limits: dict[str, float]) -> None:
        settings = here.folder / "bert.json"
        given = {"name": "bert", "listen": listen, "limits": limits, "tls": dataclasses.asdict(tls) if tls else None}
        settings.write_text(json.dumps(given))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.link.child", str(settings)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def address(self) -> str:
        assert self._process.stdout is not None
        return (await asyncio.to_thread(self._process.stdout.readline)).strip()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def is_stopped(self) -> bool:
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def _child(
    here: World, listen: str, tls: TlsFiles | None = None, limits: dict[str, float] | None = None
) -> Iterator[Child]:
    child = Child(here, listen, tls, limits or dict(QUICK))
    try:
        yield child
    finally:
        child.end()


async def _answers(anna: StreamLink, ear: Ear, number: int) -> str:
    """Ask bert, again if the connection is lost meanwhile; the text of the answer."""

    def asked() -> list[Arrived]:
        found = [event for event in ear.listen() if isinstance(event, Arrived) and isinstance(event.message, Note)]
        return [event for event in found if event.message.number == number]  # type: ignore[attr-defined]

    await until(lambda: anna.send("bert", Note(number=number)) is Sent.TAKEN, "it can be asked")
    await until(asked, "bert answers")
    return str(asked()[0].message.text)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["unix", "tls"])
def test_a_killed_peer_is_noticed_at_once_and_its_successor_is_connected(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            tls = here.authority.issue("bert") if kind == "tls" else None
            patient = {**QUICK, "dead_after_s": 60.0}  # so that it is not noticed by silence
            with _child(here, here.address("bert", kind), tls, patient) as child:
                address = await child.address()
                ours = here.authority.issue("anna") if kind == "tls" else None
                anna = await here.link("anna", KnownPeer(name="bert", address=address), tls=ours, **patient)
                ear = Ear(anna)
                assert await _answers(anna, ear, 1) == "0 lost"
                first = anna.peers()[0]
                child.signal(signal.SIGKILL)
                await until(lambda: ear.kinds()[-1] == "Lost", "anna knows")
                assert anna.send("bert", Note(number=2)) is Sent.AWAY
                await until(lambda: anna.figures()["dial_attempts"]["bert"] > 2, "bert is dialled in vain")
                assert ear.kinds() == ["Connected", "Arrived", "Lost"]
                child.end()
                with _child(here, address, tls, patient) as successor:
                    assert await successor.address() == address
                    assert await _answers(anna, ear, 3) == "0 lost"
                    assert ear.kinds() == ["Connected", "Arrived", "Lost", "Connected", "Arrived"]
                    second = anna.peers()[0]
                    assert (first.name, first.guid) == (second.name, second.guid)
                    assert first.instance != second.instance

    run(main())


@pytest.mark.parametrize("kind", ["unix", "tls"])
def test_a_stopped_peer_is_noticed_by_its_silence_and_found_again_when_it_wakes(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            tls = here.authority.issue("bert") if kind == "tls" else None
            with _child(here, here.address("bert", kind), tls) as child:
                address = await child.address()
                ours = here.authority.issue("anna") if kind == "tls" else None
                anna = await here.link(
                    "anna", KnownPeer(name="bert", address=address), tls=ours, handshake_s=0.3, **QUICK
                )
                ear = Ear(anna)
                assert await _answers(anna, ear, 1) == "0 lost"
                child.signal(signal.SIGSTOP)
                await until(child.is_stopped, "bert is stopped")
                begun = asyncio.get_running_loop().time()
                await until(lambda: ear.kinds()[-1] == "Lost", "anna knows")
                waited_s = asyncio.get_running_loop().time() - begun
                assert 0.4 < waited_s < 10.0
                lost = ear.events[-1]
                assert isinstance(lost, Lost)
                assert lost.why.startswith("nothing was heard for 0.")
                await until(lambda: anna.figures()["dial_attempts"]["bert"] > 1, "bert is dialled in vain")
                assert ear.kinds()[-1] == "Lost", "the system accepts for a stopped process, and that is no peer"
                child.signal(signal.SIGCONT)
                await _answers(anna, ear, 2)
                assert ear.kinds()[-2:] == ["Connected", "Arrived"]

    run(main())


def test_who_was_stopped_himself_judges_nobody(tmp_path: Path) -> None:
    """Awake again, bert has heard nothing for long. It was he who did not listen."""

    async def main() -> None:
        async with world(tmp_path) as here:
            with _child(here, here.address("bert", "unix"), None, {**QUICK, "dead_after_s": 1.0}) as child:
                address = await child.address()
                patient = {**QUICK, "dead_after_s": 60.0}
                anna = await here.link("anna", KnownPeer(name="bert", address=address), **patient)
                ear = Ear(anna)
                assert await _answers(anna, ear, 1) == "0 lost"
                child.signal(signal.SIGSTOP)
                await until(child.is_stopped, "bert is stopped")
                loop = asyncio.get_running_loop()
                wake_at = loop.time() + 1.5  # longer than bert's `dead_after_s`
                await until(lambda: loop.time() > wake_at, "bert has slept")
                child.signal(signal.SIGCONT)
                assert await _answers(anna, ear, 2) == "0 lost"
                assert ear.kinds() == ["Connected", "Arrived", "Arrived"]

    run(main())
