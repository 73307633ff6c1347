"""The journal's records, frozen, and their bytes.

One record decides: `Commit`. No record means abort (presumed abort). A record's bytes are one byte of
format version, then a MessagePack array whose first element names the kind. Not for: where records
are kept (journal/), or when (protocol/).
"""

from __future__ import annotations

from typing import Any

import msgspec

from syncpoint.errors import FormatTooNew
from syncpoint.ids import INCARNATION_MAX, Attempt, Guid, Identifier, Key, TransactionId

RECORD_FORMAT = 1


class BadRecord(ValueError):
    """These bytes are no record."""


class Record(msgspec.Struct, frozen=True, array_like=True, tag=True, kw_only=True):
    """Base of all records."""


class BranchEntry(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One branch as a Commit record lists it: the RM's GUID, the identifier (A), the state information (B)."""

    resource: str
    guid: bytes
    identifier: bytes
    state: bytes = b""
    incarnation: int = 0  # of the resource-manager process that voted (B7); 0: it is no process

    def read_identifier(self) -> Identifier:
        return Identifier.from_bytes(self.identifier)


class KeyedRecord(Record, frozen=True, array_like=True, kw_only=True):
    """A record filed under (transaction, attempt)."""

    transaction: bytes
    attempt: int

    @property
    def key(self) -> Key:
        return Key(TransactionId(self.transaction), Attempt.from_int(self.attempt))


class Commit(KeyedRecord, frozen=True, array_like=True, kw_only=True, tag="commit"):
    """The decision. It speaks only for the identifiers it lists; any other branch of that transaction is aborted."""

    branches: tuple[BranchEntry, ...]
    at_ms: int  # wall clock when decided: for people and for retention, never for safety (R6)
    scope: str = ""
    user_id: str | None = None
    fingerprint: bytes = b""
    result: bytes | None = None  # MessagePack, stored with the commit (C8)
    term: int = 0
    decided_at: str = ""  # the resource whose branch was committed together with this record, if one was


class Abort(KeyedRecord, frozen=True, array_like=True, kw_only=True, tag="abort"):
    """Exists to win a race: after it, no Commit under the same key is accepted."""

    why: str = ""


class Prepared(KeyedRecord, frozen=True, array_like=True, kw_only=True, tag="prepared"):
    """Forced by a subordinate before it votes: whom to ask, and what it holds (A6, B10)."""

    superior: bytes
    branches: tuple[BranchEntry, ...]
    identifier: bytes = b""  # what the superior calls this branch of its transaction: by it the outcome is asked for

    def read_identifier(self) -> Identifier:
        return Identifier.from_bytes(self.identifier)


class End(KeyedRecord, frozen=True, array_like=True, kw_only=True, tag="end"):
    """Every branch has acknowledged: recovery need not look at this transaction again. Written lazily."""


class Resolved(KeyedRecord, frozen=True, array_like=True, kw_only=True, tag="resolved"):
    """An operator forces one branch; forced before it is done."""

    resource: str
    identifier: bytes
    commit: bool
    reason: str
    who: str
    at_ms: int


class Heuristic(KeyedRecord, frozen=True, array_like=True, kw_only=True, tag="heuristic"):
    """A branch did not end as decided, or it cannot be told. Listed until forgotten."""

    resource: str
    identifier: bytes
    outcome: str  # resources.base.Answer name: HEURISTIC_COMMIT, HEURISTIC_ROLLBACK, HEURISTIC_MIXED, HEURISTIC_HAZARD
    decided: str  # "commit" or "abort"
    detail: str
    at_ms: int


class Forgotten(KeyedRecord, frozen=True, array_like=True, kw_only=True, tag="forgotten"):
    """An operator has acknowledged this transaction's heuristic outcome."""

    who: str
    at_ms: int


class ResourceKnown(Record, frozen=True, array_like=True, kw_only=True, tag="resource"):
    """The GUID of the database that goes by this name."""

    name: str
    guid: bytes


class CoordinatorKnown(Record, frozen=True, array_like=True, kw_only=True, tag="coordinator"):
    """The directory that maps coordinator GUIDs to addresses (A6). `adopted`: this journal answers for it now."""

    guid: bytes
    address: str
    adopted: bool = False
    at_ms: int = 0


class ResourceIncarnation(Record, frozen=True, array_like=True, kw_only=True, tag="resource-incarnation"):
    """Which start of a resource manager counts from now on: forced before it is used, and the highest counts (B7).
    Whoever works under a lower one is fenced."""

    name: str
    guid: bytes
    incarnation: int
    place: str = ""  # where it runs, for people
    at_ms: int = 0


AnyRecord = (
    Commit
    | Abort
    | Prepared
    | End
    | Resolved
    | Heuristic
    | Forgotten
    | ResourceKnown
    | CoordinatorKnown
    | ResourceIncarnation
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyRecord] = msgspec.msgpack.Decoder(AnyRecord)


def encode_record(record: Record) -> bytes:
    """The bytes of a record, format version first."""
    return bytes((RECORD_FORMAT,)) + _encoder.encode(record)


def decode_record(raw: bytes | memoryview) -> AnyRecord:
    """Read a record. Raises BadRecord, or FormatTooNew if a later Syncpoint wrote it."""
    raw = bytes(raw)
    if not raw:
        raise BadRecord("a record has at least one byte")
    if raw[0] > RECORD_FORMAT:
        raise FormatTooNew("journal record", raw[0], RECORD_FORMAT)
    if raw[0] != RECORD_FORMAT:
        raise BadRecord(f"no record has format version {raw[0]}")
    try:
        record = _decoder.decode(raw[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord(str(error)) from None
    _check(record)
    return record


def _check(record: AnyRecord) -> None:
    """Sizes that the type system does not say; a record that passes can be used without fear."""
    if isinstance(record, KeyedRecord):
        _expect(len(record.transaction) == 16, "a transaction id has 16 bytes")
        _expect(0 <= record.attempt < 1 << 64, "an attempt has 64 bits")
    if isinstance(record, Commit | Prepared):
        for entry in record.branches:
            _expect(len(entry.guid) == 16, "a GUID has 16 bytes")
            _expect_identifier(entry.identifier)
    if isinstance(record, Resolved | Heuristic):
        _expect_identifier(record.identifier)
    if isinstance(record, ResourceKnown | CoordinatorKnown | ResourceIncarnation):
        _expect(len(record.guid) == 16, "a GUID has 16 bytes")
    if isinstance(record, ResourceIncarnation):
        _expect(1 <= record.incarnation <= INCARNATION_MAX, "an incarnation has 32 bits, and is not 0")
    if isinstance(record, Prepared):
        _expect(len(record.superior) == 16, "a GUID has 16 bytes")
        _expect_identifier(record.identifier)


def _expect_identifier(raw: bytes) -> None:
    try:
        Identifier.from_bytes(raw)
    except ValueError as error:
        raise BadRecord(str(error)) from None


def _expect(holds: bool, rule: str) -> None:
    if not holds:
        raise BadRecord(rule)


def key_fields(key: Key) -> dict[str, Any]:
    """`transaction` and `attempt` as a keyed record wants them."""
    return {"transaction": key.transaction.raw, "attempt": key.attempt.to_int()}


def guid_of(entry: BranchEntry) -> Guid:
    return Guid(entry.guid)
