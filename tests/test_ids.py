"""Identifiers: their bytes are fixed for ever, others' bytes are left alone, later versions are refused clearly."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncpoint.errors import ConfigurationError, FormatTooNew, IdTooLong, SyncpointError
from syncpoint.ids import (
    GID_PREFIX,
    ID_SIZE_CHARS_MAX,
    IDENTIFIER_FORMAT,
    IDENTIFIER_SIZE_BYTES,
    XA_FORMAT_ID,
    Attempt,
    BranchNumber,
    Guid,
    Identifier,
    Incarnation,
    Key,
    NotOurs,
    TransactionId,
)
from syncpoint.testing.strategies import attempts, identifiers

KNOWN = Identifier(
    coordinator=Guid(bytes(range(16))),
    transaction=TransactionId(bytes(range(16, 32))),
    attempt=Attempt(Incarnation(7), 9),
    branch=BranchNumber(258),
)
KNOWN_HEX = "01" + "000102030405060708090a0b0c0d0e0f" + "101112131415161718191a1b1c1d1e1f" + "0000000700000009" + "0102"


def test_the_bytes_never_change() -> None:
    """Branches prepared by an older Syncpoint must be found after an upgrade."""
    assert KNOWN.to_bytes().hex() == KNOWN_HEX
    assert KNOWN.to_gid() == "syncpoint_" + KNOWN_HEX
    assert [part.hex() for part in KNOWN.to_xid()] == [KNOWN_HEX[:66], KNOWN_HEX[66:]]
    assert int.from_bytes(b"SPT1", "big") == XA_FORMAT_ID


def test_what_a_person_reads() -> None:
    transaction = "101112131415161718191a1b1c1d1e1f"
    assert (str(KNOWN), str(KNOWN.key)) == (f"{transaction}/7.9#258", f"{transaction}/7.9")
    assert KNOWN.key == Key(KNOWN.transaction, KNOWN.attempt)


@given(identifiers)
def test_round_trips(identifier: Identifier) -> None:
    raw, gid, (gtrid, bqual) = identifier.to_bytes(), identifier.to_gid(), identifier.to_xid()
    assert Identifier.from_bytes(raw) == identifier
    assert Identifier.from_gid(gid) == identifier
    assert Identifier.from_xid(XA_FORMAT_ID, gtrid, bqual) == identifier
    assert Attempt.from_int(identifier.attempt.to_int()) == identifier.attempt
    # What the databases allow (DATABASES PostgreSQL 4; XA: 64 and 64).
    assert (len(raw), len(gid) <= 199, len(gtrid) <= 64, len(bqual) <= 64) == (IDENTIFIER_SIZE_BYTES, True, True, True)


@given(identifiers, identifiers)
def test_different_identifiers_have_different_bytes(one: Identifier, other: Identifier) -> None:
    assert (one == other) == (one.to_bytes() == other.to_bytes()) == (one.to_gid() == other.to_gid())


@given(attempts, attempts)
def test_attempts_keep_their_order_as_numbers(one: Attempt, other: Attempt) -> None:
    assert (one < other) == (one.to_int() < other.to_int())


@given(st.binary(max_size=100))
@example(b"")
@example(b"\0" * IDENTIFIER_SIZE_BYTES)
@example(b"\x01" * (IDENTIFIER_SIZE_BYTES - 1))
@example(b"\x01" * (IDENTIFIER_SIZE_BYTES + 1))
@example(b"\x02")
def test_other_bytes_are_left_alone(raw: bytes) -> None:
    """Only our two answers, whatever stands there (O33)."""
    try:
        identifier = Identifier.from_bytes(raw)
    except (NotOurs, FormatTooNew):
        return
    assert identifier.to_bytes() == raw


@pytest.mark.parametrize("raw", [b"", b"\0", b"\0" * 43, b"\x01", b"\x01" * 42, b"\x01" * 44], ids=len)
def test_not_ours(raw: bytes) -> None:
    with pytest.raises(NotOurs):
        Identifier.from_bytes(raw)


@given(st.integers(IDENTIFIER_FORMAT + 1, 255), st.binary(max_size=60))
def test_a_later_version_is_refused_and_named(version: int, rest: bytes) -> None:
    with pytest.raises(FormatTooNew, match=f"identifier has format version {version}; .* up to version 1") as caught:
        Identifier.from_bytes(bytes((version,)) + rest)
    assert (caught.value.found, caught.value.known) == (version, IDENTIFIER_FORMAT)
    assert "newer Syncpoint" in caught.value.advice
    assert isinstance(caught.value, SyncpointError)


@given(st.text(max_size=120))
@example("")
@example(GID_PREFIX)
@example(GID_PREFIX + "0")
@example(GID_PREFIX + "not hexadecimal")
@example(GID_PREFIX + "01")
@example("pgjdbc_" + KNOWN_HEX)
def test_other_gids_are_left_alone(gid: str) -> None:
    with pytest.raises(NotOurs):
        Identifier.from_gid(gid)


def test_one_branch_has_one_gid() -> None:
    """A text that reads as an identifier but is not what we would write names another branch in the database."""
    for gid in (KNOWN.to_gid().replace("0a0b", "0A0B"), GID_PREFIX + " " + KNOWN_HEX, GID_PREFIX + KNOWN_HEX + "\n"):
        with pytest.raises(NotOurs):
            Identifier.from_gid(gid)


def test_a_later_gid_is_refused() -> None:
    with pytest.raises(FormatTooNew):
        Identifier.from_gid(GID_PREFIX + "02" + KNOWN_HEX[2:])


@given(st.integers(-1, 1 << 31), st.binary(max_size=64), st.binary(max_size=64))
def test_other_xids_are_left_alone(format_id: int, gtrid: bytes, bqual: bytes) -> None:
    if format_id == XA_FORMAT_ID:
        return
    with pytest.raises(NotOurs, match="format id"):
        Identifier.from_xid(format_id, gtrid, bqual)


def test_a_later_xid_is_refused() -> None:
    gtrid, bqual = KNOWN.to_xid()
    with pytest.raises(FormatTooNew):
        Identifier.from_xid(XA_FORMAT_ID, b"\x02" + gtrid[1:], bqual)


def test_one_branch_has_one_xid() -> None:
    """The same bytes cut at another place are another branch to the database."""
    raw = KNOWN.to_bytes()
    for cut in (0, 32, 34, 43):
        with pytest.raises(NotOurs):
            Identifier.from_xid(XA_FORMAT_ID, raw[:cut], raw[cut:])


# --- GUIDs and transaction ids ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Guid, TransactionId])
def test_names_as_text(kind: type[Guid] | type[TransactionId]) -> None:
    name = kind(bytes(range(16)))
    assert str(name) == "000102030405060708090a0b0c0d0e0f"
    assert kind.parse(str(name)) == name
    for text in ("", "00", str(name) + "00", "x" * 32):
        with pytest.raises(ValueError, match="hex"):
            kind.parse(text)
    for size in (0, 15, 17):
        with pytest.raises(AssertionError, match="16 bytes"):
            kind(bytes(size))


def test_the_digest_of_an_id_never_changes() -> None:
    """An id committed by an older Syncpoint must be found after an upgrade (C7)."""
    assert str(TransactionId.from_user_id("shop", "order-4711")) == "4432f5799fc04d36387290643976c18a"


user_texts = st.text(max_size=20)


@given(user_texts, user_texts, user_texts, user_texts)
def test_scope_and_id_do_not_run_together(scope: str, user_id: str, scope_2: str, user_id_2: str) -> None:
    if not user_id or not user_id_2:
        return
    same = TransactionId.from_user_id(scope, user_id) == TransactionId.from_user_id(scope_2, user_id_2)
    assert same == ((scope, user_id) == (scope_2, user_id_2))


def test_scope_and_id_side_by_side() -> None:
    assert TransactionId.from_user_id("a", "bc") != TransactionId.from_user_id("ab", "c")


@pytest.mark.parametrize(
    ("scope", "user_id", "why"),
    [
        ("", "", "may not be empty"),
        ("s", "", "may not be empty"),
        ("s", "x" * (ID_SIZE_CHARS_MAX + 1), "The transaction's id has 256 characters; at most 255"),
        ("s" * (ID_SIZE_CHARS_MAX + 1), "x", "The transaction's scope has 256 characters; at most 255"),
    ],
)
def test_ids_have_bounds(scope: str, user_id: str, why: str) -> None:
    with pytest.raises(IdTooLong, match=why) as caught:
        TransactionId.from_user_id(scope, user_id)
    assert caught.value.advice
    assert isinstance(caught.value, ConfigurationError)


def test_the_longest_id_and_no_scope() -> None:
    TransactionId.from_user_id("s" * ID_SIZE_CHARS_MAX, "\N{SNOWMAN}" * ID_SIZE_CHARS_MAX)
    TransactionId.from_user_id("", "x")
