"""Real power cuts under a manager's SQLite files and its folder journal: under both, or under one of the two disks.

The same files live through all cuts. Not for: the journal by itself (journal_power.py).
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from tests.disks.bank import Bank
from tests.disks.loop import LoopDisk
from tests.disks.zygote import Zygote

DELAY_S_MAX = 0.02
SAID_MAX = 40
SAID_S_MAX = 1.0


class PoweredBank:
    """A bank on one or two file systems. With two, the journal and `a` are on the first, `b` on the second.

    Processes that live on while their disks are gone lose all of them, the journal's first: a journal that lived on
    would believe what a dying file system answers to SQLite.
    """

    def __init__(self, kind: str, zygote: Zygote, *, disks: int = 1) -> None:
        self._held = ExitStack()
        self._zygote = zygote
        self._number = 0
        try:
            self.disks = [self._held.enter_context(LoopDisk(kind)) for _ in range(disks)]
            first, last = self.disks[0].path, self.disks[-1].path
            self.bank = Bank(first / "journal", first / "a.db", last / "b.db")
            self.bank.make(zygote)
        except BaseException:
            self._held.close()
            raise
        self._rows: set[int] = set()

    def cut_power(self, seed: int) -> int:
        """One cut at a random moment, of one disk or of all; returns how many transactions had been acknowledged."""
        chance = random.Random(seed)
        self._number += 1
        self._zygote.start(**self.bank.order("bank", first=self._number * 1_000_000, children=chance.choice([1, 1, 2])))
        self._zygote.listen(SAID_S_MAX, until=chance.randrange(SAID_MAX))
        self._zygote.listen(chance.random() * DELAY_S_MAX)
        which, is_stopped = list(self.disks), chance.random() < 0.5
        if is_stopped:  # as a real power cut does, of one disk or of all
            self._zygote.stop()
            which = chance.sample(which, chance.randint(1, len(which)))
        cut_at = min([disk.cut() for disk in which])
        self._zygote.listen(chance.random() * DELAY_S_MAX)
        self._zygote.kill()
        said = self._zygote.end() if is_stopped else _told_before(cut_at, self._zygote.end())
        for disk in which:
            disk.power_on()
        self.bank.recover(self._zygote)
        judged = self.bank.judge(said, self._rows)
        self._rows = judged.rows
        return judged.acknowledged

    def close(self) -> None:
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _told_before(cut_at: float, said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what was acknowledged once the power was gone: a real machine would have been gone too (loop.py)."""
    return [one for one in said if one["at"] < cut_at or not one.keys() & {"committed"}]
