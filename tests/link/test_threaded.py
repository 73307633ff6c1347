"""A link in a thread of its own, used by scripts: the same script runs on threads and on an event loop (R2)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from syncpoint.errors import ConfigurationError, ManagerClosed
from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import Limits, LinkSettings
from syncpoint.link.threaded import ThreadedLink
from syncpoint.ports import Arrived, Connected, Link, Sent, Signal
from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script, Wait
from syncpoint.system import SystemRandom
from syncpoint.testing.servers.base import wait_until
from tests.link.words import WORDS, Note, guid
from tests.link.world import run

NUMBER = 2000


def _link(folder: Path, name: str, other: str, signal: Callable[[], Signal], **fields: object) -> ThreadedLink:
    address = f"unix://{folder}/bert.sock"
    return ThreadedLink(
        LinkSettings(
            cluster="test",
            name=name,
            role="node",
            guid=guid(name),
            peers=(KnownPeer(name=other, address=address if name == "anna" else None),),
            listen=(address,) if name == "bert" else (),
            limits=Limits(queue_bytes_max=65536, frame_bytes_max=65536, inbox_bytes_max=65536),
        ),
        vocabulary=WORDS,
        signal=signal,
        random=SystemRandom(),
    )


def _receive(link: Link, number: int) -> Script[list[int]]:
    found: list[int] = []
    while len(found) < number:
        yield Wait(link.arrived, 20.0)
        link.arrived.clear()
        for event in link.take():
            if isinstance(event, Arrived):
                assert isinstance(event.message, Note)
                found.append(event.message.number)
    return found


def _send(link: Link, to: str, number: int) -> Script[int]:
    """All of them, waiting for room; returns how often it had to wait."""
    waited = 0
    while not any(isinstance(event, Connected) for event in link.take()):
        yield Wait(link.arrived, 20.0)
        link.arrived.clear()
    for one in range(number):
        while link.send(to, Note(number=one, text="x" * 1000)) is Sent.FULL:
            waited += 1
            yield Wait(link.room(to), 20.0)
    return waited


def test_scripts_talk_over_threads(tmp_path: Path) -> None:
    runner = ThreadRunner()
    anna, bert = (_link(tmp_path, *names, runner.signal) for names in (("anna", "bert"), ("bert", "anna")))
    bert.start()
    anna.start()
    waited: list[int] = []
    sender = threading.Thread(target=lambda: waited.append(runner.run(_send(anna, "bert", NUMBER))))
    sender.start()
    assert runner.run(_receive(bert, NUMBER)) == list(range(NUMBER))
    sender.join()
    assert waited[0] > 0, "it was held up at times, and went on"
    assert anna.figures()["messages_sent"] == bert.figures()["messages_received"] == NUMBER
    anna.close()
    wait_until(lambda: not bert.peers(), "bert knows")
    bert.close()
    bert.close()
    assert anna.send("bert", Note(number=1)) is Sent.AWAY
    runner.close()


def test_the_same_script_on_an_event_loop(tmp_path: Path) -> None:
    async def main() -> list[int]:
        runner = AsyncRunner()
        threads = ThreadRunner()
        anna, bert = _link(tmp_path, "anna", "bert", threads.signal), _link(tmp_path, "bert", "anna", runner.signal)
        bert.start()
        anna.start()
        sender = threading.Thread(target=lambda: threads.run(_send(anna, "bert", NUMBER)))
        sender.start()
        found = await runner.run(_receive(bert, NUMBER))
        sender.join()
        anna.close()
        bert.close()
        threads.close()
        await runner.close()
        return found

    assert run(main()) == list(range(NUMBER))


def test_a_link_that_cannot_start_leaves_no_thread(tmp_path: Path) -> None:
    runner = ThreadRunner()
    (tmp_path / "bert.sock").write_text("no socket")
    before = threading.active_count()
    link = _link(tmp_path, "bert", "anna", runner.signal)
    with pytest.raises(ConfigurationError, match="cannot listen"):
        link.start()
    assert threading.active_count() == before
    assert (tmp_path / "bert.sock").read_text() == "no socket"
    with pytest.raises(ManagerClosed):
        link._call(link._link.start())
    link.close()
    runner.close()
