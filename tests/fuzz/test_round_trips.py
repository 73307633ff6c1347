"""What is written is read again, for every valid value, and no two values have the same bytes.

Not for: bytes that nobody wrote (test_garbage.py).
"""

from __future__ import annotations

import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from syncpoint.ids import XA_FORMAT_ID, Attempt, Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.integrations.idempotency import KEY_SIZE_CHARS_MAX, Reply, parse_key
from syncpoint.journal import rows
from syncpoint.journal.format import Header, SegmentName, encode_batch, read_batches
from syncpoint.manager.results import decode_result, encode_result
from syncpoint.records import AnyRecord, Commit, decode_record, encode_record
from syncpoint.resources import mariadb_sql, postgres_evidence
from syncpoint.resources.registry import check_name
from syncpoint.resources.sqlite_changeset import State, decode_state, encode_state
from syncpoint.resources.sqlite_note import Note, decode_note, encode_note
from syncpoint.testing import strategies as valid

segment_names = st.builds(SegmentName, valid.incarnations, st.integers(1, 0xFFFF_FFFF))


@given(valid.identifiers)
def test_identifiers_in_every_database(identifier: Identifier) -> None:
    assert Identifier.from_bytes(identifier.to_bytes()) == identifier
    assert postgres_evidence.found((identifier.to_gid(), "app", "5")).identifier == identifier
    gtrid, bqual = identifier.to_xid()
    for literal in (f"X'{gtrid.hex()}',X'{bqual.hex().upper()}',{XA_FORMAT_ID}",):
        assert mariadb_sql.found(literal).identifier == identifier


@given(valid.guids, valid.transaction_ids)
def test_names_as_text(guid: Guid, transaction: TransactionId) -> None:
    assert Guid.parse(str(guid)) == guid == Guid.parse(str(guid).upper())
    assert TransactionId.parse(str(transaction)) == transaction


@given(valid.user_ids, valid.scopes)
def test_user_ids_are_taken(user_id: str, scope: str) -> None:
    assert TransactionId.from_user_id(scope, user_id) == TransactionId.from_user_id(scope, user_id)


@given(valid.resource_names)
def test_resource_names_are_taken(name: str) -> None:
    check_name(name)


@given(valid.records)
def test_records(record: AnyRecord) -> None:
    raw = encode_record(record)
    assert decode_record(raw) == record
    assert rows.records([(raw.hex(),)]) == [record]
    assert rows.commit([(raw.hex().upper(),)]) == record if isinstance(record, Commit) else True


@given(valid.keys)
def test_keys_in_rows(key: Key) -> None:
    row = (str(key.transaction), str(key.attempt.to_int()))
    assert rows.keys([row]) == [key]
    assert rows.transactions([row]) == [key.transaction]
    assert rows.claims([(row[0], str(key.attempt.incarnation))]) == [(key.transaction, key.attempt.incarnation)]


@given(segment_names, valid.guids, st.integers(0, (1 << 64) - 1))
def test_segments_names_and_headers(name: SegmentName, coordinator: Guid, at_ms: int) -> None:
    assert SegmentName.parse(str(name)) == name
    header = Header(coordinator, name, at_ms)
    assert Header.from_bytes(header.to_bytes()) == header


@given(segment_names, st.lists(st.lists(valid.records, max_size=3), max_size=4))
def test_segments(name: SegmentName, written: list[list[AnyRecord]]) -> None:
    data = b""
    for some in written:
        data += encode_batch(name, 64 + len(data), 64 + len(data), some)
    reading = read_batches(name, data, 64, base=64)
    assert [[record for _, record in batch.records] for batch in reading.batches] == written
    assert (reading.bad, reading.damaged, reading.end) == ("", False, 64 + len(data))


@given(valid.results)
def test_results(value: Any) -> None:
    assert decode_result(encode_result(value, transaction="t"), transaction="t") == value


@given(valid.identifiers, valid.guids)
def test_notes(identifier: Identifier, guid: Guid) -> None:
    note = Note(identifier, guid)
    assert decode_note(encode_note(note, standing=True), "x") == note
    assert decode_note(encode_note(note, standing=False), "x") is None


@given(st.binary(max_size=60), st.lists(st.tuples(st.text(max_size=8), st.integers(-(1 << 63), (1 << 63) - 1))))
def test_state_information(changeset: bytes, sequences: list[tuple[str, int]]) -> None:
    state = State(changeset, tuple(sequences))
    assert decode_state(encode_state(state)) == state


_visible = st.text(string.ascii_letters + string.digits + string.punctuation + " ", min_size=1, max_size=30)


@given(_visible | st.just("x" * KEY_SIZE_CHARS_MAX))
def test_idempotency_keys(key: str) -> None:
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_key(f'"{escaped}"'.encode()) == key


@given(
    st.integers(200, 599),
    st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=3),
    st.binary(max_size=20),
)
def test_kept_replies(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    reply = Reply(status=status, headers=tuple(headers), body=body)
    kept = encode_result(reply.to_value(), transaction="t")
    assert Reply.from_value(decode_result(kept, transaction="t")) == reply


@given(valid.attempts, valid.attempts)
def test_attempts_keep_their_order(one: Attempt, other: Attempt) -> None:
    assert Attempt.from_int(one.to_int()) == one
    assert (one < other) == (one.to_int() < other.to_int())
    assert one.incarnation <= Incarnation(0xFFFF_FFFF)
