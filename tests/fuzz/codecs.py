"""Decoders of bytes: identifiers, records, segments, results, SQLite's state and notes, rows, kept replies.

Each asserts a round trip for what it accepts. Not for: text (texts.py) or whole folders (files.py).
"""

from __future__ import annotations

import tempfile

import apsw
import msgspec

from syncpoint.errors import FormatTooNew, JournalUnavailable, ResultUnreadable
from syncpoint.ids import XA_FORMAT_ID, Attempt, BranchNumber, Guid, Identifier, Incarnation, NotOurs, TransactionId
from syncpoint.integrations.idempotency import BadReply, MalformedKey, Reply, parse_key, read_key
from syncpoint.journal import rows
from syncpoint.journal.format import (
    BadBytes,
    Header,
    SegmentName,
    batches_behind,
    encode_batch,
    read_batches,
    read_record,
)
from syncpoint.manager.results import decode_result, encode_result
from syncpoint.messages import LINK_VOCABULARY, BadMessage, Hello, Ping, Ready, refused
from syncpoint.records import BadRecord, KeyedRecord, decode_record, encode_record
from syncpoint.resources.sqlite_changeset import BadState, State, apply_state, decode_state, encode_state
from syncpoint.resources.sqlite_connection import GuardedConnection
from syncpoint.resources.sqlite_note import Note, NoteRefused, decode_note, encode_note
from tests.fuzz.decoder import Decoder
from tests.journal.support import abort, commit, end, forgotten, heuristic, key, known, prepared, resolved

IDENTIFIER = Identifier(Guid(b"C" * 16), TransactionId(b"T" * 16), Attempt(Incarnation(7), 9), BranchNumber(1))
RECORDS = (
    commit(key(1), user_id="order", result=b"\x01"),
    abort(key(1)),
    prepared(key(1)),
    end(key(1)),
    heuristic(key(1)),
    resolved(key(1)),
    forgotten(key(1)),
    known(),
)
SEGMENT = SegmentName(Incarnation(7), 3)

# --- identifiers and records -------------------------------------------------------------------------------------


def identifier(raw: bytes) -> None:
    assert Identifier.from_bytes(raw).to_bytes() == raw


def xid(raw: bytes) -> None:
    """The first byte says whose format it is, the second where gtrid ends."""
    head, rest = raw[:2].ljust(2, b"\0"), raw[2:]
    format_id = XA_FORMAT_ID if head[0] & 1 else head[0]
    gtrid, bqual = rest[: head[1] % 65], rest[head[1] % 65 :]
    assert Identifier.from_xid(format_id, gtrid, bqual).to_xid() == (gtrid, bqual)


def record(raw: bytes) -> None:
    found = decode_record(raw)
    assert decode_record(encode_record(found)) == found
    if isinstance(found, KeyedRecord):
        assert found.key.attempt.to_int() == found.attempt


def message(raw: bytes) -> None:
    found = LINK_VOCABULARY.decode(raw)
    assert LINK_VOCABULARY.decode(LINK_VOCABULARY.encode(found)) == found


_MESSAGES = (
    Hello(version_min=1, version_max=1, cluster="shop", guid=b"G" * 16, name="a", role="node", instance=b"i" * 8),
    Ready(version=1),
    refused("stranger", "no such name"),
    Ping(number=7),
)


def result(raw: bytes) -> None:
    value = decode_result(raw, transaction="t")
    if not _holds_extension(value):  # of which a transaction's result has none
        again = encode_result(value, transaction="t")
        assert encode_result(decode_result(again, transaction="t"), transaction="t") == again


def _holds_extension(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_extension(one) for one in value)
    if isinstance(value, dict):
        return any(_holds_extension(one) for pair in value.items() for one in pair)
    return not isinstance(value, None | bool | int | float | str | bytes)


# --- the journal's bytes -----------------------------------------------------------------------------------------


def header(raw: bytes) -> None:
    assert Header.from_bytes(raw).to_bytes() == raw[:64]


def batches(raw: bytes) -> None:
    """Bytes behind a segment's header. What is read is written again to the same bytes."""
    reading = read_batches(SEGMENT, raw, 64, base=64)
    assert 64 <= reading.end <= 64 + len(raw)
    assert bool(reading.bad) == (reading.end < 64 + len(raw))
    assert not (reading.sealed and reading.bad)
    for batch in reading.batches:
        for offset, one in batch.records:
            assert read_record(raw, offset - 64) is not None
            assert decode_record(encode_record(one)) == one
    list(batches_behind(SEGMENT, raw, 64, base=64))


def _segment() -> bytes:
    data = b""
    for some in (RECORDS[:2], RECORDS[2:], ()):
        data += encode_batch(SEGMENT, 64 + len(data), 64 + len(data), some)
    return data


def rows_of_records(raw: bytes) -> None:
    """What stands in the column of records, as its hexadecimal digits."""
    found = ((raw.hex(),),)
    assert rows.keyed(found) == [one for one in rows.records(found) if isinstance(one, KeyedRecord)]
    assert rows.commit(found) == decode_record(raw)


