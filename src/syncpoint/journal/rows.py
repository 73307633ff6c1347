"""What the journal's rows in a database hold, as records, keys and numbers. Not for: asking for them (database.py).

Every function raises JournalUnavailable for a row that Syncpoint did not write, and FormatTooNew for a later one's. It
stops nothing but what needs that row, and is tried again: a person can mend a row while all others go on (O39).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from syncpoint.errors import JournalUnavailable
from syncpoint.ids import INCARNATION_MAX, Attempt, Incarnation, Key, TransactionId
from syncpoint.journal.store import Row
from syncpoint.records import AnyRecord, Commit, KeyedRecord, decode_record

_T = TypeVar("_T")
_DIGITS_MAX = 20  # 64 bits


def records(found: Sequence[Row]) -> list[AnyRecord]:
    """Rows of one column, hexadecimal digits."""
    return [_read(lambda text: decode_record(bytes.fromhex(text)), row[0], "a record") for row in found]


def keyed(found: Sequence[Row]) -> list[KeyedRecord]:
    return [record for record in records(found) if isinstance(record, KeyedRecord)]


def commit(found: Sequence[Row]) -> Commit | None:
    """The Commit record of at most one row."""
    for record in records(found):
        if not isinstance(record, Commit):
            raise _refused("a Commit record", f"it is {type(record).__name__}")
        return record
    return None


def keys(found: Sequence[Row]) -> list[Key]:
    """Rows of a transaction and an attempt."""
    return [Key(_transaction(row[0]), Attempt.from_int(_number(row[1], (1 << 64) - 1))) for row in found]


def transactions(found: Sequence[Row]) -> list[TransactionId]:
    """Rows of a transaction."""
    return [_transaction(row[0]) for row in found]


def claims(found: Sequence[Row]) -> list[tuple[TransactionId, Incarnation]]:
    """Rows of a transaction and who claimed it."""
    return [(_transaction(row[0]), Incarnation(_number(row[1], INCARNATION_MAX))) for row in found]


def incarnations(found: Sequence[Row]) -> list[Incarnation]:
    """Rows of an incarnation, in the first column."""
    return [Incarnation(_number(row[0], INCARNATION_MAX)) for row in found]


def number(found: Sequence[Row]) -> int:
    """The number in at most one row; 0 when there is none."""
    return _number(found[0][0], (1 << 64) - 1) if found else 0


def _transaction(text: str | None) -> TransactionId:
    return _read(TransactionId.parse, text, "a transaction id")


def _number(text: str | None, most: int) -> int:
    value = _read(int, (text or "0")[: _DIGITS_MAX + 1], "a number")
    if not 0 <= value <= most:
        raise _refused("a number", f"{value} is not within its bounds")
    return value


def _read(read: Callable[[str], _T], text: str | None, what: str) -> _T:
    try:
        return read(text or "")
    except ValueError as error:  # BadRecord among them
        raise _refused(what, str(error)) from None


def _refused(what: str, why: str) -> JournalUnavailable:
    return JournalUnavailable(
        f"A table of the journal holds something else than {what} where one must stand: {why}.",
        advice="Nothing was changed. Somebody else has written to the schema syncpoint: see what, and restore it.",
    )
