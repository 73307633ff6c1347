"""What the journal's rows in a database hold, as records, keys and numbers. Not for: asking for them (database.py)."""

from __future__ import annotations

from collections.abc import Sequence

from syncpoint.ids import Attempt, Incarnation, Key, TransactionId
from syncpoint.journal.store import Row
from syncpoint.records import AnyRecord, Commit, KeyedRecord, decode_record


def records(found: Sequence[Row]) -> list[AnyRecord]:
    """Rows of one column, hexadecimal digits. Raises BadRecord, FormatTooNew."""
    return [decode_record(bytes.fromhex(row[0] or "")) for row in found]


def keyed(found: Sequence[Row]) -> list[KeyedRecord]:
    return [record for record in records(found) if isinstance(record, KeyedRecord)]


def commit(found: Sequence[Row]) -> Commit | None:
    """The Commit record of at most one row."""
    for record in records(found):
        assert isinstance(record, Commit), f"not a Commit: {record!r}"
        return record
    return None


def keys(found: Sequence[Row]) -> list[Key]:
    """Rows of a transaction and an attempt."""
    return [Key(TransactionId(bytes.fromhex(row[0] or "")), Attempt.from_int(int(row[1] or 0))) for row in found]


def transactions(found: Sequence[Row]) -> list[TransactionId]:
    """Rows of a transaction."""
    return [TransactionId(bytes.fromhex(row[0] or "")) for row in found]


def claims(found: Sequence[Row]) -> list[tuple[TransactionId, Incarnation]]:
    """Rows of a transaction and who claimed it."""
    return list(zip(transactions(found), (Incarnation(int(row[1] or 0)) for row in found), strict=True))


def incarnations(found: Sequence[Row]) -> list[Incarnation]:
    """Rows of an incarnation, in the first column."""
    return [Incarnation(int(row[0] or 0)) for row in found]


def number(found: Sequence[Row]) -> int:
    """The number in at most one row; 0 when there is none."""
    return int(found[0][0] or 0) if found else 0
