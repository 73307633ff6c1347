"""Real power cuts under the folder journal: two processes write, one is perhaps killed, then the power goes.

Afterwards the folder is opened with the production code and held against what the processes had said (account.py).
Not for: databases on that disk (bank.py).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from syncpoint.ids import Attempt, Incarnation, Key
from syncpoint.journal.base import Verdict
from syncpoint.system import SystemDisk
from tests.disks.account import Account, Handing, Mark, Opened, Told
from tests.disks.loop import LoopDisk
from tests.disks.worker import RETENTION_S, record_of
from tests.disks.zygote import Zygote
from tests.journal.support import Process, end, transaction

SAID_MAX = 120
SAID_S_MAX = 0.5
DELAY_S_MAX = 0.01


def cut_power(disk: LoopDisk, zygote: Zygote, number: int) -> tuple[int, int]:
    """One cut at a random moment; returns how many commits were handed in, and how many acknowledged by then."""
    chance = random.Random(number)
    path = disk.path / f"journal-{number}"
    zygote.start(job="journal", path=str(path), first=1, children=2)
    zygote.listen(SAID_S_MAX, until=chance.randrange(SAID_MAX))
    if chance.random() < 0.3:
        zygote.kill(chance.randrange(2))
        zygote.listen(SAID_S_MAX, until=chance.randrange(SAID_MAX))
    zygote.listen(chance.random() * DELAY_S_MAX)
    if chance.random() < 0.5:
        zygote.stop()
    disk.cut()
    zygote.listen(chance.random() * DELAY_S_MAX)  # unless stopped they live on: what they are told then counts as well
    zygote.kill()
    said = zygote.end()
    disk.power_on()
    account = Account.of(marks(said))
    _recover(path, account)
    shutil.rmtree(path, ignore_errors=True)
    return len(account.handed), sum("accepted" in one for one in said)


def _recover(path: Path, account: Account) -> None:
    process = Process(SystemDisk(), path=str(path), retention_s=RETENTION_S)
    try:
        process.open()
        account.check(process, turn=0)
    finally:
        process(process.journal.close())


def marks(said: Iterable[dict[str, Any]]) -> list[Mark]:
    """What the processes said, as an account takes it."""
    found: list[Mark] = []
    for one in said:
        [(what, told)] = list(one.items())[:1]
        match what:
            case "opened":
                found.append(Opened(Incarnation(told)))
            case "handed":
                found.append(Handing((record_of(*told),)))
            case "accepted":
                found.append(Told((record_of(*told, 0),), (Verdict.ACCEPTED,)))
            case "ending":
                found.append(Handing((end(_key(*told)),)))
            case "ended":
                found.append(Told((end(_key(*told)),), (Verdict.ACCEPTED,)))
            case "failed":
                pass
            case "died":
                assert "JournalFailed" in told or "JournalRefused" in told or "Errno 5" in told, one
            case _:
                raise AssertionError(one)
    return found


def _key(told: tuple[int, int], number: int) -> Key:
    return Key(transaction(number), Attempt(Incarnation(told[0]), told[1]))
