"""What fuzzing has found and is mended: each of these got an error that was not ours, or a wrong answer.

Not for: the search itself (test_garbage.py).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import apsw
import msgspec
import pytest

from syncpoint.config import load
from syncpoint.errors import (
    ConfigurationError,
    JournalDamaged,
    JournalRefused,
    JournalUnavailable,
    ResultNotStorable,
    ResultUnreadable,
)
from syncpoint.ids import Guid, Incarnation, TransactionId
from syncpoint.integrations.idempotency import is_larger
from syncpoint.journal import rows
from syncpoint.journal.format import SegmentName
from syncpoint.journal.head import read_counter, read_head
from syncpoint.journal.inspect import salvage, verify
from syncpoint.journal.members import list_locks
from syncpoint.manager.results import decode_result, encode_result
from syncpoint.records import encode_record
from syncpoint.resources.registry import make_resource
from syncpoint.resources.sqlite_changeset import BadState, State, apply_state, decode_state
from syncpoint.resources.sqlite_connection import GuardedConnection
from tests.fuzz.files import PATHS, left_by_a_dead_process, put
from tests.journal.support import FOLDER, ManualClock, Process, SeededRandom, abort, commit, key

DEEP = 5000
"""Nesting that no decoder follows."""

# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Guid, TransactionId])
@pytest.mark.parametrize("text", ["0f " * 16, " " + "0f" * 16, "0f" * 15 + "0 f", "0f" * 15 + " f"])
def test_an_id_with_blanks_is_no_hexadecimal_id(kind: type[Guid] | type[TransactionId], text: str) -> None:
    """A user's own id may look so; it was taken for another transaction's."""
    with pytest.raises(ValueError, match=r"32 hexadecimal digits|non-hexadecimal"):
        kind.parse(text)
    assert kind.parse("0F" * 16) == kind.parse("0f" * 16)


# --- the journal's folder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["4294967296-000001.log", "99999999999-000001.log", "0000000001-4294967296.log", "٠٠٠٠٠٠٠٠٠١-000001.log"]
)
def test_a_file_that_names_a_segment_nobody_can_write_is_a_strangers(name: str) -> None:
    assert SegmentName.parse(name) is None
    disk = left_by_a_dead_process()
    put(disk, f"{PATHS.segments}/{name}", b"BTCH" + bytes(60))
    assert verify(FOLDER, disk).ok
    assert [line for line in salvage(FOLDER, disk) if name in line.file] == []
    Process(disk.process()).open()


def test_the_last_segment_that_can_be_written_is_ours() -> None:
    name = SegmentName(Incarnation(0xFFFF_FFFF), 0xFFFF_FFFF)
    assert SegmentName.parse(str(name)) == name


@pytest.mark.parametrize("stem", ["4294967296", "7", "00000000007", "٠٠٠٠٠٠٠٠٠٧", "9" * 30])
def test_a_lock_file_that_nobody_can_hold_is_a_strangers(stem: str) -> None:
    disk = left_by_a_dead_process()
    put(disk, f"{PATHS.members}/{stem}.lock", b"")
    assert list_locks(disk, PATHS) == [1]


@pytest.mark.parametrize(
    "head", [b'{"version":1,"x":' + b"[" * DEEP + b"]" * DEEP + b"}", b'{"version":0}', b'{"version":-1}', b"\xff"]
)
def test_a_head_that_is_none_is_damage(head: bytes) -> None:
    disk = left_by_a_dead_process()
    put(disk, PATHS.head, head)
    with pytest.raises(JournalDamaged, match="the head is not readable"):
        read_head(disk, PATHS)
    assert [damage.file for damage in verify(FOLDER, disk).damages] == [PATHS.head]


def test_a_counter_beyond_what_an_identifier_holds_is_damage() -> None:
    disk = left_by_a_dead_process()
    for drawn, is_good in ((0xFFFF_FFFF, True), (1 << 32, False), ((1 << 64) - 1, False)):
        raw = drawn.to_bytes(8, "little")
        put(disk, PATHS.counter, raw + zlib.crc32(raw).to_bytes(4, "little"))
        if is_good:
            assert read_counter(disk, PATHS) == drawn
        else:
            with pytest.raises(JournalDamaged, match=f"says {drawn}, more than can be drawn"):
                read_counter(disk, PATHS)


def test_a_reason_for_refusal_that_is_no_text_still_refuses() -> None:
    disk = left_by_a_dead_process()
    put(disk, PATHS.refused, b"\xff\xfe older")
    with pytest.raises(JournalRefused, match=r"was refused before and stays so: .* older"):
        Process(disk.process()).open()


# --- the journal in a database -----------------------------------------------------------------------------------

RECORD = encode_record(commit(key(1))).hex()


@pytest.mark.parametrize("text", [None, "", "zz", "00", "01ff", RECORD[:-2]])
def test_a_row_that_holds_no_record_is_refused_in_our_words(text: str | None) -> None:
    with pytest.raises(JournalUnavailable, match=r"something else than a record .* restore it") as caught:
        rows.records([(text,)])
    assert caught.value.advice


def test_a_row_that_holds_another_record_than_a_commit_is_refused() -> None:
    assert rows.commit([(RECORD,)]) == commit(key(1))
    with pytest.raises(JournalUnavailable, match=r"a Commit record .*: it is Abort"):
        rows.commit([(encode_record(abort(key(1))).hex(),)])


@pytest.mark.parametrize("row", [("54" * 15, "1"), ("xx" * 16, "1"), ("54" * 16, "-1"), ("54" * 16, "x"), (None, "1")])
def test_a_row_without_a_key_is_refused(row: tuple[str | None, str | None]) -> None:
    with pytest.raises(JournalUnavailable):
        rows.keys([row])
    with pytest.raises(JournalUnavailable):
        rows.claims([row])


@pytest.mark.parametrize("text", ["x", "-1", "1e3", "4294967296", "9" * 5000])
def test_a_row_without_an_incarnation_is_refused(text: str) -> None:
    with pytest.raises(JournalUnavailable):
        rows.incarnations([(text,)])
    assert rows.incarnations([("7",), ("4294967295",)]) == [7, 0xFFFF_FFFF]


def test_a_number_is_read_and_missing_ones_are_zero() -> None:
    assert [rows.number(found) for found in ([], [(None,)], [("12",)], [(str((1 << 64) - 1),)])] == [
        0,
        0,
        12,
        (1 << 64) - 1,
    ]
    with pytest.raises(JournalUnavailable, match="is not within its bounds"):
        rows.number([(str(1 << 64),)])


# --- stored results ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    a: int


@pytest.mark.parametrize("value", [{Pair(1): 2}, msgspec.Raw(b"\xc1")])
def test_a_value_that_can_be_written_but_not_read_back_is_no_result(value: object) -> None:
    """It was stored with the commit, and every resend failed."""
    with pytest.raises(ResultNotStorable, match="The result of transaction 'order' cannot be stored"):
        encode_result(value, transaction="order")


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\xa1\xff", b"\x81\x80\x01", b"\x91" * DEEP + b"\x01"])
def test_a_result_that_cannot_be_read_says_that_it_is_committed(raw: bytes) -> None:
    with pytest.raises(ResultUnreadable, match=r"'order' is committed, but .* Do not run it again") as caught:
        decode_result(raw, transaction="order")
    assert caught.value.transaction == "order"


# --- SQLite ------------------------------------------------------------------------------------------------------


def _state(*fields: object) -> bytes:
    return b"\x01" + msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(_state(b"", [["zz", 1]]).replace(b"zz", b"\xff\xff"), id="a table's name that is no text"),
        pytest.param(_state(b"", [], 0)[:-1] + b"\x91" * DEEP + b"\x01", id="too deep"),
        pytest.param(_state(b"", [["t", 1 << 63]]), id="a sequence of more than 63 bits"),
        pytest.param(_state(b"", [["t", -(1 << 63) - 0]]).replace(b"\xd3\x80", b"\xcf\x80"), id="unsigned"),
    ],
)
def test_state_information_that_is_none(raw: bytes) -> None:
    with pytest.raises(BadState):
        decode_state(raw)


@pytest.mark.parametrize("changeset", [b"\0", b"T", b"T\x01\x01\xff\0\x12\0\x05", b"T\x01\x01t\0\x12\0\x03\x09"])
def test_a_changeset_that_is_none_says_so_and_does_not_blame_the_file(tmp_path: Path, changeset: bytes) -> None:
    """SQLite's own text is "database disk image is malformed": of the file, one would think."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = GuardedConnection(str(tmp_path / "a.db"), flags)
    connection.control("BEGIN IMMEDIATE")
    connection.run("CREATE TABLE t (k TEXT NOT NULL PRIMARY KEY)")
    assert apply_state(connection, State(changeset)).startswith("its changeset cannot be read")
    connection.really_close()


