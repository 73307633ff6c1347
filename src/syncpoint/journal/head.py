"""The folder's small files: who it is (`journal`), which incarnation is next (`counter`), and where things stand.

    journal              the head, JSON: format version, coordinator GUID, device and inode, when it was made
    counter              the highest incarnation drawn: 8 bytes and their CRC32; forced before it is used
    lock                 held for moments: while opening, and while clearing away what a dead process left
    claims               one locked byte for each claimed transaction
    members/<incarnation>.lock           held by that process for life: whoever obtains it has proof of death
    segments/<incarnation>-<number>.log  its records (format.py)

Not for: segments (members.py, segment.py) or the order in which all this is done (folder.py).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import msgspec

from syncpoint.errors import FormatTooNew, JournalDamaged, JournalRefused
from syncpoint.ids import INCARNATION_MAX, Guid, Incarnation, TransactionId
from syncpoint.journal.format import SegmentName
from syncpoint.ports import Disk

HEAD_FORMAT = 1
OWN_NAMES = ("journal", "counter", "lock", "claims", "members", "segments", "refused")
_COUNTER = struct.Struct("<QI")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where everything of one journal stands."""

    root: str

    @property
    def head(self) -> str:
        return f"{self.root}/journal"

    @property
    def counter(self) -> str:
        return f"{self.root}/counter"

    @property
    def refused(self) -> str:
        """There only once a database has proved that this folder is an older copy (O53): why."""
        return f"{self.root}/refused"

    @property
    def lock(self) -> str:
        return f"{self.root}/lock"

    @property
    def claims(self) -> str:
        return f"{self.root}/claims"

    @property
    def members(self) -> str:
        return f"{self.root}/members"

    @property
    def segments(self) -> str:
        return f"{self.root}/segments"

    def member(self, incarnation: Incarnation) -> str:
        return f"{self.members}/{incarnation:010d}.lock"

    def segment(self, name: SegmentName) -> str:
        return f"{self.segments}/{name}"


def claim_position(transaction: TransactionId) -> int:
    """Which byte of `claims` is locked while this transaction is claimed. (An offset has 63 bits.)"""
    return int.from_bytes(transaction.raw[:8], "big") >> 2


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What the head says."""

    version: int
    coordinator: str
    device: int
    inode: int
    created_ms: int

    @property
    def guid(self) -> Guid:
        return Guid.parse(self.coordinator)


class _Version(msgspec.Struct):
    version: int


def write_head(disk: Disk, paths: Paths, coordinator: Guid, created_ms: int) -> Head:
    """Say who this folder is, with the device and inode it has now."""
    device, inode = disk.identity(paths.root)
    head = Head(version=HEAD_FORMAT, coordinator=str(coordinator), device=device, inode=inode, created_ms=created_ms)
    disk.replace(paths.head, msgspec.json.encode(head))
    return head


def read_head(disk: Disk, paths: Paths) -> Head | None:
    """Read the head; None when the folder has none. Raises JournalDamaged, FormatTooNew."""
    try:
        raw = disk.read(paths.head)
    except FileNotFoundError:
        return None
    try:
        version = msgspec.json.decode(raw, type=_Version).version
        if version > HEAD_FORMAT:
            raise FormatTooNew("journal folder", version, HEAD_FORMAT)
        if version < 1:
            raise ValueError(f"there is no format version {version}")
        head = msgspec.json.decode(raw, type=Head)
        Guid.parse(head.coordinator)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors; too deep is none of them
        raise JournalDamaged(paths.head, 0, f"the head is not readable: {error}") from None
    return head


def check_identity(disk: Disk, paths: Paths, head: Head) -> None:
    """Refuse a copy: its counter may be older than what the databases have seen (O53). Raises JournalRefused."""
    if disk.identity(paths.root) != (head.device, head.inode):
        raise JournalRefused(
            f"The journal at {paths.root} was moved, copied, or restored from a backup: this is not the folder in "
            "which it was made.",
            advice="If the original is gone and nothing was decided there since the copy was made, "
            f"run `syncpoint journal adopt-copy {paths.root}`.",
        )


def write_counter(disk: Disk, paths: Paths, value: int) -> None:
    raw = value.to_bytes(8, "little")
    disk.replace(paths.counter, raw + zlib.crc32(raw).to_bytes(4, "little"))


def read_counter(disk: Disk, paths: Paths) -> Incarnation:
    """The highest incarnation ever drawn. Raises JournalDamaged."""
    try:
        raw = disk.read(paths.counter)
    except FileNotFoundError:
        raise JournalDamaged(paths.counter, 0, "the counter of incarnations is missing") from None
    if len(raw) != _COUNTER.size or zlib.crc32(raw[:8]) != _COUNTER.unpack(raw)[1]:
        raise JournalDamaged(paths.counter, 0, "the counter of incarnations is not readable")
    drawn = _COUNTER.unpack(raw)[0]
    if drawn > INCARNATION_MAX:
        raise JournalDamaged(paths.counter, 0, f"the counter of incarnations says {drawn}, more than can be drawn")
    return Incarnation(drawn)
