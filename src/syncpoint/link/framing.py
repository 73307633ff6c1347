"""The bytes between two ends of a link: a magic word once, then frames. Pure.

    magic   8  "SYNCPT-L"                       first thing in each direction
    frame   4  size of the body, little-endian
            4  CRC32 of those 4 bytes and the body
               body: a message (messages.py)

The CRC covers the size too: TCP's checksum is 16 bits and TLS is not everywhere, and a flipped bit must never be
a message. A size above the bound is refused as soon as it is read, before anything is kept for it.

Not for: what is in a body, or sockets (connection.py).
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

MAGIC: Final = b"SYNCPT-L"
HEAD_SIZE_BYTES: Final = 8
_HEAD = struct.Struct("<II")


class BadFrame(ValueError):
    """These bytes are not a link's: the text says how."""


def to_frame(body: bytes) -> bytes:
    """The frame that carries a body. Its size was checked by the caller."""
    size = len(body).to_bytes(4, "little")
    return size + zlib.crc32(body, zlib.crc32(size)).to_bytes(4, "little") + body


class FrameReader:
    """Cuts what arrives into bodies. Parameter: `size_bytes_max` of a body; it may be changed between two calls.

    After BadFrame the reader is of no more use: nothing tells where the next frame begins.
    """

    def __init__(self, size_bytes_max: int) -> None:
        self.size_bytes_max = size_bytes_max
        self._kept = bytearray()
        self._magic_seen = False

    def __repr__(self) -> str:
        return f"<FrameReader {len(self._kept)} bytes kept>"

    @property
    def magic_seen(self) -> bool:
        return self._magic_seen

    @property
    def kept_size_bytes(self) -> int:
        """Bytes of a frame that has not arrived whole: never more than a frame, and what came with its end."""
        return len(self._kept)

    def feed(self, data: bytes | memoryview) -> None:
        """Take what has arrived."""
        self._kept += data

    def next_body(self) -> bytes | None:
        """The next whole body, or None until more has arrived. Raises BadFrame."""
        if not self._magic_seen and not self._read_magic():
            return None
        kept = self._kept
        if len(kept) < HEAD_SIZE_BYTES:
            return None
        size, crc = _HEAD.unpack_from(kept)
        if size > self.size_bytes_max:
            raise BadFrame(f"a frame of {size} bytes; at most {self.size_bytes_max} are allowed here")
        end = HEAD_SIZE_BYTES + size
        if len(kept) < end:
            return None
        body = bytes(memoryview(kept)[HEAD_SIZE_BYTES:end])
        if zlib.crc32(body, zlib.crc32(size.to_bytes(4, "little"))) != crc:
            raise BadFrame(f"the CRC of a frame of {size} bytes is wrong")
        del kept[:end]  # a bytearray moves its start, so this copies nothing
        return body

    def _read_magic(self) -> bool:
        begun = bytes(self._kept[: len(MAGIC)])
        if not MAGIC.startswith(begun):
            raise BadFrame(f"it does not begin as a link of Syncpoint's does, but with {begun!r}")
        if len(begun) < len(MAGIC):
            return False
        del self._kept[: len(MAGIC)]
        self._magic_seen = True
        return True
