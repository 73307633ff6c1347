"""Failing, lying and full disks under a real process: the reduced form of `make disks`.

Faults are put into system calls by strace. Without it these tests say so; in a complete build (CI=true) that is a
failure, unless processes may not be traced there at all.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncpoint.errors import JournalDamaged
from syncpoint.journal.inspect import verify
from syncpoint.system import SystemDisk
from tests.disks import faults
from tests.disks.bank import Bank
from tests.disks.faults import IMPOSSIBLE, SEGMENT, WAL, Fault, FaultyBank
from tests.disks.loop import LoopDisk, why_not
from tests.disks.sweep import CHOSEN, suffer
from tests.disks.zygote import Zygote
from tests.journal.support import Process


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as one:
        yield one


@pytest.fixture(scope="module")
def bank(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> FaultyBank:
    """One bank that lives through all the faults."""
    _need_strace()
    return FaultyBank(tmp_path_factory.mktemp("bank"), zygote)


def _need_strace() -> None:
    reason = faults.why_not()
    if reason and os.environ.get("CI") == "true" and not reason.startswith(IMPOSSIBLE):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("fault", CHOSEN, ids=str)
def test_r5_a_fault_loses_nothing_and_invents_nothing(fault: Fault, bank: FaultyBank) -> None:
    """R5: a failed force stops the manager at once; after a restart both files agree with what was told."""
    assert suffer(bank, fault), "not reached"


def test_a_database_whose_disk_fails_at_first_contact_does_not_keep_the_manager_from_opening(bank: FaultyBank) -> None:
    """It is contacted again when it is wanted."""
    ran = bank.suffer(Fault("fdatasync", "error=EIO", 1, on=WAL))
    assert ran.was_hit
    said = [next(iter(one)) for one in ran.said]
    assert said[0] == "opened"
    assert said[-5:] == ["handed", "committed", "handed", "committed", "closed"]  # the first may have failed once more


def test_a_database_whose_disk_is_full_at_first_contact_is_named(bank: FaultyBank) -> None:
    ran = bank.suffer(Fault("pwrite64", "error=ENOSPC", 1, lasts=True))
    failed = [one["error"] for one in ran.said if "failed" in one]
    assert len(failed) == 3
    named = "ResourceUnavailable: Resource 'a': "
    assert [error for error in failed if not error.startswith(named)] == []


def test_a_full_disk(tmp_path: Path, zygote: Zygote) -> None:
    """A disk of 1 MB fills up; whatever was acknowledged is there once it has room again."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no tmpfs can be mounted here: {error.stderr.decode().strip()}")
    try:
        bank = Bank.in_folder(tmp_path)
        bank.make(zygote)
        said = zygote.run(**bank.order("bank", first=1, count=600, threads=2, insist=False, give_up=True))
        assert any("failed" in one or "stopped" in one or "pending" in one for one in said), "it never was full"
        subprocess.run(["mount", "-o", "remount,size=8m", tmp_path], check=True)
        bank.recover(zygote)
        assert bank.judge(said, set()).acknowledged > 0
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_lying_disk_can_lose_what_was_acknowledged() -> None:
    """No order of writing survives a disk that says "done" and is not, once the power goes. What is lost then is lost
    silently: the segment ends where the truth ended, as after a torn write. Nothing is invented, no damage reported."""
    _need_strace()
    if why_not("ext4"):
        pytest.skip(f"no power cuts: {why_not('ext4')}")
    with LoopDisk("ext4") as disk, Zygote() as zygote:
        bank = Bank.in_folder(disk.path)
        bank.make(zygote)
        fault = Fault("fdatasync", "retval=0", 2, lasts=True, on=SEGMENT)
        ran = faults.run(bank, fault, first=1, count=4, abandon=True)
        disk.cut()
        disk.power_on()
        assert ran.was_hit
        told = {one["committed"] for one in ran.said if "committed" in one}
        journal = Process(SystemDisk(), path=str(bank.journal))
        try:
            journal.open()
            kept = journal(journal.journal.transactions())
        except JournalDamaged:
            pytest.fail("damage: the loss was noticed; the documentation says that it is not")
        finally:
            journal(journal.journal.close())
        assert len(kept) < len(told) == 4
        assert verify(str(bank.journal), SystemDisk()).ok
