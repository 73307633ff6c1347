"""The bytes of the folder journal's segments: headers, batches, and how damage is told from a torn tail.

A segment is a 64-byte header and batches; everything is little-endian.

    header  offset  size  field                      batch  offset  size  field
                 0     8  "SYNCPT-J"                             0     4  "BTCH"
                 8     2  format version                         4     8  forced_before
                10    16  coordinator GUID                      12     4  number of records
                26     8  incarnation                           16     4  size of the payload
                34     4  number of the segment                 20     4  CRC32
                38     8  created, ms since 1970                24        payload: per record its size (4),
                46     4  CRC32 of the above                              its CRC32 (4), its bytes
                50    14  zeros

`forced_before` is the offset up to which everything had been forced before the batch was written. A batch's CRC
covers its fields, its payload, the segment's name (incarnation, number) and the batch's own offset, so that bytes
inside a record never pass for a batch. Reading stops at the first bad byte `o`. If a later batch states that
something above `o` had been forced, `o` is damage (O41); otherwise it is the torn tail, never acknowledged (O40).
An empty batch only states what is forced; a segment that is not the last of its incarnation ends with one, the seal.

Not for: files, or what records mean (index.py).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from syncpoint.errors import FormatTooNew
from syncpoint.ids import INCARNATION_MAX, Guid, Incarnation
from syncpoint.records import AnyRecord, BadRecord, Record, decode_record, encode_record

SEGMENT_FORMAT = 1
HEADER_SIZE_BYTES = 64
BATCH_HEAD_SIZE_BYTES = 24
RECORD_HEAD_SIZE_BYTES = 8
NUMBER_MAX = 0xFFFF_FFFF  # four bytes of the header

_HEADER_MAGIC = b"SYNCPT-J"
_BATCH_MAGIC = b"BTCH"
_HEADER = struct.Struct("<8sH16sQIQ")
_BATCH = struct.Struct("<4sQII")
_U32 = struct.Struct("<I")
_RECORD = struct.Struct("<II")
_PLACE = struct.Struct("<QIQ")
_NAME = re.compile(r"([0-9]{10})-([0-9]{6,10})\.log")


class BadBytes(ValueError):
    """These bytes are no header or batch."""


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """Which segment: it stands in the file's name and in its header."""

    incarnation: Incarnation
    number: int

    def __str__(self) -> str:
        return f"{self.incarnation:010d}-{self.number:06d}.log"

    @classmethod
    def parse(cls, text: str) -> SegmentName | None:
        """Read `str`; None for any other file name."""
        found = _NAME.fullmatch(text)
        if found is None or int(found[1]) > INCARNATION_MAX or int(found[2]) > NUMBER_MAX:
            return None
        name = cls(Incarnation(int(found[1])), int(found[2]))
        return name if str(name) == text else None


@dataclass(frozen=True, slots=True)
class Header:
    """The first 64 bytes of a segment."""

    coordinator: Guid
    name: SegmentName
    created_ms: int

    def to_bytes(self) -> bytes:
        fields = _HEADER.pack(
            _HEADER_MAGIC,
            SEGMENT_FORMAT,
            self.coordinator.raw,
            self.name.incarnation,
            self.name.number,
            self.created_ms,
        )
        return (fields + _U32.pack(zlib.crc32(fields))).ljust(HEADER_SIZE_BYTES, b"\0")

    @classmethod
    def from_bytes(cls, raw: bytes) -> Header:
        """Read a header. Raises BadBytes, or FormatTooNew if a later Syncpoint wrote it."""
        if len(raw) < HEADER_SIZE_BYTES:
            raise BadBytes("the segment's header is incomplete")
        fields, rest = raw[: _HEADER.size], raw[_HEADER.size : HEADER_SIZE_BYTES]
        magic, version, coordinator, incarnation, number, created_ms = _HEADER.unpack(fields)
        if magic != _HEADER_MAGIC or rest != _U32.pack(zlib.crc32(fields)).ljust(len(rest), b"\0"):
            raise BadBytes("the segment's header is not readable")
        if version > SEGMENT_FORMAT:
            raise FormatTooNew("journal segment", version, SEGMENT_FORMAT)
        return cls(Guid(coordinator), SegmentName(Incarnation(incarnation), number), created_ms)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that were appended and forced together, and where they stand in the segment."""

    start: int
    end: int
    forced_before: int
    records: tuple[tuple[int, AnyRecord], ...]
    """(offset in the segment, record)"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What `read_batches` found."""

    batches: tuple[Batch, ...]
    end: int
    """Offset of the first byte that is no part of a good batch."""
    forced: int
    """The highest offset stated to be forced."""
    bad: str = ""
    """Why reading stopped before the end of the bytes; empty when it did not."""
    damaged: bool = False
    """Whether what cannot be read had been forced."""
    sealed: bool = field(default=False)
    """Whether the last batch states that everything before it is forced, and nothing follows it."""


