"""Journal records: they survive their bytes, garbage is refused as garbage, later versions as such.

Not for: framing and checksums (tests/journal/).
"""

from __future__ import annotations

import string

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncpoint.errors import FormatTooNew, SyncpointError
from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.records import (
    RECORD_FORMAT,
    Abort,
    AnyRecord,
    BadRecord,
    BranchEntry,
    Commit,
    CoordinatorKnown,
    End,
    Forgotten,
    Heuristic,
    KeyedRecord,
    Prepared,
    Resolved,
    ResourceIncarnation,
    ResourceKnown,
    decode_record,
    encode_record,
    guid_of,
    key_fields,
)
from syncpoint.testing.strategies import identifiers, keys, records, records_by_kind
from syncpoint.testing.strategies import sixteen_bytes as sixteen

BY_KIND = records_by_kind
halves = st.integers(0, 0xFFFF_FFFF)

KEY = Key(TransactionId(b"T" * 16), Attempt(Incarnation(7), 9))
IDENTIFIER = Identifier(Guid(b"C" * 16), KEY.transaction, KEY.attempt, BranchNumber(1))
ENTRY = BranchEntry(resource="bank", guid=b"G" * 16, identifier=IDENTIFIER.to_bytes(), state=b"s")


def _raw(*fields: object) -> bytes:
    """The bytes of a record with these fields, right or wrong."""
    return bytes((RECORD_FORMAT,)) + msgspec.msgpack.encode(fields)


def test_every_kind_is_tried() -> None:
    assert set(BY_KIND) == set(AnyRecord.__args__)


@given(records)
def test_round_trips(record: AnyRecord) -> None:
    raw = encode_record(record)
    assert raw[0] == RECORD_FORMAT
    assert decode_record(raw) == record
    assert decode_record(memoryview(raw)) == record
    assert type(decode_record(raw)) is type(record)


@given(keys)
def test_the_key_comes_back(key: Key) -> None:
    record = decode_record(encode_record(End(**key_fields(key))))
    assert isinstance(record, End)
    assert record.key == key


def test_a_branch_tells_its_names() -> None:
    assert ENTRY.read_identifier() == IDENTIFIER
    assert guid_of(ENTRY) == Guid(b"G" * 16)


def test_the_bytes_never_change() -> None:
    """A journal written by an older Syncpoint must be read after an upgrade: fields in this order, new ones last."""
    key, identifier = (b"T" * 16, (7 << 32) | 9), IDENTIFIER.to_bytes()
    entry = ("bank", b"G" * 16, identifier, b"s", 0)
    known = {
        ("commit", *key, (entry,), 5, "scope", "id", b"f", b"r", 3, "ledger"): Commit(
            **key_fields(KEY),
            branches=(ENTRY,),
            at_ms=5,
            scope="scope",
            user_id="id",
            fingerprint=b"f",
            result=b"r",
            term=3,
            decided_at="ledger",
        ),
        ("abort", *key, "why"): Abort(**key_fields(KEY), why="why"),
        ("prepared", *key, b"S" * 16, (entry,), entry[2]): Prepared(
            **key_fields(KEY), superior=b"S" * 16, branches=(ENTRY,), identifier=ENTRY.identifier
        ),
        ("end", *key): End(**key_fields(KEY)),
        ("forgotten", *key, "who", 5): Forgotten(**key_fields(KEY), who="who", at_ms=5),
        ("resource", "bank", b"G" * 16): ResourceKnown(name="bank", guid=b"G" * 16),
        ("coordinator", b"C" * 16, "address", True, 5): CoordinatorKnown(
            guid=b"C" * 16, address="address", adopted=True, at_ms=5
        ),
        ("resource-incarnation", "bank", b"G" * 16, 7, "host 9", 5): ResourceIncarnation(
            name="bank", guid=b"G" * 16, incarnation=7, place="host 9", at_ms=5
        ),
        ("resolved", *key, "bank", identifier, True, "reason", "who", 5): Resolved(
            **key_fields(KEY), resource="bank", identifier=identifier, commit=True, reason="reason", who="who", at_ms=5
        ),
        ("heuristic", *key, "bank", identifier, "HEURISTIC_MIXED", "commit", "detail", 5): Heuristic(
            **key_fields(KEY),
            resource="bank",
            identifier=identifier,
            outcome="HEURISTIC_MIXED",
            decided="commit",
            detail="detail",
            at_ms=5,
        ),
    }
    assert {type(record) for record in known.values()} == set(BY_KIND)
    for fields, record in known.items():
        assert encode_record(record) == _raw(*fields)


