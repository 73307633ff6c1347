"""The bytes of segments: what is written is read, and no flipped bit goes unseen."""

from __future__ import annotations

import zlib

import pytest

from syncpoint.errors import FormatTooNew
from syncpoint.ids import Incarnation
from syncpoint.journal.format import (
    HEADER_SIZE_BYTES,
    BadBytes,
    Header,
    SegmentName,
    encode_batch,
    read_batches,
    read_record,
)
from tests.journal.support import COORDINATOR, commit, end, key

NAME = SegmentName(Incarnation(7), 3)
HEADER = Header(COORDINATOR, NAME, 123456)


def segment() -> bytes:
    """Three batches; the last states what was forced before it."""
    data = HEADER.to_bytes()
    forced = len(data)
    for records in ((commit(key(1)), end(key(1))), (commit(key(2)),), ()):
        data += encode_batch(NAME, len(data), forced, records)
        forced = len(data)
    return data


def test_what_is_written_is_read() -> None:
    data = segment()
    assert Header.from_bytes(data) == HEADER
    reading = read_batches(NAME, data)
    assert [[record for _, record in batch.records] for batch in reading.batches] == [
        [commit(key(1)), end(key(1))],
        [commit(key(2))],
        [],
    ]
    assert (reading.bad, reading.damaged, reading.sealed, reading.end) == ("", False, True, len(data))
    assert reading.forced == reading.batches[-1].start
    for batch in reading.batches:
        for offset, record in batch.records:
            assert read_record(data, offset) == (
                record,
                offset + 8 + int.from_bytes(data[offset : offset + 4], "little"),
            )


def test_reading_can_go_on_from_any_batch() -> None:
    data = segment()
    second = read_batches(NAME, data).batches[1]
    reading = read_batches(NAME, data[second.start :], second.start, base=second.start)
    assert reading.batches == read_batches(NAME, data).batches[1:]


def test_o40_a_torn_tail_is_told_from_damage_at_every_length() -> None:
    data = segment()
    batches = read_batches(NAME, data).batches
    for length in range(HEADER_SIZE_BYTES, len(data)):
        reading = read_batches(NAME, data[:length])
        assert not reading.damaged, length
        assert reading.batches == tuple(batch for batch in batches if batch.end <= length)
        zeros = read_batches(NAME, data[:length] + bytes(len(data) - length))
        assert not zeros.damaged, length
        assert zeros.batches == batches[: len(zeros.batches)], length


def test_o41_every_flipped_byte_below_a_stated_offset_is_damage() -> None:
    data = segment()
    stated = read_batches(NAME, data).forced
    for offset in range(HEADER_SIZE_BYTES, len(data)):
        for mask in (0x01, 0x80, 0xFF):
            flipped = bytearray(data)
            flipped[offset] ^= mask
            reading = read_batches(NAME, bytes(flipped))
            assert reading.bad, offset
            assert reading.damaged == (offset < stated), offset


def test_every_flipped_byte_of_a_header_is_seen() -> None:
    for offset in range(HEADER_SIZE_BYTES):
        flipped = bytearray(HEADER.to_bytes())
        flipped[offset] ^= 0x10
        with pytest.raises(BadBytes):
            Header.from_bytes(bytes(flipped))
    with pytest.raises(BadBytes, match="incomplete"):
        Header.from_bytes(HEADER.to_bytes()[:-1])


def test_a_batch_inside_a_record_is_no_batch() -> None:
    """A stored result may hold anything, also the bytes of a journal."""
    inner = encode_batch(NAME, HEADER_SIZE_BYTES, HEADER_SIZE_BYTES, (commit(key(9)),))
    data = HEADER.to_bytes()
    data += encode_batch(NAME, len(data), 64, (commit(key(1), result=inner * 3),))
    torn = data[: HEADER_SIZE_BYTES + 5] + b"\xff" + data[HEADER_SIZE_BYTES + 6 :]
    assert not read_batches(NAME, torn).damaged


def test_later_versions_are_refused() -> None:
    raw = bytearray(HEADER.to_bytes())
    raw[8:10] = (2).to_bytes(2, "little")
    raw[46:50] = zlib.crc32(raw[:46]).to_bytes(4, "little")
    with pytest.raises(FormatTooNew):
        Header.from_bytes(bytes(raw))


def test_a_batch_that_counts_wrong_is_bad() -> None:
    """Our own checksums would have to lie; reading says so all the same."""
    short = encode_batch(NAME, 64, 64, ())
    fields = bytearray(short[:20])
    fields[12:16] = (1).to_bytes(4, "little")
    place = zlib.crc32((7).to_bytes(8, "little") + (3).to_bytes(4, "little") + (64).to_bytes(8, "little"))
    data = HEADER.to_bytes() + bytes(fields) + zlib.crc32(fields, place).to_bytes(4, "little")
    assert read_batches(NAME, data).bad == "a record in the batch is not readable"


def test_what_is_no_record() -> None:
    raw = b"\x01\xff"
    data = len(raw).to_bytes(4, "little") + zlib.crc32(raw).to_bytes(4, "little") + raw
    assert read_record(data, 0) is None
    assert read_record(data[:-1], 0) is None
    assert read_record(data, 5) is None


@pytest.mark.parametrize("text", ["x", "1-1.log", "0000000007-000003.tmp", "0000000007.log", "0000000007-00x003.log"])
def test_other_file_names_are_no_segments(text: str) -> None:
    assert SegmentName.parse(text) is None
    assert SegmentName.parse(str(NAME)) == NAME
