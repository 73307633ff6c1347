"""Snapshots as they come from a node and go to an application: in pages that fit into a message.

Both directions stand here, so that they agree. Not for: asking (node.py), or taking the snapshot (node/).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from syncpoint.errors import JournalUnavailable
from syncpoint.ids import Attempt, Guid, Incarnation, Key, TransactionId
from syncpoint.journal.base import View
from syncpoint.journal.node_messages import Look, Looked
from syncpoint.records import (
    AnyRecord,
    BadRecord,
    Commit,
    KeyedRecord,
    Prepared,
    Record,
    decode_record,
    encode_record,
)

PAGE_SIZE_BYTES_MAX = 4 << 20
"""A record larger than that has a page of its own."""

_LISTS = ("decisions", "promised", "promised_elsewhere")


def read_all(raw: Iterable[bytes]) -> list[AnyRecord]:
    """Raises JournalUnavailable: what the node sent is no record."""
    try:
        return [decode_record(one) for one in raw]
    except BadRecord as error:
        raise JournalUnavailable(
            f"The node sent what is no record: {error}.", advice="Do both run the same Syncpoint?"
        ) from error


def read_keyed(raw: Iterable[bytes]) -> list[KeyedRecord]:
    return [one for one in read_all(raw) if isinstance(one, KeyedRecord)]


def key_pair(key: Key) -> tuple[bytes, int]:
    return key.transaction.raw, key.attempt.to_int()


def read_key(pair: tuple[bytes, int]) -> Key:
    return Key(TransactionId(pair[0]), Attempt.from_int(pair[1]))


# --- at the node ---------------------------------------------------------------------------------------------------


def pages_of(view: View, known: Iterable[Record]) -> list[Looked]:
    """The pages of one snapshot, at least one."""
    records = [
        *(("decisions", one) for one in view.decisions.values()),
        *(("promised", one) for one in view.promised.values()),
        *(("promised_elsewhere", one) for one in view.promised_elsewhere.values()),
    ]
    filled = list(_fill(records)) or [{}]
    pages = [Looked(pages=len(filled), **{name: tuple(found) for name, found in page.items()}) for page in filled]
    first = {name: tuple(found) for name, found in filled[0].items()}
    pages[0] = Looked(
        pages=len(filled),
        **first,
        live=tuple(sorted(view.live)),
        elsewhere=tuple(key_pair(key) for key in view.elsewhere),
        ended=tuple(key_pair(key) for key in view.ended),
        coordinators=tuple(guid.raw for guid in view.coordinators),
        known=tuple(encode_record(record) for record in known),
    )
    return pages


def _fill(records: Iterable[tuple[str, Record]]) -> Iterator[dict[str, Any]]:
    page: dict[str, list[bytes]] = {}
    size = 0
    for name, record in records:
        raw = encode_record(record)
        if page and size + len(raw) > PAGE_SIZE_BYTES_MAX:
            yield page
            page, size = {}, 0
        page.setdefault(name, []).append(raw)
        size += len(raw)
    if page:
        yield page


# --- at the application --------------------------------------------------------------------------------------------


class Pages:
    """The pages of one snapshot, as they come in."""

    def __init__(self) -> None:
        self._pages: list[Looked] = []
        self._of = 0

    def wants_more(self) -> bool:
        return not self._pages or len(self._pages) < self._pages[0].pages

    def question(self, *, number: int, **of: Any) -> Look:
        """For the next page."""
        if not self._pages:
            self._of = number
        return Look(number=number, of=self._of, page=len(self._pages), **of)

    def take(self, page: Looked) -> None:
        self._pages.append(page)

    @property
    def known(self) -> tuple[bytes, ...]:
        return self._pages[0].known

    @property
    def first(self) -> Looked:
        return self._pages[0]

    def records(self, name: str) -> list[AnyRecord]:
        """All of one of its lists."""
        assert name in _LISTS
        return read_all(raw for page in self._pages for raw in getattr(page, name))


def view_of(pages: Pages, noted_ends: Collection[Key]) -> View:
    """The snapshot. `noted_ends`: what has ended here, and the node may not have known."""
    first = pages.first
    decisions = {one.key: one for one in pages.records("decisions") if isinstance(one, Commit)}
    promised = {one.key: one for one in pages.records("promised") if isinstance(one, Prepared)}
    return View(
        live=frozenset(Incarnation(one) for one in first.live),
        decisions={key: one for key, one in decisions.items() if key not in noted_ends},
        elsewhere=frozenset(map(read_key, first.elsewhere)),
        ended=frozenset(map(read_key, first.ended)) | (decisions.keys() & set(noted_ends)),
        coordinators=frozenset(Guid(one) for one in first.coordinators),
        promised={key: one for key, one in promised.items() if key not in noted_ends},
        promised_elsewhere={one.key: one for one in pages.records("promised_elsewhere") if isinstance(one, Prepared)},
    )
