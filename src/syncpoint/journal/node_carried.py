"""What a journal at a node has to say and that can wait: Ends, and claims given back. Questions take it along.

What was taken along stays until an answer comes: it may arrive twice, and does no harm then. A claim is known by the
number of the question that took it, so that giving it back, however late, gives back no other. Not for: asking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from syncpoint.ids import Key, TransactionId
from syncpoint.ports import Signal
from syncpoint.records import End, Record, encode_record

AT_ONCE_MAX = 1000


@dataclass(frozen=True, slots=True)
class Load:
    """What one question takes along, and its number."""

    number: int
    noted: tuple[bytes, ...]
    released: tuple[int, ...]
    places: tuple[int, ...]


class Carried:
    """Of one journal. `wanted` is set when there is something that no question has taken along."""

    def __init__(self, mutex: AbstractContextManager[Any], wanted: Signal) -> None:
        self.wanted = wanted
        self._mutex = mutex
        self._number = 0
        self._noted: dict[int, Record] = {}
        self._place = 0
        self._released: dict[int, None] = {}
        self._held: dict[TransactionId, int] = {}
        """The number of the question by which each claim was taken; 0: in a session that is over."""

    def __repr__(self) -> str:
        return f"<Carried {len(self._noted)} noted, {len(self._released)} released, {len(self._held)} held>"

    def begin_anew(self) -> None:
        """A session was opened: the claims of the one before went with it."""
        with self._mutex:
            self._released.clear()
            self._held = dict.fromkeys(self._held, 0)

    def load(self) -> Load:
        """For the next question."""
        with self._mutex:
            self._number += 1
            places = tuple(self._noted)[:AT_ONCE_MAX]
            noted = tuple(encode_record(self._noted[place]) for place in places)
            return Load(self._number, noted, tuple(self._released)[:AT_ONCE_MAX], places)

    def arrived(self, load: Load) -> None:
        """That question was answered."""
        with self._mutex:
            for place in load.places:
                self._noted.pop(place, None)
            for number in load.released:
                self._released.pop(number, None)
        if self.has_any():
            self.wanted.set()

    def has_any(self) -> bool:
        with self._mutex:
            return bool(self._noted or self._released)

    # --- ends ----------------------------------------------------------------------------------------------------

    def note(self, records: Sequence[Record]) -> None:
        if not records:
            return
        with self._mutex:
            for record in records:
                self._place += 1
                self._noted[self._place] = record
        self.wanted.set()

    def noted_ends(self) -> frozenset[Key]:
        """Keys that have ended, as far as it is not sure that the node knows."""
        with self._mutex:
            return frozenset(record.key for record in self._noted.values() if isinstance(record, End))

    # --- claims --------------------------------------------------------------------------------------------------

    def is_held(self, transaction: TransactionId) -> bool:
        with self._mutex:
            return transaction in self._held

    def hold(self, transaction: TransactionId, number: int) -> bool:
        """It is claimed, by the question of that number. False: somebody here has it already."""
        with self._mutex:
            return self._held.setdefault(transaction, number) == number

    def release(self, transaction: TransactionId) -> None:
        with self._mutex:
            number = self._held.pop(transaction, 0)
        self.release_numbers([number])

    def release_numbers(self, numbers: Iterable[int]) -> None:
        """Give back what the questions of these numbers took, or may have taken."""
        with self._mutex:
            self._released.update(dict.fromkeys(number for number in numbers if number))
        self.wanted.set()