def encode_batch(name: SegmentName, start: int, forced_before: int, records: Sequence[Record]) -> bytes:
    """A batch to be written at offset `start` of a segment."""
    assert 0 <= forced_before <= start  # only what is written can have been forced
    parts = []
    for record in records:
        raw = encode_record(record)
        parts += [_RECORD.pack(len(raw), zlib.crc32(raw)), raw]
    payload = b"".join(parts)
    fields = _BATCH.pack(_BATCH_MAGIC, forced_before, len(records), len(payload))
    return b"".join((fields, _U32.pack(_batch_crc(name, start, fields, payload)), payload))


def _batch_crc(name: SegmentName, start: int, fields: bytes, payload: bytes | memoryview) -> int:
    place = zlib.crc32(_PLACE.pack(name.incarnation, name.number, start))
    return zlib.crc32(payload, zlib.crc32(fields, place))


def read_batches(name: SegmentName, data: bytes, start: int = HEADER_SIZE_BYTES, *, base: int = 0) -> Reading:
    """Read batches from offset `start` of a segment; `data` are its bytes from offset `base` on.

    Raises FormatTooNew if a later Syncpoint wrote a record in it.
    """
    batches: list[Batch] = []
    offset, forced, end = start, 0, base + len(data)
    bad = ""
    while offset < end:
        try:
            batch = read_batch(name, data, offset, base=base)
        except BadBytes as error:
            bad = str(error)
            break
        batches.append(batch)
        forced = max(forced, batch.forced_before)
        offset = batch.end
    damaged = bool(bad) and forced_above(name, data, offset, base=base)
    sealed = not bad and bool(batches) and not batches[-1].records and batches[-1].forced_before == batches[-1].start
    return Reading(tuple(batches), offset, forced, bad, damaged, sealed)


def forced_above(name: SegmentName, data: bytes, offset: int, *, base: int = 0) -> bool:
    """Whether a good batch behind the bad byte at `offset` states that something above it had been forced."""
    return any(batch.forced_before > offset for batch in batches_behind(name, data, offset, base=base))


def batches_behind(name: SegmentName, data: bytes, offset: int, *, base: int = 0) -> Iterator[Batch]:
    """Good batches that begin behind `offset`, wherever they stand."""
    found = data.find(_BATCH_MAGIC, offset - base + 1)
    while found >= 0:
        try:
            batch = read_batch(name, data, base + found, base=base)
        except BadBytes:
            found = data.find(_BATCH_MAGIC, found + 1)
        else:
            yield batch
            found = data.find(_BATCH_MAGIC, batch.end - base)


def read_batch(name: SegmentName, data: bytes, start: int, *, base: int = 0) -> Batch:
    """The batch at offset `start`. Raises BadBytes."""
    at = start - base
    payload_at = at + BATCH_HEAD_SIZE_BYTES
    if len(data) < payload_at:
        raise BadBytes("the batch is incomplete")
    fields = data[at : at + _BATCH.size]
    magic, forced_before, count, size = _BATCH.unpack(fields)
    if magic != _BATCH_MAGIC:
        raise BadBytes("no batch begins here")
    payload = memoryview(data)[payload_at : payload_at + size]
    if len(payload) < size:
        raise BadBytes("the batch is incomplete")
    if _batch_crc(name, start, fields, payload) != _U32.unpack_from(data, at + _BATCH.size)[0]:
        raise BadBytes("the batch's checksum is wrong")
    records = tuple(_records(payload, count, start + BATCH_HEAD_SIZE_BYTES))
    return Batch(start, start + BATCH_HEAD_SIZE_BYTES + size, forced_before, records)


def _records(payload: memoryview, count: int, start: int) -> Iterator[tuple[int, AnyRecord]]:
    at = 0
    for _ in range(count):
        found = read_record(payload, at)
        if found is None:
            raise BadBytes("a record in the batch is not readable")
        record, end = found
        yield start + at, record
        at = end


def read_record(data: bytes | memoryview, at: int) -> tuple[AnyRecord, int] | None:
    """(the record at position `at`, the position behind it); None when there is no readable record."""
    if len(data) < at + RECORD_HEAD_SIZE_BYTES:
        return None
    size, crc = _RECORD.unpack_from(data, at)
    end = at + RECORD_HEAD_SIZE_BYTES + size
    raw = data[at + RECORD_HEAD_SIZE_BYTES : end]
    if len(raw) < size or zlib.crc32(raw) != crc:
        return None
    try:
        return decode_record(raw), end
    except BadRecord:
        return None
