"""A million transactions: disk and memory stay small, however many have ended.

The handler is driven in large batches. Both figures are highest values: of the files, and of the process's growth.
"""

from __future__ import annotations

import resource
from pathlib import Path

from syncpoint.system import SystemDisk
from tests.journal.support import Process, commit, end, key

TRANSACTIONS = 1_000_000
BATCH = 5_000


def test_a_million_transactions_without_ids_stay_below_50_mb(tmp_path: Path) -> None:
    process = Process(SystemDisk(), path=str(tmp_path / "journal")).open()
    template, ended = commit(key(1)), end(key(1))
    peak = 0
    process(process.journal.force((template, ended)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for first in range(0, TRANSACTIONS, BATCH):
        records = []
        for number in range(first, first + BATCH):
            raw = number.to_bytes(16, "big")
            records.append(type(template)(transaction=raw, attempt=number, branches=(), at_ms=0))
            records.append(type(ended)(transaction=raw, attempt=number))
        process(process.journal.force(records))
        peak = max(peak, sum(path.stat().st_size for path in (tmp_path / "journal" / "segments").iterdir()))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert peak < 50_000_000
    assert grown < 50_000_000
    assert process(process.journal.transactions()) == []
    process(process.journal.close())
