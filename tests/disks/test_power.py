"""Real power cuts, a few: the reduced form of `make disks`. Needs root, loop devices and the file system's tools.

Where a cut is not possible the test says why not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from tests.disks import faults
from tests.disks.bank import Bank
from tests.disks.bank_power import PoweredBank
from tests.disks.faults import FOLDER_OF_B, Fault, attached
from tests.disks.journal_power import cut_power
from tests.disks.loop import LoopDisk, why_not
from tests.disks.zygote import Zygote

_why_not = cache(why_not)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as one:
        yield one


def _need(kind: str) -> None:
    reason = _why_not(kind)
    if reason:
        pytest.skip(f"no power cuts under {kind}: {reason}")


@pytest.mark.parametrize(("kind", "cuts"), [("ext4", 8), ("xfs", 3)])
def test_power_cuts_under_the_journal(kind: str, cuts: int, zygote: Zygote) -> None:
    """O31 O40: nothing acknowledged is lost, nothing invented, no incarnation drawn twice."""
    _need(kind)
    with LoopDisk(kind) as disk:
        handed = sum(cut_power(disk, zygote, number)[0] for number in range(cuts))
    assert handed > 0


@pytest.mark.parametrize(("kind", "disks", "cuts"), [("ext4", 1, 4), ("ext4", 2, 4), ("xfs", 2, 1)])
def test_power_cuts_under_databases_and_journal(kind: str, disks: int, cuts: int, zygote: Zygote) -> None:
    """Every transaction that was acknowledged is in both SQLite files, none is in one alone, none in doubt."""
    _need(kind)
    with PoweredBank(kind, zygote, disks=disks) as bank:
        for seed in range(cuts):
            bank.cut_power(seed)


def test_evidence_that_is_not_on_disk_yet_is_forced_before_it_counts() -> None:
    """A process is killed as it forces the end of its COMMIT in one file (the removal of SQLite's rollback journal).
    Another finds it committed there, commits the other file, and says in the journal, on another disk, that it is done.
    Then the power goes: whatever it answered with must be there."""
    _need("ext4")
    if faults.why_not():
        pytest.skip(f"no kill within a force: {faults.why_not()}")
    with LoopDisk("ext4") as first, LoopDisk("ext4") as second, Zygote() as dying, Zygote() as heir:
        begin, go = first.path / "begin", first.path / "go"
        bank = Bank(first.path / "journal", first.path / "a.db", second.path / "b.db")
        bank.make(heir)
        heir.start(**bank.order("heir", go=str(go), first=900))
        dying.start(**bank.order("bank", go=str(begin), first=1, count=1, threads=1, background=False))
        assert heir.listen(20.0, until=1) == dying.listen(20.0, until=1) == 1
        with attached(Fault("fdatasync", "signal=KILL", 2, on=FOLDER_OF_B), bank, dying.pids[0]):
            begin.touch()
            said = dying.end()
        assert [next(iter(one)) for one in said] == ["opened", "handed"]
        assert bank.rows()["b"] == {1}  # to be seen, but not on disk
        go.touch()
        assert heir.listen(20.0, until=2) == 2
        heir.stop()
        for disk in (first, second):
            disk.cut()
        heir.kill()
        assert "settled" in heir.end()[1]
        for disk in (first, second):
            disk.power_on()
        bank.recover(heir)
        assert bank.judge(said, set()).rows == {1}