def test_fields_with_defaults_may_be_missing() -> None:
    """What an older Syncpoint of the same format version left out reads as its default."""
    transaction, attempt = b"T" * 16, 9
    record = decode_record(_raw("commit", transaction, attempt, (["bank", b"G" * 16, IDENTIFIER.to_bytes()],), 5))
    assert isinstance(record, Commit)
    assert (record.user_id, record.result, record.term, record.branches[0].state) == (None, None, 0, b"")
    assert record.decided_at == ""


def test_a_commit_without_the_decider_is_read_and_fields_added_last_are_ignored() -> None:
    """Rolling upgrades: an old record read by new code, and a newer one's added field read by code that lacks it."""
    old = ("commit", b"T" * 16, 9, (), 5, "scope", "id", b"f", b"r", 3)
    record = decode_record(_raw(*old))
    assert isinstance(record, Commit)
    assert (record.term, record.decided_at) == (3, "")
    newer = decode_record(_raw(*old, "ledger", "a field of the future"))
    assert newer == msgspec.structs.replace(record, decided_at="ledger")


# --- later versions --------------------------------------------------------------------------------


@given(st.integers(RECORD_FORMAT + 1, 255), st.binary(max_size=40))
def test_a_later_version_is_refused_and_named(version: int, rest: bytes) -> None:
    with pytest.raises(FormatTooNew, match=f"journal record has format version {version}; .* to version 1") as caught:
        decode_record(bytes((version,)) + rest)
    assert (caught.value.found, caught.value.known) == (version, RECORD_FORMAT)
    assert "newer Syncpoint" in caught.value.advice
    assert isinstance(caught.value, SyncpointError)


def test_a_later_identifier_in_a_record_is_refused() -> None:
    later = b"\x02" + IDENTIFIER.to_bytes()[1:]
    record = Commit(**key_fields(KEY), branches=(msgspec.structs.replace(ENTRY, identifier=later),), at_ms=0)
    with pytest.raises(FormatTooNew, match="identifier has format version 2"):
        decode_record(encode_record(record))


# --- garbage ---------------------------------------------------------------------------------------


def _reads_or_refuses(raw: bytes) -> None:
    """A record that can be used without fear, or one of the two refusals: nothing else."""
    try:
        record = decode_record(raw)
    except (BadRecord, FormatTooNew):
        return
    assert decode_record(encode_record(record)) == record
    if isinstance(record, KeyedRecord):
        assert Attempt.from_int(record.attempt).to_int() == record.key.attempt.to_int() == record.attempt
    if isinstance(record, Commit | Prepared):
        for entry in record.branches:
            assert entry.read_identifier().to_bytes() == entry.identifier
            assert guid_of(entry).raw == entry.guid


@given(st.binary(max_size=60))
def test_random_bytes(raw: bytes) -> None:
    _reads_or_refuses(raw)
    _reads_or_refuses(bytes((RECORD_FORMAT,)) + raw)


kinds = st.sampled_from(
    ["commit", "abort", "prepared", "end", "resolved", "heuristic", "forgotten", "resource", "coordinator", "other"]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=50)
    | sixteen
    | identifiers.map(Identifier.to_bytes)
    | st.text(string.printable, max_size=8),
    lambda inner: st.lists(inner, max_size=5),
)