# --- configuration and URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = " + "[" * DEEP + "]" * DEEP, "nested too deep"),
        ("[syncpoint]\ntimeout_s = " + "9" * 5000, "too many digits"),
        ("[syncpoint]\ntimeout_s = 0x" + "f" * 5000, "number of seconds"),
        ("[syncpoint]\ntimeout_s = 1" + "0" * 400, "number of seconds"),
        ("[syncpoint]\ntimeout_s = 1e300", "number of seconds"),
        ("[resources.bank]\nurl = 'sqlite:///a'\npool_size_max = 0x" + "f" * 5000, "at most 64 bits"),
        ("[resources.bank]\nurl = 'sqlite:///a'\npool_size_max = '" + "9" * 5000 + "'", "a whole number above 0"),
    ],
)
def test_a_configuration_that_python_cannot_hold_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "syncpoint.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=why):
        load(str(file), {})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://\udc80@localhost/bank",
        "mariadb://localhost/bank\0",
        "mariadb://localhost/bank%00",
        "sqlite:///a\udcff.db",
        "sqlite:///a%00.db",
        "sqlite://[",
        "postgresql://%ba",
    ],
)
def test_a_url_that_no_driver_takes_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="bank"):
        make_resource("bank", url, mode="sync", clock=ManualClock(), random=SeededRandom())


@pytest.mark.parametrize("option", ["\udc80", "\0"])
def test_an_option_that_no_driver_takes_is_refused_at_once(option: str) -> None:
    table = {"url": "mariadb://localhost/bank", "charset": option}
    with pytest.raises(ConfigurationError, match="holds a NUL, or bytes that are no UTF-8 text") as caught:
        make_resource("bank", table, mode="sync", clock=ManualClock(), random=SeededRandom())
    assert option not in str(caught.value)


# --- HTTP --------------------------------------------------------------------------------------------------------


def test_a_content_length_of_thousands_of_digits_is_large() -> None:
    assert is_larger(b"9" * 5000, 100)
    assert [is_larger(text, 100) for text in (b"100", b"101", b"0" * 5000 + b"7", b"99", b"1000")] == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert not any(is_larger(text, 100) for text in (b"", b"x", b"-1", b"1e9", b"\xb2"))