def rows_of_names(raw: bytes) -> None:
    """Columns of a transaction and an attempt, as a database prints them; anything may stand there."""
    first, _, second = raw.decode("utf-8", "replace").partition("\n")
    found = ((first or None, second or None),)
    for read in (rows.records, rows.keys, rows.transactions, rows.claims, rows.incarnations, rows.number):
        try:
            read(found)  # type: ignore[operator]
        except (JournalUnavailable, FormatTooNew):
            continue


# --- SQLite ------------------------------------------------------------------------------------------------------


def note(raw: bytes) -> None:
    found = decode_note(raw, "audit.db-syncpoint")
    if found is not None:
        assert decode_note(encode_note(found, standing=True), "x") == found


def state(raw: bytes) -> None:
    found = decode_state(raw)
    assert decode_state(encode_state(found)) == found


def changeset(raw: bytes) -> None:
    """A changeset that is none: applied as a redo, it says why not, and changes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        connection = GuardedConnection(f"{folder}/a.db", apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        try:
            _redo(connection, raw)
        finally:
            connection.really_close()


def _redo(connection: GuardedConnection, raw: bytes) -> None:
    connection.run("PRAGMA synchronous = OFF")  # nobody reads it again
    connection.control("BEGIN IMMEDIATE")
    connection.run(_SCHEMA)
    before = connection.run("SELECT * FROM account ORDER BY id")
    if apply_state(connection, State(raw)):
        assert connection.run("SELECT * FROM account ORDER BY id") == before


_SCHEMA = (
    "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER); INSERT INTO account VALUES (1, 100), (2, 100)"
)


def _changeset() -> bytes:
    connection = apsw.Connection(":memory:")
    connection.execute(_SCHEMA)
    session = apsw.Session(connection, "main")
    session.attach()
    connection.execute("UPDATE account SET balance = 90 WHERE id = 1")
    connection.execute("DELETE FROM account WHERE id = 2")
    connection.execute("INSERT INTO account VALUES (3, 10)")
    return session.changeset()


# --- HTTP --------------------------------------------------------------------------------------------------------


def idempotency_key(raw: bytes) -> None:
    found = parse_key(raw)
    assert 0 < len(found) <= 255
    assert found.isascii()
    assert found.isprintable()
    quoted = '"' + found.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert parse_key(quoted.encode()) == found == read_key([(b"Idempotency-Key", raw)])


def kept_reply(raw: bytes) -> None:
    """As it stands in the Commit record."""
    reply = Reply.from_value(decode_result(raw, transaction="t"))
    again = encode_result(reply.to_value(), transaction="t")
    assert Reply.from_value(decode_result(again, transaction="t")) == reply


_REPLY = Reply(status=200, headers=((b"content-type", b"text/plain"),), body=b"ok")

CODECS = (
    Decoder("identifier", identifier, (NotOurs, FormatTooNew), (IDENTIFIER.to_bytes(), b"\x02")),
    Decoder("xid", xid, (NotOurs, FormatTooNew), (bytes((1, 33)) + IDENTIFIER.to_bytes(),)),
    Decoder("record", record, (BadRecord, FormatTooNew), [encode_record(one) for one in RECORDS]),
    Decoder("message", message, (BadMessage, FormatTooNew), [LINK_VOCABULARY.encode(one) for one in _MESSAGES]),
    Decoder("result", result, (ResultUnreadable,), [msgspec.msgpack.encode(v) for v in (None, {"a": [1, 2.5, b"x"]})]),
    Decoder("segment-header", header, (BadBytes, FormatTooNew), (Header(Guid(b"C" * 16), SEGMENT, 5).to_bytes(),)),
    Decoder("segment", batches, (FormatTooNew,), (_segment(), b"")),
    Decoder(
        "database-records", rows_of_records, (JournalUnavailable, FormatTooNew), [encode_record(one) for one in RECORDS]
    ),
    Decoder("database-names", rows_of_names, (), (b"54" * 16 + b"\n30064771081", b"7", b"\n")),
    Decoder(
        "sqlite-note",
        note,
        (NoteRefused, FormatTooNew),
        [encode_note(Note(IDENTIFIER, Guid(b"G" * 16)), standing=standing) for standing in (True, False)],
    ),
    Decoder("sqlite-state", state, (BadState, FormatTooNew), (encode_state(State(_changeset(), (("t", 5),))),)),
    Decoder("sqlite-changeset", changeset, (), (_changeset(), b"")),
    Decoder("idempotency-key", idempotency_key, (MalformedKey,), (b'"8e03978e-40d5"', b"8e03978e", b'"a\\"b";x=1;y')),
    Decoder(
        "kept-reply",
        kept_reply,
        (BadReply, FormatTooNew, ResultUnreadable),
        (msgspec.msgpack.encode(_REPLY.to_value()),),
    ),
)
