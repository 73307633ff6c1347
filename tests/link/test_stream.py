"""Two links: messages arrive in order, one turn is one write, memory is bounded, connections come again.

Not for: strangers (test_strangers.py), TLS's refusals (test_tls.py), or killed processes (test_processes.py).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from pathlib import Path
from random import Random

import pytest

from syncpoint.errors import ConfigurationError, MessageTooLarge
from syncpoint.link.addresses import parse_address
from syncpoint.link.peers import KnownPeer
from syncpoint.link.stream import StreamLink
from syncpoint.ports import Connected, Lost, Sent
from tests.link.words import Note, guid
from tests.link.world import (
    LOOPS,
    QUICK,
    Ear,
    World,
    break_connection,
    connected,
    open_descriptors,
    run,
    send,
    until,
    world,
)

KINDS = ("unix", "tls")
both = pytest.mark.parametrize("kind", KINDS)
loops = pytest.mark.parametrize("loop", LOOPS)


@both
@loops
def test_messages_arrive_in_order_both_ways_and_all_of_them(tmp_path: Path, kind: str, loop: str) -> None:
    number_of_notes = 3000

    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await here.pair(kind, queue_bytes_max=65536, frame_bytes_max=65536)
            ears = Ear(bert), Ear(anna)
            for number in range(number_of_notes):
                text = "x" * (number * 37 % 3000)
                await send(anna, "bert", Note(number=number, text=text))
                await send(bert, "anna", Note(number=number, text=text))
            for ear in ears:
                await until(lambda ear=ear: len(ear.notes()) == number_of_notes, "all have arrived")
                assert ear.notes() == list(range(number_of_notes))

    run(main(), loop)


@both
@loops
def test_everything_sent_within_one_turn_is_one_write(tmp_path: Path, kind: str, loop: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await here.pair(kind, heartbeat_s=10, dead_after_s=30)
            ear = Ear(bert)
            for turn in range(1, 4):
                before = anna.figures()
                for number in range(100):
                    assert anna.send("bert", Note(number=number)) is Sent.TAKEN
                await until(lambda turn=turn: len(ear.notes()) == 100 * turn, "they have arrived")
                after = anna.figures()
                assert after["writes"] - before["writes"] == 1
                assert after["messages_sent"] - before["messages_sent"] == 100

    run(main(), loop)


def test_who_is_connected_is_said_with_what_was_proved(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            bert = await here.link("bert", KnownPeer(name="anna"), listen=(here.address("bert", "unix"),))
            anna = await here.link("anna", KnownPeer(name="bert", address=bert.listening_at[0]), role="application")
            await connected(anna, bert)
            [event] = bert.take()
            assert isinstance(event, Connected)
            assert (event.peer.name, event.peer.guid, event.peer.role) == ("anna", guid("anna"), "application")
            assert list(bert.peers()) == [event.peer]
            assert bert.send("carl", Note(number=1)) is Sent.AWAY
            assert bert.room("carl").is_set()

    run(main())


@both
@loops
def test_a_peer_that_takes_nothing_holds_the_sender_up_and_memory_is_bounded(
    tmp_path: Path, kind: str, loop: str
) -> None:
    bound = 128 * 1024

    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await here.pair(
                kind, frame_bytes_max=65536, queue_bytes_max=bound, inbox_bytes_max=bound, **QUICK
            )
            note = Note(number=0, text="x" * 10_000)
            sent = 0

            def is_stuck() -> bool:
                nonlocal sent
                while anna.send("bert", note) is Sent.TAKEN:
                    sent += 1
                return anna.send("bert", note) is Sent.FULL

            await until(lambda: is_stuck() and not anna.room("bert").is_set(), "the queue is full")
            calm = asyncio.get_running_loop().time() + 0.9  # longer than `dead_after_s`
            await until(lambda: is_stuck() and asyncio.get_running_loop().time() > calm, "nothing moves any more")
            stuck_at = sent
            # Queue, socket buffers of the system at both ends, inbox: not what was tried.
            assert sent * 10_000 < 8 * 1024 * 1024
            assert anna.peers(), "who is held up is not dead"
            assert bert.peers()
            # Bert wakes up: everything arrives, and anna hears that there is room.
            room = anna.room("bert")
            ear = Ear(bert)
            await until(lambda: len(ear.notes()) == stuck_at, "all that was taken arrives")
            assert room.is_set()
            assert anna.send("bert", note) is Sent.TAKEN

    run(main(), loop)


def test_a_peer_that_connects_anew_gets_no_more_memory(tmp_path: Path) -> None:
    bound = 128 * 1024

    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await here.pair(
                "unix", frame_bytes_max=65536, queue_bytes_max=bound, inbox_bytes_max=bound, **QUICK
            )
            note = Note(number=0, text="x" * 10_000)

            def is_full() -> bool:
                while anna.send("bert", note) is Sent.TAKEN:
                    pass
                return anna.send("bert", note) is Sent.FULL and bert.figures()["messages_received"] >= 13

            for _ in range(5):
                await until(is_full, "bert is full")
                connections = bert.figures()["connected"]
                break_connection(anna)
                await until(lambda before=connections: bert.figures()["connected"] > before, "anna is back")
            await until(is_full, "bert is still full")
            received = bert.figures()["messages_received"]
            assert received * 10_000 < 2 * (bound + 256 * 1024), "over six connections not much more than over one"
            ear = Ear(bert)
            await until(lambda: ear.listen() and bert.figures()["messages_received"] > received, "bert reads on")

    run(main())


def test_a_message_too_large_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await here.pair("unix", frame_bytes_max=5000)
            with pytest.raises(MessageTooLarge, match=r"Note has 50\d\d bytes; a link carries at most 5000"):
                anna.send("bert", Note(number=1, text="x" * 5000))
            await send(anna, "bert", Note(number=2))
            ear = Ear(bert)
            await until(lambda: ear.notes() == [2], "the next one arrives")

    run(main())


@both
def test_a_closed_link_is_lost_at_once_and_found_again(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await here.pair(kind, **QUICK)
            address = bert.listening_at[0]
            ear = Ear(anna)
            await bert.close()
            await until(lambda: ear.kinds() == ["Lost"], "anna knows")
            lost = ear.events[0]
            assert isinstance(lost, Lost)
            assert lost.why == "bert has closed its link."
            assert anna.send("bert", Note(number=1)) is Sent.AWAY
            tls = here.authority.issue("bert") if kind == "tls" else None
            anew = await here.link("bert", KnownPeer(name="anna"), listen=(address,), tls=tls)
            await connected(anna, anew)
            assert ear.kinds() == ["Lost", "Connected"]
            await send(anna, "bert", Note(number=2))
            new_ear = Ear(anew)
            await until(lambda: new_ear.notes() == [2], "the connection works")

    run(main())


@both
def test_whenever_connections_break_messages_keep_their_order_and_none_comes_twice(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await here.pair(kind, **QUICK)
            ear = Ear(bert)
            sent_in: list[int] = []  # which connection a note went into
            breaks = 0

            def send_and_break() -> bool:
                nonlocal breaks
                for _ in range(random.randrange(100)):
                    if anna.send("bert", Note(number=len(sent_in), text="x" * random.randrange(2000))) is Sent.TAKEN:
                        sent_in.append(breaks)
                ear.listen()
                if anna.peers() and random.randrange(10) == 0:
                    break_connection(random.choice([anna, bert]))
                    breaks += 1
                return breaks == 10

            random = Random(4)
            await until(send_and_break, "ten connections are broken")
            mended_at = len(sent_in)

            def is_mended() -> bool:
                if anna.send("bert", Note(number=len(sent_in))) is Sent.TAKEN:
                    sent_in.append(breaks)
                return bool(ear.notes()) and ear.notes()[-1] > mended_at

            await until(is_mended, "notes arrive again")
            notes = ear.notes()
            assert notes == sorted(set(notes)), "in order, none twice"
            for one, following in itertools.pairwise(notes):
                assert following == one + 1 or sent_in[following] != sent_in[one], "no gap within a connection"
            kinds = [kind for kind in ear.kinds() if kind != "Arrived"]
            assert kinds == ["Lost", "Connected"] * (len(kinds) // 2)

    run(main())


def test_a_peer_started_anew_takes_the_place_of_its_old_connection(tmp_path: Path) -> None:
    """As after a crash that nobody noticed: the old connection is still open."""

    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await here.pair("unix")
            ear = Ear(bert)
            anew = await here.link("anna", KnownPeer(name="bert", address=bert.listening_at[0]))
            await until(lambda: ear.kinds() == ["Lost", "Connected"], "bert has the new one")
            await connected(anew)
            assert [peer.instance for peer in bert.peers()] != [event.peer.instance for event in ear.events[:1]]
            await anna.close()
            assert ear.kinds() == ["Lost", "Connected"]

    run(main())


async def _dial_each_other(here: World) -> tuple[StreamLink, StreamLink]:
    addresses = {name: here.address(name, "unix") for name in ("anna", "bert")}
    anna, bert = [
        await here.link(name, KnownPeer(name=other, address=addresses[other]), listen=(addresses[name],), **QUICK)
        for name, other in (("anna", "bert"), ("bert", "anna"))
    ]
    return anna, bert


async def _settled(*links: StreamLink) -> None:
    """Each has exactly one connection, and none under way."""
    await until(lambda: all(link.peers() and len(link._connections) == 1 for link in links), "one connection is left")


@loops
def test_two_that_dial_each_other_keep_one_connection(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await _dial_each_other(here)
            ears = Ear(anna), Ear(bert)
            await _settled(anna, bert)
            before = [ear.kinds() for ear in ears]
            for number in range(5):
                await send(anna, "bert", Note(number=number))
                await send(bert, "anna", Note(number=number))
            for ear in ears:
                await until(lambda ear=ear: ear.notes() == list(range(5)), "all have arrived")
            assert [ear.kinds()[:-5] for ear in ears] == before, "nothing was lost any more"

    run(main(), loop)


@loops
def test_two_that_dial_each_other_find_each_other_however_often_it_breaks(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await _dial_each_other(here)
            ears = Ear(anna), Ear(bert)
            random = Random(7)
            for _ in range(15):
                # Not always settled: at times a connection is broken while another is being opened.
                if random.randrange(2):
                    await _settled(anna, bert)
                else:
                    await connected(anna, bert)
                break_connection(random.choice([anna, bert]))
                await asyncio.sleep(random.choice([0, 0, 0.01]))
            await _settled(anna, bert)
            await send(anna, "bert", Note(number=1))
            await send(bert, "anna", Note(number=2))
            for ear, note in zip(ears, (2, 1), strict=True):
                await until(lambda ear=ear, note=note: ear.notes() == [note], "it arrives")
                turns = [kind for kind in ear.kinds() if kind != "Arrived"]
                assert turns[::2] == ["Connected"] * len(turns[::2])
                assert turns[1::2] == ["Lost"] * len(turns[1::2])

    run(main(), loop)


@both
@loops
def test_a_dial_given_up_at_any_step_leaves_nothing(tmp_path: Path, kind: str, loop: str) -> None:
    """uvloop closes a transport whose making is cancelled without telling its protocol."""

    async def main() -> None:
        async with world(tmp_path) as here:
            tls = kind == "tls"
            bert = await here.link(
                "bert",
                KnownPeer(name="anna"),
                listen=(here.address("bert", kind),),
                tls=here.authority.issue("bert") if tls else None,
            )
            known = KnownPeer(name="bert")
            anna = await here.link("anna", known, tls=here.authority.issue("anna") if tls else None)
            address = parse_address(bert.listening_at[0])
            for steps in range(30):
                attempt = asyncio.ensure_future(anna._dial(known, address))
                for _ in range(steps):
                    await asyncio.sleep(0)
                attempt.cancel()
                await asyncio.wait((attempt,))
                if not attempt.cancelled():
                    anna.take()
                    attempt.result().end("enough", at_once=True)
                await until(lambda: not anna._connections and not anna.peers(), "nothing is left at anna")
                await until(lambda: not bert._connections and not bert.peers(), "nothing is left at bert")

    run(main(), loop)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async def main() -> int:
        async with world(tmp_path) as here:
            await here.pair("unix")
        return open_descriptors()

    first = run(main())
    assert [run(main()) for _ in range(3)] == [first] * 3
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".sock")]


def test_a_socket_that_a_dead_process_left_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            path = tmp_path / "bert.sock"
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
            await here.link("bert", KnownPeer(name="anna"), listen=(f"unix://{path}",))
            assert path.stat().st_mode & 0o777 == 0o600
            with pytest.raises(ConfigurationError, match="Is another process listening there"):
                await here.link("carl", KnownPeer(name="anna"), listen=(f"unix://{path}",))
            assert path.exists()

    run(main())
