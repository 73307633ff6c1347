"""Messages: they survive their bytes, garbage is refused as garbage, later versions as such.

Not for: framing (tests/link/test_framing.py).
"""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncpoint.errors import FormatTooNew
from syncpoint.messages import (
    LINK_VOCABULARY,
    MESSAGE_FORMAT,
    NAME_SIZE_CHARS_MAX,
    TEXT_SIZE_CHARS_MAX,
    BadMessage,
    Hello,
    Message,
    Ping,
    Pong,
    Ready,
    Refused,
    Vocabulary,
    refused,
)

names = st.from_regex(r"\A[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?\Z")
versions = st.integers(1, 255)
numbers = st.integers(0, (1 << 63) - 1)
hellos = st.builds(
    Hello,
    version_min=versions,
    version_max=versions,
    cluster=names,
    guid=st.binary(min_size=16, max_size=16),
    name=names,
    role=names,
    instance=st.binary(min_size=8, max_size=8),
)
messages = st.one_of(
    hellos,
    st.builds(Ready, version=versions),
    st.builds(refused, names, st.text()),
    st.builds(Ping, number=numbers),
    st.builds(Pong, number=numbers),
)
HELLO = Hello(version_min=1, version_max=1, cluster="c", guid=bytes(16), name="a", role="node", instance=bytes(8))


class Note(Message, frozen=True, array_like=True, kw_only=True, tag="note"):
    text: str = ""


class NoteGrown(Message, frozen=True, array_like=True, kw_only=True, tag="note"):
    text: str = ""
    colour: str = "white"


@given(messages)
def test_a_message_survives_its_bytes(message: Message) -> None:
    assert LINK_VOCABULARY.decode(LINK_VOCABULARY.encode(message)) == message


@given(st.binary(max_size=200))
@example(b"")
@example(bytes([MESSAGE_FORMAT]) + b"\xdd\xff\xff\xff\xff")  # an array of four thousand million
@example(bytes([MESSAGE_FORMAT]) + b"\x91" * 5000)  # nested deeper than the stack
@example(bytes([MESSAGE_FORMAT]) + b"\x92\xa4ping\xcf" + b"\xff" * 8)  # 2**64 - 1
@example(bytes([MESSAGE_FORMAT]) + b"\x92\xa4ping\xd3" + b"\xff" * 8)  # -1
def test_garbage_raises_its_own_error_only(raw: bytes) -> None:
    try:
        message = LINK_VOCABULARY.decode(raw)
    except (BadMessage, FormatTooNew):
        return
    assert LINK_VOCABULARY.decode(LINK_VOCABULARY.encode(message)) == message


@given(messages, st.data())
def test_a_damaged_message_raises_its_own_error_only(message: Message, data: st.DataObject) -> None:
    raw = bytearray(LINK_VOCABULARY.encode(message))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    del raw[len(raw) - data.draw(st.integers(0, len(raw))) :]
    with contextlib.suppress(BadMessage, FormatTooNew):
        LINK_VOCABULARY.decode(raw)


def test_a_later_version_is_named_as_such() -> None:
    with pytest.raises(FormatTooNew, match="format version 2; this Syncpoint reads up to version 1"):
        LINK_VOCABULARY.decode(bytes([MESSAGE_FORMAT + 1]) + LINK_VOCABULARY.encode(HELLO)[1:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"guid": bytes(15)},
        {"name": ""},
        {"name": "x" * (NAME_SIZE_CHARS_MAX + 1)},
        {"name": "a\nb"},
        {"name": "a\n"},
        {"cluster": "-"},
        {"instance": b""},
        {"version_min": 0},
        {"version_max": 256},
    ],
    ids=repr,
)
def test_a_hello_out_of_bounds_is_refused(wrong: dict[str, object]) -> None:
    raw = LINK_VOCABULARY.encode(msgspec.structs.replace(HELLO, **wrong))
    with pytest.raises(BadMessage):
        LINK_VOCABULARY.decode(raw)


def test_a_refusal_is_one_line_that_fits() -> None:
    message = refused("broken", "a\nb\x1b[31m" + "é" * 5000)
    assert message.text.startswith("a?b?[31m")
    assert len(message.text) == TEXT_SIZE_CHARS_MAX
    assert LINK_VOCABULARY.decode(LINK_VOCABULARY.encode(message)) == message
    with pytest.raises(BadMessage):
        LINK_VOCABULARY.decode(LINK_VOCABULARY.encode(Refused(reason="broken", text="a\nb")))


def test_a_vocabulary_is_extended_and_the_smaller_one_knows_nothing_of_it() -> None:
    larger = LINK_VOCABULARY.extended(Note)
    assert larger.decode(larger.encode(Note(text="x"))) == Note(text="x")
    assert larger.decode(larger.encode(Ping(number=1))) == Ping(number=1)
    with pytest.raises(BadMessage, match="note"):
        LINK_VOCABULARY.decode(larger.encode(Note()))
    with pytest.raises(AssertionError, match="Note is not in this link's vocabulary"):
        LINK_VOCABULARY.encode(Note())


def test_fields_can_be_added_at_the_end() -> None:
    old, new = LINK_VOCABULARY.extended(Note), LINK_VOCABULARY.extended(NoteGrown)
    assert old.decode(new.encode(NoteGrown(text="x", colour="red"))) == Note(text="x")
    assert new.decode(old.encode(Note(text="x"))) == NoteGrown(text="x", colour="white")


def test_two_messages_of_one_tag_are_our_own_bug() -> None:
    with pytest.raises(AssertionError, match="same tag 'note'"):
        Vocabulary(Note, NoteGrown)
