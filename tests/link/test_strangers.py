"""Garbage and strangers over a Unix socket: each is refused with a clear line, and the good peer is undisturbed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from syncpoint.link.framing import HEAD_SIZE_BYTES, MAGIC, FrameReader, to_frame
from syncpoint.link.peers import KnownPeer
from syncpoint.link.stream import StreamLink
from syncpoint.messages import Hello, Message, Ping, Ready, Refused
from syncpoint.ports import Sent
from tests.link.words import WORDS, Note, guid
from tests.link.world import LOOPS, QUICK, Ear, World, connected, run, send, until, world

EVE = Hello(
    version_min=1, version_max=1, cluster="test", guid=guid("eve").raw, name="eve", role="node", instance=b"eve....."
)
CARL = msgspec.structs.replace(EVE, name="carl")


class Stranger:
    """A bare socket to a link's address."""

    def __init__(self, link: StreamLink) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(link.listening_at[0].removeprefix("unix://"))
        self._socket.setblocking(False)
        self.heard = b""
        self.is_ended = False

    def say(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # ended already: then it is seen by `listen`
            self._socket.send(data)

    def listen(self) -> bytes:
        try:
            while data := self._socket.recv(65536):
                self.heard += data
            self.is_ended = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.is_ended = True
        return self.heard

    def messages(self) -> list[Message]:
        reader = FrameReader(1 << 20)
        reader.feed(self.listen())
        found = []
        while (body := reader.next_body()) is not None:
            found.append(WORDS.decode(body))
        return found

    def ended(self) -> bool:
        self.listen()
        return self.is_ended

    def close(self) -> None:
        self._socket.close()


def _frames(*messages: Message) -> bytes:
    return b"".join(to_frame(WORDS.encode(message)) for message in messages)


def _with_wrong_crc(frame: bytes) -> bytes:
    return frame[:4] + bytes([frame[4] ^ 1]) + frame[5:]


def _in_version(number: int, frame: bytes) -> bytes:
    return to_frame(bytes([number]) + frame[HEAD_SIZE_BYTES + 1 :])


GREETED = MAGIC + _frames(CARL, Ready(version=1))

GARBAGE: dict[str, tuple[bytes, str]] = {
    "http": (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "not begin as a link of Syncpoint's does, but with b'GET / HT'",
    ),
    "zeros": (bytes(8), r"but with b'\x00\x00\x00\x00\x00\x00\x00\x00'"),
    "long frame": (MAGIC + b"\xff" * 8, "a frame of 4294967295 bytes; at most 4096 are allowed here"),
    "wrong crc": (MAGIC + _with_wrong_crc(_frames(CARL)), "the CRC of a frame of"),
    "no message": (MAGIC + to_frame(b"\x01hello"), "Expected `array`"),
    "empty message": (MAGIC + to_frame(b""), "a message has at least one byte"),
    "later format": (MAGIC + _in_version(9, _frames(CARL)), "This message has format version 9"),
    "out of turn": (MAGIC + _frames(Ping(number=1)), "Ping is out of place while accepting"),
    "two hellos": (MAGIC + _frames(CARL, CARL), "Hello is out of place while confirming"),
    "unknown name": (MAGIC + _frames(EVE), "bert knows no 'eve'. Add it to the peers of bert"),
    "our own name": (MAGIC + _frames(msgspec.structs.replace(CARL, name="bert")), "Both ends are named bert"),
    "wrong cluster": (
        MAGIC + _frames(msgspec.structs.replace(CARL, cluster="live")),
        "carl belongs to the cluster 'live', bert to another. Correct the address, or the cluster's name",
    ),
    "wrong role": (MAGIC + _frames(msgspec.structs.replace(CARL, role="client")), "carl says that its role is client"),
    "older version": (
        MAGIC + _frames(msgspec.structs.replace(CARL, version_min=7, version_max=8)),
        "bert speaks versions 1 to 1 of the link, carl 7 to 8. Update Syncpoint where bert runs",
    ),
}


async def _good_pair(here: World, **limits: float) -> tuple[StreamLink, StreamLink, Ear]:
    bert = await here.link(
        "bert",
        KnownPeer(name="anna"),
        KnownPeer(name="carl", role="node"),
        listen=(here.address("bert", "unix"),),
        **limits,
    )
    anna = await here.link("anna", KnownPeer(name="bert", address=bert.listening_at[0]))
    await connected(anna, bert)
    return anna, bert, Ear(bert)


async def _is_undisturbed(anna: StreamLink, bert: StreamLink, ear: Ear) -> None:
    await send(anna, "bert", Note(number=1))
    await until(lambda: ear.notes() == [1], "the good peer is heard")
    assert ear.kinds() == ["Connected", "Arrived"]
    assert [peer.name for peer in bert.peers()] == ["anna"]


@pytest.mark.parametrize("what", GARBAGE)
@pytest.mark.parametrize("loop", LOOPS)
def test_garbage_and_strangers_are_refused(
    tmp_path: Path, what: str, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    said, why = GARBAGE[what]

    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert, ear = await _good_pair(here)
            stranger = Stranger(bert)
            stranger.say(said)
            await until(stranger.ended, "it is refused")
            stranger.close()
            await _is_undisturbed(anna, bert, ear)
            assert bert.figures()["refused"] == 1

    with caplog.at_level(logging.WARNING, "syncpoint.link"):
        run(main(), loop)
    [line] = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert line.startswith(f"A connection from user id {os.geteuid()} over unix://{tmp_path}/bert.sock was refused: ")
    assert why in line


@pytest.mark.parametrize("what", ["unknown name", "wrong cluster", "older version", "wrong crc"])
def test_who_speaks_our_language_is_told_why(tmp_path: Path, what: str) -> None:
    said, why = GARBAGE[what]

    async def main() -> None:
        async with world(tmp_path) as here:
            _, bert, _ = await _good_pair(here)
            stranger = Stranger(bert)
            stranger.say(said)
            await until(stranger.ended, "it is refused")
            [answer] = stranger.messages()
            assert isinstance(answer, Refused)
            assert why in answer.text
            assert stranger.heard.count(b"bert") == answer.text.count("bert"), "it named itself only in the answer"
            stranger.close()

    run(main())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (_with_wrong_crc(_frames(Ping(number=1))), "the CRC of a frame of"),
        (to_frame(WORDS.encode(Ping(number=1))[:-1]), "truncated"),
        (to_frame(WORDS.encode(Ping(number=1)) + b"x"), "trailing"),
        (to_frame(b"\x01\x91\xa4mumm"), "Invalid value 'mumm'"),
        (_frames(Ready(version=1)), "Ready is out of place on an open connection"),
        (_frames(CARL), "Hello is out of place on an open connection"),
        (b"\xff" * 8, "a frame of 4294967295 bytes; at most 16777216 are allowed here"),
    ],
    ids=["crc", "torn message", "trailing", "unknown message", "ready", "hello", "long frame"],
)
def test_who_turns_bad_later_is_lost_and_what_came_before_is_kept(tmp_path: Path, said: bytes, why: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert, ear = await _good_pair(here)
            await until(lambda: ear.kinds() == ["Connected"], "anna is here")
            carl = Stranger(bert)
            carl.say(GREETED + _frames(Note(number=7)) + said)
            await until(lambda: ear.kinds() == ["Connected", "Connected", "Arrived", "Lost"], "carl is gone")
            lost = ear.events[-1]
            assert lost.peer.name == "carl"
            assert why in lost.why  # type: ignore[union-attr]
            await until(carl.ended, "carl is told")
            answer = carl.messages()[-1]
            assert isinstance(answer, Refused)
            assert answer.text == lost.why  # type: ignore[union-attr]
            carl.close()
            await send(anna, "bert", Note(number=1))
            await until(lambda: ear.notes() == [7, 1], "the good peer is heard")

    run(main())


def test_who_says_too_little_too_slowly_is_dropped_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert, ear = await _good_pair(here, handshake_s=0.3)
            loop = asyncio.get_running_loop()
            silent, slow, half = Stranger(bert), Stranger(bert), Stranger(bert)
            half.say(MAGIC + _frames(CARL))  # and never Ready
            begun = loop.time()

            def trickle() -> bool:
                slow.say(GREETED[len(slow.heard) :][:1] or b"x")
                return all([silent.ended(), slow.ended(), half.ended()])

            await until(trickle, "they are dropped")
            assert loop.time() - begun < 3.0
            for stranger in (silent, slow, half):
                stranger.close()
            assert ear.kinds() == ["Connected"], "half a greeting is nobody"
            await _is_undisturbed(anna, bert, ear)

    with caplog.at_level(logging.WARNING, "syncpoint.link"):
        run(main())
    assert any(record.getMessage().endswith("was refused: it took too long") for record in caplog.records)


def test_a_silent_crowd_cannot_keep_a_good_peer_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            bert = await here.link(
                "bert",
                KnownPeer(name="anna"),
                listen=(here.address("bert", "unix"),),
                greetings_max=8,
                handshake_s=60,
            )
            crowd = [Stranger(bert) for _ in range(50)]
            await until(lambda: sum(stranger.ended() for stranger in crowd) == 42, "the oldest are dropped")
            assert not any(stranger.is_ended for stranger in crowd[-8:])
            anna = await here.link("anna", KnownPeer(name="bert", address=bert.listening_at[0]))
            await connected(anna, bert)
            for stranger in crowd:
                stranger.close()

    with caplog.at_level(logging.WARNING, "syncpoint.link"):
        run(main())
    lines = [record.getMessage() for record in caplog.records if "More than 8 connections" in record.getMessage()]
    assert len(lines) == 1, "42 times the same is one line"


def test_a_flood_of_refusals_is_few_log_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert, ear = await _good_pair(here)
            for number in range(100):
                stranger = Stranger(bert)
                stranger.say(f"GET {number} HTTP/1.1\r\n\r\n".encode())
                await until(stranger.ended, "it is refused")
                stranger.close()
            await until(lambda: bert.figures()["refused"] == 100, "all were counted")
            await _is_undisturbed(anna, bert, ear)

    with caplog.at_level(logging.WARNING, "syncpoint.link"):
        run(main())
    assert len([record for record in caplog.records if "was refused" in record.getMessage()]) == 5


def _other_uid(here: World) -> KnownPeer:
    return KnownPeer(name="bert", address=here.address("bert", "unix"), uids=(os.geteuid() + 1,))


def _other_name(here: World) -> KnownPeer:
    return KnownPeer(name="carl", address=here.address("bert", "unix"))


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        (_other_uid, f"bert runs as user id {os.geteuid()}, which may not use this name"),
        (_other_name, "anna dialled carl and reached bert. Correct the address of carl."),
    ],
    ids=["user", "name"],
)
def test_the_dialler_too_looks_whom_it_has_reached(
    tmp_path: Path, peer: Callable[[World], KnownPeer], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            bert = await here.link("bert", KnownPeer(name="anna"), listen=(here.address("bert", "unix"),))
            known = peer(here)
            anna = await here.link("anna", known, **QUICK)
            await until(lambda: anna.figures()["dial_attempts"][known.name] > 2, "it was tried again")
            assert (anna.peers(), bert.peers()) == ([], [])
            assert (anna.take(), bert.take()) == ([], []), "nobody was ever seen as connected"
            assert anna.send(known.name, Note(number=1)) is Sent.AWAY

    with caplog.at_level(logging.WARNING, "syncpoint.link"):
        run(main())
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "does not come about: it was refused: " in line and why in line]) == 1
    assert len([line for line in lines if "refused us: " in line and why in line]) == 1, "and bert knows why as well"


