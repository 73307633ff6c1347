"""What links say to each other in these tests. Apart from world.py, so that a child process starts quickly."""

from __future__ import annotations

from syncpoint.ids import Guid
from syncpoint.messages import LINK_VOCABULARY, Message


class Note(Message, frozen=True, array_like=True, kw_only=True, tag="note"):
    number: int
    text: str = ""


WORDS = LINK_VOCABULARY.extended(Note)


def guid(name: str) -> Guid:
    return Guid(name.encode().ljust(16, b"."))
