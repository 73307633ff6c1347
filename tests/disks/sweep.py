"""Which faults a process must survive: every system call by which it changes a disk, failing or killing at every turn.

Not for: putting them in (faults.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.disks.faults import SEGMENT, SEGMENTS, WAL, Fault, FaultyBank

NTH_MAX = 40

EIO, ENOSPC, KILL = "error=EIO", "error=ENOSPC", "signal=KILL"

SWEPT = [
    Fault("fdatasync", EIO, on=SEGMENT),
    Fault("write", EIO, on=SEGMENT),
    Fault("write", ENOSPC, lasts=True, on=SEGMENT),
    Fault("fdatasync", EIO),
    Fault("fsync", EIO),
    Fault("fdatasync", EIO, on=WAL),
    Fault("pwrite64", ENOSPC, lasts=True),
    Fault("pwrite64", EIO),
    Fault("rename", EIO),
    Fault("unlink", EIO),
    Fault("openat", "error=EMFILE", on=SEGMENTS),
    Fault("openat", EIO, on=SEGMENT),
    Fault("fdatasync", KILL),
    Fault("fsync", KILL),
    Fault("pwrite64", KILL),
    Fault("write", KILL, on=SEGMENT),
    Fault("rename", KILL),
    Fault("unlink", KILL),
    Fault("openat", KILL, on=SEGMENT),
    Fault("ftruncate", KILL),
]
"""Each of these, at its first call, its second, and so on until it is not reached any more."""

CHOSEN = [
    *(Fault("fdatasync", EIO, nth, on=SEGMENT) for nth in (1, 2, 3)),
    Fault("write", ENOSPC, 5, True, on=SEGMENT),
    Fault("fsync", EIO, 2),
    Fault("pwrite64", ENOSPC, 20, True),
    Fault("fdatasync", KILL, 1, on=WAL),
    Fault("write", KILL, 4, on=SEGMENT),
]
"""The reduced form."""


def sweep(bank: FaultyBank, kind: Fault) -> Iterator[Fault]:
    """Put one kind of fault in at every turn that is reached; yields each that was. Raises AssertionError."""
    for nth in itertools.count(1):
        fault = Fault(kind.call, kind.what, nth, kind.lasts, kind.on)
        if nth > NTH_MAX or not suffer(bank, fault):
            return
        yield fault


def suffer(bank: FaultyBank, fault: Fault) -> bool:
    """One fault; returns whether it was reached. Whatever it is, nothing is lost or invented; and on the journal's own
    segment, nothing is answered afterwards (R5)."""
    ran = bank.suffer(fault)
    if ran.was_hit and fault.on == SEGMENT and not fault.kills:
        ran.check_stopped()
    return ran.was_hit