@pytest.mark.parametrize(("theirs", "older"), [((2, 3), "bert"), ((1, 1), "anna")], ids=["newer", "older"])
def test_another_version_is_refused_in_both_directions(
    tmp_path: Path, theirs: tuple[int, int], older: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = (1, 1) if older == "bert" else (2, 3)

    async def main() -> None:
        async with world(tmp_path) as here:
            bert = await here.link(
                "bert",
                KnownPeer(name="anna"),
                listen=(here.address("bert", "unix"),),
                version_min=ours[0],
                version_max=ours[1],
            )
            anna = await here.link(
                "anna",
                KnownPeer(name="bert", address=bert.listening_at[0]),
                version_min=theirs[0],
                version_max=theirs[1],
                **QUICK,
            )
            await until(lambda: anna.figures()["dial_attempts"]["bert"] > 1, "it was tried again")
            assert (anna.peers(), bert.peers()) == ([], [])

    with caplog.at_level(logging.WARNING, "syncpoint.link"):
        run(main())
    lines = [record.getMessage() for record in caplog.records]
    for beginning in ("The link to bert at", "A connection from"):
        [line] = [line for line in lines if line.startswith(beginning)]
        assert f"Update Syncpoint where {older} runs" in line


def test_more_links_than_allowed_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            bert = await here.link("bert", KnownPeer(name="app-*"), listen=(here.address("bert", "unix"),), links_max=2)
            known = KnownPeer(name="bert", address=bert.listening_at[0])
            links = [await here.link(f"app-{number}", known, **QUICK) for number in range(3)]
            await until(lambda: sum(len(link.peers()) for link in links) == 2, "two are connected")
            [out] = [link for link in links if not link.peers()]
            await until(lambda: out.figures()["dial_attempts"]["bert"] > 1, "it was tried again")
            await links[0 if out is not links[0] else 1].close()
            await connected(out)

    run(main())
