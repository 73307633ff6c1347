"""What Syncpoint's processes say to each other, frozen, and its bytes.

Here stand the words that a link needs for itself: Hello, Ready, Refused, Ping, Pong. Later parts make their own
subclasses of `Message` and add them with `Vocabulary.extended`; a link is given the vocabulary that it carries. A
message's bytes are one byte of format version, then a MessagePack array whose first element names the kind; an element
too many is ignored, a missing one takes its default, so that fields can be added at the end.

    WORDS = LINK_VOCABULARY.extended(Prepare, Vote)
    WORDS.decode(WORDS.encode(Prepare(…)))

Not for: framing and connections (link/), or what is kept in a journal (records.py).
"""

from __future__ import annotations

import functools
import operator
from typing import Annotated, Any, Final

import msgspec

from syncpoint.errors import FormatTooNew

MESSAGE_FORMAT: Final = 1
NAME_SIZE_CHARS_MAX: Final = 64
NAME_PATTERN: Final = r"\A[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z"
TEXT_SIZE_CHARS_MAX: Final = 1000
TEXT_PATTERN: Final = r"\A[^\x00-\x1f\x7f]*\Z"  # one line, and nothing that a terminal obeys: it goes into logs

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, min_length=1, max_length=NAME_SIZE_CHARS_MAX)]
"""Of a process, a role or a cluster: letters, digits, and `.`, `_`, `-` between them."""
GuidBytes = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Version = Annotated[int, msgspec.Meta(ge=1, le=255)]
Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class BadMessage(ValueError):
    """These bytes are no message."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, kw_only=True):
    """Base of all messages. A subclass repeats `frozen=True, array_like=True, kw_only=True` and names its `tag`."""


class Hello(Message, frozen=True, array_like=True, kw_only=True, tag="hello"):
    """The first message in each direction: who is there, and which versions of the link's rules it speaks.

    Always written in format version 1, so that every later version can at least refuse it in plain words.
    """

    version_min: Version
    version_max: Version
    cluster: Name
    guid: GuidBytes
    name: Name
    role: Name
    instance: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    """Random, drawn at each start: tells a restarted process from a second connection of the same one."""


class Ready(Message, frozen=True, array_like=True, kw_only=True, tag="ready"):
    """The dialler accepts the Hello it got: the connection is open, in this version."""

    version: Version


class Refused(Message, frozen=True, array_like=True, kw_only=True, tag="refused"):
    """No, or no longer; the connection ends. `reason` is one of `link.handshake.Reason`, `text` is for people."""

    reason: Name
    text: Annotated[str, msgspec.Meta(max_length=TEXT_SIZE_CHARS_MAX, pattern=TEXT_PATTERN)]


_CONTROLS = dict.fromkeys((*range(32), 127), "?")


def refused(reason: str, text: str) -> Refused:
    """A Refused whose text fits, whatever it quotes."""
    return Refused(reason=reason, text=text.translate(_CONTROLS)[:TEXT_SIZE_CHARS_MAX])


class Ping(Message, frozen=True, array_like=True, kw_only=True, tag="ping"):
    """A sign of life; asks for a Pong of the same number."""

    number: Number


class Pong(Message, frozen=True, array_like=True, kw_only=True, tag="pong"):
    """The answer to a Ping."""

    number: Number


class Vocabulary:
    """The messages that a link carries. Immutable.

    Raises AssertionError when a type is not as `Message` asks, or when two have the same tag.
    """

    def __init__(self, *types: type[Message]) -> None:
        tags: dict[str, type[Message]] = {}
        for kind in types:
            config = kind.__struct_config__
            assert config.frozen, f"{kind.__name__} must be frozen"
            assert config.array_like, f"{kind.__name__} must be array_like"
            tag = str(config.tag)
            assert tag not in tags, f"{kind.__name__} and {tags[tag].__name__} have the same tag {tag!r}"
            tags[tag] = kind
        self.types = types
        union: Any = functools.reduce(operator.or_, types)
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(union)
        self._encode = msgspec.msgpack.Encoder().encode
        self._first = bytes((MESSAGE_FORMAT,))
        self._known = frozenset(types)

    def __repr__(self) -> str:
        return f"<Vocabulary {' '.join(kind.__name__ for kind in self.types)}>"

    def extended(self, *types: type[Message]) -> Vocabulary:
        """A larger vocabulary: this one and `types`."""
        return Vocabulary(*self.types, *types)

    def encode(self, message: Message) -> bytes:
        """The bytes of a message, format version first."""
        assert type(message) in self._known, f"{type(message).__name__} is not in this link's vocabulary"
        return self._first + self._encode(message)

    def decode(self, raw: bytes | bytearray | memoryview) -> Message:
        """Read a message. Raises BadMessage, or FormatTooNew if a later Syncpoint wrote it."""
        if not raw:
            raise BadMessage("a message has at least one byte")
        version = raw[0]
        if version > MESSAGE_FORMAT:
            raise FormatTooNew("message", version, MESSAGE_FORMAT)
        if version != MESSAGE_FORMAT:
            raise BadMessage(f"no message has format version {version}")
        try:
            return self._decoder.decode(memoryview(raw)[1:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadMessage(f"these bytes are no message: {error}") from None


LINK_VOCABULARY: Final = Vocabulary(Hello, Ready, Refused, Ping, Pong)