@given(kinds, st.lists(values, max_size=10))
def test_the_right_kind_with_wrong_fields(kind: str, fields: list[object]) -> None:
    _reads_or_refuses(_raw(kind, *fields))


@given(records, st.data())
def test_cut_records(record: AnyRecord, data: st.DataObject) -> None:
    raw = encode_record(record)
    with pytest.raises(BadRecord):
        decode_record(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(BadRecord):
        decode_record(raw + b"\0")


@given(records, st.data())
def test_changed_bytes(record: AnyRecord, data: st.DataObject) -> None:
    raw = bytearray(encode_record(record))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    _reads_or_refuses(bytes(raw))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(_raw("abort", b"T" * 16, 9, "zz").replace(b"zz", b"\xff\xff"), id="a text that is no text"),
        pytest.param(_raw("end", b"T" * 16, 9).replace(b"end", b"\xff\xff\xff"), id="a kind that is no text"),
        pytest.param(_raw("end", b"T" * 16, 9, 0)[:-1] + b"\x91" * 100_000 + b"\0", id="too deep"),
    ],
)
def test_what_the_decoder_says_in_its_own_way(raw: bytes) -> None:
    with pytest.raises(BadRecord):
        decode_record(raw)


TRANSACTION = b"T" * 16
GOOD_IDENTIFIER = IDENTIFIER.to_bytes()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "at least one byte"),
        (b"\0", "format version 0"),
        (bytes((RECORD_FORMAT,)), "truncated"),
        (_raw("other", TRANSACTION, 9), "other"),
        (_raw("end", b"T" * 15, 9), "a transaction id has 16 bytes"),
        (_raw("end", b"T" * 17, 9), "a transaction id has 16 bytes"),
        (_raw("end", TRANSACTION, -1), "an attempt has 64 bits"),
        (_raw("end", TRANSACTION), "length"),
        (_raw("prepared", TRANSACTION, 9, b"S" * 15, ()), "a GUID has 16 bytes"),
        (_raw("commit", TRANSACTION, 9, (["bank", b"G", GOOD_IDENTIFIER],), 5), "a GUID has 16 bytes"),
        (_raw("commit", TRANSACTION, 9, (["bank", b"G" * 16, b""],), 5), "not an identifier"),
        (_raw("prepared", TRANSACTION, 9, b"S" * 16, (["bank", b"G" * 16, b"\x01"],)), "an identifier has 43 bytes"),
        (_raw("resolved", TRANSACTION, 9, "bank", b"\0", True, "reason", "who", 5), "not an identifier"),
        (_raw("heuristic", TRANSACTION, 9, "bank", b"", "x", "commit", "", 5), "not an identifier"),
        (_raw("resource", "bank", b""), "a GUID has 16 bytes"),
        (_raw("coordinator", b"C" * 17, "address"), "a GUID has 16 bytes"),
        (_raw("resource-incarnation", "bank", b"G" * 15, 7), "a GUID has 16 bytes"),
        (_raw("resource-incarnation", "bank", b"G" * 16, 0), "an incarnation has 32 bits, and is not 0"),
        (_raw("resource-incarnation", "bank", b"G" * 16, 1 << 32), "an incarnation has 32 bits, and is not 0"),
    ],
)
def test_wrong_records_say_what_is_wrong(raw: bytes, why: str) -> None:
    with pytest.raises(BadRecord, match=why):
        decode_record(raw)


@example(Attempt(Incarnation(0xFFFF_FFFF), 0xFFFF_FFFF))
@given(st.builds(Attempt, halves.map(Incarnation), halves))
def test_the_largest_attempt_fits(attempt: Attempt) -> None:
    record = End(transaction=TRANSACTION, attempt=attempt.to_int())
    assert decode_record(encode_record(record)) == record
