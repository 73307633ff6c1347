"""Frames: cut anywhere they come out whole; damaged anywhere they raise BadFrame and never give another body."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncpoint.link.framing import HEAD_SIZE_BYTES, MAGIC, BadFrame, FrameReader, to_frame

BODY_BYTES_MAX = 1000
bodies = st.lists(st.binary(max_size=60), max_size=8)


def _read(reader: FrameReader, data: bytes) -> list[bytes]:
    reader.feed(data)
    found = []
    while (body := reader.next_body()) is not None:
        found.append(body)
    return found


@given(bodies, st.data())
def test_frames_survive_being_cut_anywhere(sent: list[bytes], data: st.DataObject) -> None:
    raw = MAGIC + b"".join(map(to_frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    reader = FrameReader(BODY_BYTES_MAX)
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += _read(reader, raw[start:end])
    assert found == sent
    assert reader.kept_size_bytes == 0


@given(bodies.filter(len), st.data())
def test_a_flipped_bit_never_gives_another_body(sent: list[bytes], data: st.DataObject) -> None:
    raw = bytearray(MAGIC + b"".join(map(to_frame, sent)))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    reader = FrameReader(BODY_BYTES_MAX)
    found: list[bytes] = []
    reader.feed(raw)
    with contextlib.suppress(BadFrame):
        while (body := reader.next_body()) is not None:
            found.append(body)
    assert found == sent[: len(found)]
    assert len(found) < len(sent)


@given(st.binary(max_size=200))
@example(b"GET / HTTP/1.1\r\n\r\n")
@example(b"\x16\x03\x01\x02\x00\x01\x00\x01")
def test_garbage_raises_bad_frame_or_waits(raw: bytes) -> None:
    for begun in (b"", MAGIC):
        with contextlib.suppress(BadFrame):
            _read(FrameReader(BODY_BYTES_MAX), begun + raw)


def test_a_wrong_beginning_is_seen_at_the_first_wrong_byte() -> None:
    reader = FrameReader(BODY_BYTES_MAX)
    assert _read(reader, MAGIC[:3]) == []
    with pytest.raises(BadFrame, match="it does not begin as a link of Syncpoint's does, but with b'SYNX'"):
        _read(reader, b"X")
    assert not reader.magic_seen


def test_a_frame_too_long_is_refused_before_it_has_come() -> None:
    reader = FrameReader(BODY_BYTES_MAX)
    assert _read(reader, MAGIC + to_frame(bytes(BODY_BYTES_MAX))) == [bytes(BODY_BYTES_MAX)]
    with pytest.raises(BadFrame, match="a frame of 1001 bytes; at most 1000 are allowed here"):
        _read(reader, to_frame(bytes(BODY_BYTES_MAX + 1))[:HEAD_SIZE_BYTES])


def test_the_bytes_are_as_documented() -> None:
    assert MAGIC == b"SYNCPT-L"
    assert to_frame(b"abc") == bytes.fromhex("03000000 335de166") + b"abc"
